//! Compressed payloads over OAP/1: they mean what they inflate to, and nothing inflates without a bound.

use crate::harness::{Setup, TestNode};
use crate::mailbox::{depths, recv};
use crate::oap_wire::{Came, Oap, header};
use ron_core::oap::{
    BatchOutcome, Bounded, COMP, Delivered, Draft, Enqueued, EnqueuedBatch, Header, PROTO_HELLO, Raw,
    Request, START,
};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;
use std::io::Write;

fn deflated(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

fn enqueue(payload: &[u8]) -> Vec<u8> {
    let message = Draft { payload: Raw(payload), ..Draft::default() };
    Request::Enqueue { topic: "t", message }.to_vec()
}

fn batch(payload: &[u8], count: usize) -> Vec<u8> {
    let message = Draft { payload: Raw(payload), ..Draft::default() };
    Request::EnqueueBatch { topic: "t", messages: Bounded(vec![message; count]) }.to_vec()
}

/// The answer to a payload that says it is compressed.
fn call(oap: &mut Oap, payload: &[u8]) -> Came {
    let asked = Header { flags: header(0).flags | COMP, ..header(oap.corr_id()) };
    oap.send(&asked, &[], payload);
    let came = oap.came();
    assert_eq!(came.header.corr_id, asked.corr_id);
    assert!(!came.header.has(COMP), "answers are never compressed");
    came
}

fn open() -> (TestNode, Oap) {
    let node = Setup::new().start();
    let oap = Oap::open(&node, &node.token());
    (node, oap)
}

#[test]
fn a_compressed_request_means_what_it_inflates_to() {
    let (node, mut oap) = open();
    let flags = oap.hello()["flags_supported"].as_u64().unwrap();
    assert_eq!(flags & u64::from(COMP), u64::from(COMP));
    // longer than any frame: 1 MiB, and a little more of the request around it
    let longest = vec![7; 1 << 20];
    assert!(!call(&mut oap, &deflated(&enqueue(&longest))).read::<Enqueued>().duplicate);
    let answered: EnqueuedBatch = call(&mut oap, &deflated(&batch(&[b'x'; 16_384], 256))).read();
    assert!(answered.results.iter().all(|one| matches!(one, BatchOutcome::Stored(_))));
    assert_eq!(depths(&node.mailbox(), "t"), [257, 0, 0, 0]);

    let ask = Request::Recv { topic: "t", max_messages: 2, max_bytes: None, visibility_ms: None, wait_ms: 0 };
    let came = call(&mut oap, &deflated(&ask.to_vec()));
    let delivered: Vec<Delivered<'_>> = came.read();
    assert_eq!(delivered[0].payload.0, longest);
    assert_eq!(delivered[1].payload.0, [b'x'; 16_384]);
    assert_eq!(recv(&node.mailbox(), "t", &json!({"max_messages": 200})).len(), 200);
}

#[test]
fn its_limits_are_those_of_what_it_inflates_to() {
    let (node, mut oap) = open();
    let too_long = vec![7; (1 << 20) + 1];
    assert!(call(&mut oap, &deflated(&enqueue(&too_long))).refused(413, "BODY_LIMIT").contains("1 MiB"));
    let too_many = deflated(&batch(&[b'x'; 16_385], 256));
    assert!(call(&mut oap, &too_many).refused(413, "BODY_LIMIT").contains("4 MiB"));
    let narrow = node.mint(&json!({"ops": ["enqueue"], "max_bytes": 1000}));
    assert_eq!(oap.start(&narrow).header.code, 200);
    call(&mut oap, &deflated(&enqueue(&[0; 1001]))).refused(403, "SCOPE_MISMATCH");
    assert_eq!(node.mailbox().get("/v1/acme/t").status, 404, "nothing of it was stored");
    let _: Enqueued = call(&mut oap, &deflated(&enqueue(&[0; 1000]))).read();

    // far more than the window together: what is inflated counts against it until it is answered
    assert_eq!(oap.start(&node.token()).header.code, 200);
    let deflated = deflated(&enqueue(&vec![1; 1 << 20]));
    let asked: Vec<u64> = (0..24)
        .map(|_| {
            let asked = Header { flags: header(0).flags | COMP, ..header(oap.corr_id()) };
            oap.send(&asked, &[], &deflated);
            asked.corr_id
        })
        .collect();
    let mut answered: Vec<u64> = asked
        .iter()
        .map(|_| {
            let came = oap.came();
            let _: Enqueued = came.read();
            came.header.corr_id
        })
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, asked);
    assert_eq!(depths(&node.mailbox(), "t"), [25, 0, 0, 0]);
}

#[test]
fn a_bomb_ends_its_connection_and_no_other() {
    let (node, mut other) = open();
    let eight = vec![0; 8 << 20];
    let bombs = [
        deflated(&[&eight[..], &[0]].concat()),
        // one segment of 2^40 bytes, and a window of 16 MiB
        [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &(1u64 << 40).to_le_bytes(), &[1, 0, 0]].concat(),
        vec![0x28, 0xb5, 0x2f, 0xfd, 0, 14 << 3, 1, 0, 0],
    ];
    for bomb in bombs {
        assert!(bomb.len() < 10_000);
        let mut oap = Oap::open(&node, &node.token());
        assert!(call(&mut oap, &bomb).refused(413, "BODY_LIMIT").contains("8388608"));
        assert!(oap.is_closed());
    }
    // as much as may be, and it is no request
    call(&mut other, &deflated(&eight)).refused(400, "MALFORMED");
    let _: Enqueued = call(&mut other, &deflated(&enqueue(b"fine"))).read();
    assert_eq!(depths(&node.mailbox(), "t"), [1, 0, 0, 0]);
    assert_eq!(node.control().get("/ctl/status").json(200)["ready"], true);
}

#[test]
fn what_is_no_whole_zstd_frame_is_refused_and_the_connection_goes_on() {
    let (node, mut oap) = open();
    let plain = enqueue(b"some bytes, some bytes, some bytes");
    let whole = deflated(&plain);
    for cut in 0..whole.len() {
        call(&mut oap, &whole[..cut]).refused(400, "MALFORMED");
    }
    assert!(call(&mut oap, &[&whole[..], &[0]].concat()).refused(400, "MALFORMED").contains("zstd"));
    call(&mut oap, &plain).refused(400, "MALFORMED");
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    call(&mut oap, &damaged).refused(400, "MALFORMED");
    assert_eq!(node.mailbox().get("/v1/acme/t").status, 404, "nothing of it was stored");
    let _: Enqueued = call(&mut oap, &whole).read();

    // `len` one short: the frame is broken, and so is what follows it
    let mut wire = bytes::BytesMut::new();
    let asked = Header { flags: header(0).flags | COMP, ..header(900) };
    ron_core::oap::encode(&asked, &[], &whole, &mut wire);
    let len = u32::try_from(wire.len() - 1).unwrap();
    wire[..4].copy_from_slice(&len.to_be_bytes());
    oap.socket.write_all(&wire).unwrap();
    oap.came().refused(400, "MALFORMED");
    oap.socket.write_all(&[0; 38]).unwrap();
    oap.came().refused(400, "MALFORMED");
    assert!(oap.is_closed());
    assert_eq!(depths(&node.mailbox(), "t"), [1, 0, 0, 0]);
}

#[test]
fn only_requests_after_a_capability_are_compressed() {
    let node = Setup::new().start();
    let mut oap = Oap::connect(&node);
    let compressed = |corr_id| Header { flags: header(0).flags | COMP, ..header(corr_id) };
    let hello = Header { app_proto_id: PROTO_HELLO, ..compressed(1) };
    oap.send(&hello, &[], &deflated(br#"{"ua":null}"#));
    assert!(oap.came().refused(415, "UNSUPPORTED_ENCODING").contains("after a capability"));
    let start = Header { flags: compressed(0).flags | START, ..header(2) };
    oap.send(&start, node.token().as_bytes(), &[]);
    oap.came().refused(415, "UNSUPPORTED_ENCODING");
    // a stranger makes the node inflate nothing
    oap.send(&compressed(3), &[], &deflated(&vec![0; 9 << 20]));
    oap.came().refused(401, "UNAUTH");
    assert_eq!(oap.start(&node.token()).header.code, 200, "and the connection goes on");
    let _: Enqueued = call(&mut oap, &deflated(&enqueue(b"x"))).read();
    assert_eq!(depths(&node.mailbox(), "t"), [1, 0, 0, 0]);
}
