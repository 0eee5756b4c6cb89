//! What lets no machine in, besides join tokens.

use anyhow::{Context, Result};
use integration_tests::ci_system::CiSystem;
use integration_tests::client::{self, refused, runner_id};
use integration_tests::issuer::TRUST_DOMAIN;
use integration_tests::site::CLUSTER;
use serde_json::{Value, json};
use shorepass_proto::v1;
use shorepass_rpc::client::ClientError;
use shorepass_tls::{KeyAndRequest, authority_digest};

use super::stage::{MACHINES, Stage};

impl Stage {
    /// What a machine is told that shows this, with a name and a key.
    async fn refused_machine(&self, shown: v1::EnrollRequest) -> Result<ClientError> {
        let key = KeyAndRequest::generate(&runner_id(TRUST_DOMAIN, "test-machine")?)?;
        let request = v1::EnrollRequest {
            name: "test-machine".to_owned(),
            certificate_request_pem: key.request_pem,
            ..shown
        };
        refused(self.machine(request).await?)
    }

    async fn machine(&self, request: v1::EnrollRequest) -> Result<Result<v1::EnrollResponse, ClientError>> {
        let ca = std::fs::read(self.issuer.state().join("ca.pem"))?;
        client::enroll_by(&self.issuer, authority_digest(&ca).context("no CA")?, request).await
    }
}

/// Tokens for somebody else, and pods of a cluster that nobody trusts; what only the cluster can refuse is in `pods`.
pub(super) async fn rejected_pods(stage: &Stage) -> Result<Vec<ClientError>> {
    let token = stage.site.place.token_of("deployer").await?;
    let mut errors = Vec::new();
    for (cluster, token) in [(CLUSTER, "a.b.c".to_owned()), (CLUSTER, token.clone()), ("other", token)] {
        let shown = v1::EnrollRequest {
            service_account_token: token,
            cluster: cluster.to_owned(),
            ..Default::default()
        };
        errors.push(stage.refused_machine(shown).await?);
    }
    Ok(errors)
}

fn token(of: &CiSystem, changes: Value) -> Result<String> {
    let mut claims = json!({"sub": "vm-1", "aud": MACHINES});
    for (name, value) in changes.as_object().context("changes are an object")? {
        claims[name] = value.clone();
    }
    of.token(claims)
}

fn shown(oidc_token: String) -> v1::EnrollRequest {
    v1::EnrollRequest { oidc_token, ..Default::default() }
}

/// Tokens for somebody else, of somebody whom nobody trusts, and of others than the rules let in.
pub(super) async fn rejected_machines(stage: &Stage) -> Result<Vec<ClientError>> {
    let mut errors = Vec::new();
    for changes in [
        json!({"aud": "https://shorepass.test/jobs"}),
        json!({"iss": "https://other.test"}),
        json!({"sub": "vm-2"}),
    ] {
        errors.push(stage.refused_machine(shown(token(&stage.gitlab, changes)?)).await?);
    }
    Ok(errors)
}

pub(super) async fn used_machine_token(stage: &Stage) -> Result<Vec<ClientError>> {
    let token = token(&stage.gitlab, json!({}))?;
    let request = v1::EnrollRequest {
        name: "test-vm".to_owned(),
        certificate_request_pem: KeyAndRequest::generate(&runner_id(TRUST_DOMAIN, "test-vm")?)?.request_pem,
        ..shown(token.clone())
    };
    stage.machine(request).await?.context("its first use")?;
    Ok(vec![stage.refused_machine(shown(token)).await?])
}

/// One whose keys were never seen.
pub(super) async fn unreachable_machine_issuer(stage: &Stage) -> Result<Vec<ClientError>> {
    Ok(vec![stage.refused_machine(shown(token(&stage.down, json!({}))?)).await?])
}
