//! A join token, shown once.
//!
//! Its JSON is put together by hand: nothing that holds a secret can be serialized in passing.

use shorepass_core::labels::Labels;
use shorepass_core::time::Timestamp;
use shorepass_proto::v1;
use zeroize::Zeroizing;

use super::{API_VERSION, Incomplete, time, to_the_second};

/// A join token. It has no `Debug`.
pub(crate) struct JoinToken {
    text: Zeroizing<String>,
    expires: Timestamp,
    labels: Labels,
}

impl JoinToken {
    /// From the wire.
    pub(crate) fn of(mut created: v1::CreateJoinTokenResponse) -> Result<Self, Incomplete> {
        let text = Zeroizing::new(std::mem::take(&mut created.join_token));
        let well_formed = !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
        if !well_formed {
            return Err(Incomplete("a join token that this version knows"));
        }
        let expires = time(created.expires_at).ok_or(Incomplete("the join token's expiry"))?;
        let labels = std::mem::take(&mut created.labels).into_iter().map(|label| (label.name, label.value));
        let labels = Labels::new(labels).map_err(|_| Incomplete("labels that this version knows"))?;
        Ok(Self { text, expires, labels })
    }

    /// The token and a line break, so that it can be piped.
    pub(crate) fn line(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}\n", self.text.as_str()))
    }

    /// When it ends, for the person who pipes it.
    pub(crate) fn expiry(&self) -> String {
        let until = to_the_second(Some(self.expires));
        let labels = if self.labels.is_empty() {
            String::new()
        } else {
            format!(", and gives the labels {}", self.labels)
        };
        format!("shorepass: this join token can be used once, until {until}{labels}\n")
    }

    /// For programs. No text needs escaping.
    pub(crate) fn document(&self) -> Zeroizing<String> {
        let text = self.text.as_str();
        let expires = self.expires;
        let label = |(name, value): (&str, &str)| format!("\"{name}\": \"{value}\"");
        let labels = self.labels.iter().map(label).collect::<Vec<_>>().join(", ");
        Zeroizing::new(format!(
            "{{\n  \"apiVersion\": \"{API_VERSION}\",\n  \"kind\": \"JoinToken\",\n  \"joinToken\": \"{text}\",\n  \
             \"expiresAt\": \"{expires}\",\n  \"labels\": {{{labels}}}\n}}\n"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples::at;

    fn created(join_token: &str) -> Result<JoinToken, Incomplete> {
        JoinToken::of(v1::CreateJoinTokenResponse {
            join_token: join_token.to_owned(),
            expires_at: at(3_600),
            labels: [("env", "prod"), ("pool", "a")]
                .map(|(name, value)| v1::Label { name: name.to_owned(), value: value.to_owned() })
                .into(),
        })
    }

    #[test]
    fn the_token_stands_alone_in_its_line() {
        let token = created("spjt1.a-b_c.d.e").unwrap();
        assert_eq!(*token.line(), "spjt1.a-b_c.d.e\n");
        assert!(!token.expiry().contains("spjt1"));
        assert!(token.expiry().ends_with("gives the labels env=prod,pool=a\n"), "{}", token.expiry());
    }

    #[test]
    fn programs_get_token_expiry_and_labels() {
        let document: serde_json::Value =
            serde_json::from_str(&created("spjt1.a.b.c").unwrap().document()).unwrap();
        let expected = serde_json::json!({
            "apiVersion": "shorepass.dev/v1", "kind": "JoinToken",
            "joinToken": "spjt1.a.b.c", "expiresAt": "2026-09-21T15:13:20.25Z",
            "labels": {"env": "prod", "pool": "a"},
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn a_text_that_needs_escaping_is_no_join_token() {
        for bad in ["", "a\"b", "a\nb", "a b"] {
            assert!(created(bad).is_err(), "{bad:?}");
        }
    }
}
