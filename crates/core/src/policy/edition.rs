//! Which policy decided, among all that were in force one after the other.

use crate::digest::Digest;
use crate::role::Role;

/// What stands for a policy in records and audit lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edition {
    /// Over all documents, in whatever files and order they stand.
    pub digest: Digest,
    /// Counts the policies of one process, from 1: two of one digest may have been in force with others in between.
    pub version: u64,
}

impl Edition {
    /// The first of a process. `roles` are in the order of their names.
    pub(super) fn first<'r>(roles: impl Iterator<Item = &'r Role>) -> Self {
        let digests: Vec<Digest> = roles.map(Role::digest).collect();
        let digest = Digest::of_parts(digests.iter().map(|digest| digest.as_bytes().as_slice()));
        Self { digest, version: 1 }
    }
}
