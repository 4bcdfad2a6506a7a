//! Egress from outside: a node delivers to servers that nobody here wrote a line of the node for.

pub(crate) mod receiver;
mod ssrf;

use crate::harness::{Provider, Setup, TENANT, TestNode, borrowed, poll, timed, wall};
use crate::mailbox::{depths, enqueue, recv_one};
use crate::pki::{self, Authority};
use receiver::{Got, Receiver, Reply};
use ron_core::ids::{Kid, ProviderName};
use ron_core::scheme::{HeaderList, InboundRequest, ProviderRules, ProviderSpec, Verdict};
use ron_node::schemes::Catalogue;
use serde_json::{Value, json};
use std::time::Duration;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OK: Reply = Reply::Status(200, "");
const DOWN: Reply = Reply::Status(500, "");

/// A node whose topic `orders` goes to a receiver inside TLS, and the receiver.
fn delivering(replies: &[Reply], more: &str) -> (TestNode, Receiver) {
    delivering_of(Setup::new(), replies, more)
}

fn delivering_of(setup: Setup, replies: &[Reply], more: &str) -> (TestNode, Receiver) {
    let authority = Authority::new("receivers");
    let receiver = Receiver::start("127.0.0.1:0", Some(&authority.issue()), replies);
    pki::put(&setup.dir().join("ca.pem"), &authority.pem());
    let url = format!("https://{}/hook?key=in-the-url", receiver.addr);
    (egress(setup, "egress", &url, receiver.addr.port(), more).start(), receiver)
}

/// The setup with an endpoint `billing`, in one spelling or the other.
fn egress(setup: Setup, table: &str, url: &str, port: u16, more: &str) -> Setup {
    let ca = setup.dir().join("ca.pem").display().to_string();
    let text = format!(
        "[{table}.billing]\ntenant = \"{TENANT}\"\ntopic = \"orders\"\nurl = \"{url}\"\nca_file = {ca:?}\n\
         allow_ports = [{port}]\nallow_cidrs = [\"127.0.0.1/32\"]\nschedule_ms = [50, 50]\n\
         secrets = [{{ kid = \"new\", env = \"EGRESS_SECRET\" }}, {{ kid = \"old\", env = \"EGRESS_OLD\" }}]\n\
         headers = {{ X-Tenant-Key = \"not-to-be-told\" }}\n{more}\n"
    );
    setup.toml(&text).env("EGRESS_SECRET", SECRET).env("EGRESS_OLD", OLD_SECRET)
}

fn send(node: &TestNode, body: &[u8]) -> Value {
    enqueue(&node.mailbox(), "orders", body, &[("Content-Type", b"application/json")])
}

/// The endpoint as operators see it.
fn shown(node: &TestNode) -> Value {
    node.ronctl_json(&["interop", "egress", "list"])["egress"][0].clone()
}

/// What an ingress with this secret says of a request.
fn verdict(secret: &str, got: &Got, body: &[u8]) -> Verdict {
    let scheme = Catalogue::scheme("standard_webhooks", &toml::Table::new()).unwrap();
    let secrets = vec![scheme.parse_secret(Kid::parse("theirs").unwrap(), secret).unwrap()];
    let name = ProviderName::parse("upstream").unwrap();
    let spec = ProviderSpec::new(name, scheme, secrets);
    let headers: HeaderList =
        got.headers.iter().map(|(name, value)| (name.as_str(), bytes::Bytes::from(value.clone()))).collect();
    let request = InboundRequest { method: "POST", query: "", headers: &headers, body };
    ProviderRules::new(spec).unwrap().judge(&request, wall())
}

#[test]
fn a_message_arrives_as_it_was_sent_signed_by_all_secrets() {
    let (node, receiver) = delivering(&[OK], "");
    let body = "{\"type\": \"order.paid\",  \"n\": 1.0, \"ü\":\"\u{1f600}\"}\n".as_bytes();
    let sent = send(&node, body);
    let got = receiver.wait_for(1).remove(0);
    assert_eq!((got.body.as_slice(), got.path.as_str()), (body, "/hook?key=in-the-url"));
    assert_eq!(got.header("webhook-id"), sent["msg_id"]);
    assert_eq!(got.header("content-type"), "application/json");
    assert_eq!(got.header("x-tenant-key"), "not-to-be-told");
    assert_eq!(got.header("host"), receiver.addr.to_string());
    assert_eq!(got.header("accept-encoding"), "identity");
    for secret in [SECRET, OLD_SECRET] {
        assert!(matches!(verdict(secret, &got, body), Verdict::Accept(_)), "{got:?}");
        let mut flipped = body.to_vec();
        flipped[3] ^= 1;
        assert!(matches!(verdict(secret, &got, &flipped), Verdict::Refuse(_)));
    }
    poll("the ack", || (depths(&node.mailbox(), "orders") == [0, 0, 0, 0]).then_some(()));

    // a second one takes the same connection; what cannot be text goes as it is
    let bytes: Vec<u8> = (0..=255).collect();
    enqueue(&node.mailbox(), "orders", &bytes, &[]);
    let got = receiver.wait_for(2).remove(1);
    assert_eq!((got.body, receiver.connections()), (bytes, 1));

    let metrics = node.interop_admin().get("/metrics").text().to_owned();
    let line = "svc_interop_egress_attempts_total{endpoint=\"billing\",result=\"delivered\"} 2";
    poll("the metric", || node.interop_admin().get("/metrics").text().contains(line).then_some(()));
    assert!(metrics.contains("svc_interop_egress_breaker_state{endpoint=\"billing\"} 0"), "{metrics}");
    let log = poll("the log", || Some(node.log()).filter(|log| log.matches("egress attempt").count() == 2));
    for part in
        ["\"peer\":\"127.0.0.1:", "\"kids\":\"new,old\"", "\"tls_ms\":", "\"status\":200", "\"config\":\""]
    {
        assert!(log.contains(part), "{part} is not in the log");
    }
    for secret in [SECRET, OLD_SECRET, "not-to-be-told", "in-the-url", "order.paid"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[test]
fn what_one_node_sends_another_receives_with_the_same_bytes_id_and_type() {
    let authority = Authority::new("nodes");
    let upstream = Provider::new("upstream", "standard_webhooks");
    let b = upstream.add_to(Setup::new(), "standard_webhooks", "");
    let pair = authority.issue();
    let (cert, key) = (b.dir().join("cert.pem"), b.dir().join("key.pem"));
    pki::put(&cert, &pair.cert);
    pki::put(&key, &pair.key);
    let tls = format!(
        "[interop.tls]\ncert = {:?}\nkey = {:?}\n",
        cert.display().to_string(),
        key.display().to_string()
    );
    let b = b.toml(&tls).start();
    let port: u16 = b.ready["interop"].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();

    let source = Provider::new("source", "standard_webhooks");
    let a = source.add_to(Setup::new(), "standard_webhooks", "");
    pki::put(&a.dir().join("ca.pem"), &authority.pem());
    let ca = a.dir().join("ca.pem").display().to_string();
    let text = format!(
        "[interop.egress.to-b]\ntenant = \"{TENANT}\"\ntopic = \"source\"\nca_file = {ca:?}\n\
         url = \"https://127.0.0.1:{port}/webhooks/upstream\"\nallow_ports = [{port}]\n\
         allow_cidrs = [\"127.0.0.1\"]\nsecrets = [{{ kid = \"k1\", env = \"TO_B\" }}]\n"
    );
    // B knows A by B's secret for it
    let a = a.toml(&text).env("TO_B", upstream.secret()).start();
    let body = b"{\"type\":\"thing.done\",\"n\": 1.50}";
    let trace = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let mut headers = source.sign("evt-42", wall(), body);
    headers.push((trace.0.into(), trace.1.into()));
    a.interop().call("POST", "/webhooks/source", &borrowed(&headers), body).json(202);
    let got = poll("the message", || {
        let some = b.mailbox().get(&format!("/v1/{TENANT}/upstream")).status == 200;
        some.then(|| recv_one(&b.mailbox(), "upstream", 60_000))
    });
    assert_eq!(got["payload"].as_str().unwrap().as_bytes(), body);
    let attrs = json!({"webhook-provider": "upstream", "webhook-kid": "k1", "webhook-id": "evt-42",
        "webhook-type": "thing.done", "traceparent": trace.1});
    assert_eq!(got["attrs"], attrs);
    poll("A's ack", || (depths(&a.mailbox(), "source") == [0, 0, 0, 0]).then_some(()));
}

#[test]
fn a_failure_is_tried_again_with_the_same_id_and_another_time() {
    let (node, receiver) = delivering(&[DOWN, Reply::Status(503, "Retry-After: 0\r\n"), OK], "");
    let sent = send(&node, b"{}");
    let got = receiver.wait_for(3);
    for got in &got {
        assert_eq!(got.header("webhook-id"), sent["msg_id"]);
        assert!(matches!(verdict(SECRET, got, b"{}"), Verdict::Accept(_)));
    }
    poll("the ack", || (depths(&node.mailbox(), "orders") == [0, 0, 0, 0]).then_some(()));
    assert_eq!((&shown(&node)["attempts"], &shown(&node)["delivered"]), (&json!(3), &json!(1)));
}

#[test]
fn a_message_whose_body_is_an_object_is_not_delivered_without_it() {
    let (node, receiver) = delivering_of(Setup::new().env("RON_INTEROP__API", "true"), &[OK], "");
    let token = node.mint(&json!({"tenant": TENANT, "ops": ["put", "enqueue"]}));
    let address =
        node.interop().with(&token).call("POST", "/put", &[], b"in an object").json(202)["address"].clone();
    let address = address.as_str().unwrap();
    enqueue(&node.mailbox().with(&token), "orders", b"", &[("X-Body-Ref", address.as_bytes())]);
    send(&node, b"{}");
    assert_eq!(receiver.wait_for(1)[0].body, b"{}");
    poll("the dead letter", || (depths(&node.mailbox(), "orders") == [0, 0, 0, 1]).then_some(()));
    let peek = node.mailbox().get(&format!("/v1/{TENANT}/orders/peek?state=dlq")).json(200);
    let dead = &peek["messages"][0];
    assert_eq!(
        (&dead["body_ref"], &dead["dead_letter"]["reason"]),
        (&json!(address), &json!("egress_body_ref"))
    );
}

#[test]
fn what_cannot_be_delivered_is_dead_and_can_be_replayed() {
    let (node, receiver) = delivering(&[DOWN, DOWN, DOWN, OK], "breaker = { failures = 100 }");
    let first = send(&node, b"{\"n\":1}");
    receiver.wait_for(3);
    poll("the dead letter", || (depths(&node.mailbox(), "orders") == [0, 0, 0, 1]).then_some(()));
    let peek = node.mailbox().get(&format!("/v1/{TENANT}/orders/peek?state=dlq")).json(200);
    let dead = &peek["messages"][0]["dead_letter"];
    assert_eq!((&dead["attempts"], &dead["last_error"]), (&json!(3), &json!("status 500")));
    assert_eq!(dead["reason"], "egress_exhausted", "the topic allows five");

    let replay = |more: &[&str]| {
        let all = [&["interop", "egress", "replay", "billing"], more].concat();
        node.ronctl_json(&all)
    };
    assert_eq!(replay(&["--reason", "other"])["matched"], 0);
    assert_eq!(replay(&["--until", "1h"])["matched"], 0);
    assert_eq!(replay(&["--since", "1h", "--dry-run"])["matched"], 1);
    let id = first["msg_id"].as_str().unwrap();
    assert_eq!(replay(&["--since", "1h", "--id", id])["moved"], 1);
    let got = receiver.wait_for(4).remove(3);
    assert_eq!((got.header("webhook-id"), got.body.as_slice()), (id, b"{\"n\":1}".as_slice()));
    poll("the ack", || (depths(&node.mailbox(), "orders") == [0, 0, 0, 0]).then_some(()));
}

#[test]
fn gone_disables_over_a_restart_until_an_operator_enables() {
    let (node, receiver) = delivering(&[Reply::Status(410, ""), OK], "");
    send(&node, b"{}");
    receiver.wait_for(1);
    let state = |node: &TestNode| [shown(node)["state"].clone(), shown(node)["why"].clone()];
    poll("disabled", || (state(&node) == [json!("disabled"), json!("gone")]).then_some(()));
    poll("its message stays", || (depths(&node.mailbox(), "orders") == [1, 0, 0, 0]).then_some(()));
    let node = node.kill_and_restart();
    assert_eq!(state(&node), [json!("disabled"), json!("gone")]);
    send(&node, b"{\"n\":2}");
    assert_eq!(receiver.got().len(), 1);
    assert_eq!(node.ronctl_json(&["interop", "egress", "enable", "billing"])["state"], "closed");
    receiver.wait_for(3);
    assert_eq!(node.ronctl_json(&["interop", "egress", "disable", "billing"])["changed"], true);
    let setup = node.stop();
    let node = setup.start();
    assert_eq!(state(&node), [json!("disabled"), json!("operator")]);
    let refused = node.control().post("/ctl/egress/enable", &json!({ "name": "nobody" }));
    refused.refused(404, "NOT_FOUND");
}

#[test]
fn a_redirect_is_a_failure_and_nobody_goes_there() {
    let elsewhere = Receiver::start("127.0.0.1:0", None, &[OK]);
    let to = Reply::To(format!("http://{}/", elsewhere.addr));
    let (node, receiver) = delivering(&[to], "");
    send(&node, b"{}");
    receiver.wait_for(3);
    poll("the dead letter", || (depths(&node.mailbox(), "orders") == [0, 0, 0, 1]).then_some(()));
    let peek = node.mailbox().get(&format!("/v1/{TENANT}/orders/peek?state=dlq")).json(200);
    let last = peek["messages"][0]["dead_letter"]["last_error"].as_str().unwrap();
    assert!(last.starts_with("REDIRECT 307"), "{last}");
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn an_answer_is_read_for_so_long_and_so_far() {
    let (node, receiver) = delivering(&[Reply::Endless], "");
    send(&node, b"{}");
    poll("the ack", || {
        (receiver.got().len() == 1 && depths(&node.mailbox(), "orders") == [0, 0, 0, 0]).then_some(())
    });
    // what is in the sockets' buffers was written, too
    assert!(receiver.taken() < 16 << 20, "{} bytes", receiver.taken());
    assert!(node.log().contains("\"cut\":true"));

    let (node, receiver) = delivering(&[Reply::Slow], "timeout = \"500ms\"\n");
    send(&node, b"{}");
    receiver.wait_for(1);
    let ((), took) = timed(|| {
        poll("the end of the attempt", || (shown(&node)["last"]["result"] == "timeout").then_some(()));
    });
    assert!(took < Duration::from_secs(10), "{took:?}");
    // not for a minute: it has too much to do
    poll("the delay", || (depths(&node.mailbox(), "orders") == [0, 1, 0, 0]).then_some(()));
}

#[test]
fn a_certificate_of_somebody_else_is_refused() {
    let receiver = Receiver::start("127.0.0.1:0", Some(&Authority::new("others").issue()), &[OK]);
    let setup = Setup::new();
    pki::put(&setup.dir().join("ca.pem"), &Authority::new("receivers").pem());
    let url = format!("https://{}/hook", receiver.addr);
    let node = egress(setup, "interop.egress", &url, receiver.addr.port(), "").start();
    send(&node, b"{}");
    poll("the dead letter", || (depths(&node.mailbox(), "orders") == [0, 0, 0, 1]).then_some(()));
    let last = shown(&node)["last"].clone();
    assert_eq!((&last["result"], receiver.got().len()), (&json!("tls"), 0));
}

#[test]
fn a_killed_node_delivers_what_was_under_way_again() {
    let (node, receiver) = delivering(&[Reply::Slow, OK], "timeout = \"1s\"\n");
    let sent = send(&node, b"{}");
    receiver.wait_for(1);
    let node = node.kill_and_restart();
    let got = receiver.wait_for(2).remove(1);
    assert_eq!(got.header("webhook-id"), sent["msg_id"]);
    poll("the ack", || (depths(&node.mailbox(), "orders") == [0, 0, 0, 0]).then_some(()));
}

/// Both spellings are one table; what must not be reached, and what cannot work, stops the boot.
#[test]
fn a_configuration_that_cannot_work_stops_the_boot() {
    let refused = |url: &str, more: &str, table: &str| {
        let setup = Setup::new();
        pki::put(&setup.dir().join("ca.pem"), &Authority::new("receivers").pem());
        let (code, log) = egress(setup, table, url, 8443, more).run_to_end();
        assert_eq!(code, 78, "{log}");
        log
    };
    for url in
        ["https://127.0.0.2/", "https://0x7f.2/", "https://[::1]/", "https://metadata.google.internal/"]
    {
        let log = refused(url, "", "egress");
        assert!(log.contains("egress.billing.url: SSRF: "), "{url}: {log}");
    }
    let good = "https://hooks.example/";
    for (more, says) in [
        ("signing = \"v1a\"", "kid new: is no private key (whsk_), which v1a needs"),
        ("terminal_statuses = [410]", "must be a list of statuses"),
        ("conccurrency = 5", "nearest known: interop.egress.billing.concurrency"),
        ("timeout = 5", "timeout: must be a duration"),
        (
            "[interop.egress.two]\nheaders = { Host = \"x\" }",
            "headers.Host: is a header that the node sets itself",
        ),
        (
            "[egress.billing]\nurl = \"https://hooks.example/\"",
            "is also [interop.egress.billing]: write it once",
        ),
    ] {
        let log = refused(good, more, "interop.egress");
        assert!(log.contains(says), "{more}: {log}");
    }
}

#[test]
fn an_endpoint_whose_actor_fails_too_often_is_left_down_and_released() {
    let (node, receiver) = delivering(&[OK], "[chaos]\nenabled = true\n");
    let kill = || {
        let body = json!({"target": "svc-interop", "fault": "kill", "child": "egress:billing"});
        // while it is being restarted there is nothing to kill
        node.control().post("/ctl/chaos/inject", &body).status == 200
    };
    let quarantined =
        || node.ronctl_json(&["quarantine", "list"])["quarantined"] == json!(["egress:billing"]);
    poll("its quarantine", || {
        kill();
        quarantined().then_some(())
    });
    send(&node, b"{}");
    assert_eq!(depths(&node.mailbox(), "orders"), [1, 0, 0, 0], "its topic goes on");
    assert_eq!(shown(&node)["quarantined"], true);
    node.ronctl_json(&["quarantine", "release", "egress:billing"]);
    receiver.wait_for(1);
    poll("the ack", || (depths(&node.mailbox(), "orders") == [0, 0, 0, 0]).then_some(()));
}
