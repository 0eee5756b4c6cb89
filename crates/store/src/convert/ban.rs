//! Bans.

use shorepass_core::ban::{Ban, Banned};
use shorepass_core::block::Lifted;
use shorepass_core::caller::{Owner, SpiffeId};
use shorepass_core::id::EnrolmentId;
use shorepass_proto::store::v1 as stored;

use super::{Malformed, Stored, nanoseconds, parse, revision, time};

impl Stored for Ban {
    type Record = stored::Ban;

    fn to_record(&self) -> stored::Ban {
        let enrolment = match &self.banned {
            Banned::Name(_) => String::new(),
            Banned::Enrolment(owner) => owner.enrolment.to_string(),
        };
        stored::Ban {
            spiffe_id: self.banned.spiffe_id().to_string(),
            enrolment,
            set: nanoseconds(self.set),
            by: self.by.to_string(),
            reason: self.reason.clone(),
            lifted: self.lifted.as_ref().map(Stored::to_record),
            revision: self.revision.number(),
        }
    }

    fn from_record(record: stored::Ban) -> Result<Self, Malformed> {
        let spiffe_id = parse("spiffe_id", SpiffeId::parse(&record.spiffe_id))?;
        let banned = match record.enrolment.as_str() {
            "" => Banned::Name(spiffe_id),
            text => {
                let enrolment = parse("enrolment", EnrolmentId::parse(text))?;
                Banned::Enrolment(Owner { spiffe_id, enrolment })
            }
        };
        Ok(Self {
            banned,
            set: time("set", record.set)?,
            by: parse("by", SpiffeId::parse(&record.by))?,
            reason: record.reason,
            lifted: record.lifted.map(Lifted::from_record).transpose()?,
            revision: revision(record.revision)?,
        })
    }
}
