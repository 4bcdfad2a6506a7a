//! Sizes and durations as people write them.

use std::fmt;
use std::time::Duration;

/// A number of bytes; written `"1MiB"` or as an integer. KiB = 1024 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const TIME_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl ByteSize {
    /// Reads `"64KiB"`, `"1MiB"`, `"1GiB"`, `"512B"`.
    #[must_use]
    pub fn parse(text: &str) -> Option<ByteSize> {
        quantity(text, &SIZE_UNITS).map(ByteSize)
    }

    /// As a count in memory; saturates where that is smaller.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |&&(_, scale): &&(&str, u64)| self.0 >= scale && self.0.is_multiple_of(scale);
        let (unit, scale) = SIZE_UNITS.iter().find(exact).copied().unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / scale)
    }
}

/// Reads `"250ms"`, `"30s"`, `"15m"`, `"24h"`, `"7d"`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    quantity(text, &TIME_UNITS).map(Duration::from_millis)
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// The shortest exact way to write a duration.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let exact = |&&(_, scale): &&(&str, u64)| ms >= scale && ms.is_multiple_of(scale);
    let (unit, scale) = TIME_UNITS.iter().rev().find(exact).copied().unwrap_or(("ms", 1));
    format!("{}{unit}", ms / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(ByteSize::parse("1MiB"), Some(ByteSize(1_048_576)));
        assert_eq!(ByteSize::parse("0B"), Some(ByteSize(0)));
        for bad in [
            "",
            "MiB",
            "1",
            "1MB",
            "1mib",
            "1 MiB",
            "-1KiB",
            "1.5MiB",
            "99999999999999999999B",
            "18446744073709551615KiB",
        ] {
            assert_eq!(ByteSize::parse(bad), None, "{bad}");
        }
        for size in [0, 1, 1024, 1536, 1 << 20, 3 << 30] {
            assert_eq!(ByteSize::parse(&ByteSize(size).to_string()), Some(ByteSize(size)));
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("7d"), Some(Duration::from_secs(604_800)));
        for bad in ["", "s", "30", "30S", "1.5s", "1 s", "-1s", "1w"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
        for ms in [0, 1, 1000, 1500, 90_000, 86_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }
    }
}
