//! `shorepass-issuer rbac`: the least that the issuer needs in a cluster.

use std::path::PathBuf;

use anyhow::{Result, bail};
use shorepass_cluster::OwnAccount;
use shorepass_cluster::rbac::{
    Audiences, IssuerIdentity, RenderError, render, render_listing, render_renewing, render_token_reviews,
};
use shorepass_config::role;
use shorepass_core::name::Name;
use shorepass_core::role::Role;

use super::UsageError;

/// Which roles, which cluster, which issuer, and who it is there if it is a ServiceAccount.
#[derive(clap::Args)]
pub(super) struct Which {
    /// The directory with the role documents.
    #[arg(long, value_name = "DIR")]
    roles: PathBuf,
    /// The cluster, if the roles name more than one.
    #[arg(long, value_name = "NAME", value_parser = Name::parse)]
    pub(super) cluster: Option<Name>,
    /// The issuer's name in its config (`spec.issuer.name`), unique in the cluster: it names the admission policy.
    #[arg(long, value_name = "NAME", default_value = "main", value_parser = Name::parse)]
    pub(super) issuer: Name,
    /// The namespace of the issuer's own ServiceAccount, if it has one, and of its Lease; both are printed too.
    #[arg(long, value_name = "NAME", default_value = "shorepass", value_parser = Name::parse)]
    pub(super) namespace: Name,
    /// The issuer's own ServiceAccount.
    #[arg(long, value_name = "NAME", default_value = "shorepass-issuer", value_parser = Name::parse)]
    pub(super) service_account: Name,
    /// Prints besides the right to create TokenReviews, for an issuer with `enrolment.pods`.
    #[arg(long)]
    token_reviews: bool,
    /// An audience of the API server's own, if it has others than the usual ones; repeat it for each.
    #[arg(long = "audience", value_name = "AUD")]
    audiences: Vec<String>,
}

/// Which roles, which cluster, who the issuer is there.
#[derive(clap::Args)]
pub(super) struct Rbac {
    #[command(flatten)]
    which: Which,
    /// The issuer's user name, if it is no ServiceAccount (such as the common name of its client certificate).
    #[arg(long, value_name = "NAME", conflicts_with = "service_account")]
    user: Option<String>,
    /// The issuer renews its own token (`clusters[].connect.renew`), which is bound to this Secret in its namespace.
    #[arg(long, value_name = "NAME", conflicts_with = "user", value_parser = Name::parse)]
    renew_secret: Option<Name>,
    /// Prints besides what the credential of `clusters[].listing` needs: `list secrets`, which is the right to read every
    /// Secret in the namespaces of the roles.
    #[arg(long)]
    listing: bool,
    /// The user name of that credential, if it is not the ServiceAccount `<service-account>-listing`.
    #[arg(long, value_name = "NAME", requires = "listing")]
    listing_user: Option<String>,
}

impl Which {
    /// What has to be applied for an issuer that is what `identity` says.
    fn render(&self, identity: &IssuerIdentity) -> Result<String> {
        let (roles, cluster, audiences) = self.read()?;
        let text = render(&roles, &cluster, identity, &self.issuer, &audiences).map_err(told)?;
        Ok(self.with_token_reviews(text, identity))
    }

    /// The same for one that renews its own token, which is bound to this Secret; with the cluster that it is for.
    pub(super) fn render_renewing(&self, secret: Name) -> Result<(Name, OwnAccount, String)> {
        let (roles, cluster, audiences) = self.read()?;
        let (namespace, service_account) = (self.namespace.clone(), self.service_account.clone());
        let own = OwnAccount { namespace, service_account, secret };
        let text = render_renewing(&roles, &cluster, &own, &self.issuer, &audiences).map_err(told)?;
        let (namespace, name) = (own.namespace.clone(), own.service_account.clone());
        let text = self.with_token_reviews(text, &IssuerIdentity::ServiceAccount { namespace, name });
        Ok((cluster, own, text))
    }

    fn with_token_reviews(&self, text: String, identity: &IssuerIdentity) -> String {
        match self.token_reviews {
            true => text + &render_token_reviews(identity, &self.issuer),
            false => text,
        }
    }

    fn render_listing(&self, lister: &IssuerIdentity) -> Result<String> {
        let (roles, cluster, _) = self.read()?;
        render_listing(&roles, &cluster, lister, &self.issuer).map_err(told)
    }

    fn read(&self) -> Result<(Vec<Role>, Name, Audiences)> {
        let roles = role::load_directory(&self.roles)?;
        let cluster = match &self.cluster {
            Some(name) => name.clone(),
            None => the_only_cluster(&roles)?,
        };
        let audiences = Audiences::new(self.audiences.clone());
        let audiences = audiences.map_err(|problem| UsageError(format!("--audience: {problem}")))?;
        Ok((roles, cluster, audiences))
    }
}

impl Rbac {
    pub(super) fn run(self) -> Result<()> {
        let Self { which, user, renew_secret, listing, listing_user } = self;
        let (namespace, name) = (which.namespace.clone(), which.service_account.clone());
        let lister = match listing_user {
            Some(name) => IssuerIdentity::User { name, namespace: namespace.clone() },
            None => IssuerIdentity::ServiceAccount {
                namespace: namespace.clone(),
                name: Name::parse(&format!("{name}-listing"))?,
            },
        };
        let mut text = match (user, renew_secret) {
            (None, Some(secret)) => which.render_renewing(secret)?.2,
            (Some(name), _) => which.render(&IssuerIdentity::User { name, namespace })?,
            (None, None) => which.render(&IssuerIdentity::ServiceAccount { namespace, name })?,
        };
        if listing {
            text.push_str(&which.render_listing(&lister)?);
        }
        super::say(&text)
    }
}

fn told(problem: RenderError) -> anyhow::Error {
    match &problem {
        RenderError::User(_) => UsageError(format!("--user: {problem}")).into(),
        RenderError::NoRoles { .. } => UsageError(format!("--cluster: {problem}")).into(),
        RenderError::OwnNamespace(_) => UsageError(format!("--namespace: {problem}")).into(),
        RenderError::RenewSecret(_) => UsageError(format!("the issuer's own Secret: {problem}")).into(),
        RenderError::OwnAudience { .. } => UsageError(format!("--audience: {problem}")).into(),
        RenderError::Roles(_) | RenderError::Audience(_) => anyhow::Error::from(problem),
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
