//! What watches the node from outside: dashboards ask only for metrics that there are, and every alert has a test.

use crate::manual::{metrics_of, table};
use crate::{assert_clean, files};
use serde_json::Value;
use std::collections::BTreeSet;

const DASHBOARDS: &str = "deploy/grafana/dashboards/";
const TESTS: &str = "deploy/prometheus/tests/";

/// Every text below `value` that stands under one of `keys`.
fn texts<'v>(value: &'v Value, keys: &[&str], found: &mut Vec<&'v str>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                match member {
                    Value::String(text) if keys.contains(&key.as_str()) => found.push(text),
                    _ => texts(member, keys, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, keys, found)),
        _ => {}
    }
}

fn dashboards() -> Vec<(String, Value)> {
    let paths = files::all().into_iter().filter(|path| path.starts_with(DASHBOARDS));
    let read = |path: String| {
        let dashboard = serde_json::from_str(&files::read(&path)).expect("JSON");
        (path, dashboard)
    };
    let found: Vec<_> = paths.map(read).collect();
    assert_eq!(found.len(), 3, "one for each service, and one for the process");
    found
}

#[test]
fn dashboards_ask_only_for_metrics_that_there_are() {
    let known: BTreeSet<String> =
        table("RUNBOOK.md", "metrics").into_iter().map(|row| row[0].clone()).collect();
    let functions = ["label_values", "avg_over_time"];
    let (mut wrong, mut asked) = (Vec::new(), BTreeSet::new());
    for (path, dashboard) in dashboards() {
        let mut expressions = Vec::new();
        texts(&dashboard, &["expr", "definition"], &mut expressions);
        assert!(expressions.len() > 15, "{path}: {expressions:?}");
        for expression in expressions {
            for name in metrics_of(expression) {
                // variables of Grafana
                if name.starts_with("__") || functions.contains(&name) {
                    continue;
                }
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
                let base = base.unwrap_or(name);
                asked.insert(base.to_owned());
                if !known.contains(base) {
                    wrong.push(format!("{path}: {name} is no metric: {expression}"));
                }
            }
        }
    }
    assert_clean(&wrong);
    assert!(asked.len() > 40, "the golden metrics of both services: {asked:?}");
}

/// What an operator imports must find his Prometheus, not that of whoever drew it.
#[test]
fn dashboards_leave_the_choice_of_the_data_source() {
    let mut wrong = Vec::new();
    for (path, dashboard) in dashboards() {
        let mut sources = Vec::new();
        texts(&dashboard["panels"], &["uid"], &mut sources);
        assert!(!sources.is_empty());
        wrong.extend(
            sources.iter().filter(|uid| **uid != "${datasource}").map(|uid| format!("{path}: {uid}")),
        );
        let variable = &dashboard["templating"]["list"][0];
        assert_eq!((&variable["name"], &variable["type"]), (&"datasource".into(), &"datasource".into()));
        assert!(dashboard.get("id").is_none(), "{path}: the id is the database's that it came from");
    }
    assert_clean(&wrong);
}

/// Whether the tests notice anything is seen by `.ci/rules`; here nobody forgets one.
#[test]
fn every_alert_has_a_test_of_its_name() {
    let rules = files::read("deploy/prometheus/ron-node.rules.yml");
    let name = |line: &str| line.trim().strip_prefix("- alert: ").map(str::to_owned);
    let alerts: BTreeSet<String> = rules.lines().filter_map(name).collect();
    assert!(alerts.len() >= 20, "{alerts:?}");
    let mut tested = BTreeSet::new();
    let is_test = |path: &&String| path.starts_with(TESTS) && !path.contains("/printed/");
    for path in files::all().iter().filter(is_test) {
        let text = files::read(path);
        tested.extend(text.lines().filter_map(|line| line.strip_prefix("  - name: ")).map(str::to_owned));
    }
    assert_eq!(tested, alerts);
}
