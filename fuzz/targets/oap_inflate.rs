//! A compressed payload: nothing longer than allowed comes out, and nothing at all of what is not one whole frame.
//!
//! parser: actors/core/src/oap/comp.rs
#![no_main]

use libfuzzer_sys::fuzz_target;
use ron_core::oap::inflate;

fuzz_target!(|input: &[u8]| {
    let Some((most, payload)) = input.split_first_chunk::<2>() else { return };
    let most = usize::from(u16::from_le_bytes(*most)) * 16;
    if let Ok(inflated) = inflate(payload, most) {
        assert!(inflated.len() <= most);
        // cut off, or with something behind it, it is not whole
        assert!(inflate(&payload[..payload.len() - 1], most).is_err());
        assert!(inflate(&[payload, &[0]].concat(), most).is_err());
    }
});
