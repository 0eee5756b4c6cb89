//! Tests of the embedded CA: its files, and what it refuses to sign.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::stored::{AUTHORITY_LIFETIME, CERTIFICATE_FILE, KEY_FILE};
use super::*;
use crate::file::FileError;
use crate::fixture::{TestEntropy, enrolment, issuer, now, runner, trust_domain};

mod outside;
mod rotation;

const HOUR: Duration = Duration::from_secs(3600);

fn open(directory: &Path) -> Result<Authority, AuthorityError> {
    Authority::open_or_create(directory, &trust_domain(), now(), Arc::new(TestEntropy::default()))
}

fn created() -> (tempfile::TempDir, Authority) {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path()).unwrap();
    (directory, authority)
}

/// Of the CA that signs.
fn certificate(authority: &Authority) -> CertificateDer<'static> {
    authority.trusted().remove(0)
}

fn request(id: &SpiffeId) -> CertificateRequest {
    CertificateRequest::parse(&KeyAndRequest::generate(id).unwrap().request_pem).unwrap()
}

#[test]
fn the_first_start_makes_private_files_and_the_next_one_opens_them() {
    let (directory, first) = created();
    for name in [KEY_FILE, CERTIFICATE_FILE] {
        assert_eq!(fs::metadata(directory.path().join(name)).unwrap().mode() & 0o777, 0o600);
    }
    let second = open(directory.path()).unwrap();
    assert_eq!(second.key_digest(), first.key_digest());
    assert_eq!(second.bundle_pem(), first.bundle_pem());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

#[test]
fn the_ca_certificate_is_for_signing_leaves_of_one_trust_domain() {
    let (_directory, authority) = created();
    let der = certificate(&authority);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let constraints = certificate.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && !usage.digital_signature());
    assert_eq!(stored::Stated::read(&der).unwrap().trust_domain.as_deref(), Some("ci.example.org"));
    assert_eq!(leaf::authority_key(&der), Some(authority.key_digest()));
}

#[test]
fn a_key_that_others_may_read_stops_the_start_with_the_remedy() {
    let (directory, _) = created();
    let key = directory.path().join(KEY_FILE);
    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(error.to_string().ends_with(&format!("chmod 600 {}", key.display())), "{error}");
}

#[test]
fn a_directory_that_takes_no_files_stops_the_start_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let error = open(&directory.path().join("missing")).unwrap_err();
    assert!(matches!(error, AuthorityError::File(FileError::Write { .. })));
    assert!(error.to_string().contains("missing/ca.key"), "{error}");
}

#[test]
fn key_and_certificate_of_different_cas_stop_the_start() {
    let ((one, _), (other, _)) = (created(), created());
    fs::copy(other.path().join(KEY_FILE), one.path().join(KEY_FILE)).unwrap();
    let error = open(one.path()).unwrap_err();
    assert!(matches!(error, AuthorityError::Mismatch { .. }));
    assert!(error.to_string().contains("ca.key") && error.to_string().contains("ca.pem"));
}

#[test]
fn a_missing_key_is_never_replaced() {
    let (directory, _) = created();
    fs::remove_file(directory.path().join(KEY_FILE)).unwrap();
    assert!(matches!(open(directory.path()), Err(AuthorityError::KeyMissing { .. })));
    assert!(!directory.path().join(KEY_FILE).exists());
}

#[test]
fn a_missing_certificate_is_made_anew_from_the_key() {
    let (directory, before) = created();
    let identity = before.create_identity(&runner(), enrolment(), HOUR, now()).unwrap();
    fs::remove_file(directory.path().join(CERTIFICATE_FILE)).unwrap();
    let after = open(directory.path()).unwrap();
    assert_eq!(after.key_digest(), before.key_digest());
    let subject = |authority: &Authority| {
        let der = certificate(authority);
        X509Certificate::from_der(&der).unwrap().1.subject().as_raw().to_vec()
    };
    assert_eq!(subject(&after), subject(&before), "what was signed before still leads to it");
    assert_eq!(identity.spiffe_id(), &runner());
}

#[test]
fn another_trust_domains_ca_stops_the_start() {
    let (directory, _) = created();
    let other = TrustDomain::parse("other.example.org").unwrap();
    let error = Authority::open_or_create(directory.path(), &other, now(), Arc::new(TestEntropy::default()));
    let message = error.unwrap_err().to_string();
    assert!(message.contains("ci.example.org") && message.contains("other.example.org"), "{message}");
}

#[test]
fn damaged_and_expired_files_stop_the_start() {
    let (directory, _) = created();
    let later = after(now(), AUTHORITY_LIFETIME);
    let opened =
        Authority::open_or_create(directory.path(), &trust_domain(), later, Arc::new(TestEntropy::default()));
    assert!(matches!(opened, Err(AuthorityError::Expired { .. })));
    fs::write(directory.path().join(CERTIFICATE_FILE), "nothing").unwrap();
    assert!(matches!(open(directory.path()), Err(AuthorityError::Certificate { .. })));
    fs::write(directory.path().join(KEY_FILE), "nothing").unwrap();
    assert!(matches!(open(directory.path()), Err(AuthorityError::Key { .. })));
}

#[test]
fn a_client_certificate_has_the_decided_name_the_requested_key_and_a_short_life() {
    let (_directory, authority) = created();
    let request = request(&runner());
    let signed = authority.sign_client(&request, &runner(), enrolment(), HOUR, now()).unwrap();
    let der = pem::certificates(&signed.chain_pem).unwrap();
    let (leaf, named) = leaf::client(&der[0]).unwrap();
    assert_eq!((der.len(), leaf.spiffe_id, named, leaf.key), (1, runner(), enrolment(), request.key()));
    assert_eq!(leaf.not_before, now() - BACKDATED);
    assert_eq!((signed.expires, leaf.expires), (now() + HOUR, now() + HOUR));
    assert_eq!(signed.certificate, Digest::of_bytes(&der[0]));
    let (_, certificate) = X509Certificate::from_der(&der[0]).unwrap();
    let ca = self::certificate(&authority);
    let (_, ca) = X509Certificate::from_der(&ca).unwrap();
    certificate.verify_signature(Some(ca.public_key())).unwrap();
    assert!(certificate.key_usage().unwrap().unwrap().value.digital_signature());
}

#[test]
fn serial_numbers_differ() {
    let (_directory, authority) = created();
    let request = request(&runner());
    let serial = || {
        let signed = authority.sign_client(&request, &runner(), enrolment(), HOUR, now()).unwrap();
        let der = pem::certificates(&signed.chain_pem).unwrap();
        X509Certificate::from_der(&der[0]).unwrap().1.raw_serial().to_vec()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn nothing_lives_longer_than_a_day() {
    let (_directory, authority) = created();
    let long = MAX_LIFETIME + Duration::from_secs(1);
    let client =
        |lifetime| authority.sign_client(&request(&runner()), &runner(), enrolment(), lifetime, now());
    assert!(client(MAX_LIFETIME).is_ok());
    assert!(matches!(client(long), Err(SignError::Lifetime(_))));
    let serving = authority.serving(&issuer(), &[], &[], long, now());
    assert!(matches!(serving, Err(SignError::Lifetime(_))));
}

#[test]
fn names_that_are_not_its_to_give_are_refused() {
    let (_directory, authority) = created();
    let foreign = SpiffeId::parse("spiffe://other.example.org/runner/prod-1").unwrap();
    for id in [foreign, issuer()] {
        let signed = authority.sign_client(&request(&id), &id, enrolment(), HOUR, now());
        assert!(matches!(signed, Err(SignError::Id { .. })), "{id}");
    }
    let other = SpiffeId::parse("spiffe://ci.example.org/operator/prod-1").unwrap();
    let signed = authority.sign_client(&request(&runner()), &other, enrolment(), HOUR, now());
    assert!(matches!(signed, Err(SignError::OtherRequest { .. })));
    assert!(matches!(authority.serving(&runner(), &[], &[], HOUR, now()), Err(SignError::Id { .. })));
}

#[test]
fn a_serving_identity_has_the_id_the_names_and_the_ca_in_its_chain() {
    let (_directory, authority) = created();
    let names = ["issuer.example.org".to_owned()];
    let serving = authority.serving(&issuer(), &names, &["127.0.0.1".parse().unwrap()], HOUR, now()).unwrap();
    assert_eq!(serving.spiffe_id(), &issuer());
    assert_eq!(serving.expires(), now() + HOUR);
    for bad in ["", "*.example.org", "a b", "ä.example.org"] {
        let made = authority.serving(&issuer(), &[bad.to_owned()], &[], HOUR, now());
        assert!(matches!(made, Err(SignError::DnsName(_))), "{bad:?}");
    }
}
