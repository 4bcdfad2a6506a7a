//! The payload of a request: what is read, written again, reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ron_core::oap;

fuzz_target!(|payload: &[u8]| {
    if let Ok(request) = oap::read(payload) {
        let again = request.to_vec();
        assert!(again.len() <= payload.len(), "a number may be written longer than it must, never shorter");
        assert_eq!(oap::read(&again).ok(), Some(request));
    }
});
