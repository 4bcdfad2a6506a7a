//! The file that says that a node's clock is in doubt (SPEC §1 "node time"). It is there from the start that met a
//! [`ClockGap`] until an operator accepts it, so that a restart in between does not accept it for him.

use crate::durable_file;
use ron_core::time::{ClockGap, Millis};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

/// The gap that nothing may expire for: the one of this start, or of an earlier one that was not accepted. On the
/// device when this returns. Blocks.
///
/// # Errors
/// The system's; nothing may then be committed, since the time of a commit would hide the gap.
pub fn judge(path: &Path, saved: Millis, wall: Millis, ahead_max_ms: u64) -> io::Result<Option<ClockGap>> {
    let before = match fs::read(path) {
        // Its content is for people: that it is there is what counts.
        Ok(text) => Some(read(&text).unwrap_or(ClockGap { saved, wall })),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if before.is_some() {
        return Ok(before);
    }
    let gap = ClockGap::between(saved, wall, ahead_max_ms);
    if gap.is_some() {
        durable_file::replace(path, format!("{} {}\n", saved.0, wall.0).as_bytes())?;
    }
    Ok(gap)
}

fn read(text: &[u8]) -> Option<ClockGap> {
    let (saved, wall) = str::from_utf8(text).ok()?.trim().split_once(' ')?;
    Some(ClockGap { saved: Millis(saved.parse().ok()?), wall: Millis(wall.parse().ok()?) })
}

/// Forgets the gap, for good when this returns. Blocks.
///
/// # Errors
/// The system's; it may then come back with the next start.
pub fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;

    #[test]
    fn a_gap_is_there_until_it_is_forgotten_whatever_the_clock_says_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clock-gap");
        let saved = Millis(100 * DAY_MS);
        let judged = |wall| judge(&path, saved, Millis(wall), 7 * DAY_MS).unwrap();
        assert_eq!(judged(107 * DAY_MS), None);
        assert!(!path.exists());
        let gap = Some(ClockGap { saved, wall: Millis(90 * DAY_MS) });
        assert_eq!(judged(90 * DAY_MS), gap);
        assert_eq!(judged(100 * DAY_MS), gap, "the clock is right again, and nobody has accepted");
        fs::write(&path, "not what we wrote").unwrap();
        assert!(judged(100 * DAY_MS).is_some());
        forget(&path).unwrap();
        forget(&path).unwrap();
        assert_eq!(judged(100 * DAY_MS), None);
        fs::create_dir(&path).unwrap();
        assert!(judge(&path, saved, saved, 1).is_err(), "what cannot be read is not passed over");
    }
}
