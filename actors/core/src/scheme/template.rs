//! The base string: what exactly is signed.

use super::header::HeaderName;

/// One piece of a base string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Text as written.
    Literal(String),
    /// The timestamp as sent.
    Timestamp,
    /// The id header as sent.
    Id,
    /// The raw body.
    Body,
    /// Another header as sent.
    Header(HeaderName),
}

/// What the variables stand for in one request.
#[derive(Debug, Default)]
pub(super) struct Values<'a> {
    pub(super) timestamp: &'a str,
    pub(super) id: &'a str,
    /// In the order of the template's `{header:…}`.
    pub(super) headers: Vec<&'a str>,
    pub(super) body: &'a [u8],
}

/// Parses a template.
pub(super) fn parse(text: &str, header_prefix: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
            literal.push(next);
            rest = after;
        } else if next == '{' {
            let Some((name, after)) = rest[1..].split_once('}') else {
                return Err("has a `{` without `}`; write `{{` for a brace".to_owned());
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(variable(name, header_prefix)?);
            rest = after;
        } else if next == '}' {
            return Err("has a `}` without `{`; write `}}` for a brace".to_owned());
        } else {
            literal.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

fn variable(name: &str, header_prefix: &str) -> Result<Part, String> {
    match name {
        "timestamp" => Ok(Part::Timestamp),
        "id" => Ok(Part::Id),
        "body" => Ok(Part::Body),
        _ => match name.strip_prefix("header:") {
            Some(header) => HeaderName::parse(header, header_prefix).map(Part::Header),
            None => {
                let known = "{timestamp}, {id}, {body}, {header:NAME}";
                Err(format!("has the unknown variable `{{{name}}}`; known are {known}"))
            }
        },
    }
}

/// The signed bytes, piece by piece.
pub(super) fn fill<'a>(parts: &'a [Part], values: &Values<'a>) -> Vec<&'a [u8]> {
    let mut headers = values.headers.iter();
    parts
        .iter()
        .map(|part| match part {
            Part::Literal(text) => text.as_bytes(),
            Part::Timestamp => values.timestamp.as_bytes(),
            Part::Id => values.id.as_bytes(),
            Part::Body => values.body,
            Part::Header(_) => headers.next().map_or(&[][..], |value| value.as_bytes()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_what_it_parsed() {
        let parts = parse("v0:{timestamp}:{header:X-A}.{{}}{body}", "").unwrap();
        let values = Values { timestamp: "12", id: "", headers: vec!["a"], body: b"B" };
        assert_eq!(fill(&parts, &values).concat(), b"v0:12:a.{}B");
    }

    #[test]
    fn says_what_is_wrong() {
        assert!(parse("{timestamp", "").unwrap_err().contains("without `}`"));
        assert!(parse("a}b", "").unwrap_err().contains("without `{`"));
        assert!(parse("{boddy}", "").unwrap_err().contains("{boddy}"));
    }
}
