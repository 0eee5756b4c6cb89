//! The output for `kubectl apply`, against texts that were reviewed.

use std::time::Duration;

use shorepass_core::digest::Digest;
use shorepass_core::gives::{Gives, RbacName, Rights, RoleRef, Rule, Strict, StrictBinding, Word};
use shorepass_core::name::NamePattern;
use shorepass_core::role::{Lifetime, Subject, Target};

use super::*;

const GOLDEN: &str = include_str!("../../testdata/rbac.yaml");
/// The same, and strict and unbound roles beside.
const ALL_MODES: &str = include_str!("../../testdata/rbac-modes.yaml");

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn role(role: &str, cluster: &str, namespace: &str, service_account: &str, minutes: u64) -> Role {
    let lifetime =
        |minutes| Lifetime { default: Duration::from_secs(600), max: Duration::from_secs(minutes * 60) };
    let target = Target {
        cluster: name(cluster),
        namespace: name(namespace),
        service_account: service_account.to_owned(),
    };
    let runners = vec![NamePattern::parse("prod-*").unwrap()];
    let subject = Subject { runners, accept_asserted_jobs: true, ..Subject::default() };
    let digest = Digest::of_bytes(role.as_bytes());
    Role::new(name(role), target, lifetime(minutes), lifetime(minutes), vec![subject], digest).unwrap()
}

pub(super) fn roles() -> Vec<Role> {
    vec![
        role("web-deployer", "staging", "web", "deployer", 60),
        role("web-nightly", "staging", "web", "deployer", 120),
        role("web-reader", "staging", "web", "reader.v1", 10),
        role("odd", "staging", "true", "0", 10),
        role("elsewhere", "production", "pay", "deployer", 60),
    ]
}

fn giving(name: &str, gives: Gives, minutes: u64) -> Role {
    let like = role(name, "staging", "web", "deployer", minutes);
    let (token, lease, digest) = (like.token(), like.lease(), like.digest());
    Role::new(like.name().clone(), gives, token, lease, like.subjects().to_vec(), digest).unwrap()
}

fn target(service_account: &str) -> Target {
    Target { cluster: name("staging"), namespace: name("web"), service_account: service_account.to_owned() }
}

fn web(service_account: &str) -> Gives {
    Gives::Bound(target(service_account))
}

fn for_others(role: Role, named: &[&str]) -> Role {
    let named = named.iter().copied().map(str::to_owned).collect();
    role.with_audiences(shorepass_core::audience::Audiences::new(named).unwrap()).unwrap()
}

fn strict(namespace: &str, bindings: Vec<(&str, Rights)>) -> Gives {
    let binding = |(namespace, rights)| StrictBinding { namespace: name(namespace), rights };
    let bindings = bindings.into_iter().map(binding).collect();
    Gives::Strict(Strict { cluster: name("staging"), namespace: name(namespace), bindings })
}

fn existing(role: fn(RbacName) -> RoleRef, text: &str) -> Rights {
    Rights::Existing(role(RbacName::parse(text).unwrap()))
}

fn rules() -> Rights {
    let words = |texts: &[&str]| texts.iter().map(|text| Word::parse(text).unwrap()).collect();
    Rights::Rules(vec![Rule {
        api_groups: vec![Word::CORE_GROUP, Word::parse("apps").unwrap()],
        resources: words(&["configmaps", "deployments/scale"]),
        resource_names: words(&["web"]),
        verbs: words(&["get", "patch"]),
    }])
}

fn all_modes() -> Vec<Role> {
    let mut roles = roles();
    roles.extend([
        giving("web-status", Gives::Unbound(target("status")), 10),
        giving(
            "web-release",
            strict("shorepass-strict", vec![("web", existing(RoleRef::Role, "deployer")), ("api", rules())]),
            60,
        ),
        giving(
            "api-view",
            strict("shorepass-strict", vec![("api", existing(RoleRef::ClusterRole, "view"))]),
            120,
        ),
        giving("own", strict("own-strict", vec![("api", existing(RoleRef::Role, "own"))]), 10),
        for_others(giving("web-vault", web("deployer"), 20), &["https://vault.example.org", "registry"]),
        for_others(giving("web-pusher", web("pusher"), 30), &["registry"]),
        for_others(giving("web-beacon", Gives::Unbound(target("status")), 10), &["registry"]),
    ]);
    roles
}

pub(super) fn service_account() -> IssuerIdentity {
    IssuerIdentity::ServiceAccount { namespace: name("shorepass"), name: name("issuer") }
}

fn user(name: &str) -> IssuerIdentity {
    IssuerIdentity::User { name: name.to_owned(), namespace: self::name("shorepass") }
}

pub(super) fn audiences(named: &[&str]) -> Result<Audiences, RenderError> {
    Audiences::new(named.iter().copied().map(str::to_owned).collect())
}

fn rendered(identity: &IssuerIdentity) -> String {
    render(&roles(), &name("staging"), identity, &name("main"), &audiences(&[]).unwrap()).unwrap()
}

#[test]
fn the_output_is_the_reviewed_one() {
    let output = rendered(&service_account());
    assert!(output == GOLDEN, "testdata/rbac.yaml differs from:\n{output}");
}

#[test]
fn the_output_for_all_modes_is_the_reviewed_one() {
    let usual = audiences(&[]).unwrap();
    let output = render(&all_modes(), &name("staging"), &service_account(), &name("main"), &usual).unwrap();
    assert!(output == ALL_MODES, "testdata/rbac-modes.yaml differs from:\n{output}");
    assert!(
        !ALL_MODES.contains("${") && !ALL_MODES.contains("escalate") && !ALL_MODES.contains("cluster-admin")
    );
}

#[test]
fn listing_is_granted_to_another_where_anchors_are_and_is_not_in_the_usual_output() {
    let lister = IssuerIdentity::ServiceAccount { namespace: name("shorepass"), name: name("lister") };
    let output = render_listing(&all_modes(), &name("staging"), &lister, &name("main")).unwrap();
    let given = |text: &str| output.matches(text).count();
    assert_eq!(given("verbs: ["), given("resources: [secrets]\n    verbs: [list]"), "{output}");
    let namespaces = ["own-strict", "shorepass-strict", "true", "web"];
    assert!(namespaces.iter().all(|namespace| output.contains(&format!("namespace: \"{namespace}\""))));
    assert_eq!(given("kind: Role\nmetadata"), namespaces.len());
    assert_eq!(
        given(r#"- {kind: ServiceAccount, namespace: "shorepass", name: "lister"}"#),
        namespaces.len()
    );
    assert!(!output.contains("${") && !ALL_MODES.contains("verbs: [list]"), "{output}");
}

#[test]
fn token_reviews_are_granted_only_to_who_asks_for_them_and_are_all_that_is() {
    let output = render_token_reviews(&service_account(), &name("main"));
    let verbs: Vec<&str> = output.lines().filter(|line| line.contains("verbs: ")).collect();
    assert_eq!(verbs, ["    verbs: [create]"]);
    assert!(
        output.contains("resources: [tokenreviews]") && output.contains("kind: ClusterRoleBinding"),
        "{output}"
    );
    let subject = r#"- {kind: ServiceAccount, namespace: "shorepass", name: "issuer"}"#;
    assert!(output.contains(subject) && !output.contains("${"), "{output}");
    assert!(!GOLDEN.contains("tokenreviews") && !ALL_MODES.contains("tokenreviews"));
}

#[test]
fn what_may_be_bound_to_is_named_and_nothing_else_may() {
    let of = |verb: &str| {
        ALL_MODES.lines().filter(|line| line.contains(&format!("\"{verb}\""))).collect::<Vec<_>>()
    };
    assert_eq!(of("bind").len(), 3, "{:?}", of("bind"));
    assert!(of("bind").iter().all(|rule| rule.contains("resourceNames")), "{:?}", of("bind"));
    for line in
        [r#""web": ["shorepass-strict/Role/deployer"]"#, r#""own-strict": 600"#, r#""web/status": 600"#]
    {
        assert!(ALL_MODES.contains(line), "{line}");
    }
}

#[test]
fn a_strict_namespace_is_not_the_issuers_own() {
    let own = IssuerIdentity::ServiceAccount { namespace: name("own-strict"), name: name("issuer") };
    let refused = render(&all_modes(), &name("staging"), &own, &name("main"), &audiences(&[]).unwrap());
    assert_eq!(refused, Err(RenderError::OwnNamespace(name("own-strict"))));
}

#[test]
fn the_rights_are_create_and_delete_and_the_own_lease() {
    let verbs: Vec<&str> = GOLDEN.lines().filter_map(|line| line.trim().strip_prefix("verbs: ")).collect();
    assert!(!verbs.is_empty());
    let (own, others): (Vec<&str>, _) = verbs.into_iter().partition(|verbs| *verbs == "[get, update]");
    assert!(others.iter().all(|verbs| ["[create]", "[create, delete]"].contains(verbs)), "{others:?}");
    let lease =
        "resources: [leases]\n    resourceNames: [\"shorepass-issuer-main\"]\n    verbs: [get, update]";
    assert!(own.len() == 1 && GOLDEN.contains(lease), "the one Lease alone is read and changed");
    let rights = GOLDEN.split_once("kind: ValidatingAdmissionPolicy").unwrap().0;
    for forbidden in ["ClusterRole", "cluster-admin", "\"*\"", "system:masters", "- '*'"] {
        assert!(!rights.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn token_secrets_are_refused_for_the_accounts_of_the_roles_and_no_others() {
    let of = |output: &str| output.split_once("shorepass-token-secrets-main").unwrap().1.to_owned();
    let (bound, all) = (of(GOLDEN), of(ALL_MODES));
    let given =
        "        {\n        \"true\": [\"0\"],\n        \"web\": [\"deployer\",\"reader.v1\"]\n        }";
    assert!(bound.contains(given) && bound.contains("        []\n"), "{bound}");
    assert!(all.contains(r#""web": ["deployer","pusher","reader.v1","status"]"#), "{all}");
    assert!(all.contains(r#"["own-strict","shorepass-strict"]"#), "{all}");
}

#[test]
fn other_clusters_roles_give_no_rights() {
    assert!(!rendered(&service_account()).contains("pay"));
}

#[test]
fn the_longest_life_of_all_roles_counts() {
    assert!(GOLDEN.contains("\"web/deployer\": 7200"));
}

#[test]
fn no_placeholder_is_left() {
    assert!(!GOLDEN.contains("${"));
}

#[test]
fn a_user_gets_no_service_account_and_is_quoted() {
    let output = rendered(&user("o'neil \"x\": y"));
    assert!(!output.contains("kind: ServiceAccount"));
    assert!(output.contains(r#"request.userInfo.username == "o'neil \"x\": y""#), "{output}");
}

#[test]
fn named_audiences_replace_the_usual_ones() {
    let own = audiences(&["https://id.example.org/c/1", "k3s"]).unwrap();
    let output = render(&roles(), &name("staging"), &service_account(), &name("main"), &own).unwrap();
    assert!(output.contains(r#"audience in ["https://id.example.org/c/1","k3s"]"#), "{output}");
    assert!(!output.contains(OF_API_SERVERS[0]));
}

#[test]
fn tokens_for_others_are_named_with_their_service_account_and_their_audiences() {
    let entries = |text: &str| ALL_MODES.matches(text).count();
    assert_eq!(entries("\"web/deployer\": 7200,"), 1);
    assert_eq!(entries("\"web/deployer for https://vault.example.org registry\": 1200,"), 1);
    assert_eq!(entries("\"web/pusher for registry\": 1800,"), 1);
    assert_eq!(entries("\"web/pusher\": "), 0, "no role gives it for the API server");
    assert_eq!(entries("\"web/status for registry\": 600"), 1);
    assert!(ALL_MODES.contains(r#"resourceNames: ["deployer","pusher","reader.v1"]"#));
}

#[test]
fn what_a_role_gives_to_others_the_api_server_does_not_take() {
    let roles = [for_others(roles().remove(0), &["k3s", "vault"])];
    let render = |cluster: &str, own: &[&str]| {
        let own = audiences(own).unwrap();
        render(&roles, &name(cluster), &service_account(), &name("main"), &own).map(drop)
    };
    assert_eq!(render("staging", &[]), Ok(()));
    let both = RenderError::OwnAudience { role: name("web-deployer"), audience: "k3s".to_owned() };
    assert_eq!(render("staging", &["k3s"]), Err(both));
}

#[test]
fn what_cannot_be_an_audience_is_refused() {
    for odd in ["", "a b", "a\nb", "a\"]", "a'", "a\\", "${USERNAME}"] {
        assert_eq!(audiences(&["kubernetes", odd]), Err(RenderError::Audience(odd.to_owned())));
    }
}

#[test]
fn nothing_is_printed_for_nobody() {
    let usual = audiences(&[]).unwrap();
    let refused =
        |cluster, identity| render(&roles(), &name(cluster), &identity, &name("main"), &usual).unwrap_err();
    let known = vec![name("production"), name("staging")];
    let none = RenderError::NoRoles { cluster: name("prod"), known };
    assert_eq!(refused("prod", service_account()), none);
    for user in ["", "a\nb"] {
        let identity = self::user(user);
        assert_eq!(refused("staging", identity), RenderError::User(user.to_owned()));
    }
}
