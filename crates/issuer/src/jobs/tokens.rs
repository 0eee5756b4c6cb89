//! Job tokens: verified here and not taken from the caller's word, used once, and by the runner that they name.

use std::time::Duration;

use shorepass_core::caller::{Caller, Kind};
use shorepass_core::claims::Claim;
use shorepass_core::job::{Job, SpentBy, VerifiedJob};
use shorepass_core::job_issuer::{JobIssuer, RunnerBinding};
use shorepass_core::job_token::{JobToken, JobTokenError};
use shorepass_rpc::refused::{Reason, Refused};

use super::Jobs;
use crate::outside::{Refusing, ledger_refused};

impl Jobs {
    /// What the token says, if this caller may open a session with it, and how long such a session lasts at most.
    pub(super) async fn verify(
        &self,
        caller: &Caller,
        token: &JobToken,
    ) -> Result<(VerifiedJob, Duration), Refused> {
        let now = self.outside.clock.now();
        let verified = match self.outside.job_tokens.verify(token, caller.spiffe_id(), now).await {
            Ok(verified) => verified,
            Err(cause) => {
                return Err(self.refuse_token(caller, token_refused(&cause), explained(cause)).await);
            }
        };
        if let Err(Unfit { told, explanation }) = self.admit(caller, &verified) {
            let refused = Refused::new(Reason::JobTokenRejected, told);
            return Err(self.refuse_token(caller, refused, explanation).await);
        }
        let longest = self.issuer_of(&verified).map_or(Duration::ZERO, JobIssuer::longest_job);
        Ok((verified, longest))
    }

    /// Whether the session was not opened because its token has opened another one.
    pub(super) async fn spent(&self, caller: &Caller, job: &Job) -> Result<Option<Refused>, Refused> {
        let Some(spent) = job.spent_token() else { return Ok(None) };
        let earlier =
            self.outside.ledger.spent_token(spent.replay).map_err(|cause| ledger_refused(&cause))?;
        let Some(earlier) = earlier else { return Ok(None) };
        let explanation = self.use_of(earlier.by)?;
        let refused = Refused::new(
            Reason::JobTokenUsed,
            "this job token has opened a job session already: ask the CI system for a new one for each session, and look \
             who else can read the token if you did not use it",
        );
        Ok(Some(self.refuse_token(caller, refused, explanation).await))
    }

    fn use_of(&self, by: SpentBy) -> Result<String, Refused> {
        Ok(match by {
            SpentBy::Enrolment(enrolment) => format!("it let in enrolment {enrolment}"),
            SpentBy::Job(job) => {
                let opened = self.outside.ledger.job(job).map_err(|cause| ledger_refused(&cause))?;
                let by = opened.map_or_else(|| "somebody".to_owned(), |job| job.owner.spiffe_id.to_string());
                format!("it opened job {job} for {by}")
            }
        })
    }

    fn issuer_of(&self, verified: &VerifiedJob) -> Option<&JobIssuer> {
        self.outside.job_issuers.get(&verified.issuer)
    }

    /// Whether the token is for this runner, as far as it names one; and whether it can be known that it was not used.
    fn admit(&self, caller: &Caller, verified: &VerifiedJob) -> Result<(), Unfit> {
        let security = self.outside.ledger.security();
        if !security.admits(verified.issued) {
            let told = "the issuer has lost its record of which job tokens were used: ask the CI system for a new one";
            return Err(Unfit { told: told.to_owned(), explanation: security.problem().unwrap_or_default() });
        }
        let Some(issuer) = self.issuer_of(verified) else {
            let told = "the issuer does not know the CI system of this token any more; ask its operators";
            let explanation = format!("there is no job issuer {}", verified.issuer);
            return Err(Unfit { told: told.to_owned(), explanation });
        };
        let names_a_runner = !matches!(issuer.runner(), RunnerBinding::FirstUse);
        if names_a_runner && caller.spiffe_id().kind != Kind::Runner {
            let told = format!(
                "job tokens of {} name the runner that they are for, and this is none: start the job on a runner",
                verified.issuer
            );
            return Err(Unfit { told, explanation: format!("{} is no runner", caller.spiffe_id()) });
        }
        match (issuer.runner(), issuer.system().runner_claim()) {
            (RunnerBinding::Label { label }, Some(claim)) => {
                let labels = self.outside.labels_of_owner(&caller.owner());
                let labels = labels.map_err(|cause| Unfit::alike(cause.to_string()))?;
                is_its_runner(labels.get(label), verified, label, claim)
            }
            // The audience names a runner of ours: one of the same name elsewhere is another.
            (RunnerBinding::Audience, _) if !caller.is_own() => {
                let told = format!(
                    "job tokens of {} are for runners that this issuer has enrolled, whose names end their audiences",
                    verified.issuer
                );
                Err(Unfit { told, explanation: format!("{} is of a trust bundle", caller.spiffe_id()) })
            }
            (RunnerBinding::Label { .. } | RunnerBinding::FirstUse | RunnerBinding::Audience, _) => Ok(()),
        }
    }

    async fn refuse_token(&self, caller: &Caller, refused: Refused, explanation: String) -> Refused {
        let caller = Some(caller.spiffe_id());
        self.outside
            .refuse(Refusing { caller, method: "StartJob", subject: "job token", refused, explanation })
            .await
    }
}

/// Why a token that was verified opens no session for this caller.
struct Unfit {
    /// What the caller is told.
    told: String,
    /// What the operator is told.
    explanation: String,
}

impl Unfit {
    fn alike(told: String) -> Self {
        Self { explanation: told.clone(), told }
    }
}

/// Whether the token names this runner.
fn is_its_runner(
    label: Option<&str>,
    verified: &VerifiedJob,
    label_name: &str,
    claim: &str,
) -> Result<(), Unfit> {
    let Some(label) = label else {
        let told = format!(
            "job tokens of {} are bound to their runner, and this one was enrolled without the label {label_name}: enrol it \
             again with a join token that gives it",
            verified.issuer
        );
        return Err(Unfit::alike(told));
    };
    let named = verified.claims.get(claim).map(Claim::plain);
    if named.as_deref() == Some(label) {
        return Ok(());
    }
    let told = format!(
        "this job token was given to a job on another runner: each job uses its own on the runner it runs on, and if it does, \
         the label {label_name} of this one is wrong"
    );
    let named = named.map_or_else(|| "missing".to_owned(), |named| format!("{named:?}"));
    let explanation =
        format!("the token's {claim} is {named}, and the runner's label {label_name} is {label:?}");
    Err(Unfit { told, explanation })
}

fn token_refused(cause: &JobTokenError) -> Refused {
    let told = cause.to_string();
    match cause {
        JobTokenError::Rejected { .. } => Refused::new(Reason::JobTokenRejected, told),
        JobTokenError::Expired(_) => Refused::new(Reason::JobTokenExpired, told),
        JobTokenError::Unavailable { issuer, retry_after, .. } => {
            let message = format!(
                "the key of this token is not among those of job issuer {issuer} that are known, and they cannot be fetched again at the moment; try again later"
            );
            Refused::new(Reason::JobIssuerUnavailable, message).retry(*retry_after)
        }
    }
}

fn explained(cause: JobTokenError) -> String {
    match cause {
        JobTokenError::Rejected { explanation, .. } => explanation,
        JobTokenError::Expired(_) | JobTokenError::Unavailable { .. } => cause.to_string(),
    }
}
