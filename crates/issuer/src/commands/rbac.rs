//! `shorepass-issuer rbac`: the least that the issuer needs in a cluster.

use std::path::PathBuf;

use anyhow::{Result, bail};
use shorepass_cluster::rbac::{Audiences, IssuerIdentity, RenderError, render, render_listing};
use shorepass_config::role;
use shorepass_core::name::Name;
use shorepass_core::role::Role;

use super::UsageError;

/// Which roles, which cluster, who the issuer is there.
#[derive(clap::Args)]
pub(super) struct Rbac {
    /// The directory with the role documents.
    #[arg(long, value_name = "DIR")]
    roles: PathBuf,
    /// The cluster, if the roles name more than one.
    #[arg(long, value_name = "NAME", value_parser = Name::parse)]
    cluster: Option<Name>,
    /// The issuer's name in its config (`spec.issuer.name`), unique in the cluster: it names the admission policy.
    #[arg(long, value_name = "NAME", default_value = "main", value_parser = Name::parse)]
    issuer: Name,
    /// The namespace of the issuer's own ServiceAccount, if it has one, and of its Lease; both are printed too.
    #[arg(long, value_name = "NAME", default_value = "shorepass", value_parser = Name::parse)]
    namespace: Name,
    /// The issuer's own ServiceAccount.
    #[arg(long, value_name = "NAME", default_value = "shorepass-issuer", value_parser = Name::parse)]
    service_account: Name,
    /// The issuer's user name, if it is no ServiceAccount (such as the common name of its client certificate).
    #[arg(long, value_name = "NAME", conflicts_with = "service_account")]
    user: Option<String>,
    /// An audience of the API server's own, if it has others than the usual ones; repeat it for each.
    #[arg(long = "audience", value_name = "AUD")]
    audiences: Vec<String>,
    /// Prints besides what the credential of `clusters[].listing` needs: `list secrets`, which is the right to read every
    /// Secret in the namespaces of the roles.
    #[arg(long)]
    listing: bool,
    /// The user name of that credential, if it is not the ServiceAccount `<service-account>-listing`.
    #[arg(long, value_name = "NAME", requires = "listing")]
    listing_user: Option<String>,
}

impl Rbac {
    pub(super) fn run(self) -> Result<()> {
        let roles = role::load_directory(&self.roles)?;
        let cluster = match &self.cluster {
            Some(name) => name.clone(),
            None => the_only_cluster(&roles)?,
        };
        let lister = match self.listing_user {
            Some(name) => IssuerIdentity::User { name, namespace: self.namespace.clone() },
            None => IssuerIdentity::ServiceAccount {
                namespace: self.namespace.clone(),
                name: Name::parse(&format!("{}-listing", self.service_account))?,
            },
        };
        let identity = match self.user {
            Some(name) => IssuerIdentity::User { name, namespace: self.namespace },
            None => IssuerIdentity::ServiceAccount { namespace: self.namespace, name: self.service_account },
        };
        let audiences = Audiences::new(self.audiences);
        let audiences = audiences.map_err(|problem| UsageError(format!("--audience: {problem}")))?;
        let rendered = render(&roles, &cluster, &identity, &self.issuer, &audiences).and_then(|usual| {
            if !self.listing {
                return Ok(usual);
            }
            Ok(usual + &render_listing(&roles, &cluster, &lister, &self.issuer)?)
        });
        super::say(&rendered.map_err(|problem| match &problem {
            RenderError::User(_) => UsageError(format!("--user: {problem}")).into(),
            RenderError::NoRoles { .. } => UsageError(format!("--cluster: {problem}")).into(),
            RenderError::OwnNamespace(_) => UsageError(format!("--namespace: {problem}")).into(),
            RenderError::Roles(_) | RenderError::Audience(_) => anyhow::Error::from(problem),
        })?)
    }
}

fn the_only_cluster(roles: &[Role]) -> Result<Name> {
    let mut clusters: Vec<&Name> = roles.iter().map(Role::cluster).collect();
    clusters.sort();
    clusters.dedup();
    match clusters[..] {
        [one] => Ok(one.clone()),
        [] => bail!("there is no role document; write one, or see deploy/examples"),
        _ => {
            let names: Vec<&str> = clusters.iter().map(|name| name.as_str()).collect();
            let names = names.join(", ");
            Err(UsageError(format!("the roles name several clusters ({names}); choose one with --cluster"))
                .into())
        }
    }
}
