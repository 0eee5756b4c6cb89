//! The MANIFEST: what is known of the records without opening them.
//!
//! ```text
//! {"format":1,"id":"5f...","generation":1,"sequence":4096,"security":4001,"clean":false}
//! crc32c 1c291ca3
//! ```
//!
//! `sequence` is the high-water mark: audit line `sequence` was in the records once. sled opens a file that was cut short
//! with fewer rows, or none, and no error; records behind the mark are such a file, and never a new ledger. The mark moves
//! at start, after the first line, at shutdown and every [`EVERY`] lines, because each move costs two syncs: of records that lost less than that
//! at their end it proves nothing (the audit file, which is compared too, does). `security` is the same for the second
//! copy of the security state; `id` tells whether files belong together, `generation` counts how often the records were
//! begun anew. `clean` is set by an orderly stop: only after one may the audit file be gone, because it was rotated.

use std::io;
use std::path::Path;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use shorepass_core::time::{Entropy, Timestamp};

use crate::error::OpenError;
use crate::files::{self, Disk};

/// How many audit lines may be written before the mark moves.
pub(crate) const EVERY: u64 = 1024;
const FORMAT: u32 = 1;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Of this ledger and no other.
    pub(crate) id: [u8; 16],
    /// How often its records were begun.
    pub(crate) generation: u64,
    /// An audit line that is in the records.
    pub(crate) sequence: u64,
    /// The last line of the second copy of the security state.
    pub(crate) security: u64,
    /// Whether the issuer stopped in order.
    pub(crate) clean: bool,
    /// When security state was found lost, until that is accepted.
    pub(crate) lost: Option<Timestamp>,
    /// How the ledger had ended before that, where it is known: files that are restored are measured by it.
    pub(crate) before: Option<Before>,
}

/// The end of a ledger that was stopped in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Before {
    /// The last audit line that there was.
    pub(crate) sequence: u64,
    /// The last line of the second copy of the security state.
    pub(crate) security: u64,
}

#[derive(Serialize, Deserialize)]
struct Written {
    format: u32,
    id: String,
    generation: u64,
    sequence: u64,
    security: u64,
    clean: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Before>,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// What there is in the manifest's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No file.
    Nothing,
    /// A file that cannot be read; why.
    Damaged(String),
    /// A manifest.
    Whole(Manifest),
}

impl Found {
    /// The manifest, if there is one that can be read.
    pub(crate) fn manifest(&self) -> Option<&Manifest> {
        match self {
            Self::Whole(manifest) => Some(manifest),
            Self::Nothing | Self::Damaged(_) => None,
        }
    }
}

impl Manifest {
    /// Of a ledger that begins.
    pub(crate) fn generate(entropy: &dyn Entropy) -> Self {
        let mut id = [0; 16];
        entropy.fill(&mut id);
        Self { id, generation: 1, sequence: 0, security: 0, clean: false, lost: None, before: None }
    }

    /// Reads it.
    pub(crate) fn read(path: &Path) -> Result<Found, OpenError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Ok(Found::Damaged("it is not text".to_owned()));
            }
            Err(error) => return Err(OpenError::file(path, error)),
        };
        match serde_json::from_str::<Format>(text.lines().next().unwrap_or_default()) {
            Ok(Format { format }) if format > FORMAT => {
                Err(OpenError::Newer { path: path.to_owned(), found: format!("format {format}") })
            }
            Ok(_) | Err(_) => Ok(parse(&text).map_or_else(Found::Damaged, Found::Whole)),
        }
    }

    /// Replaces the file with this, durably.
    pub(crate) fn write(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        let written = Written {
            format: FORMAT,
            id: HEXLOWER.encode(&self.id),
            generation: self.generation,
            sequence: self.sequence,
            security: self.security,
            clean: self.clean,
            lost: self.lost,
            before: self.before,
        };
        let line = serde_json::to_string(&written).map_err(io::Error::other)?;
        let text = format!("{line}\ncrc32c {:08x}\n", crc32c::crc32c(line.as_bytes()));
        files::replace(disk, path, text.as_bytes()).map(|_| ())
    }
}

fn parse(text: &str) -> Result<Manifest, String> {
    let (line, rest) = text.split_once('\n').ok_or("it is cut short")?;
    if rest != format!("crc32c {:08x}\n", crc32c::crc32c(line.as_bytes())) {
        return Err("its checksum does not match".to_owned());
    }
    let Written { format: _, id, generation, sequence, security, clean, lost, before } =
        serde_json::from_str(line).map_err(|error| error.to_string())?;
    let id = HEXLOWER.decode(id.as_bytes()).ok().and_then(|id| id.try_into().ok());
    let id = id.ok_or("its id is not 16 bytes")?;
    Ok(Manifest { id, generation, sequence, security, clean, lost, before })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Fdatasync;
    use crate::testing::{Seed, second};

    fn manifest() -> Manifest {
        let before = Some(Before { sequence: 6, security: 4 });
        Manifest {
            sequence: 7,
            security: 5,
            lost: Some(second(1)),
            before,
            ..Manifest::generate(&Seed::new(1))
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("MANIFEST");
        assert_eq!(Manifest::read(&path).unwrap(), Found::Nothing);
        for manifest in [manifest(), Manifest { clean: true, lost: None, before: None, ..manifest() }] {
            manifest.write(&Fdatasync, &path).unwrap();
            assert_eq!(Manifest::read(&path).unwrap(), Found::Whole(manifest));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("MANIFEST");
        manifest().write(&Fdatasync, &path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let flipped = (0..whole.len() * 8).map(|bit| {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        for bytes in flipped.chain((0..whole.len()).map(|length| whole[..length].to_vec())) {
            std::fs::write(&path, &bytes).unwrap();
            // A flipped digit of the format looks like a newer one, which is refused as well.
            let read = Manifest::read(&path);
            assert!(matches!(read, Ok(Found::Damaged(_)) | Err(OpenError::Newer { .. })), "{read:?}");
        }
    }

    #[test]
    fn a_newer_format_is_not_taken_for_damage() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("MANIFEST");
        std::fs::write(&path, "{\"format\":2,\"other\":true}\n").unwrap();
        let error = Manifest::read(&path).unwrap_err();
        assert!(matches!(error, OpenError::Newer { .. }), "{error}");
        assert!(error.to_string().contains("format 2"), "{error}");
    }
}
