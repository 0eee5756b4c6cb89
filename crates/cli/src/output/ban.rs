//! Bans as operators see them.

use serde::Serialize;
use shorepass_core::time::Timestamp;
use shorepass_proto::v1;

use super::{Incomplete, document, printable, short_caller, table, time, to_the_second};

/// A ban.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BanView {
    spiffe_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    enrolment: String,
    pub(crate) create_time: Option<Timestamp>,
    by: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lift_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    lifted_by: String,
}

impl BanView {
    /// From the wire.
    pub(crate) fn of(ban: v1::Ban) -> Self {
        Self {
            spiffe_id: ban.spiffe_id,
            enrolment: ban.enrolment_id,
            create_time: time(ban.create_time),
            by: ban.by,
            reason: ban.reason,
            lift_time: time(ban.lift_time),
            lifted_by: ban.lifted_by,
        }
    }

    /// What `unban` takes.
    fn subject(&self) -> String {
        printable(if self.enrolment.is_empty() { &self.spiffe_id } else { &self.enrolment })
    }

    /// For people, after it was lifted.
    pub(crate) fn lifted_sentence(&self) -> String {
        format!("lifted: {} may come back; what had ended stays ended\n", self.subject())
    }

    fn row(&self) -> [String; 6] {
        let enrolment = if self.enrolment.is_empty() { "all" } else { &self.enrolment };
        [
            self.spiffe_id.clone(),
            enrolment.to_owned(),
            to_the_second(self.create_time),
            to_the_second(self.lift_time),
            short_caller(&self.by),
            self.reason.clone(),
        ]
    }
}

/// A ban that was set, and what came of it.
pub(crate) struct Shutout {
    ban: BanView,
    leases: u32,
    unbound: u32,
    connections: u32,
}

impl Shutout {
    /// From the wire.
    pub(crate) fn of(answer: v1::BanResponse) -> Result<Self, Incomplete> {
        let ban = BanView::of(answer.ban.ok_or(Incomplete("the ban"))?);
        let (leases, unbound) = (answer.lease_count, answer.unbound_lease_count);
        Ok(Self { ban, leases, unbound, connections: answer.connection_count })
    }

    /// How many of the leases have tokens that nothing can end.
    pub(crate) fn unbound(&self) -> usize {
        usize::try_from(self.unbound).unwrap_or(usize::MAX)
    }

    /// For people.
    pub(crate) fn sentences(&self) -> String {
        let Self { ban, leases, unbound, connections } = self;
        let outlived = match unbound {
            0 => String::new(),
            _ => format!(
                "{} of them UNBOUND: nothing ends their tokens; `shorepass lease list --all --runner {}` names them, \
                 `shorepass lease show` says until when they work\n",
                unbound,
                printable(&ban.spiffe_id)
            ),
        };
        format!(
            "banned: {} (by {} at {})\nended {}, closed {}; `shorepass lease list --runner {}` shows what is still ending\n\
             {outlived}until somebody runs: shorepass unban {}\n",
            ban.subject(),
            printable(&ban.by),
            to_the_second(ban.create_time),
            counted(*leases, "lease"),
            counted(*connections, "connection"),
            printable(&ban.spiffe_id),
            ban.subject(),
        )
    }

    /// For programs.
    pub(crate) fn document(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            ban: &'a BanView,
            leases_ended: u32,
            unbound_leases: u32,
            connections_closed: u32,
        }
        let (ban, leases_ended, unbound_leases) = (&self.ban, self.leases, self.unbound);
        let body = Body { ban, leases_ended, unbound_leases, connections_closed: self.connections };
        document("BanResult", body)
    }
}

fn counted(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// One ban for programs.
pub(crate) fn ban_document(ban: &BanView) -> String {
    document("Ban", ban)
}

/// A list for programs.
pub(crate) fn list_document(items: &[BanView]) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        items: &'a [BanView],
    }
    document("BanList", Body { items })
}

/// A list for people.
pub(crate) fn list_table(items: &[BanView]) -> String {
    let rows: Vec<_> = items.iter().map(BanView::row).collect();
    table(["SPIFFE ID", "ENROLMENT", "SINCE", "LIFTED", "BY", "REASON"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples::at;

    fn ban(enrolment: &str) -> v1::Ban {
        v1::Ban {
            spiffe_id: "spiffe://ci.example.org/runner/prod-1".to_owned(),
            enrolment_id: enrolment.to_owned(),
            create_time: at(60),
            by: "spiffe://ci.example.org/operator/alice".to_owned(),
            reason: "laptop stolen".to_owned(),
            ..Default::default()
        }
    }

    const ENROLMENT: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";

    #[test]
    fn a_ban_for_people_and_for_programs() {
        let answer = v1::BanResponse {
            ban: Some(ban("")),
            lease_count: 1,
            connection_count: 2,
            unbound_lease_count: 0,
        };
        let shutout = Shutout::of(answer.clone()).unwrap();
        let shown = shutout.sentences();
        assert!(!shown.contains("UNBOUND"), "{shown}");
        for part in ["ended 1 lease, closed 2 connections", "unban spiffe://ci.example.org/runner/prod-1"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let document: serde_json::Value = serde_json::from_str(&shutout.document()).unwrap();
        assert_eq!((&document["kind"], &document["leasesEnded"]), (&"BanResult".into(), &1.into()));
        assert_eq!(document["ban"]["reason"], "laptop stolen");
        assert!(Shutout::of(v1::BanResponse::default()).is_err());

        let outlived = Shutout::of(v1::BanResponse { unbound_lease_count: 1, ..answer }).unwrap();
        let shown = outlived.sentences();
        assert!(shown.contains("\n1 of them UNBOUND: nothing ends their tokens"), "{shown}");
        let document: serde_json::Value = serde_json::from_str(&outlived.document()).unwrap();
        assert_eq!((&document["unboundLeases"], outlived.unbound()), (&1.into(), 1));
    }

    #[test]
    fn a_list_for_people_and_for_programs() {
        let lifted = v1::Ban { lift_time: at(90), lifted_by: ban("").by, ..ban(ENROLMENT) };
        let bans = [BanView::of(ban("")), BanView::of(lifted)];
        assert_eq!(list_table(&bans), include_str!("golden/ban-list.txt"));
        let document: serde_json::Value = serde_json::from_str(&list_document(&bans)).unwrap();
        assert_eq!(
            (&document["kind"], &document["items"][1]["enrolment"]),
            (&"BanList".into(), &ENROLMENT.into())
        );
        assert!(bans[1].lifted_sentence().contains(ENROLMENT));
    }
}
