//! Reading `policy.toml`: leaf by leaf, noting everything that is wrong instead of stopping at the first.

use super::{
    Action, DEFAULT_TENANT, PRESETS_MAX, Pattern, Policy, Preset, QuotaTable, RULES_MAX, Rule, TENANTS_MAX,
    TEXT_BYTES_MAX, UNLIMITED,
};
use crate::capability::Op;
use crate::ids::{ProviderName, Tenant, Topic};
use serde::Serialize;
use std::fmt;
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong with a policy. Never holds a value of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Its line, from 1.
    pub line: usize,
    /// The key, by its full path: `rule.2.topic` (rules count from 1). Empty if it is about the whole text.
    pub key: String,
    /// What is wrong.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)?;
        self.hint.iter().try_for_each(|hint| write!(f, " ({hint})"))
    }
}

const ROOT: &[&str] = &["version", "default", "rule", "tenant", "preset"];
const RULE: &[&str] = &["tenant", "topic", "op", "provider", "max_body_bytes", "action", "reason"];
const TENANT: &[&str] = &["rps", "burst", "bytes_per_s", "max_inflight", "max_depth", "max_topics", "weight"];
const PRESET: &[&str] = &["quantum_times", "burst_times"];
const REASON_CHARS_MAX: usize = 256;
const RATE_MAX: u64 = 1_000_000_000_000;

type Value<'t> = Spanned<DeValue<'t>>;

/// Reads a whole policy.
pub(super) fn policy(text: &str) -> Result<Policy, Vec<Problem>> {
    let mut reader = Reader { text, problems: Vec::new() };
    if text.len() > TEXT_BYTES_MAX {
        reader.note(0, "", format!("is longer than {TEXT_BYTES_MAX} bytes"), None);
        return Err(reader.problems);
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        // the message alone: the error's own text quotes the line
        let message = error.message().lines().next().unwrap_or_default();
        let at = error.span().map_or(0, |span| span.start);
        reader.note(at, "", format!("is not TOML: {message}"), None);
    }
    if !errors.is_empty() {
        return Err(reader.problems);
    }
    let policy = reader.root(root.get_ref());
    reader.problems.sort();
    if reader.problems.is_empty() { Ok(policy) } else { Err(reader.problems) }
}

struct Reader<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn root(&mut self, root: &DeTable<'_>) -> Policy {
        let mut policy = Policy { default: Action::Deny, ..Policy::default() };
        self.known(root, "", ROOT);
        match root.get("version") {
            Some(value) => policy.revision = self.whole(value, "version", 1..=u64::MAX).unwrap_or_default(),
            None => self.note(0, "version", "is missing", Some("a number of your own, 1 or more".into())),
        }
        if let Some(value) = root.get("default") {
            policy.default = self.action(value, "default").unwrap_or(Action::Deny);
        }
        if let Some(value) = root.get("rule") {
            match value.get_ref().as_array() {
                Some(rules) if rules.len() > RULES_MAX => {
                    self.wrong(value, "rule", format!("there are more than {RULES_MAX} of them"));
                }
                Some(rules) => {
                    for (at, value) in rules.iter().enumerate() {
                        policy.rules.extend(self.rule(value, &format!("rule.{}", at + 1)));
                    }
                }
                None => self.wrong(value, "rule", "must be written as [[rule]]"),
            }
        }
        for (name, value, path) in self.tables(root, "tenant", TENANTS_MAX) {
            match Tenant::parse(&name) {
                Ok(tenant) => {
                    let table = self.quotas(value, &path);
                    if name == DEFAULT_TENANT {
                        policy.shared = Some(table);
                    }
                    policy.tenants.insert(tenant, table);
                }
                Err(bad) => self.wrong(value, &path, bad.to_string()),
            }
        }
        for (name, value, path) in self.tables(root, "preset", PRESETS_MAX) {
            match ProviderName::parse(&name) {
                Ok(_) => drop(policy.presets.insert(name, self.preset(value, &path))),
                Err(bad) => self.wrong(value, &path, format!("a preset's name must match {}", bad.rule)),
            }
        }
        policy
    }

    fn rule(&mut self, value: &Value<'_>, path: &str) -> Option<Rule> {
        let table = self.table(value, path)?;
        self.known(table, path, RULE);
        let key = |name: &str| format!("{path}.{name}");
        let action = match table.get("action") {
            Some(value) => self.action(value, &key("action")),
            None => {
                self.wrong(value, &key("action"), "is missing: \"allow\" or \"deny\"");
                None
            }
        };
        let ops = self.list(table, "op", path, |word| match Op::parse(word) {
            Some(op) => Ok(op),
            None => Err(format!("must be of {}", Op::WORDS.map(Op::word).join(", "))),
        });
        let tenants = self.list(table, "tenant", path, |text| {
            pattern(text, 63, "-", |name| Tenant::parse(name).map(drop).map_err(|bad| bad.to_string()))
        });
        let topics = self.list(table, "topic", path, |text| {
            pattern(text, 128, "._-", |name| Topic::parse(name).map(drop).map_err(|bad| bad.to_string()))
        });
        let providers = self.list(table, "provider", path, |text| {
            pattern(text, 63, "._-", |name| {
                ProviderName::parse(name).map(drop).map_err(|bad| bad.to_string())
            })
        });
        let body_bytes_max = table.get("max_body_bytes").and_then(|value| {
            if action == Some(Action::Deny) {
                let text = "belongs to a rule that allows: what is over it is denied";
                self.wrong(value, &key("max_body_bytes"), text);
            }
            self.size(value, &key("max_body_bytes"), 0..=RATE_MAX)
        });
        let reason = table.get("reason").and_then(|value| self.reason(value, &key("reason")));
        Some(Rule { tenants, topics, ops, providers, body_bytes_max, action: action?, reason })
    }

    fn quotas(&mut self, value: &Value<'_>, path: &str) -> QuotaTable {
        let Some(table) = self.table(value, path) else { return QuotaTable::default() };
        self.known(table, path, TENANT);
        let mut limit = |name: &str, least: u64, size: bool| -> Option<u64> {
            let (value, key) = (table.get(name)?, format!("{path}.{name}"));
            match value.get_ref().as_str() {
                Some("unlimited") => Some(UNLIMITED),
                _ if size => self.size(value, &key, least..=RATE_MAX),
                _ => self.whole(value, &key, least..=RATE_MAX),
            }
        };
        QuotaTable {
            rps: limit("rps", 1, false),
            burst: limit("burst", 1, false),
            bytes_per_s: limit("bytes_per_s", 1, true),
            max_inflight: limit("max_inflight", 0, false),
            max_depth: limit("max_depth", 0, false),
            max_topics: limit("max_topics", 0, false),
            weight: table
                .get("weight")
                .and_then(|value| self.whole(value, &format!("{path}.weight"), 1..=1_000)),
        }
    }

    fn preset(&mut self, value: &Value<'_>, path: &str) -> Preset {
        let mut preset = Preset { quantum_times: 1, burst_times: 1 };
        let Some(table) = self.table(value, path) else { return preset };
        self.known(table, path, PRESET);
        for (name, times) in
            [("quantum_times", &mut preset.quantum_times), ("burst_times", &mut preset.burst_times)]
        {
            let Some(value) = table.get(name) else { continue };
            let number = self.whole(value, &format!("{path}.{name}"), 1..=100);
            *times = number.and_then(|number| u32::try_from(number).ok()).unwrap_or(1);
        }
        preset
    }

    // --- leaves ---

    /// The tables below `[name.*]`, each with its name and path.
    fn tables<'a, 'i>(
        &mut self,
        root: &'a DeTable<'i>,
        name: &str,
        most: usize,
    ) -> Vec<(String, &'a Value<'i>, String)> {
        let Some(value) = root.get(name) else { return Vec::new() };
        let Some(tables) = self.table(value, name) else { return Vec::new() };
        if tables.len() > most {
            self.wrong(value, name, format!("there are more than {most} of them"));
            return Vec::new();
        }
        let named = tables.iter().map(|(key, value)| {
            (key.get_ref().clone().into_owned(), value, format!("{name}.{}", key.get_ref()))
        });
        named.collect()
    }

    fn table<'a, 'i>(&mut self, value: &'a Value<'i>, path: &str) -> Option<&'a DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong(value, path, "must be a table");
        }
        table
    }

    /// Notes the keys that are not among `known`.
    fn known(&mut self, table: &DeTable<'_>, path: &str, known: &[&str]) {
        for key in table.keys() {
            let name = key.get_ref();
            if known.contains(&name.as_ref()) {
                continue;
            }
            let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
            let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
            let hint = nearest.map(|nearest| format!("nearest known: {nearest}"));
            self.note(key.span().start, &path, "unknown key", hint);
        }
    }

    fn action(&mut self, value: &Value<'_>, path: &str) -> Option<Action> {
        let action = match value.get_ref().as_str() {
            Some("allow") => Some(Action::Allow),
            Some("deny") => Some(Action::Deny),
            Some(_) | None => None,
        };
        if action.is_none() {
            self.wrong(value, path, "must be \"allow\" or \"deny\"");
        }
        action
    }

    fn reason(&mut self, value: &Value<'_>, path: &str) -> Option<String> {
        let plain = |text: &&str| {
            let chars = text.chars().count();
            (1..=REASON_CHARS_MAX).contains(&chars) && !text.chars().any(char::is_control)
        };
        let text = value.get_ref().as_str().filter(plain).map(str::to_owned);
        if text.is_none() {
            self.wrong(
                value,
                path,
                format!("must be a text of 1 to {REASON_CHARS_MAX} printable characters"),
            );
        }
        text
    }

    /// A text or a list of texts; nothing is an empty list.
    fn list<T>(
        &mut self,
        table: &DeTable<'_>,
        name: &str,
        path: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(value) = table.get(name) else { return Vec::new() };
        let path = format!("{path}.{name}");
        let values: Vec<&Value<'_>> = match value.get_ref().as_array() {
            Some(values) => values.iter().collect(),
            None => vec![value],
        };
        if values.is_empty() {
            self.wrong(value, &path, "is an empty list: leave it out to mean all");
        }
        let mut list = Vec::with_capacity(values.len());
        for value in values {
            match value.get_ref().as_str().map(&read) {
                Some(Ok(item)) => list.push(item),
                Some(Err(text)) => self.wrong(value, &path, text),
                None => self.wrong(value, &path, "must be a text or a list of texts"),
            }
        }
        list
    }

    fn whole(&mut self, value: &Value<'_>, path: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let number = integer(value.get_ref()).filter(|number| range.contains(number));
        if number.is_none() {
            let rule = match *range.end() {
                u64::MAX => format!("must be a whole number, {} or more", range.start()),
                most => format!("must be a whole number, {} to {most}", range.start()),
            };
            self.wrong(value, path, rule);
        }
        number
    }

    fn size(&mut self, value: &Value<'_>, path: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let written = || value.get_ref().as_str().and_then(size);
        let number = integer(value.get_ref()).or_else(written).filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(value, path, "must be a size as \"64KiB\" or \"1MiB\", or a number of bytes");
        }
        number
    }

    fn wrong(&mut self, value: &Value<'_>, key: &str, text: impl Into<String>) {
        self.note(value.span().start, key, text, None);
    }

    fn note(&mut self, at: usize, key: &str, text: impl Into<String>, hint: Option<String>) {
        let line = self.text.as_bytes().iter().take(at).filter(|&&b| b == b'\n').count() + 1;
        self.problems.push(Problem { line, key: key.to_owned(), text: text.into(), hint });
    }
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// `"512B"`, `"64KiB"`, `"1MiB"`, `"1GiB"`.
fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A name, or the start of one and `*`.
fn pattern(
    text: &str,
    len_max: usize,
    also: &str,
    exact: impl Fn(&str) -> Result<(), String>,
) -> Result<Pattern, String> {
    let Some(start) = text.strip_suffix('*') else {
        exact(text)?;
        return Ok(Pattern { text: text.to_owned(), prefix: false });
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || also.contains(c);
    if start.len() > len_max || !start.chars().all(plain) {
        return Err("must be a name, or the start of one followed by *".to_owned());
    }
    Ok(Pattern { text: start.to_owned(), prefix: true })
}
