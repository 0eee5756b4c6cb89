//! What the roles of one cluster need there: the rights, namespace by namespace, and the tables of the policy.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use shorepass_core::audience::Audiences;
use shorepass_core::gives::{Gives, Rights, RoleRef, Rule, Strict, Word};
use shorepass_core::name::Name;
use shorepass_core::needs::Scope;
use shorepass_core::policy::check_strict_namespaces;
use shorepass_core::role::{Role, Target};

use super::{RenderError, fill};
use crate::names;
use crate::own::OwnAccount;

const TARGET: &str = include_str!("../../../../deploy/kubernetes/target.yaml");
const UNBOUND: &str = include_str!("../../../../deploy/kubernetes/unbound.yaml");
const STRICT: &str = include_str!("../../../../deploy/kubernetes/strict.yaml");
const BINDINGS: &str = include_str!("../../../../deploy/kubernetes/bindings.yaml");
const INLINE: &str = include_str!("../../../../deploy/kubernetes/inline.yaml");
const REVIEWS: &str = include_str!("../../../../deploy/kubernetes/reviews.yaml");
const CLUSTER_REVIEWS: &str = include_str!("../../../../deploy/kubernetes/cluster-reviews.yaml");
const CLUSTER_ROLES: &str = include_str!("../../../../deploy/kubernetes/clusterroles.yaml");

/// Namespace, then ServiceAccount, then for whom, then the longest token in seconds.
type Accounts<'a> = BTreeMap<&'a Name, BTreeMap<&'a str, BTreeMap<Option<&'a Audiences>, u64>>>;

/// What some roles need in one cluster.
#[derive(Default)]
pub(super) struct Needs<'a> {
    bound: Accounts<'a>,
    unbound: Accounts<'a>,
    /// The namespaces of generated ServiceAccounts, with the longest token in seconds.
    pub(super) strict: BTreeMap<&'a Name, u64>,
    /// By namespace: for ServiceAccounts of which namespace, and what.
    bindable: BTreeMap<&'a Name, BTreeSet<(&'a Name, RoleRef)>>,
    /// By namespace and name: of which role, and the rules.
    inline: BTreeMap<(&'a Name, RoleRef), (&'a Name, &'a [Rule])>,
    /// Where roles with a ServiceAccount need something.
    reviewed: BTreeSet<&'a Scope>,
}

impl<'a> Needs<'a> {
    pub(super) fn of(roles: &'a [Role], cluster: &Name) -> Result<Self, RenderError> {
        check_strict_namespaces(roles)?;
        let mut needs = Self::default();
        let mut any = false;
        for role in roles.iter().filter(|role| role.cluster() == cluster) {
            any = true;
            needs.add(role);
        }
        if any {
            return Ok(needs);
        }
        let known: BTreeSet<&Name> = roles.iter().map(Role::cluster).collect();
        Err(RenderError::NoRoles { cluster: cluster.clone(), known: known.into_iter().cloned().collect() })
    }

    fn add(&mut self, role: &'a Role) {
        let longest = role.token().max.as_secs();
        if role.gives().existing().is_some() {
            self.reviewed.extend(role.needs().iter().map(|need| &need.scope));
        }
        match role.gives() {
            Gives::Bound(target) => add_account(&mut self.bound, target, role.audiences(), longest),
            Gives::Unbound(target) => add_account(&mut self.unbound, target, role.audiences(), longest),
            Gives::Strict(strict) => {
                let known = self.strict.entry(&strict.namespace).or_default();
                *known = longest.max(*known);
                self.add_bindings(role.name(), strict);
            }
        }
    }

    fn add_bindings(&mut self, role: &'a Name, strict: &'a Strict) {
        for binding in &strict.bindings {
            let bound_to = binding.rights.role_ref(role);
            if let Rights::Rules(rules) = &binding.rights {
                self.inline.insert((&binding.namespace, bound_to.clone()), (role, rules));
            }
            self.bindable.entry(&binding.namespace).or_default().insert((&strict.namespace, bound_to));
        }
    }

    /// The namespaces in which leases have anchors.
    pub(super) fn anchored(&self) -> BTreeSet<&'a Name> {
        self.bound.keys().chain(self.strict.keys()).copied().collect()
    }

    /// Everything but the policy.
    pub(super) fn rights(&self, issuer: &Name, subject: &str) -> String {
        let policy = names::policy_name(issuer);
        let quoted = |text: &str| json!(text).to_string();
        let mut output = String::new();
        for ((namespace, name), (role, rules)) in &self.inline {
            output.push_str(&fill(
                INLINE,
                &[
                    ("ROLE", role.as_str()),
                    ("NAMESPACE", &quoted(namespace.as_str())),
                    ("NAME", &quoted(name.name())),
                    ("RULES", &items(rules.iter().map(rule))),
                ],
            ));
        }
        for (template, accounts) in [(TARGET, &self.bound), (UNBOUND, &self.unbound)] {
            for (namespace, accounts) in accounts {
                let accounts: Vec<&str> = accounts.keys().copied().collect();
                output.push_str(&fill(
                    template,
                    &[
                        ("NAMESPACE", &quoted(namespace.as_str())),
                        ("POLICY", &quoted(&policy)),
                        ("UNBOUND_RIGHTS", &quoted(&format!("{policy}-unbound"))),
                        ("SERVICE_ACCOUNTS", &json!(accounts).to_string()),
                        ("SUBJECT", subject),
                    ],
                ));
            }
        }
        for scope in &self.reviewed {
            let reviews = quoted(&format!("{policy}-reviews"));
            match scope {
                // The right is with the others there.
                Scope::Namespace(namespace)
                    if self.bound.contains_key(namespace) || self.unbound.contains_key(namespace) => {}
                Scope::Namespace(namespace) => {
                    let namespace = quoted(namespace.as_str());
                    let values =
                        [("NAMESPACE", namespace.as_str()), ("REVIEWS", &reviews), ("SUBJECT", subject)];
                    output.push_str(&fill(REVIEWS, &values));
                }
                Scope::Cluster => {
                    output.push_str(&fill(CLUSTER_REVIEWS, &[("REVIEWS", &reviews), ("SUBJECT", subject)]));
                }
            }
        }
        for namespace in self.strict.keys() {
            let namespace = quoted(namespace.as_str());
            let values =
                [("NAMESPACE", namespace.as_str()), ("POLICY", &quoted(&policy)), ("SUBJECT", subject)];
            output.push_str(&fill(STRICT, &values));
        }
        for (namespace, bindable) in &self.bindable {
            output.push_str(&fill(
                BINDINGS,
                &[
                    ("NAMESPACE", &quoted(namespace.as_str())),
                    ("STRICT_RIGHTS", &quoted(&format!("{policy}-strict"))),
                    ("RULES", &items(rights_to_bind(bindable))),
                    ("SUBJECT", subject),
                ],
            ));
        }
        let cluster_roles =
            named(self.bindable.values().flatten(), |role| matches!(role, RoleRef::ClusterRole(_)));
        if !cluster_roles.is_empty() {
            output.push_str(&fill(
                CLUSTER_ROLES,
                &[
                    ("POLICY", &quoted(&policy)),
                    ("CLUSTER_ROLES", &json!(cluster_roles).to_string()),
                    ("SUBJECT", subject),
                ],
            ));
        }
        output
    }

    /// The entries of a CEL map, one on a line; as all below.
    pub(super) fn longest_bound(&self) -> String {
        entries(&self.bound)
    }

    pub(super) fn longest_unbound(&self) -> String {
        entries(&self.unbound)
    }

    /// The ServiceAccounts that are given out, by namespace; the issuer's own is as dear where a Secret ends its tokens.
    pub(super) fn given(&self, own: Option<&OwnAccount>) -> String {
        let mut given: BTreeMap<&Name, BTreeSet<&str>> = BTreeMap::new();
        for (namespace, accounts) in self.bound.iter().chain(&self.unbound) {
            given.entry(namespace).or_default().extend(accounts.keys());
        }
        if let Some(own) = own {
            given.entry(&own.namespace).or_default().insert(own.service_account.as_str());
        }
        lines(given.iter().map(|(namespace, accounts)| format!("\"{namespace}\": {}", json!(accounts))))
    }

    pub(super) fn longest_strict(&self) -> String {
        lines(self.strict.iter().map(|(namespace, seconds)| format!("\"{namespace}\": {seconds}")))
    }

    pub(super) fn bindable(&self) -> String {
        lines(self.bindable.iter().map(|(namespace, bindable)| {
            let what: Vec<String> =
                bindable.iter().map(|(strict, role)| format!("{strict}/{role}")).collect();
            format!("\"{namespace}\": {}", json!(what))
        }))
    }
}

fn add_account<'a>(
    accounts: &mut Accounts<'a>,
    target: &'a Target,
    audiences: Option<&'a Audiences>,
    seconds: u64,
) {
    let in_namespace = accounts.entry(&target.namespace).or_default();
    let longest =
        in_namespace.entry(target.service_account.as_str()).or_default().entry(audiences).or_default();
    *longest = seconds.max(*longest);
}

/// `bind` and `get` on exactly these.
fn rights_to_bind(bindable: &BTreeSet<(&Name, RoleRef)>) -> impl Iterator<Item = Value> {
    let of_kind = |resource: &str, verbs: &[&str], names: BTreeSet<String>| {
        let group = "rbac.authorization.k8s.io";
        let rule =
            json!({"apiGroups": [group], "resources": [resource], "resourceNames": names, "verbs": verbs});
        (!names.is_empty()).then_some(rule)
    };
    // Whoever may `get` in a namespace may not `get` what is of the cluster: that is granted apart.
    let roles = of_kind("roles", &["bind", "get"], named(bindable, |role| matches!(role, RoleRef::Role(_))));
    let cluster_roles =
        of_kind("clusterroles", &["bind"], named(bindable, |role| matches!(role, RoleRef::ClusterRole(_))));
    roles.into_iter().chain(cluster_roles)
}

fn named<'n>(
    bindable: impl IntoIterator<Item = &'n (&'n Name, RoleRef)>,
    kind: fn(&RoleRef) -> bool,
) -> BTreeSet<String> {
    let of_kind = bindable.into_iter().filter(|(_, role)| kind(role));
    of_kind.map(|(_, role)| role.name().to_owned()).collect()
}

fn rule(rule: &Rule) -> Value {
    fn words(words: &[Word]) -> Vec<&str> {
        words.iter().map(Word::as_str).collect()
    }
    let mut value = json!({
        "apiGroups": words(&rule.api_groups), "resources": words(&rule.resources), "verbs": words(&rule.verbs),
    });
    if !rule.resource_names.is_empty() {
        value["resourceNames"] = json!(words(&rule.resource_names));
    }
    value
}

fn items(values: impl Iterator<Item = Value>) -> String {
    values.map(|value| format!("  - {value}")).collect::<Vec<_>>().join("\n")
}

fn entries(accounts: &Accounts<'_>) -> String {
    let of_account = |namespace: &Name, account: &str, longest: &BTreeMap<Option<&Audiences>, u64>| {
        let entry = |(audiences, seconds): (&Option<&Audiences>, &u64)| {
            format!("\"{namespace}/{account}{}\": {seconds}", audiences.map(for_others).unwrap_or_default())
        };
        longest.iter().map(entry).collect::<Vec<_>>()
    };
    lines(accounts.iter().flat_map(|(namespace, accounts)| {
        accounts.iter().flat_map(move |(account, longest)| of_account(namespace, account, longest))
    }))
}

/// What the policy makes of a TokenRequest for these: they are asked for in their order.
fn for_others(audiences: &Audiences) -> String {
    format!(" for {}", audiences.to_vec().join(" "))
}

fn lines(entries: impl Iterator<Item = String>) -> String {
    entries.map(|entry| format!("        {entry}")).collect::<Vec<_>>().join(",\n")
}
