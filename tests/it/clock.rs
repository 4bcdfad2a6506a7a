//! A node whose wall clock does not go with the time it saved last (SPEC §1 "node time").

use crate::harness::{Setup, TestNode, poll, wall};
use crate::mailbox::{depths, enqueue};
use ron_actors::store::{EngineCell, FileMedium, StoreConfig, StoreObserver};
use ron_core::time::{Clock, Millis};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::Command;
use std::sync::Arc;

const DAY_MS: u64 = 86_400_000;

#[derive(Debug)]
struct Nobody;

impl StoreObserver for Nobody {
    fn committed(&self, _: f64, _: usize) {}
    fn failed(&self) {}
}

/// Another machine's clock; it ends nothing.
#[derive(Debug)]
struct Elsewhere(Millis);

impl Clock for Elsewhere {
    fn now(&self) -> Millis {
        self.0
    }

    fn wall(&self) -> Millis {
        self.0
    }

    fn may_expire(&self) -> bool {
        false
    }
}

/// Makes `at` the time that the store has saved last. No node may run.
fn save_time(setup: &Setup, at: Millis) {
    std::fs::create_dir_all(setup.data_dir()).unwrap();
    let medium = Arc::new(FileMedium::new(setup.data_dir().join("store.redb"), 0));
    let clock_from = |_| Arc::new(Elsewhere(at)) as Arc<dyn Clock>;
    let opened = EngineCell::open(medium, StoreConfig::default(), &clock_from, [7; 40], Arc::new(Nobody));
    opened.unwrap().cell.shut();
}

fn stop(mut node: TestNode) {
    node.signal(Signal::TERM);
    assert!(node.wait_exit().success());
}

fn warnings(node: &TestNode) -> Vec<Value> {
    let ready = node.mailbox_admin().get("/readyz").json(200);
    assert_eq!(node.ronctl_json(&["status"])["warn"], ready["warn"]);
    ready["warn"].as_array().unwrap().clone()
}

fn send_keyed(node: &TestNode, key: &str) -> Value {
    let headers: [(&str, &[u8]); 2] = [("Idempotency-Key", key.as_bytes()), ("X-Ttl-Ms", b"3600000")];
    enqueue(&node.mailbox(), "t", b"mortal", &headers)
}

fn nothing_to_accept(node: &TestNode) {
    let text = node.control().call("POST", "/ctl/clock/accept", &[], b"").refused(404, "NOT_FOUND");
    assert!(text.contains("not in doubt"), "{text}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronctl"));
    command.args(["clock", "accept"]).env("RON_SOCKET", node.ready["socket"].as_str().unwrap());
    assert_eq!(command.output().unwrap().status.code(), Some(1));
}

#[test]
fn after_a_clock_set_back_nothing_expires_until_it_is_accepted() {
    let setup = Setup::new();
    let node = setup.start();
    let first = send_keyed(&node, "k1");
    enqueue(&node.mailbox(), "t", b"later", &[("X-Delay-Ms", b"3600000")]);
    assert_eq!(depths(&node.mailbox(), "t"), [1, 1, 0, 0]);
    assert_eq!(warnings(&node), Vec::<Value>::new());
    nothing_to_accept(&node);
    stop(node);
    save_time(&setup, Millis(wall().0 + 5 * DAY_MS));

    let node = setup.start();
    let in_doubt = |node: &TestNode| {
        let warnings = warnings(node);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].as_str().unwrap().contains("ronctl clock accept"), "{warnings:?}");
        // delays run on; a TTL and a key whose time is over end nothing
        poll("the end of the delay", || (depths(&node.mailbox(), "t") == [2, 0, 0, 0]).then_some(()));
        let again = send_keyed(node, "k1");
        assert_eq!((&again["duplicate"], &again["msg_id"]), (&json!(true), &first["msg_id"]));
        // the warning outlives the regular looks at the store, which warn of other things
        let stored = || node.ronctl_json(&["status"])["store"]["messages"].as_u64().unwrap();
        let before = stored();
        enqueue(&node.mailbox(), "looked", b"", &[]);
        poll("a look at the store", || (stored() > before).then_some(()));
        assert_eq!(self::warnings(node), warnings);
    };
    in_doubt(&node);
    assert!(setup.data_dir().join("clock-gap").exists());
    let node = node.kill_and_restart();
    in_doubt(&node);

    let accepted = node.ronctl_json(&["clock", "accept"]);
    assert!(accepted["saved"].as_str() > accepted["wall"].as_str(), "{accepted}");
    assert_eq!(warnings(&node), Vec::<Value>::new());
    poll("the end of the mortal one", || (depths(&node.mailbox(), "t") == [1, 0, 0, 0]).then_some(()));
    let anew = send_keyed(&node, "k1");
    assert_eq!(anew["duplicate"], json!(false));
    assert_ne!(anew["msg_id"], first["msg_id"]);
    assert!(!setup.data_dir().join("clock-gap").exists());
    assert!(node.log().contains("the clock is accepted"), "who accepted it is in the log");
    nothing_to_accept(&node);
}

#[test]
fn a_clock_far_ahead_is_doubted_too_and_stays_so_when_it_is_right_again() {
    let setup = Setup::new();
    save_time(&setup, Millis(wall().0 - 8 * DAY_MS));
    let node = setup.start();
    assert_eq!(warnings(&node).len(), 1);
    let node = node.kill_and_restart();
    assert_eq!(warnings(&node).len(), 1, "a restart accepts nothing");
    node.ronctl_json(&["clock", "accept"]);
    send_keyed(&node, "k1"); // saves the time
    let node = node.kill_and_restart();
    assert_eq!(warnings(&node), Vec::<Value>::new());
    stop(node);

    let wider = setup.toml("[clock]\nmax_gap = \"9d\"\n");
    std::fs::remove_file(wider.data_dir().join("store.redb")).unwrap();
    save_time(&wider, Millis(wall().0 - 8 * DAY_MS));
    let node = wider.start();
    assert_eq!(warnings(&node), Vec::<Value>::new(), "within clock.max_gap");
    nothing_to_accept(&node);
}
