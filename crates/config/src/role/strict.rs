//! `spec.strict` of a role: what each lease's own ServiceAccount is bound to.
//!
//! A binding names its namespace and one of three: an existing Role of that namespace, an existing ClusterRole, or rules.
//! What the words in rules mean is RBAC's to say: here is only checked that they are words.

use shorepass_core::gives::{
    Gives, RbacName, Rights, RoleRef, Rule, STRICT_NAMESPACE, Strict, StrictBinding, Word,
};
use shorepass_core::name::Name;

use crate::cursor::{Cursor, Fields};

/// What stands there; the cluster stands elsewhere.
pub(super) struct Written {
    namespace: Name,
    bindings: Vec<StrictBinding>,
}

impl Written {
    pub(super) fn into_gives(self, cluster: &Name) -> Option<Gives> {
        let Self { namespace, bindings } = self;
        Some(Strict { cluster: cluster.clone(), namespace, bindings }.into())
    }
}

pub(super) fn strict(cursor: &Cursor<'_>) -> Option<Written> {
    let fields = cursor.fields(&["namespace", "bindings"])?;
    let namespace = match fields.optional("namespace", Cursor::name) {
        Some(namespace) => Some(namespace),
        None => Name::parse(STRICT_NAMESPACE).ok(),
    };
    let bindings = fields.required("bindings", |bindings| bindings.some("binding", binding));
    Some(Written { namespace: namespace?, bindings: bindings? })
}

fn binding(cursor: &Cursor<'_>) -> Option<StrictBinding> {
    let fields = cursor.fields(&["namespace", "role", "clusterRole", "rules"])?;
    let namespace = fields.required("namespace", Cursor::name);
    let given = ["role", "clusterRole", "rules"].map(|key| fields.has(key));
    let role = fields.optional("role", rbac_name).map(|name| Rights::Existing(RoleRef::Role(name)));
    let cluster_role =
        fields.optional("clusterRole", rbac_name).map(|name| Rights::Existing(RoleRef::ClusterRole(name)));
    let rules = fields.optional("rules", |rules| rules.some("rule", rule)).map(Rights::Rules);
    if given.iter().filter(|given| **given).count() != 1 {
        return cursor.fault(
            "name one of role (an existing Role), clusterRole (an existing ClusterRole, bound in this namespace alone) \
             and rules",
        );
    }
    Some(StrictBinding { namespace: namespace?, rights: role.or(cluster_role).or(rules)? })
}

fn rbac_name(cursor: &Cursor<'_>) -> Option<RbacName> {
    cursor.parsed(RbacName::parse)
}

fn rule(cursor: &Cursor<'_>) -> Option<Rule> {
    rule_of(&cursor.fields(&["apiGroups", "resources", "resourceNames", "verbs"])?)
}

/// The rule that stands among these fields.
pub(super) fn rule_of(fields: &Fields<'_>) -> Option<Rule> {
    let words = |cursor: &Cursor<'_>| cursor.some("word", |word| word.parsed(Word::parse));
    let api_groups = fields.required("apiGroups", |groups| groups.some("API group", api_group));
    let resources = fields.required("resources", words);
    let verbs = fields.required("verbs", words);
    let resource_names = fields.optional("resourceNames", words).unwrap_or_default();
    Some(Rule { api_groups: api_groups?, resources: resources?, resource_names, verbs: verbs? })
}

/// The core group is named by an empty text.
fn api_group(cursor: &Cursor<'_>) -> Option<Word> {
    if cursor.is_empty_text() { Some(Word::CORE_GROUP) } else { cursor.parsed(Word::parse) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use shorepass_core::role::Role;

    use super::super::Reader;
    use super::*;
    use crate::error::ConfigErrors;

    const ROLE: &str = include_str!("../../../../deploy/examples/role-strict.yaml");

    fn read(text: &str) -> Result<Vec<Role>, ConfigErrors> {
        Ok(Reader { known: None, seen: BTreeMap::new() }.text(Path::new("web.yaml"), text)?.roles)
    }

    fn given(text: &str) -> Strict {
        match read(text).unwrap()[0].gives() {
            Gives::Strict(strict) => strict.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_example_loads_as_it_is_written() {
        let strict = given(ROLE);
        assert_eq!(strict.namespace.as_str(), STRICT_NAMESPACE);
        let refs: Vec<String> = strict
            .bindings
            .iter()
            .map(|binding| format!("{}/{}", binding.namespace, binding.rights.role_ref(&strict.cluster)))
            .collect();
        assert_eq!(refs[..2], ["web/Role/deployer", "web/ClusterRole/view"]);
        let Rights::Rules(rules) = &strict.bindings[2].rights else { panic!("{strict:?}") };
        assert_eq!(rules[0].api_groups, [Word::CORE_GROUP]);
        assert_eq!(rules[0].verbs.len(), 2);
    }

    #[test]
    fn the_namespace_of_generated_service_accounts_can_be_named() {
        let role = ROLE.replacen("  strict:\n", "  strict:\n    namespace: web-leases\n", 1);
        assert_eq!(given(&role).namespace.as_str(), "web-leases");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let table: &[(&str, &str, &[&str])] = &[
            ("role: deployer", "role: a/b", &["spec.strict.bindings[0].role", "is not the name of a Role"]),
            (
                "clusterRole: view",
                "clusterRole: cluster-admin",
                &["spec.strict.bindings[1].clusterRole", "cluster-admin is never bound", "list rules"],
            ),
            (
                "role: deployer",
                "role: deployer, clusterRole: view",
                &["spec.strict.bindings[0]: name one of role"],
            ),
            (", role: deployer", "", &["spec.strict.bindings[0]: name one of role"]),
            (
                "resources: [configmaps]",
                "resources: [a b]",
                &["rules[0].resources[0]", "does not belong into a rule"],
            ),
            ("resources: [configmaps]", "resources: []", &["rules[0].resources", "at least one"]),
            ("resources: [configmaps]", "nonResourceURLs: [/]", &["rules[0].nonResourceURLs: unknown key"]),
            ("apiGroups: [\"\"]", "apiGroups: [ ]", &["rules[0].apiGroups", "at least one"]),
            ("  strict:\n", "  strict:\n    namespace: web\n", &["spec.strict.bindings", "bind elsewhere"]),
            (
                "  strict:\n",
                "  dangerouslyUnbound: true\n  strict:\n",
                &["spec.dangerouslyUnbound", "take it out"],
            ),
        ];
        for (part, exchange, fragments) in table {
            assert!(ROLE.contains(part), "{part:?} is not in the example");
            let errors = read(&ROLE.replacen(part, exchange, 1)).unwrap_err();
            let found =
                errors.iter().any(|error| fragments.iter().all(|part| error.to_string().contains(part)));
            assert!(found, "{fragments:?} are not in one of:\n{errors}");
        }
    }
}
