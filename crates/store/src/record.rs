//! The frame of a stored value: `[version u8][crc32c u32, big-endian][prost message]`.
//!
//! The database has checksums of its own, for its own pages; this one goes with the value wherever it is copied to,
//! the audit file included. It finds accidents. It is no protection against somebody who can write here.

const VERSION: u8 = 1;
const HEADER: usize = 5;

/// Why a stored value is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    /// Too short for a frame.
    #[error("it is cut short")]
    Short,
    /// Written by another version.
    #[error("it has format version {0}, and this program reads version {VERSION} only")]
    Version(u8),
    /// The bytes are not those that were written.
    #[error("its checksum does not match")]
    Checksum,
    /// The frame is whole, and what is in it is not.
    #[error("{0}")]
    Content(String),
}

impl Damage {
    /// Whether a newer version wrote it, so that it is nothing to repair.
    pub(crate) fn is_newer(&self) -> bool {
        matches!(self, Self::Version(found) if *found > VERSION)
    }
}

/// The value to store.
pub(crate) fn frame(message: &impl prost::Message) -> Vec<u8> {
    let payload = message.encode_to_vec();
    let mut value = Vec::with_capacity(HEADER + payload.len());
    value.push(VERSION);
    value.extend_from_slice(&crc32c::crc32c(&payload).to_be_bytes());
    value.extend_from_slice(&payload);
    value
}

/// The message in a stored value.
pub(crate) fn unframe<M: prost::Message + Default>(value: &[u8]) -> Result<M, Damage> {
    let (&version, rest) = value.split_first().ok_or(Damage::Short)?;
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let (checksum, payload) = rest.split_first_chunk::<4>().ok_or(Damage::Short)?;
    if crc32c::crc32c(payload) != u32::from_be_bytes(*checksum) {
        return Err(Damage::Checksum);
    }
    M::decode(payload).map_err(|error| Damage::Content(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shorepass_proto::store::v1::Progress;

    use super::*;

    proptest! {
        #[test]
        fn what_was_framed_is_read_back(sequence: u64) {
            let message = Progress { sequence };
            prop_assert_eq!(unframe(&frame(&message)), Ok(message));
        }

        #[test]
        fn every_flipped_bit_is_noticed(sequence: u64, position in 0_usize..1000) {
            let mut value = frame(&Progress { sequence });
            let bit = position % (value.len() * 8);
            value[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(unframe::<Progress>(&value).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(value: Vec<u8>) {
            let _ = unframe::<Progress>(&value);
        }
    }

    #[test]
    fn a_value_of_another_version_says_so() {
        let mut value = frame(&Progress { sequence: 1 });
        value[0] = 9;
        assert_eq!(unframe::<Progress>(&value), Err(Damage::Version(9)));
        assert_eq!(unframe::<Progress>(&value[..0]), Err(Damage::Short));
        value[0] = VERSION;
        assert_eq!(unframe::<Progress>(&value[..4]), Err(Damage::Short));
    }
}
