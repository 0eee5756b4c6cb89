//! TLS alerts by their names in the standard, and what each means between our own peers.
//!
//! A refused handshake shows the other side nothing but an alert, so the sentence with the remedy has to be here. The
//! issuer's log has the reason in full.

use std::fmt;

/// A TLS alert (RFC 8446, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert(u8);

impl Alert {
    pub(crate) fn new(description: rustls::AlertDescription) -> Self {
        Self(description.into())
    }

    /// Its number.
    pub fn code(self) -> u8 {
        self.0
    }

    /// Its name in the standard.
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            22 => "record_overflow",
            40 => "handshake_failure",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            86 => "inappropriate_fallback",
            90 => "user_canceled",
            109 => "missing_extension",
            110 => "unsupported_extension",
            112 => "unrecognized_name",
            113 => "bad_certificate_status_response",
            115 => "unknown_psk_identity",
            116 => "certificate_required",
            120 => "no_application_protocol",
            _ => "unassigned",
        }
    }

    /// What it means when the issuer sent it, and what to do.
    pub fn meaning(self) -> &'static str {
        match self.0 {
            42 => "the certificate does not name exactly one runner, platform or operator; enrol again",
            43 => "the certificate is not one for clients; enrol again",
            44 => "the certificate was revoked; ask an operator",
            45 => {
                "the certificate has expired or is not valid yet; check this machine's clock, then enrol again"
            }
            46 => "the certificate is not acceptable, such as one of a CA; enrol again",
            48 => {
                "another CA signed the certificate; check that this is the issuer you enrolled with, or enrol again"
            }
            49 => {
                "the certificate is of another trust domain, or of a kind that may not call; check the address"
            }
            51 => "the private key does not belong to the certificate; enrol again",
            70 => "the server does not speak TLS 1.3, so it is no issuer; check the address",
            116 => {
                "this listener requires a client certificate; use the issuer's api address with an identity"
            }
            120 => "the server does not speak HTTP/2, so it is no issuer; check the address",
            _ => "the TLS handshake failed; the issuer's log has the reason",
        }
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

#[cfg(test)]
mod tests {
    use rustls::AlertDescription;

    use super::*;

    #[test]
    fn every_alert_that_we_send_has_a_name_and_a_remedy() {
        for description in [
            AlertDescription::BadCertificate,
            AlertDescription::UnsupportedCertificate,
            AlertDescription::CertificateExpired,
            AlertDescription::CertificateUnknown,
            AlertDescription::UnknownCA,
            AlertDescription::AccessDenied,
            AlertDescription::DecryptError,
            AlertDescription::ProtocolVersion,
            AlertDescription::CertificateRequired,
            AlertDescription::NoApplicationProtocol,
        ] {
            let alert = Alert::new(description);
            assert_ne!(alert.name(), "unassigned", "{description:?}");
            assert_ne!(alert.meaning(), Alert(80).meaning(), "{description:?}");
        }
    }
}
