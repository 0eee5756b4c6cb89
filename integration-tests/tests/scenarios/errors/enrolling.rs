//! What lets no machine in, besides join tokens.

use anyhow::{Context, Result};
use integration_tests::client::{self, refused, runner_id};
use integration_tests::issuer::TRUST_DOMAIN;
use integration_tests::site::CLUSTER;
use shorepass_proto::v1;
use shorepass_rpc::client::ClientError;
use shorepass_tls::{KeyAndRequest, authority_digest};

use super::stage::Stage;

impl Stage {
    /// What a machine is told that shows this, with a name and a key.
    async fn refused_machine(&self, shown: v1::EnrollRequest) -> Result<ClientError> {
        let ca = std::fs::read(self.issuer.state().join("ca.pem"))?;
        let key = KeyAndRequest::generate(&runner_id(TRUST_DOMAIN, "test-machine")?)?;
        let request = v1::EnrollRequest {
            name: "test-machine".to_owned(),
            certificate_request_pem: key.request_pem,
            ..shown
        };
        refused(client::enroll_by(&self.issuer, authority_digest(&ca).context("no CA")?, request).await?)
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
