//! The history, sorted by what it is about: calls, topics, payloads, messages.

use crate::life::{Got, Life, Sight, Try};
use crate::record::{Content, Event, How, Item, Op, Out, Queue, Record, Sent, Settings, Settled, State};
use crate::settings::Past;
use crate::{Rule, Violation};
use std::collections::BTreeMap;

/// A place in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) idx: usize,
    pub(crate) ms: u64,
}

impl At {
    pub(crate) const NEVER: At = At { idx: usize::MAX, ms: u64::MAX };
}

/// One call.
#[derive(Debug)]
pub(crate) struct Call<'h> {
    pub(crate) op: &'h Op,
    pub(crate) begin: At,
    /// [`At::NEVER`] if it was never answered.
    pub(crate) end: At,
    pub(crate) out: Option<&'h Out>,
    /// It cannot act after this record.
    pub(crate) latest: usize,
    /// How often the store was replaced before it.
    pub(crate) era: usize,
}

impl Call<'_> {
    /// Answered, and done.
    pub(crate) fn is_done(&self) -> bool {
        self.out.is_some_and(|out| !matches!(out, Out::Refused(_) | Out::Unknown(_) | Out::NotFound))
    }

    /// A reprocessing may move messages until then: a task outlives its call, and the process.
    pub(crate) fn task_until(&self, index: &Index<'_>) -> usize {
        let Op::Reprocess { queue, .. } = self.op else { return usize::MAX };
        // a cancelling that came after a snapshot is undone with it
        let undone = |call: &Call<'_>| index.undone(call.end.idx, usize::MAX);
        let over = |call: &&Call<'_>| call.is_done() && call.begin.idx > self.latest && !undone(call);
        index.some_of(*queue, |calls| &calls.cancels).find(over).map_or(usize::MAX, |call| call.end.idx)
    }

    /// Whether it may have done something.
    pub(crate) fn may_act(&self) -> bool {
        !matches!(self.out, Some(Out::Refused(_) | Out::NotFound))
    }
}

/// The store was replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restore {
    pub(crate) at: At,
    /// When the snapshot was begun.
    pub(crate) from: usize,
}

/// One try to send a payload.
#[derive(Debug)]
pub(crate) struct SendTry<'h> {
    pub(crate) call: usize,
    /// `None` = not answered.
    pub(crate) sent: Option<&'h Sent>,
    pub(crate) refused: bool,
}

impl SendTry<'_> {
    /// Whether a message may have come of it.
    pub(crate) fn may_have_stored(&self) -> bool {
        !self.refused && matches!(self.sent, None | Some(Sent::Stored { .. }))
    }
}

/// One payload.
#[derive(Debug)]
pub(crate) struct Sending<'h> {
    pub(crate) queue: Queue,
    pub(crate) item: &'h Item,
    pub(crate) tries: Vec<SendTry<'h>>,
    pub(crate) ids: Vec<&'h str>,
}

/// The node was emptied.
#[derive(Debug)]
pub(crate) struct Drained<'h> {
    pub(crate) at: At,
    pub(crate) queue: Queue,
    pub(crate) dead: &'h [String],
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Index<'h> {
    pub(crate) calls: Vec<Call<'h>>,
    pub(crate) records: usize,
    pub(crate) downs: Vec<usize>,
    pub(crate) restores: Vec<Restore>,
    /// Nothing may expire in these times, ms.
    pub(crate) held: Vec<(u64, u64)>,
    pub(crate) calm: Option<(At, u64)>,
    pub(crate) drained: Vec<Drained<'h>>,
    pub(crate) on_disk: Vec<(At, &'h [Content])>,
    pub(crate) settings: BTreeMap<Queue, Past>,
    pub(crate) sendings: BTreeMap<Content, Sending<'h>>,
    pub(crate) lives: BTreeMap<&'h str, Life<'h>>,
    of_queue: BTreeMap<Queue, OfQueue>,
}

/// The calls of one topic, by number; the rules ask for these kinds for every message anew.
#[derive(Debug, Default)]
struct OfQueue {
    /// Those that end messages otherwise than by settling.
    removals: Vec<usize>,
    reprocessings: Vec<usize>,
    cancels: Vec<usize>,
    /// Receives of which the client does not know what they brought.
    lost: Vec<usize>,
}

fn queue_of(op: &Op) -> Option<Queue> {
    match op {
        Op::Send { queue, .. }
        | Op::Recv { queue, .. }
        | Op::Settle { queue, .. }
        | Op::Foreign { queue, .. }
        | Op::Stat { queue }
        | Op::Peek { queue, .. }
        | Op::Look { queue, .. }
        | Op::Purge { queue }
        | Op::PurgeDead { queue, .. }
        | Op::Replace { queue, .. }
        | Op::Delete { queue }
        | Op::Reprocess { queue, .. }
        | Op::Cancel { queue }
        | Op::Configure { queue, .. } => Some(*queue),
        Op::Snapshot => None,
    }
}

impl<'h> Index<'h> {
    pub(crate) fn of(history: &'h [Record], found: &mut Vec<Violation>) -> Index<'h> {
        let mut index = Index { records: history.len(), ..Index::default() };
        let defaults = index.read_calls(history);
        let restored: Vec<usize> = index.restores.iter().map(|restore| restore.at.idx).collect();
        for (number, call) in index.calls.iter().enumerate() {
            let Some(queue) = queue_of(call.op) else { continue };
            let of_queue = index.of_queue.entry(queue).or_default();
            match call.op {
                Op::Purge { .. } | Op::Delete { .. } | Op::PurgeDead { .. } | Op::Replace { .. } => {
                    of_queue.removals.push(number);
                }
                Op::Reprocess { .. } => of_queue.reprocessings.push(number),
                Op::Cancel { .. } => of_queue.cancels.push(number),
                Op::Recv { dropped, .. } if *dropped || !call.is_done() => of_queue.lost.push(number),
                _ => {}
            }
        }
        for queue in index.of_queue.keys() {
            let past = Past::of(*queue, &index.calls, defaults, restored.clone());
            index.settings.insert(*queue, past);
        }
        for number in 0..index.calls.len() {
            index.read_send(number);
        }
        for number in 0..index.calls.len() {
            index.read_answer(number, found);
        }
        for number in 0..index.calls.len() {
            index.read_settling(number);
        }
        for life in index.lives.values_mut() {
            life.gots.sort_by_key(|got| (got.era, got.seen.delivery, got.begin.idx));
        }
        index
    }

    fn read_calls(&mut self, history: &'h [Record]) -> Settings {
        let mut defaults = Settings::default();
        let mut numbers: BTreeMap<u64, usize> = BTreeMap::new();
        let mut held_from = None;
        for (idx, Record { ms, event }) in history.iter().enumerate() {
            let at = At { idx, ms: *ms };
            match event {
                Event::Defaults(settings) => defaults = *settings,
                Event::Begin { call, op } => {
                    numbers.insert(*call, self.calls.len());
                    let (end, latest, era) = (At::NEVER, usize::MAX, self.restores.len());
                    self.calls.push(Call { op, begin: at, end, out: None, latest, era });
                }
                Event::End { call, out } => {
                    if let Some(call) = numbers.get(call).and_then(|number| self.calls.get_mut(*number)) {
                        (call.end, call.out) = (at, Some(out));
                        if !matches!(out, Out::Unknown(_)) {
                            call.latest = idx;
                        }
                    }
                }
                Event::Down => {
                    self.downs.push(idx);
                    self.calls.iter_mut().for_each(|call| call.latest = call.latest.min(idx));
                }
                Event::Held(true) => held_from = held_from.or(Some(*ms)),
                Event::Held(false) => self.held.extend(held_from.take().map(|from| (from, *ms))),
                Event::Restored { snapshot } => {
                    let call = numbers.get(snapshot).and_then(|number| self.calls.get(*number));
                    let from = call.map_or(0, |call| call.begin.idx);
                    self.restores.push(Restore { at, from });
                }
                Event::Calm { within_ms } => self.calm = Some((at, *within_ms)),
                Event::Drained { queue, dead } => self.drained.push(Drained { at, queue: *queue, dead }),
                Event::OnDisk(contents) => self.on_disk.push((at, contents)),
            }
        }
        self.held.extend(held_from.map(|from| (from, u64::MAX)));
        defaults
    }

    fn read_send(&mut self, number: usize) {
        let call = &self.calls[number];
        let (queue, items) = match call.op {
            Op::Send { queue, items } => (*queue, items.as_slice()),
            Op::Replace { queue, item, .. } => (*queue, std::slice::from_ref(item)),
            _ => return,
        };
        let sent = match call.out {
            Some(Out::Sent(sent)) => Some(sent),
            _ => None,
        };
        let refused = !call.may_act();
        for (place, item) in items.iter().enumerate() {
            let sent = sent.and_then(|sent| sent.get(place));
            let sending = self.sendings.entry(item.content).or_insert_with(|| Sending {
                queue,
                item,
                tries: Vec::new(),
                ids: Vec::new(),
            });
            sending.tries.push(SendTry { call: number, sent, refused });
        }
    }

    /// Meets a message.
    fn meet(&mut self, id: &'h str, queue: Queue, content: Option<Content>, known: At) -> &mut Life<'h> {
        if let Some(sending) = content.and_then(|content| self.sendings.get_mut(&content))
            && sending.queue == queue
            && !sending.ids.contains(&id)
        {
            sending.ids.push(id);
        }
        let from = content.and_then(|content| self.sendings.get(&content)).map_or(known.idx, |sending| {
            let possible = sending.tries.iter().filter(|one| one.may_have_stored());
            possible.map(|one| self.calls[one.call].begin.idx).min().unwrap_or(known.idx)
        });
        let life = self.lives.entry(id).or_insert_with(|| Life::new(id, queue, content, from, known));
        if known.idx < life.known.idx {
            life.known = known;
        }
        life
    }

    fn read_answer(&mut self, number: usize, found: &mut Vec<Violation>) {
        let Call { op, begin, end, era, .. } = self.calls[number];
        let Some(out) = self.calls[number].out else { return };
        match (op, out) {
            (Op::Send { queue, items }, Out::Sent(sent)) => {
                if items.len() != sent.len() {
                    let text = format!("{} results for {} messages", sent.len(), items.len());
                    found.push(Violation { rule: Rule::Contract, record: end.idx, text });
                }
                items
                    .iter()
                    .zip(sent)
                    .for_each(|(item, sent)| self.read_sent(*queue, item, sent, begin, end));
            }
            (Op::Replace { queue, item, .. }, Out::Sent(sent)) => {
                sent.iter().for_each(|sent| self.read_sent(*queue, item, sent, begin, end));
            }
            (Op::Recv { queue, visibility_ms, dropped, stream, .. }, Out::Received(all)) => {
                for seen in all {
                    let possible = |field| self.settings[queue].possible(field, begin.idx, end.idx);
                    let lengths = visibility_ms.map_or_else(|| possible(|s| s.visibility_ms), |ms| vec![ms]);
                    let got = Got { begin, end, seen, lengths, dropped: *dropped, stream: *stream, era };
                    self.meet(&seen.id, *queue, seen.content, end).gots.push(got);
                }
            }
            (Op::Peek { queue, state }, Out::Page(all)) => {
                for seen in all {
                    let sight = Sight {
                        begin,
                        end,
                        era,
                        state: *state,
                        attempt: seen.attempt,
                        delivery: seen.delivery,
                        seen: Some(seen),
                    };
                    self.meet(&seen.id, *queue, seen.content, end).sights.push(sight);
                }
            }
            (Op::Look { queue, id }, Out::Looked { state, attempt }) if *state != State::Ended => {
                let content = self.lives.get(id.as_str()).and_then(|life| life.content);
                let (state, attempt, delivery) = (*state, *attempt, None);
                let sight = Sight { begin, end, era, state, attempt, delivery, seen: None };
                self.meet(id, *queue, content, end).sights.push(sight);
            }
            _ => {}
        }
    }

    fn read_sent(&mut self, queue: Queue, item: &'h Item, sent: &'h Sent, begin: At, end: At) {
        match sent {
            Sent::Stored { id, ram } => {
                let life = self.meet(id, queue, Some(item.content), end);
                life.ram |= *ram;
                // only now is it known when this very one was stored
                (life.from, life.stored) = (begin.idx, Some((begin, end)));
            }
            Sent::Duplicate { id } => {
                self.meet(id, queue, Some(item.content), end);
            }
            Sent::Conflict | Sent::Full => {}
        }
    }

    fn read_settling(&mut self, number: usize) {
        let call = &self.calls[number];
        let Op::Settle { how, held, .. } = call.op else { return };
        let results = match call.out {
            Some(Out::Settled(results)) => Some(results),
            _ => None,
        };
        for (place, one) in held.iter().enumerate() {
            let result: Option<Settled> = results.and_then(|results| results.get(place)).copied();
            let settling = Try {
                begin: call.begin,
                end: call.end,
                latest: call.latest,
                era: call.era,
                how,
                delivery: one.delivery,
                result,
                refused: !call.may_act(),
            };
            if let Some(life) = self.lives.get_mut(one.id.as_str()) {
                life.tries.push(settling);
            }
        }
    }

    fn some_of(&self, queue: Queue, which: fn(&OfQueue) -> &Vec<usize>) -> impl Iterator<Item = &Call<'h>> {
        self.of_queue.get(&queue).map(which).into_iter().flatten().map(|number| &self.calls[*number])
    }

    /// Calls that may have ended messages of the topic otherwise than by settling: purges, deletions, replacements.
    pub(crate) fn removals(&self, queue: Queue) -> impl Iterator<Item = &Call<'h>> {
        self.some_of(queue, |calls| &calls.removals)
    }

    /// Calls that bring back its dead letters.
    pub(crate) fn reprocessings(&self, queue: Queue) -> impl Iterator<Item = &Call<'h>> {
        self.some_of(queue, |calls| &calls.reprocessings)
    }

    /// Receives from it that may have brought something, and nobody knows what.
    pub(crate) fn lost_receives(&self, queue: Queue) -> impl Iterator<Item = &Call<'h>> {
        self.some_of(queue, |calls| &calls.lost)
    }

    /// Whether nothing could expire at some time between the two.
    pub(crate) fn held_between(&self, from_ms: u64, to_ms: u64) -> bool {
        self.held.iter().any(|(from, to)| *from <= to_ms && from_ms <= *to)
    }

    /// Whether what was known to be so at record `from` need not be so at record `to`, because a snapshot that does
    /// not have it was put in place.
    pub(crate) fn undone(&self, from: usize, to: usize) -> bool {
        self.restores.iter().any(|one| one.at.idx > from && one.at.idx < to && one.from <= from)
    }
}

/// Whether the settling ends the message.
pub(crate) fn is_ack(how: &How) -> bool {
    matches!(how, How::Ack)
}
