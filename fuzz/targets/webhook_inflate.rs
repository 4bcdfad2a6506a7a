//! A compressed webhook from a stranger: no more comes out than allowed, it does not matter how the wire was
//! cut, and nothing is taken that is cut off or has something behind it.
//!
//! Input: the coding (the lowest bit) and the largest ratio, the largest length in KiB, where the wire is
//! cut, the wire.
//!
//! parser: actors/core/src/inflate/mod.rs
//! parser: actors/core/src/inflate/gzip.rs
#![no_main]

use libfuzzer_sys::fuzz_target;
use ron_core::inflate::{BadBody, Bounds, Coding, Inflate};
use ron_core::reason::{Reason, Refusal};

fn inflated(coding: Coding, bounds: Bounds, pieces: &[&[u8]]) -> Result<Vec<u8>, BadBody> {
    let (mut inflate, mut out) = (Inflate::new(coding, bounds), Vec::new());
    for mut piece in pieces.iter().copied() {
        loop {
            let made = inflate.take(&mut piece)?;
            if made.is_empty() {
                break;
            }
            out.extend_from_slice(made);
            assert!(out.len() <= bounds.bytes_max);
        }
    }
    let room = inflate.end_bytes();
    let rest = inflate.end()?;
    assert!(rest.len() <= room);
    out.extend_from_slice(rest);
    Ok(out)
}

fuzz_target!(|input: &[u8]| {
    let Some(([how, kib, cut], wire)) = input.split_first_chunk::<3>() else { return };
    let coding = Coding::ALL[usize::from(how & 1)];
    assert_eq!(Coding::parse(&coding.name().to_uppercase()), Some(coding));
    let bounds = Bounds { max_ratio: u32::from(how >> 1) + 1, bytes_max: usize::from(*kib) * 1024 };
    let whole = inflated(coding, bounds, &[wire]);
    let (front, back) = wire.split_at(wire.len().min(usize::from(*cut)));
    assert_eq!(inflated(coding, bounds, &[front, back]), whole);
    let single: Vec<&[u8]> = wire.chunks(1).take(4_096).collect();
    if single.len() == wire.len() {
        assert_eq!(inflated(coding, bounds, &single), whole);
    }
    if let Err(bad) = whole {
        let reason = Refusal::from(bad).reason;
        assert!(matches!(
            (bad, reason),
            (BadBody::Broken(_), Reason::Malformed)
                | (BadBody::Size(_) | BadBody::Ratio(_), Reason::DecompLimit)
        ));
    }
    if let Ok(whole) = whole {
        assert!(whole.len() <= bounds.allowed(wire.len()));
        assert!(inflated(coding, bounds, &[&wire[..wire.len() - 1]]).is_err());
        assert!(inflated(coding, bounds, &[wire, &[0]]).is_err());
        assert!(inflated(coding, bounds, &[wire, wire]).is_err());
    }
});
