//! Who gets which role with which job: every caller with every job at every role, and whom the table lets through.
//!
//! The table lists what is allowed; all else must be denied. Claims are those that the systems send (`recorded`).

use std::sync::Arc;

use super::*;
use crate::claims::{Claim, Claims};
use crate::condition::Condition;
use crate::job::VerifiedJob;
use crate::job_issuer::System;
use crate::job_issuer::recorded::{self, Raw, text, with};
use crate::job_requirement::JobRequirement;

/// Callers, and the labels that their enrolments gave them.
const CALLERS: [(&str, &[&str]); 7] = [
    ("runner/prod-1", &[]),
    ("runner/prod-2", &["env=prod", "zone=a"]),
    ("runner/dev-1", &["env=dev"]),
    ("runner/production", &[]),
    ("platform/portal", &[]),
    ("platform/prod-1", &[]),
    ("operator/prod-1", &[]),
];

/// Jobs by name; those without claims are asserted.
fn jobs() -> Vec<(&'static str, Option<(System, Raw)>)> {
    let github =
        |changes: &[(&'static str, Claim)]| Some((System::Github, with(recorded::github_push(), changes)));
    let gitlab =
        |changes: &[(&'static str, Claim)]| Some((System::Gitlab, with(recorded::gitlab_push(), changes)));
    vec![
        ("asserted", None),
        ("gh push", github(&[])),
        ("gh push, new subject", Some((System::Github, recorded::github_push_with_immutable_subject()))),
        (
            "gh renamed",
            github(&[
                ("repository", text("octo-org/new")),
                ("sub", text("repo:octo-org@123456/new@456789:ref:refs/heads/main")),
            ]),
        ),
        ("gh recycled name", github(&[("repository_id", text("999999"))])),
        ("gh other branch", github(&[("ref", text("refs/heads/dev"))])),
        ("gh branch by another name", github(&[("ref", text("main"))])),
        ("gh tag", github(&[("ref", text("refs/tags/main")), ("ref_type", text("tag"))])),
        ("gh pull request", Some((System::Github, recorded::github_pull_request()))),
        (
            "gh pull request in environment",
            Some((System::Github, recorded::github_pull_request_in_environment())),
        ),
        ("gh pull_request_target", Some((System::Github, recorded::github_pull_request_target()))),
        ("gh workflow_run", github(&[("event_name", text("workflow_run"))])),
        ("gh issue_comment", github(&[("event_name", text("issue_comment"))])),
        ("gh homoglyph", github(&[("ref", text("refs/heads/m\u{430}in"))])),
        ("gh production", github(&[("environment", text("production"))])),
        ("gl push", Some((System::Gitlab, recorded::gitlab_push()))),
        ("gl fork", Some((System::Gitlab, recorded::gitlab_merge_request_of_a_fork()))),
        (
            "gl fork before 18.2.2",
            Some((System::Gitlab, recorded::gitlab_merge_request_of_a_fork_before_18_2_2())),
        ),
        ("gl child of a merge request", gitlab(&[("pipeline_source", text("parent_pipeline"))])),
        ("gl tag", Some((System::Gitlab, recorded::gitlab_tag()))),
        ("gl unprotected", gitlab(&[("ref_protected", text("false"))])),
        ("gl recycled path", gitlab(&[("project_id", text("21"))])),
        ("bk push", Some((System::Buildkite, recorded::buildkite_push()))),
        ("bk tag", Some((System::Buildkite, recorded::buildkite_tag()))),
        (
            "bk other pipeline",
            Some((System::Buildkite, with(recorded::buildkite_push(), &[("pipeline_id", text("other"))]))),
        ),
    ]
}

fn verified(system: System, raw: &Raw) -> Evidence {
    let issuer = recorded::issuer(system);
    let claims = recorded::read(&issuer, raw);
    Evidence::Verified(VerifiedJob {
        issuer: issuer.name().clone(),
        system,
        id: issuer.job_id(&claims).unwrap(),
        claims,
        replay: Digest::of_bytes(b"replay"),
        issued: second(0),
        spent_until: second(360),
    })
}

/// One claim and the values that it may have.
type Wanted = (&'static str, &'static [&'static str]);

fn jobs_of(system: System, wanted: &[Wanted], condition: Option<Arc<dyn Condition>>) -> JobRequirement {
    let claims = wanted.iter().map(|(claim, values)| {
        let values = values.iter().map(|value| text(value)).collect();
        ((*claim).to_owned(), values)
    });
    JobRequirement::new(&recorded::issuer(system), claims.collect(), condition).unwrap()
}

fn subject(runners: &[&str]) -> Subject {
    let runners = runners.iter().map(|pattern| NamePattern::parse(pattern).unwrap()).collect();
    Subject { runners, ..Subject::default() }
}

fn for_jobs(runners: &[&str], system: System, wanted: &[Wanted]) -> Subject {
    Subject { jobs: Some(jobs_of(system, wanted, None)), ..subject(runners) }
}

fn role(role_name: &str, subjects: Vec<Subject>) -> Role {
    let target = Target { cluster: name("c"), namespace: name("web"), service_account: role_name.to_owned() };
    let life = Lifetime { default: HOUR, max: HOUR };
    Role::new(name(role_name), target, life, life, subjects, Digest::of_bytes(role_name.as_bytes())).unwrap()
}

const REPOSITORY: Wanted = ("repository_id", &["456789"]);
const PROJECT: Wanted = ("project_id", &["20"]);
const PIPELINE: Wanted = ("pipeline_id", &["0184990a-4782-42b5-afc1-16715b10b110"]);
const PROD: [&str; 2] = ["runner/prod-1", "runner/prod-2"];

/// A role, and whom it lets through: each of the callers with each of the jobs.
struct Row {
    role: Role,
    allowed: Vec<(&'static [&'static str], &'static [&'static str])>,
}

fn table() -> Vec<Row> {
    let row = |role, allowed| Row { role, allowed };
    let github = |name, wanted: &[Wanted]| role(name, vec![for_jobs(&["prod-*"], System::Github, wanted)]);
    let gitlab = |name, wanted: &[Wanted]| role(name, vec![for_jobs(&["prod-*"], System::Gitlab, wanted)]);
    let buildkite =
        |name, wanted: &[Wanted]| role(name, vec![for_jobs(&["prod-*"], System::Buildkite, wanted)]);
    vec![
        row(
            github("main", &[REPOSITORY, ("ref", &["refs/heads/main"]), ("event_name", &["push"])]),
            vec![(&PROD, &["gh push", "gh push, new subject", "gh renamed", "gh production"])],
        ),
        row(
            github("repository", &[REPOSITORY]),
            vec![(
                &PROD,
                &[
                    "gh push",
                    "gh push, new subject",
                    "gh renamed",
                    "gh other branch",
                    "gh branch by another name",
                    "gh tag",
                    "gh homoglyph",
                    "gh production",
                ],
            )],
        ),
        row(
            github("main-of-any-event-but-those-of-strangers", &[REPOSITORY, ("ref", &["refs/heads/main"])]),
            vec![(&PROD, &["gh push", "gh push, new subject", "gh renamed", "gh production"])],
        ),
        row(
            github("pull-requests", &[REPOSITORY, ("event_name", &["pull_request"])]),
            vec![(&PROD, &["gh pull request", "gh pull request in environment"])],
        ),
        row(
            github("environment", &[REPOSITORY, ("environment", &["production"])]),
            vec![(&PROD, &["gh production"])],
        ),
        row(
            github("old-subject", &[REPOSITORY, ("sub", &["repo:octo-org/octo-repo:ref:refs/heads/main"])]),
            vec![(
                &PROD,
                &[
                    "gh push",
                    "gh other branch",
                    "gh branch by another name",
                    "gh tag",
                    "gh homoglyph",
                    "gh production",
                ],
            )],
        ),
        row(
            github(
                "two-refs",
                &[("repository_id", &["456789", "999999"]), ("ref", &["refs/heads/main", "refs/heads/dev"])],
            ),
            vec![(
                &PROD,
                &[
                    "gh push",
                    "gh push, new subject",
                    "gh renamed",
                    "gh recycled name",
                    "gh other branch",
                    "gh production",
                ],
            )],
        ),
        row(
            gitlab(
                "protected",
                &[PROJECT, ("ref", &["main"]), ("ref_type", &["branch"]), ("ref_protected", &["true"])],
            ),
            vec![(&PROD, &["gl push"])],
        ),
        row(
            gitlab("branch", &[PROJECT, ("ref", &["main"]), ("ref_type", &["branch"])]),
            vec![(&PROD, &["gl push", "gl unprotected"])],
        ),
        row(
            gitlab("tag", &[PROJECT, ("ref", &["main"]), ("ref_type", &["tag"])]),
            vec![(&PROD, &["gl tag"])],
        ),
        row(gitlab("project", &[PROJECT]), vec![(&PROD, &["gl push", "gl tag", "gl unprotected"])]),
        row(
            gitlab("merge-requests", &[PROJECT, ("pipeline_source", &["merge_request_event"])]),
            vec![(&PROD, &["gl fork before 18.2.2"])],
        ),
        row(
            gitlab("runner-1", &[PROJECT, ("runner_id", &["1"])]),
            vec![(&PROD, &["gl push", "gl tag", "gl unprotected"])],
        ),
        row(gitlab("runner-2", &[PROJECT, ("runner_id", &["2"])]), vec![]),
        row(buildkite("bk-main", &[PIPELINE, ("build_branch", &["main"])]), vec![(&PROD, &["bk push"])]),
        row(buildkite("bk-tag", &[PIPELINE, ("build_tag", &["main"])]), vec![(&PROD, &["bk tag"])]),
        row(
            role("asserted", vec![Subject { accept_asserted_jobs: true, ..subject(&["prod-1"]) }]),
            vec![(&["runner/prod-1"], &["*"])],
        ),
        row(role("verified-or-nothing", vec![subject(&["prod-1"])]), vec![]),
        row(
            role(
                "labelled",
                vec![Subject {
                    labels: Labels::parse(["env=prod"]).unwrap(),
                    ..for_jobs(&["prod-*", "dev-1"], System::Gitlab, &[PROJECT])
                }],
            ),
            vec![(&["runner/prod-2"], &["gl push", "gl tag", "gl unprotected"])],
        ),
        row(
            role(
                "portal",
                vec![Subject { platforms: vec![NamePattern::parse("portal").unwrap()], ..subject(&[]) }],
            ),
            vec![(&["platform/portal"], &["*"])],
        ),
        row(
            role(
                "portal-with-jobs",
                vec![Subject {
                    platforms: vec![NamePattern::parse("portal").unwrap()],
                    ..for_jobs(&[], System::Gitlab, &[PROJECT])
                }],
            ),
            vec![(&["platform/portal"], &["gl push", "gl tag", "gl unprotected"])],
        ),
        row(
            role(
                "either",
                vec![
                    for_jobs(&["dev-1"], System::Github, &[REPOSITORY, ("ref", &["refs/heads/dev"])]),
                    for_jobs(
                        &["prod-1"],
                        System::Gitlab,
                        &[PROJECT, ("ref", &["main"]), ("ref_type", &["branch"])],
                    ),
                ],
            ),
            vec![
                (&["runner/dev-1"], &["gh other branch"]),
                (&["runner/prod-1"], &["gl push", "gl unprotected"]),
            ],
        ),
        row(
            role(
                "nobody",
                vec![Subject {
                    jobs: Some(JobRequirement::that_nobody_meets(name("gitlab"))),
                    ..subject(&["prod-*"])
                }],
            ),
            vec![],
        ),
        row(
            role(
                "conditional",
                vec![Subject {
                    jobs: Some(jobs_of(
                        System::Github,
                        &[REPOSITORY],
                        Some(Arc::new(Is("environment", "production"))),
                    )),
                    ..subject(&["prod-*"])
                }],
            ),
            vec![(&PROD, &["gh production"])],
        ),
        row(
            role(
                "condition-lifts-no-guard",
                vec![Subject {
                    jobs: Some(jobs_of(
                        System::Github,
                        &[REPOSITORY],
                        Some(Arc::new(Is("event_name", "pull_request"))),
                    )),
                    ..subject(&["prod-*"])
                }],
            ),
            vec![],
        ),
    ]
}

/// A condition: the claim is this text.
#[derive(Debug)]
struct Is(&'static str, &'static str);

impl Condition for Is {
    fn holds(&self, claims: &Claims) -> Result<(), String> {
        (claims.get(self.0).and_then(Claim::as_text) == Some(self.1))
            .then_some(())
            .ok_or_else(|| "it is not".to_owned())
    }

    fn names(&self, claim: &str) -> bool {
        claim == self.0
    }

    fn text(&self) -> &str {
        self.1
    }
}

/// Every caller with every job at every role of the policy: what is allowed, by name.
fn allowed(policy: &Policy) -> Vec<String> {
    let mut allowed = Vec::new();
    let jobs: Vec<_> = jobs()
        .into_iter()
        .map(|(job_name, claims)| (job_name, claims.map(|(system, raw)| verified(system, &raw))))
        .collect();
    for (id, labels) in CALLERS {
        let (caller, labels) = (caller(id), Labels::parse(labels.iter().copied()).unwrap());
        for (job_name, evidence) in &jobs {
            let mut job = job(&caller);
            job.evidence = evidence.clone().unwrap_or(job.evidence);
            for role in policy.roles() {
                let asker = Asker { caller: &caller, labels: &labels };
                let ask = Ask { role: role.name().clone(), lease_lifetime: None, token_lifetime: None };
                if policy.decide(asker, &job, &ask, &[], second(10)).is_ok() {
                    allowed.push(format!("{id} | {job_name} | {}", role.name()));
                }
            }
        }
    }
    allowed.sort();
    allowed
}

fn policy_of(roles: impl IntoIterator<Item = Role>) -> Policy {
    Policy::new(roles.into_iter().collect()).unwrap()
}

fn all_roles() -> Vec<Role> {
    table().into_iter().map(|row| row.role).collect()
}

#[test]
fn everybody_gets_what_the_table_says_and_nothing_else() {
    let mut expected = Vec::new();
    for row in table() {
        for (callers, names) in row.allowed {
            let all: Vec<&str> = jobs().into_iter().map(|(job_name, _)| job_name).collect();
            let names = if names == ["*"] { all } else { names.to_vec() };
            for caller in callers {
                expected.extend(
                    names.iter().map(|job_name| format!("{caller} | {job_name} | {}", row.role.name())),
                );
            }
        }
    }
    expected.sort();
    let found = allowed(&policy_of(all_roles()));
    let too_much: Vec<_> = found.iter().filter(|one| !expected.contains(one)).collect();
    let too_little: Vec<_> = expected.iter().filter(|one| !found.contains(one)).collect();
    assert!(too_much.is_empty() && too_little.is_empty(), "allowed: {too_much:#?}\ndenied: {too_little:#?}");
}

#[test]
fn a_role_that_is_gone_allows_nothing_more_and_takes_nothing_from_others() {
    let before = allowed(&policy_of(all_roles()));
    for gone in all_roles() {
        let after = allowed(&policy_of(all_roles().into_iter().filter(|role| role.name() != gone.name())));
        let own = format!("| {}", gone.name());
        let expected: Vec<_> = before.iter().filter(|one| !one.ends_with(&own)).cloned().collect();
        assert_eq!(after, expected, "without {}", gone.name());
    }
}

#[test]
fn the_order_of_documents_and_of_their_items_does_not_matter() {
    let expected = allowed(&policy_of(all_roles()));
    assert_eq!(allowed(&policy_of(all_roles().into_iter().rev())), expected);
    let turned = all_roles().into_iter().map(|one| {
        let subjects = one.subjects().iter().rev().cloned().collect();
        role(one.name().as_str(), subjects)
    });
    assert_eq!(allowed(&policy_of(turned)), expected);
}

/// What it is called, and how it changes an item.
type Narrowing = (&'static str, fn(&mut Subject));

/// Requirements that an item can be given in addition.
fn narrowings() -> Vec<Narrowing> {
    vec![
        // Platforms have no labels, and an item with both does not load.
        ("a label", |subject| {
            if subject.platforms.is_empty() {
                subject.labels = Labels::parse(["env=prod", "zone=a"]).unwrap();
            }
        }),
        ("fewer runners", |subject| subject.runners.retain(|pattern| !pattern.to_string().contains('*'))),
        ("no platforms", |subject| subject.platforms.clear()),
        ("no asserted jobs", |subject| subject.accept_asserted_jobs = false),
        // An item that neither names jobs nor takes asserted ones takes none: naming some there is no requirement more.
        ("jobs of one project", |subject| {
            if subject.jobs.is_none() && (subject.accept_asserted_jobs || subject.runners.is_empty()) {
                subject.jobs = Some(jobs_of(System::Gitlab, &[PROJECT], None));
                subject.accept_asserted_jobs = false;
            }
        }),
    ]
}

#[test]
fn a_requirement_more_never_allows_more() {
    let before = allowed(&policy_of(all_roles()));
    for (what, narrow) in narrowings() {
        let narrowed = all_roles().into_iter().filter_map(|one| {
            let mut subjects = one.subjects().to_vec();
            subjects.iter_mut().for_each(narrow);
            subjects.retain(|subject| !subject.runners.is_empty() || !subject.platforms.is_empty());
            (!subjects.is_empty()).then(|| role(one.name().as_str(), subjects))
        });
        let after = allowed(&policy_of(narrowed));
        let more: Vec<_> = after.iter().filter(|one| !before.contains(one)).collect();
        assert!(more.is_empty(), "{what} allows {more:#?}");
    }
}

#[test]
fn a_claim_or_a_condition_more_never_allows_more() {
    let every: [(System, &[Wanted]); 3] = [
        (
            System::Github,
            &[
                REPOSITORY,
                ("ref", &["refs/heads/main"]),
                ("environment", &["production"]),
                ("event_name", &["push", "pull_request"]),
            ],
        ),
        (System::Gitlab, &[PROJECT, ("ref_type", &["branch"]), ("ref", &["main"]), ("runner_id", &["1"])]),
        (
            System::Buildkite,
            &[PIPELINE, ("build_branch", &["main"]), ("agent_id", &["0184990a-4782-42b5-afc1-16715b10b8ff"])],
        ),
    ];
    let guarded = ["event_name", "pipeline_source", "build_tag"];
    for (system, wanted) in every {
        let mut before: Option<Vec<String>> = None;
        for count in 1..=wanted.len() {
            // To name a guarded claim says that its values are meant: the one thing that a role says more to allow more.
            if guarded.contains(&wanted[count - 1].0) {
                continue;
            }
            let condition: Option<Arc<dyn Condition>> = Some(Arc::new(Is("sha", "another")));
            let plain =
                allowed(&policy_of([role("one", vec![for_jobs(&["prod-*"], system, &wanted[..count])])]));
            let subject =
                Subject { jobs: Some(jobs_of(system, &wanted[..count], condition)), ..subject(&["prod-*"]) };
            let conditional = allowed(&policy_of([role("one", vec![subject])]));
            assert!(conditional.iter().all(|one| plain.contains(one)), "{system}: a condition");
            if let Some(before) = before {
                assert!(plain.iter().all(|one| before.contains(one)), "{system}: {}", wanted[count - 1].0);
            }
            assert!(!plain.is_empty(), "{system}: {count} claims");
            before = Some(plain);
        }
    }
}
