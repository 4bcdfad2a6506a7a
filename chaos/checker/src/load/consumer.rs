//! Clients that receive, and settle in every way there is, sometimes with receipts that are no longer theirs.

use super::plan::{FAILING, FIFO, all_topics};
use super::session::Session;
use crate::history::{Got, How};

/// Runs client `number` until the load stops. Number 0 is the only consumer of the topic that is in order.
pub(super) fn run(mut session: Session, number: u64) {
    if number == 0 {
        in_order(&mut session);
        return;
    }
    let topics: Vec<_> = all_topics().into_iter().filter(|&topic| topic != FIFO).collect();
    let home = usize::try_from(number).map_or(0, |number| number % topics.len());
    while !session.shared.stopping() {
        if round(&mut session, topics[home]).is_none() {
            return;
        }
    }
}

fn nack(mode: &str, delay_ms: Option<u64>) -> How {
    let reason = Some(format!("drill-{mode}"));
    How::Nack { mode: mode.to_owned(), delay_ms, reason }
}

/// One receive and what follows from it.
fn round(session: &mut Session, topic: &str) -> Option<()> {
    let visibility = match session.rng.between(0, 9) {
        0 => 250,
        1..4 => session.rng.between(250, 1000),
        _ => session.rng.between(1000, 10_000),
    };
    let max = u32::try_from(session.rng.between(1, 48)).unwrap_or(1);
    let wait = if session.rng.percent(50) { session.rng.between(1, 500) } else { 0 };
    let messages = session.recv(topic, visibility, max, wait)?;
    let failing = topic == FAILING;
    let (mut acks, mut late) = (Vec::new(), Vec::new());
    for got in messages {
        let superseded = session.shared.supersede(&got);
        if let Some(old) = superseded.filter(|_| session.rng.percent(40)) {
            try_stale(session, topic, old)?;
        }
        let receipt = vec![got.receipt.clone()];
        match session.rng.between(0, 99) {
            0..60 if failing => {
                let delay = session.rng.between(0, 300);
                session.settle(topic, &nack("fail", Some(delay)), &receipt)?;
            }
            0..3 => drop(session.settle(topic, &nack("fail", None), &receipt)?),
            3..6 => {
                let delay = session.rng.between(1, 2000);
                session.settle(topic, &nack("fail", Some(delay)), &receipt)?;
            }
            6..9 => drop(session.settle(topic, &nack("release", None), &receipt)?),
            9 => drop(session.settle(topic, &nack("reject", None), &receipt)?),
            10..13 => {
                let visibility_ms = session.rng.between(500, 5000);
                session.settle(topic, &How::Extend { visibility_ms }, &receipt)?;
                if session.rng.percent(50) {
                    acks.push(got.receipt);
                }
            }
            13..16 => {} // the consumer dies: the lease runs out
            16..18 => late.push(got.receipt),
            _ => acks.push(got.receipt),
        }
    }
    if !acks.is_empty() {
        session.settle(topic, &How::Ack, &acks)?;
    }
    if !late.is_empty() {
        settle_late(session, topic, visibility, &late)?;
    }
    Some(())
}

/// Settles around the deadline, where both answers are right and the effect must fit the answer.
fn settle_late(session: &mut Session, topic: &str, visibility: u64, receipts: &[String]) -> Option<()> {
    if visibility <= 1000 {
        let around = session.rng.between(visibility * 9 / 10, visibility * 11 / 10);
        crate::clock::sleep(std::time::Duration::from_millis(around));
    }
    let how = if session.rng.percent(70) { How::Ack } else { nack("release", None) };
    session.settle(topic, &how, receipts).map(drop)
}

/// Tries a receipt that a newer delivery has replaced.
fn try_stale(session: &mut Session, topic: &str, old: Got) -> Option<()> {
    let how = match session.rng.between(0, 4) {
        0..2 => How::Ack,
        2 => nack("fail", None),
        3 => nack("reject", None),
        _ => How::Extend { visibility_ms: 60_000 },
    };
    session.settle(topic, &how, &[old.receipt]).map(drop)
}

/// Receives one after the other and acks all, so that only kills disturb the order.
fn in_order(session: &mut Session) {
    while !session.shared.stopping() {
        let max = u32::try_from(session.rng.between(1, 20)).unwrap_or(1);
        let Some(messages) = session.recv(FIFO, 10_000, max, 200) else { return };
        let receipts: Vec<_> = messages.into_iter().map(|got| got.receipt).collect();
        if !receipts.is_empty() && session.settle(FIFO, &How::Ack, &receipts).is_none() {
            return;
        }
    }
}
