//! Join tokens, enrolments, identities and blocks.

use shorepass_core::block::{Block, Lifted};
use shorepass_core::caller::SpiffeId;
use shorepass_core::digest::Digest;
use shorepass_core::enrolment::{CloneCause, Cloned, Enrolment, JoinToken, Origin, Taken};
use shorepass_core::id::{BlockId, EnrolmentId, JobId, LeaseId};
use shorepass_core::identity::CreatedIdentity;
use shorepass_core::labels::Labels;
use shorepass_core::name::{Name, NamePattern};
use shorepass_core::pod::Pod;
use shorepass_proto::store::v1 as stored;

use super::{Malformed, Stored, digest, inner, malformed, nanoseconds, optional_time, parse, revision, time};

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
            generation: self.generation,
            next_public_key_digest: self.next.map(|next| next.as_bytes().to_vec()).unwrap_or_default(),
            followed: self.followed.map(nanoseconds),
            cloned: self.cloned.as_ref().map(Stored::to_record),
            origin: self.origin.as_ref().map(stored_origin),
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
            generation: record.generation,
            next: read_next(&record.next_public_key_digest)?,
            followed: optional_time("followed", record.followed)?,
            cloned: record.cloned.map(Cloned::from_record).transpose()?,
            origin: record.origin.map(read_origin).transpose()?,
            revision: revision(record.revision)?,
        })
    }
}

fn read_next(bytes: &[u8]) -> Result<Option<Digest>, Malformed> {
    if bytes.is_empty() { Ok(None) } else { digest("next_public_key_digest", bytes).map(Some) }
}

fn stored_origin(origin: &Origin) -> stored::enrolment::Origin {
    match origin {
        Origin::Pod(pod) => stored::enrolment::Origin::Pod(stored::Pod {
            cluster: pod.cluster.to_string(),
            namespace: pod.namespace.to_string(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        }),
        Origin::Token { issuer, subject } => stored::enrolment::Origin::TokenOrigin(stored::EnrolmentToken {
            issuer: issuer.to_string(),
            subject: subject.clone(),
        }),
    }
}

fn read_origin(record: stored::enrolment::Origin) -> Result<Origin, Malformed> {
    match record {
        stored::enrolment::Origin::Pod(stored::Pod { cluster, namespace, name, uid }) => {
            let cluster = parse("pod.cluster", Name::parse(&cluster))?;
            let namespace = parse("pod.namespace", Name::parse(&namespace))?;
            Ok(Origin::Pod(Pod { cluster, namespace, name, uid }))
        }
        stored::enrolment::Origin::TokenOrigin(stored::EnrolmentToken { issuer, subject }) => {
            Ok(Origin::Token { issuer: parse("token.issuer", Name::parse(&issuer))?, subject })
        }
    }
}

impl Stored for Cloned {
    type Record = stored::EnrolmentIsCloned;

    fn to_record(&self) -> stored::EnrolmentIsCloned {
        let cause = match self.cause {
            CloneCause::Used => stored::CloneCause::Used,
            CloneCause::Renewed => stored::CloneCause::Renewed,
        };
        stored::EnrolmentIsCloned {
            at: nanoseconds(self.at),
            cause: cause.into(),
            certificate_digest: self.certificate.as_bytes().to_vec(),
        }
    }

    fn from_record(record: stored::EnrolmentIsCloned) -> Result<Self, Malformed> {
        let cause = match record.cause() {
            stored::CloneCause::Used => CloneCause::Used,
            stored::CloneCause::Renewed => CloneCause::Renewed,
            stored::CloneCause::Unspecified => return Err(malformed("cloned.cause", "is missing")),
        };
        Ok(Self {
            at: time("cloned.at", record.at)?,
            cause,
            certificate: digest("cloned.certificate_digest", &record.certificate_digest)?,
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
