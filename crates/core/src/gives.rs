//! What a role gives out, and with it how its leases can be ended.
//!
//! A strict role names rights, not a ServiceAccount: each lease gets a ServiceAccount of its own, bound to Roles that the
//! cluster's administrator made. Inline rules are no exception: they become a Role that `shorepass-issuer rbac` prints
//! and the administrator applies, because an issuer that could write rules would hold every right there is. That Role's
//! name carries a digest of its rules, so that rules that were changed here and not applied there are never given out.

use std::collections::BTreeSet;
use std::fmt;

use crate::digest::Digest;
use crate::lease::{Binding, Mode};
use crate::name::Name;
use crate::role::{RoleError, Target};

/// The namespace of generated ServiceAccounts, unless a role names another.
pub const STRICT_NAMESPACE: &str = "shorepass-strict";
/// How many bindings one strict role may have: each is an object that an issue makes and an end deletes.
pub const BINDINGS_LIMIT: usize = 16;

/// What a role gives out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gives {
    /// Tokens of an existing ServiceAccount, bound to a Secret of the lease's own.
    Bound(Target),
    /// Tokens of a ServiceAccount that is made for the lease.
    Strict(Strict),
    /// Tokens of an existing ServiceAccount, bound to nothing: they cannot be ended.
    Unbound(Target),
}

/// Rights that each lease gets on a ServiceAccount of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strict {
    /// The cluster's name in the issuer's config.
    pub cluster: Name,
    /// Where the ServiceAccounts are; nothing else is there.
    pub namespace: Name,
    /// What they are bound to.
    pub bindings: Vec<StrictBinding>,
}

/// Rights in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrictBinding {
    /// Where.
    pub namespace: Name,
    /// Which.
    pub rights: Rights,
}

/// Where rights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// An existing Role or ClusterRole.
    Existing(RoleRef),
    /// Rules that the document lists.
    Rules(Vec<Rule>),
}

/// A Role of the binding's namespace, or a ClusterRole; both are bound in that namespace alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoleRef {
    /// A Role.
    Role(RbacName),
    /// A ClusterRole.
    ClusterRole(RbacName),
}

impl RoleRef {
    /// The kind, as a RoleBinding's `roleRef` says it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Role(_) => "Role",
            Self::ClusterRole(_) => "ClusterRole",
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        match self {
            Self::Role(name) | Self::ClusterRole(name) => name.as_str(),
        }
    }
}

impl fmt::Display for RoleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind(), self.name())
    }
}

/// The name of a Role or ClusterRole, such as `deployer` or `system:aggregate-to-view`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RbacName(String);

/// Why a text is not the name of a Role to bind to, or not a word of a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RbacError {
    /// Not in the grammar.
    #[error("{0:?} is not the name of a Role: use 1 to 253 of letters, digits, '-', '.', ':' and '_'")]
    Name(String),
    /// Every right there is.
    #[error("cluster-admin is never bound: name a Role with what the job needs, or list rules")]
    ClusterAdmin,
    /// Not a word of a rule.
    #[error(
        "{0:?} does not belong into a rule: use 1 to 253 of letters, digits, '-', '.', '/', ':', '_' and '*'"
    )]
    Word(String),
}

impl RbacName {
    /// Parses a name.
    pub fn parse(text: &str) -> Result<Self, RbacError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:_".contains(&byte);
        if text == "cluster-admin" {
            Err(RbacError::ClusterAdmin)
        } else if (1..=253).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != ".."
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(RbacError::Name(text.to_owned()))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A rule of a Role, as RBAC has it; about namespaced resources only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where the resources belong; empty text for the core group.
    pub api_groups: Vec<Word>,
    /// Which resources.
    pub resources: Vec<Word>,
    /// Which objects; none for all.
    pub resource_names: Vec<Word>,
    /// What may be done.
    pub verbs: Vec<Word>,
}

/// A word of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Word(String);

impl Word {
    /// The core API group.
    pub const CORE_GROUP: Self = Self(String::new());

    /// Parses a word.
    pub fn parse(text: &str) -> Result<Self, RbacError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-./:_*".contains(&byte);
        if (1..=253).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(RbacError::Word(text.to_owned()))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Rule {
    fn parts(&self) -> [&[Word]; 4] {
        [&self.api_groups, &self.resources, &self.resource_names, &self.verbs]
    }

    fn digest(&self) -> Digest {
        let of_words = |words: &[Word]| Digest::of_parts(words.iter().map(|word| word.0.as_bytes()));
        let parts = self.parts().map(of_words);
        Digest::of_parts(parts.iter().map(|part| part.as_bytes().as_slice()))
    }
}

impl Rights {
    /// The Role that holds these rights in the cluster; `role` is the document's name.
    pub fn role_ref(&self, role: &Name) -> RoleRef {
        match self {
            Self::Existing(existing) => existing.clone(),
            Self::Rules(rules) => {
                let rules: Vec<Digest> = rules.iter().map(Rule::digest).collect();
                let digest =
                    Digest::of_parts(rules.iter().map(|rule| rule.as_bytes().as_slice())).to_string();
                RoleRef::Role(RbacName(format!("shorepass-{role}-{}", &digest[..10])))
            }
        }
    }
}

/// The name of a lease's RoleBinding, by its place among them.
pub(crate) fn binding_name(service_account: &str, index: usize) -> String {
    format!("{service_account}-{index}")
}

impl Strict {
    /// The RoleBindings of a lease of `role` whose ServiceAccount has this name.
    pub fn bindings_of(&self, role: &Name, service_account: &str) -> Vec<Binding> {
        let binding = |(index, binding): (usize, &StrictBinding)| Binding {
            namespace: binding.namespace.clone(),
            name: binding_name(service_account, index),
            role: Some(binding.rights.role_ref(role)),
        };
        self.bindings.iter().enumerate().map(binding).collect()
    }

    fn check(&self) -> Result<(), RoleError> {
        let refuse = |problem: String| Err(RoleError { field: "spec.strict.bindings", problem });
        if self.bindings.is_empty() {
            return refuse("a strict role without bindings gives nothing: name at least one".to_owned());
        }
        if self.bindings.len() > BINDINGS_LIMIT {
            return refuse(format!(
                "more than {BINDINGS_LIMIT}: put the rules of one namespace into one Role"
            ));
        }
        if self.bindings.iter().any(|binding| binding.namespace == self.namespace) {
            return refuse(format!(
                "namespace {} is for generated ServiceAccounts alone: bind elsewhere, or set spec.strict.namespace",
                self.namespace
            ));
        }
        let distinct: BTreeSet<_> = self
            .bindings
            .iter()
            .map(|binding| (&binding.namespace, binding.rights.role_ref(&self.namespace)))
            .collect();
        if distinct.len() < self.bindings.len() {
            return refuse("the same rights stand here twice: take one of them out".to_owned());
        }
        for rule in self.bindings.iter().flat_map(|binding| match &binding.rights {
            Rights::Existing(_) => &[][..],
            Rights::Rules(rules) => rules,
        }) {
            if rule.api_groups.is_empty() || rule.resources.is_empty() || rule.verbs.is_empty() {
                return refuse(
                    "a rule needs apiGroups (\"\" is the core group), resources and verbs".to_owned(),
                );
            }
        }
        Ok(())
    }
}

impl Gives {
    /// The cluster.
    pub fn cluster(&self) -> &Name {
        match self {
            Self::Bound(target) | Self::Unbound(target) => &target.cluster,
            Self::Strict(strict) => &strict.cluster,
        }
    }

    /// The namespace that its holder works in: where the ServiceAccount is, or the first rights are.
    pub fn working_namespace(&self) -> &Name {
        match self {
            Self::Bound(target) | Self::Unbound(target) => &target.namespace,
            Self::Strict(strict) => {
                strict.bindings.first().map_or(&strict.namespace, |binding| &binding.namespace)
            }
        }
    }

    /// Whether it gives out rights or ServiceAccounts of this namespace.
    pub(crate) fn works_in(&self, namespace: &Name) -> bool {
        match self {
            Self::Bound(target) | Self::Unbound(target) => target.namespace == *namespace,
            Self::Strict(strict) => strict.bindings.iter().any(|binding| binding.namespace == *namespace),
        }
    }

    /// The ServiceAccount, if it exists before any lease.
    pub fn existing(&self) -> Option<&Target> {
        match self {
            Self::Bound(target) | Self::Unbound(target) => Some(target),
            Self::Strict(_) => None,
        }
    }

    /// Whether a lease with this target and mode is what the role called `role` gives out.
    pub(crate) fn covers(&self, role: &Name, target: &Target, mode: &Mode) -> bool {
        match (self, mode) {
            (Self::Bound(given), Mode::Bound) | (Self::Unbound(given), Mode::Unbound { .. }) => {
                given == target
            }
            (Self::Strict(strict), Mode::Strict { bindings }) => {
                strict.cluster == target.cluster
                    && strict.namespace == target.namespace
                    && strict.bindings_of(role, &target.service_account) == *bindings
            }
            (Self::Bound(_) | Self::Strict(_) | Self::Unbound(_), _) => false,
        }
    }

    /// What keeps it from being a role's.
    pub(crate) fn check(&self) -> Result<(), RoleError> {
        match self {
            Self::Strict(strict) => strict.check(),
            Self::Bound(target) | Self::Unbound(target) => {
                let name = &target.service_account;
                if is_service_account_name(name) {
                    return Ok(());
                }
                let problem = format!("{name:?} is not a ServiceAccount name (a DNS subdomain)");
                Err(RoleError { field: "spec.target.serviceAccount", problem })
            }
        }
    }
}

impl From<Target> for Gives {
    /// What most roles give out.
    fn from(target: Target) -> Self {
        Self::Bound(target)
    }
}

impl From<Strict> for Gives {
    fn from(strict: Strict) -> Self {
        Self::Strict(strict)
    }
}

fn is_service_account_name(text: &str) -> bool {
    text.len() <= 253 && !text.is_empty() && text.split('.').all(|part| Name::parse(part).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn existing(namespace: &str, role: &str) -> StrictBinding {
        let rights = Rights::Existing(RoleRef::Role(RbacName::parse(role).unwrap()));
        StrictBinding { namespace: name(namespace), rights }
    }

    fn rule(resource: &str, verbs: &[&str]) -> Rule {
        let word = |text: &&str| Word::parse(text).unwrap();
        Rule {
            api_groups: vec![Word::CORE_GROUP],
            resources: vec![word(&resource)],
            resource_names: vec![],
            verbs: verbs.iter().map(word).collect(),
        }
    }

    fn strict(bindings: Vec<StrictBinding>) -> Strict {
        Strict { cluster: name("c"), namespace: name(STRICT_NAMESPACE), bindings }
    }

    fn problem(bindings: Vec<StrictBinding>) -> String {
        Gives::Strict(strict(bindings)).check().unwrap_err().problem
    }

    #[test]
    fn unfit_bindings_are_refused_with_what_to_do() {
        assert!(problem(vec![]).contains("name at least one"));
        assert!(problem(vec![existing(STRICT_NAMESPACE, "r")]).contains("bind elsewhere"));
        assert!(problem(vec![existing("web", "r"), existing("web", "r")]).contains("twice"));
        assert!(problem((0..17).map(|index| existing("web", &format!("r{index}"))).collect()).contains("16"));
        let empty = StrictBinding { namespace: name("web"), rights: Rights::Rules(vec![rule("pods", &[])]) };
        assert!(problem(vec![empty]).contains("verbs"));
        assert!(Gives::Strict(strict(vec![existing("web", "r"), existing("api", "r")])).check().is_ok());
    }

    #[test]
    fn names_of_roles_are_those_of_kubernetes_without_cluster_admin() {
        for good in ["deployer", "system:aggregate-to-view", "A_b.c"] {
            assert!(RbacName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a\"", "a%", "cluster-admin", &"a".repeat(254)] {
            assert!(RbacName::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "a b", "a'", "a\n", "${X}"] {
            assert!(Word::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn inline_rules_make_a_role_whose_name_changes_with_them() {
        let named = |rules| Rights::Rules(rules).role_ref(&name("web")).name().to_owned();
        let one = named(vec![rule("pods", &["get"])]);
        assert_eq!(one, named(vec![rule("pods", &["get"])]));
        assert!(one.starts_with("shorepass-web-") && one.len() == "shorepass-web-".len() + 10, "{one}");
        for other in [
            vec![rule("pods", &["list"])],
            vec![rule("pods", &["get"]), rule("pods", &["get"])],
            vec![rule("pods", &["get", "list"])],
            vec![Rule { resource_names: vec![Word::parse("get").unwrap()], ..rule("pods", &["get"]) }],
        ] {
            assert_ne!(one, named(other));
        }
    }

    #[test]
    fn a_role_covers_the_leases_that_it_gives_now_and_no_others() {
        let role = name("role");
        let given = strict(vec![existing("web", "deployer"), existing("api", "reader")]);
        let account = "shorepass-aaaaaaaaaaaaaaaaaaaaaaaaaa";
        let target = Target {
            cluster: name("c"),
            namespace: name(STRICT_NAMESPACE),
            service_account: account.to_owned(),
        };
        let mode = Mode::Strict { bindings: given.bindings_of(&role, account) };
        assert!(Gives::Strict(given.clone()).covers(&role, &target, &mode));
        let less = strict(vec![existing("web", "deployer")]);
        let elsewhere = Strict { namespace: name("other"), ..given };
        for changed in [Gives::Strict(less), Gives::Strict(elsewhere), Gives::Bound(target.clone())] {
            assert!(!changed.covers(&role, &target, &mode));
        }
        assert!(Gives::Bound(target.clone()).covers(&role, &target, &Mode::Bound));
        assert!(!Gives::Bound(target.clone()).covers(&role, &target, &Mode::Unbound { tokens_until: None }));
        assert!(!Gives::Unbound(target.clone()).covers(&role, &target, &Mode::Bound));
    }
}
