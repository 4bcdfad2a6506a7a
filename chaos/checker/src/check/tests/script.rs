//! Histories written by hand.

use super::super::check;
use crate::clock::Micros;
use crate::history::*;
use std::collections::BTreeMap;

pub(super) const MS: Micros = 1000;
pub(super) const S: Micros = 1_000_000;

/// Writes a history by hand; every operation takes one millisecond.
pub(super) struct Script {
    pub(super) now: Micros,
    pub(super) operations: Vec<Operation>,
}

pub(super) fn limits() -> Limits {
    Limits {
        seed: 1,
        max_attempts: 3,
        max_deliveries: 50,
        dedup_window_ms: 300_000,
        durability: "fsync".to_owned(),
        fifo_topics: vec!["fifo".to_owned()],
    }
}

pub(super) fn sent(send: u64, key: Option<&str>) -> Sent {
    Sent {
        send,
        key: key.map(str::to_owned),
        hash: format!("b3:{send}"),
        len: 10,
        content_type: "text/plain".to_owned(),
        attrs: BTreeMap::from([("cid".to_owned(), format!("{send:x}"))]),
        delay_ms: 0,
        forged: false,
    }
}

pub(super) fn id(send: u64) -> String {
    format!("ID{send}")
}

pub(super) fn accepted_as(msg_id: &str, send: u64, duplicate: bool) -> SendResult {
    SendResult::Accepted {
        msg_id: msg_id.to_owned(),
        duplicate,
        durability: Some("fsync".to_owned()),
        hash: Some(format!("b3:{send}")),
    }
}

pub(super) fn envelope(send: u64, delivery: u32, attempt: u32) -> Got {
    Got {
        msg_id: id(send),
        receipt: format!("r{send}.{delivery}"),
        delivery,
        attempt,
        deadline: 0,
        hash: format!("b3:{send}"),
        stated_hash: format!("b3:{send}"),
        len: 10,
        content_type: "text/plain".to_owned(),
        attrs: sent(send, None).attrs,
    }
}

pub(super) fn unknown() -> Outcome {
    Outcome::Unknown("killed".to_owned())
}

pub(super) fn nack(mode: &str, delay_ms: Option<u64>) -> How {
    How::Nack { mode: mode.to_owned(), delay_ms, reason: Some("broken".to_owned()) }
}

impl Script {
    pub(super) fn new() -> Script {
        Script { now: 1_700_000_000 * S, operations: Vec::new() }
    }

    pub(super) fn op(&mut self, call: Call, outcome: Outcome) -> &mut Script {
        let op = u64::try_from(self.operations.len()).unwrap() + 1;
        let (invoked, done) = (self.now, self.now + MS);
        self.now += 2 * MS;
        self.operations.push(Operation { op, invoked, done, call, outcome });
        self
    }

    pub(super) fn wait(&mut self, time: Micros) -> &mut Script {
        self.now += time;
        self
    }

    pub(super) fn send_as(&mut self, topic: &str, sent: Sent, outcome: Outcome) -> &mut Script {
        self.op(Call::Send { topic: topic.to_owned(), route: Route::Single, sends: vec![sent] }, outcome)
    }

    pub(super) fn send(&mut self, topic: &str, send: u64, key: Option<&str>, duplicate: bool) -> &mut Script {
        let outcome = Outcome::Sent(vec![accepted_as(&id(send), send, duplicate)]);
        self.send_as(topic, sent(send, key), outcome)
    }

    /// Receives under a lease of one second, with the right deadline.
    pub(super) fn recv(&mut self, topic: &str, mut messages: Vec<Got>) -> &mut Script {
        for message in &mut messages {
            message.deadline = self.now + MS / 2 + S;
        }
        self.recv_outcome(topic, Outcome::Got(messages))
    }

    pub(super) fn recv_outcome(&mut self, topic: &str, outcome: Outcome) -> &mut Script {
        self.op(Call::Recv { topic: topic.to_owned(), visibility_ms: 1000, max: 10, wait_ms: 0 }, outcome)
    }

    pub(super) fn settle(&mut self, how: How, receipt: &str, result: Option<&str>) -> &mut Script {
        let outcome = Outcome::Settled(vec![result.map(str::to_owned)]);
        self.settle_outcome(how, receipt, outcome)
    }

    pub(super) fn settle_outcome(&mut self, how: How, receipt: &str, outcome: Outcome) -> &mut Script {
        self.op(Call::Settle { topic: "t".to_owned(), how, receipts: vec![receipt.to_owned()] }, outcome)
    }

    pub(super) fn ack(&mut self, receipt: &str) -> &mut Script {
        self.settle(How::Ack, receipt, None)
    }

    /// Walks the dead letters, reads the figures and judges.
    pub(super) fn end(&mut self, topic: &str, dead: Vec<Dead>) -> &mut Script {
        let keys: std::collections::BTreeSet<_> = self
            .operations
            .iter()
            .filter_map(|operation| match (&operation.call, &operation.outcome) {
                (Call::Send { sends, .. }, Outcome::Sent(_)) => sends[0].key.clone(),
                _ => None,
            })
            .collect();
        let dlq = u64::try_from(dead.len()).unwrap();
        let dedup_keys = u64::try_from(keys.len()).unwrap();
        self.op(Call::WalkDlq { topic: topic.to_owned() }, Outcome::Dead(dead));
        let depths = Depths { ready: 0, delayed: 0, vis: 0, dlq, dedup_keys };
        self.op(Call::Stat { topic: topic.to_owned() }, Outcome::Figures(depths))
    }

    pub(super) fn judge(&self) -> Vec<&'static str> {
        let history = History { limits: limits(), operations: self.operations.clone(), kills: Vec::new() };
        let mut ids: Vec<_> = check(&history).iter().map(|violation| violation.invariant.id()).collect();
        ids.dedup();
        ids
    }
}

pub(super) fn dead(send: u64, reason: &str, attempts: u32, delivery: u32) -> Dead {
    let Got { msg_id, hash, len, content_type, attrs, .. } = envelope(send, delivery, attempts);
    Dead { msg_id, hash, len, content_type, attrs, reason: reason.to_owned(), attempts, delivery }
}
