//! What `ronctl top` shows, drawn from two readings of the node. Draws on whatever it is given.

use super::scrape::Scrape;
use crate::output::printable;
use crate::status::{Status, uptime};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Row, Table};

/// Two readings, and what the node says of itself.
#[derive(Debug)]
pub(super) struct View {
    /// As `ronctl status` has it.
    pub(super) status: Status,
    /// The earlier reading.
    pub(super) before: Scrape,
    /// The later one.
    pub(super) now: Scrape,
    /// Between the two, s.
    pub(super) seconds: f64,
}

/// One topic's line.
struct Topic {
    name: String,
    /// Ready, in flight, delayed, dead.
    depths: [f64; 4],
    oldest_s: f64,
    /// Sent, delivered, acked, a second.
    rates: [f64; 3],
}

impl View {
    /// Draws it on all of `frame`: as many topics as there is room for, the fullest first.
    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let notes = self.notes();
        let heights = [Constraint::Length(3), Constraint::Length(notes.len() as u16), Constraint::Min(0)];
        let [head, below, table] = Layout::vertical(heights).areas(frame.area());
        frame.render_widget(Paragraph::new(vec![self.node(), self.traffic(), self.pace()]), head);
        frame.render_widget(Paragraph::new(notes), below);
        let header = Row::new(
            ["TOPIC", "READY", "IN FLIGHT", "DELAYED", "DEAD", "OLDEST", "SENT/S", "TAKEN/S", "ACKED/S"]
                .map(str::to_owned),
        );
        let widths = [Constraint::Min(16)].into_iter().chain([Constraint::Length(10); 8]);
        let rows: Vec<Row<'_>> = self.topics().iter().map(Topic::row).collect();
        frame.render_widget(Table::new(rows, widths).header(header.bold()), table);
    }

    fn node(&self) -> Line<'_> {
        let Status { version, profile, pid, uptime_ms, ready, .. } = &self.status;
        let state = if *ready { "ready".green() } else { "not ready".red().bold() };
        let rest = format!("  {profile}  up {}  pid {pid}  q quits", uptime(*uptime_ms));
        Line::from(vec![Span::raw(format!("ron-node {version}  ")), state, Span::raw(rest)])
    }

    fn traffic(&self) -> Line<'_> {
        let rate = |name| self.now.rate(&self.before, self.seconds, name, &[]);
        let shown = [
            ("sent", "enqueued_total"),
            ("taken", "delivered_total"),
            ("acked", "acked_total"),
            ("dead", "dlq_writes_total"),
            ("timed out", "visibility_timeouts_total"),
            ("refused", "rejected_total"),
        ];
        let shown = shown.map(|(what, name)| format!("{what} {:.1}/s", rate(name)));
        Line::from(shown.join("  "))
    }

    fn pace(&self) -> Line<'_> {
        let quantiles = |name| {
            let at = |share| self.now.quantile(&self.before, name, share).map(|s| s * 1e3);
            match (at(0.5), at(0.99)) {
                (Some(p50), Some(p99)) => format!("p50 ≤{p50} p99 ≤{p99} ms"),
                (Some(p50), None) => format!("p50 ≤{p50} ms"),
                (None, _) => "-".to_owned(),
            }
        };
        let mib = |name| self.now.sum(name, &[]) / f64::from(1 << 20);
        Line::from(format!(
            "commit {}  to delivery {}  memory {:.0} MiB  disk free {:.0} MiB",
            quantiles("store_commit_seconds"),
            quantiles("enqueue_to_delivery_seconds"),
            mib("process_resident_memory_bytes"),
            mib("store_free_bytes")
        ))
    }

    /// What an operator should see at once.
    fn notes(&self) -> Vec<Line<'_>> {
        let Status { missing, warn, quarantined, .. } = &self.status;
        let mut notes = Vec::new();
        if !missing.is_empty() {
            notes.push(format!("missing: {}", missing.join(", ")));
        }
        if !quarantined.is_empty() {
            notes.push(format!("{} in quarantine: ronctl quarantine list", quarantined.len()));
        }
        notes.extend(warn.iter().map(|warning| printable(warning)));
        notes.into_iter().map(|note| Line::styled(note, Style::new().fg(Color::Red))).collect()
    }

    fn topics(&self) -> Vec<Topic> {
        let names = self.now.values("queue_depth", "queue").into_iter();
        let mut topics: Vec<Topic> = names.map(|name| self.topic(name)).collect();
        let full = |topic: &Topic| topic.depths.iter().sum::<f64>();
        topics
            .sort_by(|one, other| full(other).total_cmp(&full(one)).then_with(|| one.name.cmp(&other.name)));
        topics
    }

    fn topic(&self, name: String) -> Topic {
        let depth = |kind| self.now.sum("queue_depth", &[("queue", &name), ("kind", kind)]);
        let rate = |counter| self.now.rate(&self.before, self.seconds, counter, &[("queue", &name)]);
        Topic {
            depths: ["ready", "vis", "delayed", "dlq"].map(depth),
            oldest_s: self.now.sum("oldest_age_seconds", &[("queue", &name)]),
            rates: ["enqueued_total", "delivered_total", "acked_total"].map(rate),
            name,
        }
    }
}

impl Topic {
    fn row(&self) -> Row<'static> {
        let oldest = if self.oldest_s > 0.0 { uptime((self.oldest_s * 1e3) as u64) } else { "-".to_owned() };
        let depths = self.depths.iter().map(|depth| format!("{depth:.0}"));
        let rates = self.rates.iter().map(|rate| format!("{rate:.1}"));
        Row::new([printable(&self.name)].into_iter().chain(depths).chain([oldest]).chain(rates))
    }
}
