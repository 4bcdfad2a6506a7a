//! Objects over OAP/1: what is begun, sent in pieces and ended is stored once it is what it was said to be; what is
//! refused harms nothing that shares the connection.

use crate::harness::{Setup, TestNode, poll};
use crate::http::Client;
use crate::oap_wire::{Came, Oap, header};
use ron_client::{Client as Sdk, Error, Message, Want};
use ron_core::ids::ContentHash;
use ron_core::oap::{
    COMP, DATA_BYTES_MAX, Delivered, Draft, Durability, END, Enqueued, Header, REQ, Raw, Request, START,
    Stored,
};
use serde_json::json;

const MIB: usize = 1 << 20;

fn serving() -> Setup {
    Setup::new().env("RON_INTEROP__API", "true").env("RON_INTEROP__LIMITS__MAX_RPS", "100000")
}

fn token(node: &TestNode, tenant: &str) -> String {
    node.mint(&json!({"tenant": tenant, "ops": ["put", "get", "enqueue", "recv", "ack"]}))
}

fn public(node: &TestNode, tenant: &str) -> Client {
    node.interop().with(&token(node, tenant))
}

/// Bytes that occur nowhere else.
fn bytes(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Begins an object of these bytes; its `corr_id`.
fn begin(oap: &mut Oap, object: &ContentHash, len: usize) -> u64 {
    let corr_id = oap.corr_id();
    let put = Request::Put { object: object.0, len: len as u64 };
    oap.send(&Header { flags: REQ | START, ..header(corr_id) }, &[], &put.to_vec());
    corr_id
}

fn piece(oap: &mut Oap, corr_id: u64, flags: u16, bytes: &[u8]) {
    oap.send(&Header { flags: REQ | flags, ..header(corr_id) }, &[], bytes);
}

/// All of an object, in pieces as long as they may be, and an empty last one.
fn put(oap: &mut Oap, body: &[u8]) -> Came {
    let corr_id = begin(oap, &ContentHash::of(body), body.len());
    body.chunks(DATA_BYTES_MAX).for_each(|chunk| piece(oap, corr_id, 0, chunk));
    piece(oap, corr_id, END, &[]);
    oap.came()
}

fn enqueue<'a>(object: &ContentHash, payload: &'a [u8]) -> Request<'a> {
    let message = Draft { payload: Raw(payload), body_ref: Some(object.0), ..Draft::default() };
    Request::Enqueue { topic: "t", message }
}

const RECV: Request<'_> =
    Request::Recv { topic: "t", max_messages: 10, max_bytes: None, visibility_ms: None, wait_ms: 0 };

#[test]
fn an_object_of_any_length_is_stored_and_is_a_messages_body() {
    let node = serving().start();
    let mut oap = Oap::open(&node, &token(&node, "acme"));
    let ways = [public(&node, "acme"), public(&node, "other")];
    for len in [0, 1, DATA_BYTES_MAX, DATA_BYTES_MAX + 1, MIB, MIB + 1, 9 * MIB] {
        let body = bytes(len, 1);
        let (address, came) = (ContentHash::of(&body), put(&mut oap, &body));
        let stored: Stored = came.read();
        assert_eq!((stored.object, stored.durability), (address.0, Durability::Fsync), "{len}");
        let got = ways[0].get(&format!("/o/{address}"));
        assert!(got.status == 200 && got.body == body, "{len}: {}", got.status);
        ways[1].get(&format!("/o/{address}")).refused(404, "NOT_FOUND");
        let sent: Enqueued = oap.call(&enqueue(&address, &[])).read();
        assert!(!sent.duplicate);
    }
    let came = oap.call(&RECV);
    let all: Vec<Delivered<'_>> = came.read();
    assert_eq!(all.len(), 7);
    assert_eq!(all[6].body_ref, Some(ContentHash::of(&bytes(9 * MIB, 1)).0));
    assert!(all.iter().all(|one| one.payload.0.is_empty()));
    // a message must be one or the other, and refer to what there is
    let there = ContentHash::of(&bytes(1, 1));
    oap.call(&enqueue(&there, b"x")).refused(400, "MALFORMED");
    oap.call(&enqueue(&ContentHash::of(b"nobody put this"), &[])).refused(404, "NOT_FOUND");
    let mut other = Oap::open(&node, &token(&node, "other"));
    other.call(&enqueue(&there, &[])).refused(404, "NOT_FOUND");
}

#[test]
fn two_objects_and_other_requests_share_a_connection() {
    let node = serving().start();
    let mut oap = Oap::open(&node, &token(&node, "acme"));
    let (one, two) = (bytes(200_000, 1), bytes(150_000, 2));
    let first = begin(&mut oap, &ContentHash::of(&one), one.len());
    let second = begin(&mut oap, &ContentHash::of(&two), two.len());
    let mut pieces = two.chunks(10_000);
    for chunk in one.chunks(10_000) {
        piece(&mut oap, first, 0, chunk);
        let message = Draft { payload: Raw(b"between"), ..Draft::default() };
        let _: Enqueued = oap.call(&Request::Enqueue { topic: "t", message }).read();
        if let Some(chunk) = pieces.next() {
            piece(&mut oap, second, 0, chunk);
        }
    }
    piece(&mut oap, second, END, &[]);
    let ended = oap.came();
    assert_eq!((ended.header.corr_id, ended.read::<Stored>().object), (second, ContentHash::of(&two).0));
    piece(&mut oap, first, END, &[]);
    let ended = oap.came();
    assert_eq!((ended.header.corr_id, ended.read::<Stored>().object), (first, ContentHash::of(&one).0));
}

#[test]
fn what_is_not_as_it_was_said_is_refused_and_the_connection_goes_on() {
    let node = serving().env("RON_INTEROP__OBJECT_MAX", "2MiB").start();
    let mut oap = Oap::open(&node, &token(&node, "acme"));
    let (body, address) = (bytes(100_000, 1), ContentHash::of(&bytes(100_000, 1)));
    type Said = (ContentHash, usize, &'static str);
    let said: [Said; 3] = [
        (ContentHash::of(b"another"), 100_000, "BLAKE3"),
        (address, 100_001, "1 bytes of the object did not come"),
        (address, 99_999, "more bytes came"),
    ];
    for (address, len, text) in said {
        let corr_id = begin(&mut oap, &address, len);
        body.chunks(50_000).for_each(|chunk| piece(&mut oap, corr_id, 0, chunk));
        piece(&mut oap, corr_id, END, &[]);
        let refused = oap.came();
        assert_eq!(refused.header.corr_id, corr_id);
        assert!(refused.refused(400, "MALFORMED").contains(text), "{text}");
    }
    // refused at once: what was sent of it meanwhile is taken for nothing else, and its corr_id is free after its END
    let corr_id = begin(&mut oap, &address, 2 * MIB + 1);
    assert!(oap.came().refused(413, "BODY_LIMIT").contains("interop.object_max"));
    for _ in 0..3 {
        piece(&mut oap, corr_id, 0, &RECV.to_vec());
    }
    piece(&mut oap, corr_id, END, &[]);
    let put = Request::Put { object: address.0, len: 1 };
    assert!(oap.call(&put).refused(400, "MALFORMED").contains("START"));
    let reader = node.mint(&json!({"tenant": "acme", "ops": ["get"]}));
    let mut poor = Oap::open(&node, &reader);
    begin(&mut poor, &address, 10);
    poor.came().refused(403, "SCOPE_MISMATCH");
    public(&node, "acme").get(&format!("/o/{address}")).refused(404, "NOT_FOUND");
    let stored: Stored = self::put(&mut oap, &body).read();
    assert_eq!(stored.object, address.0);
}

#[test]
fn what_is_no_piece_ends_its_connection_and_leaves_nothing() {
    let node = serving().start();
    let token = token(&node, "acme");
    let (body, address) = (bytes(3 * MIB, 1), ContentHash::of(&bytes(3 * MIB, 1)));
    for (flags, len) in [(START, 10), (COMP, 10), (0, DATA_BYTES_MAX + 1)] {
        let mut oap = Oap::open(&node, &token);
        let corr_id = begin(&mut oap, &address, body.len());
        body.chunks(DATA_BYTES_MAX).take(20).for_each(|chunk| piece(&mut oap, corr_id, 0, chunk));
        piece(&mut oap, corr_id, flags, &body[..len]);
        oap.came().refused(400, "MALFORMED");
        assert!(oap.is_closed());
    }
    // begun and never ended, again and again
    let mut oap = Oap::open(&node, &token);
    for _ in 0..64 {
        begin(&mut oap, &address, usize::MAX);
        oap.came().refused(413, "BODY_LIMIT");
    }
    begin(&mut oap, &address, 1);
    oap.came().refused(400, "MALFORMED");
    assert!(oap.is_closed());
    // cut off in the middle
    let mut oap = Oap::open(&node, &token);
    let corr_id = begin(&mut oap, &address, body.len());
    body.chunks(DATA_BYTES_MAX).take(30).for_each(|chunk| piece(&mut oap, corr_id, 0, chunk));
    drop(oap);
    public(&node, "acme").get(&format!("/o/{address}")).refused(404, "NOT_FOUND");
    // all places for uploads are free again
    let mut oap = Oap::open(&node, &token);
    poll("a place", || put(&mut oap, &body).header.code.eq(&200).then_some(()));
    for _ in 0..40 {
        let _: Stored = put(&mut oap, &body).read();
    }
}

#[test]
fn the_client_puts_objects_of_any_length_and_sends_messages_of_them() {
    let node = serving().start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Sdk::connect(&node.oap().to_string(), &token(&node, "acme")).await.unwrap();
        for len in [0, 1, DATA_BYTES_MAX, 2 * DATA_BYTES_MAX, 5 * MIB] {
            let address = client.put(bytes(len, 3)).await.unwrap();
            assert_eq!(address, ContentHash::of(&bytes(len, 3)));
            client.send("t", Message::of_object(address).key("k".repeat(len % 7 + 1))).await.unwrap();
        }
        let all = client.recv("t", Want::up_to(10)).await.unwrap();
        assert_eq!(all.last().unwrap().body_ref, Some(ContentHash::of(&bytes(5 * MIB, 3))));
        let over_http = Sdk::http(&format!("http://{}", node.bare().addr()), &token(&node, "acme")).unwrap();
        let address = ContentHash::of(&bytes(1, 3));
        over_http.send("t", Message::of_object(address)).await.unwrap();
        let both = vec![Message::of_object(address), Message::new("x")];
        assert!(over_http.send_all("t", both).await.iter().all(Result::is_ok));
        assert!(matches!(over_http.put("x").await, Err(Error::Invalid(_))));
    });
}
