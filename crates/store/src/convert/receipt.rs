//! Receipts, and the anchors that proofs need.

use shorepass_core::lease::AnchorName;
use shorepass_core::name::Name;
use shorepass_core::receipt::{Control, Death, Receipt, Unproved, Verdict, Why};
use shorepass_proto::store::v1 as stored;

use super::{Malformed, Stored, malformed, nanoseconds, parse, required, time};

impl Stored for Receipt {
    type Record = stored::Receipt;

    fn to_record(&self) -> stored::Receipt {
        let (verdict, death, unproved) = match &self.verdict {
            Verdict::Proved(death) => (stored::ReceiptVerdict::Proved, Some(death), None),
            Verdict::Assumed(death) => (stored::ReceiptVerdict::Assumed, Some(death), None),
            Verdict::Unproved(unproved) => (stored::ReceiptVerdict::Unproved, None, Some(unproved)),
        };
        stored::Receipt {
            verdict: verdict.into(),
            refused: death.map_or(0, |death| nanoseconds(death.refused)),
            observed_at: death.map_or(0, |death| nanoseconds(death.observed_at)),
            dead_by: death.map_or(0, |death| nanoseconds(death.dead_by)),
            reason: unproved.map_or(0, |unproved| stored_why(unproved.why).into()),
            detail: unproved.map(|unproved| unproved.detail.clone()).unwrap_or_default(),
            endpoints: self.endpoints.clone(),
            canaries: self.canaries.clone(),
            made: nanoseconds(self.made),
        }
    }

    fn from_record(record: stored::Receipt) -> Result<Self, Malformed> {
        let death = || {
            Ok(Death {
                refused: time("refused", record.refused)?,
                observed_at: time("observed_at", record.observed_at)?,
                dead_by: time("dead_by", record.dead_by)?,
            })
        };
        let verdict = match record.verdict() {
            stored::ReceiptVerdict::Unspecified => return Err(malformed("verdict", "is unknown")),
            stored::ReceiptVerdict::Proved => Verdict::Proved(death()?),
            stored::ReceiptVerdict::Assumed => Verdict::Assumed(death()?),
            stored::ReceiptVerdict::Unproved => {
                let why = Why::ALL.into_iter().find(|why| stored_why(*why) == record.reason());
                let why = why.ok_or_else(|| malformed("reason", "is unknown"))?;
                Verdict::Unproved(Unproved { why, detail: record.detail })
            }
        };
        Ok(Self {
            verdict,
            endpoints: record.endpoints,
            canaries: record.canaries,
            made: time("made", record.made)?,
        })
    }
}

fn stored_why(why: Why) -> stored::UnprovedReason {
    match why {
        Why::NeverActive => stored::UnprovedReason::NeverActive,
        Why::NotDeleted => stored::UnprovedReason::NotDeleted,
        Why::HeldByFinalizer => stored::UnprovedReason::HeldByFinalizer,
        Why::CanariesLate => stored::UnprovedReason::CanariesLate,
        Why::NoCanary => stored::UnprovedReason::NoCanary,
        Why::NotAcceptedBefore => stored::UnprovedReason::NotAcceptedBefore,
        Why::StillAccepted => stored::UnprovedReason::StillAccepted,
        Why::NoAnswer => stored::UnprovedReason::NoAnswer,
        Why::NoControl => stored::UnprovedReason::NoControl,
        Why::ControlRefused => stored::UnprovedReason::ControlRefused,
        Why::ForOthers => stored::UnprovedReason::ForOthers,
    }
}

impl Stored for Control {
    type Record = stored::Control;

    fn to_record(&self) -> stored::Control {
        stored::Control {
            anchor: self.anchor.as_str().to_owned(),
            cluster: self.cluster.to_string(),
            namespace: self.namespace.to_string(),
            with_account: self.with_account,
            created: nanoseconds(self.created),
        }
    }

    fn from_record(record: stored::Control) -> Result<Self, Malformed> {
        Ok(Self {
            anchor: required("anchor", AnchorName::parse(&record.anchor))?,
            cluster: parse("cluster", Name::parse(&record.cluster))?,
            namespace: parse("namespace", Name::parse(&record.namespace))?,
            with_account: record.with_account,
            created: time("created", record.created)?,
        })
    }
}
