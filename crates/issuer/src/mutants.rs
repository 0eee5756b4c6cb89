//! Mutants: named faults that the tests must find, in a build with the feature `mutants`, never in a release.
//!
//! `SHOREPASS_MUTANT=<name>` chooses one; `cargo xtask mutants` runs the tests against each. Each stands for a mistake
//! that a later change could make. Without the feature [`is`] is `false` for the compiler, and nothing of it is left.

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!("mutants are for tests: build without the feature `mutants`, or without --release");

#[cfg(not(feature = "mutants"))]
use std::sync::Arc;

use shorepass_core::lease::{AnchorName, Lease, State};
#[cfg(not(feature = "mutants"))]
use shorepass_core::ledger::{Change, Ledger, LedgerError, Recorded};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A token leaves before its record is durable.
    AcknowledgeBeforeFsync,
    /// A token is handed out without its audit line.
    SkipAuditLine,
    /// The anchor is deleted before *ending* is durable.
    CutBeforeEnding,
    /// A refresh stands on an anchor of its own.
    NewAnchorOnRefresh,
    /// Blocks are not looked at.
    IgnoreBlocks,
    /// Whose lease or job it is does not matter.
    SkipOwnerCheck,
    /// A join token is not taken by its use.
    JoinTokenTwice,
    /// *pending* is recorded with *active*, after the cluster was asked.
    ForgetPending,
    /// A receipt counts a refusal without looking at a control.
    UnpairedRefusal,
    /// A receipt takes it that no API server's watch lags.
    IgnoreLag,
    /// A receipt is made from what one API server says.
    AskOneServer,
}

/// Whether the program makes this mistake.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_: Mutant) -> bool {
    false
}

/// The lease as if its first token were to be minted.
pub fn anew(lease: Lease) -> Lease {
    let anchor = AnchorName::from_random(*lease.id.as_bytes());
    Lease { anchor, state: State::Pending, ..lease }
}

/// What is committed instead.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub fn altered(changes: Vec<Change>) -> Vec<Change> {
    changes
}

/// Commits the record of a token.
#[cfg(not(feature = "mutants"))]
pub async fn commit(ledger: &Arc<dyn Ledger>, changes: Vec<Change>) -> Result<Recorded, LedgerError> {
    ledger.commit(changes).await
}

#[cfg(feature = "mutants")]
pub use chosen::{altered, check, commit, is};

#[cfg(feature = "mutants")]
mod chosen {
    use std::collections::HashMap;
    use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    use anyhow::bail;
    use shorepass_core::id::LeaseId;
    use shorepass_core::ledger::{Change, Ledger, LedgerError, Recorded};

    use super::Mutant;

    /// How much later a record comes than the token that it is of.
    const LATE: Duration = Duration::from_millis(300);

    /// What was not recorded as *pending* when it should have been.
    static FORGOTTEN: LazyLock<Mutex<HashMap<LeaseId, Change>>> = LazyLock::new(Mutex::default);

    const VARIABLE: &str = "SHOREPASS_MUTANT";

    const NAMES: [(&str, Mutant); 11] = [
        ("acknowledge-before-fsync", Mutant::AcknowledgeBeforeFsync),
        ("skip-audit-line", Mutant::SkipAuditLine),
        ("cut-before-ending", Mutant::CutBeforeEnding),
        ("new-anchor-on-refresh", Mutant::NewAnchorOnRefresh),
        ("ignore-blocks", Mutant::IgnoreBlocks),
        ("skip-owner-check", Mutant::SkipOwnerCheck),
        ("join-token-twice", Mutant::JoinTokenTwice),
        ("forget-pending", Mutant::ForgetPending),
        ("unpaired-refusal", Mutant::UnpairedRefusal),
        ("ignore-lag", Mutant::IgnoreLag),
        ("ask-one-server", Mutant::AskOneServer),
    ];

    fn chosen() -> Option<Mutant> {
        static CHOSEN: OnceLock<Option<Mutant>> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let name = std::env::var(VARIABLE).ok()?;
            NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, mutant)| mutant)
        })
    }

    /// An error names all mutants if the variable names none of them.
    pub fn check() -> anyhow::Result<()> {
        if std::env::var_os(VARIABLE).is_some() && chosen().is_none() {
            bail!("{VARIABLE} is none of these: {}", NAMES.map(|(name, _)| name).join(" "));
        }
        Ok(())
    }

    /// Whether the program makes this mistake.
    pub fn is(mutant: Mutant) -> bool {
        chosen() == Some(mutant)
    }

    /// What is committed instead.
    pub fn altered(changes: Vec<Change>) -> Vec<Change> {
        match chosen() {
            Some(Mutant::SkipAuditLine) => without(changes, |it| matches!(it, Change::TokenMinted { .. })),
            Some(Mutant::JoinTokenTwice) => {
                without(changes, |it| matches!(it, Change::JoinTokenTaken { .. }))
            }
            Some(Mutant::ForgetPending) => changes.into_iter().flat_map(forgotten).collect(),
            _ => changes,
        }
    }

    fn without(mut changes: Vec<Change>, wrong: impl Fn(&Change) -> bool) -> Vec<Change> {
        changes.retain(|change| !wrong(change));
        changes
    }

    /// *pending* is kept back until *active* comes.
    fn forgotten(change: Change) -> Vec<Change> {
        let mut all = FORGOTTEN.lock().unwrap_or_else(PoisonError::into_inner);
        match &change {
            Change::LeasePending { lease, .. } => {
                all.insert(lease.id, change);
                Vec::new()
            }
            Change::LeaseActive { lease } => all.remove(&lease.id).into_iter().chain([change]).collect(),
            _ => vec![change],
        }
    }

    /// Commits the record of a token, or says so before it is done.
    pub async fn commit(ledger: &Arc<dyn Ledger>, changes: Vec<Change>) -> Result<Recorded, LedgerError> {
        if !is(Mutant::AcknowledgeBeforeFsync) {
            return ledger.commit(changes).await;
        }
        let late = ledger.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LATE).await;
            late.commit(changes).await
        });
        ledger.commit(Vec::new()).await
    }
}
