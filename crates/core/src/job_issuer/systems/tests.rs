use super::super::recorded::{self, Raw, issuer, read, text, with};
use super::super::{Declared, JobIssuer, RunnerBinding};
use super::*;
use crate::claims::Claim;
use crate::name::Name;

const SYSTEMS: [(System, fn() -> Raw); 4] = [
    (System::Github, recorded::github_push),
    (System::Gitlab, recorded::gitlab_push),
    (System::Buildkite, recorded::buildkite_push),
    (System::Jenkins, recorded::jenkins_build),
];

fn guarded(system: System, raw: &Raw) -> bool {
    let issuer = issuer(system);
    let claims = read(&issuer, raw);
    issuer.guards().iter().any(|guard| guard.catches(&claims))
}

#[test]
fn every_claim_of_a_recorded_set_is_known() {
    for (system, recorded) in SYSTEMS {
        let issuer = issuer(system);
        let raw = recorded();
        for (name, _) in &raw {
            assert!(issuer.known().any(|claim| claim.path == [*name]), "{system} has no {name}");
        }
        assert!(issuer.job_id(&read(&issuer, &raw)).is_some(), "{system}");
    }
}

#[test]
fn tables_only_name_claims_that_they_have_and_no_claim_twice() {
    for system in System::ALL {
        let profile = profile(system);
        let has = |name: &str| profile.claims.iter().filter(|(claim, _)| *claim == name).count() == 1;
        let companions = profile.companions.iter().flat_map(|(one, other)| [one, other]);
        let guards = profile.guards.iter().map(|guard| &guard.claim);
        let named = profile.claims.iter().map(|(name, _)| name);
        let named = named.chain(profile.project).chain(profile.digits).chain(companions).chain(guards);
        for name in named.chain(&profile.job).chain(&profile.runner) {
            assert!(has(name), "{system}: {name}");
        }
    }
}

#[test]
fn only_ids_name_a_project_so_a_renamed_repository_stays_itself_and_its_old_name_is_nobody() {
    for (system, expected) in [
        (System::Github, "repository_id"),
        (System::Gitlab, "project_id"),
        (System::Buildkite, "pipeline_id"),
    ] {
        let issuer = issuer(system);
        let names: Vec<&str> =
            issuer.known().filter(|claim| claim.project).map(|claim| claim.name.as_str()).collect();
        assert_eq!(names, [expected], "{system}");
    }
}

#[test]
fn a_jenkins_without_a_claim_that_names_a_project_is_refused() {
    let name = Name::parse("jenkins").unwrap();
    let url = "https://jenkins.example.com/oidc".to_owned();
    let declared = Declared { claims: Vec::new(), job: Some("build_number".to_owned()) };
    let refused = JobIssuer::new(name, System::Jenkins, url, "a".into(), RunnerBinding::FirstUse, declared);
    assert_eq!(refused.unwrap_err().field, "claims");
}

#[test]
fn old_and_new_subjects_of_github_give_the_same_claims_but_for_the_subject() {
    let issuer = issuer(System::Github);
    let (old, new) = (recorded::github_push(), recorded::github_push_with_immutable_subject());
    let (old, new) = (read(&issuer, &old), read(&issuer, &new));
    assert_ne!(old.get("sub"), new.get("sub"));
    for name in ["repository_id", "repository_owner_id", "ref", "event_name", "job_workflow_ref"] {
        assert_eq!(old.get(name), new.get(name), "{name}");
    }
}

#[test]
fn runs_that_a_stranger_can_start_are_guarded() {
    for (system, raw) in [
        (System::Github, recorded::github_pull_request()),
        (System::Github, recorded::github_pull_request_in_environment()),
        (System::Github, recorded::github_pull_request_target()),
        (System::Github, with(recorded::github_push(), &[("event_name", text("workflow_run"))])),
        (System::Github, with(recorded::github_push(), &[("event_name", text("issue_comment"))])),
        (System::Gitlab, recorded::gitlab_merge_request_of_a_fork()),
        (System::Gitlab, recorded::gitlab_merge_request_of_a_fork_before_18_2_2()),
        (System::Gitlab, with(recorded::gitlab_push(), &[("pipeline_source", text("parent_pipeline"))])),
        (System::Buildkite, recorded::buildkite_tag()),
    ] {
        assert!(guarded(system, &raw), "{system}: {raw:?}");
    }
}

#[test]
fn pushes_of_those_who_may_push_are_not_guarded() {
    for (system, recorded) in SYSTEMS {
        assert!(!guarded(system, &recorded()), "{system}");
    }
    assert!(!guarded(System::Buildkite, &with(recorded::buildkite_push(), &[("build_tag", text(""))])));
}

#[test]
fn a_tag_called_like_a_branch_differs_in_the_companion_alone() {
    let issuer = issuer(System::Gitlab);
    let (branch, tag) = (recorded::gitlab_push(), recorded::gitlab_tag());
    let (branch, tag) = (read(&issuer, &branch), read(&issuer, &tag));
    assert_eq!(branch.get("ref"), tag.get("ref"));
    let companion = issuer.companion_of("ref").unwrap();
    assert_ne!(branch.get(companion), tag.get(companion));
}

#[test]
fn an_id_is_the_same_text_whether_it_came_as_number_or_text() {
    let gitlab = issuer(System::Gitlab);
    let runner = gitlab.claim("runner_id").unwrap();
    assert_eq!(gitlab.read(runner, Claim::Number(7)), Some(text("7")));
    assert_eq!(gitlab.read(runner, text("7")), Some(text("7")));
}

#[test]
fn a_number_is_no_text_where_the_table_does_not_say_so() {
    for (system, name) in [(System::Gitlab, "ref"), (System::Github, "repository_id")] {
        let issuer = issuer(system);
        assert_eq!(issuer.read(issuer.claim(name).unwrap(), Claim::Number(7)), None, "{name}");
    }
    let gitlab = issuer(System::Gitlab);
    let project = gitlab.claim("project_id").unwrap();
    for value in [Claim::Flag(true), Claim::Texts(vec!["7".to_owned()])] {
        assert_eq!(gitlab.read(project, value.clone()), None, "{value}");
    }
    let buildkite = issuer(System::Buildkite);
    assert_eq!(buildkite.read(buildkite.claim("build_number").unwrap(), text("1")), None);
}
