//! Judges when messages came back whose leases ran out: none before its deadline, and soon after it.
//!
//! Deadlines are in the node's time, arrivals in the client's. What the one is by the other's clock follows from
//! exchanges: an answer that names the node's time was made between its request and its arrival. Many of them leave
//! a narrow span for the difference; if they leave none, the node's time did not run as it must.

pub mod load;

use crate::clock::Micros;
use std::collections::BTreeMap;

/// Most faults told of each kind.
const TOLD_MAX: usize = 5;
/// What a lease has left at least after a start of the node, if its visibility is not shorter.
const GRACE: Micros = 5_000_000;
/// How much later than everything that excuses it a lease over a restart may come back.
const RESTART_SLACK: Micros = 10_000_000;

/// The node's time minus the client's, µs, as a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset {
    /// At least this.
    pub low: i64,
    /// At most this.
    pub high: i64,
}

impl Default for Offset {
    fn default() -> Offset {
        Offset { low: i64::MIN, high: i64::MAX }
    }
}

fn signed(micros: Micros) -> i64 {
    i64::try_from(micros).unwrap_or(i64::MAX)
}

impl Offset {
    /// An answer to a request that began at `begun` and was read at `answered` by the client's clock says that the
    /// node's time was `node_ms`, in whole milliseconds.
    pub fn narrow(&mut self, begun: Micros, answered: Micros, node_ms: u64) {
        let node = signed(node_ms * 1000);
        self.low = self.low.max(node - signed(answered));
        self.high = self.high.min(node + 999 - signed(begun));
    }

    /// Its width, µs; negative if no difference fits.
    #[must_use]
    pub fn width(&self) -> i64 {
        self.high.saturating_sub(self.low)
    }

    /// The earliest moment by the client's clock at which the node's time can be `node_ms`.
    #[must_use]
    pub fn earliest(&self, node_ms: u64) -> Micros {
        Micros::try_from(signed(node_ms * 1000).saturating_sub(self.high)).unwrap_or(0)
    }
}

/// A message in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The life of the node that gave it.
    pub life: usize,
    /// When it was asked for.
    pub begun: Micros,
    /// Its deadline as the Envelope states it, node time.
    pub deadline_ms: u64,
    /// The visibility that was asked for.
    pub visibility_ms: u64,
}

/// The same message, handed out again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Return {
    /// The life of the node that handed it out.
    pub life: usize,
    /// When the answer was read.
    pub answered: Micros,
    /// The node's time when it was handed out, by its own word.
    pub node_ms: u64,
    /// What the Envelope says of it.
    pub delivery: u64,
}

/// What was done to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// Before it was stopped or killed.
    pub from: Micros,
    /// When it went on, or was ready again.
    pub to: Micros,
    /// It was killed and started, and not just stopped.
    pub restart: bool,
}

/// A round as it is judged.
#[derive(Debug, Default)]
pub struct Round {
    /// By message id.
    pub leases: BTreeMap<String, Lease>,
    /// The first return of each.
    pub returns: BTreeMap<String, Return>,
    /// In order.
    pub outages: Vec<Outage>,
    /// After the node went on from a stop, what fell due meanwhile needs this long to be delivered.
    pub catch_up: Micros,
    /// How long a returned message is in flight again: one whose answer a kill took away comes again after that.
    pub kept: Micros,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Judgement {
    /// How late each lease came back that no outage touched, µs. At most: reading the answer counts, too.
    pub late: Vec<u64>,
    /// Leases over a restart or due during a stop.
    pub touched: usize,
    /// Everything that must not be.
    pub faults: Vec<String>,
}

impl Judgement {
    fn fault(&mut self, kind: &str, of: &str) {
        let said = self.faults.iter().filter(|fault| fault.starts_with(kind)).count();
        if said < TOLD_MAX {
            self.faults.push(format!("{kind}: {of}"));
        }
    }
}

impl Round {
    /// Judges it; `offsets` are those of the node's lives.
    #[must_use]
    pub fn judge(&self, offsets: &[Offset]) -> Judgement {
        let mut judgement = Judgement::default();
        for (life, offset) in offsets.iter().enumerate().filter(|(_, offset)| offset.width() < 0) {
            let text = format!("life {life}: no difference of the clocks fits, by {} µs", -offset.width());
            judgement.fault("the node's time does not run evenly", &text);
        }
        for (id, lease) in &self.leases {
            let Some(back) = self.returns.get(id) else {
                judgement.fault("never came back", id);
                continue;
            };
            let Some(offset) = offsets.get(lease.life) else {
                judgement.fault("no clock", id);
                continue;
            };
            self.one(id, lease, back, offset, &mut judgement);
        }
        for id in self.returns.keys().filter(|id| !self.leases.contains_key(*id)) {
            judgement.fault("came and was never leased", id);
        }
        judgement
    }

    fn one(&self, id: &str, lease: &Lease, back: &Return, offset: &Offset, judgement: &mut Judgement) {
        let due = offset.earliest(lease.deadline_ms);
        if back.answered < due {
            judgement.fault("early by the client's clock", &format!("{id} by {} µs", due - back.answered));
        }
        if back.life == lease.life && back.node_ms < lease.deadline_ms {
            let by = lease.deadline_ms - back.node_ms;
            judgement.fault("early by the node's own word", &format!("{id} by {by} ms"));
        }
        let over = |outage: &&Outage| outage.from <= back.answered && outage.to >= lease.begun;
        let restarts: Vec<&Outage> =
            self.outages.iter().filter(|outage| outage.restart).filter(over).collect();
        if back.delivery != 2 && restarts.is_empty() {
            judgement.fault("not the second delivery", &format!("{id}: {}", back.delivery));
        }
        if let Some(last) = restarts.last() {
            judgement.touched += 1;
            let grace = GRACE.min(lease.visibility_ms * 1000);
            // it was started after it was killed: what it had left then counts from no earlier than that
            if due > last.from && back.answered < last.from + grace {
                judgement.fault("no grace after a restart", id);
            }
            let unread = if back.delivery > 2 { self.kept } else { 0 };
            let down: Micros = restarts.iter().map(|outage| outage.to - outage.from + GRACE).sum();
            let excused = down + unread;
            if back.answered > due + excused + RESTART_SLACK {
                let by = back.answered - due - excused;
                judgement.fault("back far too late after a restart", &format!("{id} by {by} µs"));
            }
            return;
        }
        let stopped = |outage: &Outage| due + 50_000 >= outage.from && due <= outage.to + self.catch_up;
        if self.outages.iter().any(stopped) {
            judgement.touched += 1;
        } else {
            judgement.late.push(back.answered.saturating_sub(due));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The node's clock shows 1 s more than the client's.
    fn offset() -> Offset {
        let mut offset = Offset::default();
        offset.narrow(1_000, 3_000, 1_002);
        offset.narrow(10_200, 10_400, 1_010);
        offset
    }

    fn lease(deadline_ms: u64) -> Lease {
        Lease { life: 0, begun: 100, deadline_ms, visibility_ms: 1_000 }
    }

    fn back(answered: Micros, node_ms: u64) -> Return {
        Return { life: 0, answered, node_ms, delivery: 2 }
    }

    fn round(back: Return, outages: Vec<Outage>) -> Round {
        let leases = [("m".to_owned(), lease(3_000))].into();
        Round {
            leases,
            returns: [("m".to_owned(), back)].into(),
            outages,
            catch_up: 100_000,
            kept: 60_000_000,
        }
    }

    fn kinds(round: &Round, offsets: &[Offset]) -> Vec<String> {
        let faults = round.judge(offsets).faults;
        faults.into_iter().map(|fault| fault.split(':').next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn exchanges_narrow_the_difference_of_the_clocks() {
        let offset = offset();
        assert_eq!((offset.low, offset.high), (999_600, 1_000_799));
        assert_eq!(offset.earliest(3_000), 1_999_201);
        let mut stepped = offset;
        stepped.narrow(20_000, 20_100, 1_030);
        assert!(stepped.width() < 0);
        assert_eq!(kinds(&round(back(2_010_000, 3_001), vec![]), &[stepped]).len(), 1);
    }

    #[test]
    fn early_late_lost_and_twice_are_found() {
        let offsets = [offset()];
        let judged = round(back(2_010_000, 3_001), vec![]).judge(&offsets);
        assert_eq!((judged.faults.len(), judged.late, judged.touched), (0, vec![10_799], 0));
        let early = "early by the client's clock";
        assert_eq!(kinds(&round(back(1_999_000, 3_000), vec![]), &offsets), [early]);
        assert_eq!(kinds(&round(back(2_010_000, 2_999), vec![]), &offsets), ["early by the node's own word"]);
        let mut lost = round(back(2_010_000, 3_001), vec![]);
        lost.returns.clear();
        assert_eq!(kinds(&lost, &offsets), ["never came back"]);
        lost.returns.insert("x".to_owned(), back(2_010_000, 3_001));
        assert_eq!(kinds(&lost, &offsets), ["never came back", "came and was never leased"]);
        let third = Return { delivery: 3, ..back(2_010_000, 3_001) };
        assert_eq!(kinds(&round(third, vec![]), &offsets), ["not the second delivery"]);
    }

    #[test]
    fn an_outage_excuses_lateness_and_never_earliness() {
        let offsets = [offset(), Offset { low: 600_000_000, high: 600_000_900 }];
        let stop = Outage { from: 1_900_000, to: 2_300_000, restart: false };
        let judged = round(back(2_350_000, 3_340), vec![stop]).judge(&offsets);
        assert_eq!((judged.faults.len(), judged.late.len(), judged.touched), (0, 0, 1));
        // a stop that was over long before excuses nothing
        let before = Outage { from: 1_000_000, to: 1_400_000, restart: false };
        assert_eq!(round(back(2_350_000, 3_340), vec![before]).judge(&offsets).late, [350_799]);
        // a start whose wall clock was ten minutes ahead
        let restart = Outage { from: 1_000_000, to: 1_500_000, restart: true };
        let again = |answered| Return { life: 1, ..back(answered, 602_000) };
        assert_eq!(
            kinds(&round(again(1_600_000), vec![restart]), &offsets)[0],
            "early by the client's clock"
        );
        assert_eq!(kinds(&round(again(3_600_000), vec![restart]), &offsets), [""; 0]);
        assert_eq!(
            kinds(&round(again(19_000_000), vec![restart]), &offsets),
            ["back far too late after a restart"]
        );
        // handed out in an answer that the kill took away, and once more when that lease had run out
        let third = Return { delivery: 3, ..again(62_000_000) };
        assert_eq!(kinds(&round(third, vec![restart]), &offsets), [""; 0]);
        let late_kill = Outage { from: 1_990_000, to: 1_995_000, restart: true };
        assert_eq!(kinds(&round(again(2_100_000), vec![late_kill]), &offsets), ["no grace after a restart"]);
    }
}
