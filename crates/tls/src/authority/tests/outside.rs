//! A CA that another one has signed, as an operator puts it into the directory; its chain is made by openssl.

use shorepass_testing::openssl::{Leaf, OpensslCa};

use super::*;
use crate::file::replace_private;

/// The root, and what is in the files.
struct Place {
    root: OpensslCa,
    intermediate: OpensslCa,
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let root = OpensslCa::root("corporate root", now());
        let intermediate = root.intermediate("shorepass CA", "");
        let place = Self { root, intermediate, directory: tempfile::tempdir().unwrap() };
        place.put(KEY_FILE, &place.intermediate.key_pem());
        place.put(CERTIFICATE_FILE, &place.chain());
        place
    }

    fn chain(&self) -> String {
        format!("{}{}", self.intermediate.certificate_pem(), self.root.certificate_pem())
    }

    fn put(&self, name: &str, text: &str) {
        replace_private(&self.directory.path().join(name), text.as_bytes()).unwrap();
    }

    fn open(&self) -> Result<Authority, AuthorityError> {
        open(self.directory.path())
    }
}

#[test]
fn an_intermediate_of_an_outside_ca_signs_and_is_what_is_trusted_and_pinned() {
    let place = Place::new();
    let authority = place.open().unwrap();
    let intermediate = pem::certificates(place.intermediate.certificate_pem().as_bytes()).unwrap().remove(0);
    assert_eq!(authority.trusted(), std::slice::from_ref(&intermediate), "the root vouches for others too");
    assert!(authority.is_pinned_by(leaf::authority_key(&intermediate).unwrap()));
    let identity = authority.create_identity(&runner(), enrolment(), HOUR, now()).unwrap();
    let stored = Identity::parse(identity.expose().as_bytes()).unwrap();
    assert_eq!(stored.bundle_pem(), authority.bundle_pem());
    assert_eq!(stored.certificate_pem(), identity.certificate_pem());
    assert_eq!(authority.view.load().served.len(), 2, "all up to the root");
}

#[test]
fn nothing_outlives_the_ca_or_one_above_it() {
    let authority = Place::new().open().unwrap();
    let identity = authority.create_identity(&runner(), enrolment(), MAX_LIFETIME, now()).unwrap();
    assert_eq!(identity.expires(), after(now(), HOUR));
}

#[test]
fn a_chain_that_leads_nowhere_stops_the_start_and_is_told_with_its_place() {
    let place = Place::new();
    let other = OpensslCa::root("corporate root", now());
    let (ours, root) = (place.intermediate.certificate_pem(), place.root.certificate_pem());
    let names = ["URI:spiffe://ci.example.org/issuer/main"];
    let leaf = place.root.leaf(&Leaf { names: &names, ..Leaf::default() });
    for (chain, number) in [
        (format!("{ours}{}", other.certificate_pem()), 2),
        (format!("{ours}{ours}"), 2),
        (format!("{ours}{root}{}", other.certificate_pem()), 3),
        (format!("{ours}{}", leaf.certificate_pem), 2),
    ] {
        place.put(CERTIFICATE_FILE, &chain);
        let error = place.open().unwrap_err();
        assert!(matches!(error, AuthorityError::Chain { number: found, .. } if found == number), "{error}");
    }
    place.put(CERTIFICATE_FILE, &format!("{root}{ours}"));
    assert!(matches!(place.open(), Err(AuthorityError::Mismatch { .. })));
    place.put(KEY_FILE, &leaf.key_pem);
    place.put(CERTIFICATE_FILE, &leaf.certificate_pem);
    assert!(matches!(place.open(), Err(AuthorityError::Certificate { .. })), "no CA's");
}

#[test]
fn a_certificate_that_is_renewed_is_taken_up_and_a_bad_one_is_not() {
    let place = Place::new();
    let authority = place.open().unwrap();
    place.put(CERTIFICATE_FILE, place.intermediate.certificate_pem());
    assert_eq!(authority.refresh(now()).unwrap(), Some(Phase::Settled));
    assert_eq!(authority.view.load().served.len(), 1);
    place.put(CERTIFICATE_FILE, "nothing");
    assert!(authority.refresh(now()).is_err());
    assert_eq!(authority.view.load().served.len(), 1);
}
