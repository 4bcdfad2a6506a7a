//! From [`SchemeSpec`] to [`Scheme`]: everything that can be wrong with a scheme is found here, all at once,
//! so that a request only ever meets a scheme that makes sense.

use super::spec::{
    Algorithm, ConditionSpec, Coverage, Encoding, FieldSpec, HandshakeSpec, KeyFormat, ListSpec, ReplySpec,
    SchemeSpec, TimestampSpec,
};
use super::template::{self, Part};
use super::{
    AcceptReply, Answer, Condition, FieldPlace, FieldRule, HeaderName, Path, Scheme, SchemeError, Shape,
    TOLERANCE_S, TOLERANCE_S_MAX, Test, TimePlace,
};

/// Status of an accepted event unless the scheme says otherwise.
const STATUS: u16 = 202;
/// Longest time a duplicate can be remembered, in seconds: 30 days, as for every idempotency key.
pub(super) const DEDUP_TTL_S_MAX: u64 = 30 * 86_400;

impl SchemeSpec {
    /// Checks the scheme and makes it ready for use under `name`.
    ///
    /// # Errors
    /// Every problem found, each by its key.
    pub fn compile(&self, name: &str) -> Result<Scheme, Vec<SchemeError>> {
        let mut checks = Compiler { spec: self, problems: Vec::new(), paths: Vec::new() };
        let signature = checks.header("header", &self.header);
        let base = checks.base();
        let shape = checks.shape();
        let timestamp = checks.timestamp(&base);
        let id = checks.field("id", self.id.as_ref(), &base);
        let event_type = checks.field("type", self.event_type.as_ref(), &base);
        let encoding = checks.encoding();
        let key_format = checks.key_format(&shape);
        checks.coverage(&base);
        checks.limits();
        let accept = checks.reply("accept", self.accept.as_ref(), STATUS);
        let accept_when = checks.accept_when();
        let handshakes = checks.handshakes();
        let Compiler { problems, paths, .. } = checks;
        match signature {
            Some(signature) if problems.is_empty() => Ok(Scheme {
                name: name.to_owned(),
                signature,
                shape,
                algorithm: self.algorithm,
                encoding,
                base,
                timestamp: timestamp.zip(self.timestamp.as_ref().map(|stamp| stamp.unit)),
                key_format,
                id,
                event_type,
                coverage: self.body_coverage,
                paths,
                form_field: self.form_field.clone(),
                accept,
                accept_when,
                handshakes,
                tolerance_s: self.tolerance_s.unwrap_or(TOLERANCE_S),
                dedup_ttl_s: self.dedup_ttl_s,
                vectors: self.vectors.clone(),
            }),
            _ => Err(problems),
        }
    }
}

struct Compiler<'s> {
    spec: &'s SchemeSpec,
    problems: Vec<SchemeError>,
    paths: Vec<Path>,
}

impl Compiler<'_> {
    fn wrong(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.problems.push(SchemeError::new(path, text));
    }

    fn header(&mut self, path: &str, text: &str) -> Option<HeaderName> {
        match HeaderName::parse(text, &self.spec.header_prefix) {
            Ok(name) => Some(name),
            Err(text) => {
                self.wrong(path, text);
                None
            }
        }
    }

    /// Notes a path of the body and gives its place.
    fn json(&mut self, key: &str, text: &str) -> usize {
        match Path::parse(text) {
            Ok(path) => {
                if let Some(known) = self.paths.iter().position(|have| *have == path) {
                    return known;
                }
                self.paths.push(path);
            }
            Err(text) => self.wrong(key, text),
        }
        self.paths.len().saturating_sub(1)
    }

    fn is_token(&self) -> bool {
        self.spec.algorithm == Algorithm::Token
    }

    fn base(&mut self) -> Vec<Part> {
        if self.is_token() {
            if self.spec.base.is_some() {
                self.wrong("base", "a token signs nothing; remove it");
            }
            return Vec::new();
        }
        let text = self.spec.base.as_deref().unwrap_or("{body}");
        let parts = match template::parse(text, &self.spec.header_prefix) {
            Ok(parts) => parts,
            Err(text) => {
                self.wrong("base", text);
                return Vec::new();
            }
        };
        if parts.iter().all(|part| matches!(part, Part::Literal(_))) {
            self.wrong("base", "signs the same text every time; it needs `{body}` or another variable");
        }
        if parts.contains(&Part::Timestamp) && !self.has_visible_timestamp() {
            self.wrong(
                "base",
                "uses {timestamp}; say where it is: `timestamp = { header = \"X-Timestamp\" }`",
            );
        }
        if parts.contains(&Part::Id) && self.spec.id.as_ref().is_none_or(|id| id.header.is_none()) {
            self.wrong("base", "uses {id}; say where it is: `id = { header = \"X-Id\" }`");
        }
        parts
    }

    fn has_visible_timestamp(&self) -> bool {
        self.spec.timestamp.as_ref().is_some_and(|stamp| stamp.header.is_some() || stamp.key.is_some())
    }

    fn shape(&mut self) -> Shape {
        let Some(list) = self.spec.list.clone() else {
            return Shape::Single { prefix: self.spec.prefix.clone() };
        };
        if !self.spec.prefix.is_empty() {
            self.wrong("prefix", "is for a single signature; a list has `list.key` instead");
        }
        if self.is_token() {
            self.wrong("list", "a token stands alone in its header; remove it");
        }
        if list.separator.is_empty() {
            self.wrong("list.separator", "is empty; it is what stands between entries, such as `,`");
        }
        let (key, assign) = key_and_assign(&list);
        if key.is_empty() || assign.is_empty() {
            self.wrong("list.key", "must be the key of a signature entry, such as `v1`");
        }
        let mut versions = vec![(key, self.spec.algorithm)];
        for (key, algorithm) in &list.also {
            if versions.iter().any(|(have, _)| have == key) || key.is_empty() {
                self.wrong(format!("list.also.{key}"), "must be a key of its own");
            }
            if *algorithm == Algorithm::Token {
                self.wrong(format!("list.also.{key}"), "a token cannot stand in a list");
            }
            versions.push((key.clone(), *algorithm));
        }
        Shape::List { separator: list.separator, assign, versions }
    }

    fn timestamp(&mut self, base: &[Part]) -> Option<TimePlace> {
        let stamp = self.spec.timestamp.clone()?;
        let in_base = base.contains(&Part::Timestamp);
        let unsigned = "is not signed; put {timestamp} into `base`, or remove `timestamp`";
        let TimestampSpec { header, key, json, .. } = stamp;
        match (header, key, json) {
            (Some(header), None, None) => {
                if !in_base {
                    self.wrong("timestamp", unsigned);
                }
                self.header("timestamp.header", &header).map(TimePlace::Header)
            }
            // Naming the signature's own header beside the key is harmless.
            (header, Some(key), None) if header.as_ref().is_none_or(|name| *name == self.spec.header) => {
                if !in_base {
                    self.wrong("timestamp", unsigned);
                }
                match &self.spec.list {
                    Some(list) if key_and_assign(list).0 != key && !list.also.contains_key(&key) => {}
                    Some(_) => {
                        self.wrong("timestamp.key", "is the key of a signature; it needs one of its own")
                    }
                    None => self.wrong("timestamp.key", "needs `list`, which says how the header is split"),
                }
                Some(TimePlace::List(key))
            }
            (None, None, Some(json)) => {
                if self.spec.body_coverage != Coverage::Full {
                    self.wrong("timestamp.json", "needs `body_coverage = \"full\"`, or it is not signed");
                }
                Some(TimePlace::Json(self.json("timestamp.json", &json)))
            }
            _ => {
                self.wrong("timestamp", "needs exactly one of `header`, `key` (of a list) and `json`");
                None
            }
        }
    }

    fn field(&mut self, path: &str, field: Option<&FieldSpec>, base: &[Part]) -> Option<FieldRule> {
        let field = field?;
        let (place, covered) = match (&field.header, &field.json) {
            (Some(header), None) => {
                let name = self.header(&format!("{path}.header"), header)?;
                let covered = (path == "id" && base.contains(&Part::Id))
                    || base.iter().any(|part| matches!(part, Part::Header(have) if have.lower == name.lower));
                (FieldPlace::Header(name), covered)
            }
            (None, Some(json)) if !json.as_slice().is_empty() => {
                let key = format!("{path}.json");
                let places = json.as_slice().iter().map(|text| self.json(&key, text)).collect();
                (FieldPlace::Json(places), self.spec.body_coverage == Coverage::Full && !self.is_token())
            }
            _ => {
                self.wrong(path, "needs exactly one of `header` and `json`");
                return None;
            }
        };
        if field.signed == Some(true) && !covered {
            let text = "is not covered by `base`, so it is not signed; set it to false or correct `base`";
            self.wrong(format!("{path}.signed"), text);
        }
        Some(FieldRule { place, signed: field.signed.unwrap_or(covered), unique: field.unique })
    }

    fn encoding(&mut self) -> Encoding {
        match (self.spec.encoding, self.is_token()) {
            (None, false) => self.wrong("encoding", "is missing; use \"hex\" or \"base64\""),
            (Some(_), true) => self.wrong("encoding", "a token is compared as it is; remove it"),
            (None, true) | (Some(_), false) => {}
        }
        self.spec.encoding.unwrap_or(Encoding::Hex)
    }

    fn key_format(&mut self, shape: &Shape) -> KeyFormat {
        let format = self.spec.key_format.unwrap_or(KeyFormat::Utf8);
        let listed = match shape {
            Shape::Single { .. } => &[][..],
            Shape::List { versions, .. } => versions,
        };
        let ed25519 = |algorithm: Algorithm| algorithm == Algorithm::Ed25519;
        let some = ed25519(self.spec.algorithm) || listed.iter().any(|(_, algorithm)| ed25519(*algorithm));
        let all = ed25519(self.spec.algorithm) && listed.iter().all(|(_, algorithm)| ed25519(*algorithm));
        if some && !all && format != KeyFormat::Whsec {
            let text = "must be \"whsec\" where shared and public keys are mixed, to tell them apart";
            self.wrong("key_format", text);
        } else if some && format == KeyFormat::Utf8 {
            self.wrong("key_format", "ed25519 needs \"hex\", \"base64\" or \"whsec\"");
        }
        if self.is_token() && format != KeyFormat::Utf8 {
            self.wrong("key_format", "a token is compared as it is; remove it");
        }
        format
    }

    fn coverage(&mut self, base: &[Part]) {
        let has_body = base.contains(&Part::Body);
        match self.spec.body_coverage {
            Coverage::Full if self.is_token() => {
                self.wrong("body_coverage", "a token signs nothing; set it to \"none\"");
            }
            Coverage::Full if !has_body && !base.is_empty() => {
                self.wrong("body_coverage", "is \"full\", but `base` has no {body}; add it or set \"none\"");
            }
            Coverage::Partial | Coverage::None if has_body => {
                self.wrong("body_coverage", "`base` has {body}, so the whole body is signed; set \"full\"");
            }
            Coverage::Full | Coverage::Partial | Coverage::None => {}
        }
        let reads_body = !self.spec.handshake.is_empty() || !self.spec.accept_when.is_empty();
        if reads_body && self.spec.body_coverage != Coverage::Full {
            let text = "must be \"full\" for `handshake` and `accept_when`, which read the body";
            self.wrong("body_coverage", text);
        }
        if self.spec.form_field.as_ref().is_some_and(|field| !plain_form_field(field)) {
            self.wrong("form_field", "must be a form field's name of letters, digits, `_` and `-`");
        }
    }

    fn limits(&mut self) {
        if self.spec.tolerance_s.is_some_and(|s| !(1..=TOLERANCE_S_MAX).contains(&s)) {
            self.wrong("tolerance_s", format!("must be 1 to {TOLERANCE_S_MAX} seconds"));
        }
        if self.spec.tolerance_s.is_some() && self.spec.timestamp.is_none() {
            self.wrong("tolerance_s", "means nothing without `timestamp`; remove it");
        }
        if self.spec.dedup_ttl_s.is_some_and(|s| !(1..=DEDUP_TTL_S_MAX).contains(&s)) {
            self.wrong("dedup_ttl_s", format!("must be 1 to {DEDUP_TTL_S_MAX} seconds"));
        }
    }

    fn reply(&mut self, path: &str, reply: Option<&ReplySpec>, status: u16) -> AcceptReply {
        let Some(reply) = reply else { return AcceptReply { status, body: None } };
        let status = reply.status.unwrap_or(status);
        if !(200..=299).contains(&status) {
            self.wrong(format!("{path}.status"), "must be 200 to 299");
        }
        let empty = reply.body.as_ref().is_none_or(String::is_empty);
        if matches!(status, 204 | 205) {
            if !empty {
                self.wrong(format!("{path}.body"), format!("a {status} has no body; remove it"));
            }
            return AcceptReply { status, body: Some((None, String::new())) };
        }
        if empty && reply.content_type.is_some() {
            self.wrong(format!("{path}.content_type"), "needs a `body`");
        }
        if reply.content_type.as_ref().is_some_and(|text| !printable(text)) {
            self.wrong(format!("{path}.content_type"), "must be printable ASCII");
        }
        let body = reply.body.clone().map(|body| {
            let plain = || "text/plain; charset=utf-8".to_owned();
            let content_type = reply.content_type.clone().unwrap_or_else(plain);
            ((!body.is_empty()).then_some(content_type), body)
        });
        AcceptReply { status, body }
    }

    fn conditions(&mut self, path: &str, when: &[ConditionSpec]) -> Vec<Condition> {
        if when.is_empty() {
            self.wrong(format!("{path}.when"), "is empty; name at least one value of the body");
        }
        let mut conditions = Vec::with_capacity(when.len());
        for condition in when {
            let place = self.json(&format!("{path}.when.json"), &condition.json);
            let test = match (&condition.equals, condition.absent) {
                (None, false) => Test::Present,
                (None, true) => Test::Absent,
                (Some(literal), absent) => {
                    if absent {
                        self.wrong(format!("{path}.when"), "has both `equals` and `absent`; choose one");
                    }
                    Test::Equals(literal.clone())
                }
            };
            conditions.push(Condition { path: place, test });
        }
        conditions
    }

    fn accept_when(&mut self) -> Vec<(Vec<Condition>, AcceptReply)> {
        let rules = self.spec.accept_when.clone();
        let compiled = rules.iter().map(|rule| {
            let reply = self.reply("accept_when.reply", Some(&rule.reply), STATUS);
            (self.conditions("accept_when", &rule.when), reply)
        });
        compiled.collect()
    }

    fn handshakes(&mut self) -> Vec<(Vec<Condition>, Answer)> {
        let rules = self.spec.handshake.clone();
        let compiled = rules.iter().map(|HandshakeSpec { when, echo, reply }| {
            let answer = match (echo, reply) {
                (Some(path), None) => Answer::Echo(self.json("handshake.echo", path)),
                (None, Some(reply)) => Answer::Fixed(self.reply("handshake.reply", Some(reply), 200)),
                _ => {
                    self.wrong("handshake", "needs exactly one of `echo` and `reply`");
                    Answer::Fixed(AcceptReply { status: 200, body: None })
                }
            };
            (self.conditions("handshake", when), answer)
        });
        compiled.collect()
    }
}

/// `v1=` and `v1,` say both in one.
fn key_and_assign(list: &ListSpec) -> (String, String) {
    match (&list.assign, list.key.chars().last()) {
        (Some(assign), _) => (list.key.clone(), assign.clone()),
        (None, Some(last @ ('=' | ',' | ':'))) => {
            (list.key.trim_end_matches(last).to_owned(), last.to_string())
        }
        (None, _) => (list.key.clone(), "=".to_owned()),
    }
}

fn plain_form_field(field: &str) -> bool {
    !field.is_empty() && field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn printable(text: &str) -> bool {
    text.bytes().all(|b| (0x20..=0x7e).contains(&b))
}
