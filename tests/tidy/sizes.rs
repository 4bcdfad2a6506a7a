//! Files, functions and lines stay small enough to be read.

use crate::{assert_clean, files};
use syn::visit::{Visit, visit_impl_item_fn, visit_item_fn, visit_trait_item_fn};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_CHARS_MAX: usize = 110;

/// Prose, and lines of code that can't be broken, may be this long.
const COMMENT_CHARS_MAX: usize = 120;

#[test]
fn files_are_short() {
    let long = |path: String| {
        let lines = files::read(&path).lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{path}: {lines} lines"))
    };
    assert_clean(&files::rust().into_iter().filter_map(long).collect::<Vec<_>>());
}

#[test]
fn lines_are_short() {
    let mut long = Vec::new();
    for path in files::rust() {
        for (at, line) in files::read(&path).lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            let max = if is_comment { COMMENT_CHARS_MAX } else { LINE_CHARS_MAX };
            let chars = line.chars().count();
            // a literal or an address in it can't be broken
            let breakable = !line.contains("http") && !line.contains('"');
            if chars > max && breakable {
                long.push(format!("{path}:{}: {chars} characters", at + 1));
            }
        }
    }
    assert_clean(&long);
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for path in files::rust() {
        let mut found = Functions::default();
        found.visit_file(&files::parse(&path));
        for (name, lines) in found.0 {
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{path}: fn {name} has {lines} lines"));
            }
        }
    }
    assert_clean(&long);
}

/// Each function with its lines, from `fn` to the closing brace.
#[derive(Default)]
struct Functions(Vec<(String, usize)>);

impl Functions {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.fn_token.span.start().line;
        let last = block.brace_token.span.close().end().line;
        self.0.push((signature.ident.to_string(), last - first + 1));
    }
}

impl<'a> Visit<'a> for Functions {
    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.add(&item.sig, &item.block);
        visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.add(&item.sig, block);
        }
        visit_trait_item_fn(self, item);
    }
}
