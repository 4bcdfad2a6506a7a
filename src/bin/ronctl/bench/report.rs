//! What the runs of a benchmark say: figures for people and programs, medians, and whether they count at all.

use super::load::{Load, Tally, Work};
use super::memory::Memory;
use super::site::Spent;
use crate::failure::{Failure, failed};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Latencies of one step, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Latency {
    step: &'static str,
    p50_ms: f64,
    p90_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

impl Latency {
    fn of(step: &'static str, histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Latency {
            step,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1e3,
        }
    }

    fn text(&self) -> String {
        let Latency { p50_ms, p90_ms, p95_ms, p99_ms, p999_ms, max_ms, .. } = self;
        format!(
            "p50 {p50_ms:.2}  p90 {p90_ms:.2}  p95 {p95_ms:.2}  p99 {p99_ms:.2}  p99.9 {p999_ms:.2}  max {max_ms:.2} ms"
        )
    }
}

/// The figures of one run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Run {
    what: &'static str,
    connections: usize,
    outstanding: usize,
    topics: usize,
    size: usize,
    seconds: f64,
    done: u64,
    rate_per_s: f64,
    /// The schedule of an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    offered_per_s: Option<u32>,
    /// What every counted send's answer said; nothing for work that stores nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<&'static str>,
    latency: Vec<Latency>,
    /// Commits of the store in the counted time, each fsynced before anything in it was answered.
    commits: Option<u64>,
    commits_per_s: Option<f64>,
    /// Bytes that the server had written to files, for each operation.
    written_per_op: Option<f64>,
    /// Bytes by which its log grew, for each operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_per_op: Option<f64>,
    /// The server's memory meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    /// How much of one processor the load generator took.
    generator_cpu: f64,
    errors: BTreeMap<String, u64>,
}

impl Run {
    /// The figures of a finished run.
    #[must_use]
    pub(super) fn new(work: Work, load: &Load, tally: Tally, spent: Spent) -> Run {
        let seconds = load.duration.as_secs_f64();
        let commits = spent.commits.map(|(commits, _)| commits);
        let each = |bytes: Option<u64>| {
            bytes.filter(|_| tally.done > 0).map(|bytes| bytes as f64 / tally.done as f64)
        };
        Run {
            what: work.name(),
            connections: load.connections,
            outstanding: load.outstanding,
            topics: load.topics,
            size: load.size,
            seconds,
            done: tally.done,
            rate_per_s: tally.ended.unwrap_or(tally.done) as f64 / seconds,
            offered_per_s: None,
            durability: matches!(work, Work::Enqueue | Work::Cycle).then_some("fsync"),
            latency: tally.steps.iter().map(|(step, histogram)| Latency::of(step, histogram)).collect(),
            commits,
            commits_per_s: commits.map(|commits| commits as f64 / seconds),
            written_per_op: each(spent.written),
            log_per_op: each(spent.log),
            memory: spent.memory,
            generator_cpu: tally.own_cpu.as_secs_f64() / (load.warmup + load.duration).as_secs_f64(),
            errors: tally.errors,
        }
    }

    /// The same, of an open loop.
    #[must_use]
    pub(super) fn paced(self, rate: u32) -> Run {
        Run { offered_per_s: Some(rate), ..self }
    }

    /// The same, of a server whose answers do not say how safe a message is.
    #[must_use]
    pub(super) fn of_peer(self) -> Run {
        Run { durability: None, ..self }
    }

    /// The run for a person.
    #[must_use]
    pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
        let Run { connections, outstanding, topics, size, seconds, done, .. } = self;
        let each = match self.offered_per_s {
            Some(rate) => format!(", {rate}/s on a schedule"),
            None => format!(" × {outstanding} outstanding"),
        };
        let load = format!("{connections} connections{each}, {topics} topic(s), {size} bytes, {seconds} s");
        let said = self
            .durability
            .filter(|_| *done > 0)
            .map(|word| format!(", every send answered `{word}`"))
            .unwrap_or_default();
        let mut pairs =
            vec![(self.what, load), ("rate", format!("{:.0}/s ({done} done{said})", self.rate_per_s))];
        pairs.extend(self.latency.iter().map(|latency| (latency.step, latency.text())));
        pairs.push(("commits", self.commits_text()));
        pairs.push(("written", self.written_text()));
        pairs.extend(self.memory.map(|memory| ("memory", memory.text())));
        pairs.push(("load", format!("took {:.0} % of one processor", self.generator_cpu * 100.0)));
        pairs.push(("errors", self.errors_text()));
        pairs
    }

    /// The median of the whole operation, ms.
    #[must_use]
    pub(super) fn p50_ms(&self) -> Option<f64> {
        self.latency.last().map(|latency| latency.p50_ms)
    }

    /// Whether the run counts: some work done, nothing refused or lost.
    ///
    /// # Errors
    /// [`Failure::Failed`] that says what was wrong.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match (self.done, self.errors.is_empty()) {
            (0, _) => Err(failed(format!(
                "nothing was done by {}: {}{}",
                self.what,
                self.errors_text(),
                self.hint()
            ))),
            (_, false) => Err(failed(format!("some operations do not count: {}", self.errors_text()))),
            (_, true) => Ok(()),
        }
    }

    /// Why a node may lack the routes that are compared with.
    fn hint(&self) -> &'static str {
        if self.durability.is_none() && self.errors.contains_key("NOT_FOUND") {
            "\n  a node serves /bench/… only with `chaos.enabled = true`; --spawn starts such a one"
        } else {
            ""
        }
    }

    fn commits_text(&self) -> String {
        match (self.commits, self.commits_per_s) {
            (Some(commits), Some(rate)) if commits > 0 => {
                let each = self.done as f64 / commits as f64;
                format!("{rate:.0}/s, each fsynced ({each:.1} operations a commit)")
            }
            (Some(_), _) => "none".to_owned(),
            (None, _) => "not known (no admin address)".to_owned(),
        }
    }

    /// Bytes written for each operation.
    pub(super) fn written_text(&self) -> String {
        let log = self.log_per_op.map(|bytes| format!(", its log grew by {bytes:.0}")).unwrap_or_default();
        match self.written_per_op {
            Some(bytes) => format!("{bytes:.0} bytes an operation{log}"),
            None => format!("not known (no process to look at){log}"),
        }
    }

    fn errors_text(&self) -> String {
        if self.errors.is_empty() {
            return "none".to_owned();
        }
        self.errors.iter().map(|(reason, n)| format!("{reason} {n}")).collect::<Vec<_>>().join(", ")
    }
}

/// Interleaved runs of several kinds; one kind is compared with each of the others.
#[derive(Debug)]
pub(super) struct Comparison {
    subject: String,
    kinds: Vec<(String, Vec<Run>)>,
}

impl Comparison {
    /// A comparison of `subject` with whatever else is added.
    #[must_use]
    pub(super) fn new(subject: &str) -> Comparison {
        Comparison { subject: subject.to_owned(), kinds: Vec::new() }
    }

    /// Adds a run of `kind`.
    ///
    /// # Errors
    /// If the run did nothing: then all that would follow is in vain.
    pub(super) fn add(&mut self, kind: &str, run: Run) -> Result<(), Failure> {
        if run.done == 0 {
            return run.verdict();
        }
        match self.kinds.iter_mut().find(|(name, _)| name == kind) {
            Some((_, runs)) => runs.push(run),
            None => self.kinds.push((kind.to_owned(), vec![run])),
        }
        Ok(())
    }

    /// Every run's rate and 99th percentile, a row a round.
    #[must_use]
    pub(super) fn table(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let columns = |(kind, _): &(String, Vec<Run>)| [format!("{kind}/s"), "p99 ms".to_owned()];
        let header = std::iter::once("run".to_owned()).chain(self.kinds.iter().flat_map(columns)).collect();
        let rounds = self.kinds.iter().map(|(_, runs)| runs.len()).max().unwrap_or(0);
        let cells = |round: usize, runs: &[Run]| match runs.get(round) {
            Some(run) => [format!("{:.0}", run.rate_per_s), format!("{:.2}", p99(run))],
            None => [String::new(), String::new()],
        };
        let row = |round: usize| {
            let cells = self.kinds.iter().flat_map(|(_, runs)| cells(round, runs));
            std::iter::once((round + 1).to_string()).chain(cells).collect()
        };
        (header, (0..rounds).map(row).collect())
    }

    /// Medians and ratios, a line each.
    #[must_use]
    pub(super) fn summary(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (kind, runs) in &self.kinds {
            let commits = median(runs.iter().filter_map(|run| run.commits_per_s));
            let commits =
                commits.filter(|&rate| rate > 0.0).map(|rate| format!(", {rate:.0} commits/s, each fsynced"));
            let rate = rate_of(runs).unwrap_or(0.0);
            let per_op = |bytes: fn(&Run) -> Option<f64>| median(runs.iter().filter_map(bytes));
            let written = per_op(|run| run.written_per_op);
            let written = written.map(|bytes| format!(", {bytes:.0} bytes written an operation"));
            let log = per_op(|run| run.log_per_op).map(|bytes| format!(", its log grew by {bytes:.0}"));
            let peak =
                runs.iter().filter_map(|run| run.memory).map(|memory| memory.peak_mib).max_by(f64::total_cmp);
            let peak = peak.map(|mib| format!(", {mib:.0} MiB in memory at most"));
            let more = [commits, written, log, peak].into_iter().flatten().collect::<String>();
            lines.push(format!("{kind}: median {rate:.0}/s{more}"));
        }
        for (kind, ratio) in self.ratios() {
            lines.push(format!("{} = {:.1} % of {kind}", self.subject, ratio * 100.0));
        }
        lines
    }

    /// All of it for programs.
    #[must_use]
    pub(super) fn to_json(&self) -> Value {
        let medians: BTreeMap<&str, Option<f64>> =
            self.kinds.iter().map(|(kind, runs)| (kind.as_str(), rate_of(runs))).collect();
        let ratios: BTreeMap<&str, f64> = self.ratios().collect();
        let runs: BTreeMap<&str, &Vec<Run>> =
            self.kinds.iter().map(|(kind, runs)| (kind.as_str(), runs)).collect();
        json!({ "subject": self.subject, "median_per_s": medians, "ratio_to": ratios, "runs": runs })
    }

    /// Whether every run counts.
    ///
    /// # Errors
    /// As [`Run::verdict`], for the first that does not.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        self.kinds.iter().flat_map(|(_, runs)| runs).try_for_each(Run::verdict)
    }

    /// The subject's median rate over each other kind's.
    fn ratios(&self) -> impl Iterator<Item = (&str, f64)> {
        let subject = self.kinds.iter().find(|(kind, _)| *kind == self.subject);
        let subject = subject.and_then(|(_, runs)| rate_of(runs));
        self.kinds.iter().filter(|(kind, _)| *kind != self.subject).filter_map(move |(kind, runs)| {
            let other = rate_of(runs).filter(|&rate| rate > 0.0)?;
            Some((kind.as_str(), subject? / other))
        })
    }
}

fn p99(run: &Run) -> f64 {
    run.latency.last().map_or(0.0, |latency| latency.p99_ms)
}

fn rate_of(runs: &[Run]) -> Option<f64> {
    median(runs.iter().map(|run| run.rate_per_s))
}

/// The middle value; the mean of the middle two of an even number.
#[must_use]
pub(super) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// The sum of a counter's series in a Prometheus exposition; 0 if it has none yet.
#[must_use]
pub(super) fn counter(exposition: &str, name: &str) -> f64 {
    let series = exposition.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
    });
    let values = series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(what: &'static str, rate: f64) -> Run {
        Run {
            what,
            connections: 64,
            outstanding: 1,
            topics: 1,
            size: 256,
            seconds: 10.0,
            done: 1,
            rate_per_s: rate,
            offered_per_s: None,
            durability: None,
            latency: Vec::new(),
            commits: None,
            commits_per_s: None,
            written_per_op: None,
            log_per_op: None,
            memory: None,
            generator_cpu: 0.0,
            errors: BTreeMap::new(),
        }
    }

    #[test]
    fn ratios_are_of_medians() {
        let mut comparison = Comparison::new("enqueue");
        for (enqueue, empty) in [(50.0, 100.0), (10.0, 1000.0), (40.0, 80.0)] {
            comparison.add("enqueue", run("enqueue", enqueue)).unwrap();
            comparison.add("empty", run("empty", empty)).unwrap();
        }
        assert_eq!(comparison.summary().last().unwrap(), "enqueue = 40.0 % of empty");
        let (header, rows) = comparison.table();
        assert_eq!(header, ["run", "enqueue/s", "p99 ms", "empty/s", "p99 ms"]);
        assert_eq!(rows[1], ["2", "10", "0.00", "1000", "0.00"]);
        assert_eq!(comparison.to_json()["ratio_to"]["empty"], 0.4);
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), Some(2.5));
        assert_eq!(median([7.0].into_iter()), Some(7.0));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn a_run_with_errors_or_without_work_does_not_count() {
        let mut bad = run("enqueue", 1.0);
        assert!(bad.verdict().is_ok());
        bad.errors.insert("NOT_DURABLE (ram)".to_owned(), 3);
        assert!(bad.verdict().unwrap_err().to_string().contains("NOT_DURABLE (ram) 3"));
        let mut idle = run("enqueue", 0.0);
        idle.done = 0;
        assert!(idle.verdict().is_err());
        let mut without_routes = run("empty", 0.0);
        without_routes.done = 0;
        without_routes.errors.insert("NOT_FOUND".to_owned(), 3);
        let error = Comparison::new("enqueue").add("empty", without_routes).unwrap_err();
        assert!(error.to_string().contains("--spawn"), "{error}");
    }

    #[test]
    fn counters_are_summed_over_their_series() {
        let text = "# TYPE x_count counter\nx_count 3\nx_count{a=\"b c\"} 4\nx_count_more 100\n";
        assert_eq!(counter(text, "x_count"), 7.0);
        assert_eq!(counter(text, "y"), 0.0);
    }
}
