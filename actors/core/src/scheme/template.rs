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
    /// A value of the body.
    Json(JsonPart),
    /// Names and values of the body on lines of their own.
    Lines(Vec<(String, JsonPart)>),
    /// GET or POST.
    Method,
    /// Our URL as the provider knows it.
    Url(UrlForm),
    /// The form's fields in order.
    Form,
    /// The query's parameters in order.
    QuerySorted,
    /// The body's SHA-256 in hex.
    BodySha256,
    /// The same as bytes.
    BodySha256Raw,
    /// The body's CRC-32 in digits.
    BodyCrc32,
    /// One of the provider's principals.
    Principal,
    /// The names of the signed headers as sent.
    Names,
    /// Their values.
    NamedValues,
}

/// A value of the body in a base string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JsonPart {
    /// Its place in `Scheme::paths`.
    pub(super) place: usize,
    /// May hold anything, the base's literals included. Only one of a base can without making it ambiguous.
    pub(super) free: bool,
    /// May be missing.
    pub(super) optional: bool,
}

/// Which form of the URL is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UrlForm {
    /// With the query.
    Whole,
    /// Without it.
    Base,
    /// With the query and with the escapes undone that HubSpot undoes.
    Unescaped,
}

impl Part {
    /// Whether the whole body is behind it.
    pub(super) fn covers_body(&self) -> bool {
        matches!(self, Part::Body | Part::BodySha256 | Part::BodySha256Raw)
    }

    /// The places of the body that it reads.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> {
        let (one, many) = match self {
            Part::Json(part) => (Some(part.place), &[][..]),
            Part::Lines(lines) => (None, &lines[..]),
            _ => (None, &[][..]),
        };
        one.into_iter().chain(many.iter().map(|(_, part)| part.place))
    }
}

/// Parses templates; knows what their names stand for.
pub(super) struct Parser<'a> {
    /// For `{prefix}` in header names.
    pub(super) header_prefix: &'a str,
    /// Notes a path of the body and gives its place.
    pub(super) json: &'a mut dyn FnMut(&str) -> Result<usize, String>,
}

impl Parser<'_> {
    /// Parses a template.
    pub(super) fn parse(&mut self, text: &str) -> Result<Vec<Part>, String> {
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
                parts.push(self.variable(name)?);
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

    fn variable(&mut self, name: &str) -> Result<Part, String> {
        Ok(match name {
            "timestamp" => Part::Timestamp,
            "id" => Part::Id,
            "body" => Part::Body,
            "method" => Part::Method,
            "url" => Part::Url(UrlForm::Whole),
            "url_base" => Part::Url(UrlForm::Base),
            "url_unescaped" => Part::Url(UrlForm::Unescaped),
            "form" => Part::Form,
            "query_sorted" => Part::QuerySorted,
            "body_sha256" => Part::BodySha256,
            "body_sha256_raw" => Part::BodySha256Raw,
            "body_crc32" => Part::BodyCrc32,
            "principal" => Part::Principal,
            "names" => Part::Names,
            "named_values" => Part::NamedValues,
            _ => match name.split_once(':') {
                Some(("header", header)) => {
                    HeaderName::parse(header, self.header_prefix).map(Part::Header)?
                }
                Some(("json", path)) => Part::Json(self.json(path, false)?),
                Some(("text", path)) => Part::Json(self.json(path, true)?),
                Some(("lines", names)) => Part::Lines(
                    names
                        .split(',')
                        .map(|name| {
                            let free = name.contains('*');
                            let path = name.replace('*', "");
                            let part = self.json(&path, free)?;
                            Ok((path.trim_end_matches('?').to_owned(), part))
                        })
                        .collect::<Result<_, String>>()?,
                ),
                _ => {
                    let known = "{timestamp}, {id}, {body}, {header:NAME}, {json:PATH}, {text:PATH}, {lines:…}, \
                                 {method}, {url}, {url_base}, {url_unescaped}, {form}, {query_sorted}, \
                                 {body_sha256}, {body_sha256_raw}, {body_crc32}, {principal}, {names}, \
                                 {named_values}";
                    return Err(format!("has the unknown variable `{{{name}}}`; known are {known}"));
                }
            },
        })
    }

    fn json(&mut self, path: &str, free: bool) -> Result<JsonPart, String> {
        let (path, optional) = path.strip_suffix('?').map_or((path, false), |path| (path, true));
        Ok(JsonPart { place: (self.json)(path)?, free, optional })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Part>, String> {
        let mut places = 0;
        let mut json = |path: &str| {
            places += 1;
            if path.is_empty() { Err("empty".to_owned()) } else { Ok(places - 1) }
        };
        Parser { header_prefix: "x-", json: &mut json }.parse(text)
    }

    #[test]
    fn literals_and_variables_alternate() {
        let name = HeaderName::parse("x-a", "").unwrap();
        let literal = |text: &str| Part::Literal(text.to_owned());
        assert_eq!(
            parse("v0:{timestamp}{header:x-a}.{{}}{body}").unwrap(),
            [literal("v0:"), Part::Timestamp, Part::Header(name), literal(".{}"), Part::Body]
        );
        let part = |place, free, optional| JsonPart { place, free, optional };
        assert_eq!(
            parse("{json:a.b}{text:c?}{lines:D*,E?}").unwrap(),
            [
                Part::Json(part(0, false, false)),
                Part::Json(part(1, true, true)),
                Part::Lines(vec![
                    ("D".to_owned(), part(2, true, false)),
                    ("E".to_owned(), part(3, false, true))
                ]),
            ]
        );
    }

    #[test]
    fn says_what_is_wrong() {
        assert!(parse("{timestamp").unwrap_err().contains("without `}`"));
        assert!(parse("a}b").unwrap_err().contains("without `{`"));
        assert!(parse("{boddy}").unwrap_err().contains("{boddy}"));
        assert!(parse("{json:}").is_err());
    }
}
