//! The shape of the exposition text.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

fn fresh() -> Metrics {
    Metrics::new(MetricsOptions { max_queues: 10, amnesia: true, version: "1.2.3", started_unix_s: 1.5 })
        .unwrap()
}

/// Families by name, with their type; checks the format as it goes.
fn families(text: &str) -> BTreeMap<String, String> {
    let mut types = BTreeMap::new();
    let mut helps = BTreeSet::new();
    let mut series = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("help text");
            assert!(!help.is_empty());
            assert!(helps.insert(name.to_owned()), "two HELP lines for {name}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(helps.contains(name), "{name} has no HELP before its TYPE");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "two TYPE lines for {name}");
        } else {
            let (id, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(series.insert(id.to_owned()), "twice: {id}");
            let name = id.split('{').next().unwrap();
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix).filter(|base| types.contains_key(*base)))
                .unwrap_or(name);
            assert!(types.contains_key(base), "{name} has no TYPE");
            assert_eq!(types[base] == "counter", base.ends_with("_total"), "{base}");
        }
    }
    types
}

#[test]
fn every_series_is_on_exactly_one_port_with_help_and_type() {
    let metrics = fresh();
    let _ = metrics.interop.provider("github", ["k1"]);
    let _ = metrics.interop.egress("billing");
    let mailbox = families(&metrics.render_mailbox(&NoQueues));
    let interop = families(&metrics.render_interop());
    assert!(mailbox.keys().all(|name| !interop.contains_key(name)));
    assert!(interop.keys().all(|name| name.starts_with("svc_interop_")));
    for name in [
        "requests_total",
        "request_latency_seconds",
        "inflight_requests",
        "rejected_total",
        "queue_depth",
        "requeued_total",
        "visibility_timeouts_total",
        "dlq_writes_total",
        "dlq_depth",
        "bus_lagged_total",
        "bus_overflow_dropped_total",
        "tls_handshake_failures_total",
        "integrity_fail_total",
        "service_restarts_total",
        "store_commit_seconds",
        "store_commit_batch_size",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_start_time_seconds",
        "enqueued_total",
        "delivered_total",
        "acked_total",
        "expired_total",
        "oldest_age_seconds",
        "enqueue_to_delivery_seconds",
        "store_free_bytes",
        "amnesia_mode",
        "build_info",
    ] {
        assert!(mailbox.contains_key(name), "{name}");
    }
    for name in [
        "requests_total",
        "latency_seconds",
        "rejected_total",
        "busy_rejections_total",
        "quota_exhaustions_total",
        "audit_drop_total",
        "audit_emitted_total",
        "inflight",
        "brownout_active",
        "webhook_verify_total",
        "secret_matches_total",
    ] {
        assert!(interop.contains_key(&format!("svc_interop_{name}")), "{name}");
    }
}

#[test]
fn latencies_are_histograms_with_the_slo_bounds() {
    let metrics = fresh();
    let route = mailbox_route("/v1/acme/orders/enqueue");
    metrics.mailbox.requests.answered(route, MethodLabel::Post, 200, Duration::from_millis(60));
    let text = metrics.render_mailbox(&NoQueues);
    for (le, count) in [("0.05", 0), ("0.12", 1), ("0.5", 1), ("+Inf", 1)] {
        let line = format!(
            "request_latency_seconds_bucket{{route=\"/enqueue\",method=\"POST\",le=\"{le}\"}} {count}\n"
        );
        assert!(text.contains(&line), "{line} is missing in\n{text}");
    }
    assert!(text.contains("requests_total{route=\"/enqueue\",method=\"POST\",code=\"200\"} 1\n"));
    let interop = metrics.render_interop();
    assert!(
        interop
            .contains("svc_interop_latency_seconds_bucket{route=\"/webhooks/{provider}\",le=\"0.12\"} 0\n")
    );
}

#[test]
fn what_alerts_divide_by_exists_at_0() {
    let metrics = fresh();
    let text = metrics.render_mailbox(&NoQueues);
    for line in [
        "requests_total{route=\"/recv\",method=\"POST\",code=\"200\"} 0",
        "rejected_total{reason=\"quota\"} 0",
        "rejected_total{reason=\"auth\"} 0",
        "service_restarts_total{service=\"verifier\"} 0",
        "integrity_fail_total{stage=\"egress\"} 0",
        "bus_lagged_total{topic=\"mailbox\"} 0",
        "amnesia_mode 1",
        "build_info{version=\"1.2.3\"} 1",
        "inflight_requests{route=\"/ack\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
    let interop = metrics.render_interop();
    assert!(interop.contains(
        "svc_interop_requests_total{route=\"/webhooks/{provider}\",method=\"POST\",code=\"202\"} 0\n"
    ));
    assert!(interop.contains("svc_interop_rejected_total{reason=\"SIGNATURE_INVALID\"} 0\n"));
    assert!(interop.contains("svc_interop_busy_rejections_total{endpoint=\"webhooks\"} 0\n"));
}

#[test]
fn refusals_are_counted_by_class_and_by_reason() {
    let metrics = fresh();
    for reason in Reason::ALL {
        metrics.mailbox.rejected(reason);
        metrics.interop.rejected(Endpoint::Webhooks, reason);
    }
    let text = metrics.render_mailbox(&NoQueues);
    for (label, count) in [("auth", 4), ("quota", 2), ("degraded", 2), ("storage", 1)] {
        assert!(text.contains(&format!("rejected_total{{reason=\"{label}\"}} {count}\n")), "{label}");
    }
    let interop = metrics.render_interop();
    for reason in Reason::ALL {
        assert!(interop.contains(&format!("svc_interop_rejected_total{{reason=\"{}\"}} 1\n", reason.code())));
    }
    assert!(interop.contains("svc_interop_quota_exhaustions_total 1\n"));
    assert!(interop.contains("svc_interop_busy_rejections_total{endpoint=\"webhooks\"} 1\n"));
}

#[test]
fn routes_are_what_follows_the_topic() {
    for (path, name) in [
        ("/v1/acme/orders/enqueue", "/enqueue"),
        ("/v1/acme/orders/enqueue/batch", "/enqueue/batch"),
        ("/v1/acme/orders", "/"),
        ("/v1/acme", "/tenant"),
        ("/v1/acme/orders/peek", "/peek"),
        ("/v1/acme/orders/dlq", "/dlq"),
        ("/v1/acme/orders/dlq/tasks", "/dlq/tasks"),
        ("/v1/acme/orders/dlq/tasks/t1-1", "/dlq/tasks"),
        ("/v1/acme/orders/dlq/nonsense", "other"),
        ("/v1/acme/orders/", "other"),
        ("/v1/acme/orders/nonsense", "other"),
        ("/", "other"),
        ("/bench/empty", "/bench"),
        ("/v1/acme/orders/tenant", "other"),
    ] {
        assert_eq!(MAILBOX_ROUTES[mailbox_route(path)], name, "{path}");
    }
    assert_eq!(INTEROP_ROUTES[interop_route("/webhooks/github")], "/webhooks/{provider}");
    assert_eq!(INTEROP_ROUTES[interop_route("/v1/a/b/enqueue")], "/v1");
    assert_eq!(INTEROP_ROUTES[interop_route("/nothing")], "other");
}

#[test]
fn inflight_falls_when_a_request_is_dropped() {
    let metrics = fresh();
    let route = mailbox_route("/v1/a/b/recv");
    let guard = metrics.mailbox.requests.begin(route);
    assert!(metrics.render_mailbox(&NoQueues).contains("inflight_requests{route=\"/recv\"} 1\n"));
    drop(guard);
    assert!(metrics.render_mailbox(&NoQueues).contains("inflight_requests{route=\"/recv\"} 0\n"));
}

#[test]
fn services_have_names() {
    assert_eq!(Service::Bus.name(), "bus");
    assert_eq!(Service::named("verifier"), Some(Service::Verifier));
    assert_eq!(Service::named("nobody"), None);
}

#[test]
fn providers_count_by_result_and_kid() {
    let metrics = fresh();
    let provider = metrics.interop.provider("github", ["2026-11"]);
    provider.verified(WebhookResult::Accepted);
    provider.verified(WebhookResult::Refused(Reason::SignatureInvalid));
    provider.secret_matched("2026-11");
    let text = metrics.render_interop();
    for line in [
        "svc_interop_webhook_verify_total{provider=\"github\",result=\"accepted\"} 1",
        "svc_interop_webhook_verify_total{provider=\"github\",result=\"SIGNATURE_INVALID\"} 1",
        "svc_interop_webhook_verify_total{provider=\"github\",result=\"REPLAY_WINDOW\"} 0",
        "svc_interop_secret_matches_total{provider=\"github\",kid=\"2026-11\"} 1",
        "svc_interop_secret_state{provider=\"github\",kid=\"2026-11\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn the_clock_of_a_sender_has_two_sides() {
    let metrics = fresh();
    let provider = metrics.interop.provider("github", ["k1"]);
    for ms in [-61_000, -2_000, 0, 400, 31_000] {
        provider.skewed(ms);
    }
    let text = metrics.render_interop();
    for (le, count) in [("-60", 1), ("-1", 2), ("0", 3), ("1", 4), ("30", 4), ("60", 5), ("+Inf", 5)] {
        let line =
            format!("svc_interop_clock_skew_seconds_bucket{{provider=\"github\",le=\"{le}\"}} {count}");
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn verdicts_without_effect_are_counted_apart() {
    let metrics = fresh();
    let (provider, shadow) = (metrics.interop.provider("github", ["k1"]), metrics.interop.shadow("github"));
    shadow.accepted();
    shadow.refused(Reason::SignatureInvalid);
    provider.verified(WebhookResult::Refused(Reason::BodyLimit));
    let text = metrics.render_interop();
    for line in ["shadow_accepted\"} 1", "shadow_SIGNATURE_INVALID\"} 1", "BODY_LIMIT\"} 1", "accepted\"} 0"]
    {
        let line = format!("svc_interop_webhook_verify_total{{provider=\"github\",result=\"{line}");
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
}

/// The tool that Prometheus itself ships, where it is installed.
#[test]
fn promtool_has_no_complaint() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let tool = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".to_owned());
    let metrics = fresh();
    let _ = metrics.interop.provider("github", ["k1"]);
    let queue = QueueFigure { queue: "acme/orders".into(), shard: 1, ready: 2, ..QueueFigure::default() };
    struct One(QueueFigure);
    impl QueueFigures for One {
        fn queues(&self) -> Vec<QueueFigure> {
            vec![self.0.clone()]
        }
    }
    for text in [metrics.render_mailbox(&One(queue)), metrics.render_interop()] {
        let started = Command::new(&tool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = started else {
            eprintln!("{tool} is not installed: skipped");
            return;
        };
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
    }
}
