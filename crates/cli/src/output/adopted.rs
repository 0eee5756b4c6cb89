//! Leases whose records were lost and that were made again from their anchors: what is said of what is not known.

/// In place of what is not known.
pub(crate) const UNKNOWN: &str = "unknown";

/// Said of each such lease.
pub(crate) const SENTENCE: &str = "its record was lost and made again from its anchor: its job is not known";

/// The text, or that it is not known.
pub(crate) fn or_unknown(text: &str) -> String {
    if text.is_empty() { UNKNOWN.to_owned() } else { text.to_owned() }
}

/// The owner's SPIFFE ID, or that it is not known.
pub(crate) fn owner(caller: &str) -> String {
    match caller {
        "" => "not known by name: whoever has the digest that the anchor names".to_owned(),
        caller => caller.to_owned(),
    }
}

/// Why a revocation sets no block, and what does instead; none if it sets one.
pub(crate) fn unblockable(caller: &str, role: &str) -> Option<String> {
    match (caller, role) {
        ("", _) => Some(
            "its owner is not known by name, and may ask for a new lease; to shut a runner out: shorepass ban SPIFFE_ID"
                .to_owned(),
        ),
        (caller, "") => Some(format!(
            "its role is not known, and its owner may ask for a new lease; to shut its owner out of all: shorepass ban {caller}"
        )),
        (_, _) => None,
    }
}

/// Said under a list that has so many of them.
pub(crate) fn note(count: usize) -> String {
    let (leases, their) = match count {
        1 => ("1 lease was".to_owned(), "its record"),
        _ => (format!("{count} leases were"), "their records"),
    };
    format!(
        "\n{leases} adopted from the cluster, because {their} had been lost; see `shorepass lease show`\n"
    )
}
