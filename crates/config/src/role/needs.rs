//! `spec.needs` of a role: what its jobs must be allowed to do in the cluster.
//!
//! Each item is a rule as RBAC has them, and where it has to hold: in a namespace (the one that the role's jobs work in, if
//! none is written), or in the whole cluster.

use shorepass_core::gives::Rule;
use shorepass_core::name::Name;
use shorepass_core::needs::{Need, RIGHTS_LIMIT, Scope};

use super::strict::rule_of;
use crate::cursor::Cursor;

/// What stands there; which namespace is meant where none is written stands elsewhere.
pub(super) struct Written {
    scope: Option<Scope>,
    rule: Rule,
}

/// All items.
pub(super) fn needs(cursor: &Cursor<'_>) -> Option<Vec<Written>> {
    let written = cursor.some("need", need)?;
    let asked: usize = written.iter().map(Written::rights).sum();
    if asked > RIGHTS_LIMIT {
        return cursor.fault(format!(
            "these are {asked} rights, and at most {RIGHTS_LIMIT} are asked for: name those that a job cannot do without"
        ));
    }
    Some(written)
}

impl Written {
    /// The need of a role whose jobs work in that namespace.
    pub(super) fn within(self, working_namespace: &Name) -> Need {
        let scope = self.scope.unwrap_or_else(|| Scope::Namespace(working_namespace.clone()));
        Need { scope, rule: self.rule }
    }

    fn rights(&self) -> usize {
        Need { scope: Scope::Cluster, rule: self.rule.clone() }.rights().len()
    }
}

fn need(cursor: &Cursor<'_>) -> Option<Written> {
    let fields =
        cursor.fields(&["namespace", "clusterWide", "apiGroups", "resources", "resourceNames", "verbs"])?;
    let namespace = fields.optional("namespace", Cursor::name).map(Scope::Namespace);
    let cluster_wide = fields.optional("clusterWide", |wide| match wide.text()? {
        "true" => Some(Scope::Cluster),
        other => wide.fault(format!("{other:?} is not known: write true, or leave the key out")),
    });
    let rule = rule_of(&fields);
    if fields.has("namespace") && fields.has("clusterWide") {
        return cursor.fault_below("clusterWide", "stands beside namespace: keep one of them");
    }
    let scope = namespace.or(cluster_wide);
    if scope.is_none() && (fields.has("namespace") || fields.has("clusterWide")) {
        return None; // told where it stands
    }
    Some(Written { scope, rule: rule? })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use shorepass_core::role::Role;

    use super::super::Reader;
    use super::*;
    use crate::error::ConfigErrors;

    const ROLE: &str = include_str!("../../../../deploy/examples/role.yaml");

    fn read(needs: &str) -> Result<Vec<Role>, ConfigErrors> {
        let text = ROLE.replacen("  subjects:", &format!("  needs: {needs}\n  subjects:"), 1);
        Ok(Reader { known: None, seen: BTreeMap::new() }.text(Path::new("web.yaml"), &text)?.roles)
    }

    #[test]
    fn a_need_holds_in_the_namespace_of_the_role_in_another_or_in_the_whole_cluster() {
        let roles = read(
            "[{apiGroups: [apps], resources: [deployments], verbs: [get, patch]}, \
             {namespace: api, apiGroups: [\"\"], resources: [pods/log], resourceNames: [a], verbs: [get]}, \
             {clusterWide: true, apiGroups: [\"\"], resources: [nodes], verbs: [list]}]",
        )
        .unwrap();
        let told: Vec<String> =
            roles[0].needs().iter().flat_map(Need::rights).map(|right| right.to_string()).collect();
        let expected = [
            "get deployments.apps in namespace web",
            "patch deployments.apps in namespace web",
            "get pods/log \"a\" in namespace api",
            "list nodes in the whole cluster",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let many = format!("[{}]", "x, ".repeat(65));
        let many = format!("[{{apiGroups: [\"\"], resources: {many}, verbs: [get]}}]");
        for (needs, fragments) in [
            ("[]", ["spec.needs", "at least one"]),
            ("[{apiGroups: [\"\"], resources: [pods]}]", ["spec.needs[0].verbs", "missing"]),
            (
                "[{apiGroups: [\"\"], resources: [a b], verbs: [get]}]",
                ["spec.needs[0].resources[0]", "does not belong"],
            ),
            ("[{verb: get}]", ["spec.needs[0].verb: unknown key", "verbs"]),
            (
                "[{namespace: web, clusterWide: true, apiGroups: [\"\"], resources: [pods], verbs: [get]}]",
                ["spec.needs[0].clusterWide", "keep one"],
            ),
            (
                "[{clusterWide: yes, apiGroups: [\"\"], resources: [pods], verbs: [get]}]",
                ["spec.needs[0].clusterWide", "write true"],
            ),
            (&many, ["spec.needs: these are 65 rights", "at most 64"]),
        ] {
            let errors = read(needs).unwrap_err();
            let found =
                errors.iter().any(|error| fragments.iter().all(|part| error.to_string().contains(part)));
            assert!(found, "{fragments:?} are not in one of:\n{errors}");
        }
    }
}
