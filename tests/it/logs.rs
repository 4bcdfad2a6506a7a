//! What the node says while it runs: one JSON object a line, with the correlation id, and never what must stay
//! with the sender.

use crate::harness::{Provider, Setup, TestNode, borrowed, poll, wall};
use crate::mailbox::{enqueue, receipt, recv_one, settle};
use rustix::process::Signal;
use serde_json::{Value, json};

#[test]
fn lines_are_json_with_the_corr_id_and_hold_no_secrets() {
    for amnesia in ["off", "on"] {
        let slack = Provider::new("slack", "slack");
        let setup = slack.add_to(Setup::new(), "slack", "").env("RUST_LOG", "debug");
        tells_nothing(&setup.env("AMNESIA", amnesia).start(), &slack);
    }
}

fn tells_nothing(node: &TestNode, slack: &Provider) {
    let (client, token) = (node.mailbox(), node.token());
    let canary = "canary-7f3a";
    let headers: [(&str, &[u8]); 3] = [
        ("Idempotency-Key", b"canary-7f3a-key"),
        ("X-Attr-Secret", b"canary-7f3a-attr"),
        ("Content-Type", b"text/plain"),
    ];
    enqueue(&client, "l", b"canary-7f3a-payload", &headers);
    let got = recv_one(&client, "l", 60_000);
    let note = json!({"receipts": [receipt(&got)], "mode": "reject", "reason": "canary-7f3a-note"});
    settle(&client, "l", "nack", &note);
    client.post("/v1/acme/l/recv", &json!({"max_messages": canary})).refused(400, "MALFORMED");
    client.get(&format!("/v1/acme/l/peek?state={canary}")).refused(400, "MALFORMED");
    node.bare().with(canary).get("/v1/acme/l").refused(401, "UNAUTH");
    let event = br#"{"event_id":"E1","text":"canary-7f3a-event","type":"event_callback"}"#;
    let signed = slack.sign("E1", wall(), event);
    node.interop().call("POST", "/webhooks/slack", &borrowed(&signed), event).json(202);
    node.interop()
        .call("POST", "/webhooks/slack", &borrowed(&signed), b"{}")
        .refused(401, "SIGNATURE_INVALID");

    let answer = client.call("GET", "/v1/acme/nope", &[("X-Corr-Id", b"corr-in-the-log")], b"");
    answer.refused(404, "NOT_FOUND");
    let line = poll("the refusal in the log", || {
        node.log().lines().find(|line| line.contains("corr-in-the-log")).map(str::to_owned)
    });
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["corr_id"], &line["reason"]),
        (&json!("corr-in-the-log"), &json!("NOT_FOUND")),
        "{line}"
    );
    for line in node.log().lines() {
        let json: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert!(json["ts"].is_string() && json["level"].is_string() && json["msg"].is_string(), "{line}");
        assert!(!line.contains(canary), "{line}");
        assert!(!line.contains(receipt(&got)) && !line.contains(&token), "{line}");
        assert!(!line.contains(got["payload_hash"].as_str().unwrap()), "{line}");
        for (name, value) in signed.iter().filter(|(name, _)| name.contains("Signature")) {
            assert!(!line.contains(value.as_str()), "{name}: {line}");
        }
    }
    for admin in [node.mailbox_admin(), node.interop_admin()] {
        assert!(!admin.get("/metrics").text().contains(canary));
    }
}

#[test]
fn sighup_puts_limits_in_force_and_a_bad_file_changes_nothing() {
    let github = Provider::new("github", "github");
    let setup = github.add_to(Setup::new(), "github", "");
    let node = setup.start();
    let interop = node.interop();
    let post = |n: u32| {
        let body = format!("{{\"n\":{n}}}");
        let headers = github.sign("1", wall(), body.as_bytes());
        interop.call("POST", "/webhooks/github", &borrowed(&headers), body.as_bytes()).status
    };
    let good = std::fs::read_to_string(setup.config_file()).unwrap();
    std::fs::write(setup.config_file(), format!("{good}\n[nods]\nx = 1\n")).unwrap();
    node.signal(Signal::HUP);
    poll("the refusal of a bad file", || node.log().contains("nods").then_some(()));
    assert!((0..20).all(|n| post(n) == 202));

    let limited = "[interop.limits]\nmax_rps = 1\nburst_rps = 1\n";
    std::fs::write(setup.config_file(), format!("{good}\n{limited}")).unwrap();
    node.signal(Signal::HUP);
    poll("the reload", || node.log().contains("configuration reloaded").then_some(()));
    let mut n = 100;
    poll("a limit in force", || {
        n += 1;
        (post(n) == 429).then_some(())
    });
    assert_eq!(node.mailbox_admin().get("/readyz").status, 200);
}
