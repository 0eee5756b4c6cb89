//! What an end-entity certificate says, read in one place.
//!
//! Verifiers, the CA and identity files all use this reading, so none of them can see another name in the same bytes.
//! It checks no signature and no time. It is strict about purpose: a certificate is for clients or for servers, never
//! for both, so that a runner's certificate can never stand for the issuer.

use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use shorepass_core::caller::{SpiffeId, SpiffeIdError};
use shorepass_core::digest::Digest;
use shorepass_core::id::{EnrolmentId, IdError};
use shorepass_core::name::TrustDomain;
use shorepass_core::time::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, SubjectAlternativeName};
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

/// What is common to client and server certificates.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    /// Its only URI name.
    pub(crate) spiffe_id: SpiffeId,
    /// When it begins.
    pub(crate) not_before: Timestamp,
    /// When it ends.
    pub(crate) expires: Timestamp,
    /// SHA-256 of it, DER.
    pub(crate) certificate: Digest,
    /// SHA-256 of its public key (SubjectPublicKeyInfo, DER).
    pub(crate) key: Digest,
}

/// Why a certificate is not one of ours.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// Not DER of an X.509 certificate, or extensions that contradict each other.
    #[error("the certificate is malformed")]
    Encoding,
    /// A CA's certificate where a peer's is expected.
    #[error("the certificate is a CA's, not a peer's")]
    Authority,
    /// No SPIFFE ID, or more than one.
    #[error("the certificate has {0} URI names; it must have exactly one, the SPIFFE ID")]
    Ids(usize),
    /// Something that is not one of our SPIFFE IDs.
    #[error("the certificate's URI name is not one of ours")]
    Id(#[source] SpiffeIdError),
    /// A DNS name, an address or another name, where only a SPIFFE ID may be.
    #[error("the certificate has other names besides its SPIFFE ID")]
    OtherNames,
    /// A purpose that is missing, another or one too many.
    #[error("the certificate's extended key usage is not exactly {0}")]
    Purpose(&'static str),
    /// Of another PKI, and not for clients.
    #[error("the certificate's extended key usage does not have clientAuth")]
    NoClient,
    /// No enrolment in the common name.
    #[error("the certificate's common name is not exactly one enrolment id")]
    Enrolment(#[source] Option<IdError>),
}

impl LeafError {
    /// The error that makes rustls send the alert that fits.
    pub(crate) fn to_rustls(&self) -> CertificateError {
        match self {
            Self::Encoding | Self::Ids(_) | Self::Id(_) | Self::OtherNames | Self::Enrolment(_) => {
                CertificateError::BadEncoding
            }
            Self::Purpose(_) | Self::NoClient | Self::Authority => CertificateError::InvalidPurpose,
        }
    }
}

/// Reads a client's certificate.
pub(crate) fn client(der: &CertificateDer<'_>) -> Result<(Leaf, EnrolmentId), LeafError> {
    let certificate = parse(der)?;
    let names = Names::of(&certificate)?;
    if names.dns_or_address || names.other {
        return Err(LeafError::OtherNames);
    }
    if !usage(&certificate, |usage| usage.client_auth && !usage.server_auth)? {
        return Err(LeafError::Purpose("clientAuth"));
    }
    Ok((leaf(der, &certificate, names.spiffe_id)?, enrolment(&certificate)?))
}

/// Reads a client's certificate that another PKI has made. It may have DNS names and addresses besides its SPIFFE ID and be for
/// servers too (X509-SVID, sections 2 and 4.4), which is nothing here: nobody takes it for the issuer's.
pub(crate) fn outside_client(der: &CertificateDer<'_>) -> Result<Leaf, LeafError> {
    let certificate = parse(der)?;
    let signs = certificate.key_usage().map_err(|_| LeafError::Encoding)?;
    if signs.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign()) {
        return Err(LeafError::Authority);
    }
    let names = Names::of(&certificate)?;
    let usage = certificate.extended_key_usage().map_err(|_| LeafError::Encoding)?;
    if !usage.is_some_and(|usage| usage.value.client_auth) {
        return Err(LeafError::NoClient);
    }
    leaf(der, &certificate, names.spiffe_id)
}

/// The trust domains of all URI names, whatever else the certificate says.
pub(crate) fn trust_domains(der: &CertificateDer<'_>) -> Vec<TrustDomain> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let domain = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => {
            let rest = uri.strip_prefix("spiffe://")?;
            TrustDomain::parse(rest.split_once('/').map_or(rest, |(domain, _)| domain)).ok()
        }
        _ => None,
    };
    names.value.general_names.iter().filter_map(domain).collect()
}

/// Reads a server's certificate. Its DNS names and addresses are for clients that are not ours.
pub(crate) fn server(der: &CertificateDer<'_>) -> Result<Leaf, LeafError> {
    let certificate = parse(der)?;
    let names = Names::of(&certificate)?;
    if names.other {
        return Err(LeafError::OtherNames);
    }
    if !usage(&certificate, |usage| usage.server_auth && !usage.client_auth)? {
        return Err(LeafError::Purpose("serverAuth"));
    }
    leaf(der, &certificate, names.spiffe_id)
}

/// SHA-256 of the public key of a CA's certificate; `None` when it is not one.
pub(crate) fn authority_key(der: &CertificateDer<'_>) -> Option<Digest> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    certificate.is_ca().then(|| Digest::of_bytes(certificate.public_key().raw))
}

/// Whether its time is over; also of what cannot be read.
pub(crate) fn has_ended(der: &CertificateDer<'_>, now: Timestamp) -> bool {
    let ends = |certificate: &X509Certificate<'_>| timestamp(certificate.validity().not_after).ok();
    let ends = X509Certificate::from_der(der).ok().and_then(|(_, certificate)| ends(&certificate));
    ends.is_none_or(|end| end <= now)
}

/// Whether it is a CA's certificate that names itself as its issuer.
pub(crate) fn is_root(der: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
        certificate.is_ca() && certificate.subject().as_raw() == certificate.issuer().as_raw()
    })
}

/// Seconds since the epoch as a timestamp.
pub(crate) fn timestamp(time: ASN1Time) -> Result<Timestamp, LeafError> {
    Timestamp::from_second(time.timestamp()).map_err(|_| LeafError::Encoding)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, LeafError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) if certificate.is_ca() => Err(LeafError::Authority),
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(LeafError::Encoding),
    }
}

fn leaf(
    der: &CertificateDer<'_>,
    certificate: &X509Certificate<'_>,
    spiffe_id: SpiffeId,
) -> Result<Leaf, LeafError> {
    let validity = certificate.validity();
    Ok(Leaf {
        spiffe_id,
        not_before: timestamp(validity.not_before)?,
        expires: timestamp(validity.not_after)?,
        certificate: Digest::of_bytes(der),
        key: Digest::of_bytes(certificate.public_key().raw),
    })
}

struct Names {
    spiffe_id: SpiffeId,
    dns_or_address: bool,
    other: bool,
}

impl Names {
    fn of(certificate: &X509Certificate<'_>) -> Result<Self, LeafError> {
        let extension = certificate
            .get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME)
            .map_err(|_| LeafError::Encoding)?;
        // What the library has read already passes over bytes behind the names, and another reader may find names in them.
        let names = match extension.map(|extension| SubjectAlternativeName::from_der(extension.value)) {
            None => Vec::new(),
            Some(Ok(([], names))) => names.general_names,
            Some(Ok(_) | Err(_)) => return Err(LeafError::Encoding),
        };
        let mut uris = Vec::new();
        let (mut dns_or_address, mut other) = (false, false);
        for name in &names {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                GeneralName::DNSName(_) | GeneralName::IPAddress(_) => dns_or_address = true,
                // A URI that is no text, for one: it would not count as the second that it is.
                GeneralName::Invalid(..) => return Err(LeafError::Encoding),
                _ => other = true,
            }
        }
        let [uri] = uris[..] else { return Err(LeafError::Ids(uris.len())) };
        let spiffe_id = SpiffeId::parse(uri).map_err(LeafError::Id)?;
        Ok(Self { spiffe_id, dns_or_address, other })
    }
}

fn usage(
    certificate: &X509Certificate<'_>,
    wanted: impl Fn(&ExtendedKeyUsage<'_>) -> bool,
) -> Result<bool, LeafError> {
    let extension = certificate.extended_key_usage().map_err(|_| LeafError::Encoding)?;
    let Some(usage) = extension.map(|extension| extension.value) else { return Ok(false) };
    let more = usage.any
        || usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing
        || !usage.other.is_empty();
    Ok(wanted(usage) && !more)
}

fn enrolment(certificate: &X509Certificate<'_>) -> Result<EnrolmentId, LeafError> {
    let mut names = certificate.subject().iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else { return Err(LeafError::Enrolment(None)) };
    let text = name.as_str().map_err(|_| LeafError::Enrolment(None))?;
    let enrolment = EnrolmentId::parse(text).map_err(|error| LeafError::Enrolment(Some(error)))?;
    // What stands for a trust bundle names no enrolment, whoever signs it.
    if enrolment.is_of_bundle() { Err(LeafError::Enrolment(None)) } else { Ok(enrolment) }
}
