//! Job sessions and requests.

use shorepass_core::claims::{Claim, Claims};
use shorepass_core::id::{EnrolmentId, JobId, LeaseId, RequestId};
use shorepass_core::job::{AssertedJob, Evidence, Job, SpentBy, SpentToken, VerifiedJob};
use shorepass_core::job_issuer::System;
use shorepass_core::name::Name;
use shorepass_core::request::{Method, Outcome, Request};
use shorepass_proto::store::v1 as stored;

use super::{
    Malformed, Stored, digest, inner, malformed, nanoseconds, optional_time, parse, required, revision, time,
};

impl Stored for Job {
    type Record = stored::Job;

    fn to_record(&self) -> stored::Job {
        stored::Job {
            id: self.id.to_string(),
            owner: Some(self.owner.to_record()),
            evidence: Some(stored_evidence(&self.evidence)),
            started: nanoseconds(self.started),
            latest_end: self.latest_end.map(nanoseconds),
            ended: self.ended.map(nanoseconds),
            revision: self.revision.number(),
        }
    }

    fn from_record(record: stored::Job) -> Result<Self, Malformed> {
        Ok(Self {
            id: parse("id", JobId::parse(&record.id))?,
            owner: inner("owner", record.owner)?,
            evidence: read_evidence(required("evidence", record.evidence)?)?,
            started: time("started", record.started)?,
            latest_end: optional_time("latest_end", record.latest_end)?,
            ended: optional_time("ended", record.ended)?,
            revision: revision(record.revision)?,
        })
    }
}

fn stored_evidence(evidence: &Evidence) -> stored::job::Evidence {
    match evidence {
        Evidence::Asserted(asserted) => stored::job::Evidence::Asserted(stored::AssertedJob {
            system: asserted.system().to_owned(),
            id: asserted.id().to_owned(),
            url: asserted.url().to_owned(),
        }),
        Evidence::Verified(verified) => stored::job::Evidence::Verified(verified.to_record()),
    }
}

fn read_evidence(record: stored::job::Evidence) -> Result<Evidence, Malformed> {
    match record {
        stored::job::Evidence::Asserted(asserted) => {
            let asserted = AssertedJob::new(asserted.system, asserted.id, asserted.url);
            Ok(Evidence::Asserted(parse("evidence", asserted)?))
        }
        stored::job::Evidence::Verified(verified) => {
            VerifiedJob::from_record(verified).map(Evidence::Verified)
        }
    }
}

impl Stored for VerifiedJob {
    type Record = stored::VerifiedJob;

    fn to_record(&self) -> stored::VerifiedJob {
        stored::VerifiedJob {
            issuer: self.issuer.to_string(),
            system: self.system.as_str().to_owned(),
            id: self.id.clone(),
            claims: self.claims.iter().map(|(name, claim)| stored_claim(name, claim)).collect(),
            replay_digest: self.replay.as_bytes().to_vec(),
            issued: nanoseconds(self.issued),
            spent_until: nanoseconds(self.spent_until),
        }
    }

    fn from_record(record: stored::VerifiedJob) -> Result<Self, Malformed> {
        let mut claims = Claims::default();
        for stored::Claim { name, value } in record.claims {
            parse("claims", claims.insert(&name, read_claim(required("value", value)?)))?;
        }
        Ok(Self {
            issuer: parse("issuer", Name::parse(&record.issuer))?,
            system: System::parse(&record.system).ok_or_else(|| malformed("system", "is unknown"))?,
            id: record.id,
            claims,
            replay: digest("replay_digest", &record.replay_digest)?,
            issued: time("issued", record.issued)?,
            spent_until: time("spent_until", record.spent_until)?,
        })
    }
}

fn stored_claim(name: &str, claim: &Claim) -> stored::Claim {
    use stored::claim::Value;
    let value = match claim {
        Claim::Text(text) => Value::Text(text.clone()),
        Claim::Number(number) => Value::Number(*number),
        Claim::Flag(flag) => Value::Flag(*flag),
        Claim::Texts(texts) => Value::Texts(stored::Texts { items: texts.clone() }),
    };
    stored::Claim { name: name.to_owned(), value: Some(value) }
}

fn read_claim(value: stored::claim::Value) -> Claim {
    use stored::claim::Value;
    match value {
        Value::Text(text) => Claim::Text(text),
        Value::Number(number) => Claim::Number(number),
        Value::Flag(flag) => Claim::Flag(flag),
        Value::Texts(texts) => Claim::Texts(texts.items),
    }
}

impl Stored for SpentToken {
    type Record = stored::SpentToken;

    fn to_record(&self) -> stored::SpentToken {
        let (job, enrolment) = match self.by {
            SpentBy::Job(job) => (Some(job), None),
            SpentBy::Enrolment(enrolment) => (None, Some(enrolment)),
        };
        stored::SpentToken {
            replay_digest: self.replay.as_bytes().to_vec(),
            job: job.map(|job| job.to_string()).unwrap_or_default(),
            enrolment: enrolment.map(|enrolment| enrolment.to_string()).unwrap_or_default(),
            until: nanoseconds(self.until),
        }
    }

    fn from_record(record: stored::SpentToken) -> Result<Self, Malformed> {
        Ok(Self {
            replay: digest("replay_digest", &record.replay_digest)?,
            by: match record.enrolment.as_str() {
                "" => SpentBy::Job(parse("job", JobId::parse(&record.job))?),
                enrolment => SpentBy::Enrolment(parse("enrolment", EnrolmentId::parse(enrolment))?),
            },
            until: time("until", record.until)?,
        })
    }
}

impl Stored for Request {
    type Record = stored::Request;

    fn to_record(&self) -> stored::Request {
        use stored::request::Outcome as Stored;
        let outcome = match self.outcome {
            Outcome::Job(job) => Stored::Job(job.to_string()),
            Outcome::Lease(lease) => Stored::Lease(lease.to_string()),
            Outcome::JoinToken(digest) => Stored::JoinTokenDigest(digest.as_bytes().to_vec()),
        };
        stored::Request {
            owner: Some(self.owner.to_record()),
            method: stored_method(self.method).into(),
            id: self.id.to_string(),
            content_digest: self.content.as_bytes().to_vec(),
            outcome: Some(outcome),
            session: self.job.map(|job| job.to_string()).unwrap_or_default(),
        }
    }

    fn from_record(record: stored::Request) -> Result<Self, Malformed> {
        let method = record.method();
        let job = match record.session.as_str() {
            "" => None,
            text => Some(parse("session", JobId::parse(text))?),
        };
        Ok(Self {
            owner: inner("owner", record.owner)?,
            job,
            method: read_method(method)?,
            id: parse("id", RequestId::parse(&record.id))?,
            content: digest("content_digest", &record.content_digest)?,
            outcome: read_outcome(required("outcome", record.outcome)?)?,
        })
    }
}

fn stored_method(method: Method) -> stored::RequestMethod {
    match method {
        Method::StartJob => stored::RequestMethod::StartJob,
        Method::Issue => stored::RequestMethod::Issue,
        Method::CreateJoinToken => stored::RequestMethod::CreateJoinToken,
    }
}

fn read_method(method: stored::RequestMethod) -> Result<Method, Malformed> {
    match method {
        stored::RequestMethod::Unspecified => Err(malformed("method", "is unknown")),
        stored::RequestMethod::StartJob => Ok(Method::StartJob),
        stored::RequestMethod::Issue => Ok(Method::Issue),
        stored::RequestMethod::CreateJoinToken => Ok(Method::CreateJoinToken),
    }
}

fn read_outcome(outcome: stored::request::Outcome) -> Result<Outcome, Malformed> {
    use stored::request::Outcome as Stored;
    Ok(match outcome {
        Stored::Job(job) => Outcome::Job(parse("job", JobId::parse(&job))?),
        Stored::Lease(lease) => Outcome::Lease(parse("lease", LeaseId::parse(&lease))?),
        Stored::JoinTokenDigest(bytes) => Outcome::JoinToken(digest("join_token_digest", &bytes)?),
    })
}
