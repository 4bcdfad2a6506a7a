//! `/metrics` of both ports: every line well formed, every series on one port, and the numbers true.

use crate::harness::{Provider, Setup, borrowed, wall};
use crate::http::Client;
use crate::mailbox::{enqueue, receipt, recv_one, settle};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::process::{Command, Stdio};

/// Checks the shape of every line; the samples, by name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let (mut typed, mut samples) = (BTreeMap::new(), BTreeMap::new());
    assert!(text.ends_with('\n'));
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(typed.insert(name.to_owned(), kind.to_owned()).is_none(), "typed twice: {line}");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        assert!(!line.starts_with('#'), "{line}");
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        let name = series.split('{').next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let kind = typed.get(name).or_else(|| base.and_then(|base| typed.get(base)));
        let kind = kind.unwrap_or_else(|| panic!("no type for {line}"));
        assert!(kind != "counter" || (name.ends_with("_total") && value >= 0.0), "{line}");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            assert!(labels.starts_with('{') && labels.ends_with("\"}"), "{line}");
        }
        assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
    }
    samples
}

fn scrape(client: &Client) -> BTreeMap<String, f64> {
    let answer = client.get("/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain"), "{:?}", answer.headers);
    promtool(answer.text());
    samples(answer.text())
}

/// Prometheus' own check, where it is installed.
fn promtool(text: &str) {
    let tool = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".into());
    let piped = || Stdio::piped();
    let started =
        Command::new(tool).args(["check", "metrics"]).stdin(piped()).stdout(piped()).stderr(piped()).spawn();
    let Ok(mut child) = started else { return };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// The sum over all series of `name` whose labels hold each of `labels`.
fn sum(samples: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> f64 {
    let of = |series: &&String| {
        series.split('{').next() == Some(name) && labels.iter().all(|l| series.contains(l))
    };
    let found: Vec<f64> = samples.iter().filter(|(series, _)| of(series)).map(|(_, value)| *value).collect();
    assert!(!found.is_empty(), "no {name} {labels:?} in {:#?}", samples.keys().collect::<Vec<_>>());
    found.iter().sum()
}

#[test]
fn both_ports_tell_the_truth_and_no_series_is_on_both() {
    let github = Provider::new("github", "github");
    let node = github.add_to(Setup::new(), "github", "").start();
    let (mailbox, interop) = (node.mailbox_admin(), node.interop_admin());
    // what alerts divide by is there at 0
    let fresh = scrape(&mailbox);
    for reason in ["quota", "degraded", "storage", "auth"] {
        assert_eq!(sum(&fresh, "rejected_total", &[&format!("reason=\"{reason}\"")]), 0.0);
    }
    assert_eq!(sum(&fresh, "service_restarts_total", &[]), 0.0);
    assert_eq!(sum(&fresh, "amnesia_mode", &[]), 0.0);
    assert_eq!(sum(&fresh, "build_info", &[]), 1.0);
    let fresh = scrape(&interop);
    assert_eq!(sum(&fresh, "svc_interop_brownout_active", &[]), 0.0);
    assert_eq!(sum(&fresh, "svc_interop_rejected_total", &["reason=\"SIGNATURE_INVALID\""]), 0.0);
    let client = node.mailbox();
    for _ in 0..3 {
        enqueue(&client, "m", b"x", &[]);
    }
    let got = recv_one(&client, "m", 60_000);
    settle(&client, "m", "ack", &json!({"receipts": [receipt(&got)]}));
    let got = recv_one(&client, "m", 60_000);
    settle(&client, "m", "nack", &json!({"receipts": [receipt(&got)], "mode": "reject"}));
    node.bare().call("POST", "/v1/acme/m/enqueue", &[], b"x").refused(401, "UNAUTH");
    client.get("/v1/acme/m/nope").refused(404, "NOT_FOUND");
    let body = b"{\"n\":1}";
    let headers = github.sign("1", wall(), body);
    node.interop().call("POST", "/webhooks/github", &borrowed(&headers), body).json(202);
    node.interop().call("POST", "/webhooks/github", &borrowed(&headers), body).json(202);
    node.interop().call("POST", "/webhooks/github", &[], body).refused(401, "SIGNATURE_INVALID");
    node.interop().call("POST", "/webhooks/nobody", &[], body).refused(403, "POLICY_BLOCKED");

    let m = scrape(&mailbox);
    let queue = "queue=\"acme/m\"";
    assert_eq!(sum(&m, "requests_total", &["route=\"/enqueue\"", "method=\"POST\"", "code=\"200\""]), 3.0);
    assert_eq!(sum(&m, "requests_total", &["route=\"/enqueue\"", "code=\"401\""]), 1.0);
    assert_eq!(sum(&m, "requests_total", &["route=\"other\"", "code=\"404\""]), 1.0);
    assert_eq!(sum(&m, "request_latency_seconds_count", &["route=\"/recv\""]), 2.0);
    for le in ["0.05", "0.12", "0.5", "+Inf"] {
        sum(&m, "request_latency_seconds_bucket", &[&format!("le=\"{le}\"")]);
    }
    assert_eq!(sum(&m, "rejected_total", &["reason=\"auth\""]), 1.0);
    assert_eq!(sum(&m, "enqueued_total", &[queue]), 3.0);
    assert_eq!(sum(&m, "delivered_total", &[queue]), 2.0);
    assert_eq!(sum(&m, "acked_total", &[queue]), 1.0);
    assert_eq!(sum(&m, "dlq_writes_total", &[queue]), 1.0);
    assert_eq!(sum(&m, "dlq_depth", &[queue]), 1.0);
    assert_eq!(sum(&m, "queue_depth", &[queue, "kind=\"ready\""]), 1.0);
    assert_eq!(sum(&m, "queue_depth", &[queue, "kind=\"vis\""]), 0.0);
    assert_eq!(sum(&m, "queue_depth", &["queue=\"acme/github\"", "kind=\"ready\""]), 1.0);
    assert_eq!(sum(&m, "enqueue_to_delivery_seconds_count", &[]), 2.0);
    assert!(sum(&m, "store_commit_seconds_count", &[]) >= 4.0);
    assert!(sum(&m, "store_commit_batch_size_count", &[]) >= 4.0);
    assert!(sum(&m, "process_resident_memory_bytes", &[]) > 1e6);
    assert_eq!(sum(&m, "inflight_requests", &[]), 0.0);

    let i = scrape(&interop);
    let hooks = "route=\"/webhooks/{provider}\"";
    assert_eq!(sum(&i, "svc_interop_requests_total", &[hooks, "code=\"202\""]), 2.0);
    assert_eq!(sum(&i, "svc_interop_requests_total", &[hooks, "code=\"401\""]), 1.0);
    assert_eq!(sum(&i, "svc_interop_rejected_total", &["reason=\"SIGNATURE_INVALID\""]), 1.0);
    assert_eq!(sum(&i, "svc_interop_rejected_total", &["reason=\"POLICY_BLOCKED\""]), 1.0);
    assert_eq!(sum(&i, "svc_interop_secret_matches_total", &["provider=\"github\"", "kid=\"k1\""]), 2.0);
    assert_eq!(sum(&i, "svc_interop_webhook_verify_total", &["provider=\"github\""]), 3.0);
    assert!(sum(&i, "svc_interop_latency_seconds_count", &[hooks]) >= 4.0);

    no_family_is_on_both(&m, &i);
    // a provider that is not configured makes no series
    assert!(!i.keys().any(|series| series.contains("nobody")));
}

fn no_family_is_on_both(one: &BTreeMap<String, f64>, other: &BTreeMap<String, f64>) {
    let names = |samples: &BTreeMap<String, f64>| {
        samples.keys().map(|series| series.split('{').next().unwrap().to_owned()).collect::<HashSet<_>>()
    };
    let both: Vec<String> = names(one).intersection(&names(other)).cloned().collect();
    assert_eq!(both, Vec::<String>::new(), "on both ports");
}
