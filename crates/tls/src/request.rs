//! Certificate requests (PKCS #10, RFC 2986): the runner makes one, the issuer reads it.
//!
//! Nothing of a request is copied into a certificate but the public key; the name in it is only compared. It is given
//! out even when it is of another trust domain, so that the issuer can say so in its own words.

use rcgen::{CertificateParams, DistinguishedName, SanType};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use shorepass_core::caller::{SpiffeId, SpiffeIdError};
use shorepass_core::digest::Digest;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, SubjectAlternativeName};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256, OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::prelude::FromDer;

use crate::key::{KeyError, PrivateKey};

/// A request is about 500 bytes; work before authentication is bounded.
pub const REQUEST_LIMIT: usize = 8 * 1024;

/// A fresh key and the request that goes with it.
pub struct KeyAndRequest {
    /// The key; it stays on this machine.
    pub key: PrivateKey,
    /// The request, PEM.
    pub request_pem: Vec<u8>,
}

impl KeyAndRequest {
    /// Makes both for this SPIFFE ID.
    pub fn generate(spiffe_id: &SpiffeId) -> Result<Self, KeyError> {
        let key = PrivateKey::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = spiffe_id.to_string().try_into().expect("a SPIFFE ID of our form is ASCII");
        params.subject_alt_names = vec![SanType::URI(uri)];
        let request = params.serialize_request(key.pair()).map_err(KeyError::Generate)?;
        let request_pem = crate::pem::encode("CERTIFICATE REQUEST", request.der()).into_bytes();
        Ok(Self { key, request_pem })
    }
}

/// A well-formed request whose sender holds the private key.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    spiffe_id: SpiffeId,
    public_key: Vec<u8>,
}

/// Why a text is not a request that can be signed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Longer than [`REQUEST_LIMIT`].
    #[error("the certificate request is {0} bytes long; the limit is 8 KiB")]
    TooLong(usize),
    /// Not a request.
    #[error("it is not a PKCS #10 certificate request in PEM")]
    Encoding,
    /// A key of another kind.
    #[error("the certificate request is not for a P-256 key signed with ECDSA and SHA-256")]
    Key,
    /// The sender does not hold the key.
    #[error("the certificate request is not signed by its own key")]
    Signature,
    /// No SPIFFE ID, more than one, or other names besides it.
    #[error("the certificate request must have exactly one name, the SPIFFE ID as URI")]
    Names,
    /// Not one of our SPIFFE IDs.
    #[error("the name in the certificate request is not one of ours")]
    Id(#[source] SpiffeIdError),
}

impl CertificateRequest {
    /// Parses and checks what a peer sent.
    pub fn parse(pem: &[u8]) -> Result<Self, RequestError> {
        if pem.len() > REQUEST_LIMIT {
            return Err(RequestError::TooLong(pem.len()));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|_| RequestError::Encoding)?;
        let Ok(([], request)) = X509CertificationRequest::from_der(&der) else {
            return Err(RequestError::Encoding);
        };
        check_key(&request)?;
        request.verify_signature().map_err(|_| RequestError::Signature)?;
        let spiffe_id = SpiffeId::parse(only_uri(&request)?).map_err(RequestError::Id)?;
        let public_key = request.certification_request_info.subject_pki.raw.to_vec();
        Ok(Self { spiffe_id, public_key })
    }

    /// Whose it claims to be; perhaps of another trust domain.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER).
    pub fn key(&self) -> Digest {
        Digest::of_bytes(&self.public_key)
    }

    /// The public key (SubjectPublicKeyInfo, DER).
    pub(crate) fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

fn check_key(request: &X509CertificationRequest<'_>) -> Result<(), RequestError> {
    let algorithm = &request.certification_request_info.subject_pki.algorithm;
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let fits = algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve == Some(OID_EC_P256)
        && request.signature_algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA256;
    if fits { Ok(()) } else { Err(RequestError::Key) }
}

fn only_uri<'a>(request: &'a X509CertificationRequest<'_>) -> Result<&'a str, RequestError> {
    let mut names = Vec::new();
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else { continue };
        for extension in &requested.extensions {
            if extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME {
                match SubjectAlternativeName::from_der(extension.value) {
                    Ok(([], found)) => names.extend(found.general_names),
                    Ok(_) | Err(_) => return Err(RequestError::Names),
                }
            }
        }
    }
    match names[..] {
        [GeneralName::URI(uri)] => Ok(uri),
        _ => Err(RequestError::Names),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;
    use crate::fixture::runner;

    const ID: &str = "spiffe://ci.example.org/runner/prod-1";

    fn request(key: &KeyPair, names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.serialize_request(key).unwrap().pem().unwrap().into_bytes()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn what_a_runner_makes_the_issuer_reads() {
        let made = KeyAndRequest::generate(&runner()).unwrap();
        let parsed = CertificateRequest::parse(&made.request_pem).unwrap();
        assert_eq!(parsed.spiffe_id(), &runner());
        assert_eq!(parsed.key(), made.key.digest());
    }

    #[test]
    fn another_trust_domain_is_read_for_the_issuer_to_refuse() {
        let id = SpiffeId::parse("spiffe://elsewhere/runner/prod-1").unwrap();
        let made = KeyAndRequest::generate(&id).unwrap();
        assert_eq!(CertificateRequest::parse(&made.request_pem).unwrap().spiffe_id(), &id);
    }

    #[test]
    fn other_keys_are_refused() {
        for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let parsed = CertificateRequest::parse(&request(&key, vec![uri(ID)]));
            assert!(matches!(parsed, Err(RequestError::Key)));
        }
    }

    #[test]
    fn anything_but_one_spiffe_id_is_refused() {
        let key = KeyPair::generate().unwrap();
        let dns = SanType::DnsName("a.example.org".try_into().unwrap());
        for names in [vec![], vec![uri(ID), uri(ID)], vec![uri(ID), dns.clone()], vec![dns]] {
            let parsed = CertificateRequest::parse(&request(&key, names));
            assert!(matches!(parsed, Err(RequestError::Names)));
        }
        for other in
            ["https://ci.example.org/", "spiffe://ci.example.org/runner/*", "spiffe://ci.example.org/admin/a"]
        {
            let parsed = CertificateRequest::parse(&request(&key, vec![uri(other)]));
            assert!(matches!(parsed, Err(RequestError::Id(_))), "{other}");
        }
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let der = |key: &KeyPair| {
            let pem = request(key, vec![uri(ID)]);
            CertificateSigningRequestDer::from_pem_slice(&pem).unwrap().to_vec()
        };
        let (mine, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut forged = der(&mine);
        let at = forged.windows(65).position(|window| window == mine.public_key_raw()).unwrap();
        forged[at..at + 65].copy_from_slice(theirs.public_key_raw());
        let pem = crate::pem::encode("CERTIFICATE REQUEST", &forged);
        assert!(matches!(CertificateRequest::parse(pem.as_bytes()), Err(RequestError::Signature)));
    }

    #[test]
    fn what_is_too_long_or_no_request_is_refused() {
        let long = vec![b'a'; REQUEST_LIMIT + 1];
        assert!(matches!(CertificateRequest::parse(&long), Err(RequestError::TooLong(8193))));
        let mut trailing = KeyAndRequest::generate(&runner()).unwrap().request_pem;
        let der = CertificateSigningRequestDer::from_pem_slice(&trailing).unwrap().to_vec();
        trailing = crate::pem::encode("CERTIFICATE REQUEST", &[der, vec![0]].concat()).into_bytes();
        for bad in [b"".as_slice(), b"nothing", &trailing, crate::pem::certificate(b"x").as_bytes()] {
            assert!(matches!(CertificateRequest::parse(bad), Err(RequestError::Encoding)));
        }
    }
}
