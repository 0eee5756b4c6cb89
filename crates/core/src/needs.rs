//! What a role says its jobs must be allowed to do in the cluster, and what of it a ServiceAccount is not allowed.
//!
//! A need is written like a rule of RBAC. It is asked for piece by piece, one [`Right`] at a time, because that is what an
//! API server answers; what is missing is put together again to rules, which an administrator of the cluster can add.

use std::collections::BTreeMap;
use std::fmt;

use crate::gives::{Rule, Word};
use crate::name::Name;

/// How many rights one role may need: each is a question to the API server.
pub const RIGHTS_LIMIT: usize = 64;

/// Where something has to be allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// In one namespace.
    Namespace(Name),
    /// In all of them, and where there are none.
    Cluster,
}

/// One item of a role's `needs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Where.
    pub scope: Scope,
    /// What.
    pub rule: Rule,
}

/// One thing that somebody may be allowed to do, or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Right {
    /// Where.
    pub scope: Scope,
    /// The API group; empty for the core group.
    pub group: String,
    /// The resource, with a subresource behind a slash.
    pub resource: String,
    /// The object; none for all.
    pub name: Option<String>,
    /// What is done to it.
    pub verb: String,
}

impl Need {
    /// Everything that it asks for.
    pub fn rights(&self) -> Vec<Right> {
        let Rule { api_groups, resources, resource_names, verbs } = &self.rule;
        let names: Vec<Option<&Word>> = match resource_names.as_slice() {
            [] => vec![None],
            names => names.iter().map(Some).collect(),
        };
        let mut rights = Vec::new();
        for group in api_groups {
            for resource in resources {
                for name in &names {
                    rights.extend(verbs.iter().map(|verb| Right {
                        scope: self.scope.clone(),
                        group: group.as_str().to_owned(),
                        resource: resource.as_str().to_owned(),
                        name: name.map(|name| name.as_str().to_owned()),
                        verb: verb.as_str().to_owned(),
                    }));
                }
            }
        }
        rights
    }
}

impl Right {
    /// The resource without its subresource, and that.
    pub fn parts(&self) -> (&str, &str) {
        self.resource.split_once('/').unwrap_or((&self.resource, ""))
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(name) = &self.name {
            write!(f, " \"{name}\"")?;
        }
        match &self.scope {
            Scope::Namespace(namespace) => write!(f, " in namespace {namespace}"),
            Scope::Cluster => f.write_str(" in the whole cluster"),
        }
    }
}

/// What is needed and not allowed; at least one right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(Vec<Right>);

/// A rule to add: in a Role of the namespace, or in a ClusterRole.
struct Added<'a> {
    group: &'a str,
    resource: &'a str,
    name: Option<&'a str>,
    verbs: Vec<&'a str>,
}

impl Missing {
    /// These; none if nothing is missing.
    pub fn of(rights: Vec<Right>) -> Option<Self> {
        (!rights.is_empty()).then_some(Self(rights))
    }

    /// Each.
    pub fn rights(&self) -> &[Right] {
        &self.0
    }

    /// The rules that give exactly what is missing, as YAML: lists for a Role's or ClusterRole's `rules`, each under a
    /// comment that says whose.
    pub fn yaml(&self) -> String {
        let mut text = String::new();
        for (scope, rules) in self.rules() {
            text.push_str(&match scope {
                Scope::Namespace(namespace) => format!("# rules of a Role in namespace {namespace}\n"),
                Scope::Cluster => "# rules of a ClusterRole, for a ClusterRoleBinding\n".to_owned(),
            });
            rules.iter().for_each(|rule| text.push_str(&format!("- {rule}\n")));
        }
        text
    }

    /// The same, of which no more than that many bytes; what is left out is counted.
    pub fn yaml_within(&self, limit: usize) -> String {
        let (whole, mut text, mut left) = (self.yaml(), String::new(), 0);
        for line in whole.lines() {
            // Room for the last line.
            if left > 0 || text.len() + line.len() + 40 > limit {
                left += usize::from(line.starts_with('-'));
            } else {
                text.push_str(line);
                text.push('\n');
            }
        }
        if left > 0 {
            text.push_str(&format!("# and {left} rules more\n"));
        }
        text
    }

    fn rules(&self) -> BTreeMap<&Scope, Vec<Added<'_>>> {
        let mut scopes = BTreeMap::<&Scope, Vec<Added<'_>>>::new();
        for right in &self.0 {
            let rules = scopes.entry(&right.scope).or_default();
            let (group, resource) = (right.group.as_str(), right.resource.as_str());
            let name = right.name.as_deref();
            let same =
                |rule: &&mut Added<'_>| (rule.group, rule.resource, rule.name) == (group, resource, name);
            match rules.iter_mut().find(same) {
                Some(rule) => rule.verbs.push(&right.verb),
                None => rules.push(Added { group, resource, name, verbs: vec![&right.verb] }),
            }
        }
        scopes
    }
}

impl fmt::Display for Missing {
    /// In one line; each rule is YAML by itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (scope, rules)) in self.rules().into_iter().enumerate() {
            let place = match scope {
                Scope::Namespace(namespace) => format!("to a Role in namespace {namespace}"),
                Scope::Cluster => "to a ClusterRole that is bound in the whole cluster".to_owned(),
            };
            let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
            write!(f, "{}{place}: {}", if index > 0 { "; " } else { "" }, rules.join(" and "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Added<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Words of rules have nothing in them that YAML would have to be told of.
        let verbs: Vec<String> = self.verbs.iter().map(|verb| format!("\"{verb}\"")).collect();
        write!(f, "{{apiGroups: [\"{}\"], resources: [\"{}\"]", self.group, self.resource)?;
        if let Some(name) = self.name {
            write!(f, ", resourceNames: [\"{name}\"]")?;
        }
        write!(f, ", verbs: [{}]}}", verbs.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(texts: &[&str]) -> Vec<Word> {
        texts.iter().map(|text| Word::parse(text).unwrap()).collect()
    }

    fn need(scope: Scope, resources: &[&str], names: &[&str], verbs: &[&str]) -> Need {
        let rule = Rule {
            api_groups: vec![Word::CORE_GROUP],
            resources: words(resources),
            resource_names: words(names),
            verbs: words(verbs),
        };
        Need { scope, rule }
    }

    fn web() -> Scope {
        Scope::Namespace(Name::parse("web").unwrap())
    }

    #[test]
    fn a_need_is_asked_for_piece_by_piece() {
        let rights = need(web(), &["pods", "pods/log"], &["a", "b"], &["get", "list"]).rights();
        assert_eq!(rights.len(), 8);
        assert_eq!(rights[0].to_string(), "get pods \"a\" in namespace web");
        assert_eq!((rights[7].parts(), rights[0].parts()), (("pods", "log"), ("pods", "")));
        let everywhere = need(Scope::Cluster, &["nodes"], &[], &["list"]).rights();
        assert_eq!(everywhere[0].to_string(), "list nodes in the whole cluster");
        let apps = Need {
            rule: Rule {
                api_groups: words(&["apps"]),
                ..need(web(), &["deployments"], &[], &["patch"]).rule
            },
            scope: web(),
        };
        assert_eq!(apps.rights()[0].to_string(), "patch deployments.apps in namespace web");
    }

    #[test]
    fn what_is_missing_is_told_as_the_rules_that_give_exactly_that() {
        let mut rights = need(web(), &["pods", "secrets"], &[], &["get", "list"]).rights();
        rights.extend(need(Scope::Cluster, &["nodes"], &["n"], &["get"]).rights());
        rights.remove(0); // it may get pods
        let missing = Missing::of(rights).unwrap();
        let yaml = "\
# rules of a Role in namespace web
- {apiGroups: [\"\"], resources: [\"pods\"], verbs: [\"list\"]}
- {apiGroups: [\"\"], resources: [\"secrets\"], verbs: [\"get\", \"list\"]}
# rules of a ClusterRole, for a ClusterRoleBinding
- {apiGroups: [\"\"], resources: [\"nodes\"], resourceNames: [\"n\"], verbs: [\"get\"]}
";
        assert_eq!(missing.yaml(), yaml);
        assert_eq!(missing.yaml_within(yaml.len() + 40), yaml);
        let some = missing.yaml_within(160);
        assert!(some.len() <= 160 && some.ends_with("verbs: [\"list\"]}\n# and 2 rules more\n"), "{some}");
        let line = missing.to_string();
        assert!(line.starts_with("to a Role in namespace web: {apiGroups"), "{line}");
        assert!(line.contains("; to a ClusterRole that is bound in the whole cluster: {"), "{line}");
        assert!(!line.contains('\n'));
        assert_eq!(Missing::of(vec![]), None);
    }
}
