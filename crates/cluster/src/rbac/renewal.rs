//! What a cluster has to grant an issuer that renews its own token, and how the policy holds that: nothing of it is printed
//! for one that does not.

use serde_json::json;
use shorepass_core::lease::AnchorName;
use shorepass_core::name::Name;
use shorepass_core::role::Role;

use super::{Audiences, IssuerIdentity, RenderError, fill, render_with};
use crate::names;
use crate::own::{OWN_LIFE, OwnAccount};

const RENEWAL: &str = include_str!("../../../../deploy/kubernetes/renewal.yaml");
/// The lines that enclose, in the policy, what is only for an issuer that renews its own token.
const BEGIN: &str = "# ${IF_RENEWED}";
const END: &str = "# ${END}";

/// As [`super::render`], for an issuer that renews its own token.
pub fn render_renewing(
    roles: &[Role],
    cluster: &Name,
    own: &OwnAccount,
    issuer: &Name,
    audiences: &Audiences,
) -> Result<String, RenderError> {
    if AnchorName::parse(own.secret.as_str()).is_some() {
        return Err(RenderError::RenewSecret(own.secret.clone()));
    }
    let (namespace, name) = (own.namespace.clone(), own.service_account.clone());
    let identity = IssuerIdentity::ServiceAccount { namespace, name };
    render_with(roles, cluster, &identity, Some(own), issuer, audiences)
}

/// The right to tokens of its own ServiceAccount.
pub(super) fn rights(own: &OwnAccount, issuer: &Name, subject: &str) -> String {
    let rights = json!(format!("{}-renewal", names::policy_name(issuer))).to_string();
    fill_own(&fill(RENEWAL, &[("RENEWAL", &rights), ("SUBJECT", subject)]), own)
}

/// The template of the policy, with or without what is for such an issuer.
pub(super) fn policy(template: &str, own: Option<&OwnAccount>) -> String {
    let (mut text, mut conditional) = (String::new(), false);
    for line in template.lines() {
        match line.trim() {
            BEGIN => conditional = true,
            END => conditional = false,
            _ if conditional && own.is_none() => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    match own {
        Some(own) => fill_own(&text, own),
        None => text,
    }
}

fn fill_own(text: &str, own: &OwnAccount) -> String {
    let quoted = |name: &Name| json!(name).to_string();
    let values = [
        ("ISSUER_NAMESPACE", quoted(&own.namespace)),
        ("ISSUER_SERVICE_ACCOUNT", quoted(&own.service_account)),
        ("OWN_SECRET", quoted(&own.secret)),
        ("OWN_LIFE", OWN_LIFE.as_secs().to_string()),
    ];
    fill(text, &values.each_ref().map(|(key, value)| (*key, value.as_str())))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{audiences, name, roles, service_account};
    use super::*;

    fn own(secret: &str) -> OwnAccount {
        OwnAccount { namespace: name("shorepass"), service_account: name("issuer"), secret: name(secret) }
    }

    fn renewing(secret: &str) -> Result<String, RenderError> {
        render_renewing(&roles(), &name("staging"), &own(secret), &name("main"), &audiences(&[]).unwrap())
    }

    #[test]
    fn nothing_but_the_renewal_is_added_to_the_usual_output() {
        let usual = audiences(&[]).unwrap();
        let without =
            super::super::render(&roles(), &name("staging"), &service_account(), &name("main"), &usual)
                .unwrap();
        let with = renewing("own").unwrap();
        let mut rest = with.lines();
        for line in without.lines() {
            assert!(rest.any(|other| other == line), "it is missing, or elsewhere: {line}");
        }
        assert!(
            !without.contains("variables.renews")
                && !without.contains("-renewal")
                && !without.contains("IF_")
                && !with.contains("${")
        );
        let added: Vec<&str> = with.lines().filter(|line| line.contains("verbs: [")).collect();
        let usual: Vec<&str> = without.lines().filter(|line| line.contains("verbs: [")).collect();
        assert_eq!(added.len(), usual.len() + 1);
    }

    #[test]
    fn the_right_is_to_its_own_service_account_and_the_policy_names_secret_and_life() {
        let output = renewing("own").unwrap();
        let rule = "resources: [serviceaccounts/token]\n    resourceNames: [\"issuer\"]\n    verbs: [create]";
        assert_eq!(output.matches(rule).count(), 1, "{output}");
        for part in [
            r#"request.namespace == "shorepass" && request.name == "issuer""#,
            r#"object.spec.boundObjectRef.name == "own""#,
            "object.spec.expirationSeconds <= 86400",
        ] {
            assert!(output.contains(part), "{part}\n{output}");
        }
    }

    #[test]
    fn nobody_makes_a_token_of_the_issuer_that_the_kill_switch_does_not_end() {
        let given = r#""shorepass": ["issuer"]"#;
        assert!(renewing("own").unwrap().contains(given));
    }

    #[test]
    fn a_secret_that_the_issuer_could_make_is_refused() {
        let lease = format!("shorepass-{}", "a".repeat(26));
        assert_eq!(renewing(&lease), Err(RenderError::RenewSecret(name(&lease))));
    }
}
