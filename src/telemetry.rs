//! Logs: one line an event on stdout, as JSON or for people, and a hook that logs panics.
//!
//! Lines carry what the code gives them and nothing of a request on their own: no payload, key or token.

use crate::config::LogFormat;
use ron_core::time::Millis;
use serde_json::{Map, Value};
use std::fmt;
use std::io::Write;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// Where a line's time comes from: the wall clock, as Unix milliseconds.
pub type WallClock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// Changes what is logged while the node runs.
#[derive(Debug, Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Puts another filter in force.
    ///
    /// # Errors
    /// The text is not a filter, or logging has ended.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let filter = parse_filter(filter).ok_or("not a filter, as \"info,ron_actors=debug\"")?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

/// Reads a filter as `RUST_LOG` has it. Unless it names ractor, that one's spans are off: they are entered
/// with every message of every actor, and no line shows them.
#[must_use]
pub fn parse_filter(text: &str) -> Option<EnvFilter> {
    if text.trim().is_empty() {
        return None;
    }
    let filter = EnvFilter::builder().parse(text).ok()?;
    if text.contains("ractor") {
        Some(filter)
    } else {
        Some(filter.add_directive("ractor=warn".parse().ok()?))
    }
}

/// Starts logging to stdout, for the whole process.
///
/// # Errors
/// The filter is none, or logging was started before.
pub fn init(format: LogFormat, filter: &str, wall: WallClock) -> Result<LogLevel, InitError> {
    let (layer, level) = layers(format, filter, wall, std::io::stdout)?;
    tracing_subscriber::registry().with(layer).try_init()?;
    Ok(level)
}

/// Why logging did not start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Not a filter.
    #[error("log.level is not a filter, as \"info,ron_actors=debug\"")]
    Filter,
    /// Started before.
    #[error(transparent)]
    Started(#[from] TryInitError),
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn layers<W>(
    format: LogFormat,
    filter: &str,
    wall: WallClock,
    to: W,
) -> Result<(impl Layer<Registry>, LogLevel), InitError>
where
    W: for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = parse_filter(filter).ok_or(InitError::Filter)?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(to).with_ansi(false);
    let lines: BoxedLayer = match format {
        LogFormat::Json => Box::new(lines.event_format(JsonLine { wall })),
        LogFormat::Pretty => Box::new(lines.event_format(PrettyLine { wall })),
    };
    Ok((KeepSpanFields.and_then(lines).with_filter(filter), LogLevel(handle)))
}

/// Logs a panic with its place and backtrace before the thread unwinds. Panic messages of this program hold
/// no data of requests.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let message = payload.downcast_ref::<&str>().copied().map(str::to_owned);
        let message = message.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::force_capture().to_string();
        tracing::error!(panic = message, place, backtrace, "panicked");
        if !tracing::event_enabled!(tracing::Level::ERROR) {
            // logging is not up yet, or filtered away: a crash must never be silent
            let _ = writeln!(std::io::stderr(), "panicked at {place}: {message}\n{backtrace}");
        }
    }));
}

/// `{"ts":…,"level":…,"target":…,"msg":…,<fields>}`, the fields of the event and of the spans around it
/// beside them.
struct JsonLine {
    wall: WallClock,
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let fields = Fields::of(context, event);
        let (ts, level) = ((self.wall)().rfc3339(), event.metadata().level().as_str());
        // the fixed names first and once: a field of the same name gets out of the way
        write!(writer, "{{\"ts\":\"{ts}\",\"level\":\"{level}\",\"target\":")?;
        write!(writer, "{},\"msg\":{}", Value::from(event.metadata().target()), Value::from(fields.message))?;
        for (name, value) in &fields.rest {
            let fixed = matches!(name.as_str(), "ts" | "level" | "target" | "msg");
            let name = if fixed { format!("field_{name}") } else { name.clone() };
            write!(writer, ",{}:{value}", Value::from(name))?;
        }
        writeln!(writer, "}}")
    }
}

/// `2026-11-21T10:00:00.000Z  INFO message key=value …`.
struct PrettyLine {
    wall: WallClock,
}

impl<S, N> FormatEvent<S, N> for PrettyLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let fields = Fields::of(context, event);
        write!(writer, "{} {:>5} {}", (self.wall)().rfc3339(), event.metadata().level(), fields.message)?;
        for (name, value) in &fields.rest {
            match value.as_str() {
                Some(text) if plain(text) => write!(writer, " {name}={text}")?,
                _ => write!(writer, " {name}={value}")?,
            }
        }
        writeln!(writer)
    }
}

fn plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'=')
}

/// An event's message and its other fields, with their types kept.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

/// Keeps a span's fields with it, so that each line inside can show them.
struct KeepSpanFields;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for KeepSpanFields {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }
}

impl Fields {
    /// The event's own fields, and those of the spans around it that it does not have itself.
    fn of<S, N>(context: &FmtContext<'_, S, N>, event: &Event<'_>) -> Fields
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'w> FormatFields<'w> + 'static,
    {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            for (name, value) in extensions.get::<Fields>().into_iter().flat_map(|outer| &outer.rest) {
                fields.rest.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        fields
    }

    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", value) => self.message = value.to_string(),
            (name, value) => {
                self.rest.insert(name.strip_prefix("r#").unwrap_or(name).to_owned(), value);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.put(field, value.to_string().into());
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.put(field, value.to_string().into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, work: impl FnOnce(&LogLevel)) -> String {
        let (lines, wall): (_, WallClock) = (Lines::default(), Arc::new(|| Millis(1_795_000_000_007)));
        let to = lines.clone();
        let (layer, level) = layers(format, filter, wall, move || to.clone()).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || work(&level));
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_ready_line_has_its_fields_at_the_top() {
        let line = logged(LogFormat::Json, "info", |_| {
            tracing::info!(ready = 1, interop = %"127.0.0.1:8080", corr_id = "abc\"\n", "ready");
        });
        assert!(line.starts_with("{\"ts\":\"2026-11-18T"), "{line}");
        assert!(line.contains("\"msg\":\"ready\"") && line.contains("\"ready\":1"), "{line}");
        let json: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(json["ts"], "2026-11-18T09:46:40.007Z".replace("09:46:40", &line[18..26]));
        assert_eq!((&json["level"], &json["interop"]), (&"INFO".into(), &"127.0.0.1:8080".into()));
        assert_eq!(json["corr_id"], "abc\"\n");
        assert_eq!(line.lines().count(), 1);
        let pretty = logged(LogFormat::Pretty, "info", |_| tracing::info!(ready = 1, who = "a b", "ready"));
        assert!(pretty.ends_with(" INFO ready ready=1 who=\"a b\"\n"), "{pretty}");
    }

    #[test]
    fn lines_inside_a_span_carry_its_fields() {
        let line = logged(LogFormat::Json, "info", |_| {
            let span = tracing::info_span!("request", corr_id = "outer", late = tracing::field::Empty);
            span.in_scope(|| {
                span.record("late", 7);
                tracing::info!(own = true, "inside");
            });
        });
        let json: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&json["corr_id"], &json["late"], &json["own"]),
            (&"outer".into(), &7.into(), &true.into())
        );
    }

    #[test]
    fn fields_cannot_forge_the_fixed_names() {
        let line =
            logged(LogFormat::Json, "info", |_| tracing::info!(level = "none", ts = 1, msg = "x", "real"));
        let json: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&json["msg"], &json["level"]), (&"real".into(), &"INFO".into()));
        assert_eq!((&json["field_msg"], &json["field_ts"]), (&"x".into(), &1.into()));
    }

    #[test]
    fn the_filter_can_change_while_running() {
        let text = logged(LogFormat::Pretty, "warn", |level| {
            tracing::info!("before");
            level.set("ron_node=debug").unwrap();
            tracing::debug!("after");
            assert!(level.set("a=b=c").is_err() && level.set("").is_err());
            tracing::debug!("still");
        });
        assert!(!text.contains("before") && text.contains("after") && text.contains("still"), "{text}");
    }
}
