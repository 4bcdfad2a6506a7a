//! What the store owes its clients, kept in plain maps from what was *answered*: written for this purpose,
//! and asking neither the shard nor the store. It also judges answers as they come.

use super::Violation;
use super::told::{Draft, Effect, How, Settling, Tally};
use ron_core::ids::Slot;
use ron_core::message::{DeadLetter, MsgState, OtherBody, Phase, PutOutcome, Settled, StoredAt};
use ron_core::shard::{DeliveryRef, Leased, NackMode, Settings, Stats};
use ron_core::time::Millis;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The settings of a shard: short limits, so that every end of a message comes up.
#[must_use]
pub(super) fn settings_of(shard: u32) -> Settings {
    let n = u64::from(shard % 3);
    Settings {
        visibility_ms: [1_000, 5_000, 20_000][n as usize],
        max_attempts: [2, 3, 5][n as usize],
        max_deliveries: [4, 50, 6][n as usize],
        max_inflight: [1_000, 25, 1_000][n as usize],
        fifo: n == 2,
        ..Settings::default()
    }
}

/// Where a message is, as a client knows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Place {
    /// Never handed out.
    Fresh,
    Ready,
    /// Leased until then; over is over, whether or not anyone noticed.
    Leased(Millis),
    Delayed(Millis),
    Dead(DeadLetter),
}

/// A live message.
#[derive(Debug, Clone)]
pub(super) struct Msg {
    pub(super) draft: Arc<Draft>,
    stored: StoredAt,
    pub(super) place: Place,
    pub(super) attempt: u32,
    pub(super) delivery: u32,
    settled: Settled,
    note: Option<String>,
}

impl Msg {
    /// What a store must hold of it.
    fn state(&self) -> Option<MsgState> {
        let (phase, at) = match &self.place {
            Place::Fresh => return None,
            Place::Ready => (Phase::Ready, Millis(0)),
            Place::Leased(at) => (Phase::Leased, *at),
            Place::Delayed(at) => (Phase::Delayed, *at),
            Place::Dead(letter) => (Phase::Dead, letter.at),
        };
        let (attempt, delivery, settled) = (self.attempt, self.delivery, self.settled);
        Some(MsgState { phase, at, attempt, delivery, settled, noted: self.note.is_some(), revived: None })
    }

    fn available(&self, now: Millis) -> bool {
        match self.place {
            Place::Fresh => self.stored.due.is_none_or(|due| due <= now),
            Place::Ready => true,
            Place::Leased(at) | Place::Delayed(at) => at <= now,
            Place::Dead(_) => false,
        }
    }

    fn expired(&self, now: Millis) -> bool {
        self.stored.expires.is_some_and(|expires| expires <= now)
    }

    fn bury(&mut self, now: Millis, reason: &str, error: Option<String>) {
        self.place = Place::Dead(DeadLetter {
            reason: reason.to_owned(),
            attempts: self.attempt,
            last_error: error.or_else(|| self.note.clone()),
            at: now,
        });
    }

    fn used_up(&self, settings: &Settings) -> Option<&'static str> {
        if self.attempt >= settings.max_attempts {
            Some("max_attempts")
        } else if self.delivery >= settings.max_deliveries {
            Some("max_deliveries")
        } else {
            None
        }
    }

    /// Whether this delivery may still be settled.
    fn held(&self, delivery: u32) -> bool {
        matches!(self.place, Place::Leased(_)) && self.delivery == delivery && self.settled == Settled::No
    }
}

/// What its sender calls its group.
fn group_of(draft: &Draft) -> Option<&str> {
    draft.meta.attrs.iter().find(|(name, _)| name == "group").map(|(_, value)| value.as_str())
}

/// A remembered idempotency key.
#[derive(Debug, Clone)]
pub struct Known {
    pub(super) slot: Slot,
    enqueued: Millis,
    /// The first message.
    pub draft: Arc<Draft>,
    /// From then on the key is new.
    pub expires: Millis,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// What it came from.
    pub tally: Tally,
    pub(super) shards: BTreeMap<u32, BTreeMap<Slot, Arc<Msg>>>,
    pub(super) keys: BTreeMap<(u32, String), Known>,
    /// Shards whose lease clocks stand still, and since when.
    still: BTreeMap<u32, Millis>,
    top: Slot0,
    floor: Slot0,
}

/// The highest slot told to anyone; `None` before the first.
type Slot0 = Option<Slot>;

impl Model {
    /// The topics that exist.
    pub fn topics(&self) -> impl Iterator<Item = u32> {
        self.shards.keys().copied()
    }

    /// Live messages of a shard.
    #[must_use]
    pub fn live(&self, shard: u32) -> usize {
        self.shards.get(&shard).map_or(0, BTreeMap::len)
    }

    /// The remembered keys of a shard, expired ones included, oldest first by text.
    pub fn keys(&self, shard: u32) -> impl Iterator<Item = (&str, &Known)> {
        self.keys
            .iter()
            .filter(move |((of, _), _)| *of == shard)
            .map(|((_, text), known)| (text.as_str(), known))
    }

    /// The slots of a shard.
    pub fn slots(&self, shard: u32) -> BTreeSet<Slot> {
        self.shards.get(&shard).map(|all| all.keys().copied().collect()).unwrap_or_default()
    }

    /// A commit begins: all its slots must lie above every one answered before.
    pub fn begin_commit(&mut self) {
        self.floor = self.top;
    }

    /// What the puts of `effect` must come to, where `next` gives the places of new messages.
    pub fn predict(
        &self,
        effect: &Effect,
        now: Millis,
        next: &mut dyn FnMut(&Draft) -> Option<StoredAt>,
    ) -> Option<Vec<PutOutcome>> {
        let mut new: BTreeMap<&str, (StoredAt, &Draft)> = BTreeMap::new();
        let mut outcomes = Vec::new();
        for draft in &effect.puts {
            let Some((text, claim)) = &draft.claim else {
                outcomes.push(PutOutcome::Stored(next(draft)?));
                continue;
            };
            let known = self.keys.get(&(effect.shard, text.clone())).filter(|known| known.expires > now);
            let first = match (new.get(text.as_str()), known) {
                (Some((at, first)), _) => Some((at.slot, at.enqueued, &first.payload)),
                (None, Some(known)) => Some((known.slot, known.enqueued, &known.draft.payload)),
                (None, None) => None,
            };
            outcomes.push(match first {
                Some((slot, enqueued, payload)) => {
                    let other_body = *payload != draft.payload;
                    if other_body && claim.same_key_other_body == OtherBody::Conflict {
                        PutOutcome::Conflict
                    } else {
                        PutOutcome::Duplicate { slot, enqueued, other_body }
                    }
                }
                None => {
                    let at = next(draft)?;
                    new.insert(text.as_str(), (at, draft.as_ref()));
                    PutOutcome::Stored(at)
                }
            });
        }
        Some(outcomes)
    }

    /// Takes in what was answered, and judges it.
    ///
    /// # Errors
    /// An answer that is not true.
    pub fn apply(&mut self, effect: &Effect, now: Millis, outcomes: &[PutOutcome]) -> Result<(), Violation> {
        if !effect.puts.is_empty() {
            self.put(effect, now, outcomes)?;
        }
        if let Some(settling) = &effect.settling {
            self.settle(effect.shard, now, settling)?;
        }
        if effect.timed {
            self.pass_time(effect.shard, now);
        }
        effect
            .grants
            .iter()
            .try_for_each(|(leased, visibility_ms)| self.grant(effect.shard, now, leased, *visibility_ms))
    }

    fn put(&mut self, effect: &Effect, now: Millis, outcomes: &[PutOutcome]) -> Result<(), Violation> {
        let mut stored = outcomes.iter().filter_map(|outcome| match outcome {
            PutOutcome::Stored(at) => Some(*at),
            PutOutcome::Duplicate { .. }
            | PutOutcome::Conflict
            | PutOutcome::DedupFull
            | PutOutcome::RamFull
            | PutOutcome::Overtaken
            | PutOutcome::NoObject => None,
        });
        let expected = self.predict(effect, now, &mut |_| stored.next());
        if expected.as_deref() != Some(outcomes) {
            let text = format!("shard {}: puts answered {outcomes:?}, expected {expected:?}", effect.shard);
            return Err(Violation::contract(text));
        }
        let count =
            |fits: fn(&PutOutcome) -> bool| outcomes.iter().filter(|outcome| fits(outcome)).count() as u64;
        self.tally.duplicates += count(|outcome| matches!(outcome, PutOutcome::Duplicate { .. }));
        self.tally.conflicts += count(|outcome| matches!(outcome, PutOutcome::Conflict));
        let shard = self.shards.entry(effect.shard).or_default();
        for (draft, outcome) in effect.puts.iter().zip(outcomes) {
            let PutOutcome::Stored(at) = outcome else { continue };
            let right = StoredAt {
                slot: at.slot,
                enqueued: now,
                len: draft.payload.len() as u32,
                due: (draft.delay_ms > 0).then(|| now.plus(draft.delay_ms)),
                expires: draft.ttl_ms.map(|ttl| now.plus(ttl)),
                group: at.group,
            };
            let grouped = group_of(draft).is_some() == (at.group != 0);
            if !grouped || *at != right || Some(at.slot) <= self.floor {
                let text = format!("stored as {at:?}, expected {right:?} above {:?}", self.floor);
                return Err(Violation::contract(text));
            }
            self.top = self.top.max(Some(at.slot));
            self.tally.stored += 1;
            self.tally.large += u64::from(at.len > 61_000);
            let msg = Msg {
                draft: draft.clone(),
                stored: *at,
                place: Place::Fresh,
                attempt: 0,
                delivery: 0,
                settled: Settled::No,
                note: None,
            };
            shard.insert(at.slot, Arc::new(msg));
            if let Some((text, claim)) = &draft.claim {
                let expires = now.plus(claim.window_ms);
                let known = Known { slot: at.slot, enqueued: now, draft: draft.clone(), expires };
                self.keys.insert((effect.shard, text.clone()), known);
            }
        }
        Ok(())
    }

    fn grant(&mut self, shard: u32, now: Millis, leased: &Leased, ms: u64) -> Result<(), Violation> {
        let deadline = now.plus(ms);
        if let Some(before) = self.waits_for(shard, now, leased.slot) {
            let text =
                format!("shard {shard} handed out {leased:?}, though {before:?} of its group is before it");
            return Err(Violation::contract(text));
        }
        let msg = self.shards.entry(shard).or_default().get_mut(&leased.slot);
        let known = msg.as_ref().map(|msg| (msg.place.clone(), msg.delivery, msg.stored.expires));
        let Some(msg) = msg.filter(|msg| msg.available(now) && !msg.expired(now)) else {
            let text = format!("shard {shard} handed out {leased:?} at {now:?}; it was known as {known:?}");
            return Err(Violation::contract(text));
        };
        let msg = Arc::make_mut(msg);
        msg.attempt += 1;
        msg.delivery += 1;
        self.tally.delivered += 1;
        msg.settled = Settled::No;
        msg.place = Place::Leased(deadline);
        let right = Leased { slot: leased.slot, attempt: msg.attempt, delivery: msg.delivery, deadline };
        if *leased == right {
            Ok(())
        } else {
            Err(Violation::contract(format!("handed out as {leased:?}, expected {right:?}")))
        }
    }

    /// Where order is strict: a message of the same group that must be handed out and settled before.
    fn waits_for(&self, shard: u32, now: Millis, slot: Slot) -> Option<Slot> {
        let all = self.shards.get(&shard).filter(|_| settings_of(shard).fifo)?;
        let group = group_of(&all.get(&slot)?.draft);
        let over = |msg: &Msg| matches!(msg.place, Place::Dead(_)) || msg.available(now) && msg.expired(now);
        let mut before = all.range(..slot).filter(|(_, msg)| group_of(&msg.draft) == group && !over(msg));
        before.next().map(|(slot, _)| *slot)
    }

    fn settle(&mut self, shard: u32, now: Millis, settling: &Settling) -> Result<(), Violation> {
        let settings = settings_of(shard);
        let all = self.shards.entry(shard).or_default();
        for (delivery, result) in settling.deliveries.iter().zip(&settling.results) {
            let right = settle_one(all, &settings, now, *delivery, &settling.how);
            if right != result.is_ok() {
                let text = format!("{delivery:?} settled by {:?}: answered {result:?}", settling.how);
                return Err(Violation::contract(text));
            }
            *match &settling.how {
                _ if !right => &mut self.tally.refused,
                How::Ack => &mut self.tally.acked,
                How::Extend(_) => &mut self.tally.extended,
                How::Nack(NackMode::Fail, ..) => &mut self.tally.failed,
                How::Nack(NackMode::Release, ..) => &mut self.tally.released,
                How::Nack(NackMode::Reject, ..) => &mut self.tally.rejected,
            } += 1;
        }
        Ok(())
    }

    /// What time alone does to a shard that notices it.
    pub fn pass_time(&mut self, shard: u32, now: Millis) {
        let settings = settings_of(shard);
        let Some(all) = self.shards.get_mut(&shard) else { return };
        all.retain(|_, msg| {
            if matches!(msg.place, Place::Leased(at) if at <= now)
                && let Some(reason) = msg.used_up(&settings)
            {
                Arc::make_mut(msg).bury(now, reason, None);
                self.tally.timed_out += 1;
            }
            let ends = msg.available(now) && msg.expired(now);
            self.tally.expired += u64::from(ends);
            !ends
        });
    }

    /// The power failed, and nobody can settle anything since `last_alive`: the lease clocks stand still, those
    /// that already do since they began to. Returns them.
    pub fn power_fails(&mut self, last_alive: Millis) -> &BTreeMap<u32, Millis> {
        let leased = |msg: &Arc<Msg>| matches!(msg.place, Place::Leased(_));
        let with_leases = self.shards.iter().filter(|(_, all)| all.values().any(leased));
        let since = |shard: &u32| self.still.get(shard).copied().unwrap_or(last_alive);
        self.still = with_leases.map(|(shard, _)| (*shard, since(shard))).collect();
        &self.still
    }

    /// The clocks go on at `now`: what that does to the leases that were running when they stopped.
    pub fn recover(&mut self, now: Millis) {
        let still = std::mem::take(&mut self.still);
        for (shard, all) in &mut self.shards {
            let Some(went_down) = still.get(shard).copied() else { continue };
            let ms = now.since(went_down);
            let least = settings_of(*shard).visibility_ms.min(5_000);
            for msg in all.values_mut() {
                if let Place::Leased(at) = msg.place
                    && at > went_down
                {
                    Arc::make_mut(msg).place = Place::Leased(at.plus(ms).max(now.plus(least)));
                }
            }
        }
    }

    /// The depths of a shard that has noticed the time.
    #[must_use]
    pub fn stats(&self, shard: u32, now: Millis) -> Stats {
        let mut stats = Stats::default();
        for msg in self.shards.get(&shard).into_iter().flat_map(BTreeMap::values) {
            match msg.place {
                Place::Dead(_) => stats.dlq += 1,
                _ if msg.available(now) => stats.ready += 1,
                Place::Leased(_) => stats.vis += 1,
                Place::Fresh | Place::Ready | Place::Delayed(_) => stats.delayed += 1,
            }
        }
        stats
    }

    /// The message in `slot`, as a store must hold it: place, state, what was sent, dead letter.
    #[must_use]
    pub fn expects(&self, shard: u32, slot: Slot) -> Option<Expected<'_>> {
        let msg = self.shards.get(&shard)?.get(&slot)?;
        let letter = match &msg.place {
            Place::Dead(letter) => Some(letter),
            Place::Fresh | Place::Ready | Place::Leased(_) | Place::Delayed(_) => None,
        };
        Some(Expected { stored: msg.stored, state: msg.state(), draft: &msg.draft, letter })
    }
}

/// What a store must hold of one message.
#[derive(Debug)]
pub struct Expected<'a> {
    /// Its place.
    pub stored: StoredAt,
    /// Its state.
    pub state: Option<MsgState>,
    /// What was sent.
    pub draft: &'a Draft,
    /// Its dead letter.
    pub letter: Option<&'a DeadLetter>,
}

/// Settles one delivery; whether that is answered ok (the table of SPEC §4.7).
fn settle_one(
    all: &mut BTreeMap<Slot, Arc<Msg>>,
    settings: &Settings,
    now: Millis,
    delivery: DeliveryRef,
    how: &How,
) -> bool {
    let slot = delivery.slot;
    let Some(msg) = all.get_mut(&slot) else { return matches!(how, How::Ack) };
    if !msg.held(delivery.delivery) {
        let before = match how {
            How::Nack(NackMode::Fail, ..) => Settled::Failed,
            How::Nack(NackMode::Release, ..) => Settled::Released,
            How::Nack(NackMode::Reject, ..) => Settled::Rejected,
            How::Ack | How::Extend(_) => return false,
        };
        return msg.delivery == delivery.delivery && msg.settled == before;
    }
    let msg = Arc::make_mut(msg);
    match how {
        How::Ack => drop(all.remove(&slot)),
        How::Extend(ms) => msg.place = Place::Leased(now.plus(*ms)),
        How::Nack(NackMode::Reject, _, note, _) => {
            msg.settled = Settled::Rejected;
            msg.bury(now, note.as_deref().unwrap_or("rejected"), None);
        }
        How::Nack(mode, delay_ms, note, backoffs) => {
            let release = *mode == NackMode::Release;
            msg.settled = if release { Settled::Released } else { Settled::Failed };
            msg.attempt -= u32::from(release);
            if let Some(reason) = msg.used_up(settings) {
                msg.bury(now, reason, note.clone());
                return true;
            }
            let due = match (delay_ms, release) {
                (Some(ms), _) => now.plus(*ms),
                (None, true) => now,
                (None, false) => backoffs.get(&slot).copied().unwrap_or(now),
            };
            if due == now && msg.expired(now) {
                all.remove(&slot);
                return true;
            }
            msg.note = note.clone().or_else(|| msg.note.take());
            msg.place = if due == now { Place::Ready } else { Place::Delayed(due) };
        }
    }
    true
}
