//! Counts against the ones that were accepted.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Instructions by bench.
pub(crate) type Counts = BTreeMap<String, u64>;

/// `benches/counts.toml`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Baseline {
    /// Compiler, target and what else decides counts; with others they say nothing.
    pub(crate) taken_with: String,
    /// How many percent more are let pass.
    pub(crate) tolerance_percent: u64,
    /// What was accepted.
    pub(crate) counts: Counts,
}

/// A bench, as it was and as it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding<'a> {
    bench: &'a str,
    was: Option<u64>,
    is: Option<u64>,
}

impl Finding<'_> {
    /// Whether a change may not pass like this: it has more instructions than are tolerated, or has nothing to be
    /// compared with.
    pub(crate) fn is_wrong(&self, tolerance_percent: u64) -> bool {
        match (self.was, self.is) {
            (Some(was), Some(is)) => is * 100 > was * (100 + tolerance_percent),
            _ => true,
        }
    }
}

impl fmt::Display for Finding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bench = self.bench;
        match (self.was, self.is) {
            (Some(was), Some(is)) => {
                let percent = (is as f64 / was.max(1) as f64 - 1.0) * 100.0;
                write!(f, "{bench:<41} was {was:>9}  is {is:>9}  {percent:>+7.1} %")
            }
            (None, Some(is)) => write!(f, "{bench:<41} was nothing    is {is:>9}  accept it"),
            (_, None) => write!(f, "{bench:<41} was accepted, and was not run"),
        }
    }
}

/// Every bench that was accepted or run, by name.
pub(crate) fn compare<'a>(accepted: &'a Counts, run: &'a Counts) -> Vec<Finding<'a>> {
    let mut all: BTreeMap<&str, Finding<'a>> = BTreeMap::new();
    for (bench, &was) in accepted {
        all.insert(bench, Finding { bench, was: Some(was), is: None });
    }
    for (bench, &is) in run {
        all.entry(bench).or_insert(Finding { bench, was: None, is: None }).is = Some(is);
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u64)]) -> Counts {
        of.iter().map(|(bench, count)| ((*bench).to_owned(), *count)).collect()
    }

    fn wrong(was: &[(&str, u64)], is: &[(&str, u64)]) -> Vec<String> {
        let (was, is) = (counts(was), counts(is));
        let found = compare(&was, &is);
        found.iter().filter(|finding| finding.is_wrong(5)).map(ToString::to_string).collect()
    }

    #[test]
    fn more_than_is_tolerated_is_wrong_and_less_is_not() {
        assert!(wrong(&[("a", 1000)], &[("a", 1050)]).is_empty());
        assert!(wrong(&[("a", 1000)], &[("a", 10)]).is_empty());
        let found = wrong(&[("a", 1000), ("b", 7)], &[("a", 1051), ("b", 7)]);
        assert_eq!(found.len(), 1);
        let words: Vec<&str> = found[0].split_whitespace().collect();
        assert_eq!(words, ["a", "was", "1000", "is", "1051", "+5.1", "%"]);
    }

    #[test]
    fn a_bench_that_is_only_on_one_side_is_wrong() {
        assert!(wrong(&[], &[("new", 9)])[0].contains("new"));
        assert!(wrong(&[("old", 9)], &[])[0].contains("not run"));
    }
}
