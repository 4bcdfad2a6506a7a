//! The table of reasons (SPEC §3): everything that is sent here is refused with the whole envelope.

use crate::harness::{Provider, Setup, TestNode, borrowed, poll, wall};
use crate::http::Header;
use crate::mailbox::{depths, enqueue, peek};
use serde_json::json;

fn node() -> TestNode {
    Provider::new("github", "github").add_to(Setup::new(), "github", "").start()
}

#[test]
fn routes_and_methods() {
    let node = node();
    let mailbox = node.mailbox();
    for path in
        ["/", "/nope", "/v1", "/v1/acme/t/nope", "/v1/acme/t/enqueue/", "/v1/acme/t/peek/x", "/v1//t/recv"]
    {
        for client in [&mailbox, &node.bare()] {
            let answer = client.get(path);
            match path {
                // an empty name is a name that is none
                "/v1//t/recv" => assert!([400, 404, 405].contains(&answer.status), "{path}"),
                _ => drop(answer.refused(404, "NOT_FOUND")),
            }
        }
    }
    let methods = [
        ("GET", "/v1/acme/t/enqueue", "POST"),
        ("DELETE", "/v1/acme/t/recv", "POST"),
        ("POST", "/v1/acme/t", "GET"),
        ("PUT", "/v1/acme/t/peek", "GET"),
        ("PATCH", "/v1/acme", "GET"),
    ];
    for (method, path, allowed) in methods {
        let answer = mailbox.call(method, path, &[], b"");
        answer.refused(405, "METHOD_NOT_ALLOWED");
        assert!(answer.header("allow").is_some_and(|allow| allow.contains(allowed)), "{method} {path}");
    }
    let interop = node.interop();
    for path in ["/", "/webhooks", "/webhooks/", "/v1/acme/t/enqueue", "/metrics", "/readyz", "/ctl/status"] {
        interop.get(path).refused(404, "NOT_FOUND");
    }
    interop.call("PUT", "/webhooks/github", &[], b"").refused(405, "METHOD_NOT_ALLOWED");
    interop.call("POST", "/version", &[], b"").refused(405, "METHOD_NOT_ALLOWED");
    for admin in [node.mailbox_admin(), node.interop_admin()] {
        admin.get("/nope").refused(404, "NOT_FOUND");
        admin.call("POST", "/metrics", &[], b"").refused(405, "METHOD_NOT_ALLOWED");
    }
    // a correlation id of ours is kept, a bad one replaced
    let answer = interop.call("GET", "/nope", &[("X-Corr-Id", b"my-corr-id-1")], b"");
    assert_eq!(answer.header("x-corr-id"), Some("my-corr-id-1"));
    answer.refused(404, "NOT_FOUND");
    for bad in [b"short".as_slice(), b"with space 123", &[b'a'; 65], b"\xc3\x28aaaaaaa"] {
        let answer = interop.call("GET", "/nope", &[("X-Corr-Id", bad)], b"");
        answer.refused(404, "NOT_FOUND");
        assert_ne!(answer.header("x-corr-id").unwrap().as_bytes(), bad);
    }
}

#[test]
fn names_and_headers_of_a_send() {
    let node = node();
    let client = node.mailbox();
    let long = "a".repeat(64);
    for path in [
        "/v1/ACME/t/enqueue".to_owned(),
        format!("/v1/{long}/t/enqueue"),
        "/v1/-a/t/enqueue".into(),
        "/v1/acme/T/enqueue".into(),
        "/v1/acme/.t/enqueue".into(),
        format!("/v1/acme/{}/enqueue", "t".repeat(129)),
        "/v1/acme/a%20b/enqueue".into(),
        "/v1/acme/%ff/enqueue".into(),
        "/v1/acme/a%2Fb/enqueue".into(),
    ] {
        client.call("POST", &path, &[], b"x").refused(400, "MALFORMED");
    }
    let hash = format!("b3:{}", blake3::hash(b"other").to_hex());
    let many: Vec<(String, String)> = (0..17).map(|n| (format!("X-Attr-A{n}"), "v".into())).collect();
    let large = "v".repeat(4097);
    let bad: Vec<(Vec<Header<'_>>, &str)> = vec![
        (vec![("Idempotency-Key", b"")], "Idempotency-Key"),
        (vec![("Idempotency-Key", b"a b")], "Idempotency-Key"),
        (vec![("Idempotency-Key", &[b'k'; 257])], "Idempotency-Key"),
        (vec![("Idempotency-Key", b"k"), ("Idempotency-Key", b"k")], "Idempotency-Key"),
        (vec![("Idempotency-Key", b"\xff")], "Idempotency-Key"),
        (vec![("X-Delay-Ms", b"-1")], "X-Delay-Ms"),
        (vec![("X-Delay-Ms", b"1.5")], "X-Delay-Ms"),
        (vec![("X-Delay-Ms", b"2592000001")], "X-Delay-Ms"),
        (vec![("X-Delay-Ms", b"1"), ("X-Delay-Ms", b"1")], "X-Delay-Ms"),
        (vec![("X-Ttl-Ms", b"99")], "X-Ttl-Ms"),
        (vec![("X-Ttl-Ms", b"2592000001")], "X-Ttl-Ms"),
        (vec![("X-Delay-Ms", b"500"), ("X-Ttl-Ms", b"500")], "X-Delay-Ms"),
        (vec![("X-Payload-Hash", b"sha256:00")], "X-Payload-Hash"),
        (vec![("X-Payload-Hash", hash.as_bytes())], "X-Payload-Hash"),
        (vec![("X-Attr-z", b"\xc3\x28")], "x-attr-z"),
        (vec![("X-Attr-z", b"1"), ("x-attr-Z", b"2")], "x-attr-z"),
        (vec![("X-Attr-a.b", b"1")], "X-Attr"),
        (vec![("X-Attr-z", large.as_bytes())], "X-Attr"),
        (borrowed(&many), "X-Attr"),
        (vec![("Content-Type", b"\xff\xfe")], "Content-Type"),
        (vec![("Content-Type", b"a/b"), ("Content-Type", b"a/b")], "Content-Type"),
    ];
    for (headers, name) in bad {
        let text = client.call("POST", "/v1/acme/t/enqueue", &headers, b"x").refused(400, "MALFORMED");
        assert!(text.contains(name), "{text:?} should name {name}");
    }
    client.get("/v1/acme/t").refused(404, "NOT_FOUND"); // nothing of it was kept
    client
        .call("POST", "/v1/acme/t/enqueue", &[("Content-Encoding", b"gzip")], b"x")
        .refused(415, "UNSUPPORTED_ENCODING");
    client.get("/v1/acme/t").refused(404, "NOT_FOUND");
}

#[test]
fn json_bodies_and_queries() {
    let node = node();
    let client = node.mailbox();
    enqueue(&client, "t", b"there before", &[]);
    let receipts = vec!["A".repeat(20); 257];
    let note = "é".repeat(257);
    let cases = [
        ("recv", "{".to_owned()),
        ("recv", "[]".into()),
        ("recv", "null".into()),
        ("recv", r#"{"max_messages":1}x"#.into()),
        ("recv", r#"{"nope":1}"#.into()),
        ("recv", r#"{"wait_ms":1,"wait_ms":1}"#.into()),
        ("recv", r#"{"max_messages":"1"}"#.into()),
        ("recv", r#"{"max_messages":-1}"#.into()),
        ("recv", r#"{"max_messages":1.5}"#.into()),
        ("recv", r#"{"max_messages":0}"#.into()),
        ("recv", r#"{"max_messages":257}"#.into()),
        ("recv", r#"{"max_bytes":0}"#.into()),
        ("recv", r#"{"max_bytes":16777217}"#.into()),
        ("recv", r#"{"visibility_ms":249}"#.into()),
        ("recv", r#"{"visibility_ms":43200001}"#.into()),
        ("recv", r#"{"wait_ms":20001}"#.into()),
        ("ack", String::new()),
        ("ack", "{}".into()),
        ("ack", r#"{"receipts":[]}"#.into()),
        ("ack", r#"{"receipts":"A"}"#.into()),
        ("ack", r#"{"receipts":[1]}"#.into()),
        ("ack", json!({"receipts": receipts}).to_string()),
        ("ack", r#"{"receipts":["A"],"mode":"fail"}"#.into()),
        ("nack", r#"{"receipts":["A"],"mode":"maybe"}"#.into()),
        ("nack", r#"{"receipts":["A"],"mode":"reject","delay_ms":1}"#.into()),
        ("nack", r#"{"receipts":["A"],"delay_ms":2592000001}"#.into()),
        ("nack", json!({"receipts": ["A"], "reason": note}).to_string()),
        ("extend", r#"{"receipts":["A"]}"#.into()),
        ("extend", r#"{"receipts":["A"],"visibility_ms":249}"#.into()),
        ("enqueue/batch", r#"{"messages":[]}"#.into()),
        ("enqueue/batch", r#"{"messages":[{"payload":"x","nope":1}]}"#.into()),
        ("enqueue/batch", r#"{"messages":[{"payload":"x","attrs":{"a":"1","a":"2"}}]}"#.into()),
        ("enqueue/batch", json!({"messages": vec![json!({"payload": "x"}); 257]}).to_string()),
    ];
    let json: [Header<'_>; 1] = [("Content-Type", b"application/json")];
    for (call, body) in &cases {
        let answer = client.call("POST", &format!("/v1/acme/t/{call}"), &json, body.as_bytes());
        answer.refused(400, "MALFORMED");
    }
    // the value that was sent is not sent back
    let secret = r#"{"max_messages":"hunter2-hunter2"}"#;
    let text = client.call("POST", "/v1/acme/t/recv", &json, secret.as_bytes()).refused(400, "MALFORMED");
    assert!(!text.contains("hunter2") && text.contains("max_messages"), "{text}");
    client.call("POST", "/v1/acme/t/recv", &json, b"\xff\xfe").refused(400, "MALFORMED");
    for headers in [[("Content-Type", b"text/plain".as_slice())], [("Content-Encoding", b"gzip".as_slice())]]
    {
        for call in ["recv", "ack", "nack", "extend", "enqueue/batch"] {
            let answer = client.call("POST", &format!("/v1/acme/t/{call}"), &headers, b"{}");
            answer.refused(415, "UNSUPPORTED_ENCODING");
        }
    }
    for query in ["state=gone", "limit=0", "limit=101", "limit=x", "cursor=zz", "nope=1", "limit=1&limit=2"] {
        client.get(&format!("/v1/acme/t/peek?{query}")).refused(400, "MALFORMED");
    }
    client.get("/v1/acme?cursor=..").refused(400, "MALFORMED");
    // nothing of all that was taken, handed out or settled
    assert_eq!(depths(&client, "t"), [1, 0, 0, 0]);
    let there = peek(&client, "t", "state=ready")["messages"][0].clone();
    assert_eq!((&there["attempt"], &there["delivery"]), (&json!(0), &json!(0)));
}

#[test]
fn bodies_that_are_too_large_or_never_come() {
    let github = Provider::new("github", "github");
    let setup = github.add_to(Setup::new(), "github", "body_limit = \"1KiB\"");
    let node = setup.env("RON_INTEROP__LIMITS__BODY_TIMEOUT", "300ms").start();
    let client = node.mailbox();
    let mebibyte = 1024 * 1024;
    // declared: refused before a byte of it is sent
    let declared = |client: &crate::http::Client, path: &str, len: usize| {
        let whole = client.request("POST", path, &[], b"");
        let text = String::from_utf8(whole).unwrap();
        text.replace("Content-Length: 0", &format!("Content-Length: {len}")).into_bytes()
    };
    client.raw(&declared(&client, "/v1/acme/t/enqueue", mebibyte + 1)).refused(413, "BODY_LIMIT");
    client.raw(&declared(&client, "/v1/acme/t/enqueue/batch", 4 * mebibyte + 1)).refused(413, "BODY_LIMIT");
    client.raw(&declared(&client, "/v1/acme/t/ack", 2 * mebibyte)).refused(413, "BODY_LIMIT");
    // not declared: refused as soon as it is over
    let head = String::from_utf8(client.request("POST", "/v1/acme/t/enqueue", &[], b"")).unwrap();
    let mut chunked = head.replace("Content-Length: 0", "Transfer-Encoding: chunked").into_bytes();
    chunked.extend_from_slice(format!("{:x}\r\n", mebibyte + 1).as_bytes());
    chunked.extend_from_slice(&vec![b'x'; mebibyte + 1]);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    client.raw(&chunked).refused(413, "BODY_LIMIT");
    client.get("/v1/acme/t").refused(404, "NOT_FOUND"); // nothing of it was kept
    // exactly at the limit is fine
    client.call("POST", "/v1/acme/t/enqueue", &[], &vec![b'x'; mebibyte]).json(200);

    let interop = node.interop();
    let body = vec![b'x'; 1025];
    let headers = github.sign("1", wall(), &body);
    interop.call("POST", "/webhooks/github", &borrowed(&headers), &body).refused(413, "BODY_LIMIT");
    // a body that does not come
    let headers = github.sign("1", wall(), b"{}");
    let mut slow = interop.request("POST", "/webhooks/github", &borrowed(&headers), b"{}");
    slow.truncate(slow.len() - 1);
    interop.raw(&slow).refused(408, "TIMEOUT");
    client.get("/v1/acme/github").refused(404, "NOT_FOUND");
    assert_eq!(depths(&client, "t"), [1, 0, 0, 0], "the one that fits");
}

#[test]
fn webhooks_that_nobody_signed() {
    let slack = Provider::new("slack", "slack");
    let github = Provider::new("github", "github");
    let setup = slack.add_to(github.add_to(Setup::new(), "github", ""), "slack", "");
    let off =
        "[interop.providers.off]\nscheme = \"github\"\ntenant = \"acme\"\ntopic = \"off\"\nenabled = false\n";
    let node = setup.toml(off).start();
    let interop = node.interop();
    for name in ["nobody", "off", "GITHUB", "%ff"] {
        let answer = interop.call("POST", &format!("/webhooks/{name}"), &[], b"{}");
        match name {
            "%ff" => drop(answer.refused(400, "MALFORMED")),
            _ => drop(answer.refused(403, "POLICY_BLOCKED")),
        }
    }
    let (now, body) = (wall(), br#"{"type":"event_callback","event_id":"E1"}"#);
    let signed = slack.sign("E1", now, body);
    let refused = |headers: &[(String, String)], status: u16, reason: &str| {
        interop.call("POST", "/webhooks/slack", &borrowed(headers), body).refused(status, reason);
    };
    let without = |name: &str| signed.iter().filter(|(n, _)| n != name).cloned().collect::<Vec<_>>();
    let with = |name: &str, value: &str| [without(name), vec![(name.to_owned(), value.to_owned())]].concat();
    for name in ["X-Slack-Signature", "X-Slack-Request-Timestamp"] {
        refused(&without(name), 401, "SIGNATURE_INVALID");
        refused(&with(name, ""), 401, "SIGNATURE_INVALID");
        refused(&with(name, "v0=zz"), 401, "SIGNATURE_INVALID");
        let twice = signed.iter().find(|(n, _)| n == name).unwrap().clone();
        refused(&[signed.clone(), vec![twice]].concat(), 401, "SIGNATURE_INVALID");
    }
    refused(&with("X-Slack-Signature", &format!("v0={}", "0".repeat(64))), 401, "SIGNATURE_INVALID");
    refused(&slack.sign("E1", ron_core::time::Millis(now.0 - 600_000), body), 401, "REPLAY_WINDOW");
    refused(&slack.sign("E1", ron_core::time::Millis(now.0 + 600_000), body), 401, "REPLAY_WINDOW");
    // another body under the same signature
    let answer = interop.call("POST", "/webhooks/slack", &borrowed(&signed), b"{}");
    answer.refused(401, "SIGNATURE_INVALID");
    let coded = [signed.clone(), vec![("Content-Encoding".into(), "gzip".into())]].concat();
    refused(&coded, 415, "UNSUPPORTED_ENCODING");
    // nothing of all that is in the queue, and the right one still is taken
    node.mailbox().get("/v1/acme/slack").refused(404, "NOT_FOUND");
    interop.call("POST", "/webhooks/slack", &borrowed(&signed), body).json(202);
}

#[test]
fn what_is_not_http_is_refused_and_the_node_lives() {
    let node = node();
    for client in [node.bare(), node.interop(), node.mailbox_admin(), node.interop_admin()] {
        for garbage in [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello hello hello".as_slice(),
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: two\r\n\r\n",
        ] {
            match client.try_raw(garbage) {
                Ok(answer) => assert_eq!((answer.status, answer.body.len()), (400, 0), "{garbage:?}"),
                Err(closed) => assert!(closed.contains("no whole answer: \"\""), "{closed}"),
            }
        }
        let mut long = b"GET / HTTP/1.1\r\nX-Long: ".to_vec();
        long.extend_from_slice(&vec![b'a'; 200 * 1024]);
        long.extend_from_slice(b"\r\n\r\n");
        if let Ok(answer) = client.try_raw(&long) {
            assert!([400, 431].contains(&answer.status), "{}", answer.status);
        }
    }
    let both = b"POST /webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n\
                 2\r\n{}\r\n0\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut stream = node.interop().begin(both);
    let mut all = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut all);
    let text = String::from_utf8_lossy(&all);
    assert_eq!(text.matches("HTTP/1.1 ").count().min(2), text.matches("HTTP/1.1 4").count(), "{text}");
    poll("a node that lives", || (node.mailbox_admin().get("/healthz").status == 200).then_some(()));
}
