//! Wire to domain and back: nothing that was not parsed here reaches the domain.
//!
//! Each request message is taken apart field by field, so that a new field does not compile until somebody reads it.
//! What a peer sent is repeated in errors only escaped and cut short.

pub(crate) mod answers;
pub(crate) mod fields;
pub(crate) mod following;
pub(crate) mod pages;
pub(crate) mod requests;
