//! How the fake lets runners in, and looks at them.

use super::*;

#[async_trait::async_trait]
impl Enrolments for Fake {
    async fn enroll(&self, enrolling: Enrolling) -> Result<Certificate, Refused> {
        self.act().await?;
        tracing::info!(?enrolling, "enrolled");
        Ok(certificate())
    }

    async fn begin_rejoin(&self, _: Vec<u8>) -> Result<Nonce, Refused> {
        self.act().await?;
        Ok(Nonce { bytes: b"nonce".to_vec(), valid_for: Duration::from_secs(60) })
    }

    async fn rejoin(&self, _: Rejoining) -> Result<Certificate, Refused> {
        self.act().await?;
        Ok(certificate())
    }

    async fn renew(&self, _: &Caller, _: Vec<u8>) -> Result<Certificate, Refused> {
        self.act().await?;
        Ok(certificate())
    }

    async fn admit(&self, caller: &Caller) -> Result<(), Refused> {
        self.check_enrolment(caller)
    }

    fn check_enrolment(&self, _: &Caller) -> Result<(), Refused> {
        self.standing.lock().unwrap().clone()
    }

    async fn refused(&self, caller: Option<&Caller>, method: &'static str, refused: Refused) -> Refused {
        let recorded = (caller.map(Caller::kind), method, refused.reason);
        self.refusals.lock().unwrap().push(recorded);
        refused.decided(DecisionId::parse(ID).unwrap())
    }
}
