//! Content-addressed objects (SPEC §7): put, got by their own tenant alone, kept by messages, and never served damaged.

use crate::harness::{Setup, TestNode, poll, ronctl};
use crate::http::{Answer, Client, read_answer};
use crate::mailbox::{depths, receipt, recv_one, settle};
use crate::snapshot::restore;
use ron_core::ids::ContentHash;
use serde_json::{Value, json};
use std::io::Write;

const MIB: usize = 1 << 20;

fn serving() -> Setup {
    Setup::new().env("RON_INTEROP__API", "true").env("RON_INTEROP__LIMITS__MAX_RPS", "100000")
}

fn client(node: &TestNode) -> Client {
    client_of(node, "acme")
}

fn client_of(node: &TestNode, tenant: &str) -> Client {
    let ops = ["put", "get", "enqueue", "recv", "ack", "nack", "stat", "peek"];
    node.interop().with(&node.mint(&json!({"tenant": tenant, "ops": ops})))
}

/// Bytes that occur nowhere else.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn address(bytes: &[u8]) -> String {
    ContentHash::of(bytes).to_string()
}

fn put(client: &Client, bytes: &[u8]) -> String {
    let answer = client.call("POST", "/put", &[], bytes).json(202);
    let mut members: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["address", "corr_id", "len"]);
    assert_eq!(answer["len"], bytes.len());
    assert_eq!(answer["address"], address(bytes));
    address(bytes)
}

fn get(client: &Client, address: &str) -> Answer {
    client.get(&format!("/o/{address}"))
}

fn refer(client: &Client, topic: &str, address: &str, more: &[(&str, &[u8])]) -> Answer {
    let headers = [&[("X-Body-Ref", address.as_bytes())], more].concat();
    client.call("POST", &format!("/v1/acme/{topic}/enqueue"), &headers, b"")
}

/// What `ronctl store stats` says of the tables of objects.
fn stored(setup: &Setup) -> (u64, u64) {
    let (code, out, err) = ronctl(setup, &["--json", "store", "stats"]);
    assert_eq!(code, 0, "{err}");
    let stats: Value = serde_json::from_str(&out).unwrap();
    let rows = |name: &str| {
        let tables = stats["tables"].as_array().unwrap();
        tables.iter().find(|table| table["table"] == name).unwrap()["rows"].as_u64().unwrap()
    };
    (rows("object"), rows("object_part"))
}

fn is_clean(setup: &Setup) {
    let (code, out, err) = ronctl(setup, &["store", "check"]);
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn an_object_is_got_as_it_was_put() {
    let node = serving().start();
    let client = client(&node);
    for len in [0, 1, 60_991, 60_992, 60_993, MIB, MIB + 1, 3 * MIB] {
        let body = bytes(len, len as u64);
        let address = put(&client, &body);
        let got = get(&client, &address);
        assert_eq!(got.status, 200, "{len}");
        assert!(got.body == body, "{len}");
        assert_eq!(got.header("etag"), Some(format!("\"{address}\"").as_str()));
        assert_eq!(got.header("content-length"), Some(len.to_string().as_str()));
        assert_eq!(got.header("content-type"), Some("application/octet-stream"));
        assert_eq!(got.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(got.header("cache-control"), Some("private, max-age=31536000, immutable"));
        let head = client.call("HEAD", &format!("/o/{address}"), &[], b"");
        assert_eq!((head.status, head.header("content-length")), (200, got.header("content-length")));
        let again = put(&client, &body);
        assert_eq!(again, address);
    }
    let body = bytes(2 * MIB, 7);
    let path = format!("/o/{}", put(&client, &body));
    let tag = format!("\"{}\"", address(&body));
    let known = client.call("GET", &path, &[("If-None-Match", tag.as_bytes())], b"");
    assert_eq!((known.status, known.body.len(), known.header("etag")), (304, 0, Some(tag.as_str())));
    let part = client.call("GET", &path, &[("Range", b"bytes=1000000-1999999")], b"");
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 1000000-1999999/2097152")));
    assert!(part.body == body[1_000_000..2_000_000]);
    let many = client.call("GET", &path, &[("Range", b"bytes=0-1,5-6")], b"");
    assert_eq!((many.status, many.body.len()), (200, 2 * MIB));
    let metrics = node.interop_admin().get("/metrics");
    for series in [
        "svc_interop_requests_total{route=\"/put\",method=\"POST\",code=\"202\"} 17",
        "svc_interop_requests_total{route=\"/o\",method=\"HEAD\",code=\"200\"} 8",
        "svc_interop_requests_total{route=\"/o\",method=\"GET\",code=\"304\"} 1",
    ] {
        assert!(metrics.text().contains(series), "{series}");
    }
}

#[test]
fn nobody_else_has_it_and_nobody_without_the_op() {
    let node = serving().start();
    let (ours, theirs) = (client(&node), client_of(&node, "other"));
    let body = bytes(1000, 1);
    let address = put(&ours, &body);
    let absent = address_of_nothing();
    let foreign = get(&theirs, &address).refused(404, "NOT_FOUND");
    assert_eq!(get(&theirs, &absent).refused(404, "NOT_FOUND"), foreign);
    assert_eq!(get(&ours, &absent).refused(404, "NOT_FOUND"), foreign);
    refer_as(&theirs, "other", &address).refused(404, "NOT_FOUND");
    // the same bytes are an object of its own
    put(&theirs, &body);
    assert!(get(&theirs, &address).body == body);

    get(&node.interop(), &address).refused(401, "UNAUTH");
    node.interop().call("POST", "/put", &[], b"x").refused(401, "UNAUTH");
    let with = |over: Value| node.interop().with(&node.mint(&over));
    let only_get = with(json!({"ops": ["get"]}));
    only_get.call("POST", "/put", &[], b"x").refused(403, "SCOPE_MISMATCH");
    assert_eq!(get(&only_get, &address).status, 200);
    let only_put = with(json!({"ops": ["put"], "max_bytes": 10}));
    get(&only_put, &address).refused(403, "SCOPE_MISMATCH");
    put(&only_put, b"ten bytes.");
    only_put.call("POST", "/put", &[], b"eleven byte").refused(403, "SCOPE_MISMATCH");
    only_put.raw(&chunked(&only_put, &[b"eleven".as_slice(), b" byte"])).refused(403, "SCOPE_MISMATCH");
    // who is held to one topic has no objects, which are of none
    let narrow = with(json!({"ops": ["get", "put"], "topic": "orders"}));
    get(&narrow, &address).refused(403, "SCOPE_MISMATCH");
    narrow.call("POST", "/put", &[], b"x").refused(403, "SCOPE_MISMATCH");
    for bad in ["b3:00", "sha256:00", &address.to_uppercase()] {
        get(&ours, bad).refused(400, "MALFORMED");
    }
    // not on the mailbox's port, and not without `interop.api`
    node.bare().call("POST", "/put", &[], b"x").refused(404, "NOT_FOUND");
    let without = Setup::new().start();
    without.interop().call("POST", "/put", &[], b"x").refused(404, "NOT_FOUND");
}

fn address_of_nothing() -> String {
    address(b"nobody has put this")
}

fn refer_as(client: &Client, tenant: &str, address: &str) -> Answer {
    let headers = [("X-Body-Ref", address.as_bytes())];
    client.call("POST", &format!("/v1/{tenant}/t/enqueue"), &headers, b"")
}

/// A request whose body has no declared length.
fn chunked(client: &Client, parts: &[&[u8]]) -> Vec<u8> {
    let request = client.request("GET", "/put", &[("Transfer-Encoding", b"chunked")], b"");
    let mut request = [b"POST", &request[3..]].concat();
    for part in parts {
        request.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        request.extend_from_slice(part);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

#[test]
fn limits_and_hashes_are_checked_and_nothing_stays_of_what_was_refused() {
    let setup = serving()
        .toml("[store]\ntenant_objects_bytes = \"5MiB\"\ntenant_objects = 4\n")
        .env("RON_INTEROP__OBJECT_MAX", "3MiB");
    let node = setup.start();
    let client = client(&node);
    let large = bytes(3 * MIB + 1, 1);
    client.call("POST", "/put", &[], &large).refused(413, "BODY_LIMIT");
    let parts: Vec<&[u8]> = large.chunks(100_000).collect();
    client.raw(&chunked(&client, &parts)).refused(413, "BODY_LIMIT");
    get(&client, &address(&large)).refused(404, "NOT_FOUND");
    for body in [bytes(1000, 2), bytes(2 * MIB, 3)] {
        let wrong = address_of_nothing();
        let headers: [(&str, &[u8]); 1] = [("X-Payload-Hash", wrong.as_bytes())];
        let text = client.call("POST", "/put", &headers, &body).refused(400, "MALFORMED");
        assert!(text.contains("X-Payload-Hash"), "{text}");
        get(&client, &address(&body)).refused(404, "NOT_FOUND");
        let right = address(&body);
        let headers: [(&str, &[u8]); 1] = [("X-Payload-Hash", right.as_bytes())];
        client.call("POST", "/put", &headers, &body).json(202);
    }
    client.call("POST", "/put", &[("Content-Encoding", b"gzip")], b"x").refused(415, "UNSUPPORTED_ENCODING");
    // 2 MiB and 1000 bytes are there
    let text = client.call("POST", "/put", &[], &bytes(3 * MIB, 4)).refused(429, "BACKPRESSURE");
    assert!(text.contains("store.tenant_objects_bytes"), "{text}");
    put(&client, &bytes(10, 5));
    put(&client, &bytes(10, 6));
    client.call("POST", "/put", &[], &bytes(10, 7)).refused(429, "BACKPRESSURE");
    put(&client, &bytes(10, 6));
    put(&client_of(&node, "other"), &bytes(10, 7));
    let metrics = node.mailbox_admin().get("/metrics");
    assert!(metrics.text().contains("integrity_fail_total{stage=\"ingress\"} 2"));
    let setup = node.stop();
    assert_eq!(stored(&setup), (5, 1 + 35 + 1 + 1 + 1));
    is_clean(&setup);
}

#[test]
fn a_large_object_passes_through_in_pieces() {
    let setup = serving().env("RON_STORE__CACHE", "1MiB").env("RON_INTEROP__OBJECT_MAX", "256MiB");
    let node = setup.start();
    let client = client(&node);
    // what the threads and the allocator keep of the first ones, however many there are
    let first = put(&client, &bytes(40 * MIB, 1));
    assert_eq!(get(&client, &first).body.len(), 40 * MIB);
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
    };
    let before = peak();
    let body = bytes(160 * MIB, 2);
    let address = put(&client, &body);
    assert!(get(&client, &address).body == body);
    let after = peak();
    assert!(after - before < 40, "{before} → {after} MiB for 160 MiB");
}

#[test]
fn a_kill_leaves_whole_objects_and_nothing_of_the_others() {
    let node = serving().start();
    let whole = bytes(3 * MIB, 1);
    let address_of_whole = put(&client(&node), &whole);
    let half = bytes(8 * MIB, 2);
    let of_half = client(&node);
    let request = of_half.request("POST", "/put", &[], &half);
    let mut open = of_half.begin(&request[..request.len() - MIB]);
    let uploads = || node.mailbox_admin().get("/metrics").text().contains("store_object_uploads 1");
    poll("the upload", || uploads().then_some(()));
    let (small, referred) = (bytes(70_000, 3), bytes(70_001, 4));
    let (small_at, referred_at) = (put(&of_half, &small), put(&of_half, &referred));
    refer(&of_half, "t", &referred_at, &[]).json(200);
    let node = node.kill_and_restart();
    let _ = open.write_all(b"too late");
    let client = client(&node);
    for (address, body) in [(&address_of_whole, &whole), (&small_at, &small), (&referred_at, &referred)] {
        assert!(get(&client, address).body == *body, "what was answered is there");
    }
    get(&client, &address(&half)).refused(404, "NOT_FOUND");
    let message = recv_one(&client, "t", 600_000);
    assert_eq!((&message["body_ref"], &message["payload_b64"]), (&json!(referred_at), &json!("")));
    let setup = node.stop();
    assert_eq!(stored(&setup), (3, 52 + 2 + 2));
    is_clean(&setup);
}

#[test]
fn an_upload_that_ends_early_or_crawls_leaves_nothing() {
    let node = serving().env("RON_INTEROP__LIMITS__BODY_TIMEOUT", "500ms").start();
    let client = client(&node);
    let body = bytes(4 * MIB, 1);
    let request = client.request("POST", "/put", &[], &body);
    drop(client.begin(&request[..request.len() - MIB]));
    let mut crawling = client.begin(&request[..request.len() - MIB]);
    read_answer(&mut crawling, &request).unwrap().refused(408, "TIMEOUT");
    let series = |name: &str| {
        let metrics = node.mailbox_admin().get("/metrics");
        let value =
            metrics.text().lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        value.parse::<u64>().unwrap()
    };
    poll("the end of both", || (series("store_object_uploads ") == 0).then_some(()));
    assert_eq!((series("store_objects "), series("store_object_bytes ")), (0, 0));
    let setup = node.stop();
    assert_eq!(stored(&setup), (0, 0));
}

#[test]
fn a_message_refers_to_an_object_and_means_it() {
    let node = serving().start();
    let client = client(&node);
    let (one, two) = (put(&client, &bytes(100_000, 1)), put(&client, &bytes(100_000, 2)));
    let key: (&str, &[u8]) = ("Idempotency-Key", b"k");
    let sent = refer(&client, "t", &one, &[key]).json(200);
    assert_eq!(sent["payload_hash"], address(b""));
    assert_eq!(refer(&client, "t", &one, &[key]).json(200)["duplicate"], true);
    refer(&client, "t", &two, &[key]).refused(409, "IDEMPOTENCY_CONFLICT");
    refer(&client, "t", &address_of_nothing(), &[]).refused(404, "NOT_FOUND");
    let headers: [(&str, &[u8]); 1] = [("X-Body-Ref", one.as_bytes())];
    client.call("POST", "/v1/acme/t/enqueue", &headers, b"and more").refused(400, "MALFORMED");
    let batch = json!({"messages": [{"body_ref": two, "content_type": "video/mp4"}, {"body_ref": "b3:0"},
        {"body_ref": address_of_nothing()}, {"body_ref": two, "payload": ""}, {"payload": "plain"}]});
    let results = client.post("/v1/acme/t/enqueue/batch", &batch).json(200)["results"].clone();
    let reasons: Vec<&Value> = results.as_array().unwrap().iter().map(|one| &one["reason"]).collect();
    assert_eq!(
        reasons,
        [&json!(null), &json!("MALFORMED"), &json!("NOT_FOUND"), &json!("MALFORMED"), &json!(null)]
    );
    assert_eq!(depths(&client, "t"), [3, 0, 0, 0]);
    let mut got = Vec::new();
    for _ in 0..3 {
        got.push(recv_one(&client, "t", 600_000));
    }
    let refs: Vec<&Value> = got.iter().map(|message| &message["body_ref"]).collect();
    assert_eq!(refs, [&json!(one), &json!(two), &json!(null)]);
    assert_eq!((&got[1]["payload_b64"], &got[1]["content_type"]), (&json!(""), &json!("video/mp4")));
    // dead, sent again as it is, and dead letters count as messages do
    let receipts: Vec<&str> = got.iter().map(receipt).collect();
    settle(&client, "t", "nack", &json!({"receipts": [receipts[0]], "mode": "reject"}));
    settle(&client, "t", "ack", &json!({"receipts": receipts[1..]}));
    let held = || node.mailbox_admin().get("/metrics").text().contains("store_objects_held 1\n");
    poll("one object is held", || held().then_some(()));
    let resend = json!({"msg_id": sent["msg_id"], "remove": true});
    node.operator().post("/v1/acme/t/dlq/resend", &resend).json(200);
    let again = recv_one(&client, "t", 600_000);
    assert_eq!(again["body_ref"], json!(one));
    assert!(held());
}

#[test]
fn what_messages_refer_to_comes_back_with_a_snapshot() {
    let node = serving().start();
    let of = client(&node);
    let (body, other) = (bytes(2 * MIB, 1), bytes(5_000, 2));
    let (kept, unreferred) = (put(&of, &body), put(&of, &other));
    refer(&of, "t", &kept, &[]).json(200);
    let taken = node.ronctl_json(&["snapshot", "create"]);
    let later = put(&of, &bytes(10, 3));
    let setup = node.stop();
    restore(&setup, taken["path"].as_str().unwrap());
    is_clean(&setup);
    let node = setup.start();
    let of = client(&node);
    let message = recv_one(&of, "t", 600_000);
    assert_eq!(message["body_ref"], json!(kept));
    assert!(get(&of, &kept).body == body && get(&of, &unreferred).body == other);
    get(&of, &later).refused(404, "NOT_FOUND");
    put(&of, &bytes(10, 3));
}

#[test]
fn a_flipped_byte_is_never_served_and_the_same_bytes_mend_it() {
    for len in [100_000, 2 * MIB] {
        let node = serving().start();
        let body = bytes(len, 9);
        let address = put(&client(&node), &body);
        let setup = node.stop();
        let store = setup.data_dir().join("store.redb");
        let mut file = std::fs::read(&store).unwrap();
        let (place, before) = (len - 30_000, &body[len - 30_000..len - 29_960]);
        let found: Vec<usize> =
            file.windows(40).enumerate().filter(|(_, at)| *at == before).map(|(at, _)| at).collect();
        assert!(!found.is_empty(), "{place}");
        found.into_iter().for_each(|at| file[at + 3] ^= 16);
        std::fs::write(&store, file).unwrap();
        let (code, out, _) = ronctl(&setup, &["store", "check"]);
        assert!(code == 1 && out.contains("object_part"), "{code} {out}");

        let node = setup.start();
        let client = client(&node);
        for _ in 0..2 {
            let text = get(&client, &address).refused(503, "STORAGE");
            assert!(text.contains("damaged"), "{text}");
        }
        let path = format!("/o/{address}");
        client.call("GET", &path, &[("Range", b"bytes=0-9")], b"").refused(503, "STORAGE");
        let metrics = node.mailbox_admin().get("/metrics");
        assert!(metrics.text().contains("integrity_fail_total{stage=\"egress\"} 3"));
        put(&client, &body);
        assert!(get(&client, &address).body == body);
        is_clean(&node.stop());
    }
}

#[test]
fn in_amnesia_objects_are_in_memory_and_end_with_the_process() {
    let setup = serving().env("AMNESIA", "on");
    let node = setup.start();
    let of = client(&node);
    let body = bytes(3 * MIB, 1);
    let address = put(&of, &body);
    refer(&of, "t", &address, &[]).json(200);
    assert!(get(&of, &address).body == body);
    assert_eq!(recv_one(&of, "t", 600_000)["body_ref"], json!(address));
    assert!(!setup.data_dir().exists());
    let node = node.kill_and_restart();
    get(&client(&node), &address).refused(404, "NOT_FOUND");
}

#[test]
fn puts_are_shed_with_other_writes_and_gets_are_not() {
    let node = serving().start();
    let of = client(&node);
    let body = bytes(1000, 1);
    let address = put(&of, &body);
    refer(&of, "t", &address, &[]).json(200);
    recv_one(&of, "t", 600_000);
    node.signal(rustix::process::Signal::TERM); // it waits for the lease
    poll("the drain", || (of.call("POST", "/put", &[], b"x").status == 503).then_some(()));
    of.call("POST", "/put", &[], b"x").refused(503, "DEGRADED");
    assert!(get(&of, &address).body == body);
}
