//! What roles need of their ServiceAccounts, and what outlives leases.

use shorepass_core::cluster::MintError;
use shorepass_core::escape::{Escapes, questions};
use shorepass_core::gives::{Rule, Word};
use shorepass_core::ledger::LeaseFilter;
use shorepass_core::needs::{Need, Right, Scope};
use shorepass_rpc::api::Administration as _;

use super::*;

/// `get,list pods` where the jobs work, and `list nodes`.
pub(super) fn needs() -> Vec<Need> {
    let word = |text: &str| Word::parse(text).unwrap();
    let need = |scope, resource: &str, verbs: &[&str]| Need {
        scope,
        rule: Rule {
            api_groups: vec![Word::CORE_GROUP],
            resources: vec![word(resource)],
            resource_names: vec![],
            verbs: verbs.iter().map(|verb| word(verb)).collect(),
        },
    };
    vec![
        need(Scope::Namespace(name("web")), "pods", &["get", "list"]),
        need(Scope::Cluster, "nodes", &["list"]),
    ]
}

fn rights() -> Vec<Right> {
    needs().iter().flat_map(Need::rights).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_service_account_lacks_what_the_role_needs_is_told_the_rules_and_nothing_is_made() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    bench.cluster.forbid(rights()[1..].to_vec());
    let issue = || bench.issue_of("needy", &caller, &job, bench.request());
    let refused = issue().await.unwrap_err();
    assert_eq!(refused.reason, Reason::RightsMissing, "{refused:?}");
    assert!(refused.message.contains("web/deployer is not allowed all that the role needs"), "{refused:?}");
    let rules = refused.metadata.iter().find(|(fact, _)| *fact == "rules").map(|(_, rules)| rules.as_str());
    let expected = "\
# rules of a Role in namespace web
- {apiGroups: [\"\"], resources: [\"pods\"], verbs: [\"list\"]}
# rules of a ClusterRole, for a ClusterRoleBinding
- {apiGroups: [\"\"], resources: [\"nodes\"], verbs: [\"list\"]}
";
    assert_eq!(rules, Some(expected));
    assert!(bench.cluster.anchors().is_empty());
    let all = LeaseFilter { include_ended: true, ..LeaseFilter::default() };
    assert!(bench.ledger.leases(&all, None, 10).unwrap().is_empty(), "a lease is on record");
    let refusals = bench.ledger.audit_lines();
    assert!(
        refusals.iter().any(|line| line.contains("RIGHTS_MISSING") && line.contains("needy")),
        "{refusals:?}"
    );

    bench.cluster.forbid(vec![]);
    bench.clock.advance(Duration::from_secs(3));
    issue().await.unwrap();
    let asked = bench.cluster.reviewed();
    issue().await.unwrap();
    assert_eq!(bench.cluster.reviewed(), asked, "an answer is believed for a while");
    bench.clock.advance(Duration::from_secs(60));
    issue().await.unwrap();
    assert_eq!(bench.cluster.reviewed(), asked + rights().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn needs_that_cannot_be_asked_for_let_no_lease_begin_and_a_role_without_needs_asks_nothing() {
    let bench = Bench::new();
    let caller = bench.caller("runner/prod-1");
    let job = bench.job(&caller).await;
    let rule = "create localsubjectaccessreviews in namespace \"web\"".to_owned();
    bench.cluster.fail_reviews(Some(MintError::Forbidden { rule: rule.clone() }));
    let refused = bench.issue_of("needy", &caller, &job, bench.request()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::IssuerForbidden);
    assert!(refused.metadata.contains(&("rule", rule)), "{refused:?}");
    bench.issue_of("deploy", &caller, &job, bench.request()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_jobs_may_leave_behind_is_asked_of_existing_service_accounts_and_told_with_their_leases() {
    let bench = Bench::new();
    let (_, _, delivery) = bench.leased().await;
    let (lease, operator) = (delivery.issued.lease.id, bench.operator());
    let outside = bench.use_cases.outside.clone();
    let told = || async { bench.use_cases.get_lease(&operator, lease).await.unwrap().escapes };
    assert_eq!(told().await, None, "nobody has asked");

    let allowed = |right: &Right| right.resource == "pods" || right.resource == "secrets";
    let forbidden = questions(&name("web")).into_iter().filter(|right| !allowed(right));
    bench.cluster.forbid(forbidden.collect());
    assert!(outside.reviews.look(&outside.policy.current(), bench.cluster.as_ref()).await);
    let Some(Escapes::Found { rights, .. }) = told().await else { panic!("{:?}", told().await) };
    assert_eq!(rights, ["create,patch,update secrets", "create pods"]);
    assert_eq!(bench.cluster.reviewed(), 2 * questions(&name("web")).len(), "deployer and status, once each");
    let strict = outside.reviews.escapes_of(&name("release")).unwrap().to_string();
    assert!(strict.starts_with("not known: what Role/deployer in namespace web allows"), "{strict}");

    bench.cluster.fail_reviews(Some(MintError::Forbidden { rule: "ask".to_owned() }));
    assert!(!outside.reviews.look(&outside.policy.current(), bench.cluster.as_ref()).await);
    assert!(matches!(told().await, Some(Escapes::Unknown(why)) if why.contains("ask")));
}
