//! The description of the API is complete, true to the types that read requests, and the one that is committed.

use super::*;
use crate::http::dto;
use crate::http::openapi::{Describes, text_of};
use ron_core::reason::Reason;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;

const RENEW: &str = "RENEW_DOCS=1 cargo test -p ron-node --lib openapi";

fn document(of: Describes) -> Value {
    serde_json::from_str(&text_of(of)).unwrap()
}

/// Every operation: its path, its method, and what is said of it.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
        })
        .collect()
}

#[test]
fn the_committed_description_is_the_one_of_this_code() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let now = text_of(Describes::All);
    if std::env::var_os("RENEW_DOCS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == now, "docs/openapi.json differs from the code; renew it: {RENEW}");
}

/// The paths that a router has, out of its debug form: axum shows them nowhere else.
fn routed(router: &Router) -> BTreeSet<String> {
    let shown = format!("{router:?}");
    let paths = shown.split('"').filter(|text| text.starts_with('/') && !text.contains("__private"));
    // "/" is the fallback
    let paths: BTreeSet<String> = paths.filter(|path| *path != "/").map(str::to_owned).collect();
    assert!(paths.contains("/openapi.json"), "axum no longer shows its routes: {shown}");
    paths
}

#[tokio::test]
async fn every_route_is_described_with_its_methods_and_no_other() {
    let net = Net::new();
    for of in [Describes::Mailbox, Describes::Interop { api: false }, Describes::Interop { api: true }] {
        let access = |audience| Access::Capability(Arc::new(FakeAuth), audience);
        let (router, surface) = match of {
            Describes::Interop { api } => {
                let api = api.then(|| net.public_api(access(Audience::Interop)));
                (interop_router(net.interop_app(FakeGate::default()), api), Surface::Interop)
            }
            _ => {
                let app = net.app(Surface::Mailbox, access(Audience::Mailbox));
                (mailbox_router(app, false), Surface::Mailbox)
            }
        };
        let document = document(of);
        let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, method, _) in operations(&document) {
            described.entry(path.to_owned()).or_default().insert(method.to_uppercase());
        }
        assert_eq!(routed(&router), described.keys().cloned().collect(), "{of:?}");
        let (addr, _listening) = net.serve(surface, router).await;
        for (path, methods) in described {
            let filled = path.replace(['{', '}'], "");
            let reply = exchange(addr, request("PATCH", &filled, "", b"")).await;
            reply.refused(405, "METHOD_NOT_ALLOWED");
            let allowed = reply.headers["allow"].split(',').map(str::to_owned);
            let allowed: BTreeSet<String> = allowed.filter(|method| method != "HEAD").collect();
            assert_eq!(allowed, methods, "{of:?} {path}");
        }
    }
}

#[test]
fn every_reason_is_described() {
    let all: BTreeSet<&str> = Reason::ALL.map(Reason::code).into();
    let document = document(Describes::All);
    let listed = document["components"]["schemas"]["Reason"]["enum"].as_array().unwrap();
    assert_eq!(listed.iter().map(|code| code.as_str().unwrap()).collect::<BTreeSet<_>>(), all);
    // of a receipt, not of a request; and of a call that is not there
    let mut seen = BTreeSet::from(["STALE_RECEIPT", "METHOD_NOT_ALLOWED"]);
    for (path, method, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let reference = response["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
            let response = reference.map_or(response, |pointer| document.pointer(pointer).unwrap());
            let schema = &response["content"]["application/json"]["schema"];
            let Some(reasons) = schema["properties"]["reason"]["enum"].as_array() else { continue };
            for code in reasons.iter().map(|code| code.as_str().unwrap()) {
                let reason = Reason::ALL.into_iter().find(|reason| reason.code() == code).unwrap();
                let webhook = path.starts_with("/webhooks") && reason == Reason::Backpressure;
                let expected = if webhook { 503 } else { reason.status() };
                assert_eq!(status, &expected.to_string(), "{method} {path} {code}");
                assert_eq!(
                    response["headers"]["Retry-After"].is_object(),
                    reason.retryable(),
                    "{path} {code}"
                );
                assert_eq!(schema["additionalProperties"], false);
                seen.insert(code);
            }
        }
    }
    assert_eq!(seen, all);
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|value| walk(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    for of in [
        Describes::All,
        Describes::Mailbox,
        Describes::Interop { api: false },
        Describes::Interop { api: true },
    ] {
        let document = document(of);
        assert_eq!(document["openapi"], "3.1.0");
        let mut found = Vec::new();
        walk(&document, &mut found);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{of:?}: {reference}");
        }
    }
}

#[test]
fn the_types_that_read_requests_take_the_examples_and_no_unknown_field() {
    type Read = fn(&[u8]) -> Option<String>;
    fn read<T: DeserializeOwned>(body: &[u8]) -> Option<String> {
        dto::json::<T>(body).err().map(|refusal| refusal.text.into_owned())
    }
    let readers: [(&str, Read); 16] = [
        ("enqueueBatch", read::<dto::BatchRequest>),
        ("recv", read::<dto::RecvRequest>),
        ("recvStream", read::<dto::StreamRequest>),
        ("ack", read::<dto::AckRequest>),
        ("nack", read::<dto::NackRequest>),
        ("extend", read::<dto::ExtendRequest>),
        ("settings", read::<dto::SettingsRequest>),
        ("pause", read::<dto::PauseRequest>),
        ("resume", read::<dto::PauseRequest>),
        ("purge", read::<dto::ConfirmRequest>),
        ("deleteTopic", read::<dto::ConfirmRequest>),
        ("reprocess", read::<dto::ReprocessRequest>),
        ("purgeDeadLetters", read::<dto::PurgeDeadRequest>),
        ("resend", read::<dto::ResendRequest>),
        ("subscribe", read::<dto::SubscribersRequest>),
        ("graphql", read::<crate::http::graphql::GraphqlRequest>),
    ];
    let document = document(Describes::All);
    let mut read = 0;
    for (path, method, operation) in operations(&document) {
        let body = &operation["requestBody"]["content"]["application/json"];
        if body.is_null() {
            continue;
        }
        let id = operation["operationId"].as_str().unwrap();
        let (_, reader) = readers.iter().find(|(name, _)| *name == id).unwrap_or_else(|| panic!("{id}"));
        let mut example = body["example"].clone();
        assert_eq!(reader(example.to_string().as_bytes()), None, "{method} {path}");
        let name = body["schema"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
        let schema = &document["components"]["schemas"][name];
        assert_eq!(schema["additionalProperties"], false, "{name}");
        for required in schema["required"].as_array().into_iter().flatten() {
            let mut without = example.clone();
            without.as_object_mut().unwrap().remove(required.as_str().unwrap());
            assert!(reader(without.to_string().as_bytes()).is_some(), "{name} without {required}");
        }
        example["unknown"] = 1.into();
        let refused = reader(example.to_string().as_bytes()).unwrap();
        assert!(refused.contains("unknown field"), "{name}: {refused}");
        read += 1;
    }
    assert_eq!(read, readers.len());
}

#[tokio::test]
async fn the_page_loads_from_here_alone_and_needs_no_capability() {
    let net = Net::new();
    let (addr, _listening) = net.serve_mailbox().await;
    let get = |path: &str| raw_request("GET", path, "", b"");
    let page = exchange(addr, get("/docs")).await;
    assert_eq!((page.status, &*page.headers["content-type"]), (200, "text/html; charset=utf-8"));
    let policy = &page.headers["content-security-policy"];
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"),
        "{policy}"
    );
    let html = String::from_utf8(page.body).unwrap();
    assert!(!html.contains("://") && !html.contains("style=") && !html.contains("onload"), "{html}");
    let links: Vec<&str> = html.split('"').filter(|text| text.starts_with("/docs/")).collect();
    assert_eq!(links.len(), 3);
    for link in links {
        let file = exchange(addr, get(link)).await;
        assert_eq!((file.status, &*file.headers["x-content-type-options"]), (200, "nosniff"), "{link}");
        assert!(file.headers["content-type"].starts_with("text/") && file.body.len() > 50, "{link}");
    }
    exchange(addr, get("/docs/..%2fmod.rs")).await.refused(404, "NOT_FOUND");
    let document = exchange(addr, get("/openapi.json")).await;
    assert_eq!(document.json()["info"]["title"], "ron-node");
    let series = "requests_total{route=\"/docs\",method=\"GET\",code=\"200\"}";
    assert_eq!(net.mailbox_metric(series), Some(4.0));
}
