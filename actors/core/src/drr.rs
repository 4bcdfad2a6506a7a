//! Deficit round robin over tenants (Shreedhar and Varghese 1995): which of the work that waits goes into the next
//! turn of the store, when not all of it fits.
//!
//! A round gives each tenant that has work waiting a quantum of bytes times its weight, and what it does not use it
//! keeps for the next round, until it has nothing waiting. Work without bytes settles deliveries: it goes first and
//! costs nothing. Work of one shard never changes places, so a settling behind a send of its own shard waits for it.
//!
//! Knows nothing of what the work is, and when all of it fits it is not asked.

use crate::ids::ShardId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes a round for a weight of 1. A weight of 1000 then takes about one turn of the store.
pub const QUANTUM_BYTES: u64 = 4 << 10;

/// A tenant's place in the round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The tenant's number in this process.
    pub tenant: u32,
    /// 1 or more; 0 counts as 1.
    pub weight: u32,
}

impl Default for Share {
    fn default() -> Share {
        Share { tenant: 0, weight: 1 }
    }
}

/// A piece of work that waits.
#[derive(Debug, Clone, Copy)]
pub struct Parcel {
    /// Whose it is. All work of a shard has one tenant.
    pub share: Share,
    /// Whose order it must keep.
    pub shard: ShardId,
    /// What it costs; 0 = it settles.
    pub bytes: u64,
}

/// What one turn takes at most; but always at least one parcel.
#[derive(Debug, Clone, Copy)]
pub struct TurnLimits {
    /// Parcels.
    pub parcels: usize,
    /// Bytes.
    pub bytes: u64,
}

/// What is remembered from turn to turn: who is next, and what each tenant has left.
#[derive(Debug, Default)]
pub struct Drr {
    left: BTreeMap<u32, u64>,
    /// The tenant in whose midst the last turn ended: it goes on without a new quantum.
    resume: Option<u32>,
}

/// One tenant's work in a turn.
struct Flow {
    tenant: u32,
    weight: u64,
    /// Indexes of its parcels, in their order.
    queue: VecDeque<usize>,
}

impl Flow {
    fn quantum(&self) -> u64 {
        self.weight.max(1).saturating_mul(QUANTUM_BYTES)
    }
}

/// The turn as it fills.
struct Filling<'p> {
    waiting: &'p [Parcel],
    taken: Vec<bool>,
    parcels: usize,
    bytes: u64,
    limits: TurnLimits,
}

impl Filling<'_> {
    fn fits(&self, at: usize) -> bool {
        let bytes = self.bytes.saturating_add(self.waiting[at].bytes);
        // One that is larger than a turn has one of its own, but for what settles.
        self.parcels < self.limits.parcels.max(1) && (self.bytes == 0 || bytes <= self.limits.bytes)
    }

    fn take(&mut self, at: usize) {
        self.taken[at] = true;
        self.parcels += 1;
        self.bytes = self.bytes.saturating_add(self.waiting[at].bytes);
    }

    /// Takes what settles, oldest first, up to `most` parcels in the turn, leaving alone what stands behind
    /// other work of its shard.
    fn settling(&mut self, most: usize) {
        let mut behind = BTreeSet::new();
        for (at, parcel) in self.waiting.iter().enumerate() {
            if self.taken[at] {
                continue;
            }
            if parcel.bytes == 0 && self.parcels < most && !behind.contains(&parcel.shard) {
                self.take(at);
            } else {
                behind.insert(parcel.shard);
            }
        }
    }
}

impl Drr {
    /// Which of `waiting`, in the order it came, make up the next turn: one flag a parcel, at least one set
    /// unless nothing waits.
    #[must_use]
    pub fn cut(&mut self, waiting: &[Parcel], limits: TurnLimits) -> Vec<bool> {
        let mut turn = Filling { waiting, taken: vec![false; waiting.len()], parcels: 0, bytes: 0, limits };
        let sends = waiting.iter().any(|parcel| parcel.bytes > 0);
        // A part of the turn is the sends', or a flood of settling could keep them out for ever.
        turn.settling(if sends { limits.parcels - limits.parcels.div_ceil(4) } else { limits.parcels });
        self.rounds(&mut turn);
        turn.settling(limits.parcels);
        turn.taken
    }

    /// Goes round until the turn is full or nothing is left.
    fn rounds(&mut self, turn: &mut Filling<'_>) {
        let mut flows = self.flows(turn);
        while !flows.is_empty() {
            let before = turn.parcels;
            for _ in 0..flows.len() {
                let Some(mut flow) = flows.pop_front() else { return };
                let left = self.left.entry(flow.tenant).or_default();
                if self.resume.take() != Some(flow.tenant) {
                    *left = left.saturating_add(flow.quantum());
                }
                while let Some(&at) = flow.queue.front()
                    && turn.waiting[at].bytes <= *left
                {
                    if !turn.fits(at) {
                        self.resume = Some(flow.tenant);
                        return;
                    }
                    *left -= turn.waiting[at].bytes;
                    turn.take(at);
                    flow.queue.pop_front();
                }
                if flow.queue.is_empty() {
                    self.left.remove(&flow.tenant);
                } else {
                    flows.push_back(flow);
                }
            }
            if turn.parcels == before {
                self.skip_empty_rounds(&flows, turn.waiting);
            }
        }
    }

    /// Gives everybody at once the quanta of the rounds in which nobody could take anything yet.
    fn skip_empty_rounds(&mut self, flows: &VecDeque<Flow>, waiting: &[Parcel]) {
        let rounds_to_first = |flow: &Flow| {
            let cost = waiting[*flow.queue.front()?].bytes;
            let left = self.left.get(&flow.tenant).copied().unwrap_or_default();
            Some(cost.saturating_sub(left).div_ceil(flow.quantum()))
        };
        let skipped = flows.iter().filter_map(rounds_to_first).min().unwrap_or(0).saturating_sub(1);
        for flow in flows.iter().filter(|_| skipped > 0) {
            let left = self.left.entry(flow.tenant).or_default();
            *left = left.saturating_add(flow.quantum().saturating_mul(skipped));
        }
    }

    /// The tenants with work left, the one after the last turn's first; forgets what others had left.
    fn flows(&mut self, turn: &Filling<'_>) -> VecDeque<Flow> {
        let mut flows: BTreeMap<u32, Flow> = BTreeMap::new();
        let left = || turn.waiting.iter().enumerate().filter(|(at, _)| !turn.taken[*at]);
        let sends = left().filter(|(_, parcel)| parcel.bytes > 0);
        let sending: BTreeSet<ShardId> = sends.map(|(_, parcel)| parcel.shard).collect();
        // Settling of shards that send nothing is not in the rounds: it would fill the sends' part of the turn.
        for (at, parcel) in left().filter(|(_, parcel)| sending.contains(&parcel.shard)) {
            let Share { tenant, weight } = parcel.share;
            let new = || Flow { tenant, weight: 0, queue: VecDeque::new() };
            let flow = flows.entry(tenant).or_insert_with(new);
            flow.weight = u64::from(weight);
            flow.queue.push_back(at);
        }
        self.left.retain(|tenant, _| flows.contains_key(tenant));
        let from = self.resume.unwrap_or(0);
        // Whoever it was may have nothing left: then the next one begins with a quantum of its own.
        self.resume = self.resume.filter(|tenant| flows.contains_key(tenant));
        let first = flows.split_off(&from);
        first.into_values().chain(flows.into_values()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TURN: TurnLimits = TurnLimits { parcels: 8_192, bytes: 4 << 20 };

    /// A turn of a size that tests can fill often.
    const BRIM: TurnLimits = TurnLimits { parcels: 256, bytes: 128 << 10 };

    fn parcel(tenant: u32, weight: u32, shard: u32, bytes: u64) -> Parcel {
        Parcel { share: Share { tenant, weight }, shard: ShardId(shard), bytes }
    }

    /// Takes one turn out of `waiting`.
    fn turn(drr: &mut Drr, waiting: &mut Vec<Parcel>, limits: TurnLimits) -> Vec<Parcel> {
        let taken = drr.cut(waiting, limits);
        assert_eq!(taken.len(), waiting.len());
        let mut flags = taken.iter();
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for parcel in waiting.drain(..) {
            if *flags.next().unwrap() { gone.push(parcel) } else { kept.push(parcel) }
        }
        *waiting = kept;
        gone
    }

    fn bytes_of(tenant: u32, parcels: &[Parcel]) -> u64 {
        parcels.iter().filter(|parcel| parcel.share.tenant == tenant).map(|parcel| parcel.bytes).sum()
    }

    #[test]
    fn all_is_taken_when_there_is_room_and_nothing_is_no_work() {
        let mut drr = Drr::default();
        assert!(drr.cut(&[], TURN).is_empty());
        let mut waiting: Vec<Parcel> = (0..100).map(|n| parcel(n % 7, 1 + n % 3, n, 30_000)).collect();
        assert_eq!(turn(&mut drr, &mut waiting, TURN).len(), 100);
        let mut huge = vec![parcel(1, 1, 1, 50 << 20), parcel(2, 1, 2, 10)];
        assert!(!turn(&mut drr, &mut huge, TURN).is_empty(), "one that is larger than a turn has its own");
        assert!(!turn(&mut drr, &mut huge, TURN).is_empty());
        assert!(huge.is_empty());
    }

    #[test]
    fn a_quiet_tenant_does_not_wait_for_a_noisy_one() {
        let mut drr = Drr::default();
        let mut waiting: Vec<Parcel> = (0..10_000).map(|n| parcel(1, 1, n % 10, 4_000)).collect();
        waiting.push(parcel(2, 1, 99, 4_000));
        let first = turn(&mut drr, &mut waiting, TURN);
        assert_eq!(bytes_of(2, &first), 4_000, "it came last and is in the first turn");
        assert!(first.len() > 1_000, "the rest of the turn is the noisy one's");
    }

    #[test]
    fn settling_goes_first_but_not_past_its_own_shard() {
        let mut drr = Drr::default();
        let limits = TurnLimits { parcels: 8, bytes: 1_000 };
        let mut waiting = vec![parcel(1, 1, 1, 900), parcel(1, 1, 1, 900), parcel(1, 1, 1, 0)];
        waiting.push(parcel(2, 1, 2, 0));
        let first = turn(&mut drr, &mut waiting, limits);
        let shards: Vec<(u32, u64)> = first.iter().map(|p| (p.shard.0, p.bytes)).collect();
        assert_eq!(shards, [(1, 900), (2, 0)]);
        let second = turn(&mut drr, &mut waiting, limits);
        assert_eq!(second.iter().map(|p| p.bytes).collect::<Vec<_>>(), [900, 0]);
    }

    #[test]
    fn a_flood_of_settling_leaves_room_for_sends() {
        let mut drr = Drr::default();
        let limits = TurnLimits { parcels: 8, bytes: 1_000 };
        let mut waiting: Vec<Parcel> = (0..100).map(|n| parcel(1, 1, n, 0)).collect();
        waiting.push(parcel(2, 1, 1_000, 500));
        let first = turn(&mut drr, &mut waiting, limits);
        assert_eq!((first.len(), bytes_of(2, &first)), (8, 500));
    }

    /// Long-run shares of tenants that always have work waiting, with messages of different sizes.
    fn shares(weights: &[u32], sizes: &[u64], turns: usize) -> Vec<u64> {
        let mut drr = Drr::default();
        let mut waiting: Vec<Parcel> = Vec::new();
        let mut served = vec![0; weights.len()];
        for _ in 0..turns {
            for (tenant, weight) in weights.iter().enumerate() {
                let tenant = tenant as u32;
                let size = sizes[tenant as usize % sizes.len()];
                let missing = (2 * BRIM.bytes).saturating_sub(bytes_of(tenant, &waiting)).div_ceil(size);
                waiting.extend((0..missing).map(|_| parcel(tenant, *weight, tenant, size)));
            }
            let gone = turn(&mut drr, &mut waiting, BRIM);
            for (tenant, served) in served.iter_mut().enumerate() {
                *served += bytes_of(tenant as u32, &gone);
            }
        }
        served
    }

    #[test]
    fn long_run_shares_follow_the_weights() {
        for (weights, sizes) in [
            (&[1, 1][..], &[1_000, 60_000][..]),
            (&[1, 3], &[10_000]),
            (&[10, 1, 5], &[700, 128 << 10, 9_000]),
            (&[100, 1], &[4_000]),
        ] {
            let turns = 1_000;
            let served = shares(weights, sizes, turns);
            let (all, weight): (u64, u64) =
                (served.iter().sum(), weights.iter().map(|w| u64::from(*w)).sum());
            for (served, w) in served.iter().zip(weights) {
                let due = all as f64 * f64::from(*w) / weight as f64;
                let off = (*served as f64 - due).abs() / due;
                assert!(off < 0.10, "{weights:?} {sizes:?}: {served} instead of {due}");
            }
        }
    }

    fn parcels() -> impl Strategy<Value = Vec<Parcel>> {
        // a shard belongs to one tenant, and a tenant has one weight
        let one = (0u32..12, prop_oneof![3 => Just(0u64), 5 => 1u64..400, 1 => 1u64..3_000]);
        let of = |(shard, bytes): (u32, u64)| parcel(shard % 4, 1 + (shard % 4) * 3, shard, bytes);
        prop::collection::vec(one.prop_map(of), 0..120)
    }

    proptest! {
        #[test]
        fn everything_is_taken_in_the_order_of_its_shard(
            waiting in parcels(), limit in 1usize..20, bytes in 1u64..2_000,
        ) {
            let limits = TurnLimits { parcels: limit, bytes };
            let mut drr = Drr::default();
            let mut rest = waiting.clone();
            let mut gone = Vec::new();
            while !rest.is_empty() {
                let taken = turn(&mut drr, &mut rest, limits);
                prop_assert!(!taken.is_empty(), "each turn takes something, so nothing starves");
                let sum: u64 = taken.iter().map(|parcel| parcel.bytes).sum();
                let sends = taken.iter().filter(|parcel| parcel.bytes > 0).count();
                prop_assert!(taken.len() <= limit && (sends <= 1 || sum <= bytes));
                gone.extend(taken);
            }
            for shard in 0..12 {
                let of = |parcels: &[Parcel]| -> Vec<u64> {
                    parcels.iter().filter(|p| p.shard.0 == shard).map(|p| p.bytes).collect()
                };
                prop_assert_eq!(of(&gone), of(&waiting));
            }
        }

        #[test]
        fn what_fits_is_taken_whole(waiting in parcels()) {
            let taken = Drr::default().cut(&waiting, TURN);
            prop_assert!(taken.iter().all(|taken| *taken));
        }

        /// However much others bring each turn, the one that came once is served within a bounded number of turns.
        #[test]
        fn nobody_starves(size in 1u64..BRIM.bytes, weight in 1u32..100, noise in 600u64..10_000) {
            let mut drr = Drr::default();
            let mut waiting = vec![parcel(7, 1, 7, size)];
            let mut turns = 0u64;
            while waiting.iter().any(|parcel| parcel.share.tenant == 7) {
                let missing = (2 * BRIM.bytes).saturating_sub(bytes_of(3, &waiting)).div_ceil(noise);
                waiting.extend((0..missing).map(|_| parcel(3, weight, 3, noise)));
                let _ = turn(&mut drr, &mut waiting, BRIM);
                turns += 1;
                let rounds = size.div_ceil(QUANTUM_BYTES) + 1;
                let most = 2 + rounds * (u64::from(weight) * QUANTUM_BYTES + noise) / (BRIM.bytes - noise);
                prop_assert!(turns <= most + 1, "{turns} turns, {most} allowed");
            }
        }
    }
}
