//! What the audit log does not record one by one: it counts exactly, and says what it lost (docs/AUDIT.md "Counts").

use crate::audit::{body, export, github, hook, sample, verify, with};
use crate::harness::{Provider, Setup, borrowed, poll, ronctl, wall};
use crate::mailbox::{enqueue, stat};
use crate::oap_wire::Oap;
use ron_core::oap::{Draft, Raw, Request};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

/// How many decisions these records stand for.
fn decisions(records: &[&Value]) -> u64 {
    records.iter().map(|record| record["count"].as_u64().unwrap_or(1)).sum()
}

#[test]
fn sends_over_oap_are_counted_one_for_one() {
    let node = Setup::new().start();
    let token = node.mint(&json!({"ops": ["enqueue"], "topic": "fast"}));
    let mut connections: Vec<Oap> = (0..3).map(|_| Oap::open(&node, &token)).collect();
    let send = |topic| Request::Enqueue { topic, message: Draft { payload: Raw(b"x"), ..Draft::default() } };
    // many outstanding: sends that are read together are judged together
    for round in 0..20 {
        for oap in &mut connections {
            for _ in 0..25 {
                oap.ask(&send("fast"));
            }
        }
        for oap in &mut connections {
            (0..25).for_each(|_| assert_eq!(oap.came().header.code, 200, "{round}"));
        }
    }
    for _ in 0..4 {
        connections[0].call(&send("other")).refused(403, "SCOPE_MISMATCH");
    }
    Oap::connect(&node).start("ron1_nonsense").refused(401, "UNAUTH");
    let sent = stat(&node.mailbox(), "fast")["ready"].as_u64().unwrap();
    let setup = node.stop();
    let all = export(&setup);
    let allowed = with(&all, &json!({"kind": "api", "op": "enqueue", "topic": "fast", "decision": "allow"}));
    assert_eq!((sent, decisions(&allowed)), (1_500, 1_500), "{allowed:#?}");
    assert!(allowed[0]["corr_id"].as_str().unwrap().starts_with("oap-") && allowed[0]["ip"].is_string());
    let denied = with(&all, &json!({"op": "enqueue", "topic": "other", "reason": "SCOPE_MISMATCH"}));
    assert_eq!(decisions(&denied), 4);
    assert_eq!(with(&all, &json!({"op": "open", "decision": "deny", "reason": "UNAUTH"})).len(), 1);
    assert!(all.len() < 40, "a handful of records for 1,500 sends: {}", all.len());
}

#[test]
fn strangers_are_counted_and_do_not_push_out_what_matters() {
    let (provider, setup) = github("[audit]\nqueue = 64\n");
    let node = setup.start();
    let client = node.interop();
    let known: Vec<String> = (0..20)
        .map(|n| {
            for _ in 0..20 {
                client.call("POST", "/webhooks/github", &[], b"{}").refused(401, "SIGNATURE_INVALID");
            }
            hook(&node, &provider, &format!("id-{n}"), &body(n), 202).0
        })
        .collect();
    let setup = node.stop();
    let all = export(&setup);
    for corr in known {
        assert_eq!(with(&all, &json!({"corr_id": corr, "reason": "OK"})).len(), 1);
    }
    let strangers = with(&all, &json!({"kind": "webhook", "reason": "SIGNATURE_INVALID"}));
    assert_eq!(decisions(&strangers), 400);
    assert!(strangers.len() < 400, "some were only counted: {}", strangers.len());
    assert_eq!(verify(&setup, &[]).1["dropped"], json!(0));
}

#[test]
fn a_sender_that_goes_away_is_recorded_as_one_whose_outcome_nobody_saw() {
    let (provider, setup) = github("[chaos]\nenabled = true\n");
    let node = setup.start();
    let slow = json!({"target": "svc-mailbox", "fault": "latency", "ms": 1000, "duration_ms": 60_000});
    node.control().post("/ctl/chaos/inject", &slow).json(200);
    let body = body(1);
    let headers = provider.sign("id-1", wall(), body.as_bytes());
    let client = node.interop();
    let request = client.request("POST", &provider.path(), &borrowed(&headers), body.as_bytes());
    let connection = client.begin(&request);
    // its signature held, and its commit is under way
    let verified = r#"svc_interop_secret_matches_total{provider="github",kid="k1"}"#;
    poll("the verdict", || (sample(&node.interop_admin(), verified) == 1.0).then_some(()));
    drop(connection);
    let gone = poll("its record", || {
        let all = export(&node.setup);
        with(&all, &json!({"kind": "webhook", "decision": "unknown", "reason": "GONE"})).pop().cloned()
    });
    assert_eq!((&gone["kid"], &gone["provider"]), (&json!("k1"), &json!("github")));
}

#[test]
fn a_known_event_with_another_signed_body_is_an_id_conflict() {
    let provider = Provider::new("standard_webhooks", "standard_webhooks");
    let setup = provider.add_to(Setup::new(), "standard_webhooks", "");
    let node = setup.start();
    let (first, answer) = hook(&node, &provider, "evt-1", &body(1), 202);
    let (again, other) = hook(&node, &provider, "evt-1", &body(2), 202);
    assert_eq!((&other["duplicate"], &other["msg_id"]), (&json!(true), &answer["msg_id"]));
    let all = export(&node.setup);
    let conflict = with(&all, &json!({"corr_id": again, "reason": "DUPLICATE", "id_conflict": true}));
    assert_eq!(conflict[0]["msg_id"], answer["msg_id"]);
    let first = with(&all, &json!({"corr_id": first}));
    assert_ne!(first[0]["content"], conflict[0]["content"]);
    assert!(first[0]["skew_ms"].is_number() && first[0]["id_conflict"].is_null(), "{first:?}");
}

#[test]
fn a_full_queue_leaves_a_gap_that_says_how_large_it_is() {
    let node = Setup::new().toml("[audit]\nqueue = 1\n").start();
    let token = node.mint(&json!({"ops": ["stat"]}));
    let dropped = || sample(&node.interop_admin(), "svc_interop_audit_drop_total");
    // each topic is a use of its own, and has a record
    let topics = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let client = node.bare().with(&token);
                while dropped() == 0.0 {
                    for _ in 0..100 {
                        let topic = topics.fetch_add(1, Ordering::Relaxed);
                        client.get(&format!("/v1/acme/t{topic}")).refused(404, "NOT_FOUND");
                    }
                }
            });
        }
    });
    let (code, said) = verify(&node.setup, &[]);
    assert_eq!((code, said["ok"].as_bool()), (0, Some(true)), "{said}");
    // an act carries what was dropped before it
    node.token();
    let (_, said) = verify(&node.setup, &[]);
    assert_eq!(said["dropped"].as_f64(), Some(dropped()), "{said}");
}

#[test]
fn a_restore_of_a_stopped_node_is_in_its_log() {
    let node = Setup::new().start();
    enqueue(&node.mailbox(), "orders", b"x", &[]);
    let taken = node.ronctl_json(&["snapshot", "create"]);
    let name = taken["name"].as_str().unwrap().to_owned();
    let (code, _, error) = ronctl(&node.setup, &["snapshot", "restore", &name, "--yes"]);
    assert!(code == 1 && error.contains("stop it first"), "{error}");
    let setup = node.stop();
    let (code, _, error) = ronctl(&setup, &["snapshot", "restore", &name, "--yes"]);
    assert_eq!(code, 0, "{error}");
    let node = setup.start();
    assert_eq!(verify(&node.setup, &[]).0, 0);
    let all = export(&node.setup);
    let restored = with(&all, &json!({"op": "snapshot.restore", "kind": "operator"}));
    let stages: Vec<&Value> = restored.iter().map(|record| &record["reason"]).collect();
    assert_eq!(stages, ["INTENT", "OK"], "before it is done, and after");
    assert!(restored[1]["detail"].as_str().unwrap().contains("1 messages come back"), "{restored:?}");
    assert!(restored[1]["uid"].is_number() && restored[1]["pid"].is_number());
}
