//! The messages of shorepass, generated from `proto/` and nothing more: no services, no logic.
//!
//! Messages that hold a secret do not print it ([`secret`]); a test over the descriptor set finds fields that are named
//! like one and are not on that list.

mod secret;

/// The public API.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/shorepass.v1.rs"));
}

/// What local clients say to the agent over its socket.
pub mod local {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/shorepass.local.v1.rs"));
    }

    /// The longest message on the socket, in bytes.
    pub const MESSAGE_LIMIT: usize = 64 * 1024;
}

/// What the issuer records.
pub mod store {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all)]
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/shorepass.store.v1.rs"));
    }
}

/// All of the above as a `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.binpb"));
