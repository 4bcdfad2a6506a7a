//! `/graphql` around a fake mailbox: what is not taken at all, and what becomes of fields that are refused.

use super::fakes::{Asked, delivered};
use super::*;
use crate::http::graphql::sdl;
use ron_core::reason::{Reason, Refusal};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

const JSON: &str = "content-type: application/json\r\n";

fn ask(query: &str, variables: &Value) -> Vec<u8> {
    let body = json!({"query": query, "variables": variables}).to_string();
    request("POST", "/graphql", JSON, body.as_bytes())
}

#[test]
fn the_committed_schema_is_the_one_of_this_code() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema.graphql");
    if std::env::var_os("RENEW_DOCS").is_some() {
        std::fs::write(&path, sdl()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let renew = "RENEW_DOCS=1 cargo test -p ron-node --lib graphql";
    assert!(committed == sdl(), "docs/schema.graphql differs from the code; renew it: {renew}");
}

#[tokio::test]
async fn only_one_operation_in_json_by_post_is_taken() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let query = br#"{"query":"{ topic(tenant: \"acme\", name: \"orders\") { stat { ready } } }"}"#;
    let post = |headers: &str, body: &[u8]| request("POST", "/graphql", headers, body);
    exchange(addr, request("GET", "/graphql?query=%7B__typename%7D", "", b""))
        .await
        .refused(405, "METHOD_NOT_ALLOWED");
    for headers in ["", "content-type: text/plain\r\n", "content-type: multipart/form-data; boundary=x\r\n"] {
        exchange(addr, post(headers, query)).await.refused(415, "UNSUPPORTED_ENCODING");
    }
    let batch = [b"[", &query[..], b"]"].concat();
    exchange(addr, post(JSON, &batch)).await.refused(400, "MALFORMED");
    exchange(addr, raw_request("POST", "/graphql", JSON, query)).await.refused(401, "UNAUTH");
    let headers = format!("authorization: Bearer no-token\r\n{JSON}");
    exchange(addr, raw_request("POST", "/graphql", &headers, query)).await.refused(401, "UNAUTH");
    let unknown = br#"{"query":"{ __typename }","extensions":{}}"#;
    exchange(addr, post(JSON, unknown)).await.refused(400, "MALFORMED");
    let large = vec![b' '; 2 * 1024 * 1024 + 1];
    exchange(addr, post(JSON, &large)).await.refused(413, "BODY_LIMIT");
    assert!(net.mailbox.never_asked());
    let answer = exchange(addr, post(JSON, query)).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"data": {"topic": {"stat": {"ready": 1}}}})));
    let series = "requests_total{route=\"/graphql\",method=\"POST\",code=\"200\"}";
    assert_eq!(net.mailbox_metric(series), Some(1.0));
}

#[tokio::test]
async fn what_does_not_fit_does_not_run_and_is_told_without_its_values() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let sends = "mutation { enqueue(topic: \"t\", message: {payload: \"s3cr3t\"}) { msg_id } ";
    let wide: String = (0..11).map(|n| format!("f{n}: topic(name: \"t\") {{ name: __typename }} ")).collect();
    let cases = [
        (format!("{sends} nonsense }}"), "Unknown field"),
        (format!("{sends} ack(topic: \"t\", receipts: \"a\", s3cr3t: 1) {{ results {{ ok }} }} }}"), "Unknown argument"),
        ("{ topic(name: \"t\") { peek(state: s3cr3t) { cursor } } }".to_owned(), "does not fit"),
        ("{ topic(name: \"t\") { peek(limit: 100) { messages { msg_id tenant topic attempt receipt } } } }".to_owned(), "500 fields"),
        (format!("{{ {wide} }}"), "10 fields"),
        ("{ topic(name: \"t\") { stat @a @a @a @a @a @a { ready } } }".to_owned(), "query:"),
    ];
    for (query, says) in cases {
        let answer = exchange(addr, ask(&query, &json!({}))).await;
        answer.refused(400, "MALFORMED");
        let error = answer.error();
        assert!(
            error.contains(says) && !error.contains("\"s3cr3t\"") || says == "Unknown argument",
            "{query}: {error}"
        );
    }
    // a value in a variable is judged when it is used; the text does not show it
    let query = "query($name: String!) { topic(name: $name) { stat { ready } } }";
    let answer = exchange(addr, ask(query, &json!({"name": {"s3cr3t": 1}}))).await;
    let text = String::from_utf8(answer.body.clone()).unwrap();
    assert!(text.contains("MALFORMED") && !text.contains("s3cr3t"), "{text}");
    assert!(net.mailbox.never_asked());
}

#[tokio::test]
async fn a_refused_field_leaves_the_others_standing() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    *net.mailbox.refuse_item.lock().unwrap() = Some(Reason::Storage);
    let query = "mutation { \
        a: enqueue(topic: \"orders\", tenant: \"acme\", message: {payload: \"x\"}) { msg_id } \
        b: ack(topic: \"orders\", tenant: \"acme\", receipts: [\"stale\", \"good\"]) { results { ok reason } } \
        c: nack(topic: \"orders\", tenant: \"acme\", receipts: [\"r\"], mode: reject, delay_ms: 5) { results { ok } } }";
    let answer = exchange(addr, ask(query, &json!({}))).await;
    assert_eq!(answer.status, 200);
    let json = answer.json();
    let results = json!([{"ok": false, "reason": "STALE_RECEIPT"}, {"ok": true, "reason": null}]);
    assert_eq!(json["data"], json!({"a": null, "b": {"results": results}, "c": null}));
    let corr = answer.headers["x-corr-id"].clone();
    let errors: Vec<Value> =
        json["errors"].as_array().unwrap().iter().map(|e| e["extensions"].clone()).collect();
    let storage = json!({"reason": "STORAGE", "effect": "unknown", "corr_id": corr, "retry_after_ms": 1000});
    let malformed = json!({"reason": "MALFORMED", "effect": "none", "corr_id": corr});
    assert_eq!(errors, [storage, malformed]);
    assert_eq!(json["errors"][0]["path"], json!(["a"]));
    // counted once each, as over REST
    assert_eq!(net.mailbox_metric("rejected_total{reason=\"storage\"}"), Some(1.0));
}

#[tokio::test]
async fn what_is_received_stands_when_the_answer_is_written_and_not_before() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    net.mailbox.ready.lock().unwrap().push(delivered("one"));
    let query = "mutation { \
        a: recv(tenant: \"acme\", topic: \"orders\", visibility_ms: 900) { messages { payload receipt } } \
        b: recv(tenant: \"acme\", topic: \"orders\", wait_ms: 20000) { messages { payload } } }";
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(&ask(query, &json!({}))).await.unwrap();
    eventually("waits for more", || net.mailbox.waiting.load(Ordering::SeqCst) == 1).await;
    let Asked::Recv(want, _) = net.mailbox.asked.lock().unwrap()[0].clone() else { panic!("a receive") };
    assert_eq!((want.max_messages, want.visibility_ms), (1, Some(900)));
    assert_eq!(net.mailbox.written.load(Ordering::SeqCst), 0, "the first one is still to be written");
    // the client goes away: both go back
    drop(socket);
    eventually("given back", || net.mailbox.given_back.load(Ordering::SeqCst) == 1).await;
    net.mailbox.ready.lock().unwrap().push(delivered("two"));
    let query = "mutation { recv(tenant: \"acme\", topic: \"orders\") { messages { payload } } }";
    let answer = exchange(addr, ask(query, &json!({}))).await.json();
    assert_eq!(answer, json!({"data": {"recv": {"messages": [{"payload": "two"}]}}}));
    eventually("written", || net.mailbox.written.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_refusal_of_the_whole_mailbox_comes_with_each_field() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    *net.mailbox.refuse.lock().unwrap() = Some(Refusal::new(Reason::Backpressure, "full").retry_after(2500));
    let query =
        "{ topic(tenant: \"acme\", name: \"orders\") { peek(limit: 3, cursor: \"a&b=ü\") { cursor } } }";
    let answer = exchange(addr, ask(query, &json!({}))).await.json();
    assert_eq!(answer["data"], json!({"topic": {"peek": null}}));
    let more = &answer["errors"][0]["extensions"];
    assert_eq!((&more["reason"], &more["retry_after_ms"]), (&json!("BACKPRESSURE"), &json!(2500)));
    let Asked::Peek(_, 3, cursor) = net.mailbox.last() else { panic!("a peek of 3") };
    assert_eq!(cursor.as_deref(), Some("a&b=ü"));
}
