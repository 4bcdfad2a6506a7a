//! `[interop.egress.NAME]`, `[egress.NAME]`: what is read, what is refused, and what is told of it.

use super::*;
use crate::egress::Egresses;
use crate::metrics::{Metrics, MetricsOptions};
use ron_actors::kernel::clock::SystemClock;
use ron_core::egress::{BreakerRules, Schedule};
use ron_core::time::{Clock, Millis};
use std::sync::Arc;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const LEAST: &str = "tenant = \"acme\"\ntopic = \"orders\"\nurl = \"https://hooks.example/x?key=hunter2\"\n\
                     secrets = [{ kid = \"k1\", env = \"S\" }]\n";

fn with(more: &str, then: impl FnOnce(&Sources)) {
    with_file(&format!("[egress.billing]\n{LEAST}{more}"), &[("S", SECRET)], then);
}

fn read(more: &str) -> Config {
    let mut read = None;
    with(more, |sources| read = Some(load(sources).map_err(|problems| report(&problems)).unwrap()));
    read.unwrap()
}

fn of(config: &Config) -> &Egress {
    &config.interop.egress[&ProviderName::parse("billing").unwrap()]
}

#[test]
fn what_is_not_said_is_as_the_contract_has_it() {
    let config = read("");
    let egress = of(&config);
    assert!(egress.enabled && egress.signer.is_some() && egress.rate.is_none() && egress.headers.is_empty());
    assert_eq!((egress.timeout, egress.connect_timeout), (Duration::from_secs(15), Duration::from_secs(5)));
    assert_eq!((egress.response_limit, egress.concurrency), (ByteSize(16 << 10), 8));
    assert_eq!((&egress.schedule, egress.breaker), (&Schedule::default(), BreakerRules::default()));
    assert_eq!(egress.queue.to_string(), "acme/orders");
    assert_eq!(egress.target.origin(), "https://hooks.example");
}

#[test]
fn both_spellings_read_the_same_and_the_environment_too() {
    let inner = format!("[interop.egress.billing]\n{LEAST}rate = 7\n");
    let one = with_file(&inner, &[("S", SECRET)], |sources| load(sources).unwrap());
    let env = [("S", SECRET), ("RON_EGRESS__BILLING__RATE", "7")];
    let other = with_file(&format!("[egress.billing]\n{LEAST}"), &env, |sources| load(sources).unwrap());
    assert_eq!((of(&one).rate, of(&other).rate), (Some(7), Some(7)));
    let both = format!("{inner}[egress.billing]\n{LEAST}");
    let found = with_file(&both, &[("S", SECRET)], problems).join("\n");
    assert!(found.contains("egress.billing: is also [interop.egress.billing]: write it once"), "{found}");
}

#[test]
fn a_topic_has_one_endpoint() {
    let text = format!("[egress.one]\n{LEAST}[interop.egress.two]\n{LEAST}");
    let found = with_file(&text, &[("S", SECRET)], problems).join("\n");
    assert!(found.contains("interop.egress.two.topic: is the topic of egress one, too"), "{found}");
    assert!(found.contains("subscribe it to acme/orders"), "{found}");
    let one = format!("{text}enabled = false\n");
    assert!(with_file(&one, &[("S", SECRET)], |sources| load(sources).is_ok()));
}

#[test]
fn every_key_is_read() {
    let config = read(
        "signing = \"v1\"\nrate = 50\nconcurrency = 2\ntimeout = \"3s\"\nconnect_timeout = \"1s\"\nenabled = true\n\
         response_limit = \"1KiB\"\nterminal_statuses = [422, 404]\nallow_http = true\nallow_ports = [9000]\n\
         allow_cidrs = [\"10.1.0.0/16\", \"127.0.0.1\"]\nschedule_ms = [100, 200]\nheaders = { X-Key = \"hunter3\" }\n\
         breaker = { failures = 2, pause_ms = 10, pause_max_ms = 20, disable_after_ms = 30 }\n",
    );
    let egress = of(&config);
    assert_eq!((egress.rate, egress.concurrency, egress.schedule.attempts()), (Some(50), 2, 3));
    assert_eq!((egress.terminal_statuses.as_slice(), egress.allow_cidrs.len()), ([422, 404].as_slice(), 2));
    let BreakerRules { trip_after, pause_ms, pause_ms_max, disable_after_ms } = egress.breaker;
    assert_eq!((trip_after, pause_ms, pause_ms_max, disable_after_ms), (2, 10, 20, 30));
    // what may be a secret is neither printed nor logged
    let shown = format!("{config:?} {}", config.effective_toml());
    assert!(!shown.contains("hunter3") && !shown.contains(SECRET) && shown.contains("X-Key"), "{shown}");
    assert!(!format!("{egress:?}").contains("hunter2"), "a path may be one, too");
}

#[test]
fn what_cannot_work_is_told_with_the_key_and_the_way_out() {
    for (more, says) in [
        ("url = 5", "is not TOML"),
        (
            "allow_port = [1]",
            "egress.billing.allow_port: unknown key\n    nearest known: egress.billing.allow_ports",
        ),
        ("allow_ports = [0]", "allow_ports: must be a list of ports, 1 to 65535"),
        ("allow_ports = 9000", "allow_ports: must be a list of ports, 1 to 65535"),
        ("allow_cidrs = [\"10.0.0.0/99\"]", "allow_cidrs: must be a list of CIDRs"),
        ("schedule_ms = [0]", "schedule_ms: must hold delays of 1 ms to 2 days"),
        ("schedule_ms = [\"5s\"]", "schedule_ms: must be a list of milliseconds"),
        (
            "terminal_statuses = [410]",
            "terminal_statuses: must be a list of statuses, 300 to 599 but for 410",
        ),
        ("signing = \"v2\"", "signing: must be \"v1\", \"v1a\" or \"both\""),
        ("signing = \"both\"", "secrets: must hold a private key (whsk_)"),
        ("headers = { Host = \"a\" }", "headers.Host: is a header that the node sets itself"),
        ("headers = { X-A = \"a\\r\\nX-B: b\" }", "headers.X-A: has a value that is not printable ASCII"),
        ("ca_file = \"/nowhere.pem\"", "ca_file: cannot read /nowhere.pem"),
        ("breaker = { failures = 0 }", "breaker.failures: must be a whole number (1 to 1000)"),
        ("concurrency = 0", "concurrency: must be a whole number (1 to 256)"),
    ] {
        with(more, |sources| {
            let found = problems(sources).join("\n");
            assert!(found.contains(says) && !found.contains("hunter2"), "{more}: {found}");
        });
    }
    for (url, says) in [
        ("http://hooks.example/hunter2", "use https, or set allow_http"),
        ("https://10.0.0.1/hunter2", "10.0.0.1 is private"),
        ("https://2130706433/", "127.0.0.1 is loopback"),
        ("https://u:hunter2@hooks.example/", "a user name or password"),
        ("https://intranet/", "one label"),
    ] {
        let text = format!("[egress.billing]\n{LEAST}").replace("https://hooks.example/x?key=hunter2", url);
        let found = with_file(&text, &[("S", SECRET)], problems).join("\n");
        let told = found.contains("egress.billing.url: SSRF: ") && found.contains(says);
        assert!(told && !found.contains("hunter2"), "{url}: {found}");
    }
}

#[test]
fn an_endpoint_that_is_not_enabled_needs_no_secret_and_is_not_served() {
    let text = format!("[egress.billing]\n{LEAST}enabled = false\n");
    let mut config = with_file(&text, &[], |sources| load(sources).unwrap());
    let options = MetricsOptions { max_queues: 1, amnesia: true, version: "0", started_unix_s: 0.0 };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::starting_from(Millis(0)));
    config.node.amnesia = true;
    let served = Egresses::of(&config, &Metrics::new(options).unwrap(), &clock).unwrap();
    assert!(served.endpoints().is_empty());
    let checked = with_file(&text, &[], |sources| check_report(sources, &NamesOnly).unwrap());
    assert!(checked.contains("0 of 1 egress endpoints enabled"), "{checked}");
}

#[test]
fn a_secret_that_signs_has_no_beginning() {
    let later = LEAST.replace("env = \"S\" }", "env = \"S\", not_before = 2026-12-01T00:00:00Z }");
    let found = with_file(&format!("[egress.billing]\n{later}"), &[("S", SECRET)], problems).join("\n");
    assert!(found.contains("egress.billing.secrets: have no not_before"), "{found}");
}
