//! Snapshots and what comes back of them, judged by what clients have seen.

use crate::harness::{Setup, TestNode, poll, ronctl};
use crate::http::Client;
use crate::mailbox::{depths, enqueue, receipt, recv, recv_one, settle, stat};
use ron_core::ids::MessageId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Its place in the store's sequence.
pub(crate) fn sequence(msg_id: &str) -> u64 {
    MessageId::parse(msg_id).unwrap().slot().0
}

fn files(setup: &Setup) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(setup.data_dir().join("snapshots"))
        .map(|dir| dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

/// All messages of a topic in a state, by id.
fn peek_all(client: &Client, topic: &str, state: &str) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/acme/{topic}/peek?state={state}&limit=100{cursor}");
        let page = client.get(&path).json(200);
        for message in page["messages"].as_array().unwrap() {
            let id = message["msg_id"].as_str().unwrap().to_owned();
            assert!(all.insert(id, message.clone()).is_none(), "seen twice");
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

pub(crate) fn restore(setup: &Setup, snapshot: &str) -> Value {
    let (code, out, err) = ronctl(setup, &["--json", "snapshot", "restore", snapshot, "--yes"]);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

/// What one client did, in order: each call was answered before the next one began.
#[derive(Debug)]
enum Did {
    Sent(String),
    Held(String),
    Acked(String),
}

/// Sends, and of every third message receives the oldest: two are acked, one is kept in flight.
fn work(client: &Client, topic: &str, on: &AtomicBool) -> Vec<Did> {
    let mut journal = Vec::new();
    for n in 0_u32.. {
        if !on.load(Ordering::SeqCst) {
            return journal;
        }
        let body = format!("{topic} {n} {}", "x".repeat(500));
        let sent =
            enqueue(client, topic, body.as_bytes(), &[("Idempotency-Key", format!("k{n}").as_bytes())]);
        journal.push(Did::Sent(sent["msg_id"].as_str().unwrap().to_owned()));
        if n % 3 == 2 {
            let got = recv_one(client, topic, 600_000);
            let id = got["msg_id"].as_str().unwrap().to_owned();
            journal.push(Did::Held(id.clone()));
            if n % 9 != 8 {
                let done = settle(client, topic, "ack", &json!({"receipts": [receipt(&got)]}));
                assert_eq!(done, [json!({"ok": true})]);
                journal.push(Did::Acked(id));
            }
        }
    }
    journal
}

/// The deliveries of each live message after the first `n` things done.
fn replay(journal: &[Did]) -> BTreeMap<String, u64> {
    let mut live = BTreeMap::new();
    for did in journal {
        match did {
            Did::Sent(id) => drop(live.insert(id.clone(), 0)),
            Did::Held(id) => *live.get_mut(id).unwrap() += 1,
            Did::Acked(id) => drop(live.remove(id)),
        }
    }
    live
}

#[test]
fn a_snapshot_under_load_is_each_journal_cut_at_its_commit() {
    let node = Setup::new().start();
    let on = Arc::new(AtomicBool::new(true));
    let workers: Vec<_> = (0..4)
        .map(|n| {
            let (client, on) = (node.mailbox(), on.clone());
            std::thread::spawn(move || work(&client, &format!("t{n}"), &on))
        })
        .collect();
    let watch = node.mailbox();
    let sent = |topic: &str| {
        watch.get(&format!("/v1/acme/{topic}")).status == 200 && {
            let stat = stat(&watch, topic);
            stat["ready"].as_u64().unwrap() + stat["vis"].as_u64().unwrap() > 60
        }
    };
    poll("some work", || sent("t3").then_some(()));
    let taken = node.ronctl_json(&["snapshot", "create"]);
    let cut = taken["next_sequence"].as_u64().unwrap();
    let before = stat(&watch, "t0")["ready"].as_u64().unwrap();
    poll("work after it", || (stat(&watch, "t0")["ready"].as_u64().unwrap() > before + 20).then_some(()));
    on.store(false, Ordering::SeqCst);
    let journals: Vec<Vec<Did>> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
    let setup = node.kill();
    let said = restore(&setup, taken["name"].as_str().unwrap());

    let node = setup.start();
    let client = node.mailbox();
    let mut back = 0;
    for (n, journal) in journals.iter().enumerate() {
        let topic = format!("t{n}");
        assert_eq!(depths(&client, &topic)[1..], [0, 0, 0], "nothing is in flight, delayed or dead");
        let found = peek_all(&client, &topic, "ready");
        back += found.len() as u64;
        let found: BTreeMap<String, u64> =
            found.iter().map(|(id, message)| (id.clone(), message["delivery"].as_u64().unwrap())).collect();
        // between the last send that is in it and the first that is not, the cut may be anywhere
        let out = journal.iter().position(|did| matches!(did, Did::Sent(id) if sequence(id) >= cut));
        let out = out.expect("work went on after the cut");
        let inside = journal.iter().rposition(|did| matches!(did, Did::Sent(id) if sequence(id) < cut));
        let inside = inside.expect("work before the cut");
        assert!(inside < out, "sequence numbers rise in the order of answers");
        let fits: Vec<usize> = (inside + 1..=out).filter(|&n| replay(&journal[..n]) == found).collect();
        assert_eq!(fits.len(), 1, "{topic}: {} messages, cut in {inside}..{out}", found.len());
    }
    assert_eq!(said["come_back"].as_u64(), Some(back));
    assert_eq!(taken["messages"].as_u64(), Some(back));
    assert!(said["forgotten"].as_u64().unwrap() > 0 && said["in_flight"].as_u64().unwrap() > 0, "{said}");
    // what comes back has its bytes
    for message in recv(&client, "t0", &json!({"max_messages": 256})) {
        assert!(message["payload"].as_str().is_none(), "sent without a content type");
        assert!(message["restored_at"].as_str().is_some(), "{message}");
    }
}

#[test]
fn after_a_restore_ids_stay_and_are_not_reused_receipts_are_stale_and_revocations_hold() {
    let node = Setup::new().start();
    let client = node.mailbox();
    let revoked = node.mint(&json!({"ops": ["stat"]}));
    let acked = enqueue(&client, "t", b"acked later", &[("Idempotency-Key", b"one")]);
    let held = enqueue(&client, "t", b"held", &[]);
    let gets = recv(&client, "t", &json!({"max_messages": 2, "visibility_ms": 600_000}));
    let taken = node.ronctl_json(&["snapshot", "create"]);
    let done = settle(&client, "t", "ack", &json!({"receipts": [receipt(&gets[0])]}));
    assert_eq!(done, [json!({"ok": true})]);
    let after = enqueue(&client, "t", b"after", &[("Idempotency-Key", b"two")]);
    let cap_id = node.ronctl_json(&["cap", "inspect", &revoked])["cap_id"].as_str().unwrap().to_owned();
    node.ronctl_json(&["cap", "revoke", &cap_id]);
    let setup = node.stop();
    let said = restore(&setup, taken["name"].as_str().unwrap());
    let counts = ["come_back", "come_again", "in_flight", "forgotten", "keys_come_back", "keys_forgotten"];
    assert_eq!(counts.map(|name| said[name].as_u64().unwrap()), [2, 1, 2, 1, 1, 1], "{said}");
    assert!(PathBuf::from(said["kept_aside"].as_str().unwrap()).is_file(), "the old store is kept");

    let node = setup.start();
    let old = client;
    // capabilities and revocations are not the store's
    let token = node.token();
    let client = node.bare().with(&token);
    node.bare().with(&revoked).get("/v1/acme/t").refused(401, "UNAUTH");
    drop(old);
    assert_eq!(depths(&client, "t"), [2, 0, 0, 0], "what was in flight is ready at once");
    for (call, body) in [
        ("ack", json!({"receipts": [receipt(&gets[1])]})),
        ("nack", json!({"receipts": [receipt(&gets[1])]})),
        ("extend", json!({"receipts": [receipt(&gets[1])], "visibility_ms": 1_000})),
    ] {
        let result = settle(&client, "t", call, &body).remove(0);
        assert_eq!(result["reason"], "STALE_RECEIPT", "{call}");
    }
    let again = recv(&client, "t", &json!({"max_messages": 9, "visibility_ms": 600_000}));
    let ids: Vec<&Value> = again.iter().map(|message| &message["msg_id"]).collect();
    assert_eq!(ids, [&acked["msg_id"], &held["msg_id"]], "the same ids, in the same order");
    for message in &again {
        assert_eq!((&message["attempt"], &message["delivery"]), (&json!(1), &json!(2)));
        assert!(message["restored_at"].is_string());
    }
    // a key of the snapshot is known, one given since is forgotten
    let known = enqueue(&client, "t", b"acked later", &[("Idempotency-Key", b"one")]);
    assert_eq!((&known["duplicate"], &known["msg_id"]), (&json!(true), &acked["msg_id"]));
    let anew = enqueue(&client, "t", b"after", &[("Idempotency-Key", b"two")]);
    assert_eq!(anew["duplicate"], json!(false));
    let numbers = [&after, &anew].map(|sent| sequence(sent["msg_id"].as_str().unwrap()));
    assert!(numbers[1] >= said["next_sequence"].as_u64().unwrap() && numbers[1] - numbers[0] > 1 << 40);
    let fresh = recv_one(&client, "t", 600_000);
    assert!(fresh["restored_at"].is_null() && fresh["msg_id"] == anew["msg_id"]);
    settle(&client, "t", "ack", &json!({"receipts": [receipt(&again[0]), receipt(&again[1])]}));

    // and so it stays, also after a second restore of the same file
    let setup = node.kill();
    let (code, out, err) = ronctl(&setup, &["store", "check"]);
    assert_eq!(code, 0, "{out}{err}");
    let twice = restore(&setup, taken["name"].as_str().unwrap());
    assert!(twice["next_sequence"].as_u64() > said["next_sequence"].as_u64());
    assert_eq!(["come_back", "come_again", "forgotten"].map(|name| twice[name].as_u64().unwrap()), [2, 2, 1]);
    let node = setup.start();
    assert_eq!(depths(&node.mailbox(), "t"), [2, 0, 0, 0]);
}

#[test]
fn what_cannot_be_restored_is_refused_and_changes_nothing() {
    let node = Setup::new().start();
    let client = node.mailbox();
    enqueue(&client, "t", b"one", &[]);
    let taken = node.ronctl_json(&["snapshot", "create"]);
    let path = taken["path"].as_str().unwrap().to_owned();
    enqueue(&client, "t", b"two", &[]);
    node.control().post("/ctl/snapshot/verify", &json!({"name": "snapshot-9"})).refused(404, "NOT_FOUND");
    let setup = node.setup.clone();
    let refused = |arguments: &[&str], code: i32, names: &str| {
        let (found, out, err) = ronctl(&setup, arguments);
        assert_eq!(found, code, "{arguments:?}: {out}{err}");
        assert!(err.contains(names), "{arguments:?}: {err}");
    };
    refused(&["snapshot", "restore", &path, "--yes"], 1, "a node is running");
    refused(&["store", "check"], 1, "a node is running");
    refused(&["store", "compact"], 1, "a node is running");
    let setup = node.stop();
    let store = setup.data_dir().join("store.redb");
    let before = std::fs::read(&store).unwrap();
    refused(&["snapshot", "restore", &path], 2, "--yes");
    refused(&["snapshot", "restore", "no-such-file", "--yes"], 1, "no-such-file");
    // a store is no snapshot, and a snapshot no store
    let copy = setup.dir().join("copy.redb");
    std::fs::copy(&store, &copy).unwrap();
    refused(&["snapshot", "restore", copy.to_str().unwrap(), "--yes"], 1, "not a snapshot");
    // one bit of the message's record
    let mut rotted = std::fs::read(&path).unwrap();
    let at = rotted.windows(3).position(|bytes| bytes == b"one").unwrap();
    rotted[at] ^= 1;
    std::fs::write(&copy, &rotted).unwrap();
    refused(&["snapshot", "restore", copy.to_str().unwrap(), "--yes"], 1, "does not pass its check");
    refused(&["snapshot", "verify", copy.to_str().unwrap()], 1, "1 damages");
    // those of a stopped node have names, too
    let name = std::path::Path::new(&path).file_name().unwrap().to_str().unwrap();
    let (code, out, err) = ronctl(&setup, &["snapshot", "verify", name]);
    assert!(code == 0 && out.contains("0 damages"), "{out}{err}");
    refused(&["snapshot", "verify", "snapshot-9"], 69, "no node answers");
    std::fs::write(&copy, &rotted[..5_000]).unwrap();
    refused(&["snapshot", "restore", copy.to_str().unwrap(), "--yes"], 1, "copy.redb");
    assert!(std::fs::read(&store).unwrap() == before, "the store is untouched");
    let left: Vec<String> = std::fs::read_dir(setup.data_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("store"))
        .collect();
    assert_eq!(left, ["store.redb"], "and nothing is left beside it");
    // a node that was given a snapshot as its store would give ids a second time
    std::fs::rename(&store, setup.dir().join("aside")).unwrap();
    std::fs::copy(&path, &store).unwrap();
    let (code, log) = setup.run_to_end();
    assert_eq!(code, 74, "{log}");
    assert!(log.contains("snapshot restore"), "{log}");
    std::fs::rename(setup.dir().join("aside"), &store).unwrap();
    assert_eq!(depths(&setup.start().mailbox(), "t"), [2, 0, 0, 0]);
}

#[test]
fn a_node_in_amnesia_takes_none_and_says_why() {
    let node = Setup::new().env("AMNESIA", "on").start();
    enqueue(&node.mailbox(), "t", b"one", &[]);
    for answer in [
        node.control().call("POST", "/ctl/snapshot/create", &[], b""),
        node.control().get("/ctl/snapshots"),
        node.control().post("/ctl/snapshot/verify", &json!({"name": "snapshot-000001"})),
    ] {
        let text = answer.refused(403, "POLICY_BLOCKED");
        assert!(text.contains("amnesia"), "{text}");
    }
    assert!(!node.setup.data_dir().exists(), "nothing was written");
    assert_eq!(depths(&node.mailbox(), "t"), [1, 0, 0, 0]);
}

#[test]
fn the_oldest_go_and_what_a_sigkill_left_goes_too() {
    let setup = Setup::new().toml("[store]\nsnapshot_keep = 2\n");
    let node = setup.start();
    let client = node.mailbox();
    for n in 0..24_u8 {
        enqueue(&client, "t", &vec![n; 1 << 20], &[]);
    }
    for n in 1..=3 {
        let taken = node.ronctl_json(&["snapshot", "create"]);
        assert_eq!(taken["messages"], json!(24));
        assert!(taken["name"].as_str().unwrap().starts_with(&format!("snapshot-00000{n}-")), "{taken}");
        assert_eq!(
            node.ronctl_json(&["snapshot", "verify", taken["name"].as_str().unwrap()])["ok"],
            json!(true)
        );
    }
    let kept = files(&setup);
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert!(kept[0].starts_with("snapshot-000002-") && kept[1].starts_with("snapshot-000003-"), "{kept:?}");
    let metrics = node.mailbox_admin().get("/metrics");
    assert!(metrics.text().contains("store_snapshots_total{result=\"ok\"} 3\n"), "{}", metrics.text());

    // killed while one is being made
    let control = node.control();
    let begun = std::thread::spawn(move || {
        let request = control.request("POST", "/ctl/snapshot/create", &[], b"");
        control.try_raw(&request).map(|answer| answer.status)
    });
    poll("a draft", || files(&setup).iter().any(|name| name.ends_with(".new")).then_some(()));
    let busy = node.control().call("POST", "/ctl/snapshot/create", &[], b"");
    busy.refused(429, "BACKPRESSURE");
    let setup = node.kill();
    assert!(begun.join().unwrap().is_err(), "it was not answered");
    assert!(files(&setup).iter().any(|name| name.ends_with(".new")), "killed while it was made");
    let node = setup.start();
    assert_eq!(files(&setup), kept, "what was whole is there, and nothing else");
    assert_eq!(stat(&node.mailbox(), "t")["ready"], json!(24));
    assert_eq!(node.ronctl_json(&["snapshot", "create"])["messages"], json!(24));
    // the node stops while one is being made: nothing is left of it either
    let control = node.control();
    let begun = std::thread::spawn(move || control.call("POST", "/ctl/snapshot/create", &[], b"").status);
    poll("a draft", || files(&setup).iter().any(|name| name.ends_with(".new")).then_some(()));
    let setup = node.stop();
    assert_eq!(begun.join().unwrap(), 503);
    assert!(files(&setup).iter().all(|name| name.ends_with(".redb")), "{:?}", files(&setup));
    let (code, out, err) = ronctl(&setup, &["snapshot", "list"]);
    assert_eq!((code, out.lines().count()), (0, 3), "a head and two rows: {out}{err}");
}

#[test]
fn a_stopped_store_is_counted_checked_and_made_smaller() {
    let node = Setup::new().start();
    let client = node.mailbox();
    for n in 0..20_u8 {
        enqueue(&client, "t", &vec![n; 1 << 20], &[("Idempotency-Key", &[b'a' + n])]);
    }
    enqueue(&client, "t", b"poison", &[]);
    for _ in 0..20 {
        let message = recv_one(&client, "t", 600_000);
        settle(&client, "t", "ack", &json!({"receipts": [receipt(&message)]}));
    }
    let poison = recv_one(&client, "t", 600_000);
    let reject = json!({"receipts": [receipt(&poison)], "mode": "reject", "reason": "no"});
    assert_eq!(settle(&client, "t", "nack", &reject), [json!({"ok": true})]);
    let said = node.ronctl_json(&["store", "stats"]);
    assert_eq!(said["topics"], json!(1));
    assert!(said["file_bytes"].as_u64().unwrap() > 8 << 20, "{said}");
    let before = depths(&client, "t");
    assert_eq!(before, [0, 0, 0, 1]);
    let setup = node.kill();
    let ask = |arguments: &[&str]| -> Value {
        let (code, out, err) = ronctl(&setup, &[&["--json"], arguments].concat());
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        serde_json::from_str(&out).unwrap()
    };
    let checked = ask(&["store", "check"]);
    assert_eq!((&checked["ok"], &checked["messages"]), (&json!(true), &json!(before.iter().sum::<u64>())));
    let stats = ask(&["store", "stats"]);
    assert_eq!(stats["messages"], json!(before.iter().sum::<u64>()));
    assert_eq!(stats["dedup_keys"], json!(20));
    assert!(stats["free_bytes"].as_u64().unwrap() > 4 << 20, "{stats}");
    let compacted = ask(&["store", "compact"]);
    assert!(compacted["bytes_after"].as_u64().unwrap() * 2 < compacted["bytes_before"].as_u64().unwrap());
    assert_eq!(ask(&["store", "check"])["ok"], json!(true));
    let node = setup.start();
    assert_eq!(depths(&node.mailbox(), "t"), before);
    let again = enqueue(&node.mailbox(), "t", &vec![0; 1 << 20], &[("Idempotency-Key", b"a")]);
    assert_eq!(again["duplicate"], json!(true));

    // one bit of a dead letter's row: the check names it
    let setup: Setup = node.stop();
    let store = setup.data_dir().join("store.redb");
    let mut bytes = std::fs::read(&store).unwrap();
    let at = bytes.windows(6).position(|bytes| bytes == b"poison").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&store, bytes).unwrap();
    let (code, out, _) = ronctl(&setup, &["store", "check"]);
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("acme/t"), "{out}");
    let _: TestNode = setup.start();
}

#[test]
fn a_scrub_moves_a_rotted_message_to_the_dead_letters_before_anybody_wants_it() {
    // an orderly stop: after a crash the engine itself reads all, and refuses to open what has rotted
    let setup = Setup::new().env("RON_NODE__DRAIN_MS", "50");
    let node = setup.start();
    let client = node.mailbox();
    let bodies: Vec<Vec<u8>> =
        (0..40).map(|n| format!("body-{n:02}-{}", "x".repeat(300)).into_bytes()).collect();
    let ids: Vec<String> = bodies
        .iter()
        .map(|body| enqueue(&client, "t", body, &[])["msg_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(node.ronctl_json(&["store", "scrub"])["messages"], json!(40));
    // one of them is with a consumer when it rots
    let held = recv_one(&client, "t", 600_000);
    assert_eq!(held["msg_id"], json!(ids[0]));
    let setup = node.stop();
    let store = setup.data_dir().join("store.redb");
    let mut bytes = std::fs::read(&store).unwrap();
    for name in ["body-00-", "body-17-", "body-31-"] {
        // every copy that redb has of it
        let places: Vec<usize> = bytes
            .windows(8)
            .enumerate()
            .filter(|(_, found)| *found == name.as_bytes())
            .map(|(at, _)| at)
            .collect();
        assert!(!places.is_empty());
        places.iter().for_each(|at| bytes[at + 5] ^= 1);
    }
    std::fs::write(&store, bytes).unwrap();

    let node = setup.start();
    let client = node.mailbox();
    let arguments = ["--json", "store", "scrub"];
    let (code, out, err) = ronctl(&setup, &arguments);
    assert_eq!(code, 1, "damage is a failure: {err}");
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&said["damages"], &said["messages"]), (&json!(3), &json!(40)), "{said}");
    poll("the dead letters", || (depths(&client, "t") == [37, 0, 1, 2]).then_some(()));
    // a peek shows what it can vouch for; the ids say which are gone from the queue
    let ready = peek_all(&client, "t", "ready");
    assert!(!ready.contains_key(&ids[17]) && !ready.contains_key(&ids[31]) && ready.contains_key(&ids[18]));
    let looked = node.operator().get(&format!("/v1/acme/t/messages/{}", ids[17])).json(200);
    assert_eq!(
        (&looked["state"], &looked["history"][0]["event"], &looked["history"][0]["reason"]),
        (&json!("dlq"), &json!("dead_lettered"), &json!("integrity"))
    );
    let metrics = node.mailbox_admin().get("/metrics");
    for line in ["integrity_fail_total{stage=\"egress\"} 2\n", "store_scrub_damages_total 3\n"] {
        assert!(metrics.text().contains(line), "{line}");
    }
    let ready = node.mailbox_admin().get("/readyz");
    let warned = poll("a warning", || {
        let answer = node.mailbox_admin().get("/readyz");
        answer.text().contains("scrub found 3 damages").then_some(answer.status)
    });
    assert_eq!((ready.status, warned), (200, 200));
    // its consumer had the bytes before: the ack counts
    assert_eq!(settle(&client, "t", "ack", &json!({"receipts": [receipt(&held)]})), [json!({"ok": true})]);
    let got = recv(&client, "t", &json!({"max_messages": 256, "visibility_ms": 600_000}));
    assert_eq!(got.len(), 37);
    // they are not counted again, and stay dead over a restart
    assert_eq!(ronctl(&setup, &arguments).0, 1);
    let node = node.stop().start();
    assert_eq!(depths(&node.mailbox(), "t"), [0, 0, 37, 2]);
}

#[test]
fn a_node_that_stops_gives_free_space_back_if_it_is_told_to() {
    for (most, given_back) in [("1MiB", true), ("0B", false)] {
        let setup = Setup::new().env("RON_STORE__COMPACT_FREE", most);
        let node = setup.start();
        let client = node.mailbox();
        for n in 0..12_u8 {
            enqueue(&client, "t", &vec![n; 1 << 20], &[]);
        }
        // behind all the others: the engine by itself gives back only what is free at the end of the file
        let kept = enqueue(&client, "t", &vec![b'k'; 1 << 20], &[]);
        for _ in 0..12 {
            let message = recv_one(&client, "t", 600_000);
            settle(&client, "t", "ack", &json!({"receipts": [receipt(&message)]}));
        }
        let setup = node.stop();
        let bytes = std::fs::metadata(setup.data_dir().join("store.redb")).unwrap().len();
        assert_eq!(bytes < 9 << 20, given_back, "{bytes}, of which 4 MiB are the journal");
        let (code, out, err) = ronctl(&setup, &["store", "check"]);
        assert_eq!(code, 0, "{out}{err}");
        assert_eq!(recv_one(&setup.start().mailbox(), "t", 1_000)["msg_id"], kept["msg_id"]);
    }
}
