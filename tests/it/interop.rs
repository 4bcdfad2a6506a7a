//! Webhooks of the providers that ship, and of one written in the configuration, from the signature to the ack.

use crate::harness::{Provider, Setup, TENANT, TestNode, borrowed, wall};
use crate::http::{Answer, Client};
use crate::mailbox::{depths, receipt, recv, recv_one, settle};
use ron_core::time::Millis;
use ron_node::schemes::Catalogue;
use serde_json::json;

const SHIPPED: [&str; 6] = ["github", "stripe", "slack", "standard_webhooks", "shopify", "discord"];

/// A body that means an event to each scheme and a handshake to none.
fn event(n: u32) -> Vec<u8> {
    let event =
        json!({"id": format!("evt-{n}"), "event_id": format!("evt-{n}"), "type": "thing.done", "n": n});
    event.to_string().into_bytes()
}

fn post(client: &Client, provider: &Provider, id: &str, at: Millis, body: &[u8]) -> Answer {
    let headers = provider.sign(id, at, body);
    client.call("POST", &provider.path(), &borrowed(&headers), body)
}

#[test]
fn every_shipped_provider_end_to_end() {
    let providers = SHIPPED.map(|name| Provider::new(name, name));
    let mut setup = Setup::new();
    for provider in &providers {
        setup = provider.add_to(setup, provider.name, "");
    }
    let node = setup.start();
    let (interop, mailbox) = (node.interop(), node.mailbox());
    for provider in &providers {
        let (name, topic, now, body) = (provider.name, provider.topic(), wall(), event(1));
        let accepted = post(&interop, provider, "evt-1", now, &body).json(202);
        let mut keys: Vec<&String> = accepted.as_object().unwrap().keys().collect();
        keys.sort_unstable();
        assert_eq!(keys, ["accepted", "corr_id", "duplicate", "msg_id"], "{name}");
        assert_eq!((&accepted["accepted"], &accepted["duplicate"]), (&json!(true), &json!(false)), "{name}");
        // the provider's own retry: known, stored once
        let again = post(&interop, provider, "evt-1", now, &body).json(202);
        assert_eq!((&again["duplicate"], &again["msg_id"]), (&json!(true), &accepted["msg_id"]), "{name}");
        // another event
        assert_eq!(post(&interop, provider, "evt-2", now, &event(2)).json(202)["duplicate"], false, "{name}");
        assert_eq!(depths(&mailbox, &topic), [2, 0, 0, 0], "{name}");
        // one flipped byte
        let headers = provider.sign("evt-3", now, &event(3));
        let mut flipped = event(3);
        *flipped.last_mut().unwrap() = b' ';
        let answer = interop.call("POST", &provider.path(), &borrowed(&headers), &flipped);
        answer.refused(401, "SIGNATURE_INVALID");
        // unsigned
        interop.call("POST", &provider.path(), &[], &body).refused(401, "SIGNATURE_INVALID");
        // stale, where the scheme signs a time
        if !["github", "shopify"].contains(&name) {
            post(&interop, provider, "evt-4", Millis(now.0 - 301_000), &event(4))
                .refused(401, "REPLAY_WINDOW");
            post(&interop, provider, "evt-4", Millis(now.0 + 310_000), &event(4))
                .refused(401, "REPLAY_WINDOW");
        }
        let got = recv_one(&mailbox, &topic, 60_000);
        assert_eq!(got["payload"].as_str().unwrap().as_bytes(), body, "{name}");
        assert_eq!((&got["content_type"], &got["msg_id"]), (&json!("application/json"), &accepted["msg_id"]));
        let attrs = got["attrs"].as_object().unwrap();
        assert_eq!((&attrs["webhook-provider"], &attrs["webhook-kid"]), (&json!(name), &json!("k1")));
        let signed_id = !["github", "shopify"].contains(&name);
        let (id, other) = match signed_id {
            true => ("webhook-id", "webhook-unsigned-id"),
            false => ("webhook-unsigned-id", "webhook-id"),
        };
        assert_eq!(attrs.get(id), Some(&json!("evt-1")), "{name}: {attrs:?}");
        assert_eq!(attrs.get(other), None, "{name}: {attrs:?}");
        assert_eq!(
            settle(&mailbox, &topic, "ack", &json!({"receipts": [receipt(&got)]})),
            [json!({"ok": true})]
        );
    }

    // known events stay known over a SIGKILL; unknown ones are taken
    let node = node.kill_and_restart();
    let (interop, mailbox) = (node.interop(), node.mailbox());
    for provider in &providers {
        assert_eq!(post(&interop, provider, "evt-1", wall(), &event(1)).json(202)["duplicate"], true);
        let rest = recv(&mailbox, &provider.topic(), &json!({"max_messages": 10}));
        assert_eq!(rest.len(), 1, "{}", provider.name);
        assert_eq!(rest[0]["payload"].as_str().unwrap().as_bytes(), event(2));
    }
    // no secret ever reaches the log
    for (name, secret) in node.setup.command().get_envs().filter(|(name, _)| *name != "PATH") {
        let secret = secret.unwrap().to_string_lossy().into_owned();
        assert!(!node.log().contains(&secret), "{name:?} is in the log");
    }
}

#[test]
fn handshakes_are_answered_and_stored_nowhere() {
    let [github, slack, discord] = ["github", "slack", "discord"].map(|name| Provider::new(name, name));
    let mut setup = Setup::new();
    for provider in [&github, &slack, &discord] {
        setup = provider.add_to(setup, provider.name, "");
    }
    let node = setup.start();
    let interop = node.interop();
    let now = wall();

    let challenge =
        br#"{"token":"t","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmd","type":"url_verification"}"#;
    let answer = post(&interop, &slack, "", now, challenge);
    assert_eq!((answer.status, answer.text()), (200, "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmd"));
    assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    // unsigned, it is no handshake; nor is one whose challenge could be a page
    interop.call("POST", "/webhooks/slack", &[], challenge).refused(401, "SIGNATURE_INVALID");
    let long = json!({"challenge": "x".repeat(513), "type": "url_verification"}).to_string();
    assert!(post(&interop, &slack, "", now, long.as_bytes()).status >= 400);

    let ping = br#"{"type":1}"#;
    let answer = post(&interop, &discord, "", now, ping);
    assert_eq!((answer.status, answer.text()), (200, r#"{"type":1}"#));
    interop.call("POST", "/webhooks/discord", &[], ping).refused(401, "SIGNATURE_INVALID");
    let headers = discord.sign("", now, b"{}");
    interop.call("POST", "/webhooks/discord", &borrowed(&headers), ping).refused(401, "SIGNATURE_INVALID");
    assert_eq!(post(&interop, &discord, "", now, br#"{"type":0}"#).status, 204);
    // an event is answered as Discord wants it, and kept
    let event = br#"{"version":1,"type":1,"event":{"type":"APPLICATION_AUTHORIZED"}}"#;
    let answer = post(&interop, &discord, "", now, event);
    assert_eq!((answer.status, answer.body.len()), (204, 0));

    // GitHub's ping is known by its body, whatever the header says
    let ping = br#"{"zen":"Design for failure.","hook_id":1,"hook":{}}"#;
    assert_eq!(post(&interop, &github, "d-1", now, ping).status, 200);
    let mailbox = node.mailbox();
    assert_eq!(depths(&mailbox, "discord"), [1, 0, 0, 0]);
    for topic in ["slack", "github"] {
        mailbox.get(&format!("/v1/{TENANT}/{topic}")).refused(404, "NOT_FOUND");
    }
}

/// A scheme that nobody ships, written in the configuration alone.
const OWN_SCHEME: &str = r#"
[interop.schemes.acme_pay]
algorithm = "hmac-sha512"
header = "X-Acme-Signature"
prefix = "v1:"
encoding = "base64"
base = "{timestamp}|{id}|{body}"
timestamp = { header = "X-Acme-Time", unit = "ms" }
key_format = "hex"
id = { header = "X-Acme-Id", signed = true, unique = true }
type = { json = "kind", signed = true }
body_coverage = "full"
accept = { status = 200, content_type = "text/plain", body = "OK" }
"#;

fn own() -> (Provider, TestNode) {
    let table: toml::Table = toml::from_str(OWN_SCHEME).unwrap();
    let schemes = table["interop"]["schemes"].as_table().unwrap();
    let provider = Provider::of("pay", Catalogue::scheme("acme_pay", schemes).unwrap());
    let node = provider.add_to(Setup::new().toml(OWN_SCHEME), "acme_pay", "tolerance_s = 60").start();
    (provider, node)
}

#[test]
fn a_scheme_of_ones_own() {
    let (pay, node) = own();
    let (interop, mailbox, now) = (node.interop(), node.mailbox(), wall());
    let body = br#"{"kind":"charge","amount":1}"#;
    let headers = pay.sign("pay-1", now, body);
    // the signature, computed here by hand
    let signature = headers.iter().find(|(name, _)| name == "X-Acme-Signature").unwrap().1.clone();
    assert!(signature.starts_with("v1:") && signature.len() == 3 + 88, "{signature}");
    let answer = interop.call("POST", "/webhooks/pay", &borrowed(&headers), body);
    assert_eq!((answer.status, answer.text()), (200, "OK"));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    // the same id with another signed body is the provider's own retry
    let other = pay.sign("pay-1", now, b"{}");
    assert_eq!(interop.call("POST", "/webhooks/pay", &borrowed(&other), b"{}").status, 200);
    assert_eq!(depths(&mailbox, "pay"), [1, 0, 0, 0]);
    let old = pay.sign("pay-2", Millis(now.0 - 61_000), body);
    interop.call("POST", "/webhooks/pay", &borrowed(&old), body).refused(401, "REPLAY_WINDOW");
    let got = recv_one(&mailbox, "pay", 60_000);
    assert_eq!(got["payload"].as_str().unwrap().as_bytes(), body);
    let attrs = json!({"webhook-provider": "pay", "webhook-kid": "k1", "webhook-id": "pay-1", "webhook-type": "charge"});
    assert_eq!(got["attrs"], attrs);
}

#[test]
fn two_secrets_during_a_rotation() {
    let old = Provider::new("github", "github");
    let new = Provider::new("github2", "github");
    let text = "[interop.providers.hub]\nscheme = \"github\"\ntenant = \"acme\"\ntopic = \"hub\"\nsecrets = [\
                { kid = \"old\", env = \"SECRET_GITHUB\" }, { kid = \"new\", env = \"SECRET_GITHUB2\" },\
                { kid = \"gone\", env = \"SECRET_GONE\", not_after = \"2020-01-01T00:00:00Z\" }]\n";
    let gone = Provider::new("gone", "github");
    let setup = gone.add_to(new.add_to(old.add_to(Setup::new(), "github", ""), "github", ""), "github", "");
    let node = setup.toml(text).start();
    let interop = node.interop();
    for (provider, body, status) in
        [(&old, b"{\"n\":1}", 202), (&new, b"{\"n\":2}", 202), (&gone, b"{\"n\":3}", 401)]
    {
        let headers = provider.sign("1", wall(), body);
        let answer = interop.call("POST", "/webhooks/hub", &borrowed(&headers), body);
        assert_eq!(answer.status, status, "{}", provider.name);
    }
    let kids: Vec<String> = recv(&node.mailbox(), "hub", &json!({"max_messages": 10}))
        .iter()
        .map(|m| m["attrs"]["webhook-kid"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kids, ["old", "new"]);
    let metrics = node.interop_admin().get("/metrics");
    let matched = r#"svc_interop_secret_matches_total{provider="hub",kid="new"} 1"#;
    assert!(metrics.text().contains(matched), "{}", metrics.text());
}

#[test]
fn an_id_that_is_signed_apart_from_the_body_cannot_be_used_twice() {
    let text = OWN_SCHEME
        .replace("{timestamp}|{id}|{body}", "{timestamp}|{id}")
        .replace("\"full\"", "\"partial\"")
        .replace("type = { json = \"kind\", signed = true }\n", "");
    let table: toml::Table = toml::from_str(&text).unwrap();
    let schemes = table["interop"]["schemes"].as_table().unwrap();
    let pay = Provider::of("pay", Catalogue::scheme("acme_pay", schemes).unwrap());
    let node = pay.add_to(Setup::new().toml(&text), "acme_pay", "").start();
    let interop = node.interop();
    let headers = pay.sign("pay-1", wall(), b"one");
    let post = |body: &[u8]| interop.call("POST", "/webhooks/pay", &borrowed(&headers), body);
    assert_eq!(post(b"one").status, 200);
    assert_eq!(post(b"one").status, 200, "the provider's retry");
    post(b"another").refused(401, "REPLAY_WINDOW");
    assert_eq!(depths(&node.mailbox(), "pay"), [1, 0, 0, 0]);
}

#[test]
fn a_body_in_chunks_is_the_same_body() {
    let github = Provider::new("github", "github");
    let node = github.add_to(Setup::new(), "github", "").start();
    let interop = node.interop();
    let body = event(1);
    let headers = github.sign("d-1", wall(), &body);
    let head = interop.request("POST", "/webhooks/github", &borrowed(&headers), b"");
    let head = String::from_utf8(head).unwrap().replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let mut request = head.into_bytes();
    for chunk in body.chunks(7) {
        request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    interop.raw(&request).json(202);
    // the header that says ping decides nothing: it is not signed
    let body = event(2);
    let mut headers = github.sign("d-2", wall(), &body);
    headers.retain(|(name, _)| name != "X-GitHub-Event");
    headers.push(("X-GitHub-Event".into(), "ping".into()));
    interop.call("POST", "/webhooks/github", &borrowed(&headers), &body).json(202);
    assert_eq!(depths(&node.mailbox(), "github"), [2, 0, 0, 0]);
}
