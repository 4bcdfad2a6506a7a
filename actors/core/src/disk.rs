//! When a disk is too full for new messages (SPEC §4.13). Pure: somebody else looks at the disk.

/// Sheds new messages before the disk is full, so that leases, settling and dead letters still find room.
///
/// It begins when less than the reserve is free, or when the room held ready for what must not fail is no longer
/// whole, and ends when a tenth more than the reserve is free and that room is whole again: a disk that hovers at
/// the line does not make the node flap.
#[derive(Debug, Clone, Copy)]
pub struct DiskGauge {
    reserve: u64,
    sheds: bool,
}

impl DiskGauge {
    /// With `reserve` bytes that new messages must leave free; 0 = they may take all.
    #[must_use]
    pub const fn new(reserve: u64) -> DiskGauge {
        DiskGauge { reserve, sheds: false }
    }

    /// Whether new messages are shed, as of the last look.
    #[must_use]
    pub const fn sheds(&self) -> bool {
        self.sheds
    }

    /// What is `free` and whether the ballast is whole. Returns whether new messages are to be shed.
    pub fn look(&mut self, free: u64, ballast_whole: bool) -> bool {
        let enough = if self.sheds { self.reserve.saturating_add(self.reserve / 10) } else { self.reserve };
        self.sheds = free < enough || !ballast_whole;
        self.sheds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sheds_below_the_reserve_and_ends_a_tenth_above_it() {
        let mut gauge = DiskGauge::new(1_000);
        assert!(!gauge.look(1_000, true));
        assert!(gauge.look(999, true));
        assert!(gauge.look(1_099, true), "not yet");
        assert!(!gauge.look(1_100, true));
        assert!(!gauge.look(1_000, true));
    }

    #[test]
    fn sheds_while_the_ballast_is_not_whole_whatever_is_free() {
        let mut gauge = DiskGauge::new(0);
        assert!(!gauge.look(0, true), "no reserve: all may be taken");
        assert!(gauge.look(u64::MAX, false));
        assert!(!gauge.look(0, true));
    }
}
