//! Claim sets as the four systems send them, written after their documentation; for tests.
//!
//! What is not a claim of a job (`iss`, `aud`, `exp`, `nbf`, `iat`, `jti`) is left out, and so is what no table reads.

use super::{Declared, JobIssuer, KnownClaim, RunnerBinding, System};
use crate::claims::{Claim, ClaimKind, Claims};
use crate::name::Name;

/// Claims before they are read.
pub(crate) type Raw = Vec<(&'static str, Claim)>;

/// A text.
pub(crate) fn text(value: &str) -> Claim {
    Claim::Text(value.to_owned())
}

/// The same set with other values of some claims.
pub(crate) fn with(mut raw: Raw, others: &[(&'static str, Claim)]) -> Raw {
    raw.retain(|(name, _)| others.iter().all(|(other, _)| other != name));
    raw.extend(others.iter().cloned());
    raw
}

fn texts(pairs: &[(&'static str, &str)]) -> Raw {
    pairs.iter().map(|(name, value)| (*name, text(value))).collect()
}

/// A push to `main` of `octo-org/octo-repo`, on a runner of their own.
pub(crate) fn github_push() -> Raw {
    texts(&[
        ("sub", "repo:octo-org/octo-repo:ref:refs/heads/main"),
        ("actor", "octocat"),
        ("actor_id", "12"),
        ("base_ref", ""),
        ("check_run_id", "51725712932"),
        ("event_name", "push"),
        ("head_ref", ""),
        ("job_workflow_ref", "octo-org/octo-repo/.github/workflows/deploy.yml@refs/heads/main"),
        ("job_workflow_sha", "f61e0a5b3b2dc3b8c4b94b6b9a9dcf8a2e4c1d7e"),
        ("ref", "refs/heads/main"),
        ("ref_protected", "true"),
        ("ref_type", "branch"),
        ("repository", "octo-org/octo-repo"),
        ("repository_id", "456789"),
        ("repository_owner", "octo-org"),
        ("repository_owner_id", "123456"),
        ("repository_visibility", "private"),
        ("run_attempt", "2"),
        ("run_id", "18100042001"),
        ("run_number", "10"),
        ("runner_environment", "self-hosted"),
        ("sha", "f61e0a5b3b2dc3b8c4b94b6b9a9dcf8a2e4c1d7e"),
        ("workflow", "deploy"),
        ("workflow_ref", "octo-org/octo-repo/.github/workflows/deploy.yml@refs/heads/main"),
        ("workflow_sha", "f61e0a5b3b2dc3b8c4b94b6b9a9dcf8a2e4c1d7e"),
    ])
}

/// The same push in a repository whose subjects are immutable.
pub(crate) fn github_push_with_immutable_subject() -> Raw {
    with(github_push(), &[("sub", text("repo:octo-org@123456/octo-repo@456789:ref:refs/heads/main"))])
}

/// A pull request into `main`, whose job names no environment.
pub(crate) fn github_pull_request() -> Raw {
    with(
        github_push(),
        &[
            ("sub", text("repo:octo-org/octo-repo:pull_request")),
            ("event_name", text("pull_request")),
            ("base_ref", text("main")),
            ("head_ref", text("patch-1")),
            ("ref", text("refs/pull/7/merge")),
            ("ref_protected", text("false")),
        ],
    )
}

/// A pull request whose job names an environment: the subject no longer says what it is.
pub(crate) fn github_pull_request_in_environment() -> Raw {
    with(
        github_pull_request(),
        &[
            ("sub", text("repo:octo-org/octo-repo:environment:production")),
            ("environment", text("production")),
        ],
    )
}

/// `pull_request_target`: on the base branch, for a stranger's pull request.
pub(crate) fn github_pull_request_target() -> Raw {
    with(github_push(), &[("event_name", text("pull_request_target")), ("head_ref", text("patch-1"))])
}

/// A push to `main` of a protected project.
pub(crate) fn gitlab_push() -> Raw {
    let mut raw = texts(&[
        ("sub", "project_path:group/app:ref_type:branch:ref:main"),
        ("namespace_id", "72"),
        ("namespace_path", "group"),
        ("project_id", "20"),
        ("project_path", "group/app"),
        ("job_namespace_id", "72"),
        ("job_namespace_path", "group"),
        ("job_project_id", "20"),
        ("job_project_path", "group/app"),
        ("user_id", "1"),
        ("user_login", "sample-user"),
        ("user_email", "sample-user@example.com"),
        ("user_access_level", "maintainer"),
        ("pipeline_id", "574"),
        ("pipeline_source", "push"),
        ("job_id", "302"),
        ("ref", "main"),
        ("ref_type", "branch"),
        ("ref_path", "refs/heads/main"),
        ("ref_protected", "true"),
        ("environment", "production"),
        ("environment_protected", "true"),
        ("environment_action", "start"),
        ("deployment_tier", "production"),
        ("runner_environment", "self-hosted"),
        ("sha", "714a629c0b401fdce83e847fc9589983fc6f46bc"),
        ("project_visibility", "private"),
        ("ci_config_ref_uri", "gitlab.example.com/group/app//.gitlab-ci.yml@refs/heads/main"),
        ("ci_config_sha", "714a629c0b401fdce83e847fc9589983fc6f46bc"),
    ]);
    raw.push(("runner_id", Claim::Number(1)));
    raw.push(("groups_direct", Claim::Texts(vec!["group".to_owned()])));
    raw
}

/// A merge request from a fork's branch `main`, run in the project (18.2.2 and later).
pub(crate) fn gitlab_merge_request_of_a_fork() -> Raw {
    with(
        gitlab_push(),
        &[
            ("sub", text("project_path:stranger/app:ref_type:branch:ref:main")),
            ("namespace_id", text("99")),
            ("namespace_path", text("stranger")),
            ("project_id", text("1002")),
            ("project_path", text("stranger/app")),
            ("pipeline_source", text("merge_request_event")),
            ("ref_protected", text("false")),
        ],
    )
}

/// The same merge request as older versions tell it: the claims of the project, and the fork's branch.
pub(crate) fn gitlab_merge_request_of_a_fork_before_18_2_2() -> Raw {
    with(gitlab_push(), &[("pipeline_source", text("merge_request_event")), ("ref_protected", text("false"))])
}

/// The pipeline of a tag that is called like the branch.
pub(crate) fn gitlab_tag() -> Raw {
    with(
        gitlab_push(),
        &[
            ("sub", text("project_path:group/app:ref_type:tag:ref:main")),
            ("ref_type", text("tag")),
            ("ref_path", text("refs/tags/main")),
            ("ref_protected", text("false")),
        ],
    )
}

/// A build of `main`, with the optional claims of ids.
pub(crate) fn buildkite_push() -> Raw {
    let mut raw = texts(&[
        (
            "sub",
            "organization:acme-inc:pipeline:super-duper-app:ref:refs/heads/main:commit:9f3182061f1e2cca4702c368cbc039b7dc9d4485:step:deploy",
        ),
        ("organization_slug", "acme-inc"),
        ("organization_id", "f892efa9-103e-4d28-97a1-3b8616a0994d"),
        ("pipeline_slug", "super-duper-app"),
        ("pipeline_id", "0184990a-4782-42b5-afc1-16715b10b110"),
        ("build_branch", "main"),
        ("build_commit", "9f3182061f1e2cca4702c368cbc039b7dc9d4485"),
        ("step_key", "deploy"),
        ("job_id", "0184990a-477b-4fa8-9968-496074483cee"),
        ("agent_id", "0184990a-4782-42b5-afc1-16715b10b8ff"),
        ("build_source", "webhook"),
        ("runner_environment", "self-hosted"),
    ]);
    raw.push(("build_number", Claim::Number(1)));
    raw
}

/// A build of the tag `main`.
pub(crate) fn buildkite_tag() -> Raw {
    with(buildkite_push(), &[("build_tag", text("main"))])
}

/// A build with the plugin's default templates, and one for its URL.
pub(crate) fn jenkins_build() -> Raw {
    vec![
        ("sub", text("https://jenkins.example.com/job/app/job/main/")),
        ("build_number", Claim::Number(12)),
        ("build_url", text("https://jenkins.example.com/job/app/job/main/12/")),
    ]
}

/// An issuer of that system with as little configuration as it takes.
pub(crate) fn issuer(system: System) -> JobIssuer {
    let claim = |name: &str, path: &str, project| KnownClaim {
        name: name.to_owned(),
        path: vec![path.to_owned()],
        kind: ClaimKind::Text,
        project,
    };
    let declared = match system {
        System::Github | System::Gitlab | System::Buildkite => Declared::default(),
        System::Jenkins => Declared {
            claims: vec![claim("job_url", "sub", true), claim("build_url", "build_url", false)],
            job: Some("build_url".to_owned()),
        },
        System::Generic => Declared {
            claims: vec![claim("project", "project", true), claim("job", "job", false)],
            job: Some("job".to_owned()),
        },
    };
    JobIssuer::new(
        Name::parse(system.as_str()).expect("the names of systems are names"),
        system,
        "https://ci.example.com".to_owned(),
        "https://shorepass.example.com".to_owned(),
        RunnerBinding::FirstUse,
        declared,
    )
    .expect("a sound issuer")
}

/// What is read of a claim set; panics where a claim is not of its kind.
pub(crate) fn read(issuer: &JobIssuer, raw: &Raw) -> Claims {
    let mut claims = Claims::default();
    for known in issuer.known() {
        let [outer] = known.path.as_slice() else { panic!("{} is nested", known.name) };
        let Some((_, value)) = raw.iter().find(|(name, _)| name == outer) else { continue };
        let value = issuer.read(known, value.clone());
        let value = value.unwrap_or_else(|| panic!("{} is not {}", known.name, known.kind));
        claims.insert(&known.name, value).expect("what a system sends can be shown");
    }
    claims
}
