//! What the trust bundles of a config may say, and what is said where they may not.

use std::path::Path;

use super::super::{KIND, issuer_config};
use crate::{IssuerConfig, envelope};

const ISSUER: &str = include_str!("../../../../../deploy/examples/issuer.yaml");
const BUNDLE: &str = "
    - name: partner
      trustDomain: partner.example.org
      file: partner.pem
      kinds: [platform, runner]
      pathPrefixes: [/platform/portal, /runner/]
";

/// The example with these trust bundles.
fn read(bundles: &str) -> Result<IssuerConfig, String> {
    let from = ISSUER.find("  trustBundles:").unwrap();
    let to = from + ISSUER[from..].find("  roles:").unwrap();
    let text = format!("{}  trustBundles:{bundles}{}", &ISSUER[..from], &ISSUER[to..]);
    envelope::parse(Path::new("/etc/shorepass/issuer.yaml"), &text, KIND, issuer_config)
        .map_err(|errors| errors.to_string())
}

#[test]
fn a_bundle_is_for_a_trust_domain_kinds_and_prefixes() {
    let config = read(BUNDLE).unwrap();
    let [partner] = config.trust_bundles.as_slice() else { panic!("{:?}", config.trust_bundles) };
    assert_eq!(partner.file, Path::new("/etc/shorepass/partner.pem"));
    let domains: Vec<String> = config.trust_domains().iter().map(ToString::to_string).collect();
    assert_eq!(domains, ["ci.example.org", "partner.example.org"]);
}

#[test]
fn what_lets_in_nobody_or_too_many_is_told_at_its_place() {
    let twice = format!("{BUNDLE}{}", BUNDLE.replace("name: partner", "name: other"));
    let renamed = format!("{BUNDLE}{}", BUNDLE.replace("trustDomain: partner", "trustDomain: other"));
    for (bundles, said) in [
        (
            BUNDLE.replace("partner.example.org", "ci.example.org"),
            "spec.trustBundles[0].trustDomain: is the issuer's own",
        ),
        (twice, "spec.trustBundles[1]: a trust bundle of this name or trust domain stands here already"),
        (renamed, "spec.trustBundles[1]: a trust bundle of this name or trust domain stands here already"),
        (BUNDLE.replace("runner]", "issuer]"), "spec.trustBundles[0].kinds: an issuer's certificate"),
        (BUNDLE.replace("runner]", "admin]"), "spec.trustBundles[0].kinds[1]: \"admin\" is not known"),
        (BUNDLE.replace("[platform, runner]", "[]"), "name at least one kind"),
        (
            BUNDLE.replace("platform, ", ""),
            "spec.trustBundles[0].pathPrefixes: /platform/portal names nobody",
        ),
        (BUNDLE.replace(", /runner/", ""), "spec.trustBundles[0].pathPrefixes: no runner is let in"),
        (
            BUNDLE.replace("/runner/", "/runner/*"),
            "spec.trustBundles[0].pathPrefixes[1]: \"/runner/*\" is not a path prefix",
        ),
        (BUNDLE.replace("      file: partner.pem\n", ""), "spec.trustBundles[0].file: this key is missing"),
        (BUNDLE.replace("kinds:", "kind:"), "did you mean `kinds`?"),
    ] {
        let told = read(&bundles).unwrap_err();
        assert!(told.contains(said), "{said}\n{told}");
    }
}
