//! The CA that follows: what holds when, and what a crash leaves.

use super::super::rotation::ROTATION_FILE;
use super::*;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const PLAN: RotationPlan = RotationPlan { announce: HOUR, overlap: WEEK };

fn at(offset: Duration) -> Timestamp {
    after(now(), offset)
}

fn keys(authority: &Authority) -> Vec<Digest> {
    authority.trusted().iter().filter_map(leaf::authority_key).collect()
}

/// The authority of a signature.
fn signed_by(authority: &Authority, when: Timestamp) -> Digest {
    let identity = authority.create_identity(&runner(), enrolment(), Duration::from_secs(60), when).unwrap();
    let trusted = authority.trusted();
    let der = pem::certificates(&identity.certificate_pem()).unwrap().remove(0);
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    let signed = |ca: &&CertificateDer<'static>| {
        let (_, ca) = X509Certificate::from_der(ca).unwrap();
        leaf.verify_signature(Some(ca.public_key())).is_ok()
    };
    leaf::authority_key(trusted.iter().find(signed).unwrap()).unwrap()
}

#[test]
fn the_former_ca_signs_until_the_switch_the_next_one_after_it_and_both_are_trusted_until_the_end() {
    let (directory, authority) = created();
    let former = authority.key_digest();
    let (switch, end) = (at(HOUR), at(HOUR + WEEK));
    assert_eq!(authority.rotate(PLAN, now()).unwrap(), Phase::Announced { switch, end });
    let [_, next] = keys(&authority)[..] else { panic!("two CAs") };
    assert_eq!((authority.key_digest(), signed_by(&authority, now())), (former, former));
    assert_eq!(fs::metadata(directory.path().join(ROTATION_FILE)).unwrap().mode() & 0o777, 0o600);

    assert_eq!(authority.refresh(at(HOUR - Duration::from_secs(1))).unwrap(), None);
    assert_eq!(authority.refresh(switch).unwrap(), Some(Phase::Overlapping { end }));
    assert_eq!(keys(&authority), [next, former]);
    assert_eq!((authority.key_digest(), signed_by(&authority, switch)), (next, next));
    assert!(authority.is_pinned_by(former) && authority.is_pinned_by(next));
    assert_eq!(authority.refresh(at(WEEK)).unwrap(), None);

    assert_eq!(authority.refresh(end).unwrap(), Some(Phase::Settled));
    assert_eq!((keys(&authority), authority.key_digest()), (vec![next], next));
    assert!(!authority.is_pinned_by(former));
    assert!(!directory.path().join(ROTATION_FILE).exists());
    assert_eq!(open(directory.path()).unwrap().key_digest(), next);
}

#[test]
fn whoever_opens_the_directory_sees_the_same_as_whoever_has_it_open() {
    let (directory, authority) = created();
    authority.rotate(PLAN, now()).unwrap();
    for offset in [Duration::ZERO, HOUR, WEEK] {
        authority.refresh(at(offset)).unwrap();
        let opened = Authority::open_or_create(
            directory.path(),
            &trust_domain(),
            at(offset),
            Arc::new(TestEntropy::default()),
        )
        .unwrap();
        assert_eq!(opened.phase(), authority.phase());
        assert_eq!(
            (opened.bundle_pem(), opened.key_digest()),
            (authority.bundle_pem(), authority.key_digest())
        );
    }
}

#[test]
fn a_certificate_of_the_former_ca_is_one_until_the_end() {
    let (_directory, authority) = created();
    let identity = authority.create_identity(&runner(), enrolment(), HOUR, now()).unwrap();
    authority.rotate(PLAN, now()).unwrap();
    for offset in [Duration::ZERO, HOUR] {
        authority.refresh(at(offset)).unwrap();
        assert!(authority.lapsed(&identity.certificate_pem()).is_ok());
    }
    authority.refresh(at(HOUR + WEEK)).unwrap();
    assert!(authority.lapsed(&identity.certificate_pem()).is_err());
}

#[test]
fn whatever_a_crash_leaves_of_the_end_is_ended_by_the_next_look() {
    let end = HOUR + WEEK;
    for (key, certificate, rotation) in [(true, false, false), (true, true, false), (true, true, true)] {
        let (directory, authority) = created();
        authority.rotate(PLAN, now()).unwrap();
        let next = keys(&authority)[1];
        let before = tempfile::tempdir().unwrap();
        let names = [KEY_FILE, CERTIFICATE_FILE, ROTATION_FILE];
        names.iter().for_each(|name| drop(fs::copy(directory.path().join(name), before.path().join(name))));
        authority.refresh(at(end)).unwrap();
        for (name, done) in names.into_iter().zip([key, certificate, rotation]) {
            if !done {
                fs::copy(before.path().join(name), directory.path().join(name)).unwrap();
            }
        }
        // From the switch on the clock may even be set back.
        for offset in [HOUR, end].into_iter().skip(usize::from(rotation)) {
            let opened = Authority::open_or_create(
                directory.path(),
                &trust_domain(),
                at(offset),
                Arc::new(TestEntropy::default()),
            );
            assert_eq!(opened.unwrap().key_digest(), next, "{key} {certificate} {rotation}");
        }
        assert!(!directory.path().join(ROTATION_FILE).exists());
        assert_eq!(open(directory.path()).unwrap().key_digest(), next);
    }
}

#[test]
fn one_rotation_comes_after_the_other() {
    let (_directory, authority) = created();
    authority.rotate(PLAN, now()).unwrap();
    for offset in [Duration::ZERO, HOUR] {
        let refused = authority.rotate(PLAN, at(offset)).unwrap_err();
        assert!(matches!(refused, RotateError::UnderWay(end) if end == at(HOUR + WEEK)), "{refused}");
    }
    assert!(authority.rotate(PLAN, at(HOUR + WEEK)).is_ok());
}

#[test]
fn a_damaged_rotation_changes_nothing_and_is_named() {
    let (directory, authority) = created();
    authority.rotate(PLAN, now()).unwrap();
    let file = directory.path().join(ROTATION_FILE);
    let whole = fs::read_to_string(&file).unwrap();
    let cut = whole.len() - 100;
    for damaged in [
        "",
        "nothing",
        &whole[..cut],
        &whole.replace("switch", "end"),
        &whole.replace("version 1", "version 2"),
    ] {
        fs::write(&file, damaged).unwrap();
        let before = authority.bundle_pem();
        let error = authority.refresh(at(HOUR)).unwrap_err();
        assert!(error.to_string().contains("ca.rotation is not a usable rotation"), "{error}");
        assert_eq!((authority.bundle_pem(), authority.key_digest()), (before, keys(&authority)[0]));
        assert!(open(directory.path()).is_err());
    }
    // Another CA's.
    let (other, _) = created();
    fs::write(&file, &whole).unwrap();
    fs::copy(&file, other.path().join(ROTATION_FILE)).unwrap();
    assert!(matches!(open(other.path()), Err(AuthorityError::Rotation { .. })));
}
