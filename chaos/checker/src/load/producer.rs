//! Clients that send: single, in batches, as webhooks, again, and in conflict.

use super::lock;
use super::plan::{FAILING, FIFO, Plan, TOPICS};
use super::session::Session;
use crate::history::{Outcome, SendResult};
use crate::node::{GITHUB_TOPIC, STRIPE_TOPIC};

/// Runs client `number` until the load stops. Number 0 sends to the topic that is in order.
pub(super) fn run(mut session: Session, number: u64) {
    if number == 0 {
        in_order(&mut session);
        return;
    }
    while !session.shared.stopping() {
        let going = match session.rng.between(0, 99) {
            0..50 => single(&mut session),
            50..62 => batch(&mut session),
            62..80 => webhook(&mut session),
            80..92 => again(&mut session),
            92..96 => conflict(&mut session),
            _ => retry_open(&mut session),
        };
        if going.is_none() {
            return;
        }
    }
}

fn topic(session: &mut Session) -> &'static str {
    if session.rng.percent(10) { FAILING } else { session.rng.pick(&TOPICS).copied().unwrap_or(FAILING) }
}

/// Remembers what may be sent again: accepted keys as known ones, open keys to be resolved.
fn note(session: &Session, plan: &Plan, outcome: &Outcome, result: Option<&SendResult>) {
    let keyed = plan.key.is_some() || matches!(plan.topic, GITHUB_TOPIC | STRIPE_TOPIC);
    if !keyed || plan.forged {
        return;
    }
    if matches!(result, Some(SendResult::Accepted { .. })) {
        session.shared.remember(plan);
    } else if Session::is_open(outcome) {
        lock(&session.shared.open).push(plan.clone());
    }
}

fn send(session: &mut Session, plan: &Plan) -> Option<Outcome> {
    let outcome = session.send(plan)?;
    let result = if let Outcome::Sent(results) = &outcome { results.first() } else { None };
    note(session, plan, &outcome, result);
    back_off(&outcome);
    Some(outcome)
}

/// A refused client waits, as clients do.
fn back_off(outcome: &Outcome) {
    if matches!(outcome, Outcome::Refused { status: 429 | 500.., .. } | Outcome::NotSent) {
        crate::clock::sleep(std::time::Duration::from_millis(20));
    }
}

fn single(session: &mut Session) -> Option<()> {
    let (number, topic) = (session.shared.next_send(), topic(session));
    let plan = Plan::draw(&mut session.rng, number, topic);
    send(session, &plan).map(drop)
}

fn webhook(session: &mut Session) -> Option<()> {
    let number = session.shared.next_send();
    let topic = if session.rng.percent(50) { GITHUB_TOPIC } else { STRIPE_TOPIC };
    let plan = Plan::draw(&mut session.rng, number, topic);
    send(session, &plan).map(drop)
}

fn batch(session: &mut Session) -> Option<()> {
    let (count, topic) = (session.rng.between(1, 16), topic(session));
    let mut plans = Vec::new();
    for _ in 0..count {
        let number = session.shared.next_send();
        let mut plan = Plan::draw(&mut session.rng, number, topic);
        plan.size = plan.size.min(65_536);
        plans.push(plan);
    }
    if session.rng.percent(50) {
        let outcomes = session.send_pipelined(&plans)?;
        for (plan, outcome) in plans.iter().zip(&outcomes) {
            let result = if let Outcome::Sent(results) = outcome { results.first() } else { None };
            note(session, plan, outcome, result);
        }
        outcomes.last().iter().copied().for_each(back_off);
        return Some(());
    }
    let outcome = session.send_batch(topic, &plans)?;
    for (place, plan) in plans.iter().enumerate() {
        let result = if let Outcome::Sent(results) = &outcome { results.get(place) } else { None };
        note(session, plan, &outcome, result);
    }
    back_off(&outcome);
    Some(())
}

/// Sends a known key again: it must be recognised.
fn again(session: &mut Session) -> Option<()> {
    let known = pick_known(session, |_| true);
    match known {
        Some(plan) => send(session, &plan).map(drop),
        None => single(session),
    }
}

/// Sends a known key with another body: it must be refused.
fn conflict(session: &mut Session) -> Option<()> {
    let known = pick_known(session, |plan| plan.key.is_some() && plan.size > 8 && plan.topic != FIFO);
    let Some(plan) = known else { return single(session) };
    let number = session.shared.next_send();
    // a send of its own, so that its body is its own: it must never come out
    let other = Plan { send: number, salt: 1, delay_ms: 0, ..plan };
    session.send(&other).map(drop)
}

fn pick_known(session: &mut Session, fits: impl Fn(&Plan) -> bool) -> Option<Plan> {
    let known = lock(&session.shared.known);
    let len = u64::try_from(known.len()).ok().filter(|&len| len > 0)?;
    let at = usize::try_from(session.rng.between(0, len - 1)).ok()?;
    known.get(at).filter(|plan| fits(plan)).cloned()
}

/// Resolves a send whose outcome is unknown: the same again, as a careful client does.
fn retry_open(session: &mut Session) -> Option<()> {
    let open = lock(&session.shared.open).pop();
    match open {
        Some(plan) => send(session, &plan).map(drop),
        None => single(session),
    }
}

/// One message after the other, each until it is answered.
fn in_order(session: &mut Session) {
    while !session.shared.stopping() {
        let number = session.shared.next_send();
        let mut plan = Plan::draw(&mut session.rng, number, FIFO);
        plan.size = plan.size.min(4096);
        loop {
            let Some(outcome) = send(session, &plan) else { return };
            if !Session::is_open(&outcome) {
                break;
            }
        }
    }
}

/// Sends all that is open once more, until nothing is; and known keys once more. `None` when the run is over.
pub(super) fn resolve_all(session: &mut Session) -> Option<()> {
    for _ in 0..10 {
        let open = std::mem::take(&mut *lock(&session.shared.open));
        if open.is_empty() {
            break;
        }
        for plan in open {
            send(session, &plan)?;
        }
    }
    for _ in 0..500 {
        again(session)?;
    }
    Some(())
}
