//! Roles that are exchanged while the issuer runs, and what follows.

use std::path::Path;

use shorepass_conditions::CelConditions;
use shorepass_config::IssuerConfig;
use shorepass_core::lease::EndCause;
use shorepass_daemon::admin::Readiness;
use shorepass_rpc::follow::{Beat, Following as _, Notice};

use super::*;
use crate::roles::reload::Reloading;

/// An issuer over a directory of documents, and what reads them.
struct Stage {
    bench: Bench,
    documents: tempfile::TempDir,
    config: IssuerConfig,
    reloading: Reloading,
    readiness: Readiness,
}

fn document(runners: &str, line: &str) -> String {
    format!(
        "apiVersion: shorepass.dev/v1\nkind: Role\nmetadata: {{name: deploy}}\nspec:\n  cluster: staging\n  target: \
         {{namespace: web, serviceAccount: deployer}}\n  {line}\n  subjects: [{{runners: [{runners}], acceptJobs: \
         asserted}}]\n"
    )
}

impl Stage {
    fn new() -> Self {
        let bench = Bench::new();
        let documents = tempfile::tempdir().unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/issuer.yaml");
        let mut config = IssuerConfig::load(&file).unwrap();
        config.role_directory = documents.path().to_owned();
        let readiness = Readiness::new();
        let reloading =
            Reloading::new(config.clone(), bench.use_cases.ends.clone(), readiness.condition("roles"));
        Self { bench, documents, config, reloading, readiness }
    }

    /// The role `deploy` as the bench has it, for these runners, and with another line.
    async fn write(&mut self, runners: &str, line: &str) {
        self.write_text(&document(runners, line)).await;
    }

    async fn write_text(&mut self, text: &str) {
        std::fs::write(self.documents.path().join("web.yaml"), text).unwrap();
        self.reloading.look().await;
    }

    /// What a start of the issuer does where the documents were changed while it was away.
    async fn change_while_away(&mut self, runners: &str, line: &str) {
        std::fs::write(self.documents.path().join("web.yaml"), document(runners, line)).unwrap();
        let roles = self.config.load_roles(&CelConditions).unwrap().roles;
        self.bench.use_cases.outside.policy.exchange(Policy::new(roles).unwrap());
        self.reloading.catch_up().await;
    }

    fn version(&self) -> u64 {
        self.bench.use_cases.outside.policy.current().edition().version
    }

    fn remarks(&self) -> Vec<(String, String)> {
        self.readiness.remarks()
    }

    fn last_line(&self, event: &str) -> serde_json::Value {
        let lines = self.bench.ledger.audit_lines();
        let found = lines.iter().rev().find(|line| line.contains(&format!("\"event\":\"{event}\"")));
        serde_json::from_str(found.unwrap_or_else(|| panic!("no {event}"))).unwrap()
    }
}

#[tokio::test]
async fn the_next_decision_is_made_by_the_documents_as_they_are_and_says_so() {
    let mut stage = Stage::new();
    let (caller, job, first) = stage.bench.leased().await;
    assert_eq!((stage.last_line("lease.pending")["policyVersion"].as_u64(), stage.version()), (Some(1), 1));
    stage.write("test-*", "silence: off").await;
    let refused = stage.bench.issue(&caller, &job, stage.bench.request()).await;
    assert_eq!(reason(refused), Reason::RoleNotAvailable);
    let line = stage.last_line("request.refused");
    assert_eq!((line["policyVersion"].as_u64(), line["job"].as_str()), (Some(2), Some(&*job.id.to_string())));
    stage.write("prod-*", "silence: off").await;
    let second = stage.bench.issue(&caller, &job, stage.bench.request()).await.unwrap().issued.lease;
    let edition = stage.bench.use_cases.outside.policy.current().edition();
    assert_eq!((stage.bench.lease(second.id).policy, edition.version), (Some(edition), 3));
    let pending = stage.last_line("lease.pending");
    assert_eq!(pending["policyDigest"].as_str(), Some(&*edition.digest.to_string()));
    assert_ne!(stage.bench.lease(first.issued.lease.id).policy, Some(edition));
}

#[tokio::test]
async fn documents_that_do_not_load_leave_the_last_good_ones_in_force_until_they_do() {
    let mut stage = Stage::new();
    stage.write("prod-*", "silence: off").await;
    assert_eq!((stage.version(), stage.remarks()), (2, vec![]));
    stage.write("test-*", "silnce: off").await;
    let (caller, job, _) = stage.bench.leased().await;
    let remarks = stage.remarks();
    assert_eq!(stage.version(), 2);
    assert!(remarks[0].0 == "roles" && remarks[0].1.contains("version 2 stays"), "{remarks:?}");
    assert!(remarks[0].1.contains("web.yaml:7:3: spec.silnce: unknown key"), "{remarks:?}");
    assert_eq!(stage.readiness.problems(), vec![], "the issuer is ready all the same");
    stage.write("test-*", "silence: off").await;
    assert_eq!((stage.version(), stage.remarks()), (3, vec![]));
    let refused = stage.bench.issue(&caller, &job, stage.bench.request()).await;
    assert_eq!(reason(refused), Reason::RoleNotAvailable);
}

#[tokio::test]
async fn what_has_not_changed_is_no_other_version_and_the_order_of_files_is_none() {
    let mut stage = Stage::new();
    stage.write("prod-*", "silence: off").await;
    let digest = stage.bench.use_cases.outside.policy.current().edition().digest;
    std::fs::rename(stage.documents.path().join("web.yaml"), stage.documents.path().join("z.yml")).unwrap();
    stage.reloading.look().await;
    assert_eq!((stage.version(), stage.remarks()), (2, vec![]));
    assert_eq!(stage.bench.use_cases.outside.policy.current().edition().digest, digest);
}

#[tokio::test]
async fn a_lease_that_its_role_does_not_give_any_more_ends_where_the_role_says_so() {
    for (line, ends) in [("onChange: end", true), ("onChange: keep", false), ("silence: off", false)] {
        let mut stage = Stage::new();
        let (caller, _, delivery) = stage.bench.leased().await;
        let lease = delivery.issued.lease.id;
        stage.write("prod-*", line).await;
        assert!(stage.bench.lease(lease).is_live(), "{line}: another role that gives it all the same");
        stage.write("test-*", line).await;
        let cause = stage.bench.lease(lease).end_cause().map(|(cause, _)| cause.clone());
        assert_eq!(cause, ends.then_some(EndCause::RoleChanged), "{line}");
        let refused = reason(stage.bench.refresh(&caller, lease).await);
        assert_eq!(refused, if ends { Reason::LeaseEnded } else { Reason::RoleNotAvailable }, "{line}");
        if ends {
            stage.bench.until("the cut", || stage.bench.cluster.anchors().is_empty()).await;
        }
    }
}

#[tokio::test]
async fn a_role_that_is_gone_ends_its_leases_if_it_said_so() {
    let mut stage = Stage::new();
    stage.write("prod-*", "onChange: end").await;
    let (_, _, delivery) = stage.bench.leased().await;
    let other = "apiVersion: shorepass.dev/v1\nkind: Role\nmetadata: {name: other}\nspec: {cluster: staging, target: \
                 {namespace: web, serviceAccount: deployer}, subjects: [{platforms: [portal]}]}\n";
    stage.write_text(other).await;
    let lease = stage.bench.lease(delivery.issued.lease.id);
    assert_eq!(lease.end_cause().map(|(cause, _)| cause), Some(&EndCause::RoleChanged));
}

#[tokio::test]
async fn a_role_that_changed_while_the_issuer_was_away_ends_its_leases_if_it_says_so() {
    for (runners, line, ends) in [
        ("test-*", "onChange: end", true),
        ("test-*", "onChange: keep", false),
        ("prod-*", "onChange: end", false),
    ] {
        let mut stage = Stage::new();
        let (_, _, delivery) = stage.bench.leased().await;
        stage.change_while_away(runners, line).await;
        let lease = stage.bench.lease(delivery.issued.lease.id);
        let cause = lease.end_cause().map(|(cause, _)| cause.clone());
        assert_eq!(cause, ends.then_some(EndCause::RoleChanged), "{runners} {line}");
    }
}

#[tokio::test]
async fn a_role_that_is_given_for_less_time_ends_longer_leases_if_it_says_so() {
    let lifetimes = |lease: &str| format!("lifetimes: {{token: {{default: 10m, max: 10m}}, lease: {lease}}}");
    for (most, line, ends) in [
        ("{default: 10m, max: 10m}", "onChange: end", true),
        ("{default: 10m, max: 10m}", "onChange: keep", false),
        ("{default: 10m, max: 24h}", "onChange: end", false),
    ] {
        let mut stage = Stage::new();
        let (caller, _, delivery) = stage.bench.leased().await;
        let lease = delivery.issued.lease.id;
        stage.write("prod-*", &format!("{}\n  {line}", lifetimes(most))).await;
        let cause = stage.bench.lease(lease).end_cause().map(|(cause, _)| cause.clone());
        assert_eq!(cause, ends.then_some(EndCause::RoleChanged), "{most} {line}");
        assert_eq!(stage.bench.refresh(&caller, lease).await.is_ok(), !ends, "{most} {line}");
    }
}

#[tokio::test]
async fn a_role_that_gives_out_something_else_gives_another_lease() {
    let mut stage = Stage::new();
    let (caller, job, delivery) = stage.bench.leased().await;
    let other =
        document("prod-*", "silence: off").replace("serviceAccount: deployer", "serviceAccount: reader");
    stage.write_text(&other).await;
    let refused = stage.bench.refresh(&caller, delivery.issued.lease.id).await.unwrap_err();
    assert_eq!(refused.reason, Reason::LeaseNotAvailable, "an agent asks for a new one then");
    assert!(refused.message.contains("ask for a new one"), "{}", refused.message);
    let next = stage.bench.issue(&caller, &job, stage.bench.request()).await.unwrap().issued.lease;
    assert_eq!(next.target.service_account, "reader");
}

#[tokio::test]
async fn owners_who_listen_are_told_that_their_role_is_another_one() {
    let mut stage = Stage::new();
    let (caller, _, delivery) = stage.bench.leased().await;
    let lease = delivery.issued.lease.id;
    let beat = Beat { leases: vec![lease], sequence: 0 };
    let mut stream = stage.bench.use_cases.watch(&caller, beat).await.unwrap();
    let Notice::CaughtUp { sequence: caught_up } = stream.next().await else { panic!("not caught up") };
    stage.write("prod-*", "silence: off").await;
    let told = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.expect("nothing was told");
    let Notice::RoleChanged { sequence, lease: of } = told else { panic!("{told:?}") };
    assert!(of == lease && sequence > caught_up);
}

#[tokio::test]
async fn the_silence_that_is_allowed_follows_the_role() {
    let mut stage = Stage::new();
    let (caller, _, delivery) = stage.bench.leased().await;
    let beat = Beat { leases: vec![delivery.issued.lease.id], sequence: 0 };
    for (line, expected) in [("silence: 2m", Some(120)), ("silence: off", None)] {
        stage.write("prod-*", line).await;
        let pulse = stage.bench.use_cases.heartbeat(&caller, beat.clone()).await.unwrap();
        assert_eq!(pulse.silence, expected.map(Duration::from_secs), "{line}");
    }
    let timer = crate::follow::timer::Timer::new(stage.bench.use_cases.ends.clone());
    stage.write("prod-*", "silence: 1m").await;
    stage.bench.clock.advance(Duration::from_secs(60));
    timer.end_due().await;
    let lease = stage.bench.lease(delivery.issued.lease.id);
    assert_eq!(lease.end_cause().map(|(cause, _)| cause), Some(&EndCause::Silence));
}

#[tokio::test]
async fn a_dry_run_gives_nothing_and_records_what_it_would_have_decided() {
    let mut stage = Stage::new();
    let caller = stage.bench.caller("runner/prod-1");
    let job = stage.bench.job(&caller).await;
    for (runners, outcome) in [("prod-*", "allowed"), ("test-*", "denied")] {
        stage.write(runners, "dryRun: true").await;
        let refused = stage.bench.issue(&caller, &job, stage.bench.request()).await.unwrap_err();
        assert_eq!(refused.reason, Reason::RoleNotAvailable);
        assert!(!refused.message.contains("dry"), "{}", refused.message);
        let line = stage.last_line("decision.dry-run");
        assert_eq!((line["outcome"].as_str(), line["subject"].as_str()), (Some(outcome), Some("deploy")));
        assert!(line["explanation"].as_str().unwrap().starts_with("dry run: role deploy: subjects[0]: "));
        assert!(line["decision"].is_string() && line["job"].is_string());
    }
    let offered = stage.bench.use_cases.list_roles(&caller, None, 10).await.unwrap();
    assert!(offered.items.iter().all(|offered| offered.role.name().as_str() != "deploy"));
}
