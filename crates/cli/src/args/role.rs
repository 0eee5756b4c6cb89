//! The commands for people who write roles. They read documents and ask nobody, but for `role test --online`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use shorepass_core::labels::parse_pair;
use shorepass_core::name::{Name, TrustDomain};

use super::Format;

/// What to do with role documents.
#[derive(Subcommand)]
pub(crate) enum RoleCommand {
    /// Say which requirement a role's subjects fail for a caller and its job, or that they give the role
    Explain(ExplainArgs),
    /// Run the tests in role documents (exit code 1 if one fails)
    Test(TestArgs),
}

/// Where the documents are.
#[derive(Args)]
pub(crate) struct DocumentArgs {
    /// The issuer's config (kind IssuerConfig): its clusters, job issuers and trust domain
    #[arg(long, value_name = "FILE", default_value = "/etc/shorepass/issuer.yaml")]
    pub(crate) issuer_config: PathBuf,
    /// A folder of role documents, or one file [default: the folder that the issuer's config names]
    #[arg(long, value_name = "PATH")]
    pub(crate) roles: Option<PathBuf>,
    /// For people or for programs
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// Who asks for what.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("caller").required(true).args(["runner", "platform"]))]
#[command(group = clap::ArgGroup::new("evidence").required(true).args(["claims", "asserted"]))]
pub(crate) struct ExplainArgs {
    /// The role
    #[arg(value_name = "ROLE", value_parser = Name::parse)]
    pub(crate) role: Name,
    /// A runner of this name asks
    #[arg(long, value_name = "NAME", value_parser = Name::parse)]
    pub(crate) runner: Option<Name>,
    /// A label that the runner's enrolment gave it, such as env=prod
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_pair, conflicts_with = "platform")]
    pub(crate) labels: Vec<(String, String)>,
    /// A platform of this name asks
    #[arg(long, value_name = "NAME", value_parser = Name::parse)]
    pub(crate) platform: Option<Name>,
    /// Whoever asks is of this trust domain [default: the issuer's own]
    #[arg(long, value_name = "DOMAIN", value_parser = TrustDomain::parse, conflicts_with = "labels")]
    pub(crate) trust_domain: Option<TrustDomain>,
    /// Its job's token: the payload as JSON, as the CI system makes it; - for standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) claims: Option<PathBuf>,
    /// Whose token it is, by the name in the issuer's config [default: the one whose url is the token's `iss`]
    #[arg(long, value_name = "NAME", value_parser = Name::parse, conflicts_with = "asserted")]
    pub(crate) issuer: Option<Name>,
    /// Its job has no token
    #[arg(long)]
    pub(crate) asserted: bool,
    /// Where the documents are.
    #[command(flatten)]
    pub(crate) documents: DocumentArgs,
}

/// Which tests.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// Those of these roles alone
    #[arg(value_name = "ROLE", value_parser = Name::parse)]
    pub(crate) only: Vec<Name>,
    /// Also ask the clusters, with the credentials that the issuer's config names, by which rights jobs can leave something
    /// behind that outlives their leases
    #[arg(long)]
    pub(crate) online: bool,
    /// Where the documents are.
    #[command(flatten)]
    pub(crate) documents: DocumentArgs,
}
