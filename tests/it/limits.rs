//! What the configuration bounds, seen from outside.

use crate::harness::{Provider, Setup, borrowed, poll, wall};
use crate::http::{Answer, read_answer};
use serde_json::json;

#[test]
fn connections_over_the_limit_are_told_so() {
    let github = Provider::new("github", "github");
    let node = github.add_to(Setup::new(), "github", "").env("SVC_INTEROP_MAX_CONNS", "2").start();
    let interop = node.interop();
    // strangers would give way
    let proven = |n: u32| {
        let body = format!("{{\"n\":{n}}}");
        let headers = github.sign("1", wall(), body.as_bytes());
        let raw = interop.request("POST", "/webhooks/github", &borrowed(&headers), body.as_bytes());
        let raw = String::from_utf8(raw).unwrap().replace("Connection: close\r\n", "");
        let mut open = interop.begin(raw.as_bytes());
        assert_eq!(read_answer(&mut open, raw.as_bytes()).unwrap().status, 202);
        open
    };
    let open: Vec<_> = (0..2).map(proven).collect();
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
fn what_is_just_within_its_limits_is_taken() {
    let node = Setup::new().start();
    let client = node.mailbox();
    let key = [b'~'; 256];
    // sixteen attributes of 4 KiB in all, names included
    let names: Vec<String> = (0..16).map(|n| format!("X-Attr-{n:x}")).collect();
    let values: Vec<String> =
        (0..16).map(|n| "v".repeat(if n == 0 { 4096 - 16 - 15 * 9 } else { 9 })).collect();
    let mut headers: Vec<(&str, &[u8])> =
        vec![("Idempotency-Key", &key), ("X-Delay-Ms", b"2591999999"), ("X-Ttl-Ms", b"2592000000")];
    headers.extend(names.iter().zip(&values).map(|(name, value)| (name.as_str(), value.as_bytes())));
    let topic = "t".repeat(128);
    let path = format!("/v1/acme/{topic}/enqueue");
    client.call("POST", &path, &headers, b"x").json(200);
    let seen = client.get(&format!("/v1/acme/{topic}/peek?state=delayed&limit=100")).json(200);
    let seen = &seen["messages"][0];
    assert_eq!(seen["idempotency_key"].as_str().unwrap().as_bytes(), key);
    let attrs = seen["attrs"].as_object().unwrap();
    assert_eq!(
        (attrs.len(), attrs["0"].as_str(), attrs["f"].as_str()),
        (16, Some(&*values[0]), Some(&*values[15]))
    );
    assert_eq!(client.get(&format!("/v1/acme/{topic}")).json(200)["delayed"], 1);
    // one more byte of an attribute, and times ten times as long
    let one_more = |at: usize, value: &[u8]| {
        let mut headers = headers.clone();
        let longer = [headers[at].1, value].concat();
        headers[at].1 = &longer;
        headers[0].1 = b"other";
        client.call("POST", &path, &headers, b"x").refused(400, "MALFORMED")
    };
    assert!(one_more(3, b"v").contains("X-Attr"));
    assert!(one_more(2, b"0").contains("X-Ttl-Ms"));
    assert!(one_more(1, b"0").contains("X-Delay-Ms"));
    assert_eq!(client.get(&format!("/v1/acme/{topic}")).json(200)["delayed"], 1);
}

#[test]
fn pages_of_topics_show_each_once_though_some_are_not_to_be_seen() {
    let node = Setup::new().start();
    let client = node.operator();
    let names: Vec<String> = (0..130).map(|n| format!("{}-{n:03}", ["even", "odd"][n % 2])).collect();
    let add: Vec<_> = names.iter().map(|topic| json!({ "topic": topic })).collect();
    let put = client.request(
        "PUT",
        "/v1/acme/source/subscribers",
        &[("Content-Type", b"application/json")],
        json!({ "add": add }).to_string().as_bytes(),
    );
    client.raw(&put).json(200);
    client.call("POST", "/v1/acme/source/enqueue", &[], b"x").json(200);
    let walk = |token: &str| {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = node.bare().with(token).get(&format!("/v1/acme{cursor}")).json(200);
            seen.extend(page["topics"].as_array().unwrap().clone());
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("?cursor={next}"),
                None => return seen,
            }
        }
    };
    let all = node.mint(&json!({"ops": ["stat"]}));
    let seen = poll("a copy in each", || {
        let seen = walk(&all);
        (seen.len() == 131 && seen.iter().all(|row| row["ready"] == 1)).then_some(seen)
    });
    let shown: Vec<&str> = seen.iter().map(|row| row["topic"].as_str().unwrap()).collect();
    let mut expected: Vec<&str> = names.iter().map(String::as_str).chain(["source"]).collect();
    expected.sort_unstable();
    assert_eq!(shown, expected, "in the order of their names");
    let narrow = walk(&node.mint(&json!({"ops": ["stat"], "topic": "odd-*"})));
    assert_eq!(narrow.len(), 65);
    assert!(narrow.iter().all(|row| row["topic"].as_str().unwrap().starts_with("odd-")), "{narrow:?}");
    client.get("/v1/acme?cursor=No-Topic").refused(400, "MALFORMED");
    client.get("/v1/acme?limit=1").refused(400, "MALFORMED");
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
