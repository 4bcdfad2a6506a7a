//! The bytes of a connection: however they are cut, the same frames come out of them, or the same refusal at the same
//! place; and a frame that came out is, written again, the bytes that it was.
//!
//! parser: actors/core/src/oap/frame.rs
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use ron_core::oap::{BadFrame, Frame, decode, encode};

/// With `PLANTED=1` it panics in a place that is hard to get to: `.ci/fuzz-planted` wants it found.
static PLANTED: std::sync::LazyLock<bool> =
    std::sync::LazyLock::new(|| std::env::var_os("PLANTED").is_some());

/// All frames, and what ended them, of bytes that come `step` at a time.
fn frames(bytes: &[u8], step: usize) -> (Vec<Frame>, Result<usize, BadFrame>) {
    let (mut read, mut found) = (BytesMut::new(), Vec::new());
    for some in bytes.chunks(step) {
        read.extend_from_slice(some);
        loop {
            match decode(&mut read) {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(bad) => return (found, Err(bad)),
            }
        }
    }
    (found, Ok(read.len()))
}

fuzz_target!(|input: &[u8]| {
    let Some((step, bytes)) = input.split_first() else { return };
    let (whole, end) = frames(bytes, usize::MAX);
    let (cut, cut_end) = frames(bytes, usize::from(*step).max(1));
    assert_eq!(whole.len(), cut.len());
    assert_eq!(end.map_err(|bad| (bad.code, bad.corr_id)), cut_end.map_err(|bad| (bad.code, bad.corr_id)));
    let planted = whole.len() == 3;
    assert!(!(*PLANTED && planted), "planted");
    let mut again = BytesMut::new();
    for (one, other) in whole.iter().zip(&cut) {
        assert_eq!((one.header, &one.cap, &one.payload), (other.header, &other.cap, &other.payload));
        encode(&one.header, &one.cap, &one.payload, &mut again);
    }
    assert_eq!(&again[..], &bytes[..again.len()]);
});
