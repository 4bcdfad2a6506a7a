//! What a GraphQL document may be, judged before anything of it runs.
//!
//! A document is text from a stranger that says how much work it is: so its size, its nesting, its fields with all
//! fragments written out, aliases and root fields are bounded here, each refused with its name and the fix.

use crate::http::draft::malformed;
use async_graphql::parser::parse_query;
use async_graphql::parser::types::{
    ExecutableDocument, OperationDefinition, OperationType, Selection, SelectionSet,
};
use ron_core::reason::Refusal;
use std::collections::HashMap;

/// Bytes of a document's text. Payloads travel in variables.
pub(super) const QUERY_BYTES_MAX: usize = 8 * 1024;
/// Nested fields.
pub(super) const DEPTH_MAX: usize = 8;
/// Weighed fields: those of a list count as often as the list is long.
pub(super) const COMPLEXITY_MAX: usize = 500;
/// Directives on one field.
pub(super) const DIRECTIVES_MAX: usize = 5;
/// Brackets in brackets: what the parser has to go down.
const NESTING_MAX: usize = 32;
const ALIASES_MAX: usize = 15;
const ROOT_FIELDS_MAX: usize = 10;

/// A document that may be run.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) document: ExecutableDocument,
    /// It asks about the schema itself.
    pub(super) introspects: bool,
}

/// Reads a document, if it may be run.
///
/// # Errors
/// MALFORMED, naming the limit, or the line and column of what does not parse.
pub(super) fn check(query: &str) -> Result<Checked, Refusal> {
    if query.len() > QUERY_BYTES_MAX {
        return Err(malformed("query: must be at most 8192 bytes; put values into variables"));
    }
    if nesting(query) > NESTING_MAX {
        return Err(malformed("query: brackets may be nested 32 deep; ask for less at once"));
    }
    let document = parse_query(query).map_err(|error| {
        let at = error.positions().next();
        let at = at.map_or(String::new(), |at| format!(" at line {} column {}", at.line, at.column));
        malformed(format!("query: is not a GraphQL document{at}"))
    })?;
    let mut operations = document.operations.iter();
    let (Some((_, operation)), None) = (operations.next(), operations.next()) else {
        return Err(malformed("query: must have exactly one operation; send the others by themselves"));
    };
    let introspects = judge(&document, &operation.node)?;
    Ok(Checked { document, introspects })
}

/// How deep brackets are nested outside of texts and comments.
fn nesting(query: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0usize);
    let mut rest = query.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'{' | b'[' | b'(' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' | b')' => depth = depth.saturating_sub(1),
            b'#' => {
                let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
                rest = end.map_or(&[], |end| &rest[end..]);
            }
            b'"' => rest = behind_text(rest),
            _ => {}
        }
    }
    deepest
}

/// What follows a text whose first quote was read; one that does not end is not a document. As the specification's
/// lexer has it, or brackets could be hidden from the count.
fn behind_text(rest: &[u8]) -> &[u8] {
    match rest {
        [b'"', b'"', block @ ..] => behind_block(block),
        [b'"', after @ ..] => after,
        _ => behind_line(rest),
    }
}

fn behind_block(mut rest: &[u8]) -> &[u8] {
    loop {
        rest = match rest {
            [] => return rest,
            [b'\\', b'"', b'"', b'"', after @ ..] => after,
            [b'"', b'"', b'"', after @ ..] => return after,
            [_, after @ ..] => after,
        };
    }
}

fn behind_line(mut rest: &[u8]) -> &[u8] {
    loop {
        rest = match rest {
            [] | [b'\n' | b'\r', ..] => return rest,
            [b'"', after @ ..] => return after,
            [b'\\', _, after @ ..] | [_, after @ ..] => after,
        };
    }
}

/// What a selection is with its fragments written out.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    fields: usize,
    aliases: usize,
    /// Fields of the selection itself.
    own: usize,
    introspects: bool,
}

fn judge(document: &ExecutableDocument, operation: &OperationDefinition) -> Result<bool, Refusal> {
    if operation.ty == OperationType::Subscription {
        return Err(malformed(
            "query: there are no subscriptions; see POST /v1/{tenant}/{topic}/recv/stream",
        ));
    }
    let mut known = HashMap::new();
    let size = weigh(document, &operation.selection_set.node, &mut known)?;
    if size.own > ROOT_FIELDS_MAX {
        return Err(malformed("query: at most 10 fields may be asked for at the root; send more operations"));
    }
    if size.aliases > ALIASES_MAX {
        return Err(malformed("query: at most 15 aliases may be used; send more operations"));
    }
    if size.fields > COMPLEXITY_MAX {
        return Err(too_complex());
    }
    Ok(size.introspects)
}

/// The document is more work than one may be.
pub(super) fn too_complex() -> Refusal {
    malformed("query: weighs more than 500 fields; ask for fewer, or for smaller pages")
}

/// The document is nested too deeply.
pub(super) fn too_deep() -> Refusal {
    malformed("query: fields may be nested 8 deep; ask for less at once")
}

/// Walks each fragment once. `None` in `known` = being walked.
fn weigh<'d>(
    document: &'d ExecutableDocument,
    selection: &'d SelectionSet,
    known: &mut HashMap<&'d str, Option<Size>>,
) -> Result<Size, Refusal> {
    let mut size = Size::default();
    for item in &selection.items {
        let (part, own) = match &item.node {
            Selection::Field(field) => {
                let inner = weigh(document, &field.node.selection_set.node, known)?;
                let name = field.node.name.node.as_str();
                let part = Size {
                    fields: inner.fields.saturating_add(1),
                    aliases: inner.aliases.saturating_add(usize::from(field.node.alias.is_some())),
                    introspects: inner.introspects || matches!(name, "__schema" | "__type"),
                    own: 1,
                };
                (part, 1)
            }
            Selection::InlineFragment(inline) => {
                let part = weigh(document, &inline.node.selection_set.node, known)?;
                (part, part.own)
            }
            Selection::FragmentSpread(spread) => {
                let part = fragment(document, spread.node.fragment_name.node.as_str(), known)?;
                (part, part.own)
            }
        };
        size.fields = size.fields.saturating_add(part.fields);
        size.aliases = size.aliases.saturating_add(part.aliases);
        size.own = size.own.saturating_add(own);
        size.introspects |= part.introspects;
    }
    Ok(size)
}

fn fragment<'d>(
    document: &'d ExecutableDocument,
    name: &str,
    known: &mut HashMap<&'d str, Option<Size>>,
) -> Result<Size, Refusal> {
    let Some((name, fragment)) = document.fragments.get_key_value(name) else {
        return Err(malformed("query: spreads a fragment that it does not define"));
    };
    match known.get(name.as_str()) {
        Some(Some(size)) => return Ok(*size),
        Some(None) => return Err(malformed("query: a fragment must not spread itself")),
        None => {}
    }
    known.insert(name.as_str(), None);
    let size = weigh(document, &fragment.node.selection_set.node, known)?;
    known.insert(name.as_str(), Some(size));
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write;

    fn refused(query: &str) -> String {
        check(query).unwrap_err().text.into_owned()
    }

    fn many(count: usize, one: impl Fn(usize) -> String) -> String {
        (0..count).map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_limit_has_its_edge_and_its_name() {
        let wide = |count| format!("{{ {} }}", many(count, |n| format!("f{n}")));
        assert!(check(&wide(10)).is_ok());
        assert!(refused(&wide(11)).contains("10 fields"));
        let aliased = |count| format!("{{ t {{ {} }} }}", many(count, |n| format!("a{n}: f")));
        assert!(check(&aliased(15)).is_ok());
        assert!(refused(&aliased(16)).contains("15 aliases"));
        let heavy = |count| format!("{{ t {{ {} }} }}", many(count, |n| format!("f{n}")));
        assert!(check(&heavy(499)).is_ok());
        assert!(refused(&heavy(500)).contains("500 fields"));
        let long = |bytes: usize| format!("{{ f }}{}", " ".repeat(bytes - 5));
        assert!(check(&long(8192)).is_ok());
        assert!(refused(&long(8193)).contains("8192 bytes"));
        let deep = |levels: usize| format!("{}f{}", "{ f ".repeat(levels), " }".repeat(levels));
        assert!(check(&deep(32)).is_ok());
        assert!(refused(&deep(33)).contains("32 deep"));
        assert!(refused("query a { f } query b { f }").contains("exactly one operation"));
        assert!(refused("fragment a on T { f }").contains("not a GraphQL document"));
        assert!(refused("subscription { f }").contains("no subscriptions"));
        assert!(refused("{ s3cr3t(").starts_with("query: is not a GraphQL document at line 1"));
        assert!(!refused("{ s3cr3t(").contains("s3cr3t"));
    }

    #[test]
    fn fragments_count_where_they_are_spread() {
        assert!(
            refused("{ ...a } fragment a on T { ...b } fragment b on T { ...a }").contains("spread itself")
        );
        assert!(refused("{ ...nowhere }").contains("does not define"));
        let roots = format!("{{ ...a ...a }} fragment a on T {{ {} }}", many(6, |n| format!("f{n}")));
        assert!(refused(&roots).contains("10 fields"));
        let aliases = "{ t { ...a ...a } } fragment a on T { a: f b: f c: f d: f e: f f: f g: f h: f }";
        assert!(refused(aliases).contains("15 aliases"));
        // each doubles the one before: 2^30 fields in some hundred bytes
        let mut laughs = "{ t { ...f0 } }".to_owned();
        for n in 0..30 {
            write!(laughs, " fragment f{n} on T {{ ...f{} ...f{} }}", n + 1, n + 1).unwrap();
        }
        laughs.push_str(" fragment f30 on T { f }");
        assert!(refused(&laughs).contains("500 fields"));
    }

    #[test]
    fn brackets_in_texts_and_comments_do_not_nest() {
        let brackets = "{[(".repeat(20);
        for query in [
            format!("{{ f(a: \"{brackets}\") }}"),
            format!("{{ f(a: \"\\\"{brackets}\") }}"),
            format!("{{ f(a: \"\"\"{brackets} \"quoted\" \\\"\"\" {brackets}\"\"\") }}"),
            format!("{{ f(a: \"\") # {brackets}\n }}"),
            // an escaped end and one more quote are still in the block
            format!("{{ f(a: \"\"\"\\\"\"\"\" {brackets}\"\"\") }}"),
        ] {
            assert_eq!(nesting(&query), 2, "{query}");
            assert!(check(&query).is_ok(), "{query}");
        }
    }

    #[test]
    fn who_asks_about_the_schema_is_known() {
        for (query, expected) in [
            ("{ __typename t { f } }", false),
            ("{ __schema { types { name } } }", true),
            ("{ a: __type(name: \"T\") { name } }", true),
            ("{ ...a } fragment a on Query { ... on Query { __schema { types { name } } } }", true),
        ] {
            assert_eq!(check(query).unwrap().introspects, expected, "{query}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(text in "[\\{\\}\\(\\)\\[\\]\"\\\\#a-c:.\n ]{0,200}", more in ".{0,100}") {
            let _ = check(&text);
            let _ = check(&format!("{{ {text} }}"));
            let _ = check(&more);
        }
    }
}
