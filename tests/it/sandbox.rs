//! A node that can write only below its data (`node.sandbox`), and does all that it did before.

use crate::harness::{Setup, TestNode, poll};
use crate::mailbox::{depths, enqueue, recv_one};
use landlock::{ABI, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use rustix::process::Signal;
use serde_json::json;

/// Whether this kernel has what the sandbox is made of.
fn kernel_has_it() -> bool {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    rules.handle_access(AccessFs::from_write(ABI::V1)).and_then(Ruleset::create).is_ok()
}

/// A restricted process can gain no privileges any more, and the kernel says so.
fn is_restricted(node: &TestNode) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    status.lines().any(|line| line.split_whitespace().eq(["NoNewPrivs:", "1"]))
}

#[test]
fn a_restricted_node_does_all_that_it_did_before() {
    let setup = Setup::new().toml("[policy]\nfile = \"rules/policy.toml\"\n");
    let rules = setup.dir().join("rules");
    std::fs::create_dir(&rules).unwrap();
    std::fs::write(rules.join("policy.toml"), "version = 1\ndefault = \"allow\"\n").unwrap();
    let mut node = setup.start();
    assert_eq!(is_restricted(&node), kernel_has_it());
    assert_eq!(node.log().contains("sandbox: in force"), kernel_has_it());

    enqueue(&node.mailbox(), "t", b"x", &[]);
    node.ronctl_json(&["key", "rotate"]);
    node.ronctl_json(&["cap", "revoke", "0f1e2d3c4b5a6978"]);
    // what lies beside the data is still read: the policy, and the configuration at SIGHUP
    let denies = "version = 1\ndefault = \"allow\"\n[[rule]]\nop = [\"peek\"]\naction = \"deny\"\nreason = \"not today\"\n";
    std::fs::write(rules.join("policy.toml"), denies).unwrap();
    node.ronctl_json(&["policy", "reload"]);
    node.mailbox().get("/v1/acme/t/peek").refused(403, "POLICY_BLOCKED");
    node.signal(Signal::HUP);
    poll("the configuration read again", || node.log().contains("configuration reloaded").then_some(()));
    assert!(node.mailbox_admin().get("/metrics").text().contains("process_resident_memory_bytes "));
    node.signal(Signal::TERM);
    assert!(node.wait_exit().success());
    assert!(!setup.data_dir().join("ronctl.sock").exists(), "what it made it can remove");

    let node = setup.start();
    assert_eq!(depths(&node.mailbox(), "t"), [1, 0, 0, 0]);
    assert!(!node.log().contains("not in force"), "{}", node.log());
}

#[test]
fn the_sandbox_can_be_switched_off_and_amnesia_has_it_too() {
    let node = Setup::new().toml("[store]\ncache = \"1MiB\"\n").env("RON_NODE__SANDBOX", "off").start();
    assert!(!is_restricted(&node));
    assert!(node.log().contains("sandbox: switched off"));
    drop(node);

    let run = tempfile::tempdir().unwrap();
    let node = Setup::new().env("AMNESIA", "on").env("XDG_RUNTIME_DIR", run.path().to_str().unwrap()).start();
    assert_eq!(is_restricted(&node), kernel_has_it());
    enqueue(&node.mailbox(), "t", b"x", &[]);
    assert_eq!(recv_one(&node.mailbox(), "t", 30_000)["attempt"], json!(1));

    let (code, text) = Setup::new().env("RON_NODE__SANDBOX", "on").run_to_end();
    assert_eq!(code, 78);
    assert!(text.contains("node.sandbox") && text.contains("\"auto\" or \"off\""), "{text}");
}
