//! What comes of what is presented for a job.

use shorepass_core::claims::{Claim, Claims};
use shorepass_core::digest::Digest;
use shorepass_core::job::{Evidence, VerifiedJob};
use shorepass_core::job_issuer::System;
use shorepass_core::name::Name;
use shorepass_core::time::Timestamp;
use shorepass_rpc::api::Presented;

/// Any token is that of GitLab's job 302.
pub(crate) fn evidence(presented: Presented) -> Evidence {
    if let Presented::Asserted(asserted) = presented {
        return Evidence::Asserted(asserted);
    }
    let mut claims = Claims::default();
    claims.insert("ref", Claim::Text("main".to_owned())).unwrap();
    claims.insert("runner_id", Claim::Number(7)).unwrap();
    Evidence::Verified(VerifiedJob {
        issuer: Name::parse("gitlab").unwrap(),
        system: System::Gitlab,
        id: "302".to_owned(),
        claims,
        replay: Digest::of_bytes(b"token"),
        issued: Timestamp::UNIX_EPOCH,
        spent_until: Timestamp::UNIX_EPOCH,
    })
}
