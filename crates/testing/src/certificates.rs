//! Certificates for tests: good ones, and one of every kind that must be refused.
//!
//! It shares no code with the crate that issues and verifies real ones, so that a mistake there cannot hide here.
//! Everything panics on failure: a test that cannot make its certificate has nothing to say.
#![allow(clippy::unwrap_used, reason = "only tests use this")]

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use shorepass_core::caller::{Kind, SpiffeId};
use shorepass_core::id::EnrolmentId;
use shorepass_core::name::TrustDomain;
use shorepass_core::time::Timestamp;
use time::OffsetDateTime;

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its private key, PKCS #8, PEM.
    pub key_pem: String,
}

impl Pair {
    /// Key, certificate and bundle in one text, as an identity file has them.
    pub fn identity_pem(&self, bundle_pem: &str) -> String {
        format!("{}{}{bundle_pem}", self.key_pem, self.certificate_pem)
    }
}

/// Whom a certificate is for, and around which moment it is valid.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its URI name.
    pub spiffe_id: SpiffeId,
    /// Its common name.
    pub enrolment: EnrolmentId,
    /// Good certificates are valid from a minute before to an hour after it.
    pub now: Timestamp,
}

/// What is wrong with a client certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ended an hour ago.
    Expired,
    /// It begins in an hour.
    NotYetValid,
    /// Another CA signed it, with the same name and trust domain.
    OtherAuthority,
    /// Its own key signed it.
    SelfSigned,
    /// It is a CA's certificate.
    Authority,
    /// It has two SPIFFE IDs.
    TwoIds,
    /// It has no name at all.
    NoId,
    /// Its SPIFFE ID is of another trust domain.
    OtherTrustDomain,
    /// Its SPIFFE ID has `*` for a name.
    WildcardId,
    /// It has a DNS name besides its SPIFFE ID.
    DnsName,
    /// It has a wildcard DNS name besides its SPIFFE ID.
    WildcardDnsName,
    /// It is for servers only.
    ServerUsage,
    /// It is for servers and clients.
    BothUsages,
    /// It does not say what it is for.
    NoUsage,
    /// Its SPIFFE ID is an issuer's.
    IssuerKind,
    /// It names no enrolment.
    NoEnrolment,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Expired,
        Self::NotYetValid,
        Self::OtherAuthority,
        Self::SelfSigned,
        Self::Authority,
        Self::TwoIds,
        Self::NoId,
        Self::OtherTrustDomain,
        Self::WildcardId,
        Self::DnsName,
        Self::WildcardDnsName,
        Self::ServerUsage,
        Self::BothUsages,
        Self::NoUsage,
        Self::IssuerKind,
        Self::NoEnrolment,
    ];
}

/// A certificate authority that signs whatever a test asks for.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    key_pem: String,
}

impl TestCa {
    /// A new one, shaped as the embedded CA.
    pub fn new(trust_domain: &TrustDomain) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("test CA");
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate_pem = params.self_signed(&key).unwrap().pem();
        let key_pem = key.serialize_pem();
        Self { issuer: Issuer::new(params, key), certificate_pem, key_pem }
    }

    /// One whose key stands on disk: the embedded CA of an issuer under test.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Self {
        let key = KeyPair::from_pem(key_pem).unwrap();
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key).unwrap();
        Self { issuer, certificate_pem: certificate_pem.to_owned(), key_pem: key_pem.to_owned() }
    }

    /// Its certificate, PEM: the trust bundle of those who trust it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its private key, PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A good client certificate.
    pub fn client(&self, subject: &Subject) -> Pair {
        self.sign(&leaf(subject, ExtendedKeyUsagePurpose::ClientAuth))
    }

    /// A good server certificate, with `localhost` for a DNS name.
    pub fn server(&self, subject: &Subject) -> Pair {
        let mut params = leaf(subject, ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names.push(dns("localhost"));
        self.sign(&params)
    }

    /// A client certificate with this fault and no other.
    pub fn faulty(&self, fault: Fault, subject: &Subject) -> Pair {
        let id = &subject.spiffe_id;
        let mut params = leaf(subject, ExtendedKeyUsagePurpose::ClientAuth);
        match fault {
            Fault::Expired => {
                params.not_before = moment(subject.now, -7200);
                params.not_after = moment(subject.now, -3600);
            }
            Fault::NotYetValid => {
                params.not_before = moment(subject.now, 3600);
                params.not_after = moment(subject.now, 7200);
            }
            Fault::OtherAuthority => return Self::new(&id.trust_domain).sign(&params),
            Fault::SelfSigned => return self_signed(&params),
            Fault::Authority => params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
            Fault::TwoIds => params.subject_alt_names.push(uri(&format!("{id}-2"))),
            Fault::NoId => params.subject_alt_names.clear(),
            Fault::OtherTrustDomain => {
                params.subject_alt_names =
                    vec![uri(&format!("spiffe://other.example.org/{}/{}", id.kind, id.name))];
            }
            Fault::WildcardId => {
                params.subject_alt_names = vec![uri(&format!("spiffe://{}/{}/*", id.trust_domain, id.kind))];
            }
            Fault::DnsName => params.subject_alt_names.push(dns("runner.example.org")),
            Fault::WildcardDnsName => params.subject_alt_names.push(dns("*.example.org")),
            Fault::ServerUsage => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            Fault::BothUsages => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
            Fault::NoUsage => params.extended_key_usages.clear(),
            Fault::IssuerKind => {
                let issuer = SpiffeId { kind: Kind::Issuer, ..id.clone() };
                params.subject_alt_names = vec![uri(&issuer.to_string())];
            }
            Fault::NoEnrolment => params.distinguished_name = common_name("somebody"),
        }
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }
}

fn self_signed(params: &CertificateParams) -> Pair {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Pair { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
}

fn leaf(subject: &Subject, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = moment(subject.now, -60);
    params.not_after = moment(subject.now, 3600);
    params.distinguished_name = common_name(&subject.enrolment.to_string());
    params.subject_alt_names = vec![uri(&subject.spiffe_id.to_string())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params
}

fn moment(now: Timestamp, offset: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(now.as_second() + offset).unwrap()
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}
