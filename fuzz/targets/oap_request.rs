//! The payload of a request: what is read, written again, reads the same.
//!
//! parser: actors/core/src/oap/payload.rs
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use ron_core::oap::{self, Header, PROTO_MAILBOX};

/// A request's: the flag REQ.
const HEADER: Header = Header { flags: 1, code: 0, app_proto_id: PROTO_MAILBOX, tenant_id: 0, corr_id: 1 };

fuzz_target!(|payload: &[u8]| {
    if let Ok(request) = oap::read(payload) {
        assert_eq!(Some(&request.op()), payload.first(), "the op is the first byte");
        let again = request.to_vec();
        assert!(again.len() <= payload.len(), "a number may be written longer than it must, never shorter");
        assert_eq!(oap::read(&again).ok(), Some(request.clone()));
        let mut wire = BytesMut::new();
        oap::encode_fields(&HEADER, &request, &mut wire);
        let frame = oap::decode(&mut wire).ok().flatten();
        assert_eq!(frame.map(|frame| frame.payload), Some(again.into()), "in a frame it is the same");
    }
});
