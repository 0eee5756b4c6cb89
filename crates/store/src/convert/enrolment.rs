//! Join tokens, enrolments, identities and blocks.

use shorepass_core::block::{Block, Lifted};
use shorepass_core::caller::SpiffeId;
use shorepass_core::enrolment::{Enrolment, JoinToken, Taken};
use shorepass_core::id::{BlockId, EnrolmentId, JobId, LeaseId};
use shorepass_core::identity::CreatedIdentity;
use shorepass_core::labels::Labels;
use shorepass_core::name::{Name, NamePattern};
use shorepass_proto::store::v1 as stored;

use super::{Malformed, Stored, digest, inner, nanoseconds, optional_time, parse, revision, time};

impl Stored for JoinToken {
    type Record = stored::JoinToken;

    fn to_record(&self) -> stored::JoinToken {
        stored::JoinToken {
            digest: self.digest.as_bytes().to_vec(),
            runners: self.runners.to_string(),
            replace: self.replace,
            created: nanoseconds(self.created),
            expires: nanoseconds(self.expires),
            by: self.by.to_string(),
            taken: self.taken.as_ref().map(Stored::to_record),
            revision: self.revision.number(),
            labels: labels(&self.labels),
        }
    }

    fn from_record(record: stored::JoinToken) -> Result<Self, Malformed> {
        Ok(Self {
            digest: digest("digest", &record.digest)?,
            runners: parse("runners", NamePattern::parse(&record.runners))?,
            labels: read_labels(record.labels)?,
            replace: record.replace,
            created: time("created", record.created)?,
            expires: time("expires", record.expires)?,
            by: parse("by", SpiffeId::parse(&record.by))?,
            taken: record.taken.map(Taken::from_record).transpose()?,
            revision: revision(record.revision)?,
        })
    }
}

impl Stored for Taken {
    type Record = stored::Taken;

    fn to_record(&self) -> stored::Taken {
        stored::Taken {
            at: nanoseconds(self.at),
            enrolment: self.enrolment.to_string(),
            public_key_digest: self.key.as_bytes().to_vec(),
        }
    }

    fn from_record(record: stored::Taken) -> Result<Self, Malformed> {
        Ok(Self {
            at: time("taken.at", record.at)?,
            enrolment: parse("taken.enrolment", EnrolmentId::parse(&record.enrolment))?,
            key: digest("taken.public_key_digest", &record.public_key_digest)?,
        })
    }
}

impl Stored for Enrolment {
    type Record = stored::Enrolment;

    fn to_record(&self) -> stored::Enrolment {
        stored::Enrolment {
            id: self.id.to_string(),
            spiffe_id: self.spiffe_id.to_string(),
            public_key_digest: self.key.as_bytes().to_vec(),
            created: nanoseconds(self.created),
            certificate_expires: nanoseconds(self.certificate_expires),
            replaced: self.replaced.map(nanoseconds),
            revision: self.revision.number(),
            labels: labels(&self.labels),
        }
    }

    fn from_record(record: stored::Enrolment) -> Result<Self, Malformed> {
        Ok(Self {
            id: parse("id", EnrolmentId::parse(&record.id))?,
            spiffe_id: parse("spiffe_id", SpiffeId::parse(&record.spiffe_id))?,
            key: digest("public_key_digest", &record.public_key_digest)?,
            labels: read_labels(record.labels)?,
            created: time("created", record.created)?,
            certificate_expires: time("certificate_expires", record.certificate_expires)?,
            replaced: optional_time("replaced", record.replaced)?,
            revision: revision(record.revision)?,
        })
    }
}

fn labels(labels: &Labels) -> Vec<stored::Label> {
    let label =
        |(name, value): (&str, &str)| stored::Label { name: name.to_owned(), value: value.to_owned() };
    labels.iter().map(label).collect()
}

fn read_labels(records: Vec<stored::Label>) -> Result<Labels, Malformed> {
    parse("labels", Labels::new(records.into_iter().map(|label| (label.name, label.value))))
}

impl Stored for CreatedIdentity {
    type Record = stored::Identity;

    fn to_record(&self) -> stored::Identity {
        stored::Identity {
            certificate_digest: self.certificate.as_bytes().to_vec(),
            owner: Some(self.owner.to_record()),
            created: nanoseconds(self.created),
            expires: nanoseconds(self.expires),
            uid: self.uid,
            line_end: self.line_end,
        }
    }

    fn from_record(record: stored::Identity) -> Result<Self, Malformed> {
        Ok(Self {
            certificate: digest("certificate_digest", &record.certificate_digest)?,
            owner: inner("owner", record.owner)?,
            created: time("created", record.created)?,
            expires: time("expires", record.expires)?,
            uid: record.uid,
            line_end: record.line_end,
        })
    }
}

impl Stored for Block {
    type Record = stored::Block;

    fn to_record(&self) -> stored::Block {
        stored::Block {
            id: self.id.to_string(),
            caller: self.caller.to_string(),
            role: self.role.to_string(),
            job: self.job.map(|job| job.to_string()).unwrap_or_default(),
            set: nanoseconds(self.set),
            until: nanoseconds(self.until),
            by: self.by.to_string(),
            reason: self.reason.clone(),
            lease: self.lease.to_string(),
            lifted: self.lifted.as_ref().map(Stored::to_record),
            revision: self.revision.number(),
        }
    }

    fn from_record(record: stored::Block) -> Result<Self, Malformed> {
        Ok(Self {
            id: parse("id", BlockId::parse(&record.id))?,
            caller: parse("caller", SpiffeId::parse(&record.caller))?,
            role: parse("role", Name::parse(&record.role))?,
            job: match record.job.as_str() {
                "" => None,
                job => Some(parse("job", JobId::parse(job))?),
            },
            set: time("set", record.set)?,
            until: time("until", record.until)?,
            by: parse("by", SpiffeId::parse(&record.by))?,
            reason: record.reason,
            lease: parse("lease", LeaseId::parse(&record.lease))?,
            lifted: record.lifted.map(Lifted::from_record).transpose()?,
            revision: revision(record.revision)?,
        })
    }
}

impl Stored for Lifted {
    type Record = stored::Lifted;

    fn to_record(&self) -> stored::Lifted {
        stored::Lifted { at: nanoseconds(self.at), by: self.by.to_string() }
    }

    fn from_record(record: stored::Lifted) -> Result<Self, Malformed> {
        Ok(Self { at: time("lifted.at", record.at)?, by: parse("lifted.by", SpiffeId::parse(&record.by))? })
    }
}
