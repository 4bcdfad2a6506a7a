//! `[log]`: what goes to stdout.

use super::read::Section;

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// `[log]`.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// What is logged, as in `RUST_LOG`.
    pub level: String,
}

impl LogConfig {
    pub(super) fn read(s: &Section<'_, '_>) -> LogConfig {
        let format = s.parsed("format", "\"json\" or \"pretty\"", |text| match text {
            "json" => Some(LogFormat::Json),
            "pretty" => Some(LogFormat::Pretty),
            _ => None,
        });
        let level = s.parsed("level", "a filter, as \"info,ron_actors=debug\"", |text| {
            crate::telemetry::parse_filter(text).map(|_| text.to_owned())
        });
        LogConfig { format: format.unwrap_or(LogFormat::Json), level: level.unwrap_or_default() }
    }
}
