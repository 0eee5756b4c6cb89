//! `can-i`: what is asked, as kubectl spells it.
//!
//! kubectl looks up what the server has; here the usual resources are known with their groups, and others are written with
//! theirs. One that is not known is refused and not asked for in the core group: the answer would be a no that says nothing.

use clap::Args;
use shorepass_core::gives::{RbacError, Word};
use shorepass_core::name::Name;
use shorepass_core::needs::{Right, Scope};

use super::Format;

/// What is asked.
#[derive(Args)]
pub(crate) struct CanIArgs {
    /// The role by whose token it is asked
    #[arg(long, value_parser = Name::parse)]
    pub(crate) role: Name,
    /// Such as get, list, create, delete
    #[arg(value_name = "VERB", value_parser = Word::parse)]
    pub(crate) verb: Word,
    /// In plural, with its group and perhaps a name: pods, deployments.apps, configmaps/settings
    #[arg(value_name = "RESOURCE[.GROUP][/NAME]", value_parser = Resource::parse)]
    pub(crate) resource: Resource,
    /// Such as log or scale
    #[arg(long, value_parser = Word::parse)]
    pub(crate) subresource: Option<Word>,
    /// In this namespace [default: the role's]
    #[arg(short, long, value_parser = Name::parse, conflicts_with = "all_namespaces")]
    pub(crate) namespace: Option<Name>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// The job's name on this machine [default: this user's job]
    #[arg(long, env = "SHOREPASS_JOB", default_value = "", hide_default_value = true)]
    pub(crate) job: String,
    /// For people or for programs
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

impl CanIArgs {
    /// What is asked for, where a role's jobs work in that namespace.
    pub(crate) fn right(&self, usual: &Name) -> Right {
        let Resource { resource, group, name, namespaced } = &self.resource;
        let everywhere = self.all_namespaces || !namespaced;
        Right {
            scope: match everywhere {
                true => Scope::Cluster,
                false => Scope::Namespace(self.namespace.clone().unwrap_or_else(|| usual.clone())),
            },
            group: group.clone(),
            resource: match &self.subresource {
                Some(subresource) => format!("{resource}/{}", subresource.as_str()),
                None => resource.clone(),
            },
            name: name.clone(),
            verb: self.verb.as_str().to_owned(),
        }
    }
}

/// A resource, and perhaps one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    resource: String,
    group: String,
    name: Option<String>,
    namespaced: bool,
}

/// Why a text is no resource.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResourceError {
    /// A word that no rule has.
    #[error(transparent)]
    Word(#[from] RbacError),
    /// Nothing that is known.
    #[error(
        "{0} is not known here: write it in plural and with its group, such as certificates.cert-manager.io"
    )]
    Unknown(String),
}

impl Resource {
    pub(super) fn parse(text: &str) -> Result<Self, ResourceError> {
        let (full, name) = match text.split_once('/') {
            Some((full, name)) => (full, Some(Word::parse(name)?.as_str().to_owned())),
            None => (text, None),
        };
        let full = Word::parse(full)?.as_str().to_lowercase();
        let usual = |resource: &str| USUAL.iter().find(|(_, _, known)| known.contains(&resource));
        let (resource, group, namespaced) = match full.split_once('.') {
            Some((resource, group)) => {
                let known = usual(resource).filter(|(usual, _, _)| *usual == group);
                (resource.to_owned(), group.to_owned(), known.is_none_or(|(_, namespaced, _)| *namespaced))
            }
            None => match usual(&full) {
                Some((group, namespaced, _)) => (full, (*group).to_owned(), *namespaced),
                None if full == "*" => (full, "*".to_owned(), true),
                None => return Err(ResourceError::Unknown(full)),
            },
        };
        Ok(Self { resource, group, name, namespaced })
    }
}

/// Group, whether they are in namespaces, and the resources.
const USUAL: &[(&str, bool, &[&str])] = &[
    (
        "",
        true,
        &[
            "bindings",
            "configmaps",
            "endpoints",
            "events",
            "limitranges",
            "persistentvolumeclaims",
            "pods",
            "podtemplates",
            "replicationcontrollers",
            "resourcequotas",
            "secrets",
            "serviceaccounts",
            "services",
        ],
    ),
    ("", false, &["namespaces", "nodes", "persistentvolumes"]),
    ("apps", true, &["controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets"]),
    ("batch", true, &["cronjobs", "jobs"]),
    ("autoscaling", true, &["horizontalpodautoscalers"]),
    ("coordination.k8s.io", true, &["leases"]),
    ("discovery.k8s.io", true, &["endpointslices"]),
    ("networking.k8s.io", true, &["ingresses", "networkpolicies"]),
    ("networking.k8s.io", false, &["ingressclasses"]),
    ("policy", true, &["poddisruptionbudgets"]),
    ("rbac.authorization.k8s.io", true, &["rolebindings", "roles"]),
    ("rbac.authorization.k8s.io", false, &["clusterrolebindings", "clusterroles"]),
    ("storage.k8s.io", false, &["csidrivers", "csinodes", "storageclasses", "volumeattachments"]),
    ("scheduling.k8s.io", false, &["priorityclasses"]),
    ("certificates.k8s.io", false, &["certificatesigningrequests"]),
    ("apiextensions.k8s.io", false, &["customresourcedefinitions"]),
    (
        "admissionregistration.k8s.io",
        false,
        &[
            "mutatingwebhookconfigurations",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "validatingwebhookconfigurations",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        asked: CanIArgs,
    }

    fn asked(line: &str) -> String {
        let line = Line::try_parse_from(format!("can-i --role web {line}").split(' ')).ok().unwrap();
        line.asked.right(&Name::parse("web").unwrap()).to_string()
    }

    #[test]
    fn what_is_asked_is_spelt_as_kubectl_does() {
        for (line, right) in [
            ("get pods", "get pods in namespace web"),
            ("get pods/web-0 --subresource log", "get pods/log \"web-0\" in namespace web"),
            ("patch deployments -n api", "patch deployments.apps in namespace api"),
            ("patch Deployments.apps", "patch deployments.apps in namespace web"),
            ("list secrets -A", "list secrets in the whole cluster"),
            ("get nodes", "get nodes in the whole cluster"),
            (
                "bind clusterroles.rbac.authorization.k8s.io/view",
                "bind clusterroles.rbac.authorization.k8s.io \"view\" in the whole cluster",
            ),
            ("create certificates.cert-manager.io", "create certificates.cert-manager.io in namespace web"),
        ] {
            assert_eq!(asked(line), right);
        }
    }

    #[test]
    fn what_is_not_known_is_not_taken_for_something_of_the_core_group() {
        for unknown in ["certificates", "pod", "deploy", "a b", ""] {
            assert!(Resource::parse(unknown).is_err(), "{unknown}");
        }
        let told = Resource::parse("certificates").unwrap_err().to_string();
        assert!(told.contains("with its group"), "{told}");
    }
}
