//! Answers as frames: what does not fit into one comes in parts, the first with START and the last with END.

use bytes::BytesMut;
use ron_core::envelope::Delivered as HandedOut;
use ron_core::ids::MessageId;
use ron_core::oap::{
    self, Attr, Delivered, END, Error, FRAME_BYTES_MAX, HEADER_BYTES, Header, PROTO_MAILBOX, RESP, Raw,
    Receipt, START,
};
use ron_core::reason::{Reason, Refusal};
use serde::Serialize;

/// Payload bytes of one part.
const PART_BYTES: usize = FRAME_BYTES_MAX - HEADER_BYTES;

/// Writes a payload under `header`, in as many frames as it takes.
pub(super) fn frames(header: Header, payload: &[u8], to: &mut BytesMut) {
    if payload.len() <= PART_BYTES {
        return oap::encode(&header, &[], payload, to);
    }
    let parts = payload.chunks(PART_BYTES);
    let last = parts.len() - 1;
    for (n, part) in parts.enumerate() {
        let more = if n == 0 {
            START
        } else if n == last {
            END
        } else {
            0
        };
        oap::encode(&Header { flags: header.flags | more, ..header }, &[], part, to);
    }
}

/// The header of an answer.
pub(super) fn header(app_proto_id: u16, corr_id: u64, code: u16) -> Header {
    Header { flags: RESP, code, app_proto_id, tenant_id: 0, corr_id }
}

/// An answer of this postcard, which fits into one frame.
pub(super) fn ok(corr_id: u64, payload: &impl Serialize, to: &mut BytesMut) {
    oap::encode_fields(&header(PROTO_MAILBOX, corr_id, 200), payload, to);
}

/// An answer without a payload.
pub(super) fn empty(corr_id: u64, to: &mut BytesMut) {
    oap::encode(&header(PROTO_MAILBOX, corr_id, 200), &[], &[], to);
}

/// The answer to a refused request. `more` = further flags.
pub(super) fn refused(app_proto_id: u16, corr_id: u64, refusal: &Refusal, more: u16, to: &mut BytesMut) {
    let error = Error {
        reason: refusal.reason.code().to_owned(),
        text: refusal.text.to_string(),
        effect: refusal.effect.label().to_owned(),
        retry_after_ms: refusal.retry_after_ms,
    };
    let payload = oap::to_vec(&error);
    let header = header(app_proto_id, corr_id, refusal.reason.status());
    oap::encode(&Header { flags: header.flags | more, ..header }, &[], &payload, to);
}

/// The 16 bytes of an id.
pub(super) fn id(id: MessageId) -> [u8; 16] {
    id.to_bytes()
}

/// Messages as they are handed out.
pub(super) fn messages(all: &[HandedOut]) -> Vec<u8> {
    let sources: Vec<Option<String>> = all.iter().map(HandedOut::source_msg_id).collect();
    let one = |(of, source): (&'_ HandedOut, &'_ Option<String>)| -> Vec<u8> {
        let meta = &of.message.meta;
        let attrs: Vec<Attr<'_>> =
            meta.attrs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let delivered = Delivered {
            msg_id: id(of.msg_id),
            receipt: Receipt(of.receipt.to_bytes()),
            enqueued_ms: of.message.enqueued.0,
            deadline_ms: of.deadline.0,
            attempt: of.attempt,
            delivery: of.delivery,
            idempotency_key: meta.idempotency_key.as_deref(),
            content_type: &meta.content_type,
            attrs,
            payload_hash: of.message.payload_hash.0,
            payload: Raw(&of.message.payload),
            corr_id: &meta.corr_id,
            source_msg_id: source.as_deref(),
            restored_ms: of.restored_at.map(|at| at.0),
            body_ref: meta.body_ref.map(|hash| hash.0),
        };
        oap::to_vec(&delivered)
    };
    // a postcard list is its length, and then its entries
    let mut payload = oap::to_vec(&(all.len() as u64));
    all.iter().zip(&sources).map(one).for_each(|one| payload.extend(one));
    payload
}

/// What somebody sent that is no request.
pub(super) fn malformed(text: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(Reason::Malformed, text)
}
