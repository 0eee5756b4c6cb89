//! Values written as one text: durations, hosts, addresses.
//!
//! Each parser says what it expects with an example, because a person reads it. Names and patterns have their grammar in
//! the core.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// A DNS name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name, without wildcard and final dot.
    Dns(String),
    /// An IP address.
    Address(IpAddr),
}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

/// Why a text is not a host, or not a host and a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Not a host.
    #[error("{0:?} is neither a DNS name (issuer.example.org) nor an address (192.0.2.1)")]
    Host(String),
    /// Not a host and a port.
    #[error("{0:?} is not host:port, such as issuer.example.org:8443 or [2001:db8::1]:8443")]
    HostPort(String),
}

impl Host {
    /// Parses `issuer.example.org`, `192.0.2.1` or `2001:db8::1`.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if is_dns_name(text) {
            return Ok(Self::Dns(text.to_ascii_lowercase()));
        }
        Err(HostError::Host(text.to_owned()))
    }
}

impl fmt::Display for Host {
    /// As in a certificate: an IPv6 address has no brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

impl HostPort {
    /// Parses `issuer.example.org:8443`, `192.0.2.1:8443` or `[2001:db8::1]:8443`.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let refused = || HostError::HostPort(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            Some(inner) => Host::Address(IpAddr::V6(inner.parse::<Ipv6Addr>().map_err(|_| refused())?)),
            None if host.contains(':') => return Err(refused()),
            None => Host::parse(host).map_err(|_| refused())?,
        };
        let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(refused)?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostPort {
    /// As it is written: an IPv6 address has brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name whose last label is a number is a mistyped address (RFC 1123, 2.1).
    let mistyped_address =
        text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    text.len() <= 253 && text.split('.').all(label) && !mistyped_address
}

/// `90s`, `30m`, `6h`, `1h30m`: whole numbers with units, each unit at most once, the larger first.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused =
        || format!("{text:?} is not a duration: write a number with s, m or h, such as 90s, 30m or 1h30m");
    let mut rest = text;
    let mut units = [('h', 3600), ('m', 60), ('s', 1)].into_iter();
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| refused())?;
        let unit = rest[digits..].chars().next().ok_or_else(refused)?;
        let (_, seconds) = units.find(|(letter, _)| *letter == unit).ok_or_else(refused)?;
        total = number.checked_mul(seconds).and_then(|part| total.checked_add(part)).ok_or_else(refused)?;
        rest = &rest[digits + unit.len_utf8()..];
    }
    if text.is_empty() { Err(refused()) } else { Ok(Duration::from_secs(total)) }
}

/// A duration of whole seconds as `parse_duration` reads it, in its largest whole unit.
pub fn spell_duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds > 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

/// The URL of an API server: https, a host, perhaps a port and a path.
pub(crate) fn parse_server_url(text: &str) -> Result<String, String> {
    let refused =
        || format!("{text:?} is not the URL of an API server, such as https://kubernetes.example.org:6443");
    let rest = text.strip_prefix("https://").ok_or_else(refused)?;
    let authority = rest.split('/').next().unwrap_or(rest);
    let bracketed = |inner: &str| inner.parse::<Ipv6Addr>().is_ok();
    let well_formed = match authority.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => bracketed(inner),
        None => {
            Host::parse(authority).is_ok_and(|_| !bracketed(authority)) || HostPort::parse(authority).is_ok()
        }
    };
    let printable = rest.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'@'));
    if well_formed && printable { Ok(text.trim_end_matches('/').to_owned()) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, seconds) in
            [("90s", 90), ("30m", 1_800), ("6h", 21_600), ("1h30m", 5_400), ("1h0m5s", 3_605)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "30",
            "m",
            "1.5h",
            "-1s",
            "+1s",
            "5 m",
            "1m1h",
            "1m1m",
            "5d",
            "500ms",
            "1H",
            "99999999999999999999s",
            "9999999999999999999h",
            "ä",
            "1ä",
            "½h",
        ] {
            assert!(parse_duration(bad).unwrap_err().contains("30m"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn durations_are_read_as_they_are_spelled(seconds in 0_u64..10_000_000) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse_duration(&spell_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,40}") {
            let _ = (parse_duration(&text), HostPort::parse(&text), Host::parse(&text), parse_server_url(&text));
        }
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for (text, shown) in [("a.example.org", "a.example.org"), ("LOCALHOST", "localhost"), ("::1", "::1")]
        {
            assert_eq!(Host::parse(text).unwrap().to_string(), shown);
        }
        for bad in ["", "*.example.org", "a..b", "-a", "a_b", "10.0.0.300", "a.", "https://a", "a b"] {
            assert!(Host::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_and_port_print_as_they_are_written() {
        for text in ["a.example.org:1", "192.0.2.1:65535", "[2001:db8::1]:8443"] {
            assert_eq!(HostPort::parse(text).unwrap().to_string(), text);
        }
        for bad in
            ["", "a", "a:", ":1", "a:0", "a:65536", "2001:db8::1:8443", "[a]:1", "https://a:1", "a:1/x"]
        {
            assert!(HostPort::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn server_urls_are_https_with_a_host() {
        for good in
            ["https://a", "https://a:6443", "https://[::1]:6443", "https://[::1]", "https://a/k8s/clusters/x"]
        {
            assert_eq!(parse_server_url(good).unwrap(), good);
        }
        assert_eq!(parse_server_url("https://a/").unwrap(), "https://a");
        for bad in [
            "http://a",
            "a:6443",
            "https://",
            "https:///x",
            "https://u@a",
            "https://a?x",
            "https://a b",
            "https://::1",
        ] {
            assert!(parse_server_url(bad).is_err(), "{bad}");
        }
    }
}
