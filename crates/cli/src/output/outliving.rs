//! What a token does when the issuer is not there to end it at its lease's deadline.
//!
//! Kubernetes gives no token less than 600 s, so the issuer deletes the anchor of a shorter lease, and of every lease near
//! its end. If it is down then, or the API server cannot be reached, the newest token lives to its own expiry and 70 s:
//! the API server's leeway of a minute, and the 10 s of its cache. An unbound lease has no anchor: its token does so whoever
//! runs.

use std::time::Duration;

use shorepass_core::time::{Timestamp, after};

/// The leeway and the cache of an API server.
const SOFT_END: Duration = Duration::from_secs(70);

/// Until when the newest token may be accepted if nobody deletes the anchor; none where that is within the deadline.
pub(crate) fn without_issuer(deadline: Option<Timestamp>, expires: Option<Timestamp>) -> Option<Timestamp> {
    let end = after(expires?, SOFT_END);
    (end > deadline?).then_some(end)
}

/// What stands below a list with such leases, `unbound` ones among them.
pub(crate) fn note(with_anchor: usize, unbound: usize) -> String {
    let which = |count: usize, what: &str| match count {
        1 => format!("1 {what}lease has"),
        _ => format!("{count} {what}leases have"),
    };
    let mut lines = Vec::new();
    if with_anchor > 0 {
        lines.push(format!(
            "{} a token that outlives the deadline where no running issuer deletes the anchor: `shorepass lease show`\n",
            which(with_anchor, "")
        ));
    }
    if unbound > 0 {
        lines.push(format!(
            "{} a token that outlives the deadline, and nothing ends it: `shorepass lease show`\n",
            which(unbound, "UNBOUND ")
        ));
    }
    lines.into_iter().map(|line| format!("\n{line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_leases_with_an_anchor_are_said_to_depend_on_the_issuer() {
        assert_eq!(note(0, 0), "");
        let told = note(2, 1);
        assert_eq!(told.lines().count(), 4, "{told}");
        assert!(told.starts_with("\n2 leases have") && told.contains("deletes the anchor"), "{told}");
        let unbound = note(0, 1);
        assert!(unbound.contains("1 UNBOUND lease has a token that outlives the deadline"), "{unbound}");
        assert!(!unbound.contains("anchor") && !unbound.contains("issuer"), "{unbound}");
    }

    #[test]
    fn only_a_token_that_outlives_its_lease_is_told_of() {
        let second = |second| Some(Timestamp::from_second(second).unwrap());
        assert_eq!(without_issuer(second(30), second(600)), second(670));
        assert_eq!(without_issuer(second(670), second(600)), None);
        assert_eq!(without_issuer(None, second(600)), None);
        assert_eq!(without_issuer(second(30), None), None);
    }
}
