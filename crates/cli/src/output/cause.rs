//! Why leases end, by name: for people and programs alike.

use shorepass_proto::v1;

/// The name of a cause.
pub(crate) fn cause(cause: v1::EndCause) -> &'static str {
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
        v1::EndCause::EnrolmentCloned => "runner-cloned",
        v1::EndCause::Silent => "silence",
        v1::EndCause::RoleChanged => "role-changed",
        v1::EndCause::OwnerBanned => "owner-banned",
    }
}
