//! The layers of a configuration and where each value comes from.
//!
//! figment merges them; `toml_edit` knows the lines of the file, which figment does not.

use super::problem::Problem;
use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use toml_edit::{Document, Item, TableLike};

/// The defaults: every key there is.
pub const DEFAULT: &str = include_str!("../../config/default.toml");
const MACRONODE: &str = include_str!("../../config/macronode.toml");
const MICRONODE: &str = include_str!("../../config/micronode.toml");
const DEV: &str = include_str!("../../config/dev.toml");

/// The operators' names of some keys.
pub(super) const OPERATORS_NAMES: [(&str, &str); 9] = [
    ("SVC_INTEROP_BIND_ADDR", "interop.bind_addr"),
    ("SVC_INTEROP_METRICS_ADDR", "interop.metrics_addr"),
    ("SVC_INTEROP_MAX_CONNS", "interop.limits.max_conns"),
    ("SVC_INTEROP_MAX_RPS", "interop.limits.max_rps"),
    ("SVC_INTEROP_BURST_RPS", "interop.limits.burst_rps"),
    ("MAILBOX_LISTEN", "mailbox.listen"),
    ("METRICS_ADDR", "mailbox.metrics_addr"),
    ("AMNESIA", "node.amnesia"),
    ("RUST_LOG", "log.level"),
];

/// Where a configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config FILE`; without it, `RON_CONFIG`.
    pub file: Option<PathBuf>,
    /// The environment, whole.
    pub env: BTreeMap<String, String>,
    /// `--dev`.
    pub dev: bool,
    /// `--profile NAME`.
    pub profile: Option<String>,
}

impl Sources {
    /// The process's own environment and nothing else. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Sources {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Sources { env: std::env::vars_os().filter_map(text).collect(), ..Sources::default() }
    }

    /// The file that is read, if any.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        let named = || self.env.get("RON_CONFIG").filter(|name| !name.is_empty()).map(Path::new);
        self.file.as_deref().or_else(named)
    }
}

/// The merged tree, and the origin of each value in it.
pub(super) struct Layers {
    figment: Figment,
    file: Option<PathBuf>,
    lines: HashMap<Vec<String>, usize>,
}

impl Layers {
    /// Reads and merges all layers; what cannot be read is a problem, and the rest goes on without it.
    pub(super) fn read(sources: &Sources, problems: &mut Vec<Problem>) -> Layers {
        let mut layers = Layers { figment: Figment::new(), file: None, lines: HashMap::new() };
        let file = sources.file().and_then(|path| layers.read_file(sources, path, problems));
        let env = env_layers(&sources.env);

        let on_top = file.iter().chain(&env).fold(Figment::new(), Figment::merge);
        let named = on_top.find_value("node.profile").ok().and_then(|value| value.into_string());
        let profile = match sources.profile.clone().or(named).as_deref() {
            Some("micronode") => MICRONODE,
            _ => MACRONODE,
        };
        let mut figment = Figment::new()
            .merge(Layer::built_in("built-in defaults", DEFAULT))
            .merge(Layer::built_in("built-in profile", profile));
        if sources.dev {
            figment = figment.merge(Layer::built_in("built-in --dev", DEV));
        }
        figment = file.iter().chain(&env).fold(figment, Figment::merge);
        if let Some(profile) = &sources.profile {
            let value = Value::from(profile.as_str());
            figment = figment.merge(Layer::of_key("flag --profile", &["node", "profile"], value));
        }
        layers.figment = figment;
        layers
    }

    /// The root of the merged tree.
    pub(super) fn root(&self) -> Dict {
        self.figment.find_value("").ok().and_then(Value::into_dict).unwrap_or_default()
    }

    fn read_file(&mut self, sources: &Sources, path: &Path, problems: &mut Vec<Problem>) -> Option<Layer> {
        let name = path.display().to_string();
        let mut problem = |place: String, text: String, hint: Option<&str>| {
            problems.push(Problem { key: String::new(), place, text, hint: hint.map(str::to_owned) });
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let by = if sources.file.is_some() { "--config" } else { "RON_CONFIG" };
                problem(format!("{by} {name}"), format!("cannot be read: {error}"), None);
                return None;
            }
        };
        let document = match Document::parse(text.as_str()) {
            Ok(document) => document,
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(&text, span.start));
                // the message alone: the error's own text quotes the line
                let message = error.message().lines().next().unwrap_or_default();
                problem(format!("{name}:{line}"), format!("is not TOML: {message}"), None);
                return None;
            }
        };
        collect_lines(&text, document.as_table(), &mut Vec::new(), &mut self.lines);
        self.file = Some(path.to_owned());
        match Toml::string(&text).data() {
            Ok(data) => Some(Layer { metadata: Metadata::from("file", path), data }),
            Err(_) => {
                problem(name, "is not TOML of version 1.0".into(), None);
                None
            }
        }
    }

    /// The file and line, variable or flag that gave the value `tag` at `path`.
    pub(super) fn place(&self, tag: Tag, path: &[String]) -> String {
        let Some(metadata) = self.figment.get_metadata(tag) else { return "configuration".into() };
        match (&metadata.source, &self.file) {
            (Some(figment::Source::File(_)), Some(file)) => {
                let known = (0..=path.len()).rev().find_map(|len| self.lines.get(&path[..len]));
                known.map_or(file.display().to_string(), |line| format!("{}:{line}", file.display()))
            }
            _ => metadata.name.clone().into_owned(),
        }
    }

    /// Whether the value came from a variable, and so as text.
    pub(super) fn is_from_env(&self, tag: Tag) -> bool {
        self.figment.get_metadata(tag).is_some_and(|metadata| metadata.name.starts_with("variable "))
    }
}

/// One layer as figment takes it.
#[derive(Clone)]
struct Layer {
    metadata: Metadata,
    data: Map<Profile, Dict>,
}

impl Layer {
    fn built_in(name: &'static str, text: &str) -> Layer {
        // a test loads each of them
        Layer { metadata: Metadata::named(name), data: Toml::string(text).data().unwrap_or_default() }
    }

    fn of_key(name: impl Into<String>, path: &[&str], value: Value) -> Layer {
        let nest = |inner: Value, key: &&str| Value::from(Dict::from([((*key).to_owned(), inner)]));
        let data = path.iter().rev().fold(value, nest).into_dict().unwrap_or_default();
        Layer { metadata: Metadata::named(name.into()), data: Profile::Default.collect(data) }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(self.data.clone())
    }
}

/// A layer for each variable that is a key, the operators' names first, so that `RON_` names win.
fn env_layers(env: &BTreeMap<String, String>) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (name, key) in OPERATORS_NAMES {
        if let Some(text) = env.get(name).filter(|text| !(text.is_empty() && name == "RUST_LOG")) {
            let value = match (name, text.as_str()) {
                ("AMNESIA", "on") => Value::from(true),
                ("AMNESIA", "off") => Value::from(false),
                _ => Value::from(text.as_str()),
            };
            let path: Vec<&str> = key.split('.').collect();
            layers.push(Layer::of_key(format!("variable {name}"), &path, value));
        }
    }
    if let Some(path) = env.get("RON_KEYRING") {
        layers.push(Layer::of_key("variable RON_KEYRING", &["auth", "keyring"], Value::from(path.as_str())));
    }
    for (name, text) in env {
        let Some(rest) = name.strip_prefix("RON_").filter(|rest| rest.contains("__")) else { continue };
        let key = rest.to_ascii_lowercase();
        let path: Vec<&str> = key.split("__").collect();
        layers.push(Layer::of_key(format!("variable {name}"), &path, env_value(text)));
    }
    layers
}

/// Lists and tables in figment's own notation; anything else stays text, and is read as what its key takes.
fn env_value(text: &str) -> Value {
    if text.starts_with(['[', '{', '"'])
        && let Ok(value @ (Value::Array(..) | Value::Dict(..) | Value::String(..))) = text.parse()
    {
        return value;
    }
    Value::from(text)
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|&&b| b == b'\n').count() + 1
}

fn collect_lines(
    text: &str,
    table: &dyn TableLike,
    path: &mut Vec<String>,
    lines: &mut HashMap<Vec<String>, usize>,
) {
    for (name, item) in table.iter() {
        path.push(name.to_owned());
        let span = table.key(name).and_then(toml_edit::Key::span).or_else(|| item.span());
        if let Some(span) = span {
            lines.insert(path.clone(), line_of(text, span.start));
        }
        collect_item(text, item, path, lines);
        path.pop();
    }
}

fn collect_item(text: &str, item: &Item, path: &mut Vec<String>, lines: &mut HashMap<Vec<String>, usize>) {
    if let Some(table) = item.as_table_like() {
        return collect_lines(text, table, path, lines);
    }
    let tables: Vec<(Option<std::ops::Range<usize>>, &dyn TableLike)> = match item {
        Item::ArrayOfTables(tables) => tables.iter().map(|table| (table.span(), table as _)).collect(),
        Item::Value(toml_edit::Value::Array(array)) => {
            let inline = array.iter().map(|value| (value.span(), value.as_inline_table()));
            inline.filter_map(|(span, table)| Some((span, table? as _))).collect()
        }
        _ => return,
    };
    for (at, (span, table)) in tables.into_iter().enumerate() {
        path.push(at.to_string());
        if let Some(span) = span {
            lines.insert(path.clone(), line_of(text, span.start));
        }
        collect_lines(text, table, path, lines);
        path.pop();
    }
}
