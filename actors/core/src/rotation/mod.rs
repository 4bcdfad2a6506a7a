//! The rotation of a provider's secrets: what state each secret is in, and which changes of the list would lose
//! requests.
//!
//! ```text
//! a secret    pending → active → dual → cutover → retired
//! a rotation  pending → dual → cutover → retired
//! ```
//!
//! Whether a secret is accepted is decided by its [`Window`] in the configuration alone, on the wall clock; nothing
//! that was seen ever changes that. What was seen (when a secret was listed, when it last signed) decides which state
//! is shown, and which changes of the list are refused because requests under way would be lost.
//!
//! A request lives `ttl` at most: so long after it was signed it may still come. Whoever signs is given one `ttl` to
//! change to a new secret, and what was signed just before has another one to arrive: hence the overlap of 2 × `ttl`.

mod review;
#[cfg(test)]
mod tests;

pub use review::{Finding, Notice};

use crate::ids::Kid;
use crate::time::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// When a secret is accepted, wall clock; both ends belong to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Not before this moment. None: since ever.
    pub not_before: Option<Millis>,
    /// Not after this one. None: without an end.
    pub not_after: Option<Millis>,
}

impl Window {
    /// Accepted without an end.
    pub const ALWAYS: Window = Window { not_before: None, not_after: None };

    /// Whether a secret with this window is accepted at this moment.
    #[must_use]
    pub fn holds(&self, wall: Millis) -> bool {
        self.not_before.is_none_or(|start| start <= wall) && !self.is_over(wall)
    }

    /// Whether it will never be accepted again.
    #[must_use]
    pub fn is_over(&self, wall: Millis) -> bool {
        self.not_after.is_some_and(|end| end < wall)
    }
}

/// A secret as configured, without the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub kid: Kid,
    /// When it is accepted.
    pub window: Window,
}

/// What was seen of a secret, wall clock. This is what may outlive the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// When it was first listed. None: it was there already when the node began to watch this provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_listed: Option<Millis>,
    /// When it first signed a verified request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_match: Option<Millis>,
    /// When it last did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_match: Option<Millis>,
    /// When only its successor signed for a whole `ttl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutover: Option<Millis>,
}

impl Seen {
    /// Of a secret that is new now. It is newer than the others, also when the clock was set back since they were.
    fn new_after(others: impl Iterator<Item = Seen>, wall: Millis) -> Seen {
        let last = others.filter_map(|seen| seen.first_listed).max();
        let first_listed = last.map_or(wall, |last| wall.max(last.plus(1)));
        Seen { first_listed: Some(first_listed), ..Seen::default() }
    }
}

/// How far a secret is. A state is never followed by an earlier one, unless an operator changes the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Listed, but not accepted yet, or no request was signed by it yet.
    Pending,
    /// Signs, and nothing newer does.
    Active,
    /// Accepted beside a newer one that signs.
    Dual,
    /// Still accepted, but for a whole `ttl` only a newer one signed.
    Cutover,
    /// Not accepted any more.
    Retired,
}

impl State {
    /// Every state, in order.
    pub const ALL: [State; 5] = [State::Pending, State::Active, State::Dual, State::Cutover, State::Retired];

    /// The name as operators see it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Active => "active",
            State::Dual => "dual",
            State::Cutover => "cutover",
            State::Retired => "retired",
        }
    }

    /// The number that the metric has: 0 to 4.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// How far the change to the newest secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The newest one has not signed yet.
    Pending,
    /// It signs, and an older one may, too.
    Dual,
    /// It alone signs; an older one is still accepted.
    Cutover,
    /// No older one is accepted any more.
    Retired,
}

impl Phase {
    /// The name as operators see it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Phase::Pending => "pending",
            Phase::Dual => "dual",
            Phase::Cutover => "cutover",
            Phase::Retired => "retired",
        }
    }
}

/// A secret and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    /// As configured.
    pub listed: Listed,
    /// What was seen of it.
    pub seen: Seen,
    /// The furthest state that it reached.
    reached: State,
    /// The one that was told of last.
    told: State,
}

impl Tracked {
    fn new(listed: Listed, seen: Seen) -> Tracked {
        Tracked { listed, seen, reached: State::Pending, told: State::Pending }
    }

    /// The furthest state that it reached.
    #[must_use]
    pub const fn state(&self) -> State {
        self.reached
    }

    /// Since when this node could have accepted it; None if it cannot say.
    #[must_use]
    pub fn since(&self) -> Option<Millis> {
        self.seen.first_listed.max(self.listed.window.not_before)
    }

    /// Which of two is newer: the one listed later, else the one that ends later.
    fn age(&self) -> (Millis, Millis) {
        (self.since().unwrap_or_default(), self.listed.window.not_after.unwrap_or(Millis::NEVER))
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Rotation {
    secrets: Vec<Tracked>,
    ttl_ms: u64,
    watched_since: Millis,
}

impl Rotation {
    /// Begins to watch a provider's secrets. `remembered` is what an earlier life of the process saw of them, by KID;
    /// without it nobody knows since when any of them is listed.
    #[must_use]
    pub fn begin(
        list: Vec<Listed>,
        ttl_ms: u64,
        remembered: Option<&BTreeMap<String, Seen>>,
        wall: Millis,
    ) -> Rotation {
        let known = |listed: &Listed| remembered?.get(listed.kid.as_str()).copied();
        let new = Seen::new_after(list.iter().filter_map(known), wall);
        let seen = |listed: &Listed| match remembered {
            None => Seen::default(),
            Some(_) => known(listed).unwrap_or(new),
        };
        let tracked = |listed: Listed| {
            let seen = seen(&listed);
            Tracked::new(listed, seen)
        };
        let secrets = list.into_iter().map(tracked).collect();
        let mut rotation = Rotation { secrets, ttl_ms, watched_since: wall };
        rotation.tick(wall);
        // what was so before is no news
        rotation.changed();
        rotation
    }

    /// The secrets, in the configuration's order.
    #[must_use]
    pub fn secrets(&self) -> &[Tracked] {
        &self.secrets
    }

    /// How long after it was signed a request may still come, ms.
    #[must_use]
    pub const fn ttl_ms(&self) -> u64 {
        self.ttl_ms
    }

    /// How long an old secret must be accepted beside its successor, ms: 2 × `ttl`.
    #[must_use]
    pub const fn overlap_ms(&self) -> u64 {
        self.ttl_ms.saturating_mul(2)
    }

    /// A verified request was signed by this secret. One that is not listed (any more) is passed over.
    pub fn matched(&mut self, kid: &Kid, wall: Millis) {
        if let Some(secret) = self.secrets.iter_mut().find(|secret| secret.listed.kid == *kid) {
            let seen = &mut secret.seen;
            seen.first_match = Some(seen.first_match.unwrap_or(wall));
            seen.last_match = seen.last_match.max(Some(wall));
        }
    }

    /// The states that have changed since this was last asked.
    pub fn changed(&mut self) -> Vec<(Kid, State)> {
        let mut changed = Vec::new();
        for secret in self.secrets.iter_mut().filter(|secret| secret.told != secret.reached) {
            secret.told = secret.reached;
            changed.push((secret.listed.kid.clone(), secret.reached));
        }
        changed
    }

    /// Brings the states up to date.
    pub fn tick(&mut self, wall: Millis) {
        for at in 0..self.secrets.len() {
            let successors = self.signing_after(at, wall);
            let secret = &self.secrets[at];
            if secret.seen.cutover.is_none()
                && let Some(began) = successors
            {
                let quiet_since = secret.seen.last_match.unwrap_or_default().max(began);
                if wall >= quiet_since.plus(self.ttl_ms) {
                    self.secrets[at].seen.cutover = Some(wall);
                }
            }
            let secret = &mut self.secrets[at];
            let state = match (secret.seen.cutover, successors, secret.seen.first_match) {
                _ if secret.listed.window.is_over(wall) => State::Retired,
                _ if !secret.listed.window.holds(wall) => State::Pending,
                (Some(_), _, _) => State::Cutover,
                (None, Some(_), _) => State::Dual,
                (None, None, Some(_)) => State::Active,
                (None, None, None) => State::Pending,
            };
            secret.reached = secret.reached.max(state);
        }
    }

    /// Since when a newer secret than this one has signed, if one in force has.
    fn signing_after(&self, at: usize, wall: Millis) -> Option<Millis> {
        let age = self.secrets[at].age();
        let newer = self.secrets.iter().filter(|other| other.age() > age && other.listed.window.holds(wall));
        newer.filter_map(|other| other.seen.first_match).min()
    }

    /// The newest one, if it can be told.
    #[must_use]
    pub fn newest(&self) -> Option<&Tracked> {
        let newest = self.secrets.iter().max_by_key(|secret| secret.age())?;
        let tied = self.secrets.iter().filter(|secret| secret.age() == newest.age()).count();
        (tied == 1).then_some(newest)
    }

    /// How far the change to the newest secret is. None: only one is listed.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        if self.secrets.len() < 2 {
            return None;
        }
        let Some(newest) = self.newest() else { return Some(Phase::Dual) };
        let older = self.secrets.iter().filter(|secret| secret.listed.kid != newest.listed.kid);
        let least = older.map(Tracked::state).min().unwrap_or(State::Retired);
        Some(match (newest.state(), least) {
            (_, State::Retired) => Phase::Retired,
            (State::Pending, _) => Phase::Pending,
            (_, State::Cutover) => Phase::Cutover,
            (_, State::Pending | State::Active | State::Dual) => Phase::Dual,
        })
    }

    /// Puts another list in force. `replaced` are KIDs that stay while the secret behind them is another: they are as
    /// good as new. Whether it should be is [`Rotation::review`]'s to say.
    pub fn reload(&mut self, list: Vec<Listed>, replaced: &[Kid], ttl_ms: u64, wall: Millis) {
        let old = std::mem::take(&mut self.secrets);
        // a successor that is taken back has never been one
        let kept = |kid: &Kid| !replaced.contains(kid) && list.iter().any(|listed| listed.kid == *kid);
        let withdrawn = old.iter().filter(|secret| !kept(&secret.listed.kid));
        let youngest_withdrawn = withdrawn.map(Tracked::age).max();
        let new = Seen::new_after(old.iter().map(|secret| secret.seen), wall);
        self.secrets = list
            .iter()
            .map(|listed| {
                let known = old.iter().find(|secret| secret.listed.kid == listed.kid);
                let Some(known) = known.filter(|secret| kept(&secret.listed.kid)) else {
                    return Tracked::new(listed.clone(), new);
                };
                let mut secret = Tracked { listed: listed.clone(), ..known.clone() };
                let freed = youngest_withdrawn.is_some_and(|age| age > known.age());
                if freed {
                    secret.seen.cutover = None;
                }
                if freed || known.listed.window != listed.window {
                    secret.reached = State::Pending;
                }
                secret
            })
            .collect();
        self.ttl_ms = ttl_ms;
        self.tick(wall);
    }

    /// What is to be remembered.
    pub fn seen(&self) -> impl Iterator<Item = (&Kid, Seen)> {
        self.secrets.iter().map(|secret| (&secret.listed.kid, secret.seen))
    }
}
