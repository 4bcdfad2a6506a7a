//! The examples of `docs/OAP.md`, byte for byte: whoever writes a client checks it against them.

use super::*;

fn frame(header: Header, cap: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut wire = bytes::BytesMut::new();
    encode(&header, cap, payload, &mut wire);
    wire.to_vec()
}

fn asks(corr_id: u64, request: &Request<'_>) -> Vec<u8> {
    let header = Header { flags: REQ, app_proto_id: PROTO_MAILBOX, corr_id, ..Header::default() };
    frame(header, &[], &request.to_vec())
}

fn answers(flags: u16, code: u16, corr_id: u64, fields: &impl serde::Serialize) -> Vec<u8> {
    let header = Header { flags, code, app_proto_id: PROTO_MAILBOX, corr_id, ..Header::default() };
    frame(header, &[], &to_vec(fields))
}

const MSG_ID: [u8; 16] = *b"\x01\x9c\x36\x3a\x55\x98\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00";

const DEFLATED: &[u8] = b"\x28\xb5\x2f\xfd\x24\x74\xbd\x00\x00\x88\x00\x06\x6f\x72\x64\x65\x72\x73\x64\x61\x00\x00\x00\x00\x00\x00\x00\x01\x00\x20\x05\x48\xa2\xcd\x7b\x43";

fn receipt() -> Receipt {
    let mut bytes = [0; 28];
    bytes.iter_mut().zip(1..).for_each(|(byte, n)| *byte = n);
    Receipt(bytes)
}

fn delivered() -> Delivered<'static> {
    Delivered {
        msg_id: MSG_ID,
        receipt: receipt(),
        enqueued_ms: 1_795_366_065_000,
        deadline_ms: 1_795_366_095_000,
        attempt: 1,
        delivery: 1,
        idempotency_key: Some("order-17"),
        content_type: "text/plain",
        attrs: vec![("zone", "eu")],
        payload_hash: *blake3::hash(b"hello").as_bytes(),
        payload: Raw(b"hello"),
        corr_id: "oap-1-0000000000000003",
        source_msg_id: None,
        restored_ms: None,
        body_ref: None,
    }
}

fn connection() -> Vec<(&'static str, Vec<u8>)> {
    let hello = Header { flags: REQ, corr_id: 1, ..Header::default() };
    let start = Header { flags: REQ | START, app_proto_id: PROTO_MAILBOX, corr_id: 2, ..Header::default() };
    let empty = Header { flags: RESP, code: 200, ..start };
    let ended = Header { flags: RESP | END, code: 200, corr_id: 7, ..start };
    let unauth = Error {
        reason: "UNAUTH".into(),
        text: "cap must be a capability's text".into(),
        effect: "none".into(),
        retry_after_ms: None,
    };
    vec![
        ("HELLO", frame(hello, &[], &Hello { ua: None }.to_json())),
        ("a capability (its text here is `ron1_example`)", frame(start, b"ron1_example", &[])),
        ("its answer", frame(empty, &[], &[])),
        ("a refusal", answers(RESP, 401, 2, &unauth)),
        ("the end of a subscription", frame(ended, &[], &[])),
    ]
}

fn sending() -> Vec<(&'static str, Vec<u8>)> {
    let message = Draft {
        payload: Raw(b"hello"),
        content_type: Some("text/plain"),
        idempotency_key: Some("order-17"),
        ttl_ms: Some(60_000),
        attrs: Bounded(vec![("zone", "eu")]),
        ..Draft::default()
    };
    let plain = Draft { payload: Raw(b"hello"), ..Draft::default() };
    let done = Enqueued { msg_id: MSG_ID, duplicate: false, durability: Durability::Fsync };
    let results = vec![
        BatchOutcome::Stored(MSG_ID),
        BatchOutcome::Duplicate(MSG_ID),
        BatchOutcome::Refused("BODY_LIMIT".into()),
    ];
    let batch = EnqueuedBatch { durability: Durability::Fsync, results };
    let messages = Bounded(vec![plain.clone(), message.clone()]);
    vec![
        ("enqueue", asks(3, &Request::Enqueue { topic: "orders", message })),
        (
            "enqueue, with nothing but a payload",
            asks(3, &Request::Enqueue { topic: "orders", message: plain }),
        ),
        ("enqueue, compressed: `a` a hundred times", compressed()),
        ("its answer", answers(RESP, 200, 3, &done)),
        ("enqueue_batch", asks(4, &Request::EnqueueBatch { topic: "orders", messages })),
        ("its answer, of three messages", answers(RESP, 200, 4, &batch)),
    ]
}

/// As the `zstd` program deflates it, level 3; other encoders give other bytes.
fn compressed() -> Vec<u8> {
    let header = Header { flags: REQ | COMP, app_proto_id: PROTO_MAILBOX, corr_id: 3, ..Header::default() };
    frame(header, &[], DEFLATED)
}

/// An object, and a message whose body it is.
fn objects() -> Vec<(&'static str, Vec<u8>)> {
    let object = *blake3::hash(b"hello, world").as_bytes();
    let header = Header { flags: REQ, app_proto_id: PROTO_MAILBOX, corr_id: 12, ..Header::default() };
    let with = |flags: u16| Header { flags: header.flags | flags, ..header };
    let put = Request::Put { object, len: 12 };
    let stored = Stored { object, durability: Durability::Fsync };
    let message = Draft { body_ref: Some(object), ..Draft::default() };
    vec![
        ("put: an object of 12 bytes, `hello, world`", frame(with(START), &[], &put.to_vec())),
        ("its first bytes", frame(header, &[], b"hello, ")),
        ("its last bytes", frame(with(END), &[], b"world")),
        ("the answer", answers(RESP, 200, 12, &stored)),
        ("enqueue, of a message whose body it is", asks(13, &Request::Enqueue { topic: "orders", message })),
    ]
}

fn receiving() -> Vec<(&'static str, Vec<u8>)> {
    let topic = "orders";
    let receipts = || Bounded(vec![receipt()]);
    let visibility_ms = Some(30_000);
    let (max_messages, wait_ms) = (10, 20_000);
    let recv = Request::Recv { topic, max_messages, max_bytes: None, visibility_ms, wait_ms };
    let nack = Request::Nack {
        topic,
        receipts: receipts(),
        mode: Mode::Fail,
        delay_ms: Some(1_000),
        reason: Some("timeout"),
    };
    let settled = Settled { results: vec![None, Some("STALE_RECEIPT".into())] };
    vec![
        ("recv", asks(5, &recv)),
        ("its answer", answers(RESP, 200, 5, &vec![delivered()])),
        ("its answer, if nothing came", answers(RESP, 200, 5, &Vec::<Delivered<'_>>::new())),
        ("subscribe", asks(7, &Request::Subscribe { topic, credit: 100, visibility_ms: None })),
        ("an event", answers(EVENT, 0, 7, &vec![delivered()])),
        ("unsubscribe", asks(8, &Request::Unsubscribe { subscription: 7 })),
        ("ack", asks(9, &Request::Ack { topic, receipts: receipts() })),
        ("nack", asks(10, &nack)),
        ("extend", asks(11, &Request::Extend { topic, receipts: receipts(), visibility_ms: 60_000 })),
        ("an answer to any of these three, of two receipts", answers(RESP, 200, 9, &settled)),
    ]
}

#[test]
fn the_compressed_request_is_what_it_says() {
    let message = Draft { payload: Raw(&[b'a'; 100]), ..Draft::default() };
    let request = Request::Enqueue { topic: "orders", message };
    assert_eq!(inflate(DEFLATED, INFLATED_BYTES_MAX), Ok(request.to_vec()));
}

#[test]
fn the_page_has_the_bytes() {
    let page = include_str!("../../../../docs/OAP.md");
    let examples = page.split_once("## Examples\n").unwrap().1;
    let mut expected = String::new();
    for (title, bytes) in [connection(), sending(), objects(), receiving()].concat() {
        assert_eq!(decode(&mut bytes::BytesMut::from(&bytes[..])).unwrap().unwrap().wire_len(), bytes.len());
        let hex = data_encoding::HEXLOWER.encode(&bytes);
        let lines: Vec<&str> =
            hex.as_bytes().chunks(96).map(|line| std::str::from_utf8(line).unwrap()).collect();
        expected += &format!("\n{title}\n\n```\n{}\n```\n", lines.join("\n"));
    }
    let found = examples.split_once("-->\n").unwrap().1;
    assert!(found == expected, "docs/OAP.md, below the comment, should have:\n{expected}");
}
