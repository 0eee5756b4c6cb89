//! What every handshake has in common: provider, version, application protocol, clock.
//!
//! The provider is named instead of installed as the process default: another library of the same process may bring
//! its own.

use std::fmt;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{DigitallySignedStruct, SupportedProtocolVersion};
use shorepass_core::time::Clock;

/// TLS 1.3 and nothing older.
pub(crate) const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// HTTP/2 and nothing else (RFC 9113, section 3.2).
pub(crate) const PROTOCOL: &[u8] = b"h2";

/// aws-lc-rs with X25519MLKEM768 first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// What signatures of certificates and handshakes may be made with.
pub(crate) fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// Checks a handshake's signature by the certificate's key.
pub(crate) fn verify_handshake(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms())
}

/// What a verifier answers when it is asked about TLS 1.2, which is not spoken.
pub(crate) fn old_version() -> rustls::Error {
    rustls::Error::General("BugOldVersion: a TLS 1.2 handshake got as far as a signature".to_owned())
}

/// Our clock, for rustls.
pub(crate) struct WallTime(pub(crate) Arc<dyn Clock>);

impl fmt::Debug for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallTime")
    }
}

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

/// Carries what a verifier found out of the handshake; one for each connection.
#[derive(Debug)]
pub(crate) struct Finding<T>(Arc<Mutex<Option<T>>>);

impl<T> Finding<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    /// Another handle to the same finding.
    pub(crate) fn handle(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    pub(crate) fn set(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Why a chain of certificates does not verify.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct ChainError(pub(crate) rustls::Error);

/// The rustls error inside an I/O error.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use rustls::NamedGroup;

    use super::*;

    #[test]
    fn the_hybrid_key_exchange_comes_first() {
        assert_eq!(provider().kx_groups[0].name(), NamedGroup::X25519MLKEM768);
    }
}
