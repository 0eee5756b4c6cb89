//! Rights by which a job can leave something behind that outlives its lease: what is asked for, and what was found.
//!
//! A token that is dead has no rights, but who could make a token, a pod or a binding with it may have done so. These are
//! asked about each ServiceAccount that roles name, with its groups, in its namespace. What is of the whole cluster is asked
//! there too: whoever has it has it there, and whoever has it only there can do as much harm in that namespace.

use std::collections::BTreeSet;
use std::fmt;

use crate::cluster::Cluster;
use crate::gives::{Rights, Rule, Strict, Word};
use crate::name::Name;
use crate::needs::{Right, Scope};
use crate::role::Target;
use crate::time::{Timestamp, for_people};

/// What is asked: API group, resource, verbs.
const ASKED: [(&str, &str, &[&str]); 17] = [
    ("", "secrets", &["create", "patch", "update"]),
    ("", "serviceaccounts/token", &["create"]),
    ("", "pods", &["create"]),
    ("", "pods/exec", &["create"]),
    ("", "replicationcontrollers", &["create", "patch", "update"]),
    ("apps", "deployments", &["create", "patch", "update"]),
    ("apps", "statefulsets", &["create", "patch", "update"]),
    ("apps", "daemonsets", &["create", "patch", "update"]),
    ("apps", "replicasets", &["create", "patch", "update"]),
    ("batch", "jobs", &["create", "patch", "update"]),
    ("batch", "cronjobs", &["create", "patch", "update"]),
    ("rbac.authorization.k8s.io", "rolebindings", &["create", "patch", "update"]),
    ("rbac.authorization.k8s.io", "clusterrolebindings", &["create", "patch", "update"]),
    ("", "serviceaccounts", &["impersonate"]),
    ("", "users", &["impersonate"]),
    ("", "groups", &["impersonate"]),
    ("certificates.k8s.io", "certificatesigningrequests/approval", &["patch", "update"]),
];

/// Every question about a ServiceAccount of that namespace.
pub fn questions(namespace: &Name) -> Vec<Right> {
    let of = |(group, resource, verbs): (&str, &str, &[&'static str])| {
        let right = |verb: &&str| Right {
            scope: Scope::Namespace(namespace.clone()),
            group: group.to_owned(),
            resource: resource.to_owned(),
            name: None,
            verb: (*verb).to_owned(),
        };
        verbs.iter().map(right).collect::<Vec<_>>()
    };
    ASKED.into_iter().flat_map(of).collect()
}

/// Asks about a ServiceAccount, in its namespace.
pub async fn ask(account: &Target, cluster: &dyn Cluster, now: Timestamp) -> Escapes {
    let asked = questions(&account.namespace);
    match cluster.lacking(account, &asked).await {
        Ok(lacking) => {
            let allowed: Vec<Right> = asked.into_iter().filter(|right| !lacking.contains(right)).collect();
            Escapes::found(&allowed, for_people(now))
        }
        Err(cause) => Escapes::Unknown(cause.to_string()),
    }
}

/// Of a strict role, whose ServiceAccounts are made for each lease: what its own rules allow. What Roles that it names allow
/// nobody can ask about before there is a lease.
pub fn of_strict(strict: &Strict, now: Timestamp) -> Escapes {
    let (mut allowed, mut named) = (Vec::<Right>::new(), Vec::new());
    for binding in &strict.bindings {
        match &binding.rights {
            Rights::Existing(role) => {
                named.push(format!("what {role} in namespace {} allows", binding.namespace))
            }
            Rights::Rules(rules) => {
                let asked = questions(&binding.namespace).into_iter();
                allowed.extend(asked.filter(|right| rules.iter().any(|rule| allows(rule, right))));
            }
        }
    }
    if allowed.is_empty() && !named.is_empty() {
        return Escapes::Unknown(format!(
            "{} is not looked at: see whether it is more than a job may leave behind",
            named.join(", ")
        ));
    }
    let mut seen = BTreeSet::new();
    allowed.retain(|Right { group, resource, verb, .. }| {
        seen.insert((group.clone(), resource.clone(), verb.clone()))
    });
    match Escapes::found(&allowed, for_people(now)) {
        Escapes::Found { mut rights, at } => {
            rights.extend(named);
            Escapes::Found { rights, at }
        }
        unknown @ Escapes::Unknown(_) => unknown,
    }
}

/// As RBAC reads a rule. What has no name yet is made under none that a rule lists.
fn allows(rule: &Rule, right: &Right) -> bool {
    let has = |words: &[Word], word: &str| {
        words.iter().any(|one| matches!(one.as_str(), "*") || one.as_str() == word)
    };
    let (_, subresource) = right.parts();
    let makes = right.verb == "create" && subresource.is_empty();
    has(&rule.api_groups, &right.group)
        && (has(&rule.resources, &right.resource)
            || !subresource.is_empty() && has(&rule.resources, &format!("*/{subresource}")))
        && has(&rule.verbs, &right.verb)
        && (rule.resource_names.is_empty() || !makes)
}

/// What is known of a ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Escapes {
    /// It was asked.
    Found {
        /// In words, such as `create,patch secrets`; none if there is nothing.
        rights: Vec<String>,
        /// When.
        at: Timestamp,
    },
    /// It could not be asked; why.
    Unknown(String),
}

impl Escapes {
    /// From those that are allowed of all that were asked.
    pub fn found(allowed: &[Right], at: Timestamp) -> Self {
        let mut rights = Vec::<(&str, &str, Vec<&str>)>::new();
        for right in allowed {
            match rights
                .iter_mut()
                .find(|(group, resource, _)| (*group, *resource) == (&right.group, &right.resource))
            {
                Some((_, _, verbs)) => verbs.push(&right.verb),
                None => rights.push((&right.group, &right.resource, vec![&right.verb])),
            }
        }
        let words = |(group, resource, verbs): (&str, &str, Vec<&str>)| {
            let of = if group.is_empty() { String::new() } else { format!(".{group}") };
            format!("{} {resource}{of}", verbs.join(","))
        };
        Self::Found { rights: rights.into_iter().map(words).collect(), at }
    }
}

impl fmt::Display for Escapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found { rights, .. } if rights.is_empty() => f.write_str("none"),
            Self::Found { rights, .. } => f.write_str(&rights.join("; ")),
            Self::Unknown(why) => write!(f, "not known: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_outlives_a_lease_is_asked_about() {
        let asked: Vec<String> =
            questions(&Name::parse("web").unwrap()).iter().map(ToString::to_string).collect();
        for right in [
            "create secrets",
            "patch secrets",
            "update secrets",
            "create pods",
            "create deployments.apps",
            "create cronjobs.batch",
            "create serviceaccounts/token",
            "create rolebindings.rbac.authorization.k8s.io",
            "patch clusterrolebindings.rbac.authorization.k8s.io",
            "impersonate users",
            "update certificatesigningrequests/approval.certificates.k8s.io",
        ] {
            assert!(asked.contains(&format!("{right} in namespace web")), "{right}");
        }
        assert_eq!(asked.len(), 38);
    }

    #[test]
    fn what_was_found_is_told_by_resource() {
        let namespace = Name::parse("web").unwrap();
        let allowed: Vec<Right> = questions(&namespace)
            .into_iter()
            .filter(|right| right.resource == "secrets" && right.verb != "patch" || right.resource == "jobs")
            .collect();
        let found = Escapes::found(&allowed, Timestamp::UNIX_EPOCH);
        assert_eq!(found.to_string(), "create,update secrets; create,patch,update jobs.batch");
        assert_eq!(Escapes::found(&[], Timestamp::UNIX_EPOCH).to_string(), "none");
    }

    #[test]
    fn of_a_strict_role_its_own_rules_are_read_and_named_roles_are_not_known() {
        use crate::gives::{RbacName, RoleRef, StrictBinding};
        let (name, word) = (
            |text| Name::parse(text).unwrap(),
            |text: &str| match text {
                "" => Word::CORE_GROUP,
                text => Word::parse(text).unwrap(),
            },
        );
        let words = |all: &[&str]| all.iter().map(|text| word(text)).collect::<Vec<_>>();
        let rule = |groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]| Rule {
            api_groups: words(groups),
            resources: words(resources),
            resource_names: words(names),
            verbs: words(verbs),
        };
        let told = |bindings: Vec<Rights>| {
            let binding = |rights| StrictBinding { namespace: name("web"), rights };
            let bindings = bindings.into_iter().map(binding).collect();
            of_strict(&Strict { cluster: name("c"), namespace: name("s"), bindings }, Timestamp::UNIX_EPOCH)
                .to_string()
        };
        let rules = |rules: Vec<Rule>| vec![Rights::Rules(rules)];
        assert_eq!(told(rules(vec![rule(&[""], &["pods"], &[], &["get", "list"])])), "none");
        assert_eq!(
            told(rules(vec![rule(&[""], &["secrets"], &["one"], &["create", "patch"])])),
            "patch secrets"
        );
        assert_eq!(
            told(rules(vec![rule(&[""], &["serviceaccounts/token"], &["one"], &["create"])])),
            "create serviceaccounts/token"
        );
        assert_eq!(told(rules(vec![rule(&["apps"], &["*"], &[], &["create"])])).matches("create").count(), 4);
        assert!(
            told(rules(vec![rule(&["*"], &["*/approval"], &[], &["*"])]))
                .contains("patch,update certificatesigningrequests/approval")
        );
        let existing = || Rights::Existing(RoleRef::Role(RbacName::parse("deployer").unwrap()));
        assert!(told(vec![existing()]).contains("not known: what Role/deployer in namespace web allows"));
        let both = told(vec![existing(), Rights::Rules(vec![rule(&[""], &["pods"], &[], &["create"])])]);
        assert_eq!(both, "create pods; what Role/deployer in namespace web allows");
    }
}
