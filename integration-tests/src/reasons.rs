//! Which reasons clients of this test run were told, so that one that nobody provokes is found.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use shorepass_proto::v1::ErrorReason;
use shorepass_rpc::client::ClientError;

static SEEN: Mutex<BTreeSet<ErrorReason>> = Mutex::new(BTreeSet::new());

/// The answer, noted.
pub fn note<T>(answer: Result<T, ClientError>) -> Result<T, ClientError> {
    if let Err(error) = &answer
        && let Some(reason) = error.reason()
    {
        SEEN.lock().unwrap_or_else(PoisonError::into_inner).insert(reason);
    }
    answer
}

/// What was seen so far.
pub fn seen() -> BTreeSet<ErrorReason> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// All that there are.
pub fn all() -> BTreeSet<ErrorReason> {
    let known = (1..1_000).filter_map(|number| ErrorReason::try_from(number).ok());
    known.filter(|reason| *reason != ErrorReason::Unspecified).collect()
}
