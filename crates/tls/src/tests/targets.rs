//! The fuzz targets of what a peer shows before it is known: join tokens, certificate requests, the names in a certificate.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use shorepass_core::caller::SpiffeId;
use shorepass_core::digest::Digest;
use shorepass_testing::seeds::Seeds;

use crate::fixture::enrolment;
use crate::request::{CertificateRequest, REQUEST_LIMIT};
use crate::{JoinTokenText, leaf};

fn corpus(target: &str) -> Seeds {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    Seeds::read(&crates.join("src/tests/__fuzz__").join(target).join("corpus"))
}

/// A file is a token as it is pasted.
#[test]
fn join_tokens() {
    let seeds = corpus("join-tokens");
    let good = |seed: &&[u8]| std::str::from_utf8(seed).is_ok_and(|text| JoinTokenText::parse(text).is_ok());
    assert_eq!(seeds.iter().filter(good).count(), 2, "one, and the same among white space");
    seeds.iter().for_each(check_join_token);
    bolero::check!(name = "join-tokens").with_iterations(20_000).for_each(|input: &[u8]| {
        check_join_token(input);
        check_join_token(&seeds.changed(input));
    });
}

/// As it is, and with a checksum that is right: it protects from mistakes, not from people.
fn check_join_token(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    check_text(&text);
    if let Some((summed, _)) = text.trim_ascii().rsplit_once('.') {
        let digest = Digest::of_bytes(summed.as_bytes());
        check_text(&format!("{summed}.{}", BASE64URL_NOPAD.encode(&digest.as_bytes()[..4])));
    }
}

fn check_text(text: &str) {
    let own = text.trim_ascii();
    match JoinTokenText::parse(text) {
        Ok(read) => {
            assert!(*read.expose() == own, "{text:?} is {}", *read.expose());
            let part = |place| BASE64URL_NOPAD.decode(own.split('.').nth(place).unwrap().as_bytes()).unwrap();
            assert_eq!(read.secret_digest(), Digest::of_bytes(&part(1)), "{text:?}");
            assert_eq!(read.ca().as_bytes().as_slice(), part(2), "{text:?}");
        }
        Err(refused) => assert!(own.len() < 20 || !refused.to_string().contains(own), "{refused}"),
    }
}

/// A file is a request in PEM; its changes are made to the text, and to the DER in it.
#[test]
fn certificate_requests() {
    let seeds = corpus("certificate-requests");
    let known: BTreeSet<(String, Digest)> = seeds.iter().filter_map(request).collect();
    assert_eq!(known.len(), 2, "a runner's, and one of another trust domain");
    let inner = |seed| CertificateSigningRequestDer::from_pem_slice(seed).map(|der| der.to_vec()).ok();
    let inner = Seeds::of(seeds.iter().filter_map(inner).collect());
    let check = |input: &[u8]| {
        if let Some(read) = request(input) {
            assert!(known.contains(&read), "{read:?} by {}", input.escape_ascii());
        }
    };
    bolero::check!(name = "certificate-requests").with_iterations(2_000).for_each(|input: &[u8]| {
        check(input);
        check(&pem(input));
        check(&seeds.changed(input));
        check(&pem(&inner.changed(input)));
    });
}

/// Whose it is and for which key: nobody can change that of a request, because it is signed.
fn request(input: &[u8]) -> Option<(String, Digest)> {
    match CertificateRequest::parse(input) {
        Ok(read) => {
            assert!(input.len() <= REQUEST_LIMIT);
            let name = read.spiffe_id().to_string();
            assert_eq!(SpiffeId::parse(&name).as_ref(), Ok(read.spiffe_id()), "{}", input.escape_ascii());
            Some((name, read.key()))
        }
        Err(refused) => {
            assert!(!refused.to_string().is_empty());
            None
        }
    }
}

fn pem(der: &[u8]) -> Vec<u8> {
    let body = BASE64.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n").into_bytes()
}

/// A file is the value of a subjectAltName extension, DER.
#[test]
fn certificate_names() {
    let seeds = corpus("certificate-names");
    let good = |seed: &&[u8]| leaf::client(&certificate(seed)).is_ok();
    let outside = |seed: &&[u8]| leaf::outside_client(&certificate(seed)).is_ok();
    let known = seeds.iter().filter(good).count();
    assert_eq!(known, 3, "a runner's, an operator's, and one whose length is spelt longer");
    assert!(seeds.iter().filter(outside).count() > known, "with other names besides, too");
    seeds.iter().for_each(check_names);
    bolero::check!(name = "certificate-names").with_iterations(1_000).for_each(|input: &[u8]| {
        check_names(input);
        check_names(&seeds.changed(input));
    });
}

static KEY: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().unwrap());

/// A client's with these names.
fn certificate(names: &[u8]) -> CertificateDer<'static> {
    certificate_for(names, ExtendedKeyUsagePurpose::ClientAuth)
}

fn certificate_for(names: &[u8], purpose: ExtendedKeyUsagePurpose) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, enrolment().to_string());
    params.extended_key_usages = vec![purpose];
    params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names.to_vec())];
    params.self_signed(&*KEY).unwrap().der().clone()
}

/// The numbers of names.
const DNS: u8 = 2;
const URI: u8 = 6;
const ADDRESS: u8 = 7;

fn check_names(input: &[u8]) {
    let client = certificate(input);
    let names = general_names(input);
    let shown = || input.escape_ascii().to_string();
    let only_uri = || {
        let names = names.as_ref().unwrap_or_else(|| panic!("no names: {}", shown()));
        let uris: Vec<&[u8]> = names.iter().filter(|name| name.0 == URI).map(|name| name.1).collect();
        assert_eq!(uris.len(), 1, "{}", shown());
        (String::from_utf8_lossy(uris[0]).into_owned(), names)
    };
    if let Ok((leaf, named)) = leaf::client(&client) {
        let (uri, names) = only_uri();
        assert_eq!((uri, names.len(), named), (leaf.spiffe_id.to_string(), 1, enrolment()), "{}", shown());
    }
    if let Ok(leaf) = leaf::outside_client(&client) {
        assert_eq!(only_uri().0, leaf.spiffe_id.to_string(), "{}", shown());
    }
    let server = certificate_for(input, ExtendedKeyUsagePurpose::ServerAuth);
    if let Ok(leaf) = leaf::server(&server) {
        let (uri, names) = only_uri();
        assert_eq!(uri, leaf.spiffe_id.to_string(), "{}", shown());
        assert!(names.iter().all(|name| [DNS, URI, ADDRESS].contains(&name.0)), "{}", shown());
    }
    for domain in leaf::trust_domains(&client) {
        let uri = format!("spiffe://{domain}");
        assert!(input.windows(uri.len()).any(|part| part == uri.as_bytes()), "{}", shown());
    }
}

/// The names in the value of the extension: number and content.
fn general_names(der: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let (0x10, mut rest, []) = element(der)? else { return None };
    let mut names = Vec::new();
    while !rest.is_empty() {
        let (number, content, behind) = element(rest)?;
        names.push((number, content));
        rest = behind;
    }
    Some(names)
}

/// The number of its tag, content, and what stands behind it. What else a tag says is passed over, as a generous reader would.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x87 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (
                bytes
                    .iter()
                    .try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add((*byte).into()))?,
                rest,
            )
        }
        _ => return None,
    };
    let (content, behind) = rest.split_at_checked(length)?;
    Some((tag & 0x1f, content, behind))
}
