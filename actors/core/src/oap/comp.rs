//! Payloads that come compressed (COMP): one zstd frame (RFC 8878), inflated under a bound.
//!
//! Memory is bounded by what may come out, whatever the frame says of itself: decoding stops one block (128 KiB) beyond
//! the bound at the latest, what it holds until then is the window as well, and the result is one copy of it.

use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Bytes that a payload inflates to, at most.
pub const INFLATED_BYTES_MAX: usize = 8 << 20;

/// Why a payload is not inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadComp {
    /// It would be too long, or asks for too large a window.
    #[error("the payload inflates to more than 8388608 bytes, or its window is larger than that")]
    TooLong,
    /// It is not one whole zstd frame.
    #[error(
        "the payload is not one whole zstd frame without a dictionary (it is cut off, damaged, or something follows it)"
    )]
    Broken,
}

/// Inflates a payload to at most `most` bytes.
///
/// # Errors
/// [`BadComp`].
pub fn inflate(payload: &[u8], most: usize) -> Result<Vec<u8>, BadComp> {
    let mut rest = payload;
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(INFLATED_BYTES_MAX as u64);
    decoder.init(&mut rest).map_err(|error| refused(&error))?;
    let declared = decoder.content_size();
    if declared > most as u64 {
        return Err(BadComp::TooLong);
    }
    // one byte more than allowed shows that it is too long
    let enough = BlockDecodingStrategy::UptoBytes(most + 1);
    let whole = decoder.decode_blocks(&mut rest, enough).map_err(|error| refused(&error))?;
    if !whole {
        return Err(BadComp::TooLong);
    }
    let inflated = decoder.collect().unwrap_or_default();
    if inflated.len() > most {
        return Err(BadComp::TooLong);
    }
    // 0 = it does not say
    let as_declared = declared == 0 || declared == inflated.len() as u64;
    let sum = decoder.get_checksum_from_data();
    let undamaged = sum.is_none() || sum == decoder.get_calculated_checksum();
    if rest.is_empty() && as_declared && undamaged { Ok(inflated) } else { Err(BadComp::Broken) }
}

fn refused(error: &FrameDecoderError) -> BadComp {
    match error {
        FrameDecoderError::WindowSizeTooBig { .. } => BadComp::TooLong,
        _ => BadComp::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    /// A frame without its content's size: magic, a window of 1 KiB, then blocks.
    fn frame_of(blocks: &[&[u8]]) -> Vec<u8> {
        [&[0x28, 0xb5, 0x2f, 0xfd, 0, 0], blocks.concat().as_slice()].concat()
    }

    /// `n` times a byte, as one block of 4 bytes.
    fn run(byte: u8, n: u32, last: bool) -> [u8; 4] {
        let head = (n << 3 | 1 << 1 | u32::from(last)).to_le_bytes();
        [head[0], head[1], head[2], byte]
    }

    proptest! {
        #[test]
        fn what_was_deflated_comes_back(bytes in prop::collection::vec(0u8..4, 0..5_000)) {
            prop_assert_eq!(inflate(&deflated(&bytes), 5_000), Ok(bytes));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..60) {
            let _ = inflate(&bytes, 1 << 16);
            let _ = inflate(&frame_of(&[&bytes]), 1 << 16);
            let mut whole = deflated(&[7; 5_000]);
            let at = cut % whole.len();
            whole[at] ^= bytes.first().copied().unwrap_or(1);
            if let Ok(found) = inflate(&whole, 1 << 16) {
                prop_assert!(found.len() <= 1 << 16);
            }
        }
    }

    #[test]
    fn the_bound_is_exact() {
        let zeros = vec![0; INFLATED_BYTES_MAX];
        let bomb = deflated(&zeros);
        assert!(bomb.len() < 10_000, "{}", bomb.len());
        assert_eq!(inflate(&bomb, INFLATED_BYTES_MAX), Ok(zeros));
        assert_eq!(inflate(&bomb, INFLATED_BYTES_MAX - 1), Err(BadComp::TooLong));
        assert_eq!(inflate(&deflated(&[0; 101]), 100), Err(BadComp::TooLong));
        assert_eq!(inflate(&deflated(&[]), 0), Ok(Vec::new()));
    }

    #[test]
    fn a_frame_that_does_not_say_how_long_it_is_is_stopped() {
        let block = run(7, 1_000, false);
        let blocks: Vec<&[u8]> = vec![&block; 200_000];
        assert_eq!(inflate(&frame_of(&blocks), INFLATED_BYTES_MAX), Err(BadComp::TooLong));
        let end = run(7, 24, true);
        assert_eq!(inflate(&frame_of(&[&block, &end]), 1_024), Ok(vec![7; 1_024]));
        assert_eq!(inflate(&frame_of(&[&block, &end]), 1_023), Err(BadComp::TooLong));
    }

    #[test]
    fn a_frame_that_says_too_much_is_refused_before_anything_is_inflated() {
        // one segment, its size in 8 bytes: 2^40
        let mut huge = vec![0x28, 0xb5, 0x2f, 0xfd, 0xe0];
        huge.extend_from_slice(&(1u64 << 40).to_le_bytes());
        assert_eq!(inflate(&huge, INFLATED_BYTES_MAX), Err(BadComp::TooLong));
        // a window of 2^41 bytes
        assert_eq!(inflate(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0xf8], INFLATED_BYTES_MAX), Err(BadComp::TooLong));
    }

    #[test]
    fn what_is_not_one_whole_frame_is_broken() {
        let whole = deflated(b"some bytes, and some bytes more, and some bytes more");
        for cut in 0..whole.len() {
            assert_eq!(inflate(&whole[..cut], 1_000), Err(BadComp::Broken), "{cut}");
        }
        assert_eq!(inflate(&[&whole[..], &[0]].concat(), 1_000), Err(BadComp::Broken));
        assert_eq!(inflate(&[&whole[..], &whole].concat(), 1_000), Err(BadComp::Broken));
        assert_eq!(inflate(b"no zstd at all", 1_000), Err(BadComp::Broken));
        // a frame to be skipped, and one that needs a dictionary
        assert_eq!(inflate(&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], 1_000), Err(BadComp::Broken));
        assert_eq!(inflate(&[0x28, 0xb5, 0x2f, 0xfd, 1, 0, 9, 1, 0, 0], 1_000), Err(BadComp::Broken));
    }

    #[test]
    fn a_wrong_size_or_checksum_is_broken() {
        // `zstd` of 1000 zeros, with both
        let mut whole =
            data_encoding::HEXLOWER.decode(b"28b52ffd64e8024d00001000000100e32b80055a074479").unwrap();
        assert_eq!(inflate(&whole, 1_000), Ok(vec![0; 1_000]));
        let last = whole.len() - 1;
        whole[last] ^= 1;
        assert_eq!(inflate(&whole, 1_000), Err(BadComp::Broken));
        whole[last] ^= 1;
        whole[5] ^= 1;
        assert_eq!(inflate(&whole, 1_100), Err(BadComp::Broken));
    }
}
