//! Telling a history.

use crate::record::{
    Delivered, Event, Held, How, Item, Letter, Op, Out, Record, Seen, Sent, Settings, Settled, State,
};
use crate::{Rule, judge};

/// The id of a message enqueued at `ms`, the `place`-th of the store.
pub(super) fn id(ms: u64, place: u64) -> String {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let digits = |mut n: u64, len: usize| {
        let mut text = vec![b'0'; len];
        for place in text.iter_mut().rev() {
            *place = DIGITS[(n % 32) as usize];
            n /= 32;
        }
        String::from_utf8(text).unwrap()
    };
    digits(ms, 10) + &digits(place, 16)
}

pub(super) fn item(content: u64) -> Item {
    Item {
        content,
        hash: content + 100,
        key: None,
        origin: None,
        window_ms: None,
        delay_ms: 0,
        ttl_ms: None,
        group: None,
    }
}

pub(super) fn send_op(content: u64) -> Op {
    Op::Send { queue: 0, items: vec![item(content)] }
}

pub(super) struct Tale {
    pub(super) records: Vec<Record>,
    ms: u64,
    calls: u64,
}

impl Tale {
    /// One attempt is a second; three are the most; a key is known for a minute.
    pub(super) fn new() -> Tale {
        let settings = Settings {
            visibility_ms: Some(1_000),
            max_attempts: Some(3),
            max_deliveries: Some(5),
            retention_ms: Some(1_000_000),
            dlq_retention_ms: Some(1_000_000),
            dedup_window_ms: Some(60_000),
            fifo: Some(0),
            ram: Some(0),
            max_depth: Some(10),
            max_inflight: Some(5),
            paused: Some(0),
        };
        Tale { records: vec![Record { ms: 0, event: Event::Defaults(settings) }], ms: 0, calls: 0 }
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Settings)) -> Tale {
        if let Event::Defaults(settings) = &mut self.records[0].event {
            change(settings);
        }
        self
    }

    pub(super) fn at(&mut self, ms: u64) -> &mut Tale {
        self.ms = ms;
        self
    }

    pub(super) fn event(&mut self, event: Event) -> &mut Tale {
        self.records.push(Record { ms: self.ms, event });
        self
    }

    pub(super) fn begin(&mut self, op: Op) -> u64 {
        self.calls += 1;
        let call = self.calls;
        self.event(Event::Begin { call, op });
        call
    }

    pub(super) fn call(&mut self, op: Op, out: Out) -> &mut Tale {
        let call = self.begin(op);
        self.event(Event::End { call, out })
    }

    pub(super) fn send(&mut self, content: u64, id: &str) -> &mut Tale {
        self.send_item(item(content), id)
    }

    pub(super) fn send_item(&mut self, item: Item, id: &str) -> &mut Tale {
        let stored = Sent::Stored { id: id.to_owned(), ram: false };
        self.call(Op::Send { queue: 0, items: vec![item] }, Out::Sent(vec![stored]))
    }

    /// Deliveries: id, content, attempt, delivery.
    pub(super) fn recv(&mut self, all: &[(&str, u64, u64, u64)], visibility_ms: u64) -> &mut Tale {
        let deadline = self.ms + visibility_ms;
        let got = |&(id, content, attempt, delivery): &(&str, u64, u64, u64)| Delivered {
            id: id.to_owned(),
            content: Some(content),
            hash: content + 100,
            key: None,
            enqueued: crate::life::enqueued_of(id),
            attempt,
            delivery,
            deadline,
        };
        self.call(recv_op(Some(visibility_ms), None), Out::Received(all.iter().map(got).collect()))
    }

    pub(super) fn settle(&mut self, id: &str, delivery: u64, how: How, result: Settled) -> &mut Tale {
        let held = vec![Held { id: id.to_owned(), delivery }];
        self.call(Op::Settle { queue: 0, how, held }, Out::Settled(vec![result]))
    }

    pub(super) fn stat(&mut self, [ready, delayed, vis, dlq]: [u64; 4]) -> &mut Tale {
        self.call(Op::Stat { queue: 0 }, Out::Figures { ready, delayed, vis, dlq })
    }

    pub(super) fn dead(
        &mut self,
        id: &str,
        content: u64,
        attempt: u64,
        delivery: u64,
        reason: &str,
    ) -> &mut Tale {
        let seen = Seen {
            id: id.to_owned(),
            content: Some(content),
            hash: content + 100,
            enqueued: crate::life::enqueued_of(id),
            attempt,
            delivery: Some(delivery),
            letter: Some(Letter { reason: reason.to_owned(), at: self.ms }),
        };
        self.call(Op::Peek { queue: 0, state: State::Dlq }, Out::Page(vec![seen]))
    }

    pub(super) fn reprocess(&mut self) -> &mut Tale {
        self.call(Op::Reprocess { queue: 0, ids: None }, Out::Done(1))
    }

    pub(super) fn calm(&mut self) -> &mut Tale {
        self.event(Event::Calm { within_ms: 5_000 })
    }

    pub(super) fn drained(&mut self, dead: &[&str]) -> &mut Tale {
        let dead = dead.iter().map(|id| (*id).to_owned()).collect();
        self.event(Event::Drained { queue: 0, dead })
    }

    #[track_caller]
    pub(super) fn is_fine(&self) {
        let found = judge(&self.records);
        assert!(found.is_empty(), "{found:#?}");
    }

    #[track_caller]
    pub(super) fn breaks(&self, rule: Rule) {
        let found = judge(&self.records);
        assert!(found.iter().any(|violation| violation.rule == rule), "{rule:?} is not among {found:#?}");
    }
}

pub(super) fn recv_op(visibility_ms: Option<u64>, stream: Option<(u64, u64)>) -> Op {
    Op::Recv { queue: 0, visibility_ms, wait_ms: 0, most: 10, dropped: false, stream }
}
