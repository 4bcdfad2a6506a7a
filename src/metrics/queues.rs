//! The per-queue series, written at scrape from the mailbox's own figures. The exporter would keep the series
//! of a topic for ever, or lose cached handles to its idle timeout.

use std::fmt::Write;

/// The figures of one topic, or the sum of those that have no line of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueFigure {
    /// `<tenant>/<topic>`.
    pub queue: String,
    /// The shard's number.
    pub shard: u32,
    /// Can be received now.
    pub ready: u64,
    /// Not before their due time.
    pub delayed: u64,
    /// In flight.
    pub vis: u64,
    /// In the dead-letter queue.
    pub dlq: u64,
    /// Age of the oldest ready message, ms.
    pub oldest_age_ms: u64,
    /// Messages of the topics it subscribes to that it has not got yet.
    pub fanout_lag: u64,
    /// What happened since the node started.
    pub counters: QueueCounters,
}

/// Counters of one topic since the node started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Messages accepted, duplicates not counted.
    pub enqueued: u64,
    /// Messages handed out.
    pub delivered: u64,
    /// Messages acked.
    pub acked: u64,
    /// Messages ended by TTL or retention.
    pub expired: u64,
    /// Leases whose deadline passed.
    pub visibility_timeouts: u64,
    /// Back to ready because the deadline passed.
    pub requeued_visibility: u64,
    /// Back to ready by nack `release`.
    pub requeued_nack: u64,
    /// Back by nack `fail`.
    pub requeued_retry: u64,
    /// Dead-lettered.
    pub dlq_writes: u64,
    /// Brought back from the dead-letter queue.
    pub reprocessed: u64,
}

impl QueueFigure {
    fn add(&mut self, other: &QueueFigure) {
        self.ready += other.ready;
        self.delayed += other.delayed;
        self.vis += other.vis;
        self.dlq += other.dlq;
        self.fanout_lag += other.fanout_lag;
        self.oldest_age_ms = self.oldest_age_ms.max(other.oldest_age_ms);
        let (sum, more) = (&mut self.counters, &other.counters);
        sum.enqueued += more.enqueued;
        sum.delivered += more.delivered;
        sum.acked += more.acked;
        sum.expired += more.expired;
        sum.visibility_timeouts += more.visibility_timeouts;
        sum.requeued_visibility += more.requeued_visibility;
        sum.requeued_nack += more.requeued_nack;
        sum.requeued_retry += more.requeued_retry;
        sum.dlq_writes += more.dlq_writes;
        sum.reprocessed += more.reprocessed;
    }
}

/// Who knows the figures: the mailbox's directory.
pub trait QueueFigures: Send + Sync {
    /// The figures of every topic that exists now.
    fn queues(&self) -> Vec<QueueFigure>;
}

/// A node without topics.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoQueues;

impl QueueFigures for NoQueues {
    fn queues(&self) -> Vec<QueueFigure> {
        Vec::new()
    }
}

/// Where the topics beyond the limit are counted. No topic can have this name: it has no `/`.
const REST: &str = "other";

type Read = fn(&QueueFigure) -> u64;

/// The counters with one series a queue.
const COUNTERS: [(&str, &str, Read); 7] = [
    ("enqueued_total", "Messages accepted, duplicates not counted.", |q| q.counters.enqueued),
    ("delivered_total", "Messages handed out.", |q| q.counters.delivered),
    ("acked_total", "Messages acked.", |q| q.counters.acked),
    ("expired_total", "Messages ended by their TTL or retention.", |q| q.counters.expired),
    ("visibility_timeouts_total", "Leases whose deadline passed.", |q| q.counters.visibility_timeouts),
    ("dlq_writes_total", "Messages moved to the dead-letter queue.", |q| q.counters.dlq_writes),
    ("reprocessed_total", "Dead letters that were made ready again.", |q| q.counters.reprocessed),
];

const REQUEUED: [(&str, Read); 3] = [
    ("visibility", |q| q.counters.requeued_visibility),
    ("nack", |q| q.counters.requeued_nack),
    ("retry", |q| q.counters.requeued_retry),
];

const DEPTHS: [(&str, Read); 4] =
    [("ready", |q| q.ready), ("vis", |q| q.vis), ("dlq", |q| q.dlq), ("delayed", |q| q.delayed)];

/// Writes the series of `queues`, the first `queues_max` by shard number one by one, the others summed under
/// `other`. `other` is always there, so that what an alert divides by exists from the start.
pub fn write_queues(out: &mut String, mut queues: Vec<QueueFigure>, queues_max: usize) {
    queues.sort_by(|a, b| a.shard.cmp(&b.shard).then_with(|| a.queue.cmp(&b.queue)));
    let mut rest = QueueFigure { queue: REST.to_owned(), ..QueueFigure::default() };
    for folded in queues.iter().skip(queues_max) {
        rest.add(folded);
    }
    queues.truncate(queues_max);
    for queue in &mut queues {
        queue.queue = escape_label(&queue.queue);
    }
    let shard = |q: &QueueFigure| if q.queue == REST { REST.to_owned() } else { q.shard.to_string() };
    let all: Vec<(String, &QueueFigure)> =
        queues.iter().chain(std::iter::once(&rest)).map(|q| (shard(q), q)).collect();

    for (name, help, read) in COUNTERS {
        head(out, name, help, "counter");
        for (_, q) in &all {
            line(out, format_args!("{name}{{queue=\"{}\"}} {}", q.queue, read(q)));
        }
    }
    head(out, "requeued_total", "Messages that became ready again, by the reason.", "counter");
    for (_, q) in &all {
        for (reason, read) in REQUEUED {
            line(
                out,
                format_args!("requeued_total{{queue=\"{}\",reason=\"{reason}\"}} {}", q.queue, read(q)),
            );
        }
    }
    head(out, "queue_depth", "Messages of a queue, by the state they are in.", "gauge");
    for (shard, q) in &all {
        for (kind, read) in DEPTHS {
            let queue = &q.queue;
            line(
                out,
                format_args!(
                    "queue_depth{{queue=\"{queue}\",shard=\"{shard}\",kind=\"{kind}\"}} {}",
                    read(q)
                ),
            );
        }
    }
    head(out, "dlq_depth", "Messages in the dead-letter queue.", "gauge");
    for (_, q) in &all {
        line(out, format_args!("dlq_depth{{queue=\"{}\"}} {}", q.queue, q.dlq));
    }
    head(out, "fanout_lag", "Messages that a subscriber has not got yet.", "gauge");
    for (_, q) in &all {
        line(out, format_args!("fanout_lag{{queue=\"{}\"}} {}", q.queue, q.fanout_lag));
    }
    head(out, "oldest_age_seconds", "Age of the oldest message that can be received.", "gauge");
    for (_, q) in &all {
        let (seconds, ms) = (q.oldest_age_ms / 1000, q.oldest_age_ms % 1000);
        line(out, format_args!("oldest_age_seconds{{queue=\"{}\"}} {seconds}.{ms:03}", q.queue));
    }
}

/// `# HELP` and `# TYPE` of a family, in the text format 0.0.4.
pub(super) fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    line(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
}

pub(super) fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // writing to a String cannot fail
    let _ = out.write_fmt(text);
    out.push('\n');
}

/// A label value as the text format wants it: backslash, quote and newline escaped.
#[must_use]
pub fn escape_label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(shard: u32, queue: &str) -> QueueFigure {
        QueueFigure {
            queue: queue.to_owned(),
            shard,
            ready: 2,
            vis: 1,
            dlq: 3,
            oldest_age_ms: 1_205,
            fanout_lag: 9,
            counters: QueueCounters { enqueued: 10, requeued_retry: 4, ..QueueCounters::default() },
            ..QueueFigure::default()
        }
    }

    #[test]
    fn one_line_a_queue_and_the_rest_under_other() {
        let mut out = String::new();
        write_queues(&mut out, vec![figure(3, "b/z"), figure(1, "a/x"), figure(2, "a/y")], 1);
        let has = |line: &str| assert!(out.lines().any(|l| l == line), "{line} is missing in\n{out}");
        has("enqueued_total{queue=\"a/x\"} 10");
        has("enqueued_total{queue=\"other\"} 20");
        has("queue_depth{queue=\"a/x\",shard=\"1\",kind=\"ready\"} 2");
        has("queue_depth{queue=\"other\",shard=\"other\",kind=\"dlq\"} 6");
        has("requeued_total{queue=\"other\",reason=\"retry\"} 8");
        has("oldest_age_seconds{queue=\"a/x\"} 1.205");
        has("dlq_depth{queue=\"a/x\"} 3");
        has("fanout_lag{queue=\"a/x\"} 9");
        has("fanout_lag{queue=\"other\"} 18");
        assert!(!out.contains("b/z"));
    }

    #[test]
    fn what_alerts_divide_by_exists_without_topics() {
        let mut out = String::new();
        write_queues(&mut out, Vec::new(), 1000);
        assert!(out.contains("requeued_total{queue=\"other\",reason=\"visibility\"} 0\n"));
        assert!(out.contains("dlq_writes_total{queue=\"other\"} 0\n"));
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escape_label("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }
}
