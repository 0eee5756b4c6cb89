//! An operator's connection to the issuer.

use std::path::PathBuf;
use std::sync::Arc;

use shorepass_config::ClientConfig;
use shorepass_core::caller::{Kind, SpiffeId};
use shorepass_core::id::RequestId;
use shorepass_core::name::TrustDomain;
use shorepass_core::time::Clock as _;
use shorepass_daemon::clock::{SystemClock, SystemEntropy};
use shorepass_rpc::client::ApiClient;
use shorepass_tls::{ConnectError, Connector, CurrentIdentity, IdentityFile};

use crate::args::{OperatorArgs, Runner};
use crate::failure::Failure;

/// What the operator's config gives.
pub(crate) struct Operator {
    /// Connects at the first call.
    pub(crate) client: ApiClient,
    trust_domain: TrustDomain,
}

/// The client tells the sources of what the connector says, and not that itself; so it becomes a source.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect")]
struct NotConnected(#[source] ConnectError);

impl Operator {
    /// Reads config and identity.
    pub(crate) fn new(args: &OperatorArgs) -> Result<Self, Failure> {
        let config = ClientConfig::load(&config_file(args)?).map_err(Failure::Config)?;
        let identity = IdentityFile::new(&config.identity_file).load().map_err(Failure::Identity)?;
        let identity = identity.ok_or(Failure::NoIdentity(config.identity_file))?;
        let trust_domain = config.trust_domain;
        let issuer =
            SpiffeId { trust_domain: trust_domain.clone(), kind: Kind::Issuer, name: config.issuer_name };
        let connector =
            Arc::new(Connector::api(CurrentIdentity::new(&identity), issuer, Arc::new(SystemClock)));
        let address: Arc<str> = config.issuer_api.to_string().into();
        let connect = move || {
            let (connector, address) = (Arc::clone(&connector), Arc::clone(&address));
            async move { connector.connect(&address).await.map_err(NotConnected) }
        };
        let client = ApiClient::new(connect, Arc::new(SystemClock), Arc::new(SystemEntropy));
        Ok(Self { client, trust_domain })
    }

    /// The SPIFFE ID of a caller; a mere name is a runner's of this trust domain.
    pub(crate) fn caller(&self, runner: &Runner) -> String {
        caller(&self.trust_domain, runner)
    }
}

/// A new request id.
pub(crate) fn request_id() -> RequestId {
    RequestId::generate(SystemClock.now(), &SystemEntropy)
}

fn caller(trust_domain: &TrustDomain, runner: &Runner) -> String {
    match runner {
        Runner::Caller(id) => id.to_string(),
        Runner::Named(name) => {
            let id = SpiffeId { trust_domain: trust_domain.clone(), kind: Kind::Runner, name: name.clone() };
            id.to_string()
        }
    }
}

fn config_file(args: &OperatorArgs) -> Result<PathBuf, Failure> {
    let named = args.config.clone().filter(|path| !path.as_os_str().is_empty()).ok_or(Failure::NoConfig)?;
    Ok(if named.is_dir() { named.join("config.yaml") } else { named })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::time::Duration;

    use shorepass_config::HostPort;
    use shorepass_core::id::EnrolmentId;
    use shorepass_core::name::Name;
    use shorepass_proto::v1;
    use shorepass_testing::certificates::{Fault, Subject, TestCa};
    use shorepass_tls::{PrivateKey, Serving, ServingIdentity, Trust};
    use tokio::net::TcpListener;

    use super::*;
    use crate::args::Format;

    fn subject(spiffe_id: &str) -> Subject {
        Subject {
            spiffe_id: SpiffeId::parse(spiffe_id).unwrap(),
            enrolment: EnrolmentId::parse("0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d").unwrap(),
            now: SystemClock.now(),
        }
    }

    fn trust_domain() -> TrustDomain {
        TrustDomain::parse("ci.example.org").unwrap()
    }

    /// A folder as `identity create` makes it.
    fn folder(address: &str, identity_pem: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = ClientConfig {
            trust_domain: trust_domain(),
            issuer_name: Name::parse("main").unwrap(),
            issuer_api: HostPort::parse(address).unwrap(),
            identity_file: PathBuf::from("identity.pem"),
        };
        std::fs::write(folder.path().join("config.yaml"), config.to_yaml().unwrap()).unwrap();
        let identity = folder.path().join("identity.pem");
        std::fs::write(&identity, identity_pem).unwrap();
        std::fs::set_permissions(&identity, Permissions::from_mode(0o600)).unwrap();
        folder
    }

    /// The failure of a call with this folder.
    async fn failure_of(folder: &tempfile::TempDir) -> Failure {
        let operator = Operator::new(&args(Some(folder.path()))).unwrap();
        operator.client.list_leases(v1::ListLeasesRequest::default()).await.unwrap_err().into()
    }

    #[tokio::test]
    async fn an_expired_operator_is_shown_the_alert_and_how_to_get_a_new_identity() {
        let ca = TestCa::new(&trust_domain());
        let server = ca.server(&subject("spiffe://ci.example.org/issuer/main"));
        let key = PrivateKey::parse(server.key_pem.as_bytes()).unwrap();
        let serving = ServingIdentity::new(&key, server.certificate_pem.as_bytes()).unwrap();
        let bundle = ca.certificate_pem().as_bytes();
        let trust = Trust::new(trust_domain(), bundle, Vec::new()).unwrap();
        let serving = Serving::new(serving, trust, Arc::new(SystemClock));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            serving.api().accept(stream, Duration::from_secs(5), std::future::ready(())).await.map(|_| ())
        });

        let expired = ca.faulty(Fault::Expired, &subject("spiffe://ci.example.org/operator/alice"));
        let failure = failure_of(&folder(&address, &expired.identity_pem(ca.certificate_pem()))).await;
        let shown = failure.report();
        assert!(shown.contains("certificate_expired (45)") && shown.contains("has expired"), "{shown}");
        assert!(shown.contains("  try: make a new identity"), "{shown}");
        assert_eq!(failure.exit_code(), 3);
    }

    #[tokio::test]
    async fn an_issuer_that_is_not_there_is_named_with_its_address() {
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let ca = TestCa::new(&trust_domain());
        let alice = ca.client(&subject("spiffe://ci.example.org/operator/alice"));
        let failure = failure_of(&folder(&unused, &alice.identity_pem(ca.certificate_pem()))).await;
        let shown = failure.report();
        let expected = format!("shorepass: cannot reach the issuer at {unused}");
        assert!(shown.starts_with(&expected) && shown.contains("\n  because: "), "{shown}");
        assert_eq!(failure.exit_code(), 4);
    }

    fn args(config: Option<&Path>) -> OperatorArgs {
        OperatorArgs { config: config.map(Path::to_owned), output: Format::Table }
    }

    #[test]
    fn a_name_is_a_runner_of_the_configured_trust_domain() {
        let trust_domain = TrustDomain::parse("ci.example.org").unwrap();
        let named = Runner::Named(Name::parse("prod-1").unwrap());
        assert_eq!(caller(&trust_domain, &named), "spiffe://ci.example.org/runner/prod-1");
        let whole = "spiffe://other.example.org/platform/builder";
        assert_eq!(caller(&trust_domain, &Runner::Caller(SpiffeId::parse(whole).unwrap())), whole);
    }

    #[test]
    fn the_config_is_a_file_or_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        assert_eq!(config_file(&args(Some(folder.path()))).unwrap(), file);
        assert_eq!(config_file(&args(Some(&file))).unwrap(), file);
    }

    #[test]
    fn without_a_config_the_remedy_is_to_name_one() {
        for config in [None, Some(Path::new(""))] {
            let failure = config_file(&args(config)).unwrap_err();
            assert!(failure.report().contains("SHOREPASS_CONFIG"));
            assert_eq!(failure.exit_code(), 2);
        }
    }

    #[test]
    fn a_config_that_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let failure = Operator::new(&args(Some(folder.path()))).map(|_| ()).unwrap_err();
        assert!(failure.report().contains("config.yaml cannot be read"), "{}", failure.report());
        assert_eq!(failure.exit_code(), 2);
    }

    #[test]
    fn an_identity_that_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let config = "apiVersion: shorepass.dev/v1\nkind: ClientConfig\nspec:\n  trustDomain: d\n  \
                      issuer: {name: main, api: \"127.0.0.1:1\"}\n  identityFile: identity.pem\n";
        std::fs::write(folder.path().join("config.yaml"), config).unwrap();
        let failure = Operator::new(&args(Some(folder.path()))).map(|_| ()).unwrap_err();
        assert!(matches!(&failure, Failure::NoIdentity(path) if path.ends_with("identity.pem")));
        assert!(failure.report().contains("shorepass-issuer identity create"));
    }
}
