//! Reads the merged tree leaf by leaf, and notes everything that is wrong instead of stopping at the first.
//!
//! Each read makes its key known; what is left over is unknown. A read that fails gives a stand-in, which
//! nobody sees, since a configuration with problems is never used.

use super::layers::Layers;
use super::problem::Problem;
use super::units::{ByteSize, parse_duration, show_duration};
use figment::value::{Dict, Num, Tag, Value};
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// What all sections of one reading share.
pub(super) struct Reading<'a> {
    pub(super) layers: &'a Layers,
    known: RefCell<Vec<Vec<String>>>,
    unknown: RefCell<Vec<(Vec<String>, Tag)>>,
    problems: RefCell<Vec<Problem>>,
    typed: RefCell<Vec<(Vec<String>, toml::Value)>>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(layers: &'a Layers, problems: Vec<Problem>) -> Reading<'a> {
        let (known, unknown, typed) = (RefCell::default(), RefCell::default(), RefCell::default());
        Reading { layers, known, unknown, problems: RefCell::new(problems), typed }
    }

    /// Reads the whole tree.
    pub(super) fn root<T>(&self, dict: &'a Dict, read: impl FnOnce(&Section<'a, '_>) -> T) -> T {
        self.section(Vec::new(), Some(dict), Tag::Default, read)
    }

    /// Gives what came from variables as text the type it was read as.
    pub(super) fn put_types(&self, root: &mut toml::Table) {
        for (path, typed) in self.typed.borrow().iter() {
            let Some((first, rest)) = path.split_first() else { continue };
            let value = rest.iter().try_fold(root.get_mut(first), |value, key| Some(value?.get_mut(key)));
            if let Some(Some(value)) = value {
                *value = typed.clone();
            }
        }
    }

    /// All problems, unknown keys last, each with the nearest key there is.
    pub(super) fn finish(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        let known = self.known.into_inner();
        for (path, tag) in self.unknown.into_inner() {
            let nearest = known.iter().min_by_key(|candidate| distance(&path, candidate));
            let by_env = self.layers.is_from_env(tag);
            problems.push(Problem {
                key: show_path(&path),
                place: self.layers.place(tag, &path),
                text: "unknown key".into(),
                hint: nearest.map(|key| match by_env {
                    true => format!("nearest known: {} ({})", variable(key), show_path(key)),
                    false => format!("nearest known: {}", show_path(key)),
                }),
            });
        }
        problems
    }

    fn section<T>(
        &self,
        path: Vec<String>,
        dict: Option<&'a Dict>,
        tag: Tag,
        read: impl FnOnce(&Section<'a, '_>) -> T,
    ) -> T {
        let section = Section { reading: self, path, dict, tag, seen: RefCell::default() };
        let value = read(&section);
        let seen = section.seen.borrow();
        for (key, value) in dict.into_iter().flatten().filter(|(key, _)| !seen.contains(key)) {
            let path = section.path_of(key);
            self.note_unknown(path, value);
        }
        value
    }

    /// An unknown table of the file is one problem; each variable is one of its own.
    fn note_unknown(&self, path: Vec<String>, value: &Value) {
        let mut by_file = None;
        for (inner, tag) in leaves(value) {
            if self.layers.is_from_env(tag) {
                self.unknown.borrow_mut().push(([&path[..], &inner].concat(), tag));
            } else {
                by_file = Some(tag);
            }
        }
        self.unknown.borrow_mut().extend(by_file.map(|tag| (path, tag)));
    }
}

/// The paths and origins of all that is below a value; the value itself, if it is none of a table.
fn leaves(value: &Value) -> Vec<(Vec<String>, Tag)> {
    match value {
        Value::Dict(_, dict) if !dict.is_empty() => {
            let below = |(key, value): (&String, &Value)| {
                let under =
                    |(path, tag): (Vec<String>, Tag)| ([std::slice::from_ref(key), &path[..]].concat(), tag);
                leaves(value).into_iter().map(under).collect::<Vec<_>>()
            };
            dict.iter().flat_map(below).collect()
        }
        _ => vec![(Vec::new(), value.tag())],
    }
}

fn first_leaf(value: &Value) -> &Value {
    match value {
        Value::Dict(_, dict) => dict.values().next().map_or(value, first_leaf),
        _ => value,
    }
}

/// How far an unknown key is from a known one: a slip in one name, or the right name in the wrong table.
fn distance(unknown: &[String], known: &[String]) -> usize {
    let same_table = unknown.len() == known.len() && unknown[..unknown.len() - 1] == known[..known.len() - 1];
    match (unknown.last(), known.last()) {
        (Some(typed), Some(meant)) if same_table => strsim::damerau_levenshtein(typed, meant) * 2,
        (Some(typed), Some(meant)) if typed == meant => 3,
        _ => strsim::damerau_levenshtein(&show_path(unknown), &show_path(known)) * 2 + 1,
    }
}

fn show_path(path: &[String]) -> String {
    path.join(".")
}

fn variable(path: &[String]) -> String {
    format!("RON_{}", path.join("__").to_ascii_uppercase())
}

/// One table of the configuration.
pub(super) struct Section<'a, 'r> {
    pub(super) reading: &'r Reading<'a>,
    path: Vec<String>,
    dict: Option<&'a Dict>,
    tag: Tag,
    seen: RefCell<Vec<String>>,
}

impl<'a> Section<'a, '_> {
    /// Reads the table `key`; one that is not there reads as empty.
    pub(super) fn table<T>(&self, key: &str, read: impl FnOnce(&Section<'a, '_>) -> T) -> T {
        let value = self.value(key);
        let (dict, tag) = match value {
            Some(Value::Dict(tag, dict)) => (Some(dict), *tag),
            Some(other) => {
                self.problem(key, "must be a table", None);
                (None, other.tag())
            }
            None => (None, self.tag),
        };
        self.reading.section(self.path_of(key), dict, tag, read)
    }

    /// Reads every table in the table `key`, by its name.
    pub(super) fn tables<T>(&self, key: &str, mut read: impl FnMut(&str, &Section<'a, '_>) -> T) -> Vec<T> {
        self.table(key, |all| {
            let names: Vec<&String> = all.dict.into_iter().flat_map(|dict| dict.keys()).collect();
            names.into_iter().map(|name| all.table(name, |one| read(name, one))).collect()
        })
    }

    /// Reads every table of the array `key`.
    pub(super) fn list<T>(&self, key: &str, mut read: impl FnMut(&Section<'a, '_>) -> T) -> Vec<T> {
        let mut items = Vec::new();
        match self.value(key) {
            None => {}
            Some(Value::Array(_, values)) => {
                for (at, value) in values.iter().enumerate() {
                    let path = [&self.path[..], &[key.to_owned(), at.to_string()]].concat();
                    if let Value::Dict(tag, dict) = value {
                        items.push(self.reading.section(path, Some(dict), *tag, &mut read));
                    } else {
                        self.problem(key, "must be a list of tables", None);
                    }
                }
            }
            Some(_) => self.problem(key, "must be a list of tables", None),
        }
        items
    }

    /// Hands over the table `key` as it is, for a module that knows its form.
    pub(super) fn raw(&self, key: &str) -> toml::Table {
        match self.value(key).map(to_toml) {
            Some(toml::Value::Table(table)) => table,
            Some(_) => {
                self.problem(key, "must be a table", None);
                toml::Table::new()
            }
            None => toml::Table::new(),
        }
    }

    /// A text that may be absent.
    pub(super) fn text_opt(&self, key: &str) -> Option<String> {
        let value = self.value(key)?;
        let text = self.text_of(value);
        if text.is_none() {
            self.problem(key, "must be text", None);
        }
        text
    }

    /// A path that may be absent; an empty one counts as absent.
    pub(super) fn path_opt(&self, key: &str) -> Option<PathBuf> {
        self.text_opt(key).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    /// A text that `parse` turns into what is wanted; `rule` completes "must be …".
    pub(super) fn parsed_opt<T>(
        &self,
        key: &str,
        rule: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let parsed = self.text_of(value).as_deref().and_then(parse);
        if parsed.is_none() {
            self.problem(key, format!("must be {rule}"), None);
        }
        parsed
    }

    /// The same, of a key that must be there. `None` is a problem already noted.
    pub(super) fn parsed<T>(&self, key: &str, rule: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.require(key);
        self.parsed_opt(key, rule, parse)
    }

    /// A list of texts that `parse` turns into what is wanted.
    pub(super) fn parsed_list<T>(&self, key: &str, rule: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let items = match self.value(key) {
            None => return Vec::new(),
            Some(Value::Array(_, values)) => {
                values.iter().map(|value| self.text_of(value).as_deref().and_then(&parse)).collect()
            }
            Some(_) => None,
        };
        items.unwrap_or_else(|| {
            self.problem(key, format!("must be a list of {rule}"), None);
            Vec::new()
        })
    }

    /// An address to listen on.
    pub(super) fn address(&self, key: &str) -> SocketAddr {
        let none = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        self.parsed(key, "an IP address and port, as 127.0.0.1:9410", |text| text.parse().ok())
            .unwrap_or(none)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &str) -> bool {
        self.require(key);
        self.boolean_or(key, false)
    }

    /// `true` or `false`, or a default if it is absent.
    pub(super) fn boolean_or(&self, key: &str, default: bool) -> bool {
        match self.value(key) {
            None => default,
            Some(Value::Bool(_, value)) => *value,
            Some(value) => match self.env_text(value) {
                Some(text @ ("true" | "false")) => self.typed(key, text == "true"),
                _ if self.origin_at(&[key]).as_deref() == Some("variable AMNESIA") => {
                    self.problem(key, "must be on or off", None);
                    default
                }
                _ => {
                    self.problem(key, "must be true or false", None);
                    default
                }
            },
        }
    }

    /// A whole number in a range.
    pub(super) fn integer<N: TryFrom<u64> + Into<u64> + Copy>(
        &self,
        key: &str,
        range: RangeInclusive<N>,
    ) -> N {
        self.require(key);
        self.integer_opt(key, &range).unwrap_or(*range.start())
    }

    /// A whole number in a range, which may be absent.
    pub(super) fn integer_opt<N: TryFrom<u64> + Into<u64> + Copy>(
        &self,
        key: &str,
        range: &RangeInclusive<N>,
    ) -> Option<N> {
        let value = self.value(key)?;
        let (least, most): (u64, u64) = ((*range.start()).into(), (*range.end()).into());
        let number = self.whole_number(value).filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let milliseconds = if key.ends_with("_ms") { "milliseconds, " } else { "" };
            let to = if most == u64::MAX { "or more".to_owned() } else { format!("to {most}") };
            self.problem(key, format!("must be a whole number ({milliseconds}{least} {to})"), None);
        }
        if let (Some(number), Value::String(..)) = (number, value) {
            self.typed(key, i64::try_from(number).unwrap_or(i64::MAX));
        }
        number.and_then(|number| N::try_from(number).ok())
    }

    /// A list of whole numbers, which may be absent; `rule` completes "must be a list of …".
    pub(super) fn whole_numbers(&self, key: &str, rule: &str) -> Option<Vec<u64>> {
        let numbers = match self.value(key)? {
            Value::Array(_, values) => values.iter().map(|value| self.whole_number(value)).collect(),
            _ => None,
        };
        if numbers.is_none() {
            self.problem(key, format!("must be a list of {rule}"), None);
        }
        numbers
    }

    /// A share between 0 and 1.
    pub(super) fn share(&self, key: &str) -> f64 {
        self.require(key);
        let number = self.value(key).and_then(|value| match value {
            Value::Num(_, number) => number.to_f64().or_else(|| whole(*number).map(|whole| whole as f64)),
            _ => self.env_text(value).and_then(|text| text.parse().ok()),
        });
        let share = number.filter(|share| (0.0..=1.0).contains(share));
        if share.is_none() && self.value(key).is_some() {
            self.problem(key, "must be a number from 0 to 1", None);
        }
        if let (Some(share), Some(Value::String(..))) = (share, self.value(key)) {
            self.typed(key, share);
        }
        share.unwrap_or_default()
    }

    /// A duration in a range.
    pub(super) fn duration(&self, key: &str, range: RangeInclusive<Duration>) -> Duration {
        self.require(key);
        self.duration_opt(key, &range).unwrap_or(*range.start())
    }

    /// A duration in a range, which may be absent.
    pub(super) fn duration_opt(&self, key: &str, range: &RangeInclusive<Duration>) -> Option<Duration> {
        let value = self.value(key)?;
        let text = self.text_of(value);
        let duration = text.as_deref().and_then(parse_duration).filter(|duration| range.contains(duration));
        if duration.is_none() {
            let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
            let rule = format!("must be a duration as \"30s\" or \"250ms\" ({least} to {most})");
            self.problem(key, rule, None);
        }
        duration
    }

    /// A size in a range.
    pub(super) fn size(&self, key: &str, range: RangeInclusive<u64>) -> ByteSize {
        self.require(key);
        self.size_opt(key, &range).unwrap_or_default()
    }

    /// A size in a range, which may be absent.
    pub(super) fn size_opt(&self, key: &str, range: &RangeInclusive<u64>) -> Option<ByteSize> {
        let value = self.value(key)?;
        let written = || self.text_of(value).as_deref().and_then(ByteSize::parse);
        let size =
            self.whole_number(value).map(ByteSize).or_else(written).filter(|size| range.contains(&size.0));
        if size.is_none() {
            let (least, most) = (ByteSize(*range.start()), ByteSize(*range.end()));
            let rule = format!("must be a size as \"64KiB\" or \"1MiB\", or bytes ({least} to {most})");
            self.problem(key, rule, None);
        }
        size
    }

    /// Notes what is wrong with the table itself.
    pub(super) fn problem_here(&self, text: impl Into<String>) {
        let place = self.reading.layers.place(self.tag, &self.path);
        let problem = Problem { key: show_path(&self.path), place, text: text.into(), hint: None };
        self.reading.problems.borrow_mut().push(problem);
    }

    /// Notes what is wrong with `key`.
    pub(super) fn problem(&self, key: &str, text: impl Into<String>, hint: Option<String>) {
        self.problem_at(&[key], text, hint);
    }

    /// Notes what is wrong with the value at `path` below this table.
    pub(super) fn problem_at(&self, path: &[&str], text: impl Into<String>, hint: Option<String>) {
        let place = self.origin_at(path).unwrap_or_else(|| self.reading.layers.place(self.tag, &self.path));
        let problem = Problem { key: show_path(&self.below(path)), place, text: text.into(), hint };
        self.reading.problems.borrow_mut().push(problem);
    }

    /// Where the value at `path` below this table comes from, if there is one.
    pub(super) fn origin_at(&self, path: &[&str]) -> Option<String> {
        let (first, rest) = path.split_first()?;
        let value = rest.iter().try_fold(self.dict?.get(*first)?, |value, key| value.as_dict()?.get(*key))?;
        Some(self.reading.layers.place(first_leaf(value).tag(), &self.below(path)))
    }

    /// Notes that `key` must be there, unless the whole table is already known to be wrong.
    pub(super) fn require(&self, key: &str) {
        if self.dict.is_some_and(|dict| !dict.contains_key(key)) {
            self.problem(key, "is missing", None);
        }
    }

    fn path_of(&self, key: &str) -> Vec<String> {
        self.below(&[key])
    }

    fn below(&self, path: &[&str]) -> Vec<String> {
        self.path.iter().cloned().chain(path.iter().map(|&key| key.to_owned())).collect()
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        if !self.seen.borrow().iter().any(|seen| seen == key) {
            self.seen.borrow_mut().push(key.to_owned());
            self.reading.known.borrow_mut().push(self.path_of(key));
        }
        self.dict?.get(key)
    }

    fn typed<T: Into<toml::Value> + Copy>(&self, key: &str, value: T) -> T {
        self.reading.typed.borrow_mut().push((self.path_of(key), value.into()));
        value
    }

    fn env_text(&self, value: &'a Value) -> Option<&'a str> {
        value.as_str().filter(|_| self.reading.layers.is_from_env(value.tag()))
    }

    /// Text as it stands; from a variable's list also what looks like a number; TOML's own dates as they are
    /// written.
    fn text_of(&self, value: &'a Value) -> Option<String> {
        match value {
            Value::String(_, text) => Some(text.clone()),
            Value::Char(_, one) => Some(one.to_string()),
            Value::Num(tag, number) if self.reading.layers.is_from_env(*tag) => {
                whole(*number).map(|number| number.to_string())
            }
            Value::Dict(_, dict) => dict.get(TOML_DATE).and_then(Value::as_str).map(str::to_owned),
            _ => None,
        }
    }

    fn whole_number(&self, value: &'a Value) -> Option<u64> {
        match value {
            Value::Num(_, number) => whole(*number).and_then(|number| u64::try_from(number).ok()),
            _ => self.env_text(value).and_then(|text| text.parse().ok()),
        }
    }
}

/// figment keeps the sizes and signs of integers apart.
fn whole(number: Num) -> Option<i128> {
    number.to_i128().or_else(|| number.to_u128().and_then(|number| i128::try_from(number).ok()))
}

/// The name under which serde carries a date out of a TOML text.
const TOML_DATE: &str = "$__toml_private_datetime";

/// The same value as TOML.
pub(super) fn to_toml(value: &Value) -> toml::Value {
    match value {
        Value::String(_, text) => text.as_str().into(),
        Value::Char(_, one) => one.to_string().into(),
        Value::Bool(_, value) => (*value).into(),
        Value::Num(_, number) => match whole(*number).and_then(|whole| i64::try_from(whole).ok()) {
            Some(whole) => whole.into(),
            None => number.to_f64().unwrap_or(f64::MAX).into(),
        },
        Value::Empty(..) => "".into(),
        Value::Dict(_, dict) => match dict.get(TOML_DATE).and_then(Value::as_str) {
            Some(date) => date.into(),
            None => {
                dict.iter().map(|(key, value)| (key.clone(), to_toml(value))).collect::<toml::Table>().into()
            }
        },
        Value::Array(_, values) => values.iter().map(to_toml).collect::<Vec<_>>().into(),
    }
}
