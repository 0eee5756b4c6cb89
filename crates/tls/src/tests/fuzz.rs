//! Certificates and their names that nobody thought of. `PROPTEST_CASES` says how many.

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use shorepass_core::caller::SpiffeId;

use crate::fixture::{enrolment, runner};
use crate::leaf;

static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().unwrap());

/// What somebody may do to one place of a certificate.
#[derive(Clone, Debug)]
enum Change {
    Put(u8),
    Insert(u8),
    Remove,
}

fn changes() -> impl Strategy<Value = Vec<(Index, Change)>> {
    let change = prop_oneof![
        any::<u8>().prop_map(Change::Put),
        any::<u8>().prop_map(Change::Insert),
        Just(Change::Remove),
    ];
    vec((any::<Index>(), change), 1..5)
}

fn changed(bytes: &[u8], changes: &[(Index, Change)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (place, change) in changes.iter().filter(|_| !bytes.is_empty()).cloned().collect::<Vec<_>>() {
        let place = place.index(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
        match change {
            Change::Put(byte) => bytes[place] = byte,
            Change::Insert(byte) => bytes.insert(place, byte),
            Change::Remove => drop(bytes.remove(place)),
        }
    }
    bytes
}

/// A name in a certificate: of what kind, and what it says.
fn name() -> impl Strategy<Value = (u8, String)> {
    let ours = select(vec![
        "spiffe://ci.example.org/runner/prod-1",
        "spiffe://ci.example.org/operator/alice",
        "spiffe://CI.example.org/runner/prod-1",
        "spiffe://ci.example.org/runner/prod-1/",
        "spiffe://ci.example.org//runner/prod-1",
        "spiffe://ci.example.org/runner/../operator/alice",
        "spiffe://ci.example.org/runner/prod%2d1",
        "spiffe://ci.example.org/runner/prod-1?x=1",
        "spiffe://ci.example.org:443/runner/prod-1",
        "spiffe://u@ci.example.org/runner/prod-1",
        "spiffe://ci.example.org/issuer/main",
        "https://ci.example.org/runner/prod-1",
    ]);
    let text = prop_oneof![
        ours.prop_map(str::to_owned),
        "[ -~]{0,40}",
        "spiffe://[a-z.]{0,9}/[a-z]{0,9}/[-a-z0-9.]{0,9}"
    ];
    (0..4_u8, text)
}

fn certificate(names: &[(u8, String)]) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, enrolment().to_string());
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = names
        .iter()
        .filter_map(|(kind, text)| {
            let text = text.as_str().try_into().ok()?;
            Some(match kind {
                0 | 1 => SanType::URI(text),
                2 => SanType::DnsName(text),
                _ => SanType::Rfc822Name(text),
            })
        })
        .collect();
    params.self_signed(&*KEY).unwrap().der().clone()
}

proptest! {
    #[test]
    fn a_certificate_has_one_name_which_is_a_spiffe_id_of_ours_or_is_nobodys(names in vec(name(), 0..4)) {
        let der = certificate(&names);
        let uris: Vec<&String> = names.iter().filter(|(kind, _)| *kind < 2).map(|(_, text)| text).collect();
        let own = match uris[..] {
            [uri] => SpiffeId::parse(uri).ok().filter(|id| id.to_string() == *uri),
            _ => None,
        };
        match leaf::client(&der) {
            Ok((leaf, named)) => {
                prop_assert_eq!(Some(&leaf.spiffe_id), own.as_ref());
                prop_assert_eq!(named, enrolment());
                prop_assert_eq!(names.len(), 1, "another name besides: {:?}", names);
            }
            Err(_) => prop_assert!(own.is_none() || names.len() > 1, "{:?}", names),
        }
        match leaf::outside_client(&der) {
            Ok(leaf) => prop_assert_eq!(Some(&leaf.spiffe_id), own.as_ref()),
            Err(_) => prop_assert!(own.is_none(), "{:?}", names),
        }
    }

    #[test]
    fn a_certificate_that_was_changed_is_read_or_refused(changes in changes()) {
        let der = certificate(&[(0, runner().to_string())]);
        let changed = CertificateDer::from(changed(&der, &changes));
        let _ = leaf::client(&changed);
        let _ = leaf::outside_client(&changed);
        let _ = leaf::server(&changed);
        prop_assert!(leaf::trust_domains(&changed).len() <= 1);
    }
}
