//! A CA that is to be followed by another one: which of the two signs, which are trusted, and until when.
//!
//! All of a rotation is in one file, replaced by rename: the next key, its certificate, the same as the former CA signs it,
//! the former certificate, and two moments. What holds follows from the file and the time alone, so that a crash leaves
//! nothing half done. Until `switch` the former CA signs and both are trusted, so that everybody learns of the next one;
//! until `end` the next one signs and both are trusted; then `ca.key` and `ca.pem` become what is in here, and the file
//! goes. From the switch on nobody looks at these two, so it does not matter which of them a crash has left behind.
//!
//! The certificate that the former CA has signed is served beside the next CA's own: whoever knows only the former one finds
//! the way to it. That is for our own clients; others keep to a path length that it goes beyond, and need the announcement.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use shorepass_core::name::TrustDomain;
use shorepass_core::time::{Entropy, Timestamp, after};

use super::AuthorityError;
use super::stored::{self, Signer};
use crate::file;
use crate::key::PrivateKey;
use crate::leaf;
use crate::pem;

/// Its name in the directory.
pub(super) const ROTATION_FILE: &str = "ca.rotation";
const HEAD: &str = "shorepass CA rotation, version 1";

/// How far a rotation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is none.
    Settled,
    /// The next CA is told to everybody, and the former one signs.
    Announced {
        /// When the next one begins to.
        switch: Timestamp,
        /// When the former one is not trusted any more.
        end: Timestamp,
    },
    /// The next CA signs, and the former one is still trusted.
    Overlapping {
        /// When it is not any more.
        end: Timestamp,
    },
}

/// How long what lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationPlan {
    /// Until the next CA signs; longer than any certificate lives, so that everybody has learnt of it.
    pub announce: Duration,
    /// From then on until the former CA is not trusted any more; as long again, so that no certificate of it is cut short.
    pub overlap: Duration,
}

/// Why no rotation began.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// There is one already.
    #[error("a rotation of the CA is under way until {0}; the next one can begin after that")]
    UnderWay(Timestamp),
    /// Nothing was made.
    #[error("cannot make the next CA")]
    Make(#[source] AuthorityError),
}

/// What the file says.
pub(super) struct Rotation {
    pub(super) next: Arc<Signer>,
    /// The next CA's certificate, as the former CA has signed it.
    pub(super) bridge: CertificateDer<'static>,
    pub(super) former: CertificateDer<'static>,
    pub(super) switch: Timestamp,
    pub(super) end: Timestamp,
}

impl Rotation {
    /// A next CA after this one.
    pub(super) fn begin(
        former: &Signer,
        trust_domain: &TrustDomain,
        plan: RotationPlan,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Self, AuthorityError> {
        let key = PrivateKey::generate().map_err(AuthorityError::MakeKey)?;
        let params = stored::params(&key, trust_domain, now, entropy);
        let certificate = params.self_signed(key.pair()).map_err(AuthorityError::Make)?.der().clone();
        let bridge = former.sign(&params, key.pair()).map_err(AuthorityError::Make)?;
        let switch = after(now, plan.announce);
        Ok(Self {
            next: Arc::new(Signer::new(key, vec![certificate])),
            bridge,
            former: former.certificate().clone(),
            switch,
            end: after(switch, plan.overlap),
        })
    }

    /// What is in the directory; none if there is none.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, AuthorityError> {
        let path = directory.join(ROTATION_FILE);
        let Some(text) = file::read_private(&path).map_err(AuthorityError::File)? else { return Ok(None) };
        Self::parse(&text).map(Some).ok_or(AuthorityError::Rotation { path })
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        if lines.next()? != HEAD {
            return None;
        }
        let switch: Timestamp = lines.next()?.strip_prefix("switch ")?.parse().ok()?;
        let end: Timestamp = lines.next()?.strip_prefix("end ")?.parse().ok()?;
        let key = PrivateKey::parse(text).ok()?;
        let [next, bridge, former] = <[_; 3]>::try_from(pem::certificates(text).ok()?).ok()?;
        let ours = [&next, &bridge].map(|der| leaf::authority_key(der) == Some(key.digest()));
        let whole = ours == [true, true] && leaf::authority_key(&former).is_some() && switch <= end;
        whole.then(|| Self { next: Arc::new(Signer::new(key, vec![next])), bridge, former, switch, end })
    }

    /// Writes it down, durably.
    pub(super) fn write(&self, directory: &Path) -> Result<(), AuthorityError> {
        let key = self.next.key().expose();
        let certificates =
            [self.next.certificate(), &self.bridge, &self.former].map(|der| pem::certificate(der));
        let head = format!("{HEAD}\nswitch {}\nend {}\n", self.switch, self.end);
        let parts = [&[head.as_str(), &key], certificates.each_ref().map(String::as_str).as_slice()].concat();
        let mut text =
            zeroize::Zeroizing::new(String::with_capacity(parts.iter().map(|part| part.len()).sum()));
        parts.iter().for_each(|part| text.push_str(part));
        file::replace_private(&directory.join(ROTATION_FILE), text.as_bytes()).map_err(AuthorityError::File)
    }

    /// Makes the next CA the only one. Each step may be repeated, and the last one makes it so.
    pub(super) fn settle(&self, directory: &Path) -> Result<(), AuthorityError> {
        self.next.write(directory)?;
        file::remove(&directory.join(ROTATION_FILE)).map_err(AuthorityError::File)
    }
}
