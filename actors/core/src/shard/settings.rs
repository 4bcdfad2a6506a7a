//! The settings of one topic: what the configuration gives every topic, and what an operator set for this one.

use crate::reason::{Reason, Refusal};
use serde::{Deserialize, Serialize};

const DAY_MS: u64 = 86_400_000;

/// The settings in force for one topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Default lease, ms.
    pub visibility_ms: u64,
    /// Hand-outs that count before a message is dead-lettered.
    pub max_attempts: u32,
    /// Hand-outs of any kind before a message is dead-lettered.
    pub max_deliveries: u32,
    /// First step of the retry delay after `fail`, ms.
    pub backoff_base_ms: u64,
    /// Cap of the retry delay after `fail`, ms.
    pub backoff_max_ms: u64,
    /// How long a message may be ready since it became available, ms.
    pub retention_ms: u64,
    /// How long a dead letter is kept, ms.
    pub dlq_retention_ms: u64,
    /// How long an API client's idempotency key is remembered, ms; 0 = keys are ignored.
    pub dedup_window_ms: u64,
    /// Most live idempotency keys.
    pub max_dedup_keys: u64,
    /// Most messages ready, delayed or in flight at once.
    pub max_depth: u64,
    /// Whether messages of one group are handed out strictly one after the other.
    pub fifo: bool,
    /// Whether messages are kept in memory alone from now on.
    pub ram: bool,
    /// Most messages in flight at once.
    pub max_inflight: u32,
    /// Most receives waiting at once.
    pub max_waiters: u32,
}

impl Default for Settings {
    /// The defaults of SPEC §4.
    fn default() -> Settings {
        Settings {
            visibility_ms: 5_000,
            max_attempts: 5,
            max_deliveries: 50,
            backoff_base_ms: 200,
            backoff_max_ms: 60_000,
            retention_ms: 7 * DAY_MS,
            dlq_retention_ms: 14 * DAY_MS,
            dedup_window_ms: 300_000,
            max_dedup_keys: 1_000_000,
            max_depth: u64::MAX,
            fifo: false,
            ram: false,
            max_inflight: 8_192,
            max_waiters: 10_000,
        }
    }
}

/// What an operator set for one topic (PUT /settings); `None` = as configured. Stored with the topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsPatch {
    /// See [`Settings::visibility_ms`]; 250 to 43,200,000.
    pub visibility_ms: Option<u64>,
    /// See [`Settings::max_attempts`]; 1 to 1,000.
    pub max_attempts: Option<u32>,
    /// See [`Settings::max_deliveries`]; 1 to 1,000,000, not less than the attempts.
    pub max_deliveries: Option<u32>,
    /// See [`Settings::backoff_base_ms`]; 1 to one day.
    pub backoff_base_ms: Option<u64>,
    /// See [`Settings::backoff_max_ms`]; 1 to 30 days, not less than the base.
    pub backoff_max_ms: Option<u64>,
    /// See [`Settings::retention_ms`]; 1,000 to ten years.
    pub retention_ms: Option<u64>,
    /// See [`Settings::dlq_retention_ms`]; 1,000 to ten years.
    pub dlq_retention_ms: Option<u64>,
    /// See [`Settings::dedup_window_ms`]; 0 to 30 days.
    pub dedup_window_ms: Option<u64>,
    /// See [`Settings::max_dedup_keys`]; 1 to 100,000,000.
    pub max_dedup_keys: Option<u64>,
    /// See [`Settings::max_depth`]; from 1.
    pub max_depth: Option<u64>,
    /// See [`Settings::fifo`].
    pub fifo: Option<bool>,
    /// See [`Settings::ram`].
    pub ram: Option<bool>,
}

impl SettingsPatch {
    /// Sets what `newer` sets, and keeps the rest.
    pub fn merge(&mut self, newer: &SettingsPatch) {
        fn take<T: Copy>(to: &mut Option<T>, from: Option<T>) {
            *to = from.or(*to);
        }
        take(&mut self.visibility_ms, newer.visibility_ms);
        take(&mut self.max_attempts, newer.max_attempts);
        take(&mut self.max_deliveries, newer.max_deliveries);
        take(&mut self.backoff_base_ms, newer.backoff_base_ms);
        take(&mut self.backoff_max_ms, newer.backoff_max_ms);
        take(&mut self.retention_ms, newer.retention_ms);
        take(&mut self.dlq_retention_ms, newer.dlq_retention_ms);
        take(&mut self.dedup_window_ms, newer.dedup_window_ms);
        take(&mut self.max_dedup_keys, newer.max_dedup_keys);
        take(&mut self.max_depth, newer.max_depth);
        take(&mut self.fifo, newer.fifo);
        take(&mut self.ram, newer.ram);
    }

    /// The settings of a topic that has this patch on top of `configured`.
    #[must_use]
    pub fn over(&self, configured: &Settings) -> Settings {
        Settings {
            visibility_ms: self.visibility_ms.unwrap_or(configured.visibility_ms),
            max_attempts: self.max_attempts.unwrap_or(configured.max_attempts),
            max_deliveries: self.max_deliveries.unwrap_or(configured.max_deliveries),
            backoff_base_ms: self.backoff_base_ms.unwrap_or(configured.backoff_base_ms),
            backoff_max_ms: self.backoff_max_ms.unwrap_or(configured.backoff_max_ms),
            retention_ms: self.retention_ms.unwrap_or(configured.retention_ms),
            dlq_retention_ms: self.dlq_retention_ms.unwrap_or(configured.dlq_retention_ms),
            dedup_window_ms: self.dedup_window_ms.unwrap_or(configured.dedup_window_ms),
            max_dedup_keys: self.max_dedup_keys.unwrap_or(configured.max_dedup_keys),
            max_depth: self.max_depth.unwrap_or(configured.max_depth),
            fifo: self.fifo.unwrap_or(configured.fifo),
            ram: self.ram.unwrap_or(configured.ram),
            ..*configured
        }
    }

    /// Checks each value's range; see [`Settings::check`] for what they must be to each other.
    ///
    /// # Errors
    /// MALFORMED, naming the field and its range.
    pub fn check(&self) -> Result<(), Refusal> {
        let ranges = [
            ("visibility_ms", self.visibility_ms, 250, 43_200_000),
            ("max_attempts", self.max_attempts.map(u64::from), 1, 1_000),
            ("max_deliveries", self.max_deliveries.map(u64::from), 1, 1_000_000),
            ("backoff_base_ms", self.backoff_base_ms, 1, DAY_MS),
            ("backoff_max_ms", self.backoff_max_ms, 1, 30 * DAY_MS),
            ("retention_ms", self.retention_ms, 1_000, 3650 * DAY_MS),
            ("dlq_retention_ms", self.dlq_retention_ms, 1_000, 3650 * DAY_MS),
            ("dedup_window_ms", self.dedup_window_ms, 0, 30 * DAY_MS),
            ("max_dedup_keys", self.max_dedup_keys, 1, 100_000_000),
            ("max_depth", self.max_depth, 1, u64::MAX),
        ];
        for (name, value, min, max) in ranges {
            if value.is_some_and(|value| !(min..=max).contains(&value)) {
                return Err(Refusal::new(Reason::Malformed, format!("{name}: must be {min} to {max}")));
            }
        }
        Ok(())
    }
}

impl Settings {
    /// Checks what the values must be to each other.
    ///
    /// # Errors
    /// MALFORMED, naming the fields.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.max_deliveries < self.max_attempts {
            let text = format!("max_deliveries: must not be less than max_attempts ({})", self.max_attempts);
            return Err(Refusal::new(Reason::Malformed, text));
        }
        if self.backoff_max_ms < self.backoff_base_ms {
            let text =
                format!("backoff_max_ms: must not be less than backoff_base_ms ({})", self.backoff_base_ms);
            return Err(Refusal::new(Reason::Malformed, text));
        }
        Ok(())
    }
}

/// What of a topic an operator has stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Paused {
    /// Receives find nothing; clocks run on, and settling works.
    pub recv: bool,
    /// Sends are refused with DEGRADED.
    pub enqueue: bool,
}

/// What the store keeps of a topic beside its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicState {
    /// What an operator set.
    pub patch: SettingsPatch,
    /// What an operator stopped.
    pub paused: Paused,
}

/// What an operator asks to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicChange {
    /// Set these; what is not named stays.
    Settings(SettingsPatch),
    /// Pause or resume.
    Pause {
        /// Which of the two.
        what: Paused,
        /// `true` = pause.
        paused: bool,
    },
}

impl TopicState {
    /// The state after `change`, of a topic whose settings are otherwise `configured`.
    ///
    /// # Errors
    /// MALFORMED, naming the field.
    pub fn changed(&self, change: &TopicChange, configured: &Settings) -> Result<TopicState, Refusal> {
        let mut state = *self;
        match change {
            TopicChange::Settings(patch) => {
                patch.check()?;
                state.patch.merge(patch);
                state.patch.over(configured).check()?;
            }
            TopicChange::Pause { what, paused } => {
                let set = |now: bool, named: bool| if named { *paused } else { now };
                state.paused.recv = set(state.paused.recv, what.recv);
                state.paused.enqueue = set(state.paused.enqueue, what.enqueue);
            }
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_sets_what_it_names_and_no_more() {
        let configured = Settings { max_inflight: 7, ..Settings::default() };
        let mut patch =
            SettingsPatch { max_attempts: Some(2), max_depth: Some(9), ..SettingsPatch::default() };
        patch.merge(&SettingsPatch {
            max_attempts: Some(3),
            retention_ms: Some(5_000),
            ..SettingsPatch::default()
        });
        let expected = Settings { max_attempts: 3, max_depth: 9, retention_ms: 5_000, ..configured };
        assert_eq!(patch.over(&configured), expected);
        assert_eq!(SettingsPatch::default().over(&configured), configured);
    }

    #[test]
    fn each_setting_of_a_patch_prevails() {
        let patch = SettingsPatch {
            visibility_ms: Some(1),
            max_attempts: Some(2),
            max_deliveries: Some(3),
            backoff_base_ms: Some(4),
            backoff_max_ms: Some(5),
            retention_ms: Some(6),
            dlq_retention_ms: Some(7),
            dedup_window_ms: Some(8),
            max_dedup_keys: Some(9),
            max_depth: Some(10),
            fifo: Some(true),
            ram: Some(true),
        };
        let expected = Settings {
            visibility_ms: 1,
            max_attempts: 2,
            max_deliveries: 3,
            backoff_base_ms: 4,
            backoff_max_ms: 5,
            retention_ms: 6,
            dlq_retention_ms: 7,
            dedup_window_ms: 8,
            max_dedup_keys: 9,
            max_depth: 10,
            fifo: true,
            ram: true,
            max_inflight: 11,
            max_waiters: 12,
        };
        let configured = Settings { max_inflight: 11, max_waiters: 12, ..Settings::default() };
        assert_eq!(patch.over(&configured), expected);
        let mut merged = SettingsPatch::default();
        merged.merge(&patch);
        assert_eq!(merged, patch);
        merged.merge(&SettingsPatch::default());
        assert_eq!(merged, patch);
    }

    #[test]
    fn the_longest_times_are_days_and_years() {
        type Set = fn(&mut SettingsPatch, u64);
        let longest: [(Set, u64); 5] = [
            (|patch, ms| patch.backoff_base_ms = Some(ms), DAY_MS),
            (|patch, ms| patch.backoff_max_ms = Some(ms), 30 * DAY_MS),
            (|patch, ms| patch.retention_ms = Some(ms), 3_650 * DAY_MS),
            (|patch, ms| patch.dlq_retention_ms = Some(ms), 3_650 * DAY_MS),
            (|patch, ms| patch.dedup_window_ms = Some(ms), 30 * DAY_MS),
        ];
        for (i, (set, most)) in longest.into_iter().enumerate() {
            let of = |ms| {
                let mut patch = SettingsPatch::default();
                set(&mut patch, ms);
                patch.check().is_ok()
            };
            assert_eq!((of(most), of(most + 1)), (true, false), "{i}");
        }
    }

    #[test]
    fn pausing_one_leaves_the_other() {
        let (recv, both) = (Paused { recv: true, enqueue: false }, Paused { recv: true, enqueue: true });
        let changed = |state: TopicState, what, paused| {
            state.changed(&TopicChange::Pause { what, paused }, &Settings::default()).unwrap()
        };
        let state = changed(TopicState::default(), both, true);
        assert_eq!(state.paused, both);
        assert_eq!(changed(state, recv, false).paused, Paused { recv: false, enqueue: true });
        assert_eq!(changed(changed(state, recv, false), recv, true).paused, both);
    }

    #[test]
    fn a_change_is_judged_with_what_is_in_force() {
        let patch = SettingsPatch { max_attempts: Some(60), ..SettingsPatch::default() };
        let change = TopicChange::Settings(patch);
        let refused = TopicState::default().changed(&change, &Settings::default()).unwrap_err();
        assert!(refused.text.starts_with("max_deliveries"), "50 deliveries are fewer than 60 attempts");
        let roomy = Settings { max_deliveries: 60, ..Settings::default() };
        assert_eq!(TopicState::default().changed(&change, &roomy).unwrap().patch, patch);
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_range() {
        let text = |patch: SettingsPatch| patch.check().unwrap_err().text.to_string();
        let short = SettingsPatch { visibility_ms: Some(249), ..SettingsPatch::default() };
        assert_eq!(text(short), "visibility_ms: must be 250 to 43200000");
        let none = SettingsPatch { max_attempts: Some(0), ..SettingsPatch::default() };
        assert_eq!(text(none), "max_attempts: must be 1 to 1000");
        let fine =
            SettingsPatch { visibility_ms: Some(250), dedup_window_ms: Some(0), ..SettingsPatch::default() };
        assert!(fine.check().is_ok());
        let few = Settings { max_deliveries: 4, ..Settings::default() };
        assert!(few.check().unwrap_err().text.starts_with("max_deliveries: "));
        let equal = Settings { max_deliveries: 5, backoff_max_ms: 200, ..Settings::default() };
        assert!(equal.check().is_ok());
        let low = Settings { backoff_max_ms: 199, ..Settings::default() };
        assert!(low.check().unwrap_err().text.starts_with("backoff_max_ms: "));
    }
}
