//! PEM (RFC 7468): certificates in and out.
//!
//! Only the sections that are asked for are read; text around them is skipped, as everywhere.

use data_encoding::BASE64;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Why a text is not a list of certificates.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// A section is broken.
    #[error("a PEM section is broken")]
    Broken(#[source] rustls::pki_types::pem::Error),
    /// There is none.
    #[error("there is no certificate in it")]
    Empty,
    /// It cannot be trusted because it cannot be read.
    #[error("a certificate in it is malformed")]
    Malformed(#[source] rustls::Error),
}

/// All certificates, at least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(PemError::Broken)?;
    if certificates.is_empty() { Err(PemError::Empty) } else { Ok(certificates) }
}

/// All certificates as trust anchors.
pub(crate) fn anchors<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> Result<RootCertStore, PemError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate.clone()).map_err(PemError::Malformed)?;
    }
    if store.is_empty() { Err(PemError::Empty) } else { Ok(store) }
}

/// A section of that label.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    // 48 bytes make the 64 characters of a line.
    for line in der.chunks(48) {
        BASE64.encode_append(line, &mut text);
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// A certificate's section.
pub(crate) fn certificate(der: &[u8]) -> String {
    encode("CERTIFICATE", der)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_parses_back() {
        for length in [1, 47, 48, 49, 500] {
            let der = vec![7; length];
            let parsed = certificates(certificate(&der).as_bytes()).unwrap();
            assert_eq!(parsed, [CertificateDer::from(der)]);
        }
    }

    #[test]
    fn nothing_and_broken_sections_are_told_apart() {
        assert!(matches!(certificates(b"nothing"), Err(PemError::Empty)));
        assert!(matches!(certificates(b"-----BEGIN CERTIFICATE-----\n!\n"), Err(PemError::Broken(_))));
    }
}
