//! Job sessions and requests.

use shorepass_core::id::{JobId, LeaseId, RequestId};
use shorepass_core::job::{AssertedJob, Evidence, Job};
use shorepass_core::request::{Method, Outcome, Request};
use shorepass_proto::store::v1 as stored;

use super::{
    Malformed, Stored, digest, inner, malformed, nanoseconds, optional_time, parse, required, revision, time,
};

impl Stored for Job {
    type Record = stored::Job;

    fn to_record(&self) -> stored::Job {
        let Evidence::Asserted(asserted) = &self.evidence;
        stored::Job {
            id: self.id.to_string(),
            owner: Some(self.owner.to_record()),
            evidence: Some(stored::job::Evidence::Asserted(stored::AssertedJob {
                system: asserted.system().to_owned(),
                id: asserted.id().to_owned(),
                url: asserted.url().to_owned(),
            })),
            started: nanoseconds(self.started),
            latest_end: self.latest_end.map(nanoseconds),
            ended: self.ended.map(nanoseconds),
            revision: self.revision.number(),
        }
    }

    fn from_record(record: stored::Job) -> Result<Self, Malformed> {
        let stored::job::Evidence::Asserted(asserted) = required("evidence", record.evidence)?;
        let asserted = AssertedJob::new(asserted.system, asserted.id, asserted.url);
        Ok(Self {
            id: parse("id", JobId::parse(&record.id))?,
            owner: inner("owner", record.owner)?,
            evidence: Evidence::Asserted(parse("evidence", asserted)?),
            started: time("started", record.started)?,
            latest_end: optional_time("latest_end", record.latest_end)?,
            ended: optional_time("ended", record.ended)?,
            revision: revision(record.revision)?,
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
