//! Frames of OAP/1 and the requests in them.

use crate::{BATCH, payload};
use bytes::{Bytes, BytesMut};
use gungraun::{library_benchmark, library_benchmark_group};
use ron_core::oap::{
    Attr, Bounded, Delivered, Draft, Durability, Enqueued, Header, List, PROTO_MAILBOX, REQ, RESP, Raw,
    Receipt, Request, decode, encode, encode_fields, read,
};
use std::hint::black_box;

const ATTRS: [Attr<'static>; 2] = [("source", "shop"), ("trace", "4bf92f3577b34da6a3ce929d0e0e4736")];

fn header(flags: u16, corr_id: u64) -> Header {
    Header {
        flags,
        app_proto_id: PROTO_MAILBOX,
        tenant_id: 0x0123_4567_89ab_cdef,
        corr_id,
        ..Header::default()
    }
}

fn draft(payload: &[u8]) -> Draft<'_> {
    let content_type = Some("application/json");
    Draft { payload: Raw(payload), content_type, attrs: Bounded(ATTRS.to_vec()), ..Draft::default() }
}

fn payloads() -> Vec<Vec<u8>> {
    (0..BATCH).map(payload).collect()
}

/// A buffer that need not grow.
fn buffer() -> BytesMut {
    BytesMut::with_capacity(BATCH * 512)
}

/// What a client wrote before it read an answer: a send in each frame.
fn sends() -> BytesMut {
    let mut wire = buffer();
    for (at, payload) in payloads().iter().enumerate() {
        let request = Request::Enqueue { topic: "orders", message: draft(payload) };
        encode(&header(REQ, at as u64), &[], &request.to_vec(), &mut wire);
    }
    wire
}

/// The same messages as one request.
fn batch() -> Bytes {
    let payloads = payloads();
    let messages: List<Draft<'_>> = Bounded(payloads.iter().map(|payload| draft(payload)).collect());
    Request::EnqueueBatch { topic: "orders", messages }.to_vec().into()
}

#[library_benchmark]
#[bench::sends_64(payloads(), buffer())]
fn write_requests(payloads: Vec<Vec<u8>>, mut wire: BytesMut) -> BytesMut {
    for (at, payload) in payloads.iter().enumerate() {
        let request = Request::Enqueue { topic: "orders", message: draft(payload) };
        encode_fields(&header(REQ, at as u64), &request, &mut wire);
    }
    wire
}

#[library_benchmark]
#[bench::sends_64(sends())]
fn read_requests(mut wire: BytesMut) -> (BytesMut, usize) {
    let mut bytes = 0;
    while let Some(frame) = decode(&mut wire).unwrap() {
        let Request::Enqueue { message, .. } = black_box(read(&frame.payload).unwrap()) else { panic!() };
        bytes += message.payload.0.len();
    }
    assert_eq!(bytes, BATCH * 256);
    (wire, bytes)
}

#[library_benchmark]
#[bench::of_64(batch())]
fn read_batch(request: Bytes) -> usize {
    let Request::EnqueueBatch { messages, .. } = black_box(read(&request).unwrap()) else { panic!() };
    assert_eq!(messages.0.len(), BATCH);
    messages.0.len()
}

#[library_benchmark]
#[bench::sends_64(buffer())]
fn write_answers(mut wire: BytesMut) -> BytesMut {
    for at in 0..BATCH as u64 {
        let stored = Enqueued { msg_id: [at as u8; 16], duplicate: false, durability: Durability::Fsync };
        encode_fields(&Header { code: 200, ..header(RESP, at) }, &stored, &mut wire);
    }
    wire
}

#[library_benchmark]
#[bench::of_64(payloads(), buffer())]
fn write_deliveries(payloads: Vec<Vec<u8>>, mut wire: BytesMut) -> BytesMut {
    let deliveries: Vec<Delivered<'_>> = payloads.iter().enumerate().map(delivered).collect();
    encode_fields(&Header { code: 200, ..header(RESP, 7) }, &deliveries, &mut wire);
    wire
}

fn delivered((at, payload): (usize, &Vec<u8>)) -> Delivered<'_> {
    Delivered {
        msg_id: [at as u8; 16],
        receipt: Receipt([at as u8; 28]),
        enqueued_ms: 1_795_366_065_000,
        deadline_ms: 1_795_366_095_000,
        attempt: 1,
        delivery: 1,
        idempotency_key: None,
        content_type: "application/json",
        attrs: ATTRS.to_vec(),
        payload_hash: [at as u8; 32],
        payload: Raw(payload),
        corr_id: "01KAPZ5Q3N8Z6W4T2R0V9X7Y5B",
        source_msg_id: None,
        restored_ms: None,
        body_ref: None,
    }
}

library_benchmark_group!(
    name = oap,
    benchmarks = [write_requests, read_requests, read_batch, write_answers, write_deliveries]
);
