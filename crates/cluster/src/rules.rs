//! Rules of RBAC as Roles have them and as an API server answers them, and what is left when the one is taken from the
//! other.
//!
//! An answer names a rule once for each binding that gives it, so that a rule that a Role gives *and* a group has is left
//! once. What every ServiceAccount of every cluster may is never told as left.

use std::collections::BTreeMap;

use serde::Deserialize;
use shorepass_core::name::Name;

use crate::answer::parse;

/// What a Role gives, or what applies to somebody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    resources: Vec<Rule>,
    urls: Vec<UrlRule>,
}

/// A rule about resources, each list in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// A rule about URLs, each list in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct UrlRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<String>,
}

/// Reads the rules of a Role or ClusterRole.
pub(crate) fn of_role(body: &[u8]) -> Result<Rules, String> {
    let role: Role = parse("the Role", body)?;
    let mut rules = Rules::default();
    for RoleRule { rule, urls } in role.rules.unwrap_or_default() {
        if !urls.is_empty() {
            rules.urls.push(UrlRule { verbs: rule.verbs.clone(), urls }.sorted());
        }
        if !rule.resources.is_empty() {
            rules.resources.push(rule.sorted());
        }
    }
    Ok(rules)
}

/// Reads the rules that apply to whoever asked (SelfSubjectRulesReview). There may be more than it names: what it names,
/// applies.
pub(crate) fn in_effect(body: &[u8]) -> Result<Rules, String> {
    let review: Review = parse("the SelfSubjectRulesReview", body)?;
    let Status { resource_rules, non_resource_rules } = review.status;
    Ok(Rules {
        resources: resource_rules.unwrap_or_default().into_iter().map(Rule::sorted).collect(),
        urls: non_resource_rules.unwrap_or_default().into_iter().map(UrlRule::sorted).collect(),
    })
}

impl Rules {
    /// Takes what a Role gives out of what is in effect, each rule once; false if something of it is not in effect. Its rules
    /// about URLs give nothing in a namespace, whether they are in the answer or not.
    pub(crate) fn take(&mut self, given: &Rules) -> bool {
        given.urls.iter().for_each(|rule| drop(take_one(&mut self.urls, rule)));
        given.resources.iter().all(|rule| take_one(&mut self.resources, rule).is_some())
    }

    /// In words for people, without what every ServiceAccount may.
    fn words(&self) -> impl Iterator<Item = Words> + '_ {
        let resources = self.resources.iter().filter(|rule| !rule.is_everybodys());
        let urls = self.urls.iter().filter(|rule| !rule.is_everybodys());
        resources
            .map(|rule| Words::InNamespace(rule.words()))
            .chain(urls.map(|rule| Words::Url(rule.words())))
    }
}

fn take_one<R: PartialEq>(rules: &mut Vec<R>, wanted: &R) -> Option<R> {
    let index = rules.iter().position(|rule| rule == wanted)?;
    Some(rules.swap_remove(index))
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Words {
    InNamespace(String),
    Url(String),
}

/// What is left in each namespace, in words, such as `get,list pods in namespace web`; what is the same in several, once.
pub(crate) fn words(left: &[(Name, Rules)]) -> Vec<String> {
    let mut places = BTreeMap::<Words, Vec<&str>>::new();
    for (namespace, rules) in left {
        for words in rules.words() {
            let named = places.entry(words).or_default();
            if named.last() != Some(&namespace.as_str()) {
                named.push(namespace.as_str());
            }
        }
    }
    let told = |(words, namespaces): (Words, Vec<&str>)| match (words, namespaces.as_slice()) {
        (Words::Url(words), _) => words,
        (Words::InNamespace(words), [one]) => format!("{words} in namespace {one}"),
        (Words::InNamespace(words), several) => format!("{words} in namespaces {}", several.join(",")),
    };
    places.into_iter().map(told).collect()
}

impl Rule {
    fn sorted(mut self) -> Self {
        let lists = [&mut self.verbs, &mut self.api_groups, &mut self.resources, &mut self.resource_names];
        lists.into_iter().for_each(|list| list.sort());
        self
    }

    /// Questions about oneself (`system:basic-user`), and the trust bundles that are there for all (1.33 and later).
    fn is_everybodys(&self) -> bool {
        let only = |list: &[String], allowed: &[&str]| list.iter().all(|it| allowed.contains(&it.as_str()));
        let about_oneself = only(&self.api_groups, &["authentication.k8s.io", "authorization.k8s.io"])
            && self.resources.iter().all(|resource| resource.starts_with("selfsubject"));
        let trust_bundles = only(&self.api_groups, &["certificates.k8s.io"])
            && only(&self.resources, &["clustertrustbundles"])
            && only(&self.verbs, &["get", "list", "watch"]);
        about_oneself || trust_bundles
    }

    fn words(&self) -> String {
        let mut resources = Vec::new();
        for group in &self.api_groups {
            let suffix = if group.is_empty() { String::new() } else { format!(".{group}") };
            resources.extend(self.resources.iter().map(|resource| format!("{resource}{suffix}")));
        }
        let names: Vec<String> = self.resource_names.iter().map(|name| format!(" {name:?}")).collect();
        format!("{} {}{}", self.verbs.join(","), resources.join(","), names.concat())
    }
}

impl UrlRule {
    fn sorted(mut self) -> Self {
        self.verbs.sort();
        self.urls.sort();
        self
    }

    /// Health, version, discovery (`system:discovery`, `system:public-info-viewer`), and the cluster's own OIDC documents
    /// (`system:service-account-issuer-discovery`).
    fn is_everybodys(&self) -> bool {
        const HEALTH: [&str; 3] = ["/healthz", "/livez", "/readyz"];
        const TREES: [&str; 6] =
            ["/api", "/apis", "/openapi", "/version", "/.well-known/openid-configuration", "/openid/v1/jwks"];
        let known = |url: &String| {
            let tree = url.trim_end_matches('*').trim_end_matches('/');
            HEALTH.contains(&url.as_str()) || TREES.contains(&tree)
        };
        self.verbs == ["get"] && self.urls.iter().all(known)
    }

    fn words(&self) -> String {
        format!("{} URL {}", self.verbs.join(","), self.urls.join(","))
    }
}

#[derive(Deserialize)]
struct Role {
    rules: Option<Vec<RoleRule>>,
}

#[derive(Deserialize)]
struct RoleRule {
    #[serde(flatten)]
    rule: Rule,
    #[serde(rename = "nonResourceURLs", default)]
    urls: Vec<String>,
}

#[derive(Deserialize)]
struct Review {
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    resource_rules: Option<Vec<Rule>>,
    non_resource_rules: Option<Vec<UrlRule>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every ServiceAccount of a cluster may, as an API server of 1.36 answers it.
    const EVERYBODYS: &str = r#"
        {"verbs":["create"],"apiGroups":["authentication.k8s.io"],"resources":["selfsubjectreviews"]},
        {"verbs":["create"],"apiGroups":["authorization.k8s.io"],"resources":["selfsubjectaccessreviews","selfsubjectrulesreviews"]}"#;
    const EVERYBODYS_URLS: &str = r#"
        {"verbs":["get"],"nonResourceURLs":["/healthz","/livez","/readyz","/version","/version/"]},
        {"verbs":["get"],"nonResourceURLs":["/api","/api/*","/apis","/apis/*","/healthz","/openapi","/openapi/*"]},
        {"verbs":["get"],"nonResourceURLs":["/.well-known/openid-configuration","/.well-known/openid-configuration/","/openid/v1/jwks","/openid/v1/jwks/"]}"#;
    const PODS: &str = r#"{"verbs":["get","list"],"apiGroups":[""],"resources":["pods","configmaps"]}"#;

    fn review(rules: &str, urls: &str) -> Rules {
        let body = format!(
            r#"{{"status":{{"incomplete":true,"resourceRules":[{EVERYBODYS}{rules}],"nonResourceRules":[{EVERYBODYS_URLS}{urls}]}}}}"#
        );
        in_effect(body.as_bytes()).unwrap()
    }

    fn role(rules: &str) -> Rules {
        of_role(format!(r#"{{"rules":[{rules}]}}"#).as_bytes()).unwrap()
    }

    fn left(mut seen: Rules, given: &Rules) -> Vec<String> {
        assert!(seen.take(given), "{seen:?} lacks {given:?}");
        words(&[(Name::parse("web").unwrap(), seen)])
    }

    #[test]
    fn a_rule_is_the_same_in_a_role_and_in_a_review() {
        let given = role(
            r#"{"apiGroups":[""],"resources":["pods","configmaps"],"verbs":["list","get"]},
            {"nonResourceURLs":["/metrics"],"verbs":["get"]}"#,
        );
        assert!(left(review(&format!(",{PODS}"), ""), &given).is_empty());
        let answered = r#",{"verbs":["get"],"nonResourceURLs":["/metrics"]}"#;
        assert!(left(review(&format!(",{PODS}"), answered), &given).is_empty(), "it has no effect there");
        let named = PODS.replace("\"verbs\"", "\"resourceNames\":[\"a\"],\"verbs\"");
        assert!(!review(&format!(",{PODS}"), "").take(&role(&named)));
        assert_eq!(of_role(br#"{"rules":null}"#), Ok(Rules::default()));
    }

    #[test]
    fn what_comes_from_elsewhere_is_left_also_where_it_is_the_same() {
        let twice = review(&format!(",{PODS},{PODS}"), "");
        assert_eq!(left(twice, &role(PODS)), ["get,list configmaps,pods in namespace web"]);
        assert!(!review(&format!(",{PODS}"), "").take(&role(&format!("{PODS},{PODS}"))), "one is missing");
    }

    #[test]
    fn it_is_told_in_words_once_and_without_what_everybody_may() {
        let deployments = r#",{"verbs":["patch"],"apiGroups":["apps","x.dev"],"resources":["deployments"],"resourceNames":["a\nb","c"]}"#;
        let metrics = r#",{"verbs":["get"],"nonResourceURLs":["/metrics"]}"#;
        let name = |text| Name::parse(text).unwrap();
        let (web, api) = (review(&format!("{deployments},{PODS}"), metrics), review(deployments, metrics));
        let told = words(&[(name("web"), web), (name("api"), api)]);
        let expected = [
            "get,list configmaps,pods in namespace web",
            "patch deployments.apps,deployments.x.dev \"a\\nb\" \"c\" in namespaces web,api",
            "get URL /metrics",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn only_what_everybody_may_is_left_out() {
        for rule in [
            r#"{"verbs":["create"],"apiGroups":["authorization.k8s.io"],"resources":["selfsubjectaccessreviews","subjectaccessreviews"]}"#,
            r#"{"verbs":["create"],"apiGroups":["*"],"resources":["selfsubjectreviews"]}"#,
            r#"{"verbs":["update"],"apiGroups":["certificates.k8s.io"],"resources":["clustertrustbundles"]}"#,
        ] {
            assert_eq!(left(review(&format!(",{rule}"), ""), &Rules::default()).len(), 1, "{rule}");
        }
        for rule in [
            r#"{"verbs":["post"],"nonResourceURLs":["/api"]}"#,
            r#"{"verbs":["get"],"nonResourceURLs":["/api","/logs"]}"#,
            r#"{"verbs":["get"],"nonResourceURLs":["*"]}"#,
        ] {
            assert_eq!(left(review("", &format!(",{rule}")), &Rules::default()).len(), 1, "{rule}");
        }
    }
}
