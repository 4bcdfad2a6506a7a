//! When an endpoint is left alone: for a while after failures in a row, for good after days of them or a 410.
//!
//! A value per endpoint. It is told how attempts ended and asked whether the next may begin; while it is open no
//! message is taken out of the topic, so none loses an attempt to an endpoint that is known to be down.

use crate::time::Millis;
use serde::{Deserialize, Serialize};

/// The bounds of one breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerRules {
    /// Failures in a row that open it.
    pub trip_after: u32,
    /// How long it stays open first, ms; doubles with every probe that fails.
    pub pause_ms: u64,
    /// How long at most, ms.
    pub pause_ms_max: u64,
    /// An endpoint that fails for this long without one success is disabled, ms.
    pub disable_after_ms: u64,
}

impl Default for BreakerRules {
    /// 5 failures, 30 s to 15 min, 5 days.
    fn default() -> BreakerRules {
        let (pause_ms, pause_ms_max) = (30_000, 900_000);
        BreakerRules { trip_after: 5, pause_ms, pause_ms_max, disable_after_ms: 5 * 86_400_000 }
    }
}

/// Why an endpoint is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisabledWhy {
    /// It answered 410.
    Gone,
    /// It failed for [`BreakerRules::disable_after_ms`].
    Failing,
    /// An operator said so.
    Operator,
}

impl DisabledWhy {
    /// As status, logs and events have it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            DisabledWhy::Gone => "gone",
            DisabledWhy::Failing => "failing",
            DisabledWhy::Operator => "operator",
        }
    }
}

/// Where a breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Messages flow.
    Closed,
    /// None is sent until a moment.
    Open,
    /// One is under way, to see.
    HalfOpen,
    /// None is sent until an operator says so.
    Disabled(DisabledWhy),
}

impl BreakerState {
    /// As status and events name it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half_open",
            BreakerState::Open => "open",
            BreakerState::Disabled(_) => "disabled",
        }
    }

    /// As the metric numbers it: 0 closed, 1 half-open, 2 open, 3 disabled.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
            BreakerState::Disabled(_) => 3,
        }
    }
}

/// Whether attempts may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// As many as there is room for.
    Go,
    /// Exactly one, whose end decides; [`Breaker::begin_probe`] when there is something to probe with.
    Probe,
    /// Not for so many ms.
    Wait(u64),
    /// Not until an operator enables it.
    Never(DisabledWhy),
}

/// What of a breaker outlives the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Why and since when (node time, ms) it is disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<(DisabledWhy, Millis)>,
    /// Since when (node time, ms) it has failed without one success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Millis>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Breaker {
    rules: BreakerRules,
    in_a_row: u32,
    failing_since: Option<Millis>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open {
        until: Millis,
        pause_ms: u64,
    },
    /// A probe that is not heard of again (its actor died) is given up at `until`.
    Probing {
        until: Millis,
        pause_ms: u64,
    },
    Disabled {
        why: DisabledWhy,
        since: Millis,
    },
}

impl Breaker {
    /// A breaker with what an earlier life of the process left of it.
    #[must_use]
    pub fn new(rules: BreakerRules, saved: Saved) -> Breaker {
        let phase = match saved.disabled {
            Some((why, since)) => Phase::Disabled { why, since },
            None => Phase::Closed,
        };
        Breaker { rules, in_a_row: 0, failing_since: saved.failing_since, phase }
    }

    /// What is to be kept.
    #[must_use]
    pub fn saved(&self) -> Saved {
        let disabled = match self.phase {
            Phase::Disabled { why, since } => Some((why, since)),
            Phase::Closed | Phase::Open { .. } | Phase::Probing { .. } => None,
        };
        // before it trips, failures are noise that is not worth a write
        let tripped = self.phase != Phase::Closed;
        Saved { disabled, failing_since: self.failing_since.filter(|_| tripped) }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::Probing { .. } => BreakerState::HalfOpen,
            Phase::Disabled { why, .. } => BreakerState::Disabled(why),
        }
    }

    /// Since when it has failed without one success.
    #[must_use]
    pub fn failing_since(&self) -> Option<Millis> {
        self.failing_since
    }

    /// Asks for leave.
    #[must_use]
    pub fn admit(&self, now: Millis) -> Admit {
        match self.phase {
            Phase::Closed => Admit::Go,
            Phase::Disabled { why, .. } => Admit::Never(why),
            Phase::Open { until, .. } | Phase::Probing { until, .. } if now < until => {
                Admit::Wait(until.since(now))
            }
            Phase::Open { .. } | Phase::Probing { .. } => Admit::Probe,
        }
    }

    /// A probe begins, and must be heard of within `probe_ms`, or another is let through. `false` if none may begin
    /// any more.
    pub fn begin_probe(&mut self, now: Millis, probe_ms: u64) -> bool {
        match (self.admit(now), self.phase) {
            (Admit::Probe, Phase::Open { pause_ms, .. } | Phase::Probing { pause_ms, .. }) => {
                self.phase = Phase::Probing { until: now.plus(probe_ms), pause_ms };
                true
            }
            _ => false,
        }
    }

    /// The endpoint took a message. Whoever disabled it is not overruled by an answer that was under way.
    pub fn succeeded(&mut self) {
        (self.in_a_row, self.failing_since) = (0, None);
        if !matches!(self.phase, Phase::Disabled { .. }) {
            self.phase = Phase::Closed;
        }
    }

    /// The endpoint failed. `true` if it is disabled by that.
    pub fn failed(&mut self, now: Millis) -> bool {
        let since = *self.failing_since.get_or_insert(now);
        self.in_a_row = self.in_a_row.saturating_add(1);
        let BreakerRules { trip_after, pause_ms, pause_ms_max, disable_after_ms } = self.rules;
        if matches!(self.phase, Phase::Disabled { .. }) {
            return false;
        }
        if now.since(since) >= disable_after_ms {
            self.phase = Phase::Disabled { why: DisabledWhy::Failing, since: now };
            return true;
        }
        match self.phase {
            Phase::Closed if self.in_a_row >= trip_after => {
                self.phase = Phase::Open { until: now.plus(pause_ms), pause_ms };
            }
            Phase::Probing { pause_ms, .. } => {
                let pause_ms = pause_ms.saturating_mul(2).min(pause_ms_max.max(pause_ms));
                self.phase = Phase::Open { until: now.plus(pause_ms), pause_ms };
            }
            // others were under way when it opened
            Phase::Closed | Phase::Open { .. } | Phase::Disabled { .. } => {}
        }
        false
    }

    /// A probe ended in a way that says nothing of the endpoint's health but that it answers: it may go on.
    pub fn answered(&mut self) {
        if let Phase::Probing { .. } = self.phase {
            (self.in_a_row, self.phase) = (0, Phase::Closed);
        }
    }

    /// Nothing is sent from now on. `true` if that is new.
    pub fn disable(&mut self, now: Millis, why: DisabledWhy) -> bool {
        let new = !matches!(self.phase, Phase::Disabled { .. });
        // an operator's word stands over what the endpoint said, and is kept
        if new || why == DisabledWhy::Operator {
            self.phase = Phase::Disabled { why, since: now };
        }
        new
    }

    /// An operator lets messages flow again, whatever closed it. `true` if something had.
    pub fn enable(&mut self) -> bool {
        let was = std::mem::replace(&mut self.phase, Phase::Closed) != Phase::Closed;
        (self.in_a_row, self.failing_since) = (0, None);
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 86_400_000;
    const PROBE: u64 = 60_000;

    fn new() -> Breaker {
        Breaker::new(BreakerRules::default(), Saved::default())
    }

    fn tripped(at: Millis) -> Breaker {
        let mut breaker = new();
        (0..5).for_each(|_| assert!(!breaker.failed(at)));
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[test]
    fn five_in_a_row_open_it_and_a_success_between_does_not() {
        let mut breaker = new();
        for _ in 0..20 {
            (0..4).for_each(|_| assert!(!breaker.failed(Millis(1))));
            assert_eq!(breaker.admit(Millis(1)), Admit::Go);
            breaker.succeeded();
        }
        let mut breaker = tripped(Millis(1_000));
        assert_eq!(breaker.admit(Millis(1_000)), Admit::Wait(30_000));
        assert_eq!(breaker.admit(Millis(30_999)), Admit::Wait(1));
        assert!(!breaker.begin_probe(Millis(30_999), PROBE));
        assert_eq!(breaker.admit(Millis(31_000)), Admit::Probe);
        assert_eq!(breaker.state(), BreakerState::Open, "until there is something to probe with");
        assert!(breaker.begin_probe(Millis(31_000), PROBE));
        assert_eq!(breaker.admit(Millis(31_000)), Admit::Wait(PROBE), "one at a time");
        assert!(!breaker.begin_probe(Millis(31_000), PROBE));
        breaker.succeeded();
        assert_eq!(breaker.admit(Millis(31_001)), Admit::Go);
        assert!(!breaker.begin_probe(Millis(31_001), PROBE));
        assert_eq!(breaker.failing_since(), None);
    }

    #[test]
    fn pauses_double_up_to_the_most() {
        let mut breaker = tripped(Millis(0));
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..8 {
            let Admit::Wait(ms) = breaker.admit(Millis(now)) else { panic!("it is open") };
            pauses.push(ms);
            now += ms;
            assert!(breaker.begin_probe(Millis(now), PROBE));
            assert!(!breaker.failed(Millis(now)));
        }
        assert_eq!(pauses, [30_000, 60_000, 120_000, 240_000, 480_000, 900_000, 900_000, 900_000]);
    }

    #[test]
    fn a_probe_that_is_never_heard_of_does_not_hold_it_open() {
        let mut breaker = tripped(Millis(0));
        assert!(breaker.begin_probe(Millis(30_000), PROBE));
        assert!(!breaker.begin_probe(Millis(89_999), PROBE));
        assert!(breaker.begin_probe(Millis(90_000), PROBE));
        breaker.answered();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn five_days_without_a_success_disable_it_and_a_restart_does_not_forget_them() {
        let mut breaker = tripped(Millis(0));
        let mut breaker = {
            assert!(!breaker.failed(Millis(5 * DAY - 1)));
            Breaker::new(BreakerRules::default(), breaker.saved())
        };
        assert!(breaker.failed(Millis(5 * DAY)));
        assert_eq!(breaker.admit(Millis(9 * DAY)), Admit::Never(DisabledWhy::Failing));
        breaker.succeeded();
        assert_eq!(breaker.state(), BreakerState::Disabled(DisabledWhy::Failing), "a late answer");
        let mut breaker = Breaker::new(BreakerRules::default(), breaker.saved());
        assert_eq!(breaker.state(), BreakerState::Disabled(DisabledWhy::Failing));
        assert!(breaker.enable() && !breaker.enable());
        assert!(!breaker.failed(Millis(10 * DAY)), "the days count anew");
        assert_eq!(breaker.saved(), Saved::default(), "one failure is not worth a write");
    }

    #[test]
    fn an_operators_word_stands_over_a_410() {
        let mut breaker = new();
        assert!(breaker.disable(Millis(1), DisabledWhy::Gone));
        assert!(!breaker.disable(Millis(2), DisabledWhy::Operator));
        assert!(!breaker.disable(Millis(3), DisabledWhy::Gone));
        assert_eq!(breaker.saved().disabled, Some((DisabledWhy::Operator, Millis(2))));
        breaker.answered();
        assert_eq!(breaker.admit(Millis(9)), Admit::Never(DisabledWhy::Operator));
    }

    proptest! {
        /// Whatever happens: nothing goes out of a disabled one, an open one lets one probe through at a time, and it
        /// never waits longer than its longest pause or a probe's time.
        #[test]
        fn bounds_hold(steps in prop::collection::vec((0_u64..1_000_000, 0_u8..5), 1..300)) {
            let mut breaker = new();
            let (mut now, mut probe) = (Millis(0), None::<Millis>);
            for (wait, step) in steps {
                now = now.plus(wait);
                match step {
                    0 => { breaker.succeeded(); probe = None; }
                    1 | 2 => { breaker.failed(now); probe = None; }
                    _ => match breaker.admit(now) {
                        Admit::Go => prop_assert_eq!(breaker.state(), BreakerState::Closed),
                        Admit::Probe => {
                            prop_assert!(probe.is_none_or(|at| now.since(at) >= PROBE));
                            if step == 3 {
                                prop_assert!(breaker.begin_probe(now, PROBE));
                                probe = Some(now);
                            }
                        }
                        Admit::Wait(ms) => prop_assert!(ms > 0 && ms <= 900_000),
                        Admit::Never(_) => {
                            let disabled = matches!(breaker.state(), BreakerState::Disabled(_));
                            prop_assert!(disabled);
                        }
                    },
                }
            }
        }
    }
}
