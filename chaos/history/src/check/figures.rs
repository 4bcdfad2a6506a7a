//! I9, and the contract: figures, pauses, purges, deletions, streams, receives that come back empty.

use super::Found;
use crate::Rule;
use crate::index::{Call, Index};
use crate::life::{Got, Life, Try};
use crate::record::{How, Op, Out, Queue, State};
use std::collections::BTreeMap;

pub(super) fn check(index: &Index<'_>, found: &mut Found<'_>) {
    let mut by_queue: BTreeMap<Queue, Vec<&Life<'_>>> = BTreeMap::new();
    for life in index.lives.values() {
        by_queue.entry(life.queue).or_default().push(life);
    }
    let sums = Sums::of(index);
    for call in &index.calls {
        let lives = |queue| by_queue.get(queue).map_or(&[][..], Vec::as_slice);
        match (call.op, call.out) {
            (Op::Stat { queue }, Some(Out::Figures { ready, delayed, vis, dlq })) => {
                check_sum(index, call, lives(queue), sums.get(queue), [*ready, *delayed, *vis, *dlq], found);
                check_limits(index, call, lives(queue), *queue, [ready + delayed + vis, *vis], found);
            }
            (Op::Stat { queue }, Some(Out::NotFound)) => {
                check_sum(index, call, lives(queue), sums.get(queue), [0; 4], found);
            }
            (Op::Look { id, .. }, Some(out)) => check_look(index, call, id, out, found),
            (Op::Recv { queue, stream: None, .. }, Some(Out::Received(all))) if all.is_empty() => {
                check_empty(index, call, lives(queue), *queue, found);
            }
            (Op::Recv { queue, most, stream, .. }, Some(Out::Received(all))) => {
                check_received(index, call, *queue, *most, all.len() as u64, found);
                if let Some(stream) = stream {
                    check_credit(index, call, lives(queue), *stream, all.len() as u64, found);
                }
            }
            (Op::Purge { queue } | Op::Delete { queue }, Some(Out::Done(_))) => {
                check_ended(index, call, lives(queue), found);
            }
            _ => {}
        }
    }
}

fn surely_there(index: &Index<'_>, call: &Call<'_>, life: &Life<'_>) -> bool {
    life.known.idx < call.begin.idx && !life.may_have_ended(index, call.end)
}

/// What a topic's figures are compared with again and again, looked up once.
#[derive(Default)]
struct Sums {
    /// Of each message: not before this record it was stored, and by this one it was certainly gone.
    spans: Vec<(usize, Option<usize>)>,
    /// Of each payload: when tries began that may have stored it, and before which records what was seen of it was not.
    payloads: Vec<(Vec<usize>, Vec<usize>)>,
}

impl Sums {
    fn of(index: &Index<'_>) -> BTreeMap<Queue, Sums> {
        let mut all: BTreeMap<Queue, Sums> = BTreeMap::new();
        for life in index.lives.values() {
            let gone = life.gone(index).filter(|_| index.restores.is_empty());
            all.entry(life.queue).or_default().spans.push((life.from, gone.map(|gone| gone.idx)));
        }
        for one in index.sendings.values() {
            let stored = one.tries.iter().filter(|one| one.may_have_stored());
            let begun = stored.map(|one| index.calls[one.call].begin.idx).collect();
            let seen = one.ids.iter().map(|id| index.lives[id].from).collect();
            all.entry(one.queue).or_default().payloads.push((begun, seen));
        }
        all
    }

    /// The most messages there can be for a call.
    fn most(&self, call: &Call<'_>) -> u64 {
        let (begin, end) = (call.begin.idx, call.end.idx);
        let there =
            |(from, gone): &&(usize, Option<usize>)| *from < end && gone.is_none_or(|gone| gone >= begin);
        let before = |all: &[usize]| all.iter().filter(|idx| **idx < end).count();
        // what may have been stored and was never seen
        let unseen = self.payloads.iter().map(|(begun, seen)| before(begun).saturating_sub(before(seen)));
        (self.spans.iter().filter(there).count() + unseen.sum::<usize>()) as u64
    }
}

fn check_sum(
    index: &Index<'_>,
    call: &Call<'_>,
    lives: &[&Life<'_>],
    sums: Option<&Sums>,
    figures: [u64; 4],
    found: &mut Found<'_>,
) {
    let least = lives.iter().filter(|life| surely_there(index, call, life)).count() as u64;
    let (sum, most) = (figures.iter().sum::<u64>(), sums.map_or(0, |sums| sums.most(call)));
    found.ensure(least <= sum && sum <= most, Rule::I9, call.end.idx, || {
        format!("{sum} messages by {:?}, not {least} to {most}: {figures:?}", call.op)
    });
}

/// No more than a limit, if it never was another one that was higher.
fn check_limits(
    index: &Index<'_>,
    call: &Call<'_>,
    lives: &[&Life<'_>],
    queue: Queue,
    [depth, vis]: [u64; 2],
    found: &mut Found<'_>,
) {
    let most = |field| index.settings[&queue].most(field, 0, call.end.idx);
    let (max_depth, max_inflight) = (most(|s| s.max_depth), most(|s| s.max_inflight));
    found.ensure(depth <= max_depth, Rule::Contract, call.end.idx, || {
        format!("{depth} messages in q{queue}, which takes {max_depth}")
    });
    // what is extended when its lease is over is in flight again, and settling is never refused
    let again = |life: &&&Life<'_>| {
        let extends = |one: &Try<'_>| matches!(one.how, How::Extend { .. }) && one.may_act();
        life.tries.iter().any(|one| extends(one) && one.begin.idx < call.end.idx)
    };
    let allowed = max_inflight.saturating_add(lives.iter().filter(again).count() as u64);
    found.ensure(vis <= allowed, Rule::Contract, call.end.idx, || {
        format!("{vis} messages of q{queue} in flight, {allowed} may be")
    });
}

fn check_look(index: &Index<'_>, call: &Call<'_>, id: &str, out: &Out, found: &mut Found<'_>) {
    let Some(life) = index.lives.get(id) else { return };
    let there = surely_there(index, call, life);
    let missing = matches!(out, Out::NotFound | Out::Looked { state: State::Ended, .. });
    found.ensure(!(there && missing), Rule::I1, call.end.idx, || format!("{id} is there, and {out:?}"));
    let Out::Looked { state, attempt } = out else { return };
    let newest = life.gots.iter().filter(|got| got.era == call.era && got.end.idx < call.begin.idx);
    let most = newest.map(|got| got.seen.attempt).max().unwrap_or(0);
    let changes =
        life.tries.iter().any(|one| one.gives_back() && one.may_act() && one.begin.idx < call.end.idx);
    let dropped = life.gots.iter().any(|got| got.dropped);
    let excused = changes || dropped || life.may_be_revived(index, 0, call.end.idx);
    let fell = *state != State::Ended && *attempt < most && !excused;
    found.ensure(!fell, Rule::I5, call.end.idx, || format!("{id}: attempt {attempt}, and {most} was seen"));
}

/// A receive that is answered empty must have found nothing.
fn check_empty(index: &Index<'_>, call: &Call<'_>, lives: &[&Life<'_>], queue: Queue, found: &mut Found<'_>) {
    let past = &index.settings[&queue];
    let (begin, end) = (call.begin, call.end);
    if past.most(|s| s.paused, begin.idx, end.idx) != 0 || past.most(|s| s.fifo, begin.idx, end.idx) != 0 {
        return;
    }
    let removed = |call: &Call<'_>| {
        matches!(call.op, Op::Purge { .. } | Op::Delete { .. })
            && call.may_act()
            && call.begin.idx < end.idx
            && call.latest > begin.idx
    };
    // a receive without an answer may have had it for a while, or a commit that was lost
    let lost = |call: &Call<'_>| call.begin.idx < end.idx;
    if index.removals(queue).any(removed) || index.lost_receives(queue).any(lost) {
        return;
    }
    for life in lives {
        let item = life.content.and_then(|content| index.sendings.get(&content)).map(|one| one.item);
        let plain = item.is_some_and(|item| item.delay_ms == 0 && item.ttl_ms.is_none());
        // its first delivery of all came later, so nobody had it meanwhile
        let later = life
            .gots
            .first()
            .is_some_and(|got| got.seen.delivery == 1 && got.era == call.era && got.leased().0 > end.ms);
        let ready = plain && later && surely_there(index, call, life);
        found.ensure(!ready, Rule::I10, end.idx, || {
            format!("a receive found nothing, and {} was ready", life.id)
        });
    }
}

fn check_received(
    index: &Index<'_>,
    call: &Call<'_>,
    queue: Queue,
    most: u64,
    n: u64,
    found: &mut Found<'_>,
) {
    found.ensure(n <= most, Rule::Contract, call.end.idx, || {
        format!("{n} messages, and {most} were asked for")
    });
    let paused = index.settings[&queue].surely(|s| s.paused, call.begin.idx, call.end.idx);
    found.ensure(n == 0 || !paused, Rule::Contract, call.end.idx, || {
        format!("{n} messages of q{queue}, which is paused")
    });
}

/// A stream holds no more than it said.
fn check_credit(
    index: &Index<'_>,
    call: &Call<'_>,
    lives: &[&Life<'_>],
    stream: (u64, u64),
    n: u64,
    found: &mut Found<'_>,
) {
    // a lease that was over when it was extended is held by nobody's stream
    let kept = |one: &Try<'_>, got: &Got<'_>| {
        matches!(one.how, How::Extend { .. }) && one.end.ms < got.seen.deadline
    };
    let given_up = |one: &Try<'_>, got: &Got<'_>| one.begin.idx < call.end.idx && !kept(one, got);
    let held = |life: &Life<'_>, got: &Got<'_>| {
        got.stream == Some(stream)
            && got.end.idx < call.begin.idx
            && life.floor(got, call.end.idx) > call.end.ms
            && !life.tries_of(got.era, got.seen.delivery).any(|one| given_up(one, got))
            && !life.may_have_ended(index, call.end)
    };
    let holds = lives.iter().flat_map(|life| life.gots.iter().filter(|got| held(life, got))).count() as u64;
    found.ensure(holds + n <= stream.1, Rule::Contract, call.end.idx, || {
        format!("a stream of {} holds {holds} and got {n} more", stream.1)
    });
}

/// After a purge or a deletion nothing of before is delivered.
fn check_ended(index: &Index<'_>, call: &Call<'_>, lives: &[&Life<'_>], found: &mut Found<'_>) {
    let purge = matches!(call.op, Op::Purge { .. });
    for life in lives.iter().filter(|life| life.known.idx < call.begin.idx) {
        for got in &life.gots {
            let later = got.end.idx > call.end.idx && got.leased().0 > call.end.ms;
            let after = got.begin.idx > call.end.idx || later;
            let revived = purge && life.may_be_revived(index, call.begin.idx, got.end.idx);
            let excused = !after || got.era < call.era || revived || index.undone(call.end.idx, got.end.idx);
            found.ensure(excused, Rule::Contract, got.end.idx, || {
                format!("{}: delivered after {:?} at record {}", life.id, call.op, call.end.idx)
            });
        }
    }
}
