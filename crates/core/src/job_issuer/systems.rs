//! What is known of the tokens of each CI system.
//!
//! Each table follows what the system's documentation and source say; the sources stand at the tables. A claim that a
//! table does not have is not read, so a new one of a system changes nothing here until it is added. Only claims whose
//! value is never given to another project are marked as naming one: no slugs, no paths, no `sub`, and nothing that names
//! an organisation, which would let all of its projects in.

use super::{Guard, KnownClaim, System};
use crate::claims::ClaimKind::{self, Number, Text, Texts};

/// A system's table.
pub(super) struct Profile {
    claims: &'static [(&'static str, ClaimKind)],
    /// Those of the claims that name a project for ever.
    project: &'static [&'static str],
    /// Those of the texts that may come as a number too.
    pub(super) digits: &'static [&'static str],
    pub(super) job: Option<&'static str>,
    pub(super) runner: Option<&'static str>,
    /// (ambiguous, what makes it clear)
    pub(super) companions: &'static [(&'static str, &'static str)],
    pub(super) guards: &'static [Guard],
}

impl Profile {
    pub(super) fn known(&self) -> impl Iterator<Item = KnownClaim> {
        self.claims.iter().map(|(name, kind)| KnownClaim {
            name: (*name).to_owned(),
            path: vec![(*name).to_owned()],
            kind: *kind,
            project: self.project.contains(name),
        })
    }
}

pub(super) fn profile(system: System) -> &'static Profile {
    match system {
        System::Github => &GITHUB,
        System::Gitlab => &GITLAB,
        System::Buildkite => &BUILDKITE,
        System::Jenkins => &JENKINS,
        System::Generic => &GENERIC,
    }
}

const GENERIC: Profile = Profile {
    claims: &[("sub", Text)],
    project: &[],
    digits: &[],
    job: None,
    runner: None,
    companions: &[],
    guards: &[],
};

/// <https://docs.github.com/en/actions/reference/security/oidc>. All custom claims are strings, ids too.
///
/// `check_run_id` tells the jobs of a run apart; a GitHub Enterprise Server that does not send it yet is configured with
/// `jobClaim: run_id`. No claim names the runner. `sub` has two formats (since July 2026 the one with ids for new, renamed and
/// transferred repositories), loses the event as soon as the job names an environment, and can be configured by the
/// repository: it is read, and no more than that.
const GITHUB: Profile = Profile {
    claims: &[
        ("sub", Text),
        ("actor", Text),
        ("actor_id", Text),
        ("base_ref", Text),
        ("check_run_id", Text),
        ("enterprise", Text),
        ("enterprise_id", Text),
        ("environment", Text),
        ("event_name", Text),
        ("head_ref", Text),
        ("job_workflow_ref", Text),
        ("job_workflow_sha", Text),
        ("ref", Text),
        ("ref_protected", Text),
        ("ref_type", Text),
        ("repository", Text),
        ("repository_id", Text),
        ("repository_owner", Text),
        ("repository_owner_id", Text),
        ("repository_visibility", Text),
        ("run_attempt", Text),
        ("run_id", Text),
        ("run_number", Text),
        ("runner_environment", Text),
        ("sha", Text),
        ("workflow", Text),
        ("workflow_ref", Text),
        ("workflow_sha", Text),
    ],
    project: &["repository_id"],
    digits: &["check_run_id"],
    job: Some("check_run_id"),
    runner: None,
    companions: &[
        // The name of an account, once free, is taken by somebody else.
        ("actor", "actor_id"),
        ("repository_owner", "repository_owner_id"),
        // Whoever can push a branch calls a workflow on it what they like.
        ("workflow", "workflow_ref"),
    ],
    guards: &[Guard {
        claim: "event_name",
        values: &[
            "pull_request",
            "pull_request_target",
            "pull_request_review",
            "pull_request_review_comment",
            "pull_request_comment",
            "merge_group",
            "workflow_run",
            "check_run",
            "check_suite",
            "status",
            "issues",
            "issue_comment",
            "discussion",
            "discussion_comment",
            "fork",
            "gollum",
            "watch",
        ],
        meaning: "somebody who may not push can start such a run, and it may work on their code or text",
    }],
};

/// <https://docs.gitlab.com/ci/secrets/id_token_authentication/>, and the source of the claims: `lib/gitlab/ci/jwt.rb`,
/// `jwt_v2.rb` and `lib/json_web_token/user_project_token_claims.rb` of GitLab.
///
/// Ids are strings but for `runner_id`, which is a number; any of them is taken both ways. Flags are the strings `true` and
/// `false`. For a merge request from a fork, `project_id` is the fork's (since 18.2.2; before that the project's whose
/// pipeline runs) and `job_project_id` the project's whose pipeline runs it, so the latter does not name whose code it is;
/// `ref` is the fork's branch, which may be called `main`.
const GITLAB: Profile = Profile {
    claims: &[
        ("sub", Text),
        ("ci_config_ref_uri", Text),
        ("ci_config_sha", Text),
        ("deployment_tier", Text),
        ("environment", Text),
        ("environment_action", Text),
        ("environment_protected", Text),
        ("groups_direct", Texts),
        ("job_id", Text),
        ("job_namespace_id", Text),
        ("job_namespace_path", Text),
        ("job_project_id", Text),
        ("job_project_path", Text),
        ("namespace_id", Text),
        ("namespace_path", Text),
        ("pipeline_id", Text),
        ("pipeline_source", Text),
        ("project_id", Text),
        ("project_path", Text),
        ("project_visibility", Text),
        ("ref", Text),
        ("ref_path", Text),
        ("ref_protected", Text),
        ("ref_type", Text),
        ("runner_environment", Text),
        ("runner_id", Text),
        ("sha", Text),
        ("user_access_level", Text),
        ("user_email", Text),
        ("user_id", Text),
        ("user_login", Text),
    ],
    project: &["project_id"],
    digits: &[
        "job_id",
        "job_namespace_id",
        "job_project_id",
        "namespace_id",
        "pipeline_id",
        "project_id",
        "runner_id",
        "user_id",
    ],
    job: Some("job_id"),
    runner: Some("runner_id"),
    companions: &[
        // A tag may be called like a branch.
        ("ref", "ref_type"),
        // Names and addresses pass on to others.
        ("namespace_path", "namespace_id"),
        ("job_namespace_path", "job_namespace_id"),
        ("job_project_path", "job_project_id"),
        ("user_login", "user_id"),
        ("user_email", "user_id"),
    ],
    guards: &[Guard {
        claim: "pipeline_source",
        values: &["merge_request_event", "external_pull_request_event", "parent_pipeline"],
        meaning: "it may run the code of a merge request, from a fork too; a child pipeline does not say what started its parent",
    }],
};

/// <https://buildkite.com/docs/agent/cli/reference/oidc>.
///
/// The ids of organisation, pipeline, build, cluster and queue are only there when the job asks for them
/// (`buildkite-agent oidc request-token --claim pipeline_id`). No claim tells the build of a pull request: such builds of
/// forks must be off, or their branches prefixed (both are settings of the pipeline), where roles rely on `build_branch`.
const BUILDKITE: Profile = Profile {
    claims: &[
        ("sub", Text),
        ("agent_id", Text),
        ("build_branch", Text),
        ("build_commit", Text),
        ("build_id", Text),
        ("build_number", Number),
        ("build_source", Text),
        ("build_tag", Text),
        ("cluster_id", Text),
        ("cluster_name", Text),
        ("job_id", Text),
        ("organization_id", Text),
        ("organization_slug", Text),
        ("pipeline_id", Text),
        ("pipeline_slug", Text),
        ("queue_id", Text),
        ("queue_key", Text),
        ("runner_environment", Text),
        ("step_key", Text),
    ],
    project: &["pipeline_id"],
    digits: &[],
    job: Some("job_id"),
    runner: Some("agent_id"),
    companions: &[
        ("organization_slug", "organization_id"),
        ("cluster_name", "cluster_id"),
        // Each cluster may have a queue of that key.
        ("queue_key", "cluster_id"),
    ],
    guards: &[Guard {
        claim: "build_tag",
        values: &[],
        meaning: "it is the build of a tag, whose name may stand in `build_branch` and be that of a branch",
    }],
};

/// <https://plugins.jenkins.io/oidc-provider/>, and its source: `IdTokenCredentials.java`, `IdTokenConfiguration.java`.
///
/// By default a token has `sub`, the URL of the Jenkins job, and `build_number`; all else comes from templates that the
/// administrator writes. The URL passes on to another job of that name, and the number is one of each job, so that the
/// configuration has to say which claims name project and build: with a template `build_url` of `${BUILD_URL}`
/// `jobClaim: build_url`, and `sub` under another name with `project: true`, by which its author says that no job
/// URL is used twice. There is no `jti` and no `nbf`. Before version 111 any build could choose the values that templates use,
/// and what source control sets (`GIT_URL`, `GIT_COMMIT`) the author of a pipeline still can.
const JENKINS: Profile = Profile {
    claims: &[("sub", Text), ("build_number", Number)],
    project: &[],
    digits: &[],
    job: None,
    runner: None,
    companions: &[],
    guards: &[],
};

#[cfg(test)]
mod tests;
