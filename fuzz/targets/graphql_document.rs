//! A GraphQL document from a stranger: it is judged before anything of it runs, always the same way, and what passes
//! is within the limits however its fragments nest.
//!
//! parser: src/http/graphql/limits.rs
#![no_main]

use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};
use libfuzzer_sys::fuzz_target;

#[path = "../../src/http/graphql/limits.rs"]
#[allow(dead_code, unused_imports)]
mod limits;

/// What the limits take from the crate that they live in.
mod http {
    pub(crate) mod draft {
        use ron_core::reason::{Reason, Refusal};

        pub(crate) fn malformed(text: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
            Refusal::new(Reason::Malformed, text)
        }
    }
}

/// With `PLANTED=1` it panics in a place that is hard to get to: `.ci/fuzz-planted` wants it found.
static PLANTED: std::sync::LazyLock<bool> =
    std::sync::LazyLock::new(|| std::env::var_os("PLANTED").is_some());

/// Fields with all fragments written out, within so many spreads; the limits have bounded what that can be.
fn written_out(document: &ExecutableDocument, selection: &SelectionSet, spreads: usize) -> usize {
    assert!(!(*PLANTED && spreads == 2), "planted");
    let one = |item: &Selection| match item {
        Selection::Field(field) => 1 + written_out(document, &field.node.selection_set.node, spreads),
        Selection::InlineFragment(inline) => written_out(document, &inline.node.selection_set.node, spreads),
        Selection::FragmentSpread(spread) => {
            let fragment = &document.fragments[&spread.node.fragment_name.node];
            written_out(document, &fragment.node.selection_set.node, spreads + 1)
        }
    };
    selection.items.iter().map(|item| one(&item.node)).sum()
}

fuzz_target!(|input: &[u8]| {
    let Ok(query) = std::str::from_utf8(input) else { return };
    match limits::check(query) {
        Ok(checked) => {
            assert!(query.len() <= limits::QUERY_BYTES_MAX);
            let mut operations = checked.document.operations.iter();
            let operation = operations.next().map(|(_, operation)| operation);
            assert!(operation.is_some() && operations.next().is_none(), "not one operation");
            let Some(operation) = operation else { return };
            let fields = written_out(&checked.document, &operation.node.selection_set.node, 0);
            assert!(fields <= limits::COMPLEXITY_MAX, "{fields} fields");
            let again = limits::check(query).map(|again| again.introspects);
            assert_eq!(again.ok(), Some(checked.introspects));
        }
        Err(refusal) => {
            assert!(refusal.text.starts_with("query: "), "names the field");
            assert_eq!(limits::check(query).err().map(|again| again.text), Some(refusal.text));
        }
    }
});
