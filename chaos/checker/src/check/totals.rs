//! What is left at the end: I9 and I10.

use super::index::{Index, TryResult};
use super::{Findings, Invariant};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(index: &Index<'_>, findings: &mut Findings) {
    let keys = keys(index);
    for (&topic, figures) in &index.figures {
        let Some((op, depths)) = figures else {
            findings.add(Invariant::Liveness, [], format!("{topic}: the figures could not be read"));
            continue;
        };
        if (depths.ready, depths.delayed, depths.vis) != (0, 0, 0) {
            let text = format!(
                "{topic}: not drained, {} ready, {} delayed, {} in flight",
                depths.ready, depths.delayed, depths.vis
            );
            findings.add(Invariant::Liveness, [*op], text);
        }
        let Some(&(walk, entries)) = index.walked.get(topic) else {
            findings.add(Invariant::Liveness, [], format!("{topic}: the dead letters were not walked"));
            continue;
        };
        if u64::try_from(entries).ok() != Some(depths.dlq) {
            let text =
                format!("{topic}: the figures say {} dead letters, a walk finds {entries}", depths.dlq);
            findings.add(Invariant::Conservation, [*op, walk], text);
        }
        let (known, possible) = keys.get(topic).copied().unwrap_or_default();
        if !(known..=possible).contains(&depths.dedup_keys) {
            let held = depths.dedup_keys;
            let text = format!("{topic}: holds {held} keys, {known} are known and {possible} possible");
            findings.add(Invariant::Conservation, [*op], text);
        }
    }
}

/// How many keys of each topic surely and possibly exist. Only right while none has left its window, which
/// the drill's long window sees to.
fn keys<'a>(index: &Index<'a>) -> BTreeMap<&'a str, (u64, u64)> {
    let mut surely: BTreeSet<(&str, bool, &str)> = BTreeSet::new();
    let mut possibly = surely.clone();
    for story in index.sends.values() {
        for one in &story.tries {
            let Some(key) = &one.sent.key else { continue };
            let entry = (story.topic, one.api, key.as_str());
            match one.result {
                TryResult::Accepted { .. } => {
                    surely.insert(entry);
                    possibly.insert(entry);
                }
                TryResult::Unknown => {
                    possibly.insert(entry);
                }
                TryResult::Refused(_) | TryResult::NotSent => {}
            }
        }
    }
    let mut counts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (topic, ..) in surely {
        counts.entry(topic).or_default().0 += 1;
    }
    for (topic, ..) in possibly {
        counts.entry(topic).or_default().1 += 1;
    }
    counts
}
