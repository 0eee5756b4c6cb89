//! For whom a role's tokens are.

use super::*;

fn with(audiences: &str) -> String {
    ROLE.replacen("  subjects:", &format!("  audiences: {audiences}\n  subjects:"), 1)
}

#[test]
fn audiences_are_read_and_without_them_it_is_the_api_server() {
    assert_eq!(read(ROLE).unwrap()[0].audiences(), None);
    let named = |text: &str| read(text).unwrap()[0].audiences().map(Audiences::to_vec);
    let both = Some(vec!["https://vault.example.org".to_owned(), "registry".to_owned()]);
    assert_eq!(named(&with("[registry, https://vault.example.org]")), both);
    assert_eq!(named(&with("[vault]\n  dangerouslyUnbound: true")), Some(vec!["vault".to_owned()]));
}

#[test]
fn what_is_wrong_with_audiences_is_named_with_its_place() {
    for (audiences, fragments) in [
        ("[]", ["spec.audiences", "leave the key out"]),
        ("[a, b, c, d, e]", ["spec.audiences", "1 to 4 different"]),
        ("[vault, vault]", ["spec.audiences", "1 to 4 different"]),
        ("[a b]", ["spec.audiences", "\"a b\" is not an audience"]),
        ("['']", ["spec.audiences[0]", "expected text"]),
        ("vault", ["spec.audiences", "expected a list"]),
        ("[[vault]]", ["spec.audiences[0]", "expected text"]),
        ("[vault, kubernetes]", ["spec.audiences", "kubernetes is what API servers call themselves"]),
    ] {
        let errors = read(&with(audiences)).unwrap_err();
        assert_eq!(errors.iter().count(), 1, "{audiences}: {errors}");
        assert!(
            fragments.iter().all(|part| errors.to_string().contains(part)),
            "{fragments:?} not in {errors}"
        );
    }
}

#[test]
fn a_strict_role_has_none_and_is_told_what_to_write() {
    let strict = "strict: {bindings: [{namespace: web, role: deployer}]}";
    let errors = read(&with("[vault]").replacen(TARGET, strict, 1)).unwrap_err().to_string();
    for part in
        ["spec.audiences: is about a target", "name a ServiceAccount with target, or take audiences out"]
    {
        assert!(errors.contains(part), "{part} is not in {errors}");
    }
}
