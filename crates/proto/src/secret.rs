//! `Debug` for messages that hold a secret: everything but the secret.
//!
//! A message that comes to hold a secret is added here and to `SECRET` in `build.rs`.

use std::fmt;

use crate::{local, v1};

struct Redacted;

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl fmt::Debug for v1::Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("token", &Redacted)
            .field("token_id", &self.token_id)
            .field("valid_for", &self.valid_for)
            .field("expires_at", &self.expires_at)
            .field("cluster", &self.cluster)
            .finish()
    }
}

impl fmt::Debug for v1::OidcToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OidcToken").field("token", &Redacted).finish()
    }
}

impl fmt::Debug for v1::EnrollRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrollRequest")
            .field("join_token", &Redacted)
            .field("service_account_token", &Redacted)
            .field("cluster", &self.cluster)
            .field("oidc_token", &Redacted)
            .field("name", &self.name)
            .field("certificate_request_pem", &self.certificate_request_pem.len())
            .finish()
    }
}

impl fmt::Debug for v1::CreateJoinTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateJoinTokenResponse")
            .field("join_token", &Redacted)
            .field("expires_at", &self.expires_at)
            .field("labels", &self.labels)
            .finish()
    }
}

impl fmt::Debug for local::v1::CredentialResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialResponse")
            .field("token", &Redacted)
            .field("valid_for", &self.valid_for)
            .finish()
    }
}

impl fmt::Debug for local::v1::StartJobRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartJobRequest").field("job", &self.job).field("job_token", &Redacted).finish()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;
    use prost_types::field_descriptor_proto::Type;

    use super::*;

    /// The fields that hold a secret: `message.field`.
    const SECRET_FIELDS: [&str; 8] = [
        "StartJobRequest.job_token",
        "Credential.token",
        "OidcToken.token",
        "EnrollRequest.join_token",
        "EnrollRequest.service_account_token",
        "EnrollRequest.oidc_token",
        "CreateJoinTokenResponse.join_token",
        "CredentialResponse.token",
    ];

    #[test]
    fn messages_with_a_secret_do_not_print_it() {
        let secret = "hunter2-hunter2".to_owned();
        let credential = v1::Credential { token: secret.clone(), ..Default::default() };
        let shown = [
            format!("{:?}", v1::IssueResponse { lease: None, credential: Some(credential.clone()) }),
            format!("{:?}", v1::RefreshResponse { lease: None, credential: Some(credential) }),
            format!("{:?}", v1::EnrollRequest { join_token: secret.clone(), ..Default::default() }),
            format!(
                "{:?}",
                v1::EnrollRequest { service_account_token: secret.clone(), ..Default::default() }
            ),
            format!("{:?}", v1::EnrollRequest { oidc_token: secret.clone(), ..Default::default() }),
            format!("{:?}", local::v1::StartJobRequest { job_token: secret.clone(), ..Default::default() }),
            format!("{:?}", v1::OidcToken { token: secret.clone() }),
            format!("{:?}", v1::CreateJoinTokenResponse { join_token: secret.clone(), ..Default::default() }),
            format!("{:?}", local::v1::CredentialResponse { token: secret.clone(), ..Default::default() }),
        ];
        for text in shown {
            assert!(text.contains("redacted") && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn every_field_named_like_a_secret_is_listed() {
        let set = FileDescriptorSet::decode(crate::DESCRIPTORS).unwrap();
        let suspicious = ["token", "secret", "password", "private", "key", "credential", "bearer"];
        let harmless = ["page_token", "next_page_token", "token_id", "token_lifetime", "join_token_digest"];
        let mut found = Vec::new();
        for file in set.file.iter().filter(|file| file.package().starts_with("shorepass.")) {
            for message in &file.message_type {
                for field in &message.field {
                    let texty = matches!(field.r#type(), Type::String | Type::Bytes);
                    let named = suspicious.iter().any(|word| field.name().contains(word));
                    let digest = field.name().ends_with("_digest");
                    if texty && named && !digest && !harmless.contains(&field.name()) {
                        found.push(format!("{}.{}", message.name(), field.name()));
                    }
                }
            }
        }
        found.sort();
        let mut listed = SECRET_FIELDS.map(str::to_owned).to_vec();
        listed.sort();
        assert_eq!(
            found, listed,
            "a field named like a secret must be redacted here and in build.rs, or renamed"
        );
    }
}
