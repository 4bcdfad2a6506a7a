//! What the configuration bounds, seen from outside.

use crate::harness::{Provider, Setup, borrowed, poll, wall};
use crate::http::Answer;
use serde_json::json;

#[test]
fn connections_over_the_limit_are_told_so() {
    let node = Setup::new().env("SVC_INTEROP_MAX_CONNS", "2").start();
    let interop = node.interop();
    let open: Vec<_> = (0..2).map(|_| interop.begin(b"GET /ver")).collect();
    let full = poll("a refusal", || Some(interop.get("/version")).filter(|answer| answer.status != 200));
    full.refused(503, "BACKPRESSURE");
    // the mailbox and the admin ports have connections of their own
    assert_eq!(node.interop_admin().get("/readyz").status, 200);
    assert_eq!(node.mailbox().get("/v1/acme").status, 200);
    let busy = node.interop_admin().get("/metrics");
    assert!(
        busy.text().contains(r#"svc_interop_busy_rejections_total{endpoint="connection"}"#),
        "{}",
        busy.text()
    );
    drop(open);
    poll("room again", || (interop.get("/version").status == 200).then_some(()));
}

#[test]
fn the_rate_is_charged_to_verified_webhooks_only() {
    let github = Provider::new("github", "github");
    let setup = github.add_to(Setup::new(), "github", "");
    let node = setup.env("SVC_INTEROP_MAX_RPS", "1").env("SVC_INTEROP_BURST_RPS", "2").start();
    let interop = node.interop();
    for _ in 0..20 {
        interop.call("POST", "/webhooks/github", &[], b"{}").refused(401, "SIGNATURE_INVALID");
    }
    let post = |n: u32| -> Answer {
        let body = format!("{{\"n\":{n}}}");
        let headers = github.sign("1", wall(), body.as_bytes());
        interop.call("POST", "/webhooks/github", &borrowed(&headers), body.as_bytes())
    };
    post(0).json(202);
    let limited = (1..50).map(post).find(|answer| answer.status != 202).unwrap();
    limited.refused(429, "RATE_LIMIT");
}

#[test]
fn topics_are_bounded_and_a_receive_makes_none() {
    let node = Setup::new().env("RON_MAILBOX__MAX_TOPICS", "2").start();
    let client = node.mailbox();
    for topic in ["a", "b"] {
        client.call("POST", &format!("/v1/acme/{topic}/enqueue"), &[], b"x").json(200);
    }
    client.call("POST", "/v1/acme/c/enqueue", &[], b"x").refused(429, "BACKPRESSURE");
    assert_eq!(client.post("/v1/acme/c/recv", &json!({})).json(200), json!({"messages": []}));
    let list = client.get("/v1/acme").json(200);
    assert_eq!(list["topics"].as_array().unwrap().len(), 2);
    client.call("POST", "/v1/acme/a/enqueue", &[], b"x").json(200);
}

#[test]
fn the_list_of_topics_shows_what_the_capability_allows() {
    let node = Setup::new().start();
    let client = node.mailbox();
    for topic in ["orders-eu", "orders-us", "users"] {
        client.call("POST", &format!("/v1/acme/{topic}/enqueue"), &[], b"x").json(200);
    }
    let other = node.mint(&json!({"tenant": "other", "ops": ["enqueue", "stat"]}));
    node.bare().with(&other).call("POST", "/v1/other/orders-x/enqueue", &[], b"x").json(200);
    let names = |token: &str, tenant: &str| -> Vec<String> {
        let list = node.bare().with(token).get(&format!("/v1/{tenant}")).json(200);
        let topics = list["topics"].as_array().unwrap().clone();
        topics.iter().map(|topic| topic["topic"].as_str().unwrap().to_owned()).collect()
    };
    let narrow = node.mint(&json!({"ops": ["stat"], "topic": "orders-*"}));
    assert_eq!(names(&narrow, "acme"), ["orders-eu", "orders-us"]);
    assert_eq!(names(&other, "other"), ["orders-x"]);
    node.bare().with(&other).get("/v1/acme").refused(403, "SCOPE_MISMATCH");
}

#[test]
fn ids_are_never_forgotten_early_to_make_room() {
    let [github, stripe] = ["github", "stripe"].map(|name| Provider::new(name, name));
    let setup = stripe.add_to(github.add_to(Setup::new(), "github", ""), "stripe", "");
    let node = setup.env("RON_STORE__MAX_DEDUP_KEYS", "2").start();
    let (interop, client) = (node.interop(), node.mailbox());
    let post = |provider: &Provider, n: u32| {
        let body = json!({"id": format!("evt_{n}"), "n": n}).to_string();
        let headers = provider.sign(&format!("evt_{n}"), wall(), body.as_bytes());
        interop.call("POST", &provider.path(), &borrowed(&headers), body.as_bytes())
    };
    post(&github, 1).json(202);
    post(&stripe, 1).json(202);
    // a provider retries a 503; an API client knows 429
    post(&github, 2).refused(503, "BACKPRESSURE");
    let keyed: [(&str, &[u8]); 1] = [("Idempotency-Key", b"k")];
    client.call("POST", "/v1/acme/t/enqueue", &keyed, b"x").refused(429, "BACKPRESSURE");
    client.call("POST", "/v1/acme/t/enqueue", &[], b"x").json(200);
    // known ones stay known
    assert_eq!(post(&github, 1).json(202)["duplicate"], true);
    assert_eq!(post(&stripe, 1).json(202)["duplicate"], true);
}
