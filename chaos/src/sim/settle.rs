//! Ack, nack and extend as a client does them, and receipts that are not its own.

use super::client::Client;
use super::ops::How;
use super::world::{Complaint, Held};
use ron_actors::mailbox::Settle;
use ron_core::reason::Reason;
use ron_core::shard::NackMode;
use ron_history::record::{self, Op, Out, Settled};

/// The reason that clients give for a reject.
const REJECT_NOTE: &str = "rejected by a consumer";

fn results(answer: Vec<Result<(), Reason>>) -> Result<Vec<Settled>, Complaint> {
    let one = |result| match result {
        Ok(()) => Ok(Settled::Ok),
        Err(Reason::StaleReceipt) => Ok(Settled::Stale),
        Err(Reason::Malformed) => Ok(Settled::Malformed),
        Err(other) => Err(format!("a receipt was answered {other}")),
    };
    answer.into_iter().map(one).collect()
}

impl Client {
    pub(super) async fn settle(&self, queue: usize, how: How, held: Vec<Held>) -> Result<(), Complaint> {
        let receipts: Vec<String> = held.iter().map(|held| held.receipt.clone()).collect();
        let held: Vec<record::Held> = held
            .into_iter()
            .map(|held| record::Held { id: held.msg_id, delivery: u64::from(held.delivery) })
            .collect();
        let n = held.len();
        let call = self.begin(Op::Settle { queue: queue as u32, how: recorded(how), held });
        let answer = self.mailbox.settle(&self.world.queues[queue], command(how), receipts).await;
        let results = match answer {
            Ok(answer) => results(answer)?,
            Err(refusal) => return self.refused(call, name(how), &refusal),
        };
        if results.len() != n {
            return Err(format!("{} results for {n} receipts", results.len()));
        }
        for result in &results {
            self.count(&format!("{} {result:?}", name(how)));
        }
        self.end(call, name(how), Out::Settled(results));
        Ok(())
    }

    pub(super) async fn foreign(
        &self,
        queue: usize,
        how: How,
        receipts: Vec<String>,
    ) -> Result<(), Complaint> {
        let call = self.begin(Op::Foreign { queue: queue as u32, receipts: receipts.len() as u64 });
        match self.mailbox.settle(&self.world.queues[queue], command(how), receipts).await {
            Ok(answer) => {
                self.end(call, "foreign", Out::Settled(results(answer)?));
                Ok(())
            }
            Err(refusal) => self.refused(call, "foreign", &refusal),
        }
    }
}

fn name(how: How) -> &'static str {
    match how {
        How::Ack => "ack",
        How::Nack(NackMode::Fail, _) => "nack-fail",
        How::Nack(NackMode::Release, _) => "nack-release",
        How::Nack(NackMode::Reject, _) => "nack-reject",
        How::Extend(_) => "extend",
    }
}

fn recorded(how: How) -> record::How {
    match how {
        How::Ack => record::How::Ack,
        How::Nack(NackMode::Fail, delay_ms) => record::How::Fail { delay_ms },
        How::Nack(NackMode::Release, delay_ms) => record::How::Release { delay_ms },
        How::Nack(NackMode::Reject, _) => record::How::Reject { reason: REJECT_NOTE.to_owned() },
        How::Extend(visibility_ms) => record::How::Extend { visibility_ms },
    }
}

fn command(how: How) -> Settle {
    match how {
        How::Ack => Settle::Ack,
        How::Nack(mode, delay_ms) => {
            let note = (mode == NackMode::Reject).then(|| REJECT_NOTE.to_owned());
            Settle::Nack { mode, delay_ms, note }
        }
        How::Extend(visibility_ms) => Settle::Extend { visibility_ms },
    }
}
