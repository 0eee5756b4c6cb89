//! The document of operators and platforms: where the issuer is, and which identity to show it.
//!
//! Written by `shorepass-issuer identity create` next to the identity, so it is the one document that is also rendered
//! here.

use std::path::{Path, PathBuf};

use shorepass_core::name::{Name, TrustDomain};

use crate::cursor::Cursor;
use crate::envelope;
use crate::error::ConfigErrors;
use crate::scalar::HostPort;

const KIND: &str = "ClientConfig";

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// The trust domain of client and issuer.
    pub trust_domain: TrustDomain,
    /// The issuer's name: only `spiffe://<trust domain>/issuer/<name>` is accepted.
    pub issuer_name: Name,
    /// The issuer's listener for verified peers.
    pub issuer_api: HostPort,
    /// The file with key, certificates and bundle.
    pub identity_file: PathBuf,
}

/// A path that no document can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the path {} has characters that a document cannot hold: use another", .0.display())]
pub struct UnwritablePath(pub PathBuf);

impl ClientConfig {
    /// Reads the file.
    pub fn load(file: &Path) -> Result<Self, ConfigErrors> {
        envelope::load(file, KIND, client_config)
    }

    /// The document. A relative identity file stays relative, and is looked for next to the document.
    pub fn to_yaml(&self) -> Result<String, UnwritablePath> {
        let identity_file = self.identity_file.to_str().filter(|path| !path.chars().any(char::is_control));
        let identity_file = identity_file.ok_or_else(|| UnwritablePath(self.identity_file.clone()))?;
        Ok(format!(
            "apiVersion: {}\nkind: {KIND}\nspec:\n  trustDomain: {}\n  issuer:\n    name: {}\n    api: {}\n  \
             identityFile: {}\n",
            envelope::API_VERSION,
            quoted(self.trust_domain.as_str()),
            quoted(self.issuer_name.as_str()),
            quoted(&self.issuer_api.to_string()),
            quoted(identity_file),
        ))
    }
}

/// In single quotes, where only they mean something (YAML 1.2, 7.3.2).
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn client_config(spec: &Cursor<'_>) -> Option<ClientConfig> {
    let fields = spec.fields(&["trustDomain", "issuer", "identityFile"])?;
    let trust_domain = fields.required("trustDomain", |domain| domain.parsed(TrustDomain::parse));
    let issuer = fields.required("issuer", |issuer| {
        let fields = issuer.fields(&["name", "api"])?;
        let name = fields.required("name", Cursor::name);
        let api = fields.required("api", |api| api.parsed(HostPort::parse));
        Some((name?, api?))
    });
    let identity_file = fields.required("identityFile", Cursor::file_path);
    let (issuer_name, issuer_api) = issuer?;
    Some(ClientConfig { trust_domain: trust_domain?, issuer_name, issuer_api, identity_file: identity_file? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(identity_file: &str) -> ClientConfig {
        ClientConfig {
            trust_domain: TrustDomain::parse("ci.example.org").unwrap(),
            issuer_name: Name::parse("main").unwrap(),
            issuer_api: HostPort::parse("[::1]:8443").unwrap(),
            identity_file: PathBuf::from(identity_file),
        }
    }

    fn read(text: &str) -> Result<ClientConfig, ConfigErrors> {
        envelope::parse(Path::new("/home/alice/shorepass/config.yaml"), text, KIND, client_config)
    }

    #[test]
    fn what_is_written_is_read_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.yaml");
        std::fs::write(&file, config("identity.pem").to_yaml().unwrap()).unwrap();
        let loaded = ClientConfig::load(&file).unwrap();
        assert_eq!(loaded.identity_file, directory.path().join("identity.pem"));
        assert_eq!(loaded.issuer_api, config("x").issuer_api);
    }

    #[test]
    fn a_path_with_a_line_break_is_not_written() {
        assert!(config("/a\nb").to_yaml().is_err());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let text = config("identity.pem").to_yaml().unwrap();
        for (part, exchange, fragments) in [
            ("ClientConfig", "Client", ["config.yaml:2:7", "expected ClientConfig"]),
            ("identityFile", "identity_file", ["spec.identity_file: unknown key", "`identityFile`"]),
            ("'[::1]:8443'", "'::1:8443'", ["config.yaml:7:10: spec.issuer.api", "is not host:port"]),
            ("'[::1]:8443'", "", ["spec.issuer.api", "expected text, found nothing"]),
            ("'ci.example.org'", "CI", ["spec.trustDomain", "is not a trust domain"]),
            ("'identity.pem'", "''", ["spec.identityFile", "found empty text"]),
            ("'identity.pem'", "\"a\\nb\"", ["spec.identityFile", "line breaks"]),
        ] {
            let errors = read(&text.replacen(part, exchange, 1)).unwrap_err().to_string();
            assert!(fragments.iter().all(|fragment| errors.contains(fragment)), "{fragments:?}\n{errors}");
        }
    }

    proptest! {
        #[test]
        fn every_path_that_is_written_is_read_back(path in "/[^\\pC\\u{2028}\\u{2029}]{1,40}") {
            let text = config(&path).to_yaml().unwrap();
            prop_assert_eq!(read(&text).unwrap(), config(&path));
        }
    }
}
