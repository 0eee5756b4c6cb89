//! The agent's document.
//!
//! The join token is named by its file and never stands in the document: documents are read by many, and copied.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shorepass_core::name::{Name, TrustDomain};

use crate::cursor::Cursor;
use crate::envelope;
use crate::error::ConfigErrors;
use crate::scalar::HostPort;

const KIND: &str = "AgentConfig";
const SOCKET: &str = "/run/shorepass/agent.sock";
/// What fits into a socket's address with its final zero (unix(7)).
const SOCKET_PATH_LIMIT: usize = 107;
/// What lets a runner in: it has one of them.
const TICKETS: [&str; 3] = ["joinTokenFile", "pod", "oidc"];
const JOB_SYSTEM: &str = "local";
/// The largest uid; the number after it means "none" (chown(2)).
const UID_LIMIT: u32 = u32::MAX - 1;
const MAX_AGE_FLOOR: Duration = Duration::from_secs(1);
const MAX_AGE_CEILING: Duration = Duration::from_secs(24 * 60 * 60);

/// What an agent is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// The runner's name: it is `spiffe://<trust domain>/runner/<name>`.
    pub name: Name,
    /// The trust domain of runner and issuer.
    pub trust_domain: TrustDomain,
    /// The issuer.
    pub issuer: AgentIssuer,
    /// The file with the join token; needed only until the runner is enrolled.
    pub join_token_file: Option<PathBuf>,
    /// The token of the pod that the runner is, instead of a join token.
    pub pod: Option<PodTokenConfig>,
    /// A token of an OIDC issuer, instead of both.
    pub oidc: Option<OidcTokenConfig>,
    /// Where it keeps its identity and its sessions.
    pub state_directory: PathBuf,
    /// The socket on which it serves jobs.
    pub socket: PathBuf,
    /// Whose jobs it serves; nobody's by default.
    pub job_users: BTreeSet<u32>,
    /// The system it names when it asserts a job.
    pub job_system: Name,
    /// The age at which a token is refreshed at the latest.
    pub refresh_max_age: Option<Duration>,
}

/// How a pod shows who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodTokenConfig {
    /// The file with the projected token, for the audience in the issuer's config.
    pub file: PathBuf,
    /// The cluster that the pod runs in, by its name in the issuer's config.
    pub cluster: Name,
    /// The issuer's CA (`ca.pem` in its state directory): nobody else is shown the token.
    pub ca_file: PathBuf,
}

/// Which OIDC token a machine shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcTokenConfig {
    /// The file with the token, for the audience in the issuer's config.
    pub file: PathBuf,
    /// The issuer's CA (`ca.pem` in its state directory): nobody else is shown the token.
    pub ca_file: PathBuf,
}

/// The issuer as an agent knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIssuer {
    /// Its name: only `spiffe://<trust domain>/issuer/<name>` is accepted.
    pub name: Name,
    /// Its listener for verified peers.
    pub api: HostPort,
    /// Its listener for enrolment.
    pub enroll: HostPort,
}

impl AgentConfig {
    /// Reads the file.
    pub fn load(file: &Path) -> Result<Self, ConfigErrors> {
        envelope::load(file, KIND, agent_config)
    }
}

fn agent_config(spec: &Cursor<'_>) -> Option<AgentConfig> {
    let fields = spec.fields(&[
        "name",
        "trustDomain",
        "issuer",
        "joinTokenFile",
        "pod",
        "oidc",
        "state",
        "socket",
        "jobs",
        "refresh",
    ])?;
    let name = fields.required("name", Cursor::name);
    let trust_domain = fields.required("trustDomain", |domain| domain.parsed(TrustDomain::parse));
    let issuer = fields.required("issuer", issuer);
    let join_token_file = fields.optional("joinTokenFile", Cursor::file_path);
    let pod = fields.optional("pod", pod_token);
    let oidc = fields.optional("oidc", oidc_token);
    let given: Vec<_> = TICKETS.into_iter().filter(|key| fields.has(key)).collect();
    if let [first, second, ..] = given[..] {
        return spec.fault_below(
            second,
            format!("{first} stands here too: a runner is let in by one of them, take the others out"),
        );
    }
    let state_directory = fields
        .required("state", |state| state.fields(&["directory"])?.required("directory", Cursor::file_path));
    let socket = fields.optional("socket", socket).unwrap_or_else(|| PathBuf::from(SOCKET));
    let jobs = fields.optional("jobs", jobs);
    let refresh_max_age = fields.optional("refresh", |refresh| {
        let fields = refresh.fields(&["maxAge"])?;
        fields.optional("maxAge", |age| age.duration_within(MAX_AGE_FLOOR..=MAX_AGE_CEILING))
    });
    let (job_users, job_system) = jobs.unwrap_or_default();
    Some(AgentConfig {
        name: name?,
        trust_domain: trust_domain?,
        issuer: issuer?,
        join_token_file,
        pod,
        oidc,
        state_directory: state_directory?,
        socket,
        job_users,
        job_system: job_system.or_else(|| Name::parse(JOB_SYSTEM).ok())?,
        refresh_max_age,
    })
}

fn issuer(cursor: &Cursor<'_>) -> Option<AgentIssuer> {
    let fields = cursor.fields(&["name", "api", "enroll"])?;
    let name = fields.required("name", Cursor::name);
    let api = fields.required("api", |api| api.parsed(HostPort::parse));
    let enroll = fields.required("enroll", |enroll| enroll.parsed(HostPort::parse));
    Some(AgentIssuer { name: name?, api: api?, enroll: enroll? })
}

fn pod_token(cursor: &Cursor<'_>) -> Option<PodTokenConfig> {
    let fields = cursor.fields(&["tokenFile", "cluster", "caFile"])?;
    let file = fields.required("tokenFile", Cursor::file_path);
    let cluster = fields.required("cluster", Cursor::name);
    let ca_file = fields.required("caFile", Cursor::file_path);
    Some(PodTokenConfig { file: file?, cluster: cluster?, ca_file: ca_file? })
}

fn oidc_token(cursor: &Cursor<'_>) -> Option<OidcTokenConfig> {
    let fields = cursor.fields(&["tokenFile", "caFile"])?;
    let file = fields.required("tokenFile", Cursor::file_path);
    let ca_file = fields.required("caFile", Cursor::file_path);
    Some(OidcTokenConfig { file: file?, ca_file: ca_file? })
}

fn socket(cursor: &Cursor<'_>) -> Option<PathBuf> {
    let socket = cursor.file_path()?;
    match socket.as_os_str().as_bytes().len() {
        0..=SOCKET_PATH_LIMIT => Some(socket),
        length => cursor.fault(format!(
            "{length} bytes are too long for a socket's path: use at most {SOCKET_PATH_LIMIT}"
        )),
    }
}

fn jobs(cursor: &Cursor<'_>) -> Option<(BTreeSet<u32>, Option<Name>)> {
    let fields = cursor.fields(&["users", "system"])?;
    let users = fields.optional("users", |users| users.list(|uid| uid.number(0..=UID_LIMIT)));
    let system = fields.optional("system", Cursor::name);
    Some((users.unwrap_or_default().into_iter().collect(), system))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGENT: &str = include_str!("../../../deploy/examples/agent.yaml");

    fn read(text: &str) -> Result<AgentConfig, ConfigErrors> {
        envelope::parse(Path::new("/etc/shorepass/agent.yaml"), text, KIND, agent_config)
    }

    fn check(part: &str, exchange: &str, fragments: &[&str]) {
        assert!(AGENT.contains(part), "{part:?} is not in the example");
        let errors = read(&AGENT.replacen(part, exchange, 1)).unwrap_err();
        let found = errors.iter().any(|error| fragments.iter().all(|part| error.to_string().contains(part)));
        assert!(found, "{fragments:?} are not in one of:\n{errors}");
    }

    #[test]
    fn the_example_loads_as_it_is_written() {
        let config = read(AGENT).unwrap();
        assert_eq!(config.name.as_str(), "prod-1");
        assert_eq!(config.issuer.api.to_string(), "issuer.example.org:8443");
        assert_eq!(config.state_directory, Path::new("/var/lib/shorepass-agent"));
        assert_eq!(config.join_token_file.as_deref(), Some(Path::new("/etc/shorepass/join-token")));
        assert_eq!(config.job_users, BTreeSet::from([1001]));
        assert_eq!(config.refresh_max_age, None);
    }

    #[test]
    fn a_pod_shows_a_token_instead_of_a_join_token() {
        const PART: &str = "  joinTokenFile: /etc/shorepass/join-token ";
        const POD: &str = "  pod: {tokenFile: /t/token, cluster: staging, caFile: ca.pem} ";
        let pod = read(&AGENT.replacen(PART, POD, 1)).unwrap();
        assert_eq!(pod.join_token_file, None);
        let told = pod.pod.unwrap();
        assert_eq!((told.cluster.as_str(), told.file.as_path()), ("staging", Path::new("/t/token")));
        assert_eq!(told.ca_file, Path::new("/etc/shorepass/ca.pem"));
        check(PART, &format!("{POD}\n{PART}"), &["spec.pod", "joinTokenFile stands here too"]);
        const OIDC: &str = "  oidc: {tokenFile: token, caFile: ca.pem}";
        let oidc = read(&AGENT.replacen(PART, OIDC, 1)).unwrap().oidc.unwrap();
        assert_eq!(oidc.file, Path::new("/etc/shorepass/token"));
        check(PART, &format!("{POD}\n{OIDC} "), &["spec.oidc", "pod stands here too"]);
        check(PART, &OIDC.replace(", caFile: ca.pem", ""), &["spec.oidc.caFile", "is missing"]);
        for missing in ["tokenFile: /t/token, ", "cluster: staging, ", ", caFile: ca.pem"] {
            check(PART, &POD.replace(missing, ""), &["spec.pod", "is missing"]);
        }
    }

    #[test]
    fn what_is_absent_has_safe_defaults() {
        let short = "apiVersion: shorepass.dev/v1\nkind: AgentConfig\nspec:\n  name: r\n  trustDomain: d\n  \
                     issuer: {name: main, api: 'a:1', enroll: 'a:2'}\n  state: {directory: state}\n";
        let config = read(short).unwrap();
        assert_eq!(config.socket, Path::new("/run/shorepass/agent.sock"));
        assert_eq!(config.state_directory, Path::new("/etc/shorepass/state"));
        assert!(config.job_users.is_empty() && config.join_token_file.is_none());
        assert_eq!(config.job_system.as_str(), "local");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let long = format!("socket: /run/{}", "s".repeat(110));
        let token = format!("spjt1.{}", "aB3_".repeat(20));
        let table: &[(&str, &str, &[&str])] = &[
            ("kind: AgentConfig", "kind: Agent", &["kind: expected AgentConfig, found \"Agent\""]),
            ("joinTokenFile:", "joinToken:", &["spec.joinToken: unknown key, did you mean `joinTokenFile`?"]),
            ("/etc/shorepass/join-token", &token, &["spec.joinTokenFile: this is a join token", "****"]),
            ("/etc/shorepass/join-token", "~/token", &["spec.joinTokenFile: '~' is not expanded"]),
            (
                "issuer.example.org:8443",
                "https://issuer.example.org:8443",
                &["spec.issuer.api", "is not host:port"],
            ),
            ("issuer.example.org:8444", "issuer.example.org", &["spec.issuer.enroll", "is not host:port"]),
            ("[1001]", "[01001]", &["spec.jobs.users[0]", "is not a whole number from 0 to 4294967294"]),
            ("[1001]", "[4294967295]", &["spec.jobs.users[0]", "4294967294"]),
            ("[1001]", "[\"1001\"]", &["spec.jobs.users[0]", "without quotes"]),
            ("[1001]", "[ci]", &["spec.jobs.users[0]", "\"ci\" is not a whole number"]),
            ("[1001]", "1001", &["spec.jobs.users: expected a list, found text"]),
            (
                "  jobs:",
                "  refresh: {maxAge: 0s}\n  jobs:",
                &["spec.refresh.maxAge: 0s is out of bounds", "1s to 24h"],
            ),
            (
                "  jobs:",
                "  refresh: {max_age: 5s}\n  jobs:",
                &["spec.refresh.max_age: unknown key", "`maxAge`"],
            ),
            ("  name: prod-1", "  name: Prod_1", &["agent.yaml:", "spec.name", "is not a name"]),
            ("  name: prod-1", "", &["spec.name: this key is missing"]),
            ("socket: /run/shorepass/agent.sock", &long, &["spec.socket", "too long"]),
            ("kind: AgentConfig", "metadata: {}\nkind: AgentConfig", &["metadata: unknown key"]),
        ];
        for (part, exchange, fragments) in table {
            check(part, exchange, fragments);
        }
    }

    #[test]
    fn a_pasted_join_token_is_not_repeated() {
        let token = format!("spjt1.{}", "aB3_".repeat(20));
        for line in ["joinToken: ", "joinTokenFile: "] {
            let text =
                AGENT.replacen("joinTokenFile: /etc/shorepass/join-token", &format!("{line}{token}"), 1);
            let errors = read(&text).unwrap_err();
            assert!(
                !errors.to_string().contains("aB3_aB3_") && !format!("{errors:?}").contains("aB3_aB3_"),
                "{errors}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_damage_to_a_document_makes_the_reader_panic(at in 0..AGENT.len(), cut in 0..40_usize, put in "\\PC{0,5}") {
            let start = AGENT.floor_char_boundary(at);
            let end = AGENT.floor_char_boundary(start + cut);
            if let Err(errors) = read(&format!("{}{put}{}", &AGENT[..start], &AGENT[end..])) {
                prop_assert!(!errors.is_empty());
            }
        }
    }
}
