//! Reading single values out of a body whose signature has been verified. Only the paths that the scheme
//! names are kept, everything else is skipped without being built, so a large body costs no memory. A body
//! that does not parse has no values; that is no error.

use super::spec_answers::Literal;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// A path of object keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(Vec<String>);

impl Path {
    /// Parses `a.b.c`, or `/a/b.c` where a key has a dot. `*` is the only element of an array.
    pub(super) fn parse(text: &str) -> Result<Path, String> {
        let (text, separator) = text.strip_prefix('/').map_or((text, '.'), |rest| (rest, '/'));
        let keys: Vec<String> = text.split(separator).map(str::to_owned).collect();
        if keys.iter().any(String::is_empty) {
            return Err(format!("must be a path of keys such as `event.type`, not `{text}`"));
        }
        if keys.len() > 16 {
            return Err("must have at most 16 keys".to_owned());
        }
        Ok(Path(keys))
    }
}

impl Path {
    /// Puts a value there, making the objects on the way; `None` where something else is in the way.
    pub(super) fn set(&self, within: &mut Value, value: Value) -> Option<()> {
        let mut at = within;
        for key in &self.0 {
            at = match at {
                Value::Array(elements) if key == "*" && elements.len() == 1 => elements.first_mut()?,
                Value::Object(members) => {
                    members.entry(key.clone()).or_insert_with(|| Value::Object(Map::new()))
                }
                _ => return None,
            };
        }
        *at = value;
        Some(())
    }
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Found {
    #[default]
    Absent,
    Null,
    Bool(bool),
    Int(i128),
    Text(String),
    /// An object, an array or a fraction.
    Other,
}

impl Found {
    pub(super) fn present(&self) -> bool {
        *self != Found::Absent
    }

    pub(super) fn is(&self, literal: &Literal) -> bool {
        match (self, literal) {
            (Found::Bool(a), Literal::Bool(b)) => a == b,
            (Found::Int(a), Literal::Int(b)) => *a == i128::from(*b),
            (Found::Text(a), Literal::Text(b)) => a == b,
            _ => false,
        }
    }

    /// The value of an id or type: a text that is not empty, or an integer.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Found::Text(text) if !text.is_empty() => Some(text.clone()),
            Found::Int(number) => Some(number.to_string()),
            Found::Absent | Found::Null | Found::Bool(_) | Found::Text(_) | Found::Other => None,
        }
    }
}

/// The values at `paths`, in their order. The body is JSON, or a form whose `form_field` holds JSON. Which of
/// the two is found out from the body alone: `Content-Type` is not signed and decides nothing.
pub(super) fn read(body: &[u8], paths: &[Path], form_field: Option<&str>) -> Vec<Found> {
    if paths.is_empty() {
        return Vec::new();
    }
    if let Some(found) = read_json(body, paths) {
        return found;
    }
    form_field
        .and_then(|field| form_value(body, field))
        .and_then(|json| read_json(&json, paths))
        .unwrap_or_else(|| vec![Found::Absent; paths.len()])
}

fn read_json(body: &[u8], paths: &[Path]) -> Option<Vec<Found>> {
    let mut found = vec![Found::Absent; paths.len()];
    let wanted = paths.iter().enumerate().map(|(place, path)| (place, path.0.as_slice())).collect();
    let mut from = serde_json::Deserializer::from_slice(body);
    Walk { wanted, found: &mut found }.deserialize(&mut from).ok()?;
    from.end().ok()?;
    Some(found)
}

/// Visits one value; `wanted` are the paths that lead through it, with what is left of them.
struct Walk<'p, 'f> {
    wanted: Vec<(usize, &'p [String])>,
    found: &'f mut Vec<Found>,
}

impl Walk<'_, '_> {
    fn put(&mut self, value: &Found) {
        for (place, rest) in &self.wanted {
            if rest.is_empty() {
                self.found[*place] = value.clone();
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.put(&Found::Null);
        Ok(())
    }

    fn visit_bool<E: Error>(mut self, value: bool) -> Result<(), E> {
        self.put(&Found::Bool(value));
        Ok(())
    }

    fn visit_i64<E: Error>(mut self, value: i64) -> Result<(), E> {
        self.put(&Found::Int(value.into()));
        Ok(())
    }

    fn visit_u64<E: Error>(mut self, value: u64) -> Result<(), E> {
        self.put(&Found::Int(value.into()));
        Ok(())
    }

    fn visit_f64<E: Error>(mut self, _: f64) -> Result<(), E> {
        self.put(&Found::Other);
        Ok(())
    }

    fn visit_str<E: Error>(mut self, value: &str) -> Result<(), E> {
        self.put(&Found::Text(value.to_owned()));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.put(&Found::Other);
        let into = self.wanted.iter().filter_map(|(place, rest)| {
            let (first, rest) = rest.split_first()?;
            (first == "*").then_some((*place, rest))
        });
        let into: Vec<_> = into.collect();
        if into.is_empty() {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        let places: Vec<usize> = into.iter().map(|(place, _)| *place).collect();
        let some = seq.next_element_seed(Walk { wanted: into, found: self.found })?.is_some();
        if some && seq.next_element::<IgnoredAny>()?.is_some() {
            // One of several: nothing says which is meant.
            for place in places {
                self.found[place] = Found::Absent;
            }
            while seq.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.put(&Found::Other);
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let through: Vec<_> = self
                .wanted
                .iter()
                .filter_map(|(place, rest)| {
                    let (first, rest) = rest.split_first()?;
                    (*first == key).then_some((*place, rest))
                })
                .collect();
            if through.is_empty() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if through.iter().any(|(place, rest)| rest.is_empty() && self.found[*place].present()) {
                // Two readers could see two different events in it.
                return Err(A::Error::custom("a key that is read is repeated"));
            }
            map.next_value_seed(Walk { wanted: through, found: self.found })?;
        }
        Ok(())
    }
}

/// The only value of a field of an `application/x-www-form-urlencoded` body, decoded.
pub(super) fn form_value(body: &[u8], field: &str) -> Option<Vec<u8>> {
    let mut values = body.split(|&b| b == b'&').filter_map(|pair| {
        let mut sides = pair.splitn(2, |&b| b == b'=');
        let (name, value) = (sides.next()?, sides.next()?);
        (name == field.as_bytes()).then_some(value)
    });
    let value = values.next()?;
    if values.next().is_some() { None } else { decoded(value) }
}

/// The fields of a form or query, decoded. One that cannot be decoded is taken as it is, as browsers do.
pub(super) fn form_pairs(text: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    text.split(|&b| b == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        let mut sides = pair.splitn(2, |&b| b == b'=');
        let mut side = || {
            let raw = sides.next().unwrap_or_default();
            decoded(raw).unwrap_or_else(|| raw.to_vec())
        };
        (side(), side())
    })
}

fn decoded(value: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            other => other,
        });
    }
    Some(decoded)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(body: &str, paths: &[&str]) -> Vec<Found> {
        let paths: Vec<Path> = paths.iter().map(|path| Path::parse(path).unwrap()).collect();
        read(body.as_bytes(), &paths, Some("payload"))
    }

    fn text(text: &str) -> Found {
        Found::Text(text.to_owned())
    }

    #[test]
    fn reads_what_is_named() {
        let body = r#"{"id":"e1","event":{"type":"a","n":{}},"big":18446744073709551615,"f":1.5,"no":null}"#;
        let found = at(body, &["id", "event.type", "event", "event.n.x", "big", "f", "no", "id.x"]);
        let other = Found::Other;
        let big = Found::Int(18_446_744_073_709_551_615);
        assert_eq!(
            found,
            [text("e1"), text("a"), other.clone(), Found::Absent, big, other, Found::Null, Found::Absent]
        );
    }

    #[test]
    fn paths_may_be_written_as_pointers() {
        assert_eq!(at(r#"{"a.b":{"c":"x"}}"#, &["/a.b/c", "a.b.c"]), [text("x"), Found::Absent]);
        for bad in ["", "/", "a..b", "/a//b", &"a.".repeat(20)] {
            assert!(Path::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unreadable_bodies_have_no_values() {
        for body in
            ["", "{", "Hello", r#"{"id":"a"} x"#, r#"{"id":"a","id":"b"}"#, "[1,2]", "{\"id\":\"\\ud800\"}"]
        {
            assert_eq!(at(body, &["id"]), [Found::Absent], "{body}");
        }
        let deep = format!("{}{}", "[".repeat(500_000), "]".repeat(500_000));
        assert_eq!(at(&deep, &["id"]), [Found::Absent]);
        let deep = r#"{"id":"#.repeat(100_000);
        assert_eq!(at(&deep, &["id"]), [Found::Absent]);
    }

    #[test]
    fn the_only_element_of_an_array_is_read() {
        let found = at(r#"{"items":[{"id":"a"}]}"#, &["items.*.id", "items", "items.id"]);
        assert_eq!(found, [text("a"), Found::Other, Found::Absent]);
        assert_eq!(at(r#"[{"id":"a"}]"#, &["*.id"]), [text("a")]);
        for body in [r#"[{"id":"a"},{"id":"b"}]"#, r#"[{"id":"a"},1]"#, "[]", r#"[[{"id":"a"}]]"#] {
            assert_eq!(at(body, &["*.id"]), [Found::Absent], "{body}");
        }
    }

    #[test]
    fn forms_hold_json_in_one_field() {
        assert_eq!(at("a=b&payload=%7B%22id%22%3A+%22x%22%7D", &["id"]), [text("x")]);
        assert_eq!(at("payload=%7B%7D&payload=%7B%7D", &["id"]), [Found::Absent]);
        for broken in ["payload=%7", "payload=%zz", "payload", "payload=%7B%22id%22"] {
            assert_eq!(at(broken, &["id"]), [Found::Absent], "{broken}");
        }
    }
}
