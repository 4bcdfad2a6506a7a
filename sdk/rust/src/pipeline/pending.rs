//! Requests on their way: those that wait for room, and those that wait for their answer.

use crate::error::Error;
use crate::frames::Answer;
use crate::repeat::{self, Effect, Fate};
use crate::window::{Lane, Window};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::{mpsc, oneshot};

/// What a caller is answered.
pub(super) type Reply = oneshot::Sender<Result<Answer, Error>>;

/// A request that is not answered yet.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Which queue it waits in.
    pub(super) lane: Lane,
    /// What repeating it would do.
    pub(super) effect: Effect,
    /// Of a receive: what it brings to nobody goes back there.
    pub(super) topic: Option<String>,
    /// What goes into its frame.
    pub(super) payload: Bytes,
    /// Who waits for the answer; `None` = nobody.
    pub(super) reply: Option<Reply>,
}

impl Pending {
    /// Whether whoever asked has given up.
    fn is_given_up(&self) -> bool {
        self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    fn answer(self, result: Result<Answer, Error>) {
        if let Some(reply) = self.reply {
            let _ = reply.send(result); // whoever asked may have given up meanwhile
        }
    }
}

/// What waits for room, in three lanes.
#[derive(Debug)]
pub(crate) struct Queues {
    channels: [mpsc::Receiver<Pending>; 3],
    /// Before what is in the channels: what did not fit, and what is to be repeated.
    first: [VecDeque<Pending>; 3],
}

impl Queues {
    pub(super) fn new(channels: [mpsc::Receiver<Pending>; 3]) -> Queues {
        Queues { channels, first: Default::default() }
    }

    /// The next request that the window admits; those whose callers have given up are left out.
    pub(super) fn next(&mut self, window: &Window) -> Option<Pending> {
        Lane::ALL.into_iter().find_map(|lane| {
            loop {
                let first = &mut self.first[lane.index()];
                let pending = first.pop_front().or_else(|| self.channels[lane.index()].try_recv().ok())?;
                if pending.is_given_up() {
                    continue;
                }
                if window.admits(lane, pending.payload.len()) {
                    return Some(pending);
                }
                first.push_front(pending);
                return None;
            }
        })
    }

    /// Waits until a lane with nothing set aside has something. Pending for ever once all callers are gone.
    pub(super) async fn more(&mut self) {
        let Queues { channels: [settles, sends, receives], first } = self;
        let (lane, pending) = tokio::select! {
            biased;
            Some(pending) = settles.recv(), if first[0].is_empty() => (0, pending),
            Some(pending) = sends.recv(), if first[1].is_empty() => (1, pending),
            Some(pending) = receives.recv(), if first[2].is_empty() => (2, pending),
            else => return std::future::pending().await,
        };
        first[lane].push_back(pending);
    }

    /// Before all else of its lane.
    pub(super) fn put_back(&mut self, again: Vec<Pending>) {
        for pending in again.into_iter().rev() {
            self.first[pending.lane.index()].push_front(pending);
        }
    }

    /// Everything that waits is answered so.
    pub(super) fn fail_all(&mut self, error: impl Fn() -> Error) {
        for lane in 0..self.channels.len() {
            while let Some(pending) =
                self.first[lane].pop_front().or_else(|| self.channels[lane].try_recv().ok())
            {
                pending.answer(Err(error()));
            }
        }
    }
}

/// What was written to a connection and is not answered, by `corr_id`, which is the order of the frames.
#[derive(Debug, Default)]
pub(super) struct Outstanding(BTreeMap<u64, (Pending, u64)>);

impl Outstanding {
    /// One was written; its frame ends at byte `end` of the connection.
    pub(super) fn add(&mut self, corr_id: u64, pending: Pending, end: u64) {
        self.0.insert(corr_id, (pending, end));
    }

    /// The one that is answered.
    pub(super) fn take(&mut self, corr_id: u64) -> Option<Pending> {
        self.0.remove(&corr_id).map(|(pending, _)| pending)
    }

    /// The connection is gone, after the socket took `written` bytes: what may be repeated, in its order. The others
    /// are answered.
    pub(super) fn broken(&mut self, written: u64) -> Vec<Pending> {
        let mut again = Vec::new();
        for (pending, end) in std::mem::take(&mut self.0).into_values() {
            match repeat::after_break(pending.effect, end <= written) {
                Fate::Again if !pending.is_given_up() => again.push(pending),
                Fate::Again => {}
                Fate::Unknown => pending.answer(Err(Error::Unknown)),
            }
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_core::oap::HelloAnswer;

    type Answered = oneshot::Receiver<Result<Answer, Error>>;

    fn pending(lane: Lane, effect: Effect, name: u8) -> (Pending, Answered) {
        let (reply, answered) = oneshot::channel();
        (Pending { lane, effect, topic: None, payload: vec![name; 10].into(), reply: Some(reply) }, answered)
    }

    fn window(max_inflight: u32) -> Window {
        Window::new(&HelloAnswer {
            max_frame: 1 << 20,
            max_inflight,
            max_bytes: 1 << 20,
            flags_supported: 0,
            versions: vec![1],
            transports: Vec::new(),
        })
    }

    fn queues() -> ([mpsc::Sender<Pending>; 3], Queues) {
        let [(a, x), (b, y), (c, z)] = [0; 3].map(|_| mpsc::channel(8));
        ([a, b, c], Queues::new([x, y, z]))
    }

    #[test]
    fn settling_goes_first_and_what_was_given_up_does_not_go() {
        let (senders, mut queues) = queues();
        let (send, _kept) = pending(Lane::Send, Effect::Same, 1);
        let (settle, _kept_too) = pending(Lane::Settle, Effect::Same, 2);
        let (given_up, gone) = pending(Lane::Settle, Effect::Same, 3);
        drop(gone);
        senders[1].try_send(send).unwrap();
        senders[0].try_send(given_up).unwrap();
        senders[0].try_send(settle).unwrap();
        let window = window(16);
        let names: Vec<u8> =
            std::iter::from_fn(|| queues.next(&window)).map(|pending| pending.payload[0]).collect();
        assert_eq!(names, [2, 1]);
    }

    #[test]
    fn what_does_not_fit_waits_at_the_front_of_its_lane_alone() {
        let (senders, mut queues) = queues();
        let mut window = window(4);
        let (first, _a) = pending(Lane::Recv, Effect::Same, 1);
        let (second, _b) = pending(Lane::Recv, Effect::Same, 2);
        let (send, _c) = pending(Lane::Send, Effect::Same, 3);
        for one in [first, second] {
            senders[2].try_send(one).unwrap();
        }
        senders[1].try_send(send).unwrap();
        for _ in 0..2 {
            window.enter(Lane::Recv, 10);
        }
        assert_eq!(queues.next(&window).unwrap().payload[0], 3, "the send goes past the receives");
        assert!(queues.next(&window).is_none());
        window.leave(Lane::Recv, 10);
        assert_eq!(queues.next(&window).unwrap().payload[0], 1, "and their order is kept");
    }

    #[test]
    fn after_a_break_each_has_its_fate_in_the_old_order() {
        let mut outstanding = Outstanding::default();
        let (keyed, _a) = pending(Lane::Send, Effect::Same, 1);
        let (bare, mut unknown) = pending(Lane::Send, Effect::Twice, 2);
        let (unsent, _b) = pending(Lane::Send, Effect::Twice, 3);
        let (given_up, gone) = pending(Lane::Send, Effect::Same, 4);
        drop(gone);
        for (corr_id, (one, end)) in
            [(keyed, 100), (bare, 200), (unsent, 300), (given_up, 310)].into_iter().enumerate()
        {
            outstanding.add(corr_id as u64, one, end);
        }
        let again: Vec<u8> = outstanding.broken(250).iter().map(|one| one.payload[0]).collect();
        assert_eq!(again, [1, 3], "the third was never handed over as a whole");
        assert!(matches!(unknown.try_recv().unwrap(), Err(Error::Unknown)));
    }
}
