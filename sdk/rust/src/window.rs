//! How much may be outstanding on a connection: the node's limits, shared out so that what settles is never held up by
//! receives that wait. Pure.

use ron_core::oap::HelloAnswer;

/// The three kinds of requests, each with a queue of its own; what comes first is let in first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Ack, nack, extend.
    Settle,
    /// One message, or a batch.
    Send,
    /// A receive, which may wait for long.
    Recv,
}

impl Lane {
    /// In the order in which they are let in.
    pub(crate) const ALL: [Lane; 3] = [Lane::Settle, Lane::Send, Lane::Recv];

    /// Where its figures stand.
    pub(crate) const fn index(self) -> usize {
        match self {
            Lane::Settle => 0,
            Lane::Send => 1,
            Lane::Recv => 2,
        }
    }
}

/// What is outstanding, by count and bytes.
#[derive(Debug)]
pub(crate) struct Window {
    count_max: usize,
    bytes_max: usize,
    counts: [usize; 3],
    bytes: usize,
}

impl Window {
    /// An empty one, as large as the node said.
    pub(crate) fn new(limits: &HelloAnswer) -> Window {
        let (count_max, bytes_max) = (limits.max_inflight.max(4) as usize, limits.max_bytes as usize);
        Window { count_max, bytes_max, counts: [0; 3], bytes: 0 }
    }

    /// Whether a request of that many bytes may go out now. A lone one always may.
    pub(crate) fn admits(&self, lane: Lane, bytes: usize) -> bool {
        let share = match lane {
            Lane::Settle => self.count_max,
            Lane::Send => self.count_max - self.count_max / 8,
            Lane::Recv => self.count_max / 2,
        };
        let all: usize = self.counts.iter().sum();
        let of_lane = if lane == Lane::Recv { self.counts[lane.index()] } else { all };
        let fits = self.bytes == 0 || self.bytes + bytes <= self.bytes_max;
        all < self.count_max && of_lane < share && fits
    }

    /// One goes out.
    pub(crate) fn enter(&mut self, lane: Lane, bytes: usize) {
        self.counts[lane.index()] += 1;
        self.bytes += bytes;
    }

    /// One is answered.
    pub(crate) fn leave(&mut self, lane: Lane, bytes: usize) {
        self.counts[lane.index()] = self.counts[lane.index()].saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether nothing is outstanding.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts == [0; 3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(max_inflight: u32, max_bytes: u32) -> Window {
        Window::new(&HelloAnswer {
            max_frame: 1 << 20,
            max_inflight,
            max_bytes,
            flags_supported: 0,
            versions: vec![1],
            transports: Vec::new(),
        })
    }

    #[test]
    fn neither_count_nor_bytes_are_ever_exceeded() {
        let mut window = window(16, 1_000);
        for _ in 0..10 {
            assert!(window.admits(Lane::Settle, 100));
            window.enter(Lane::Settle, 100);
        }
        assert!(!window.admits(Lane::Settle, 1), "the bytes are used up");
        window.leave(Lane::Settle, 100);
        for _ in 0..7 {
            assert!(window.admits(Lane::Settle, 1));
            window.enter(Lane::Settle, 1);
        }
        assert!(!window.admits(Lane::Settle, 1), "sixteen are outstanding");
    }

    #[test]
    fn a_lone_request_may_be_larger_than_the_window() {
        let mut window = window(16, 1_000);
        assert!(window.admits(Lane::Send, 5_000));
        window.enter(Lane::Send, 5_000);
        assert!(!window.admits(Lane::Settle, 1));
        window.leave(Lane::Send, 5_000);
        assert!(window.is_empty() && window.admits(Lane::Send, 5_000));
    }

    #[test]
    fn receives_that_wait_leave_room_for_sends_and_these_for_settling() {
        let mut window = window(16, 1_000_000);
        while window.admits(Lane::Recv, 50) {
            window.enter(Lane::Recv, 50);
        }
        assert_eq!(window.counts, [0, 0, 8]);
        while window.admits(Lane::Send, 50) {
            window.enter(Lane::Send, 50);
        }
        assert_eq!(window.counts, [0, 6, 8]);
        window.enter(Lane::Settle, 50);
        assert!(window.admits(Lane::Settle, 50));
    }
}
