//! Which changes of a list of secrets lose requests, and what operators should know of the one in force.

use super::{Listed, Rotation, State, Tracked, Window};
use crate::ids::Kid;
use crate::time::Millis;

/// How long ahead the end of a secret is told of, ms.
const AHEAD_MS: u64 = 14 * 86_400_000;

/// Why a change of the list is not to be put in force: requests would be refused that were signed in good faith.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The secret that it is about, if it is about one.
    pub kid: Option<Kid>,
    /// What would be lost, and what to do instead.
    pub text: String,
}

/// Something about the list in force that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether requests are refused for it, or soon will be.
    pub urgent: bool,
    /// What it is and what to do.
    pub text: String,
}

impl Rotation {
    /// What would be lost if `new` took the place of the list in force. `replaced` as for [`Rotation::reload`]. Nothing
    /// that is as it was is found again, so a change of something else is never held up.
    #[must_use]
    pub fn review(&self, new: &[Listed], replaced: &[Kid], ttl_ms: u64, wall: Millis) -> Vec<Finding> {
        let mut findings = Vec::new();
        let accepted = |list: &[Listed]| list.iter().any(|listed| listed.window.holds(wall));
        let old: Vec<Listed> = self.secrets.iter().map(|secret| secret.listed.clone()).collect();
        if accepted(&old) && !accepted(new) {
            let text = "no secret would be accepted: every request would be refused".to_owned();
            return vec![Finding { kid: None, text }];
        }
        if let Some((from, to)) = gap(new, wall).filter(|_| gap(&old, wall).is_none()) {
            let text = format!(
                "no secret would be accepted from {} to {}: let the windows overlap",
                from.rfc3339(),
                to.rfc3339()
            );
            findings.push(Finding { kid: None, text });
        }
        for secret in self.secrets.iter().filter(|secret| secret.listed.window.holds(wall)) {
            let kid = &secret.listed.kid;
            let kept = new.iter().find(|listed| listed.kid == *kid).filter(|_| !replaced.contains(kid));
            if let Some(end) = shortened(secret.listed.window, kept.map(|listed| listed.window), wall)
                && let Some(text) = self.too_soon(secret, kept.is_some(), end, new, replaced, ttl_ms, wall)
            {
                findings.push(Finding { kid: Some(kid.clone()), text });
            }
        }
        findings
    }

    /// Why a secret may not end at `end`, if it may not.
    #[allow(clippy::too_many_arguments)] // one list in force, one that comes
    fn too_soon(
        &self,
        secret: &Tracked,
        stays: bool,
        end: Millis,
        new: &[Listed],
        replaced: &[Kid],
        ttl_ms: u64,
        wall: Millis,
    ) -> Option<String> {
        let kid = &secret.listed.kid;
        let how = if stays { "would end" } else { "would be gone" };
        let ends = if end <= wall {
            format!("kid {kid} {how} now")
        } else {
            format!("kid {kid} {how} at {}", end.rfc3339())
        };
        let ttl_ms = ttl_ms.max(self.ttl_ms);
        let overlap_s = ttl_ms.saturating_mul(2) / 1000;
        if let Some((successor, since)) = self.successor(secret, new, replaced, wall) {
            let due = since.plus(ttl_ms.saturating_mul(2));
            if end < due {
                return Some(format!(
                    "{ends}, but {successor} is listed since {}: both must be accepted for {overlap_s} s (2 × what a \
                     signed request may live); keep it until {}",
                    since.rfc3339(),
                    due.rfc3339()
                ));
            }
        }
        let last = secret.seen.last_match?;
        let due = last.plus(ttl_ms);
        (end < due).then(|| {
            format!(
                "{ends}, but it signed a request at {}: whoever sends does not use another one yet, and what is under \
                 way would be refused; keep it at least until {}",
                last.rfc3339(),
                due.rfc3339()
            )
        })
    }

    /// The secret of the new list that takes over from this one, and since when it may be signed with. None: this one
    /// is the newest, or nobody knows since when the other is listed.
    fn successor(
        &self,
        secret: &Tracked,
        new: &[Listed],
        replaced: &[Kid],
        wall: Millis,
    ) -> Option<(Kid, Millis)> {
        let known = |kid: &Kid| {
            let tracked = self.secrets.iter().find(|tracked| tracked.listed.kid == *kid);
            tracked.filter(|_| !replaced.contains(kid))
        };
        let others =
            new.iter().filter(|listed| listed.kid != secret.listed.kid || replaced.contains(&listed.kid));
        let since = |listed: &Listed| match known(&listed.kid) {
            Some(tracked) => {
                tracked.since().max(listed.window.not_before).filter(|_| tracked.age() > secret.age())
            }
            None => Some(wall).max(listed.window.not_before),
        };
        // the one that has been there longest: the sender may have changed to it
        let taken_over = others.filter(|listed| !listed.window.is_over(wall));
        taken_over
            .filter_map(|listed| Some((listed.kid.clone(), since(listed)?)))
            .min_by_key(|(_, since)| *since)
    }

    /// What operators should know now.
    #[must_use]
    pub fn notices(&self, wall: Millis) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut tell = |urgent: bool, text: String| notices.push(Notice { urgent, text });
        let list: Vec<Listed> = self.secrets.iter().map(|secret| secret.listed.clone()).collect();
        if !list.iter().any(|listed| listed.window.holds(wall)) {
            tell(true, "no secret is accepted now: every request is refused".to_owned());
        } else if let Some((from, to)) = gap(&list, wall) {
            tell(true, format!("no secret is accepted from {} to {}", from.rfc3339(), to.rfc3339()));
        } else if let Some(end) = last_end(&list).filter(|end| *end <= wall.plus(AHEAD_MS)) {
            tell(true, format!("the last secret ends at {}, and none follows", end.rfc3339()));
        }
        for secret in &self.secrets {
            self.notice(secret, wall, &mut tell);
        }
        notices
    }

    fn notice(&self, secret: &Tracked, wall: Millis, tell: &mut impl FnMut(bool, String)) {
        let kid = &secret.listed.kid;
        let (seen, window) = (secret.seen, secret.listed.window);
        if window.is_over(wall) {
            return tell(false, format!("kid {kid} is not accepted any more: take it out of the list"));
        }
        if let (Some(cutover), Some(last)) = (seen.cutover, seen.last_match)
            && last > cutover
        {
            let text = format!(
                "kid {kid} signed again at {}, after the cutover at {}: somebody still uses it",
                last.rfc3339(),
                cutover.rfc3339()
            );
            tell(true, text);
        }
        let in_use = seen.last_match.is_some_and(|last| last.plus(self.ttl_ms) > wall);
        let soon = window.not_after.filter(|end| *end <= wall.plus(self.overlap_ms().max(86_400_000)));
        if let (true, Some(end)) = (in_use, soon) {
            tell(true, format!("kid {kid} still signs, and is not accepted after {}", end.rfc3339()));
        }
        let newest = self.newest().filter(|newest| newest.listed.kid != *kid);
        let Some((newest, since)) = newest.and_then(|newest| Some((newest, newest.since()?))) else { return };
        let due = since.plus(self.overlap_ms());
        if window.not_after.is_some_and(|end| end < due) {
            let text = format!(
                "kid {kid} ends before {} has been listed for {} s (2 × what a signed request may live)",
                newest.listed.kid,
                self.overlap_ms() / 1000
            );
            tell(false, text);
        } else if secret.reached == State::Cutover && !in_use && wall >= due {
            tell(false, format!("kid {kid} can be taken out of the list: the overlap is over"));
        }
        let watched = self.watched_since..self.watched_since.plus(self.overlap_ms());
        if seen.first_match.is_none() && wall > watched.start && watched.contains(&wall) {
            // after a start without memory, silence says nothing yet
            let text =
                format!("kid {kid}: whether it signs is watched since {} only", watched.start.rfc3339());
            tell(false, text);
        }
    }
}

/// When a secret that is accepted now ends under the new list, if that is sooner than it was to.
fn shortened(old: Window, new: Option<Window>, wall: Millis) -> Option<Millis> {
    match new {
        None => Some(wall),
        Some(new) if !new.holds(wall) => Some(wall),
        Some(new) => new.not_after.filter(|end| old.not_after.is_none_or(|old| *end < old)),
    }
}

/// When the last secret of a list ends; None if one does not.
fn last_end(list: &[Listed]) -> Option<Millis> {
    list.iter().map(|listed| listed.window.not_after).try_fold(Millis(0), |last, end| Some(last.max(end?)))
}

/// The first time from now on in which no secret is accepted, though one is before and one after it.
fn gap(list: &[Listed], wall: Millis) -> Option<(Millis, Millis)> {
    let mut until = wall;
    if !list.iter().any(|listed| listed.window.holds(wall)) {
        return None;
    }
    loop {
        let holding = list.iter().filter(|listed| listed.window.holds(until));
        let furthest = holding.map(|listed| listed.window.not_after.unwrap_or(Millis::NEVER)).max();
        let next = furthest?.plus(1);
        if next == Millis::NEVER {
            return None;
        }
        if !list.iter().any(|listed| listed.window.holds(next)) {
            let later =
                list.iter().filter_map(|listed| listed.window.not_before).filter(|start| *start > next);
            return later.min().map(|start| (next, start));
        }
        until = next;
    }
}
