//! The brownout sentinel on a real node: requests that fail shed new messages, what strangers send does not, and
//! it ends by itself.

use crate::harness::{Provider, Setup, TestNode, borrowed, poll, wall};
use crate::http::Client;
use crate::mailbox::{enqueue, receipt, recv_one, settle};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn metric(node: &TestNode, line: &str) -> f64 {
    let text = node.interop_admin().get("/metrics");
    let found = text.text().lines().find_map(|have| have.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_default()
}

fn is_shedding(node: &TestNode) -> bool {
    metric(node, "svc_interop_brownout_active ") > 0.5
}

fn send(client: &Client) -> u16 {
    client.call("POST", "/v1/acme/c/enqueue", &[], b"x").status
}

#[test]
fn strangers_cause_no_brownout_and_a_real_fault_among_them_does() {
    let github = Provider::new("github", "github");
    let setup = github.add_to(Setup::new(), "github", "").toml("[chaos]\nenabled = true\n");
    let node = setup.toml("[interop.limits]\nmax_rps = 100000\nburst_rps = 100000\n").start();
    let client = node.operator();
    enqueue(&client, "c", b"before", &[]);
    let (over, forged) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _end = Flag(&over);
        for _ in 0..2 {
            scope.spawn(|| {
                let signed = github.sign("1", wall(), b"{}");
                while !over.load(Ordering::Relaxed) {
                    // They reach verification: well-formed, and wrong in their last byte.
                    let answer = node.interop().call("POST", "/webhooks/github", &borrowed(&signed), b"[]");
                    assert_eq!(answer.status, 401, "{}", answer.text());
                    forged.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Well-meant requests, and none of them suffers.
        for _ in 0..100 {
            assert_eq!(send(&client), 200);
        }
        poll("1000 forged webhooks were refused", || (forged.load(Ordering::Relaxed) > 1000).then_some(()));
        assert!(!is_shedding(&node));
        assert_eq!(node.interop_admin().get("/readyz").status, 200);

        // Now every commit fails for a while: more than one in a hundred of what was let in.
        let fault = json!({"target": "svc-mailbox", "fault": "error", "percent": 100, "duration_ms": 4000});
        node.control().post("/ctl/chaos/inject", &fault).json(200);
        poll("new messages are shed", || {
            let _ = send(&client);
            is_shedding(&node).then_some(())
        });
        assert!(node.log().contains("error_rate_5m"), "says why");
        let ready = node.mailbox_admin().get("/readyz").json(503);
        assert_eq!(ready["shed_writes"], true, "{ready}");
        assert!(ready["missing"].as_array().unwrap().contains(&json!("brownout")), "{ready}");
        assert_eq!(send(&client), 503);

        // Reads and settling go on; and it ends by itself, nobody sending.
        poll("reads and settling go on", || {
            let answer = client.call("POST", "/v1/acme/c/recv", &[], b"");
            let message = (answer.status == 200).then(|| answer.json(200)["messages"][0].clone())?;
            let answer = client.post("/v1/acme/c/ack", &json!({"receipts": [message["receipt"]]}));
            (answer.status == 200).then_some(())
        });
        poll("new messages are accepted again", || (!is_shedding(&node)).then_some(()));
        poll("and stored", || (send(&client) == 200).then_some(()));
    });
    assert_eq!(node.interop_admin().get("/readyz").status, 200);
    let message = recv_one(&client, "c", 60_000);
    assert_eq!(settle(&client, "c", "ack", &json!({"receipts": [receipt(&message)]})), [json!({"ok": true})]);
}

/// Ends the threads, also when an assertion fails.
struct Flag<'f>(&'f AtomicBool);

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
