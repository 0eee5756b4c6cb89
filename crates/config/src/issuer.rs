//! The issuer's document.
//!
//! Paths are resolved against the document's folder; whether what they name exists is found out by whoever opens it,
//! except for the roles, which [`IssuerConfig::load_roles`] checks against the clusters. The bounds of the tunables are
//! here, so that no one has to ask elsewhere whether a number makes sense.

mod connect;
mod enrolment;
mod job_issuers;
mod trust_bundles;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shorepass_core::condition::Conditions;
use shorepass_core::name::{Name, TrustDomain};
use shorepass_core::receipt::LAG_BOUND;

pub use self::connect::{Connect, Renew};
pub use self::enrolment::{EnrolmentConfig, MachineIssuerConfig, PodsConfig};
pub use self::job_issuers::JobIssuerConfig;
pub use self::trust_bundles::TrustBundleConfig;

use self::enrolment::Beside;
use crate::cursor::Cursor;
use crate::envelope;
use crate::error::ConfigErrors;
use crate::role::{self, Known, Roles, Taken};
use crate::scalar::{Host, HostPort, parse_server_url};

const KIND: &str = "IssuerConfig";
/// The shortest life of a certificate; a renewal at half of it needs a few seconds to work.
const CERTIFICATE_FLOOR: Duration = Duration::from_secs(20);
const CERTIFICATE_CEILING: Duration = Duration::from_secs(24 * 60 * 60);
const RECEIPTS_ONE_IN: NonZeroU32 = NonZeroU32::new(100).expect("it is not 0");
/// A watch that lags longer than this is broken.
const LAG_CEILING: Duration = Duration::from_secs(10 * 60);
/// How long an anchor has to be nobody's before it is removed, where nothing is said.
const GRACE: Duration = Duration::from_secs(10 * 60);
const GRACE_FLOOR: Duration = Duration::from_secs(10);
const GRACE_CEILING: Duration = Duration::from_secs(24 * 60 * 60);
/// Where `shorepass-issuer rbac` puts the issuer's own Lease if it is told nothing.
const OWN_NAMESPACE: &str = "shorepass";
/// How long history is kept where nothing is said.
const RETENTION: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// As long as the longest lease: until then a lease may need the enrolment that it came from.
const RETENTION_FLOOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const RETENTION_CEILING: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// What an issuer is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerConfig {
    /// The trust domain whose identities it signs.
    pub trust_domain: TrustDomain,
    /// Its own name: it serves as `spiffe://<trust domain>/issuer/<name>`.
    pub name: Name,
    /// Names and addresses in its serving certificate, at least one.
    pub dns_names: Vec<Host>,
    /// Where it listens.
    pub listen: Listen,
    /// Where it keeps keys, ledger and audit.
    pub state_directory: PathBuf,
    /// What it does when the records in there are lost.
    pub on_store_failure: OnStoreFailure,
    /// How long what is over is kept in the ledger; none keeps it for ever.
    pub history_retention: Option<Duration>,
    /// The clusters, at least one, no name twice.
    pub clusters: Vec<ClusterConfig>,
    /// Whose job tokens are taken.
    pub job_issuers: Vec<JobIssuerConfig>,
    /// Which certificates of other PKIs are taken; no two of one name or trust domain.
    pub trust_bundles: Vec<TrustBundleConfig>,
    /// Where the role documents are.
    pub role_directory: PathBuf,
    /// How runners are let in, and back in.
    pub enrolment: EnrolmentConfig,
    /// How long the certificates of its peers live.
    pub certificate_lifetime: Duration,
    /// How much it does at once.
    pub limits: Limits,
    /// Of leases that end otherwise than by revocation, one in so many gets a receipt.
    pub receipts_one_in: NonZeroU32,
}

/// What the issuer does when its records cannot be read, or were cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnStoreFailure {
    /// Move them aside, make them anew as far as that goes, raise an alarm, and issue.
    #[default]
    Continue,
    /// Do not start.
    Stop,
}

/// The addresses of the listeners; port 0 takes a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// mTLS: runners, platforms, operators.
    pub api: SocketAddr,
    /// TLS without client certificate: enrolment.
    pub enroll: SocketAddr,
    /// Plain HTTP: health.
    pub admin: SocketAddr,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Its name, as roles and leases say it.
    pub name: Name,
    /// How the issuer gets in.
    pub connect: Connect,
    /// What clients are told.
    pub advertise: Advertise,
    /// All of its API servers, for receipts; empty for those that the issuer finds out about.
    pub endpoints: Vec<HostPort>,
    /// How far the watch of an API server may lag.
    pub lag_bound: Duration,
    /// The namespace of the issuer's own Lease.
    pub coordination_namespace: Name,
    /// How anchors are listed; without it they are not.
    pub listing: Option<ListingConfig>,
}

/// A credential that may list Secrets, and what is done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListingConfig {
    /// The kubeconfig with the credential.
    pub kubeconfig: PathBuf,
    /// The context in it.
    pub context: String,
    /// How long an anchor has to be nobody's before it is removed.
    pub grace: Duration,
}

/// Where clients find a cluster, if not where the issuer does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advertise {
    /// The API server's URL, if it is not the one in the kubeconfig.
    pub server: Option<String>,
    /// A PEM file with the certificate authorities to trust for it; those of the kubeconfig without.
    pub ca_file: Option<PathBuf>,
    /// The name to verify its certificate against, if not the URL's host.
    pub tls_server_name: Option<String>,
}

/// Limits that protect the issuer and the API servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls per second of one caller.
    pub calls_per_second: NonZeroU32,
    /// Calls of one caller at once, after a pause.
    pub burst: NonZeroU32,
    /// Mints of one cluster at the same time.
    pub mints_in_flight: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        const fn count(number: u32) -> NonZeroU32 {
            NonZeroU32::new(number).expect("the defaults below are not 0")
        }
        const CALLS_PER_SECOND: NonZeroU32 = count(20);
        const BURST: NonZeroU32 = count(40);
        const MINTS_IN_FLIGHT: NonZeroU32 = count(16);
        Self { calls_per_second: CALLS_PER_SECOND, burst: BURST, mints_in_flight: MINTS_IN_FLIGHT }
    }
}

impl IssuerConfig {
    /// Reads the file.
    pub fn load(file: &Path) -> Result<Self, ConfigErrors> {
        envelope::load(file, KIND, issuer_config)
    }

    /// The roles of the configured directory; one of an unknown cluster or job issuer is refused.
    pub fn load_roles(&self, conditions: &dyn Conditions) -> Result<Roles, ConfigErrors> {
        role::load_directory_for(&self.role_directory, &self.known(conditions))
    }

    /// As [`Self::load_roles`], of another directory or of one file.
    pub fn load_roles_of(&self, path: &Path, conditions: &dyn Conditions) -> Result<Roles, ConfigErrors> {
        match path.is_dir() {
            true => role::load_directory_for(path, &self.known(conditions)),
            false => role::load_file_for(path, &self.known(conditions)),
        }
    }

    /// The trust domains of its callers: its own first, then those of its trust bundles.
    pub fn trust_domains(&self) -> Vec<TrustDomain> {
        let others = self.trust_bundles.iter().map(|configured| configured.bundle.trust_domain());
        std::iter::once(&self.trust_domain).chain(others).cloned().collect()
    }

    /// The audiences of the tokens that let in jobs and machines.
    fn taken_audiences(&self) -> Vec<Taken> {
        let jobs = self.job_issuers.iter().map(|configured| Taken {
            audience: configured.issuer.audience().to_owned(),
            whose: format!("the job tokens of {}", configured.issuer.name()),
        });
        let pods = self.enrolment.pods.iter().map(|pods| Taken {
            audience: pods.audience.clone(),
            whose: format!("enrolment.pods of cluster {}", pods.cluster),
        });
        let machines = self.enrolment.oidc.iter().map(|machines| Taken {
            audience: machines.issuer.issuer.audience().to_owned(),
            whose: format!("enrolment.oidc of {}", machines.issuer.issuer.name()),
        });
        jobs.chain(pods).chain(machines).collect()
    }

    fn known<'c>(&self, conditions: &'c dyn Conditions) -> Known<'c> {
        Known {
            clusters: self.clusters.iter().map(|cluster| cluster.name.clone()).collect(),
            job_issuers: self.job_issuers.iter().map(|configured| configured.issuer.clone()).collect(),
            trust_domains: self.trust_domains(),
            taken: self.taken_audiences(),
            conditions,
        }
    }
}

fn issuer_config(spec: &Cursor<'_>) -> Option<IssuerConfig> {
    let fields = spec.fields(&[
        "trustDomain",
        "issuer",
        "listen",
        "state",
        "clusters",
        "jobIssuers",
        "trustBundles",
        "roles",
        "certificates",
        "enrolment",
        "limits",
        "receipts",
    ])?;
    let trust_domain = fields.required("trustDomain", |domain| domain.parsed(TrustDomain::parse));
    let identity = fields.required("issuer", identity);
    let listen = fields.required("listen", listen);
    let state = fields.required("state", state);
    let clusters = fields.required("clusters", clusters);
    let job_issuers = fields.optional("jobIssuers", job_issuers::job_issuers).unwrap_or_default();
    let trust_bundles = fields
        .optional("trustBundles", |list| trust_bundles::trust_bundles(list, trust_domain.as_ref()))
        .unwrap_or_default();
    let role_directory = fields.required("roles", directory);
    let certificate_lifetime = fields.optional("certificates", certificate_lifetime);
    let known = clusters.as_deref().unwrap_or_default();
    let beside = Beside { clusters: known, job_issuers: &job_issuers, pods: &[] };
    let enrolment = fields.optional("enrolment", |section| enrolment::enrolment(section, &beside));
    let limits = fields.optional("limits", limits);
    let receipts_one_in = fields.optional("receipts", receipts);
    let (name, dns_names) = identity?;
    let (state_directory, on_store_failure, history_retention) = state?;
    Some(IssuerConfig {
        trust_domain: trust_domain?,
        name,
        dns_names,
        listen: listen?,
        state_directory,
        on_store_failure,
        history_retention,
        clusters: clusters?,
        job_issuers,
        trust_bundles,
        role_directory: role_directory?,
        enrolment: enrolment.unwrap_or_default(),
        certificate_lifetime: certificate_lifetime.unwrap_or(CERTIFICATE_CEILING),
        limits: limits.unwrap_or_default(),
        receipts_one_in: receipts_one_in.unwrap_or(RECEIPTS_ONE_IN),
    })
}

fn receipts(cursor: &Cursor<'_>) -> Option<NonZeroU32> {
    cursor.fields(&["oneIn"])?.required("oneIn", |count| count.count(1_000_000))
}

fn identity(cursor: &Cursor<'_>) -> Option<(Name, Vec<Host>)> {
    let fields = cursor.fields(&["name", "dnsNames"])?;
    let name = fields.required("name", Cursor::name);
    let dns_names = fields
        .required("dnsNames", |names| names.some("DNS name or address", |name| name.parsed(Host::parse)));
    Some((name?, dns_names?))
}

fn listen(cursor: &Cursor<'_>) -> Option<Listen> {
    let fields = cursor.fields(&["api", "enroll", "admin"])?;
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    let mut address = |key: &'static str| {
        fields.required(key, |cursor| {
            let address = cursor.socket_address()?;
            if let Some((other, _)) = taken.iter().find(|(_, other)| *other == address && address.port() != 0)
            {
                return cursor.fault(format!(
                    "{address} is the address of {other} already: each listener has its own"
                ));
            }
            taken.push((key, address));
            Some(address)
        })
    };
    let (api, enroll, admin) = (address("api"), address("enroll"), address("admin"));
    Some(Listen { api: api?, enroll: enroll?, admin: admin? })
}

fn directory(cursor: &Cursor<'_>) -> Option<PathBuf> {
    cursor.fields(&["directory"])?.required("directory", Cursor::file_path)
}

fn state(cursor: &Cursor<'_>) -> Option<(PathBuf, OnStoreFailure, Option<Duration>)> {
    let fields = cursor.fields(&["directory", "onStoreFailure", "historyRetention"])?;
    let directory = fields.required("directory", Cursor::file_path);
    let on_failure = fields.optional("onStoreFailure", |cursor| match cursor.text()? {
        "continue" => Some(OnStoreFailure::Continue),
        "stop" => Some(OnStoreFailure::Stop),
        other => cursor.fault(format!("{other:?} is neither continue nor stop")),
    });
    let retention = fields.optional("historyRetention", |cursor| match cursor.duration()? {
        Duration::ZERO => Some(None),
        _ => cursor.duration_within(RETENTION_FLOOR..=RETENTION_CEILING).map(Some),
    });
    Some((directory?, on_failure.unwrap_or_default(), retention.unwrap_or(Some(RETENTION))))
}

fn clusters(cursor: &Cursor<'_>) -> Option<Vec<ClusterConfig>> {
    let seen = std::cell::RefCell::new(Vec::<(Name, String)>::new());
    cursor.some("cluster", |item| {
        cluster(item, |cursor| {
            let name = cursor.name()?;
            if let Some((_, first)) = seen.borrow().iter().find(|(other, _)| *other == name) {
                return cursor.fault(format!("a cluster named {name} stands in {first} already"));
            }
            seen.borrow_mut().push((name.clone(), cursor.place()));
            Some(name)
        })
    })
}

fn cluster(cursor: &Cursor<'_>, name: impl FnOnce(&Cursor<'_>) -> Option<Name>) -> Option<ClusterConfig> {
    let fields = cursor.fields(&[
        "name",
        "connect",
        "advertise",
        "endpoints",
        "lagBound",
        "coordination",
        "listing",
    ])?;
    let name = fields.required("name", |cursor| name(cursor));
    let connect = fields.required("connect", connect::connect);
    let listing = fields.optional("listing", listing);
    let advertise = fields.optional("advertise", advertise).unwrap_or_default();
    let endpoints = fields
        .optional("endpoints", |list| list.list(|item| item.parsed(HostPort::parse)))
        .unwrap_or_default();
    let lag_bound = fields
        .optional("lagBound", |lag| lag.duration_within(Duration::from_secs(1)..=LAG_CEILING))
        .unwrap_or(LAG_BOUND);
    let coordination_namespace = fields
        .optional("coordination", |own| own.fields(&["namespace"])?.required("namespace", Cursor::name))
        .or_else(|| Name::parse(OWN_NAMESPACE).ok());
    // One that is there and wrong is no absent one: its fault is told, and nothing is made of the document.
    Some(ClusterConfig {
        listing,
        name: name?,
        connect: connect?,
        advertise,
        endpoints,
        lag_bound,
        coordination_namespace: coordination_namespace?,
    })
}

fn kubeconfig(cursor: &Cursor<'_>) -> Option<(PathBuf, String)> {
    let fields = cursor.fields(&["path", "context"])?;
    let path = fields.required("path", Cursor::file_path);
    let context = fields.required("context", |context| context.text().map(str::to_owned));
    Some((path?, context?))
}

fn listing(cursor: &Cursor<'_>) -> Option<ListingConfig> {
    let fields = cursor.fields(&["kubeconfig", "grace"])?;
    let credential = fields.required("kubeconfig", kubeconfig);
    let grace = fields.optional("grace", |grace| grace.duration_within(GRACE_FLOOR..=GRACE_CEILING));
    let (kubeconfig, context) = credential?;
    Some(ListingConfig { kubeconfig, context, grace: grace.unwrap_or(GRACE) })
}

fn advertise(cursor: &Cursor<'_>) -> Option<Advertise> {
    let fields = cursor.fields(&["server", "caFile", "tlsServerName"])?;
    let server = fields.optional("server", |server| server.parsed(parse_server_url));
    let ca_file = fields.optional("caFile", Cursor::file_path);
    let tls_server_name = fields.optional("tlsServerName", |name| name.parsed(Host::parse));
    Some(Advertise { server, ca_file, tls_server_name: tls_server_name.map(|name| name.to_string()) })
}

fn certificate_lifetime(cursor: &Cursor<'_>) -> Option<Duration> {
    let fields = cursor.fields(&["lifetime"])?;
    fields.required("lifetime", |lifetime| lifetime.duration_within(CERTIFICATE_FLOOR..=CERTIFICATE_CEILING))
}

fn limits(cursor: &Cursor<'_>) -> Option<Limits> {
    let fields = cursor.fields(&["callsPerSecond", "burst", "mintsInFlight"])?;
    let usual = Limits::default();
    Some(Limits {
        calls_per_second: fields
            .optional("callsPerSecond", |n| n.count(10_000))
            .unwrap_or(usual.calls_per_second),
        burst: fields.optional("burst", |n| n.count(100_000)).unwrap_or(usual.burst),
        mints_in_flight: fields
            .optional("mintsInFlight", |n| n.count(1_000))
            .unwrap_or(usual.mints_in_flight),
    })
}

#[cfg(test)]
mod tests;
