//! Printing: tables for people, JSON for programs, quiet when the reader went away.

use crate::failure::{Failure, failed};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Where and how a command prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON instead of text for people.
    pub(crate) json: bool,
}

impl Output {
    /// Prints one line of text.
    ///
    /// # Errors
    /// [`Failure::OutputClosed`] if nobody reads it any more.
    pub(crate) fn line(self, text: impl Display) -> Result<(), Failure> {
        write_out(format!("{text}\n").as_bytes())
    }

    /// Prints a value as one line of JSON.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn value(self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|err| failed(format!("writing JSON: {err}")))?;
        self.line(text)
    }

    /// Prints rows under a header, columns aligned.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn table(self, header: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        let mut table = plain_table();
        table.set_header(header.iter().map(|name| name.to_uppercase()));
        table.add_rows(rows);
        self.line(trimmed(&table))
    }

    /// Prints names and values, one pair a line, values aligned.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn pairs(self, pairs: &[(&str, String)]) -> Result<(), Failure> {
        let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let lines: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{name:width$}  {value}").trim_end().to_owned())
            .collect();
        self.line(lines.join("\n"))
    }
}

/// Whether a person watches stderr, so that a progress bar makes sense there.
#[must_use]
pub(crate) fn watched() -> bool {
    io::stderr().is_terminal()
}

/// Says something on stderr that does not belong to the output.
pub(crate) fn warn(text: &str) {
    // a closed stderr leaves nobody to tell
    let _ = io::stderr().write_all(format!("ronctl: {text}\n").as_bytes());
}

/// Text that came from outside, made safe for a terminal: control characters are shown, not obeyed.
#[must_use]
pub(crate) fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => safe.push(c),
            c if c.is_control() => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    safe
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// The table without the blanks that its layout leaves at both ends of a line.
fn trimmed(table: &Table) -> String {
    table
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|err| match err.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => failed(format!("writing to stdout: {err}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(printable("a\u{1b}[31mred\u{7}\r\nb\tc"), "a\\u{1b}[31mred\\u{7}\\r\nb\tc");
        assert_eq!(printable("größe"), "größe");
    }

    #[test]
    fn a_table_is_aligned_text_without_a_frame() {
        let mut table = plain_table();
        table.set_header(["TOPIC", "READY"]);
        table.add_rows([["a", "1"], ["orders.eu", "12"]]);
        assert_eq!(trimmed(&table), "TOPIC      READY\na          1\norders.eu  12");
    }
}
