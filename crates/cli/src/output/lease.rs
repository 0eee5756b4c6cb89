//! Leases and tokens as operators see them.
//!
//! The job column is in [`super::job`]; the job session's own id is in `lease show` and in JSON.

use std::time::Duration;

use serde::Serialize;
use shorepass_core::time::Timestamp;
use shorepass_proto::v1;

use super::block::BlockView;
use super::cause::cause;
use super::escapes::EscapesView;
use super::job::JobView;
use super::not_removed::NotRemovedView;
use super::receipt::{Leaves, PinsView, ReceiptView, TransitionView};
use super::{
    Incomplete, adopted, document, fields, outliving, seconds, short_caller, spoken, table, time,
    to_the_second,
};

/// The mode that is marked wherever it is shown.
const UNBOUND: &str = "unbound";

/// A lease with what belongs to it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LeaseView {
    pub(crate) id: String,
    state: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    adopted: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) caller: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<JobView>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) role: String,
    cluster: String,
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    service_account: String,
    /// For whom its tokens are, where that is not the API server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    audiences: Vec<String>,
    mode: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    anchor: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bindings: Vec<BindingView>,
    create_time: Option<Timestamp>,
    deadline: Option<Timestamp>,
    remaining_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    silence_limit_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    without_issuer_until: Option<Timestamp>,
    /// The same of an unbound lease, whose token no issuer ends.
    #[serde(skip)]
    past_deadline_until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<EndView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens_until: Option<Timestamp>,
    tokens: Vec<TokenView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) block: Option<BlockView>,
    /// The policy that granted it.
    #[serde(skip_serializing_if = "String::is_empty")]
    policy_digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    policy_version: u64,
    transitions: Vec<TransitionView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pins: Option<PinsView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_removed: Option<NotRemovedView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    escape_rights: Option<EscapesView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) receipt: Option<ReceiptView>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What the ServiceAccount of a strict lease is bound to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BindingView {
    namespace: String,
    name: String,
    role_kind: String,
    role_name: String,
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

impl LeaseView {
    /// From the wire.
    pub(crate) fn of(record: v1::LeaseRecord) -> Result<Self, Incomplete> {
        let lease = record.lease.ok_or(Incomplete("a lease"))?;
        if record.job.is_none() && !lease.adopted {
            return Err(Incomplete("a lease's job"));
        }
        let not_removed = record.not_removed.map(NotRemovedView::of);
        let escapes = record.escape_rights.map(EscapesView::of);
        let leaves = Leaves { not_removed: not_removed.clone(), escapes: escapes.clone() };
        let tokens: Vec<_> = record.tokens.into_iter().map(TokenView::of).collect();
        let (deadline, newest) = (time(lease.deadline), tokens.first().and_then(|token| token.expires_at));
        let outlives = outliving::without_issuer(deadline, newest).filter(|_| lease.end.is_none());
        let unbound = lease.mode() == v1::LeaseMode::Unbound;
        Ok(Self {
            without_issuer_until: outlives.filter(|_| !unbound),
            past_deadline_until: outlives.filter(|_| unbound),
            state: state(lease.state()),
            mode: mode(lease.mode()),
            id: lease.id,
            adopted: lease.adopted,
            caller: record.caller,
            job: record.job.map(JobView::of),
            role: lease.role,
            cluster: lease.cluster,
            namespace: lease.namespace,
            service_account: lease.service_account,
            audiences: lease.audiences,
            anchor: record.anchor,
            bindings: lease.bindings.into_iter().map(BindingView::of).collect(),
            tokens_until: time(lease.tokens_until),
            create_time: time(lease.create_time),
            deadline,
            remaining_seconds: seconds(lease.remaining),
            policy_digest: record.policy_digest,
            policy_version: record.policy_version,
            silence_limit_seconds: record.silence_limit.map(|limit| seconds(Some(limit))),
            end: lease.end.map(EndView::of),
            tokens,
            block: record.block.map(BlockView::of),
            transitions: record.transitions.into_iter().map(TransitionView::of).collect(),
            pins: record.pins.map(PinsView::of),
            receipt: record.receipt.map(|receipt| ReceiptView::of(receipt, leaves)),
            not_removed,
            escape_rights: escapes,
        })
    }

    /// The runner's name, or what else holds the lease.
    pub(crate) fn runner(&self) -> String {
        adopted::or_unknown(&short_caller(&self.caller))
    }

    /// Why its revocation sets no block, where it does not; only of an adopted lease.
    pub(crate) fn unblockable(&self) -> Option<String> {
        adopted::unblockable(&self.caller, &self.role)
    }

    /// The role's name.
    pub(crate) fn role(&self) -> String {
        adopted::or_unknown(&self.role)
    }

    /// `namespace/name` of the ServiceAccount.
    pub(crate) fn account(&self) -> String {
        format!("{}/{}", self.namespace, adopted::or_unknown(&self.service_account))
    }

    fn job(&self) -> String {
        self.job.as_ref().map_or_else(|| adopted::UNKNOWN.to_owned(), JobView::label)
    }

    /// Whether nothing ends its tokens before they expire.
    pub(crate) fn is_unbound(&self) -> bool {
        self.mode == UNBOUND
    }

    /// In capitals where nothing can end it.
    fn marked_mode(&self) -> String {
        if self.is_unbound() { self.mode.to_uppercase() } else { self.mode.to_owned() }
    }

    fn row(&self) -> [String; 10] {
        let jti = self.tokens.first().map_or("-", |newest| &newest.jti);
        [
            self.id.clone(),
            self.state.to_owned(),
            self.runner(),
            self.job(),
            self.role(),
            self.cluster.clone(),
            self.account(),
            self.marked_mode(),
            self.remaining(),
            jti.to_owned(),
        ]
    }

    fn spoken_mode(&self) -> String {
        match self.is_unbound() {
            true => format!(
                "{}: nothing ends its tokens before they expire, and they work up to 70 s longer",
                self.marked_mode()
            ),
            false => self.marked_mode(),
        }
    }

    fn remaining(&self) -> String {
        match self.end {
            Some(_) => "-".to_owned(),
            None => spoken(Duration::from_secs(self.remaining_seconds)),
        }
    }

    fn silence(&self) -> String {
        match self.silence_limit_seconds {
            Some(limit) => format!("ends it after {}", spoken(Duration::from_secs(limit))),
            None => "ends nothing".to_owned(),
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("LEASE", self.id.clone()),
            ("STATE", self.state.to_owned()),
            ("RUNNER", adopted::owner(&self.caller)),
            ("JOB", self.job()),
        ];
        if self.adopted {
            fields.push(("ADOPTED", adopted::SENTENCE.to_owned()));
        }
        fields.extend(self.job.iter().flat_map(JobView::fields));
        fields.extend([
            ("ROLE", self.role()),
            ("CLUSTER", self.cluster.clone()),
            ("SERVICEACCOUNT", self.account()),
        ]);
        if !self.audiences.is_empty() {
            let named = self.audiences.join(", ");
            fields.push(("AUDIENCES", format!("{named}: who verifies offline does not see a revocation")));
        }
        fields.push(("MODE", self.spoken_mode()));
        if self.policy_version > 0 {
            fields.push(("POLICY", format!("version {}, {}", self.policy_version, self.policy_digest)));
        }
        if !self.anchor.is_empty() {
            fields.push(("ANCHOR", format!("{}/{}", self.namespace, self.anchor)));
        }
        fields.extend(self.bindings.iter().map(|binding| ("BINDING", binding.sentence())));
        if let Some(rights) = &self.not_removed {
            fields.extend(rights.sentences().map(|sentence| ("NOT REMOVED", sentence)));
        }
        if let Some(escapes) = &self.escape_rights {
            fields.push(("ESCAPE RIGHTS", escapes.sentence()));
        }
        fields.extend([("CREATED", to_the_second(self.create_time))]);
        let has_anchor = !self.anchor.is_empty();
        fields.extend(self.transitions.iter().filter_map(|step| step.field(has_anchor)));
        fields.extend([("DEADLINE", to_the_second(self.deadline)), ("REMAINING", self.remaining())]);
        if self.end.is_none() {
            fields.push(("SILENCE", self.silence()));
        }
        if self.without_issuer_until.is_some() {
            fields.push((
                "WITHOUT ISSUER",
                format!("token until {}", to_the_second(self.without_issuer_until)),
            ));
        }
        if self.past_deadline_until.is_some() {
            let until = to_the_second(self.past_deadline_until);
            fields.push(("PAST DEADLINE", format!("token until {until}: nothing can end it")));
        }
        if let Some(end) = &self.end {
            fields.push(("END", end.sentence()));
            let none = || "none: nothing was asked".to_owned();
            fields.push(("RECEIPT", self.receipt.as_ref().map_or_else(none, ReceiptView::sentence)));
        }
        if let Some(until) = self.tokens_until {
            fields
                .push(("TOKENS WORK", format!("until {}: nothing can end them", to_the_second(Some(until)))));
        }
        if let Some(block) = &self.block {
            fields.push(("BLOCK", format!("{} until {}", block.id, to_the_second(block.until))));
        }
        fields
    }
}

impl BindingView {
    fn of(binding: v1::LeaseBinding) -> Self {
        let v1::LeaseBinding { namespace, name, role_kind, role_name } = binding;
        Self { namespace, name, role_kind, role_name }
    }

    fn sentence(&self) -> String {
        match self.role_name.as_str() {
            "" => format!("{}/{}", self.namespace, self.name),
            role => format!("{}/{} to {} {role}", self.namespace, self.name, self.role_kind),
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
        ["LEASE", "STATE", "RUNNER", "JOB", "ROLE", "CLUSTER", "SERVICEACCOUNT", "MODE", "REMAINING", "JTI"];
    let rows: Vec<_> = items.iter().map(LeaseView::row).collect();
    let mut text = table(headings, &rows);
    let with = |until: fn(&LeaseView) -> Option<Timestamp>| {
        items.iter().filter(|lease| until(lease).is_some()).count()
    };
    text.push_str(&outliving::note(
        with(|lease| lease.without_issuer_until),
        with(|lease| lease.past_deadline_until),
    ));
    match items.iter().filter(|lease| lease.adopted).count() {
        0 => {}
        count => text.push_str(&adopted::note(count)),
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

/// The name of a state.
pub(crate) fn state(state: v1::LeaseState) -> &'static str {
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
        v1::LeaseMode::Strict => "strict",
        v1::LeaseMode::Unbound => UNBOUND,
    }
}

#[cfg(test)]
mod tests;
