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
    /// Unbound ones that had ended before.
    outliving: u32,
    tokens_until: Option<Timestamp>,
    connections: u32,
}

impl Shutout {
    /// From the wire.
    pub(crate) fn of(answer: v1::BanResponse) -> Result<Self, Incomplete> {
        let ban = BanView::of(answer.ban.ok_or(Incomplete("the ban"))?);
        Ok(Self {
            ban,
            leases: answer.lease_count,
            unbound: answer.unbound_lease_count,
            outliving: answer.outliving_lease_count,
            tokens_until: time(answer.tokens_until),
            connections: answer.connection_count,
        })
    }

    /// How many leases have tokens that nothing can end, whenever they ended.
    pub(crate) fn tokens_remain(&self) -> usize {
        usize::try_from(self.unbound.saturating_add(self.outliving)).unwrap_or(usize::MAX)
    }

    /// For people.
    pub(crate) fn sentences(&self) -> String {
        let Self { ban, leases, unbound: _, outliving: _, tokens_until: _, connections } = self;
        let outlived = self.outlived();
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

    /// What the ban does not end.
    fn outlived(&self) -> String {
        let mut lines = String::new();
        if self.unbound > 0 {
            lines.push_str(&format!("{} of them UNBOUND: nothing ends their tokens\n", self.unbound));
        }
        if self.outliving > 0 {
            let which = counted(self.outliving, "UNBOUND lease");
            lines.push_str(&format!("besides, {which} had ended before: nothing ends their tokens either\n"));
        }
        if !lines.is_empty() {
            let until = self.tokens_until.map_or_else(String::new, |until| {
                format!(" until {} (their expiry and 70 s)", to_the_second(Some(until)))
            });
            lines.push_str(&format!(
                "tokens remain{until}; `shorepass lease list --all --runner {}` names the leases\n",
                printable(&self.ban.spiffe_id)
            ));
        }
        lines
    }

    /// For programs.
    pub(crate) fn document(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            ban: &'a BanView,
            leases_ended: u32,
            unbound_leases: u32,
            unbound_leases_ended_before: u32,
            #[serde(skip_serializing_if = "Option::is_none")]
            tokens_until: Option<Timestamp>,
            connections_closed: u32,
        }
        let Self { ban, leases, unbound, outliving, tokens_until, connections } = self;
        let body = Body {
            ban,
            leases_ended: *leases,
            unbound_leases: *unbound,
            unbound_leases_ended_before: *outliving,
            tokens_until: *tokens_until,
            connections_closed: *connections,
        };
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
        let answer =
            v1::BanResponse { ban: Some(ban("")), lease_count: 1, connection_count: 2, ..Default::default() };
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

        assert!(document.get("tokensUntil").is_none());
    }

    #[test]
    fn tokens_that_a_ban_does_not_end_are_told_whenever_their_leases_ended() {
        let told = |unbound_lease_count, outliving_lease_count| {
            let answer = v1::BanResponse {
                ban: Some(ban("")),
                lease_count: unbound_lease_count,
                unbound_lease_count,
                outliving_lease_count,
                tokens_until: at(1_870),
                ..Default::default()
            };
            Shutout::of(answer).unwrap()
        };
        let (now, before) = (
            "1 of them UNBOUND: nothing ends their tokens\n",
            "besides, 2 UNBOUND leases had ended before: nothing ends their tokens either\n",
        );
        for (unbound, outliving) in [(1, 0), (0, 2), (1, 2)] {
            let shutout = told(unbound, outliving);
            let shown = shutout.sentences();
            assert_eq!(
                (shown.contains(now), shown.contains(before)),
                (unbound > 0, outliving > 0),
                "{shown}"
            );
            assert!(shown.contains("\ntokens remain until 2026-09-21T14:44:30Z (their expiry"), "{shown}");
            let document: serde_json::Value = serde_json::from_str(&shutout.document()).unwrap();
            assert_eq!(
                (&document["unboundLeases"], &document["unboundLeasesEndedBefore"], &document["tokensUntil"]),
                (&unbound.into(), &outliving.into(), &"2026-09-21T14:44:30.25Z".into())
            );
            assert_eq!(shutout.tokens_remain(), usize::try_from(unbound + outliving).unwrap());
        }
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
