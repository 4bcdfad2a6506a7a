//! OAP/1, the binary protocol of the mailbox (SPEC §10), as pure code: frames, and what is in them.
//!
//! `docs/OAP.md` says the same in words and hex for whoever writes a client; a test compares the two.

mod answers;
mod comp;
mod frame;
mod payload;
#[cfg(test)]
mod vectors;

pub use answers::{BatchOutcome, Delivered, Durability, Enqueued, EnqueuedBatch, Error, Settled, Stored};
pub use comp::{BadComp, INFLATED_BYTES_MAX, inflate};
pub use frame::{
    ACK_REQ, APP_E2E, BadFrame, COMP, END, EVENT, FLAGS, FRAME_BYTES_MAX, Frame, HEADER_BYTES, Header, REQ,
    RESP, START, VERSION, decode, encode,
};
pub use payload::{
    Attr, BadPayload, Bounded, DATA_BYTES_MAX, Draft, Hello, HelloAnswer, LIST_MAX, List, Mode, Raw, Receipt,
    ReceiptBytes, Request, encode_fields, read, to_vec,
};

use crate::ids::Tenant;

/// `app_proto_id` of HELLO.
pub const PROTO_HELLO: u16 = 0;
/// `app_proto_id` of the mailbox.
pub const PROTO_MAILBOX: u16 = 0x0201;

/// The `tenant_id` of a tenant: the first 16 bytes of `blake3("ron-tenant" ‖ tenant)`, big-endian.
#[must_use]
pub fn tenant_id(tenant: &Tenant) -> u128 {
    let hash = blake3::Hasher::new().update(b"ron-tenant").update(tenant.as_str().as_bytes()).finalize();
    let mut first = [0; 16];
    first.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_be_bytes(first)
}
