//! What the roles say now that matters to leases of before: the silence they allow, and whether they are what they were.

use std::collections::HashMap;
use std::time::Duration;

use shorepass_core::digest::Digest;
use shorepass_core::lease::Lease;
use shorepass_core::name::Name;
use shorepass_core::policy::Policy;
use shorepass_core::silence::Silence;

pub(super) struct Roles(HashMap<Name, (Silence, Digest)>);

impl Roles {
    pub(super) fn of(policy: &Policy) -> Self {
        Self(policy.roles().map(|role| (role.name().clone(), (role.silence(), role.digest()))).collect())
    }

    /// By the role as it is now; a role that is gone is as silent about it as one that does not say. Nobody is expected to be
    /// heard of whose name is not known.
    pub(super) fn silence_of(&self, lease: &Lease) -> Option<Duration> {
        let role = lease.role.as_ref().and_then(|role| self.0.get(role));
        let silence = role.map(|(silence, _)| *silence).unwrap_or_default();
        silence.limit(lease.owner.spiffe_id()?.kind)
    }

    /// Whether the role is another one than the lease was granted by, or gone.
    pub(super) fn changed(&self, lease: &Lease) -> bool {
        lease
            .role
            .as_ref()
            .and_then(|role| self.0.get(role))
            .is_none_or(|(_, digest)| *digest != lease.role_digest)
    }
}
