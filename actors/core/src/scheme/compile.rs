//! From [`SchemeSpec`] to [`Scheme`]: everything that can be wrong with a scheme is found here, all at once,
//! so that a request only ever meets a scheme that makes sense.

use super::spec::{Algorithm, Coverage, Encoding, FieldSpec, KeyFormat, ListSpec, SchemeSpec, TimestampSpec};
use super::template::{Parser, Part};
use super::{
    FieldPlace, FieldRule, HeaderName, Path, Scheme, SchemeError, Shape, SignaturePlace, TOLERANCE_S,
    TOLERANCE_S_MAX, TimePlace, Version,
};

/// Status of an accepted event unless the scheme says otherwise.
pub(super) const STATUS: u16 = 202;
/// Longest time a duplicate can be remembered, in seconds: 30 days, as for every idempotency key.
pub(super) const DEDUP_TTL_S_MAX: u64 = 30 * 86_400;

impl SchemeSpec {
    /// Checks the scheme and makes it ready for use under `name`.
    ///
    /// # Errors
    /// Every problem found, each by its key.
    pub fn compile(&self, name: &str) -> Result<Scheme, Vec<SchemeError>> {
        let mut checks = Compiler { spec: self, problems: Vec::new(), paths: Vec::new() };
        let signature = checks.signature();
        let base = checks.base();
        let (shape, versions) = checks.shape();
        let timestamp = checks.timestamp(&base);
        let id = checks.field("id", self.id.as_ref(), &base);
        let event_type = checks.field("type", self.event_type.as_ref(), &base);
        let encoding = checks.encoding();
        let algorithm_by = checks.algorithm_by();
        let key_format = checks.key_format(&versions);
        let require = checks.require();
        let key_url = checks.key_url();
        let principal = checks.principal();
        let jwt = checks.jwt();
        checks.coverage(&base, &versions);
        checks.limits();
        let accept = checks.reply("accept", self.accept.as_ref(), STATUS);
        let accept_when = checks.accept_when();
        let handshakes = checks.handshakes();
        let challenges = checks.challenges();
        let Compiler { problems, paths, .. } = checks;
        match signature {
            Some(signature) if problems.is_empty() => Ok(Scheme {
                name: name.to_owned(),
                signature,
                shape,
                algorithm: self.algorithm,
                versions,
                algorithm_by,
                encoding,
                base,
                url_ports: self.url_ports,
                query_hash: self.query_hash.clone(),
                timestamp: timestamp.zip(self.timestamp.as_ref().map(|stamp| stamp.unit)),
                key_format,
                require,
                key_url,
                principal,
                jwt,
                id,
                event_type,
                coverage: self.body_coverage,
                paths,
                form_field: self.form_field.clone(),
                accept,
                accept_when,
                handshakes,
                challenges,
                tolerance_s: self.tolerance_s.unwrap_or(TOLERANCE_S),
                dedup_ttl_s: self.dedup_ttl_s,
                vectors: self.vectors.clone(),
            }),
            _ => Err(problems),
        }
    }
}

/// What has been found wrong so far, and which paths of the body are read.
pub(super) struct Compiler<'s> {
    pub(super) spec: &'s SchemeSpec,
    problems: Vec<SchemeError>,
    paths: Vec<Path>,
}

impl Compiler<'_> {
    pub(super) fn wrong(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.problems.push(SchemeError::new(path, text));
    }

    pub(super) fn header(&mut self, path: &str, text: &str) -> Option<HeaderName> {
        match HeaderName::parse(text, &self.spec.header_prefix) {
            Ok(name) => Some(name),
            Err(text) => {
                self.wrong(path, text);
                None
            }
        }
    }

    fn signature(&mut self) -> Option<SignaturePlace> {
        let names = match (&self.spec.header, &self.spec.signature_json) {
            (Some(names), None) if !names.as_slice().is_empty() => names.as_slice().to_vec(),
            (None, Some(path)) => {
                if self.spec.list.is_some() || !self.spec.prefix.is_empty() || self.is_unsigned() {
                    self.wrong("signature_json", "stands alone; `list`, `prefix` and tokens need `header`");
                }
                return Some(SignaturePlace::Json(self.json("signature_json", path)));
            }
            _ => {
                self.wrong("header", "is missing; name the signature's header (or its `signature_json`)");
                return None;
            }
        };
        let mut headers = Vec::new();
        for name in names {
            let numbers = if name.contains("{n}") { 1..=100 } else { 1..=1 };
            for n in numbers {
                headers.push(self.header("header", &name.replace("{n}", &n.to_string()))?);
            }
        }
        if headers.len() > 1 && self.is_unsigned() {
            self.wrong("header", "must be one for a token");
        }
        Some(SignaturePlace::Headers(headers))
    }

    /// Notes a path of the body and gives its place.
    pub(super) fn json(&mut self, key: &str, text: &str) -> usize {
        match note_path(&mut self.paths, text) {
            Ok(place) => place,
            Err(text) => {
                self.wrong(key, text);
                self.paths.len().saturating_sub(1)
            }
        }
    }

    /// A token is a signature of nothing here, or has rules of its own.
    pub(super) fn is_unsigned(&self) -> bool {
        matches!(self.spec.algorithm, Algorithm::Token | Algorithm::Jwt)
    }

    fn template(&mut self, key: &str, text: &str) -> Vec<Part> {
        let paths = &mut self.paths;
        let mut json = |path: &str| note_path(paths, path);
        let parsed = Parser { header_prefix: &self.spec.header_prefix, json: &mut json }.parse(text);
        parsed.unwrap_or_else(|text| {
            self.wrong(key, text);
            Vec::new()
        })
    }

    fn base(&mut self) -> Vec<Part> {
        if self.is_unsigned() {
            if self.spec.base.is_some() {
                self.wrong("base", "a token signs nothing; remove it");
            }
            return Vec::new();
        }
        let text = self.spec.base.clone().unwrap_or_else(|| "{body}".to_owned());
        let parts = self.template("base", &text);
        self.check_base("base", &parts);
        parts
    }

    fn check_base(&mut self, key: &str, parts: &[Part]) {
        if parts.is_empty() {
            return;
        }
        if parts.iter().all(|part| matches!(part, Part::Literal(_))) {
            self.wrong(key, "signs the same text every time; it needs `{body}` or another variable");
        }
        if parts.contains(&Part::Timestamp) && self.spec.timestamp.is_none() {
            self.wrong(key, "uses {timestamp}; say where it is: `timestamp = { header = \"X-Timestamp\" }`");
        }
        if parts.contains(&Part::Id) && self.spec.id.as_ref().is_none_or(|id| id.header.is_none()) {
            self.wrong(key, "uses {id}; say where it is: `id = { header = \"X-Id\" }`");
        }
        let named = self.spec.list.as_ref().is_some_and(|list| list.names.is_some());
        if parts.iter().any(|part| matches!(part, Part::Names | Part::NamedValues)) && !named {
            self.wrong(key, "uses the named headers; say which key names them: `list.names`");
        }
        let free = parts.iter().filter(|part| matches!(part, Part::Json(json) if json.free)).count();
        if free > 1 {
            self.wrong(key, "has two {text:…} values; where one ends and the other begins could be shifted");
        }
    }

    fn shape(&mut self) -> (Shape, Vec<Version>) {
        let own = |key: String| Version { key, algorithm: self.spec.algorithm, base: None };
        let Some(list) = self.spec.list.clone() else {
            return (Shape::Single { prefix: self.spec.prefix.clone() }, vec![own(String::new())]);
        };
        let (key, assign) = key_and_assign(&list);
        let mut versions = vec![own(key.clone())];
        if !self.spec.prefix.is_empty() {
            self.wrong("prefix", "is for a single signature; a list has `list.key` instead");
        }
        if self.is_unsigned() {
            self.wrong("list", "a token stands alone in its header; remove it");
        }
        if list.separator.is_empty() {
            self.wrong("list.separator", "is empty; it is what stands between entries, such as `,`");
        }
        if key.is_empty() || assign.is_empty() {
            self.wrong("list.key", "must be the key of a signature entry, such as `v1`");
        }
        for (key, algorithm) in &list.also {
            if versions.iter().any(|version| version.key == *key) || key.is_empty() {
                self.wrong(format!("list.also.{key}"), "must be a key of its own");
            }
            if matches!(algorithm, Algorithm::Token | Algorithm::Jwt) {
                self.wrong(format!("list.also.{key}"), "a token cannot stand in a list");
            }
            versions.push(Version { key: key.clone(), algorithm: *algorithm, base: None });
        }
        for (key, text) in &list.bases {
            let path = format!("list.bases.{key}");
            let parts = self.template(&path, text);
            self.check_base(&path, &parts);
            match versions.iter_mut().find(|version| version.key == *key) {
                Some(version) => version.base = Some(parts),
                None => self.wrong(path, "is no key of a signature; add it to `list.also`"),
            }
        }
        (Shape::List { separator: list.separator, assign, names: list.names }, versions)
    }

    fn timestamp(&mut self, base: &[Part]) -> Option<TimePlace> {
        let stamp = self.spec.timestamp.clone()?;
        let in_base = base.contains(&Part::Timestamp);
        let own_header = |name: &String| match &self.spec.header {
            Some(names) => names.as_slice() == std::slice::from_ref(name),
            None => false,
        };
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
            (header, Some(key), None) if header.as_ref().is_none_or(own_header) => {
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
                if self.spec.body_coverage != Coverage::Full && !in_base {
                    self.wrong(
                        "timestamp.json",
                        "needs {timestamp} in `base` or `body_coverage = \"full\"`, or it is not signed",
                    );
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
        let whole = self.spec.body_coverage == Coverage::Full && self.spec.algorithm != Algorithm::Token;
        let (place, covered) = match (&field.header, &field.json, &field.form, &field.claim) {
            (Some(header), None, None, None) => {
                let name = self.header(&format!("{path}.header"), header)?;
                let covered = (path == "id" && base.contains(&Part::Id))
                    || base.iter().any(|part| matches!(part, Part::Header(have) if have.lower == name.lower));
                (FieldPlace::Header(name), covered)
            }
            (None, Some(json), None, None) if !json.as_slice().is_empty() => {
                let key = format!("{path}.json");
                let places: Vec<usize> = json.as_slice().iter().map(|text| self.json(&key, text)).collect();
                let signed: Vec<usize> = base.iter().flat_map(Part::places).collect();
                let covered = whole || places.iter().all(|place| signed.contains(place));
                (FieldPlace::Json { places, join: field.join.clone() }, covered)
            }
            (None, None, Some(form), None) if !form.as_slice().is_empty() => {
                let covered = whole || base.contains(&Part::Form);
                (FieldPlace::Form(form.as_slice().to_vec()), covered)
            }
            (None, None, None, Some(claim)) => {
                let is_jwt = self.spec.algorithm == Algorithm::Jwt;
                if !is_jwt {
                    self.wrong(format!("{path}.claim"), "needs `algorithm = \"jwt\"`");
                }
                (FieldPlace::Claim(claim.clone()), is_jwt)
            }
            _ => {
                self.wrong(path, "needs exactly one of `header`, `json`, `form` and `claim`");
                return None;
            }
        };
        if field.join.is_some() && field.json.is_none() {
            self.wrong(format!("{path}.join"), "is for several `json` paths; remove it");
        }
        if field.signed == Some(true) && !covered {
            let text = "is not covered by `base`, so it is not signed; set it to false or correct `base`";
            self.wrong(format!("{path}.signed"), text);
        }
        Some(FieldRule { place, signed: field.signed.unwrap_or(covered), unique: field.unique })
    }

    fn encoding(&mut self) -> Encoding {
        match (self.spec.encoding, self.is_unsigned()) {
            (None, false) => self.wrong("encoding", "is missing; use \"hex\" or \"base64\""),
            (Some(_), true) => self.wrong("encoding", "a token is compared as it is; remove it"),
            (None, true) | (Some(_), false) => {}
        }
        self.spec.encoding.unwrap_or(Encoding::Hex)
    }

    fn key_format(&mut self, versions: &[Version]) -> KeyFormat {
        let format = self.spec.key_format.unwrap_or(KeyFormat::Utf8);
        let public = |algorithm: Algorithm| algorithm.is_asymmetric();
        let by = self.spec.algorithm_by.iter().flat_map(|by| by.values.values().copied());
        let all: Vec<Algorithm> = versions.iter().map(|version| version.algorithm).chain(by).collect();
        let (some, every) = (all.iter().any(|a| public(*a)), all.iter().all(|a| public(*a)));
        let spelled = matches!(format, KeyFormat::Spki | KeyFormat::Pem);
        let edwards = all.iter().all(|a| !public(*a) || *a == Algorithm::Ed25519);
        if some && !every && format != KeyFormat::Whsec {
            let text = "must be \"whsec\" where shared and public keys are mixed, to tell them apart";
            self.wrong("key_format", text);
        } else if some && !edwards && !spelled {
            self.wrong("key_format", "RSA and ECDSA need \"pem\" or \"spki\"");
        } else if some && format == KeyFormat::Utf8 {
            self.wrong("key_format", "ed25519 needs \"hex\", \"base64\", \"whsec\", \"spki\" or \"pem\"");
        } else if spelled && !some && self.spec.algorithm != Algorithm::Jwt {
            self.wrong(
                "key_format",
                "is for public keys; a shared secret needs \"utf8\", \"hex\" or \"base64\"",
            );
        }
        if self.spec.algorithm == Algorithm::Token && format != KeyFormat::Utf8 {
            self.wrong("key_format", "a token is compared as it is; remove it");
        }
        format
    }

    fn coverage(&mut self, base: &[Part], versions: &[Version]) {
        let covers = |parts: &[Part]| parts.iter().any(Part::covers_body);
        let mut others = versions.iter().filter_map(|version| version.base.as_ref());
        let has_body = covers(base) && others.all(|parts| covers(parts));
        let hashed = self.spec.jwt.as_ref().is_some_and(|jwt| jwt.body_hash.is_some());
        match self.spec.body_coverage {
            Coverage::Full if self.spec.algorithm == Algorithm::Token => {
                self.wrong("body_coverage", "a token signs nothing; set it to \"none\"");
            }
            Coverage::Full if self.spec.algorithm == Algorithm::Jwt && !hashed => {
                self.wrong("body_coverage", "the token says nothing of the body; set it to \"none\"");
            }
            Coverage::Full if !has_body && !base.is_empty() => {
                self.wrong("body_coverage", "is \"full\", but `base` has no {body}; add it or set \"none\"");
            }
            Coverage::Partial | Coverage::None if has_body && !base.is_empty() => {
                self.wrong("body_coverage", "`base` has {body}, so the whole body is signed; set \"full\"");
            }
            Coverage::Full | Coverage::Partial | Coverage::None => {}
        }
        if self.reads_unsigned(base) {
            let text = "must be \"full\" for `handshake` and `accept_when`, which read the body";
            self.wrong("body_coverage", text);
        }
        if self.spec.form_field.as_ref().is_some_and(|field| !plain_form_field(field)) {
            self.wrong("form_field", "must be a form field's name of letters, digits, `_` and `-`");
        }
    }

    /// Whether an answer hangs on values of the body that are not signed.
    fn reads_unsigned(&mut self, base: &[Part]) -> bool {
        if self.spec.body_coverage == Coverage::Full {
            return false;
        }
        let handshakes = self.spec.handshake.iter().flat_map(|handshake| {
            let confirmed = handshake.confirm.iter().map(|confirm| &confirm.json);
            handshake.when.iter().map(|when| &when.json).chain(&handshake.echo).chain(confirmed)
        });
        let accepts =
            self.spec.accept_when.iter().flat_map(|accept| accept.when.iter().map(|when| &when.json));
        let read: Vec<String> = handshakes.chain(accepts).cloned().collect();
        let places: Vec<usize> = read.iter().map(|path| self.json("body_coverage", path)).collect();
        let signed: Vec<usize> = base.iter().flat_map(Part::places).collect();
        places.iter().any(|place| !signed.contains(place))
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

fn note_path(paths: &mut Vec<Path>, text: &str) -> Result<usize, String> {
    let path = Path::parse(text)?;
    if let Some(known) = paths.iter().position(|have| *have == path) {
        return Ok(known);
    }
    paths.push(path);
    Ok(paths.len() - 1)
}

fn plain_form_field(field: &str) -> bool {
    !field.is_empty() && field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}
