//! Decisions about who is known are too many to be recorded one by one (a capability can send 500,000 messages a
//! second): the first is recorded at once, and the others as a count, once a minute while there are any.

use super::entry::{Decision, Entry, Kind};
use crate::capability::CapId;
use crate::ids::{Kid, Tenant, Topic};
use crate::time::Millis;

use std::collections::HashMap;
use std::hash::Hash;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// Whoever has this capability, made with this key.
    Cap(CapId, Kid),
    /// A process at the control socket.
    Local {
        /// Its user.
        uid: u32,
        /// Its number.
        pid: Option<i32>,
    },
}

/// Decisions that are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Usage {
    /// Who asks.
    pub who: Who,
    /// For what: the word of an op, or `open` for an OAP/1 connection's authority.
    pub op: &'static str,
    /// Of which tenant.
    pub tenant: Option<Tenant>,
    /// Of which topic.
    pub topic: Option<Topic>,
    /// What it gets: `None` = it, else the reason why not.
    pub refused: Option<&'static str>,
}

impl Usage {
    /// Its record.
    #[must_use]
    pub fn entry(&self, at: Millis) -> Entry {
        let decision = if self.refused.is_some() { Decision::Deny } else { Decision::Allow };
        let mut entry = Entry::new(at, Kind::Api, decision, self.refused.unwrap_or(super::OK));
        match &self.who {
            Who::Cap(cap_id, kid) => (entry.cap_id, entry.kid) = (Some(*cap_id), Some(kid.clone())),
            Who::Local { uid, pid } => (entry.more.uid, entry.more.pid) = (Some(*uid), *pid),
        }
        entry.tenant.clone_from(&self.tenant);
        entry.more.op = Some(self.op.into());
        entry.more.topic.clone_from(&self.topic);
        entry
    }

    /// Its record for `spent` more.
    #[must_use]
    pub fn counted(&self, at: Millis, spent: Spent) -> Entry {
        let mut entry = self.entry(at);
        (entry.more.count, entry.more.since) = (Some(spent.count), Some(spent.since));
        entry
    }
}

/// What was counted of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// How many.
    pub count: u64,
    /// When the first of them was, wall clock.
    pub since: Millis,
}

#[derive(Debug)]
struct Window {
    /// Node time.
    ends: Millis,
    spent: Option<Spent>,
}

/// Counts by key, over windows that begin with the first use. Holds at most `max` keys; uses of others are counted
/// together.
#[derive(Debug)]
pub struct Tally<K> {
    max: usize,
    window_ms: u64,
    windows: HashMap<K, Window>,
    others: Option<Spent>,
    others_since: Millis,
}

impl<K: Hash + Eq + Clone> Tally<K> {
    /// Room for `max` keys, with windows of `window_ms` of node time.
    #[must_use]
    pub fn new(max: usize, window_ms: u64) -> Tally<K> {
        Tally { max, window_ms, windows: HashMap::new(), others: None, others_since: Millis(0) }
    }

    /// `n` uses of `key` at `now` (node time), `wall`. Whether it is the first in a while: then one of them is to be
    /// recorded at once, and the others are counted.
    pub fn add(&mut self, key: &K, n: u64, now: Millis, wall: Millis) -> bool {
        let spend = |spent: &mut Option<Spent>, n: u64| {
            if n > 0 {
                spent.get_or_insert(Spent { count: 0, since: wall }).count += n;
            }
        };
        if let Some(window) = self.windows.get_mut(key) {
            spend(&mut window.spent, n);
            return false;
        }
        if self.windows.len() >= self.max {
            if self.others.is_none() {
                self.others_since = now;
            }
            spend(&mut self.others, n);
            return false;
        }
        let mut window = Window { ends: now.plus(self.window_ms), spent: None };
        spend(&mut window.spent, n.saturating_sub(1));
        self.windows.insert(key.clone(), window);
        true
    }

    /// What is to be recorded: the counts of windows that are over. A key that was not used in its last one is
    /// forgotten. `None` stands for all for which there was no room. With `all` every window is over.
    pub fn due(&mut self, now: Millis, all: bool) -> Vec<(Option<K>, Spent)> {
        let mut due = Vec::new();
        let window_ms = self.window_ms;
        self.windows.retain(|key, window| {
            if !all && now < window.ends {
                return true;
            }
            window.ends = now.plus(window_ms);
            let spent = window.spent.take();
            due.extend(spent.map(|spent| (Some(key.clone()), spent)));
            spent.is_some()
        });
        if all || now.since(self.others_since) >= self.window_ms {
            due.extend(self.others.take().map(|spent| (None, spent)));
        }
        due
    }
}
