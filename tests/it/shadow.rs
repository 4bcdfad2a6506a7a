//! Shadow mode: verdicts are recorded, and nothing else comes of them.

use crate::harness::{Provider, Setup, TENANT, TestNode, borrowed, ronctl, wall};
use crate::http::Answer;
use crate::mailbox::depths;
use ron_core::time::Millis;
use serde_json::{Value, json};

fn post(node: &TestNode, provider: &Provider, id: &str, at: Millis, body: &[u8]) -> Answer {
    let headers = provider.sign(id, at, body);
    node.interop().call("POST", &provider.path(), &borrowed(&headers), body)
}

fn count(node: &TestNode, provider: &str, result: &str) -> f64 {
    let text = node.interop_admin().get("/metrics").text().to_owned();
    let series = format!("svc_interop_webhook_verify_total{{provider=\"{provider}\",result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(series.as_str())?.parse().ok()).unwrap_or(-1.0)
}

#[test]
fn any_event_is_answered_alike_recorded_and_stored_nowhere() {
    let github = Provider::new("github", "standard_webhooks");
    let node = github.add_to(Setup::new(), "standard_webhooks", "enforce = false").start();
    let (good, now) = (b"{\"n\":1}", wall());
    let accepted = post(&node, &github, "e-1", now, good).json(202);
    assert_eq!((&accepted["accepted"], &accepted["shadow"]), (&json!(false), &json!(true)));
    assert!(accepted["msg_id"].is_null(), "{accepted}");
    let forged = github.sign("e-1", now, b"{}");
    let forged = node.interop().call("POST", &github.path(), &borrowed(&forged), good).json(202);
    let stale = post(&node, &github, "e-2", Millis(now.0 - 400_000), good).json(202);
    let unsigned = node.interop().call("POST", &github.path(), &[], good).json(202);
    for answer in [&forged, &stale, &unsigned] {
        assert_eq!((&answer["accepted"], &answer["shadow"]), (&json!(false), &json!(true)));
    }
    node.mailbox().get(&format!("/v1/{TENANT}/github")).refused(404, "NOT_FOUND");
    assert_eq!(count(&node, "github", "shadow_accepted"), 1.0);
    assert_eq!(count(&node, "github", "shadow_SIGNATURE_INVALID"), 2.0);
    assert_eq!(count(&node, "github", "shadow_REPLAY_WINDOW"), 1.0);
    assert_eq!((count(&node, "github", "accepted"), count(&node, "github", "SIGNATURE_INVALID")), (0.0, 0.0));
    // what is no event is refused as always
    node.interop().call("GET", &github.path(), &[], b"").refused(405, "METHOD_NOT_ALLOWED");
    let large = vec![b'x'; 2 << 20];
    assert_eq!(post(&node, &github, "e-3", now, &large).status, 413);

    let (code, out, said) = ronctl(&node.setup, &["audit", "export"]);
    assert_eq!(code, 0, "{said}");
    let records: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |answer: &Value| records.iter().find(|record| record["corr_id"] == answer["corr_id"]).unwrap();
    for (answer, decision, reason, step) in [
        (&accepted, "allow", "SHADOW", Value::Null),
        (&forged, "deny", "SIGNATURE_INVALID", json!("SIGNATURE_MISMATCH")),
        (&stale, "deny", "REPLAY_WINDOW", json!("STALE")),
        (&unsigned, "deny", "SIGNATURE_INVALID", json!("MISSING_HEADER")),
    ] {
        let record = of(answer);
        assert_eq!((&record["decision"], &record["reason"]), (&json!(decision), &json!(reason)), "{record}");
        assert_eq!((&record["step"], &record["shadow"]), (&step, &json!(true)), "{record}");
    }
    assert_eq!(of(&accepted)["kid"], "k1");

    // from now on it counts: the same event is new, for no key of it was kept
    let text = std::fs::read_to_string(node.setup.config_file()).unwrap();
    std::fs::write(node.setup.config_file(), text.replace("enforce = false", "enforce = true")).unwrap();
    let report = node.ronctl_json(&["config", "reload"]);
    assert_eq!(report["applied"], json!(["interop.providers.github.enforce"]));
    assert_eq!(post(&node, &github, "e-1", now, good).json(202)["duplicate"], false);
    post(&node, &github, "e-2", Millis(now.0 - 400_000), good).refused(401, "REPLAY_WINDOW");
    assert_eq!(depths(&node.mailbox(), "github"), [1, 0, 0, 0]);
}

#[test]
fn schemes_get_the_answer_that_they_want_and_their_handshakes() {
    let [slack, mailgun] = [Provider::new("slack", "slack"), Provider::new("mailgun", "mailgun")];
    let setup = slack.add_to(Setup::new(), "slack", "enforce = false");
    let node = mailgun.add_to(setup, "mailgun", "enforce = false").start();
    let challenge = br#"{"token":"t","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY","type":"url_verification"}"#;
    let answer = post(&node, &slack, "", wall(), challenge);
    assert_eq!((answer.status, answer.text()), (200, "3eZbrw1aBm2rZgRNFdxV2595E9CY"));
    assert_eq!(count(&node, "slack", "handshake"), 1.0);
    // Mailgun wants 200 and nothing else; a header says what it is
    let answer = node.interop().call("POST", "/webhooks/mailgun", &[], b"{}");
    assert_eq!((answer.status, answer.header("x-shadow")), (200, Some("true")));
    assert_eq!(count(&node, "mailgun", "shadow_SIGNATURE_INVALID"), 1.0);
    let shown = node.ronctl_json(&["interop", "providers"]);
    assert!(shown.as_array().unwrap().iter().all(|provider| provider["enforce"] == false), "{shown}");
}
