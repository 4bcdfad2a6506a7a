//! One reading of a node's metrics, and what two of them say together. Pure.

use std::collections::BTreeMap;

/// Labels of a series, by name.
type Labels = BTreeMap<String, String>;

/// What `/metrics` said at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Scrape {
    series: BTreeMap<String, Vec<(Labels, f64)>>,
}

impl Scrape {
    /// Reads an exposition text. What is no sample is passed over.
    pub(super) fn read(text: &str) -> Scrape {
        let mut scrape = Scrape::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse() else { continue };
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            scrape.series.entry(name.to_owned()).or_default().push((labels_of(labels), value));
        }
        scrape
    }

    fn of(&self, name: &str) -> &[(Labels, f64)] {
        self.series.get(name).map_or(&[], Vec::as_slice)
    }

    /// The sum of the series of `name` whose labels have all of `with`.
    pub(super) fn sum(&self, name: &str, with: &[(&str, &str)]) -> f64 {
        let fits = |labels: &Labels| {
            with.iter().all(|(label, value)| labels.get(*label).is_some_and(|has| has == value))
        };
        self.of(name).iter().filter(|(labels, _)| fits(labels)).map(|(_, value)| value).sum()
    }

    /// The values of a label of `name`, in order.
    pub(super) fn values(&self, name: &str, label: &str) -> Vec<String> {
        let mut all: Vec<String> =
            self.of(name).iter().filter_map(|(labels, _)| labels.get(label).cloned()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// How much a counter grew a second since `before`; a restarted node's counters begin anew.
    pub(super) fn rate(&self, before: &Scrape, seconds: f64, name: &str, with: &[(&str, &str)]) -> f64 {
        (self.sum(name, with) - before.sum(name, with)).max(0.0) / seconds.max(0.001)
    }

    /// The bound below which `share` of what a histogram took since `before` lies; `None` if that was nothing, or
    /// lies beyond the last bound.
    pub(super) fn quantile(&self, before: &Scrape, name: &str, share: f64) -> Option<f64> {
        let name = format!("{name}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for bound in self.values(&name, "le") {
            let with = [("le", bound.as_str())];
            let count = self.sum(&name, &with) - before.sum(&name, &with);
            buckets.push((bound.parse().unwrap_or(f64::INFINITY), count));
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        let (bound, _) = buckets.into_iter().find(|(_, count)| *count >= all * share)?;
        bound.is_finite().then_some(bound)
    }
}

/// `a="x",b="y"}`; the node's label values hold no quotes.
fn labels_of(text: &str) -> Labels {
    let pairs = text.trim_end_matches('}').split("\",");
    let pairs = pairs.filter_map(|pair| pair.split_once("=\""));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# TYPE acked_total counter\n\
        acked_total{queue=\"acme/a\"} 10\nacked_total{queue=\"acme/b\"} 5\n\
        commit_seconds_bucket{le=\"0.001\"} 0\ncommit_seconds_bucket{le=\"0.01\"} 50\n\
        commit_seconds_bucket{le=\"+Inf\"} 50\nfree 7\nnonsense\n";
    const AFTER: &str = "acked_total{queue=\"acme/a\"} 30\nacked_total{queue=\"acme/b\"} 1\n\
        commit_seconds_bucket{le=\"0.001\"} 90\ncommit_seconds_bucket{le=\"0.01\"} 149\n\
        commit_seconds_bucket{le=\"+Inf\"} 150\nfree 8\n";

    #[test]
    fn rates_and_quantiles_are_of_the_time_between_two_readings() {
        let (before, after) = (Scrape::read(BEFORE), Scrape::read(AFTER));
        let rate = |queue| after.rate(&before, 2.0, "acked_total", &[("queue", queue)]);
        assert_eq!((rate("acme/a"), rate("acme/b"), rate("acme/c")), (10.0, 0.0, 0.0));
        assert_eq!(after.sum("free", &[]), 8.0);
        assert_eq!(after.values("acked_total", "queue"), ["acme/a", "acme/b"]);
        let quantile = |share| after.quantile(&before, "commit_seconds", share);
        assert_eq!((quantile(0.5), quantile(0.95), quantile(1.0)), (Some(0.001), Some(0.01), None));
        assert_eq!(after.quantile(&after, "commit_seconds", 0.5), None, "nothing happened");
        assert_eq!(after.quantile(&before, "unknown", 0.5), None);
    }
}
