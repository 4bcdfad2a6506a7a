//! Resident memory of a process while a run counts: how much at most, and how fast it grows.

use crate::ambient;
use serde::{Serialize, Serializer};
use std::time::Duration;

/// Between two looks, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks in a short run.
const LOOKS: u32 = 20;
/// The share of a run, from its start, that says nothing of growth: caches and pools fill.
const SETTLES: f64 = 0.2;
/// The shortest run that says anything of growth, in seconds.
const GROWTH_FROM_S: f64 = 20.0;

const MIB: f64 = 1024.0 * 1024.0;

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Memory {
    /// The most at any look, MiB.
    #[serde(serialize_with = "tenths")]
    pub(super) peak_mib: f64,
    /// MiB a minute over all but the first fifth of the run: the straight line that fits best. `None` of a short run.
    #[serde(serialize_with = "hundredths")]
    pub(super) growth_mib_per_min: Option<f64>,
}

fn tenths<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((value * 10.0).round() / 10.0)
}

fn hundredths<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(|value| (value * 100.0).round() / 100.0).serialize(serializer)
}

/// Bytes that a process of this machine has in memory, if we may know.
pub(super) fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Waits for `span` and looks meanwhile; `None` if there is no process to look at.
pub(super) async fn watch(pid: Option<u32>, span: Duration) -> Option<Memory> {
    let began = ambient::now();
    let mut looks = Vec::new();
    let every = LOOK_EVERY.min(span / LOOKS).max(Duration::from_millis(1));
    loop {
        let elapsed = began.elapsed();
        if let Some(bytes) = pid.and_then(resident) {
            looks.push((elapsed.as_secs_f64(), bytes as f64 / MIB));
        }
        if elapsed >= span {
            return Memory::of(&looks);
        }
        tokio::time::sleep(every.min(span - elapsed)).await;
    }
}

impl Memory {
    /// Of looks (seconds from the start, MiB).
    fn of(looks: &[(f64, f64)]) -> Option<Memory> {
        let (end, _) = *looks.last()?;
        let peak_mib = looks.iter().map(|(_, mib)| *mib).fold(0.0, f64::max);
        let settled: Vec<(f64, f64)> = looks.iter().copied().filter(|(at, _)| *at >= end * SETTLES).collect();
        let growth_mib_per_min = (end >= GROWTH_FROM_S).then(|| slope(&settled) * 60.0);
        Some(Memory { peak_mib, growth_mib_per_min })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let growth = |growth: f64| format!(", {growth:+.2} MiB a minute after the first fifth");
        format!("{:.1} MiB at most{}", self.peak_mib, self.growth_mib_per_min.map(growth).unwrap_or_default())
    }
}

/// The slope of the line with the least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let over: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let under: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if under > 0.0 { over / under } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_a_line_through_what_is_settled() {
        // filling up for a fifth, then two MiB a minute, with a wobble
        let wobble = |s: f64| if (s as u64).is_multiple_of(2) { 0.1 } else { -0.1 };
        let at = |s: f64| if s < 20.0 { s } else { 100.0 + s / 30.0 + wobble(s) };
        let looks: Vec<(f64, f64)> = (0..=100).map(|s| (f64::from(s), at(f64::from(s)))).collect();
        let memory = Memory::of(&looks).unwrap();
        assert!((memory.growth_mib_per_min.unwrap() - 2.0).abs() < 0.02, "{memory:?}");
        assert!((memory.peak_mib - 103.43).abs() < 0.01, "{memory:?}");
        assert_eq!(Memory::of(&looks[..10]).unwrap().growth_mib_per_min, None, "too short to say");
        assert_eq!(Memory::of(&[]), None);
    }

    #[test]
    fn a_process_has_memory_and_one_that_is_not_has_none() {
        assert!(resident(std::process::id()).unwrap() > 100_000);
        assert_eq!(resident(u32::MAX), None);
    }
}
