//! Fanout as the store sees it: lists and cursors are changed when a commit is cut and written with it, and what is
//! still to be brought keeps its chunks alive. The couriers look at the same lists to learn what is due.

use super::codec::{Head, HeadEntry, open_value, seal_value};
use super::engine::Engine;
use super::error::StoreError;
use super::schema::{FAN, HEAD, LIST, SUBS};
use super::txn::Txn;
use redb::{ReadTransaction, ReadableTable, WriteTransaction};
use ron_core::fanout::{Advance, Edit, Fan, Fans, ListInForce, PAGE_PLACES, Subscription, Touched};
use ron_core::ids::{QueueKey, ShardId, Slot, Topic};
use ron_core::message::CopyOf;
use ron_core::reason::Refusal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::Notify;

/// A change of a topic's list. What became of it is known once its commit is done.
#[derive(Debug)]
pub struct ListEdit {
    /// What to change.
    pub edit: Edit,
    /// What the store says to it.
    pub verdict: Arc<OnceLock<Result<ListInForce, Refusal>>>,
}

/// Copies for one subscriber, and the step of its cursor that they are.
#[derive(Debug)]
pub struct Copies {
    /// Whose cursor, from where to where.
    pub step: Advance,
    /// What to copy, ascending.
    pub messages: Vec<CopyOf>,
}

impl Copies {
    /// Leaves out what is more than `most`: it stays due.
    pub fn cut_to(&mut self, most: usize) {
        if let Some(first_left) = self.messages.get(most) {
            self.step.to = first_left.slot;
            self.messages.truncate(most);
        }
    }
}

/// The row of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ListRow {
    pub(crate) source: QueueKey,
    pub(crate) version: u64,
}

/// The lists of a node, shared by the engine that writes them and the couriers. What is uncommitted in it is known
/// to be so by the engine alone: a step that rests on what was lost is refused by the next engine.
#[derive(Debug, Default)]
pub struct FanBook {
    fans: Mutex<Fans>,
    wakes: Mutex<BTreeMap<ShardId, Arc<Notify>>>,
    /// A list has come.
    pub(crate) news: Notify,
    /// Nothing is to be brought now.
    held_up: AtomicBool,
}

impl FanBook {
    /// The lists.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Fans> {
        // A panic inside leaves an engine that is dropped, and the next one brings lists of its own.
        self.fans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wakes(&self) -> MutexGuard<'_, BTreeMap<ShardId, Arc<Notify>>> {
        self.wakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bell of a list.
    pub(crate) fn bell(&self, list: ShardId) -> Arc<Notify> {
        self.wakes().entry(list).or_default().clone()
    }

    /// Something is due on a list, or it has changed.
    pub(crate) fn ring(&self, list: ShardId) {
        let bell = self.wakes().get(&list).cloned();
        match bell {
            Some(bell) => bell.notify_one(),
            None => self.news.notify_one(),
        }
    }

    /// Holds all copies up, or lets them go on: on a disk that is too full for new messages they have to wait, too.
    pub fn hold_up(&self, held_up: bool) {
        if self.held_up.swap(held_up, Ordering::AcqRel) && !held_up {
            self.wakes().values().for_each(|bell| bell.notify_one());
        }
    }

    pub(crate) fn is_held_up(&self) -> bool {
        self.held_up.load(Ordering::Acquire)
    }

    /// The bell of a list that is over.
    pub(crate) fn take_down(&self, list: ShardId) {
        self.wakes().remove(&list);
    }

    /// The lists of another engine, in the place of what was here.
    pub(crate) fn replace(&self, fans: Fans) {
        *self.lock() = fans;
        self.wakes().values().for_each(|bell| bell.notify_one());
        self.news.notify_one();
    }

    /// Whether a topic is on the list of another that exists.
    #[must_use]
    pub fn is_on(&self, source: &QueueKey, topic: &Topic) -> bool {
        self.lock().is_on(source, topic)
    }

    /// Messages that wait for each subscriber that is behind.
    #[must_use]
    pub fn lags(&self) -> BTreeMap<QueueKey, u64> {
        self.lock().lags().into_iter().map(|(queue, lag)| (queue.clone(), lag)).collect()
    }

    /// Cursors move past messages that their filters do not want. Not written: after a crash they are passed again.
    pub(crate) fn pass(&self, steps: &[Advance]) {
        let mut fans = self.lock();
        let mut touched = Touched::default();
        for step in steps {
            fans.advance(step, &mut touched);
        }
    }
}

impl Engine {
    /// Writes what has changed of lists and cursors.
    pub(crate) fn write_fans(&self, txn: &Txn, touched: &Touched) -> Result<(), StoreError> {
        if touched.is_empty() {
            return Ok(());
        }
        let fans = self.reader.fans().lock();
        let mut lists = txn.open_table(LIST)?;
        for shard in &touched.lists {
            match fans.list(*shard) {
                Some(fan) => {
                    let row = ListRow { source: fan.source().clone(), version: fan.version() };
                    lists.insert(shard.0, &seal_value(&row))?;
                }
                None => lists.remove(shard.0)?,
            }
        }
        let mut places = txn.open_table(SUBS)?;
        for (shard, number) in &touched.places {
            match fans.list(*shard).and_then(|fan| fan.subscription(*number)) {
                // A cursor that moves leaves its subscription as it is.
                Some(subscription) => {
                    if places.get((shard.0, *number))?.is_none() || touched.lists.contains(shard) {
                        places.insert((shard.0, *number), &seal_value(subscription.as_ref()))?;
                    }
                }
                None => places.remove((shard.0, *number))?,
            }
        }
        let mut pages = txn.open_table(FAN)?;
        for (shard, page) in &touched.pages {
            let runs = fans.list(*shard).map(|fan| fan.page(*page)).unwrap_or_default();
            if runs.is_empty() {
                pages.remove((shard.0, *page))?;
            } else {
                pages.insert((shard.0, *page), &seal_value(&runs))?;
            }
        }
        Ok(())
    }

    /// Takes in the messages of a chunk that is durable now.
    pub(crate) fn fan_out(&self, chunk: u64, head: &Head) {
        let mut rung = Vec::new();
        {
            let mut fans = self.reader.fans().lock();
            for run in &head.runs {
                if fans.sent(run.shard, chunk, run.first, run.count) {
                    rung.push(run.shard);
                }
            }
        }
        rung.into_iter().for_each(|shard| self.reader.fans().ring(shard));
    }

    /// A page of a topic's list, behind `after`; `None` if it never had one.
    #[must_use]
    pub fn list_of<T>(&self, shard: ShardId, read: impl FnOnce(&Fan) -> T) -> Option<T> {
        self.reader.fans().lock().list(shard).map(read)
    }

    /// Judges a change of a list as the next commit would.
    pub(crate) fn edit_list(
        &self,
        shard: ShardId,
        source: &QueueKey,
        boundary: Slot,
        edit: &ListEdit,
        touched: &mut Touched,
    ) {
        let verdict = self.reader.fans().lock().edit(shard, source, boundary, &edit.edit, touched);
        // A unit is tried once.
        let _ = edit.verdict.set(verdict);
        self.reader.fans().ring(shard);
    }
}

/// The lists as they are stored. `exists` says which topics do.
pub(crate) fn read_fans(
    txn: &WriteTransaction,
    exists: impl Fn(ShardId) -> bool,
) -> Result<Fans, StoreError> {
    let mut fans = Fans::default();
    for row in txn.open_table(LIST)?.iter()? {
        let (shard, value) = row?;
        let shard = ShardId(shard.value());
        let damaged = |why| StoreError::damaged("list", shard.0, why);
        let ListRow { source, version } = open_value(value.value()).map_err(damaged)?;
        fans.restore_list(shard, source, version, exists(shard));
    }
    let mut cursors: BTreeMap<(u32, u32), Slot> = BTreeMap::new();
    for row in txn.open_table(FAN)?.iter()? {
        let (key, value) = row?;
        let (shard, page) = key.value();
        let damaged = |why| StoreError::damaged("fan", format!("({shard}, {page})"), why);
        let runs: Vec<(u32, Slot)> = open_value(value.value()).map_err(damaged)?;
        cursors.extend(Fan::cursors(page, &runs).map(|(number, next)| ((shard, number), next)));
    }
    for row in txn.open_table(SUBS)?.iter()? {
        let (key, value) = row?;
        let (shard, number) = key.value();
        let damaged = |why| StoreError::damaged("subs", format!("({shard}, {number})"), why);
        let subscription: Subscription = open_value(value.value()).map_err(damaged)?;
        let next = *cursors.get(&(shard, number)).ok_or_else(|| damaged("it has no cursor"))?;
        fans.restore_place(ShardId(shard), number, subscription, next);
    }
    Ok(fans)
}

/// What a check finds of lists and cursors: rows that do not decode, or do not belong to each other. Each row's
/// length is told to `count`.
pub(crate) fn check_fans(
    txn: &ReadTransaction,
    mut count: impl FnMut(usize),
    mut found: impl FnMut(&'static str, String, &'static str),
) -> Result<(), StoreError> {
    let mut lists = BTreeSet::new();
    for row in txn.open_table(LIST)?.iter()? {
        let (shard, value) = row?;
        count(value.value().len());
        match open_value::<ListRow>(value.value()) {
            Ok(_) => drop(lists.insert(shard.value())),
            Err(why) => found("list", shard.value().to_string(), why),
        }
    }
    let pages = txn.open_table(FAN)?;
    for row in pages.iter()? {
        let (key, value) = row?;
        count(value.value().len());
        if let Err(why) = open_value::<Vec<(u32, Slot)>>(value.value()) {
            found("fan", format!("{:?}", key.value()), why);
        }
    }
    for row in txn.open_table(SUBS)?.iter()? {
        let (key, value) = row?;
        let (shard, number) = key.value();
        count(value.value().len());
        if let Err(why) = open_value::<Subscription>(value.value()) {
            found("subs", format!("{:?}", key.value()), why);
        }
        if !lists.contains(&shard) {
            found("subs", format!("{:?}", key.value()), "no list is its own");
        }
        if pages.get((shard, number / PAGE_PLACES))?.is_none() {
            found("subs", format!("{:?}", key.value()), "it has no cursor");
        }
    }
    Ok(())
}

/// The messages of `shard` in `chunks` (chunk, first place, count) from `from` on, at most `limit`, and the place
/// behind the last of them.
pub(crate) fn read_sent(
    txn: &ReadTransaction,
    chunks: &[(u64, u16, u16)],
    from: Slot,
    limit: usize,
) -> Result<(Vec<CopyOf>, Slot), StoreError> {
    let heads = txn.open_table(HEAD)?;
    let (mut sent, mut end) = (Vec::new(), from);
    for (chunk, first, count) in chunks {
        if let Some(row) = heads.get(chunk)? {
            let head = Head::decode(*chunk, row.value())?;
            for idx in *first..first.saturating_add(*count) {
                let slot = Slot::new(*chunk, idx);
                let entry = head.entries.get(usize::from(idx)).filter(|entry| entry.len > 0 && slot >= from);
                let Some(entry) = entry else { continue };
                if sent.len() == limit {
                    return Ok((sent, slot));
                }
                let HeadEntry { payload_len: len, due, expires, group, object, .. } = *entry;
                sent.push(CopyOf { slot, len, due, expires, group, object });
            }
        }
        end = Slot::new(chunk + 1, 0);
    }
    Ok((sent, end))
}
