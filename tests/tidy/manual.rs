//! The manuals say what the code does: their tables, configurations and commands are read here.

use crate::{assert_clean, files};
use ron_core::reason::Reason;
use ron_node::config::{Config, Sources};
use ron_node::metrics::{Metrics, MetricsOptions, QueueFigure, QueueFigures};
use ron_node::schemes::Catalogue;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

/// The rows of the table that follows `<!-- table: NAME -->` in `document`, without its head; code marks stripped.
pub(crate) fn table(document: &str, name: &str) -> Vec<Vec<String>> {
    let text = files::read(document);
    let mark = format!("<!-- table: {name} -->");
    let (_, after) = text.split_once(&mark).unwrap_or_else(|| panic!("{document} has no {mark}"));
    let rows = after.trim_start().lines().take_while(|line| line.starts_with('|')).skip(2);
    let cells = |row: &str| {
        let row = row.trim().trim_matches('|').replace("\\|", "\u{1}");
        row.split('|').map(|cell| cell.trim().replace('`', "").replace('\u{1}', "|")).collect()
    };
    rows.map(cells).collect()
}

#[test]
fn the_runbook_lists_every_reason_as_it_is() {
    let rows = table("RUNBOOK.md", "reasons");
    let codes: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(codes, Reason::ALL.map(Reason::code), "the codes, in order");
    let mut wrong = Vec::new();
    for (row, reason) in rows.iter().zip(Reason::ALL) {
        let status = match reason {
            Reason::Backpressure => "429, 503 on webhooks".to_owned(),
            _ => reason.status().to_string(),
        };
        let retry = if reason.retryable() { "yes" } else { "no" };
        let counted = reason.rejected_label().unwrap_or("–");
        let expected = [reason.code(), &status, reason.effect().label(), retry, counted];
        let written: Vec<&str> = row.iter().take(expected.len()).map(String::as_str).collect();
        if written != expected {
            wrong.push(format!("{written:?} should be {expected:?}"));
        }
    }
    assert_clean(&wrong);
}

struct OneQueue;

impl QueueFigures for OneQueue {
    fn queues(&self) -> Vec<QueueFigure> {
        vec![QueueFigure { queue: "acme/orders".to_owned(), shard: 1, ..QueueFigure::default() }]
    }
}

/// Family → (type, label names) of an exposition text.
fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        }
    }
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let family = ["_bucket", "_sum", "_count", ""].iter().find_map(|suffix| {
            let base = name.strip_suffix(suffix)?;
            families.contains_key(base).then(|| base.to_owned())
        });
        let family = family.unwrap_or_else(|| panic!("{name} has no TYPE"));
        let labels = line.split_once('{').map_or("", |(_, rest)| rest.split_once('}').expect("a brace").0);
        let names = labels.split("\",").filter_map(|pair| pair.split_once('=').map(|(name, _)| name));
        let known = &mut families.get_mut(&family).expect("it was found").1;
        known.extend(names.filter(|name| *name != "le").map(str::to_owned));
    }
    families
}

#[test]
fn the_runbook_lists_every_metric_as_it_is() {
    let metrics =
        Metrics::new(MetricsOptions { max_queues: 10, amnesia: false, version: "0", started_unix_s: 0.0 });
    let metrics = metrics.expect("metrics");
    let _provider = metrics.interop.provider("github", ["2026-11"]);
    let _egress = metrics.interop.egress("billing");
    let mut registered = BTreeMap::new();
    for (port, text) in
        [("mailbox", metrics.render_mailbox(&OneQueue)), ("interop", metrics.render_interop())]
    {
        for (name, (kind, labels)) in families(&text) {
            let labels: Vec<String> = labels.into_iter().collect();
            registered.insert(name, [port.to_owned(), kind, labels.join(", ")]);
        }
    }
    let mut written = BTreeMap::new();
    for row in table("RUNBOOK.md", "metrics") {
        let mut labels: Vec<&str> = row[3].split(", ").filter(|label| !label.is_empty()).collect();
        labels.sort_unstable();
        written.insert(row[0].clone(), [row[1].clone(), row[2].clone(), labels.join(", ")]);
    }
    let mut wrong: Vec<String> = Vec::new();
    for (name, is) in &registered {
        match written.get(name) {
            Some(says) if says == is => {}
            Some(says) => wrong.push(format!("{name}: the runbook says {says:?}, the node {is:?}")),
            None => wrong.push(format!("{name}: not in the runbook; {is:?}")),
        }
    }
    let gone = written.keys().filter(|name| !registered.contains_key(*name));
    wrong.extend(gone.map(|name| format!("{name}: only in the runbook")));
    assert_clean(&wrong);
}

/// Fenced blocks of `language` in a document.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = files::read(document);
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

/// The files that the manuals name below `/etc/ron/tls`.
fn put_certificate(dir: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["node.example".to_owned()]).expect("a certificate");
    let put = |name: &str, text: String| {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).mode(0o600).open(dir.join(name)).expect("a file");
        file.write_all(text.as_bytes()).expect("room for it");
    };
    put("cert.pem", made.cert.pem());
    put("clients.pem", made.cert.pem());
    put("key.pem", made.signing_key.serialize_pem());
}

#[test]
fn configurations_in_the_manuals_load() {
    let mut seen = 0;
    for document in ["README.md", "RUNBOOK.md"] {
        for text in blocks(document, "toml") {
            let dir = tempfile::tempdir().expect("a directory");
            let file = dir.path().join("node.toml");
            put_certificate(dir.path());
            let text = text.replace("/etc/ron/tls", &dir.path().display().to_string());
            std::fs::write(&file, &text).expect("a file");
            let secrets = ["GITHUB_SECRET", "STRIPE_SECRET", "GITHUB_SECRET_OLD", "GITHUB_SECRET_NEW"];
            let env =
                secrets.map(|name| (name.to_owned(), "whsec_c29tZXRoaW5nLXNlY3JldC1oZXJlLW9r".to_owned()));
            let sources = Sources { file: Some(file), env: env.into(), ..Sources::default() };
            if let Err(problems) = Config::load(&sources, &Catalogue) {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                panic!("{document}: {}\n{text}", problems.join("\n"));
            }
            seen += 1;
        }
    }
    assert!(seen >= 2, "{seen} configurations in the manuals");
}

/// The commands of `ronctl` that have commands below them.
const GROUPS: &str =
    "cap key topic dlq config policy interop snapshot store chaos clock amnesia quarantine bench audit";

/// Every `ronctl …` in a shell block names a command that exists.
#[test]
fn ronctl_commands_in_the_manuals_exist() {
    let mut calls = BTreeSet::new();
    for document in ["README.md", "RUNBOOK.md"] {
        for block in blocks(document, "sh") {
            for line in block.lines() {
                let Some((_, after)) = line.split_once("ronctl ") else { continue };
                let words = after.split_whitespace().skip_while(|word| *word == "--");
                let is_command = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
                let mut command: Vec<String> = words.take_while(is_command).map(str::to_owned).collect();
                // the second word is a command only below these
                let group = GROUPS.split(' ').any(|group| command.first().is_some_and(|word| word == group));
                command.truncate(if group { 2 } else { 1 });
                calls.insert(command);
            }
        }
    }
    assert!(calls.len() >= 8, "{calls:?}");
    let mut wrong = Vec::new();
    for call in calls.into_iter().filter(|call| !call.is_empty()) {
        let output = Command::new(env!("CARGO_BIN_EXE_ronctl")).args(&call).arg("--help").output();
        let output = output.expect("ronctl runs");
        if !output.status.success() {
            wrong.push(format!("ronctl {}: {}", call.join(" "), String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert_clean(&wrong);
}

/// The invariants have ids, and ARCHITECTURE.md lists the same ones as the code.
#[test]
fn the_invariants_are_listed_as_the_code_has_them() {
    let source = files::read("actors/core/src/shard/invariants.rs");
    let rows = source.lines().filter_map(|line| line.strip_prefix("//! | Q"));
    let in_code: Vec<(String, String)> = rows
        .filter_map(|row| row.trim_end_matches(" |").split_once(" | "))
        .map(|(id, text)| (format!("Q{id}"), text.to_owned()))
        .collect();
    assert!(in_code.len() >= 8, "{in_code:?}");
    let rows = table("ARCHITECTURE.md", "invariants");
    let written: Vec<(String, String)> = rows
        .iter()
        .filter(|row| row[0].starts_with('Q'))
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    assert_eq!(written, in_code);
}

/// A record with every member there is.
fn full_record() -> String {
    use ron_core::audit::{Chain, Decision, Entry, Head, Kind, More, OK};
    let at = ron_core::time::Millis(1);
    let mut entry = Entry::new(at, Kind::Api, Decision::Allow, OK);
    entry.provider = ron_core::ids::ProviderName::parse("p").ok();
    entry.tenant = ron_core::ids::Tenant::parse("t").ok();
    entry.cap_id = ron_core::capability::CapId::parse("0011223344556677");
    entry.kid = ron_core::ids::Kid::parse("k").ok();
    entry.content = Some([0; 32]);
    entry.more = More {
        step: Some("S"),
        op: Some("o".into()),
        topic: ron_core::ids::Topic::parse("t").ok(),
        msg_id: ron_core::ids::MessageId::parse("01M800JC6WWWS0000000000000").ok(),
        skew_ms: Some(1),
        unsigned_decided: true,
        id_conflict: true,
        shadow: true,
        version: Some(1),
        count: Some(1),
        since: Some(at),
        uid: Some(1),
        pid: Some(1),
        ip: "::1".parse().ok(),
        detail: Some("d".into()),
    };
    let mut chain = Chain::after(Head::EMPTY);
    chain.dropped(1);
    chain.append(&entry)
}

#[test]
fn the_page_of_the_audit_log_is_what_the_node_writes() {
    use ron_core::audit::{Head, Place, Verifier, content};
    let members: Vec<String> =
        table("docs/AUDIT.md", "audit members").into_iter().map(|row| row[0].clone()).collect();
    let record = full_record();
    let places: Vec<usize> = members
        .iter()
        .map(|name| record.find(&format!("\"{name}\":")).unwrap_or_else(|| panic!("{name} in {record}")))
        .collect();
    assert!(places.is_sorted(), "in the order of {record}");
    let written: serde_json::Value = serde_json::from_str(&record).expect("a record");
    assert_eq!(written.as_object().expect("an object").len(), members.len());

    let example = blocks("docs/AUDIT.md", "jsonl").remove(0);
    let page = files::read("docs/AUDIT.md");
    let head = page.split("The head of this chain: `").nth(1).and_then(|rest| rest.split('`').next());
    let mut verifier = Verifier::new(Some(Head::parse(head.expect("a head")).expect("a head")));
    let place = Place { file: "docs/AUDIT.md", line: 0 };
    let faults: Vec<_> = example.lines().filter_map(|line| verifier.line(place, line.as_bytes())).collect();
    assert!(faults.is_empty() && verifier.end(place).is_none(), "{faults:?} {:?}", verifier.end(place));
    for body in [r#"{"action":"opened"}"#, r#"{"action":"closed"}"#] {
        let name: String =
            content(&[0x42; 32], body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(example.contains(&format!("\"content\":\"b3k:{name}\"")), "{body}");
    }
}

/// Whoever reads a step in the log finds it in the manual, and `ronctl interop explain` knows it.
#[test]
fn every_step_of_a_webhook_is_explained() {
    let mut steps = BTreeSet::new();
    for path in ["src/gate.rs", "src/http/interop.rs", "src/http/intake.rs"] {
        let text = files::read(path);
        let names = text.split("step = Some(\"").skip(1).filter_map(|rest| rest.split('"').next());
        steps.extend(names.map(str::to_owned));
    }
    assert!(steps.len() >= 12, "{steps:?}");
    let codes = files::read("actors/core/src/scheme/reject.rs");
    let codes =
        codes.split("RejectReason::").filter_map(|rest| rest.split_once("=> \"")?.1.split('"').next());
    let codes: Vec<&str> = codes.collect();
    assert!(codes.contains(&"STALE") && codes.len() >= 9, "{codes:?}");
    steps.extend(codes.into_iter().map(str::to_owned));
    let written: Vec<String> =
        table("docs/AUDIT.md", "audit steps").into_iter().map(|row| row[0].clone()).collect();
    let written: BTreeSet<String> =
        written.iter().flat_map(|cell| cell.split(", ")).map(str::to_owned).collect();
    assert_eq!(written, steps, "docs/AUDIT.md, and the code");
    let explained = files::read("src/bin/ronctl/explain.rs");
    let silent = steps.iter().filter(|step| !explained.contains(&format!("\"{step}\" =>")));
    assert_clean(&silent.cloned().collect::<Vec<_>>());
}

/// The names of metrics that an expression of an alert uses: what has `_` in it, but for labels' values and functions.
pub(crate) fn metrics_of(expression: &str) -> Vec<&str> {
    let functions = ["histogram_quantile", "min_over_time"];
    let outside = expression.split('"').step_by(2);
    let words = outside.flat_map(|text| text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')));
    words.filter(|word| word.contains('_') && !functions.contains(word)).collect()
}

#[test]
fn the_runbook_lists_every_alert_and_each_stands_on_metrics_and_sections_that_exist() {
    let rules = files::read("deploy/prometheus/ron-node.rules.yml");
    let runbook = files::read("RUNBOOK.md");
    let known: BTreeSet<String> =
        table("RUNBOOK.md", "metrics").into_iter().map(|row| row[0].clone()).collect();
    let anchor = |line: &str| line.strip_prefix("## ").map(|title| title.to_lowercase().replace(' ', "-"));
    let anchors: BTreeSet<String> = runbook.lines().filter_map(anchor).collect();
    let (mut alerts, mut wrong) = (Vec::new(), Vec::new());
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap_or_default();
        let after = |mark: &str, end: &str| {
            let text = rule.split_once(mark).unwrap_or_else(|| panic!("{name} has no {mark}")).1;
            text.split(end).next().unwrap_or_default().to_owned()
        };
        let rest = after("expr:", "annotations:");
        let expression = rest.split("labels:").next().unwrap_or_default();
        let unknown = metrics_of(expression).into_iter().filter(|metric| {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| metric.strip_suffix(suffix));
            !known.contains(base.unwrap_or(metric))
        });
        wrong.extend(unknown.map(|metric| format!("{name}: {metric} is no metric")));
        let section = after("runbook: \"RUNBOOK.md#", "\"");
        if !anchors.contains(&section) {
            wrong.push(format!("{name}: RUNBOOK has no section {section}"));
        }
        alerts.push([name.to_owned(), after("severity: ", " ")]);
    }
    assert_clean(&wrong);
    let written = table("RUNBOOK.md", "alerts").into_iter().map(|row| [row[0].clone(), row[1].clone()]);
    assert_eq!(written.collect::<Vec<_>>(), alerts);
}

#[test]
fn the_runbook_lists_every_event() {
    let rows = table("RUNBOOK.md", "events");
    let topics: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(topics, ron_actors::kernel::event::Event::TOPICS);
}

#[test]
fn the_runbook_lists_every_command_line_exit_code() {
    use ron_node::node::BootError;
    let codes: BTreeSet<String> =
        table("RUNBOOK.md", "exit codes").into_iter().map(|row| row[0].clone()).collect();
    let boot = [
        BootError::Config(String::new()),
        BootError::Taken(String::new()),
        BootError::Root(String::new()),
        BootError::Store(ron_actors::store::StoreError::Reopening),
    ];
    let mut expected: BTreeSet<String> = boot.iter().map(|error| error.exit_code().to_string()).collect();
    expected.extend([0, 130, 143].map(|code: u8| code.to_string()));
    assert_eq!(codes, expected);
}
