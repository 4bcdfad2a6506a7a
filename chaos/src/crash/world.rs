//! The real store and the real state machines, driven without actors: one thread, a manual clock, group
//! commits of what several shards want, and a model that hears every answer.

use super::Violation;
use super::model::{Model, settings_of};
use super::rng::Rng;
use super::seen::{Seen, look};
use super::told::{Draft, Effect, How, Settling};
use crate::disk::LyingDisk;
use ron_actors::kernel::clock::ManualClock;
use ron_actors::store::{
    EngineCell, Opened, ShardEpoch, ShardSink, StoreConfig, StoreObserver, TopicRow, Unit, UnitFailure, Work,
};
use ron_core::ids::{Incarnation, QueueKey, ShardId, Tenant, Topic};
use ron_core::message::{Phase, PutOutcome};
use ron_core::shard::{
    Command, DeliveryRef, Paused, Recovery, Reply, Shard, Step, Ticket, TopicState, WaiterId,
};
use ron_core::time::{Clock, Millis};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Topics of a world.
pub(super) const SHARDS: u32 = 5;

/// What the store's clients were told once the disk had seen this many operations.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Operations.
    pub ops: usize,
    /// When.
    pub now: Millis,
    /// What is owed to them.
    pub model: Arc<Model>,
    /// The store's, once a client can have seen it.
    pub incarnation: Option<Incarnation>,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everyone was answered.
    Answered,
    /// Nobody knows: the store failed.
    Failed(UnitFailure),
}

#[derive(Debug, Default)]
struct Inbox(Mutex<Vec<Told>>);

#[derive(Debug)]
enum Told {
    Committed(Ticket, Vec<PutOutcome>),
    Failed,
}

impl Inbox {
    fn push(&self, told: Told) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }

    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ShardSink for Inbox {
    fn committed(&self, ticket: Ticket, outcomes: &[PutOutcome]) {
        self.push(Told::Committed(ticket, outcomes.to_vec()));
    }

    fn failed(&self, _: UnitFailure) {
        self.push(Told::Failed);
    }
}

#[derive(Debug)]
struct Quiet;

impl StoreObserver for Quiet {
    fn committed(&self, _: f64, _: usize) {}
    fn failed(&self) {}
}

/// One topic's state machine and what its clients hold.
#[derive(Debug)]
pub struct Seat {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub key: QueueKey,
    pub(super) shard: Shard,
    epoch: ShardEpoch,
    exists: bool,
    inbox: Arc<Inbox>,
    /// Receipts that were answered and, for the most part, not settled yet.
    pub receipts: Vec<DeliveryRef>,
    waiting: BTreeMap<WaiterId, u64>,
}

/// What a unit will be, and what it means when it is committed.
struct Owed {
    seat: usize,
    ticket: Option<Ticket>,
    work: Work,
    effect: Effect,
}

/// See the module.
pub struct World {
    /// The disk below.
    pub disk: LyingDisk,
    /// The store.
    pub cell: Arc<EngineCell>,
    /// Node time.
    pub clock: ManualClock,
    /// The run's choices.
    pub rng: Rng,
    /// The topics.
    pub seats: Vec<Seat>,
    /// What is owed to clients now.
    pub model: Model,
    /// What was owed to them earlier.
    pub marks: Vec<Mark>,
    owed: Vec<Owed>,
    failed: Vec<Effect>,
    next_waiter: u64,
    /// Commits of background work.
    pub tidied: u64,
    /// Shards whose lease clocks stood still when the node booted, and since when.
    pub(super) still: BTreeMap<u32, Millis>,
    /// Live messages of a topic beyond which nothing is sent to it. Every third workload is drained as
    /// soon as it is filled: then the rows that prove what has been used vanish.
    pub(super) live_max: usize,
    /// Few messages to a chunk, and many chunks with something to fold.
    pub(super) spread: bool,
}

/// What the units of a commit were answered, by their place in it.
type Answers = Arc<Mutex<BTreeMap<usize, Result<Vec<PutOutcome>, UnitFailure>>>>;

/// The name of a topic.
///
/// # Errors
/// Never: the names are well formed.
fn queue_key(shard: u32) -> Result<QueueKey, Violation> {
    let bad = |error| Violation::contract(format!("{error}"));
    let tenant = Tenant::parse(&format!("t{}", shard % 2)).map_err(bad)?;
    let topic = Topic::parse(&format!("q{shard}")).map_err(bad)?;
    Ok(QueueKey { tenant, topic })
}

impl World {
    /// Boots a node on `disk` at `now`, up to where its shards are rebuilt. Also says what its tables hold
    /// and since when the node was not alive.
    ///
    /// # Errors
    /// The store refuses to open, or a shard to load.
    pub fn boot(disk: LyingDisk, now: Millis, seed: u64) -> Result<(World, Seen, Millis), Violation> {
        let mut rng = Rng::new(seed, 1);
        let clock = ManualClock::new(now);
        let given = clock.clone();
        let clock_from = move |_| -> Arc<dyn Clock> { Arc::new(given.clone()) };
        let mut entropy = [0; 40];
        entropy.iter_mut().for_each(|byte| *byte = rng.bits() as u8);
        let config = StoreConfig {
            cache_bytes: 1 << 20,
            body_cache_bytes: 256 << 10,
            // A pick of its own: small, so that checkpoints are among what the power fails at.
            journal_bytes: [0, 16 << 10, 64 << 10, 256 << 10][Rng::new(seed, 3).index(4)],
            ..StoreConfig::default()
        };
        let opened = EngineCell::open(Arc::new(disk.medium()), config, &clock_from, entropy, Arc::new(Quiet))
            .map_err(|error| Violation::refused(format!("the store does not open: {error}")))?;
        let Opened { cell, topics, last_alive, .. } = opened;
        let still = topics.iter().filter_map(|(shard, _, counts)| Some((shard.0, counts.still_since?)));
        let still = still.collect();
        let mut world = World {
            disk,
            cell,
            clock,
            rng,
            seats: Vec::new(),
            model: Model::default(),
            marks: Vec::new(),
            owed: Vec::new(),
            failed: Vec::new(),
            next_waiter: 0,
            tidied: 0,
            still,
            spread: seed % 3 == 1,
            live_max: if seed.is_multiple_of(3) { 2 } else { 60 },
        };
        for id in 1..=SHARDS {
            let key = queue_key(id)?;
            let inbox = Arc::default();
            let shard = Shard::new(settings_of(id));
            let epoch = ShardEpoch::default();
            let (receipts, waiting) = (Vec::new(), BTreeMap::new());
            world.seats.push(Seat { id, key, shard, epoch, exists: false, inbox, receipts, waiting });
        }
        let mut seen = world.load()?;
        seen.topics = topics.into_iter().map(|(shard, row, counts)| (shard.0, (row.key, counts))).collect();
        Ok((world, seen, last_alive))
    }

    /// Node time.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.clock.now()
    }

    /// Loads every shard, as after a boot or a failure.
    fn load(&mut self) -> Result<Seen, Violation> {
        let (now, mut seen) = (self.now(), Seen::default());
        for seat in &mut self.seats {
            let refused = |error| Violation::refused(format!("shard {} does not load: {error}", seat.id));
            let job = self.cell.load(ShardId(seat.id)).map_err(refused)?;
            seat.epoch = job.epoch;
            seat.exists = job.topic.is_some();
            let stood_still_ms = self.still.get(&seat.id).map_or(0, |since| now.since(*since));
            let mut recovery = Recovery::new(settings_of(seat.id), Paused::default(), now, stood_still_ms);
            let mut rows = Vec::new();
            job.run(&mut |row| {
                rows.push(row);
                recovery.push(row);
            })
            .map_err(refused)?;
            seat.shard = recovery.finish();
            seat.inbox.take();
            seat.waiting.clear();
            seat.shard.check().map_err(|broken| Violation::state(broken.to_string()))?;
            if seat.exists {
                seen.shards.insert(seat.id, look(self.cell.reader(), seat.id, rows)?);
            }
        }
        Ok(seen)
    }

    /// Takes over what the clients of this store were told, and marks it.
    pub fn adopt(&mut self, model: Model) {
        self.model = model;
        let ops = if self.marks.is_empty() { 0 } else { self.disk.ops() };
        self.mark(ops);
    }

    fn mark(&mut self, ops: usize) {
        let incarnation = (ops > 0).then(|| self.cell.identity().incarnation);
        let mark = Mark { ops, now: self.now(), model: Arc::new(self.model.clone()), incarnation };
        self.marks.push(mark);
    }

    /// Writes down what recovery did to the leases.
    ///
    /// # Errors
    /// What is not as it must be.
    pub fn settle_in(&mut self) -> Result<Outcome, Violation> {
        let now = self.now();
        self.still.clear();
        self.model.recover(now);
        (0..self.seats.len()).for_each(|seat| self.command(seat, Command::Tick));
        self.owed.iter_mut().for_each(|owed| owed.work.clocks_go_on = Some(now));
        let outcome = self.commit_all()?;
        for seat in &self.seats {
            let (stats, right) = (seat.shard.stats(), self.model.stats(seat.id, now));
            let depths = |stats: &ron_core::shard::Stats| (stats.ready, stats.delayed, stats.vis, stats.dlq);
            if outcome == Outcome::Answered && depths(&stats) != depths(&right) {
                let text = format!("shard {}: depths {stats:?}, expected {right:?}", seat.id);
                return Err(Violation::state(text));
            }
            for slot in self.model.slots(seat.id) {
                let right = self.model.expects(seat.id, slot).and_then(|right| right.state);
                let Some(right) = right.filter(|right| right.phase == Phase::Leased && right.at > now) else {
                    continue;
                };
                let found = seat.shard.state_of(slot);
                if outcome == Outcome::Answered && found != Some(right) {
                    let text = format!("shard {} has {slot:?} as {found:?}, expected {right:?}", seat.id);
                    return Err(Violation::state(text));
                }
            }
        }
        Ok(outcome)
    }

    /// Sends messages.
    pub fn send(&mut self, seat: usize, puts: Vec<Arc<Draft>>) {
        let now = self.now();
        let step = self.seats[seat].shard.apply(now, Command::Enqueue { count: puts.len() as u32 });
        let effect = Effect { puts, ..Effect::default() };
        self.owe(seat, step, effect);
    }

    /// Gives a shard a command; its work joins the next commit.
    pub fn command(&mut self, seat: usize, command: Command) {
        let now = self.now();
        let timed = !matches!(command, Command::CancelRecv { .. } | Command::Enqueue { .. });
        let step = self.seats[seat].shard.apply(now, command);
        self.owe(seat, step, Effect { timed, ..Effect::default() });
    }

    /// Receives up to `want`, waiting until `until`.
    pub fn receive(&mut self, seat: usize, want: ron_core::shard::Want, until: Millis) {
        let waiter = WaiterId(self.next_waiter);
        self.next_waiter += 1;
        let default_ms = settings_of(self.seats[seat].id).visibility_ms;
        self.seats[seat].waiting.insert(waiter, want.visibility_ms.unwrap_or(default_ms));
        self.command(seat, Command::Recv { waiter, want, until, stream: None });
    }

    /// Settles deliveries.
    pub fn settle(&mut self, seat: usize, command: Command, mut settling: Settling) {
        use ron_core::message::StateOp;
        let now = self.now();
        let mut step = self.seats[seat].shard.apply(now, command);
        if let Reply::Settled(results) = std::mem::replace(&mut step.reply, Reply::None) {
            settling.results = results;
        }
        if let How::Nack(_, _, _, backoffs) = &mut settling.how {
            // The jitter is drawn inside; everything else is predicted.
            backoffs.extend(step.ops.iter().filter_map(|op| match op {
                // Not the lease of a receive that got the message at once.
                StateOp::Set { slot, state, .. } if state.phase == Phase::Delayed => Some((*slot, state.at)),
                StateOp::Set { .. }
                | StateOp::Dead { .. }
                | StateOp::Gone { .. }
                | StateOp::GoneRun { .. }
                | StateOp::Revived { .. }
                | StateOp::DeadGone { .. } => None,
            }));
        }
        self.owe(seat, step, Effect { settling: Some(settling), timed: true, ..Effect::default() });
    }

    fn owe(&mut self, seat: usize, step: Step, mut effect: Effect) {
        let at = &mut self.seats[seat];
        effect.shard = at.id;
        for waiter in step.empty_handed {
            at.waiting.remove(&waiter);
        }
        for grant in step.grants {
            let ms = at.waiting.remove(&grant.waiter).unwrap_or_default();
            effect.grants.extend(grant.messages.into_iter().map(|leased| (leased, ms)));
        }
        if matches!(step.reply, Reply::Refused(_)) && step.ticket.is_none() {
            return;
        }
        let state = TopicState::default();
        let topic = (!effect.puts.is_empty() && !at.exists).then(|| TopicRow { key: at.key.clone(), state });
        let puts = effect.puts.iter().map(|draft| draft.message()).collect();
        let work = Work { epoch: at.epoch, topic, puts, ops: step.ops, ..Work::default() };
        self.owed.push(Owed { seat, ticket: step.ticket, work, effect });
    }

    /// Commits what is owed, and what follows from that, until nothing is.
    ///
    /// # Errors
    /// An answer that is not true.
    pub fn commit_all(&mut self) -> Result<Outcome, Violation> {
        while !self.owed.is_empty() {
            if let Outcome::Failed(failure) = self.commit()? {
                return Ok(Outcome::Failed(failure));
            }
        }
        Ok(Outcome::Answered)
    }

    /// Commits what is owed now, as one.
    ///
    /// # Errors
    /// An answer that is not true.
    pub fn commit(&mut self) -> Result<Outcome, Violation> {
        let now = self.now();
        let owed = std::mem::take(&mut self.owed);
        let answers = Answers::default();
        let (mut units, mut effects) = (Vec::new(), Vec::new());
        for (i, Owed { seat, ticket, work, effect }) in owed.into_iter().enumerate() {
            let inbox: Arc<dyn ShardSink> = self.seats[seat].inbox.clone();
            let answers = answers.clone();
            let done = move |result: ron_actors::store::UnitResult<'_>| {
                let answer = result.map(<[PutOutcome]>::to_vec);
                answers.lock().unwrap_or_else(PoisonError::into_inner).insert(i, answer);
            };
            let ticket = ticket.map(|ticket| (ticket, inbox));
            units.push(Unit::new(ShardId(effect.shard), work, ticket, Some(Box::new(done))));
            effects.push((seat, effect));
        }
        self.cell.run(units);
        let answers = std::mem::take(&mut *answers.lock().unwrap_or_else(PoisonError::into_inner));
        if answers.len() != effects.len() {
            return Err(Violation::contract("a unit was never answered".to_owned()));
        }
        let failure = answers.values().find_map(|answer| answer.as_ref().err().copied());
        if let Some(failure) = failure {
            let all = answers.values().all(|answer| answer.as_ref().err() == Some(&failure));
            self.failed = effects.into_iter().map(|(_, effect)| effect).collect();
            return match all {
                true => Ok(Outcome::Failed(failure)),
                false => Err(Violation::contract(format!("half a commit was answered: {answers:?}"))),
            };
        }
        self.model.begin_commit();
        for ((seat, effect), answer) in effects.into_iter().zip(answers.into_values()) {
            self.model.apply(&effect, now, &answer.unwrap_or_default())?;
            let granted = effect.grants.iter();
            self.seats[seat].receipts.extend(
                granted.map(|(leased, _)| DeliveryRef { slot: leased.slot, delivery: leased.delivery }),
            );
        }
        for seat in 0..self.seats.len() {
            self.hear(seat, now)?;
        }
        self.mark(self.disk.ops());
        Ok(Outcome::Answered)
    }

    /// Tells a shard what the store told it.
    fn hear(&mut self, seat: usize, now: Millis) -> Result<(), Violation> {
        for told in self.seats[seat].inbox.take() {
            match told {
                Told::Committed(ticket, outcomes) => {
                    let at = &mut self.seats[seat];
                    at.exists |= !outcomes.is_empty();
                    let step = at.shard.committed(now, ticket, &outcomes);
                    let id = at.id;
                    self.owe(seat, step, Effect { timed: true, ..Effect::default() });
                    // A step with nothing to write means nothing to anyone.
                    self.owed.retain(|owed| owed.effect.shard != id || owed.ticket.is_some());
                }
                Told::Failed => {
                    return Err(Violation::contract(format!("shard {seat} was told of a failure")));
                }
            }
        }
        Ok(())
    }

    /// Background work of the store, one commit of it. Whether there was some.
    pub fn idle(&mut self) -> bool {
        let more = self.cell.idle();
        self.tidied += u64::from(more);
        self.mark(self.disk.ops());
        more
    }

    /// After a failed commit: has the store reopened and loads all shards anew. They must be as before the
    /// commit or as after it, whole. `false` = the store does not open yet.
    ///
    /// # Errors
    /// They are something else.
    pub fn reload(&mut self) -> Result<bool, Violation> {
        self.owed.clear();
        let now = self.now();
        let seen = match self.load() {
            Ok(seen) => seen,
            Err(violation) if violation.is_refusal() => return Ok(false),
            Err(violation) => return Err(violation),
        };
        let mut before = std::mem::take(&mut self.model);
        let effects = std::mem::take(&mut self.failed);
        let not_before = match seen.differs(&before) {
            None => None,
            Some(difference) => {
                let after = before_and(&mut before, &effects, &seen, now)?;
                let not_after = seen.differs(&after);
                before = after;
                not_after.map(|not_after| format!("before: {difference}; after: {not_after}"))
            }
        };
        if let Some(text) = not_before {
            return Err(Violation::state(format!("neither before nor after the failed commit: {text}")));
        }
        self.adopt(before);
        self.model.power_fails(now); // for no time at all, but nobody could settle anything
        Ok(true)
    }
}

/// What is owed if the failed commit took place after all: its new messages are those that were not there.
fn before_and(before: &mut Model, effects: &[Effect], seen: &Seen, now: Millis) -> Result<Model, Violation> {
    let mut after = before.clone();
    after.begin_commit();
    for effect in effects {
        let known = after.slots(effect.shard);
        let mut new = seen.new_rows(effect.shard, &known).into_iter();
        let outcomes = after.predict(effect, now, &mut |_| new.next());
        let outcomes =
            outcomes.ok_or_else(|| Violation::state("a part of a failed commit is there".to_owned()))?;
        after.apply(effect, now, &outcomes)?;
    }
    Ok(after)
}
