//! Leases, tokens and blocks as operators see them.
//!
//! The job column shows the CI system and its id, marked as asserted: nobody but the runner says so. The job session's
//! own id is in `lease show` and in JSON.

use std::time::Duration;

use serde::Serialize;
use shorepass_core::time::Timestamp;
use shorepass_proto::v1;

use super::{
    Incomplete, document, fields, outliving, seconds, short_caller, spoken, table, time, to_the_second,
};

/// A lease with what belongs to it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LeaseView {
    pub(crate) id: String,
    state: &'static str,
    pub(crate) caller: String,
    job: JobView,
    pub(crate) role: String,
    cluster: String,
    namespace: String,
    service_account: String,
    mode: &'static str,
    anchor: String,
    create_time: Option<Timestamp>,
    deadline: Option<Timestamp>,
    remaining_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    without_issuer_until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<EndView>,
    tokens: Vec<TokenView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) block: Option<BlockView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct JobView {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    asserted: Option<AssertedView>,
    start_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latest_end_time: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
struct AssertedView {
    system: String,
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    url: String,
}

#[derive(Debug, Serialize)]
struct EndView {
    cause: &'static str,
    time: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

/// What is known of a token; the token itself is kept nowhere.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenView {
    jti: String,
    fingerprint: String,
    issue_time: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

/// A block.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BlockView {
    pub(crate) id: String,
    pub(crate) caller: String,
    pub(crate) role: String,
    create_time: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    pub(crate) by: String,
    pub(crate) reason: String,
    lease_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lift_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    lifted_by: String,
}

impl LeaseView {
    /// From the wire.
    pub(crate) fn of(record: v1::LeaseRecord) -> Result<Self, Incomplete> {
        let lease = record.lease.ok_or(Incomplete("a lease"))?;
        let job = record.job.ok_or(Incomplete("a lease's job"))?;
        let tokens: Vec<_> = record.tokens.into_iter().map(TokenView::of).collect();
        let (deadline, newest) = (time(lease.deadline), tokens.first().and_then(|token| token.expires_at));
        let outlives = outliving::without_issuer(deadline, newest).filter(|_| lease.end.is_none());
        Ok(Self {
            without_issuer_until: outlives,
            state: state(lease.state()),
            mode: mode(lease.mode()),
            id: lease.id,
            caller: record.caller,
            job: JobView::of(job),
            role: lease.role,
            cluster: lease.cluster,
            namespace: lease.namespace,
            service_account: lease.service_account,
            anchor: record.anchor,
            create_time: time(lease.create_time),
            deadline,
            remaining_seconds: seconds(lease.remaining),
            end: lease.end.map(EndView::of),
            tokens,
            block: record.block.map(BlockView::of),
        })
    }

    /// The runner's name, or what else holds the lease.
    pub(crate) fn runner(&self) -> String {
        short_caller(&self.caller)
    }

    /// `namespace/name` of the ServiceAccount.
    pub(crate) fn account(&self) -> String {
        format!("{}/{}", self.namespace, self.service_account)
    }

    fn row(&self) -> [String; 9] {
        let jti = self.tokens.first().map_or("-", |newest| &newest.jti);
        [
            self.id.clone(),
            self.state.to_owned(),
            self.runner(),
            self.job.label(),
            self.role.clone(),
            self.cluster.clone(),
            self.account(),
            self.remaining(),
            jti.to_owned(),
        ]
    }

    fn remaining(&self) -> String {
        match self.end {
            Some(_) => "-".to_owned(),
            None => spoken(Duration::from_secs(self.remaining_seconds)),
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("LEASE", self.id.clone()),
            ("STATE", self.state.to_owned()),
            ("RUNNER", self.caller.clone()),
            ("JOB", self.job.label()),
            ("JOB SESSION", self.job.id.clone()),
        ];
        let url = self.job.asserted.as_ref().map_or("", |asserted| &asserted.url);
        if !url.is_empty() {
            fields.push(("JOB URL", url.to_owned()));
        }
        fields.extend([
            ("ROLE", self.role.clone()),
            ("CLUSTER", self.cluster.clone()),
            ("SERVICEACCOUNT", self.account()),
            ("MODE", self.mode.to_owned()),
            ("ANCHOR", format!("{}/{}", self.namespace, self.anchor)),
            ("CREATED", to_the_second(self.create_time)),
            ("DEADLINE", to_the_second(self.deadline)),
            ("REMAINING", self.remaining()),
        ]);
        if self.without_issuer_until.is_some() {
            fields.push((
                "WITHOUT ISSUER",
                format!("token until {}", to_the_second(self.without_issuer_until)),
            ));
        }
        if let Some(end) = &self.end {
            fields.push(("END", end.sentence()));
        }
        if let Some(block) = &self.block {
            fields.push(("BLOCK", format!("{} until {}", block.id, to_the_second(block.until))));
        }
        fields
    }
}

impl JobView {
    fn of(job: v1::Job) -> Self {
        let asserted = |job: v1::AssertedJob| AssertedView { system: job.system, id: job.id, url: job.url };
        Self {
            id: job.id,
            asserted: job.asserted.map(asserted),
            start_time: time(job.start_time),
            latest_end_time: time(job.latest_end_time),
        }
    }

    fn label(&self) -> String {
        match &self.asserted {
            Some(asserted) => format!("{}/{} (asserted)", asserted.system, asserted.id),
            None => self.id.clone(),
        }
    }
}

impl EndView {
    fn of(end: v1::LeaseEnd) -> Self {
        Self { cause: cause(end.cause()), time: time(end.time), by: end.by, reason: end.reason }
    }

    fn sentence(&self) -> String {
        let mut sentence = format!("{} at {}", self.cause, to_the_second(self.time));
        if !self.by.is_empty() {
            sentence.push_str(&format!(" by {}", self.by));
        }
        if !self.reason.is_empty() {
            sentence.push_str(&format!(": {}", self.reason));
        }
        sentence
    }
}

impl TokenView {
    fn of(token: v1::TokenRecord) -> Self {
        Self {
            jti: token.token_id,
            fingerprint: token.fingerprint,
            issue_time: time(token.issue_time),
            expires_at: time(token.expires_at),
        }
    }

    fn row(&self) -> [String; 4] {
        let times = [to_the_second(self.issue_time), to_the_second(self.expires_at)];
        let [issued, expires] = times;
        [self.jti.clone(), issued, expires, self.fingerprint.clone()]
    }
}

impl BlockView {
    /// From the wire.
    pub(crate) fn of(block: v1::Block) -> Self {
        Self {
            id: block.id,
            caller: block.caller,
            role: block.role,
            create_time: time(block.create_time),
            until: time(block.until),
            by: block.by,
            reason: block.reason,
            lease_id: block.lease_id,
            lift_time: time(block.lift_time),
            lifted_by: block.lifted_by,
        }
    }
}

/// A list for programs.
pub(crate) fn list_document(items: &[LeaseView]) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        items: &'a [LeaseView],
    }
    document("LeaseList", Body { items })
}

/// A list for people.
pub(crate) fn list_table(items: &[LeaseView]) -> String {
    let headings =
        ["LEASE", "STATE", "RUNNER", "JOB", "ROLE", "CLUSTER", "SERVICEACCOUNT", "REMAINING", "JTI"];
    let rows: Vec<_> = items.iter().map(LeaseView::row).collect();
    let mut text = table(headings, &rows);
    match items.iter().filter(|lease| lease.without_issuer_until.is_some()).count() {
        0 => {}
        count => text.push_str(&outliving::note(count)),
    }
    text
}

/// One lease for programs.
pub(crate) fn lease_document(lease: &LeaseView) -> String {
    document("Lease", lease)
}

/// One lease for people, with its tokens.
pub(crate) fn lease_table(lease: &LeaseView) -> String {
    let mut text = fields(&lease.fields());
    if !lease.tokens.is_empty() {
        let rows: Vec<_> = lease.tokens.iter().map(TokenView::row).collect();
        text.push('\n');
        text.push_str(&table(["JTI", "ISSUED", "EXPIRES", "SHA-256 OF THE TOKEN"], &rows));
    }
    text
}

/// A token and its owner.
pub(crate) struct TokenOwner {
    token: TokenView,
    lease: LeaseView,
}

impl TokenOwner {
    /// From the wire.
    pub(crate) fn of(found: v1::FindTokenResponse) -> Result<Self, Incomplete> {
        let token = found.token.ok_or(Incomplete("the token"))?;
        let lease = found.lease.ok_or(Incomplete("the token's lease"))?;
        Ok(Self { token: TokenView::of(token), lease: LeaseView::of(lease)? })
    }

    /// For programs.
    pub(crate) fn document(&self) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            token: &'a TokenView,
            lease: &'a LeaseView,
        }
        document("TokenOwner", Body { token: &self.token, lease: &self.lease })
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![
            ("JTI", self.token.jti.clone()),
            ("ISSUED", to_the_second(self.token.issue_time)),
            ("EXPIRES", to_the_second(self.token.expires_at)),
            ("SHA-256", self.token.fingerprint.clone()),
        ];
        lines.extend(self.lease.fields());
        fields(&lines)
    }
}

/// A lifted block for programs.
pub(crate) fn block_document(block: &BlockView) -> String {
    document("Block", block)
}

/// A lifted block for people.
pub(crate) fn block_sentence(block: &BlockView) -> String {
    format!(
        "lifted {}: {} may have leases of {} again\n",
        super::printable(&block.id),
        super::printable(&block.caller),
        super::printable(&block.role)
    )
}

fn state(state: v1::LeaseState) -> &'static str {
    match state {
        v1::LeaseState::Unspecified => "unknown",
        v1::LeaseState::Pending => "pending",
        v1::LeaseState::Active => "active",
        v1::LeaseState::Ending => "ending",
        v1::LeaseState::Ended => "ended",
    }
}

fn mode(mode: v1::LeaseMode) -> &'static str {
    match mode {
        v1::LeaseMode::Unspecified => "unknown",
        v1::LeaseMode::Bound => "bound",
    }
}

fn cause(cause: v1::EndCause) -> &'static str {
    match cause {
        v1::EndCause::Unspecified => "unknown",
        v1::EndCause::Released => "released",
        v1::EndCause::JobEnded => "job-ended",
        v1::EndCause::Revoked => "revoked",
        v1::EndCause::Deadline => "deadline",
        v1::EndCause::Abandoned => "abandoned",
        v1::EndCause::AnchorLost => "anchor-lost",
        v1::EndCause::ServiceAccountReplaced => "service-account-replaced",
        v1::EndCause::EnrolmentReplaced => "enrolment-replaced",
        v1::EndCause::Silent => "silence",
        v1::EndCause::OwnerBanned => "owner-banned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples::{active, at, block, revoked, token};

    fn view(record: v1::LeaseRecord) -> LeaseView {
        LeaseView::of(record).unwrap()
    }

    #[test]
    fn a_list_for_people() {
        let shown = list_table(&[view(active()), view(revoked())]);
        assert_eq!(shown, include_str!("golden/lease-list.txt"));
    }

    #[test]
    fn a_list_for_programs() {
        let shown = list_document(&[view(active()), view(revoked())]);
        assert_eq!(shown, include_str!("golden/lease-list.json"));
    }

    #[test]
    fn a_token_that_outlives_its_lease_without_an_issuer_is_told_in_every_listing() {
        let mut record = active();
        record.lease = record.lease.map(|lease| v1::Lease { deadline: at(60), ..lease });
        let lease = view(record);
        assert!(lease_table(&lease).contains("WITHOUT ISSUER"), "{}", lease_table(&lease));
        assert!(lease_document(&lease).contains("\"withoutIssuerUntil\": \"2026-"));
        assert!(list_table(&[lease]).contains("1 lease has a token that outlives"));
        assert!(!list_table(&[view(active())]).contains("outlives"));
    }

    #[test]
    fn one_lease_for_people() {
        assert_eq!(lease_table(&view(revoked())), include_str!("golden/lease-show.txt"));
    }

    #[test]
    fn one_lease_for_programs_is_an_item_of_the_list_under_its_own_kind() {
        let mut lease: serde_json::Value = serde_json::from_str(&lease_document(&view(active()))).unwrap();
        let list: serde_json::Value = serde_json::from_str(&list_document(&[view(active())])).unwrap();
        assert_eq!(lease["kind"], "Lease");
        for key in ["kind", "apiVersion"] {
            lease.as_object_mut().unwrap().remove(key);
        }
        assert_eq!(lease, list["items"][0]);
    }

    #[test]
    fn the_owner_of_a_token() {
        let found = v1::FindTokenResponse { token: Some(token()), lease: Some(active()) };
        let owner = TokenOwner::of(found).unwrap();
        assert_eq!(owner.table(), include_str!("golden/whois.txt"));
        let document: serde_json::Value = serde_json::from_str(&owner.document()).unwrap();
        assert_eq!(document["kind"], "TokenOwner");
        assert_eq!(document["token"]["jti"], document["lease"]["tokens"][0]["jti"]);
    }

    #[test]
    fn a_lifted_block() {
        let view = BlockView::of(block());
        assert_eq!(block_document(&view), include_str!("golden/block.json"));
        assert!(block_sentence(&view).contains("may have leases of web-deployer again"));
    }

    #[test]
    fn a_platform_is_not_shown_as_a_runner() {
        let caller = "spiffe://ci.example.org/platform/builder".to_owned();
        assert_eq!(view(v1::LeaseRecord { caller, ..active() }).runner(), "platform/builder");
    }

    #[test]
    fn an_answer_without_its_lease_is_refused() {
        let missing = |record| LeaseView::of(record).map(|_| ()).unwrap_err();
        assert_eq!(missing(v1::LeaseRecord { lease: None, ..active() }), Incomplete("a lease"));
        assert_eq!(missing(v1::LeaseRecord { job: None, ..active() }), Incomplete("a lease's job"));
    }
}
