//! What bodies are refused, and that the refusal never quotes them.

use super::*;
use ron_actors::mailbox::api::Settle;
use ron_core::shard::NackMode;
use std::fmt;

fn refused<T: DeserializeOwned + fmt::Debug>(body: &str) -> String {
    let refusal = json::<T>(body.as_bytes()).unwrap_err();
    assert_eq!(refusal.reason, Reason::Malformed);
    refusal.text.into_owned()
}

#[test]
fn errors_keep_the_place_and_the_type_and_drop_the_value() {
    let text = refused::<RecvRequest>(r#"{"wait_ms":"s3cr3t"}"#);
    assert_eq!(text, "JSON body: wait_ms: expected u64 at line 1 column 19");
    let text = refused::<BatchRequest>(r#"{"messages":[{"payload":"x"},{"payload":{"s3cr3t":1}}]}"#);
    assert!(text.starts_with("JSON body: messages[1].payload: expected a string at line 1"), "{text}");
    let text = refused::<AckRequest>(r#"{"receipts":"s3cr3t, expected nothing"}"#);
    assert!(text.contains("receipts: expected a list") && !text.contains("s3cr3t"), "{text}");
    let text = refused::<NackRequest>(r#"{"receipts":["x"],"mode":"s3cr3t"}"#);
    assert!(text.contains("mode: expected") && !text.contains("s3cr3t"), "{text}");
    assert!(text.contains("`fail`, `release`"), "{text}");
}

#[test]
fn unknown_duplicate_and_missing_fields_are_named() {
    assert!(refused::<RecvRequest>(r#"{"wait":1}"#).contains("unknown field `wait`"));
    assert!(!refused::<RecvRequest>(r#"{"s3cr3t \u0007":1}"#).contains("s3cr3t"));
    assert!(refused::<RecvRequest>(r#"{"wait_ms":1,"wait_ms":1}"#).contains("duplicate field `wait_ms`"));
    assert!(refused::<AckRequest>("{}").contains("missing field `receipts`"));
    let twice = r#"{"messages":[{"payload":"x","attrs":{"a":"1","a":"2"}}]}"#;
    assert!(refused::<BatchRequest>(twice).contains("must not have a name twice"));
}

#[test]
fn broken_json_says_where() {
    for body in ["{", "{\"wait_ms\":}", "nul", "{} {}", "[1,2", "\u{feff}{}", "{'a':1}"] {
        let text = refused::<RecvRequest>(body);
        assert!(text.contains("at line 1 column "), "{body}: {text}");
    }
    assert_eq!(json::<RecvRequest>(b"{\"\xff\":1}").unwrap_err().reason, Reason::Malformed);
    assert!(json_or_default::<RecvRequest>(b"").is_ok());
    assert!(json::<AckRequest>(b"").is_err());
}

#[test]
fn lists_have_1_to_256_entries() {
    let body = |n: usize| format!("{{\"receipts\":[{}]}}", vec!["\"r\""; n].join(","));
    assert!(json::<AckRequest>(body(256).as_bytes()).is_ok());
    assert!(refused::<AckRequest>(&body(257)).contains("at most 256"));
    assert!(refused::<AckRequest>(&body(0)).contains("at least one"));
}

#[test]
fn recv_has_defaults_and_bounds() {
    let (want, wait) = RecvRequest::default().check().unwrap();
    assert_eq!(want, Want { max_messages: 1, max_bytes: 4 << 20, visibility_ms: None });
    assert_eq!(wait, Duration::ZERO);
    let check = |body: &str| json::<RecvRequest>(body.as_bytes()).unwrap().check();
    for good in [
        r#"{"max_messages":256,"max_bytes":16777216,"visibility_ms":43200000,"wait_ms":20000}"#,
        r#"{"max_messages":1,"max_bytes":1,"visibility_ms":250,"wait_ms":0}"#,
    ] {
        assert!(check(good).is_ok(), "{good}");
    }
    for (bad, field) in [
        (r#"{"max_messages":0}"#, "max_messages"),
        (r#"{"max_messages":257}"#, "max_messages"),
        (r#"{"max_bytes":0}"#, "max_bytes"),
        (r#"{"max_bytes":16777217}"#, "max_bytes"),
        (r#"{"visibility_ms":249}"#, "visibility_ms"),
        (r#"{"visibility_ms":43200001}"#, "visibility_ms"),
        (r#"{"wait_ms":20001}"#, "wait_ms"),
    ] {
        assert!(check(bad).unwrap_err().text.starts_with(field), "{bad}");
    }
}

#[test]
fn nack_modes() {
    let check = |body: &str| json::<NackRequest>(body.as_bytes()).unwrap().check();
    let (how, receipts) = check(r#"{"receipts":["r"]}"#).unwrap();
    assert!(matches!(how, Settle::Nack { mode: NackMode::Fail, delay_ms: None, note: None }));
    assert_eq!(receipts, ["r"]);
    assert!(check(r#"{"receipts":["r"],"mode":"release","delay_ms":0}"#).is_ok());
    assert!(check(r#"{"receipts":["r"],"mode":"reject","delay_ms":0}"#).is_err());
    assert!(check(r#"{"receipts":["r"],"delay_ms":2592000001}"#).is_err());
    let note = |n: usize| format!(r#"{{"receipts":["r"],"mode":"reject","reason":"{}"}}"#, "é".repeat(n));
    assert!(check(&note(256)).is_ok());
    assert!(check(&note(257)).is_err());
}

#[test]
fn batch_items_fail_one_by_one() {
    let items = |body: &str| json::<BatchRequest>(body.as_bytes()).unwrap().messages.0;
    let drafts: Vec<_> = items(
        r#"{"messages":[
            {"payload":"hé","content_type":"text/plain","attrs":{"a":"1"},"delay_ms":1,"ttl_ms":100},
            {"payload_b64":"AAE="},
            {"payload":"x","payload_b64":"AAE="},
            {},
            {"payload_b64":"AAE"},
            {"payload":"x","attrs":{"A":"1"}},
            {"payload":"x","idempotency_key":""}]}"#,
    )
    .into_iter()
    .map(BatchItem::into_draft)
    .collect();
    let (payload, draft) = drafts[0].as_ref().unwrap();
    assert_eq!(payload, "hé".as_bytes());
    assert_eq!((draft.delay_ms, draft.ttl_ms), (1, Some(100)));
    assert_eq!(draft.attrs, [("a".to_owned(), "1".to_owned())]);
    assert_eq!(drafts[1].as_ref().unwrap().0, &b"\x00\x01"[..]);
    for bad in &drafts[2..] {
        assert_eq!(bad.as_ref().unwrap_err().reason, Reason::Malformed);
    }
    let big = format!(r#"{{"messages":[{{"payload":"{}"}}]}}"#, "x".repeat((1 << 20) + 1));
    let big = items(&big).remove(0).into_draft().unwrap_err();
    assert_eq!(big.reason, Reason::BodyLimit);
}

#[test]
fn peek_query() {
    let of = |query_text: &str| query::<PeekQuery>(&format!("/x?{query_text}").parse().unwrap());
    assert_eq!(of("").unwrap().check().unwrap(), (PeekState::Ready, 20));
    assert_eq!(of("state=dlq&limit=100&cursor=a").unwrap().check().unwrap(), (PeekState::Dlq, 100));
    for bad in ["state=x", "limit=0", "limit=101"] {
        assert!(of(bad).unwrap().check().is_err(), "{bad}");
    }
    for bad in ["limit=x", "state=ready&state=dlq", "colour=red"] {
        assert!(of(bad).is_err(), "{bad}");
    }
}
