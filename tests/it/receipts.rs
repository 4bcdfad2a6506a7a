//! The table of receipts (SPEC §4.7), row by row.

use crate::harness::{Setup, TENANT, poll};
use crate::http::Client;
use crate::mailbox::{depths, enqueue, receipt, recv_one, settle};
use serde_json::{Value, json};

const STALE: &str = "STALE_RECEIPT";
const MALFORMED: &str = "MALFORMED";

fn outcome(client: &Client, topic: &str, call: &str, receipt: &str) -> String {
    let mut body = json!({"receipts": [receipt]});
    if call == "extend" {
        body["visibility_ms"] = json!(60_000);
    }
    let result = settle(client, topic, call, &body).remove(0);
    match result["ok"] == true {
        true => {
            assert_eq!(result, json!({"ok": true}));
            "ok".into()
        }
        false => {
            let reason = result["reason"].as_str().unwrap().to_owned();
            assert_eq!(result, json!({"ok": false, "reason": reason}));
            reason
        }
    }
}

/// A message just handed out.
fn fresh(client: &Client, topic: &str, visibility_ms: u64) -> Value {
    enqueue(client, topic, b"x", &[]);
    recv_one(client, topic, visibility_ms)
}

#[test]
fn every_row_of_the_table() {
    let node = Setup::new().start();
    let client = node.mailbox();
    for (n, call) in ["ack", "nack", "extend"].into_iter().enumerate() {
        let topic = |what: &str| format!("{what}-{n}");

        // newest, in flight
        let message = fresh(&client, &topic("flight"), 60_000);
        assert_eq!(outcome(&client, &topic("flight"), call, receipt(&message)), "ok");

        // newest, deadline passed, message still ready
        let expired = topic("expired");
        let message = fresh(&client, &expired, 250);
        poll("its deadline", || (depths(&client, &expired) == [1, 0, 0, 0]).then_some(()));
        assert_eq!(outcome(&client, &expired, call, receipt(&message)), "ok");
        match call {
            "ack" => assert_eq!(depths(&client, &expired), [0, 0, 0, 0]),
            "extend" => assert_eq!(depths(&client, &expired), [0, 0, 1, 0], "in flight again"),
            _ => {
                // no second failure counted: the next attempt is the second
                assert_eq!(recv_one(&client, &expired, 60_000)["attempt"], 2);
            }
        }

        // the message no longer exists
        let message = fresh(&client, &topic("gone"), 60_000);
        assert_eq!(outcome(&client, &topic("gone"), "ack", receipt(&message)), "ok");
        let expected = if call == "ack" { "ok" } else { STALE };
        assert_eq!(outcome(&client, &topic("gone"), call, receipt(&message)), expected, "{call}");

        // superseded
        let again = topic("again");
        let old = fresh(&client, &again, 60_000);
        settle(&client, &again, "nack", &json!({"receipts": [receipt(&old)], "mode": "release"}));
        let new = recv_one(&client, &again, 60_000);
        assert_eq!(outcome(&client, &again, call, receipt(&old)), STALE, "{call}");
        assert_eq!(depths(&client, &again), [0, 0, 1, 0], "the newer delivery is untouched");

        // foreign: another topic's, and another tenant's
        assert_eq!(outcome(&client, &topic("flight"), call, receipt(&new)), STALE, "{call}");

        // dead-lettered
        let dead = fresh(&client, &topic("dead"), 60_000);
        settle(&client, &topic("dead"), "nack", &json!({"receipts": [receipt(&dead)], "mode": "reject"}));
        assert_eq!(outcome(&client, &topic("dead"), call, receipt(&dead)), STALE);

        // bad tag: any character changed
        let (head, last) = receipt(&new).split_at(receipt(&new).len() - 1);
        let flipped = format!("{head}{}", if last == "A" { "Q" } else { "A" });
        let flipped = outcome(&client, &again, call, &flipped);
        assert!([STALE, MALFORMED].contains(&flipped.as_str()), "{call}: {flipped}");
        let mut middle = receipt(&new).to_owned().into_bytes();
        let at = middle.len() / 2;
        middle[at] = if middle[at] == b'a' { b'b' } else { b'a' };
        assert_eq!(outcome(&client, &again, call, &String::from_utf8(middle).unwrap()), STALE, "{call}");

        // does not parse
        for bad in ["", "not a receipt!", "é", &"A".repeat(201)] {
            assert_eq!(outcome(&client, &again, call, bad), MALFORMED, "{call} {bad:?}");
        }
    }
}

#[test]
fn a_repeated_nack_or_extend_is_ok_in_the_same_mode_only() {
    let node = Setup::new().start();
    let client = node.mailbox();
    let nack = |topic: &str, message: &Value, mode: &str| {
        let body = json!({"receipts": [receipt(message)], "mode": mode, "delay_ms": 60_000});
        settle(&client, topic, "nack", &body).remove(0)
    };
    let message = fresh(&client, "n", 60_000);
    assert_eq!(nack("n", &message, "fail")["ok"], true);
    assert_eq!(nack("n", &message, "fail")["ok"], true);
    assert_eq!(nack("n", &message, "release")["reason"], STALE);
    assert_eq!(depths(&client, "n"), [0, 1, 0, 0]);
    for (mode, left) in [("release", [1, 0, 0, 0]), ("reject", [0, 0, 0, 1])] {
        let message = fresh(&client, mode, 60_000);
        let nack = |mode: &str| {
            settle(
                &client,
                message["topic"].as_str().unwrap(),
                "nack",
                &json!({"receipts": [receipt(&message)], "mode": mode}),
            )
        };
        for _ in 0..2 {
            assert_eq!(nack(mode), [json!({"ok": true})], "{mode}");
        }
        assert_eq!(nack("fail")[0]["reason"], STALE, "{mode}");
        assert_eq!(outcome(&client, mode, "ack", receipt(&message)), STALE, "{mode}");
        assert_eq!(depths(&client, mode), left);
    }
    let message = fresh(&client, "e", 60_000);
    for _ in 0..2 {
        assert_eq!(outcome(&client, "e", "extend", receipt(&message)), "ok");
    }
    assert_eq!(depths(&client, "e"), [0, 0, 1, 0]);
}

#[test]
fn results_stay_in_order_and_another_store_knows_no_receipt() {
    let node = Setup::new().start();
    let client = node.mailbox();
    let one = fresh(&client, "o", 60_000);
    let two = fresh(&client, "o", 60_000);
    let body = json!({"receipts": ["??", receipt(&one), receipt(&one), receipt(&two)]});
    let results = settle(&client, "o", "ack", &body);
    let ok: Vec<bool> = results.iter().map(|result| result["ok"] == true).collect();
    assert_eq!(ok, [false, true, true, true], "{results:?}");

    assert_eq!(depths(&client, "o"), [0, 0, 0, 0]);
}

#[test]
fn a_message_that_was_purged_or_has_expired_no_longer_exists() {
    let node = Setup::new().start();
    let client = node.operator();
    let calls = ["ack", "nack", "extend"];
    let held = calls.map(|call| {
        let (purged, expired) = (format!("purged-{call}"), format!("expired-{call}"));
        let gone = fresh(&client, &purged, 600_000);
        client.post(&format!("/v1/{TENANT}/{purged}/purge"), &json!({"confirm": purged})).json(200);
        enqueue(&client, &expired, b"x", &[("X-Ttl-Ms", b"1500")]);
        (gone, recv_one(&client, &expired, 250))
    });
    for (call, (gone, mortal)) in calls.into_iter().zip(&held) {
        let (purged, expired) = (format!("purged-{call}"), format!("expired-{call}"));
        poll("its end", || (depths(&client, &expired) == [0, 0, 0, 0]).then_some(()));
        let expected = if call == "ack" { "ok" } else { STALE };
        assert_eq!(outcome(&client, &purged, call, receipt(gone)), expected, "{call}");
        assert_eq!(outcome(&client, &expired, call, receipt(mortal)), expected, "{call}");
        assert_eq!((depths(&client, &purged), depths(&client, &expired)), ([0; 4], [0; 4]));
    }
}

#[test]
fn a_receipt_of_another_store_tenant_or_start_in_memory_settles_nothing() {
    let node = Setup::new().start();
    let client = node.mailbox();
    let other = Setup::new().env("AMNESIA", "on").start();
    let elsewhere = other.mailbox();
    let ops = json!({"tenant": "other", "ops": ["enqueue", "recv", "ack", "nack", "stat"]});
    let theirs = node.bare().with(&node.mint(&ops));
    theirs.call("POST", "/v1/other/o/enqueue", &[], b"x").json(200);
    let of_theirs = theirs.post("/v1/other/o/recv", &json!({"visibility_ms": 600_000})).json(200);
    let of_theirs = &of_theirs["messages"][0];
    let here = fresh(&client, "o", 600_000);
    let of_other = fresh(&elsewhere, "o", 600_000);
    let again = other.kill_and_restart();
    let anew = again.mailbox();
    let of_anew = fresh(&anew, "o", 600_000);
    for call in ["extend", "nack", "ack"] {
        assert_eq!(outcome(&client, "o", call, receipt(&of_other)), STALE, "{call}: another store's");
        assert_eq!(outcome(&client, "o", call, receipt(of_theirs)), STALE, "{call}: another tenant's");
        assert_eq!(outcome(&anew, "o", call, receipt(&here)), STALE, "{call}: a durable store's");
        assert_eq!(outcome(&anew, "o", call, receipt(&of_other)), STALE, "{call}: of the memory before");
    }
    assert_eq!((depths(&client, "o"), depths(&anew, "o")), ([0, 0, 1, 0], [0, 0, 1, 0]));
    assert_eq!(theirs.get("/v1/other/o").json(200)["vis"], 1);
    assert_eq!(outcome(&anew, "o", "ack", receipt(&of_anew)), "ok");
    assert_eq!(outcome(&client, "o", "ack", receipt(&here)), "ok");
}

#[test]
fn tenants_share_nothing_but_the_names_of_their_topics() {
    let node = Setup::new().start();
    let ours = node.mailbox();
    let theirs = node.mint(&json!({"tenant": "other", "ops": ["enqueue", "recv", "ack", "stat", "peek"]}));
    let theirs = node.bare().with(&theirs);
    let message = fresh(&ours, "same", 60_000);
    theirs.get("/v1/other/same").refused(404, "NOT_FOUND");
    assert_eq!(theirs.post("/v1/other/same/recv", &json!({})).json(200), json!({"messages": []}));
    let key: [(&str, &[u8]); 1] = [("Idempotency-Key", b"k")];
    enqueue(&ours, "same", b"ours", &key);
    assert_eq!(theirs.call("POST", "/v1/other/same/enqueue", &key, b"theirs").json(200)["duplicate"], false);
    let answer = theirs.post("/v1/other/same/ack", &json!({"receipts": [receipt(&message)]})).json(200);
    assert_eq!(answer["results"], json!([{"ok": false, "reason": STALE}]));
    theirs
        .post(&format!("/v1/{TENANT}/same/ack"), &json!({"receipts": ["A"]}))
        .refused(403, "SCOPE_MISMATCH");
    assert_eq!(depths(&ours, "same"), [1, 0, 1, 0]);
    assert_eq!(theirs.get("/v1/other/same").json(200)["ready"], 1);
}
