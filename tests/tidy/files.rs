//! The files of the repository, and Rust sources as the tokens that are compiled outside tests.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use syn::visit_mut::{VisitMut, visit_file_mut, visit_item_mod_mut};

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A text file of the repository.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files, as paths from the root; what is built or ignored by git is left out.
pub(crate) fn all() -> Vec<String> {
    let mut found = Vec::new();
    let mut rooms = vec![PathBuf::new()];
    while let Some(room) = rooms.pop() {
        let entries = std::fs::read_dir(root().join(&room)).expect("a directory of the repository");
        for entry in entries {
            let entry = entry.expect("a directory entry");
            let path = room.join(entry.file_name());
            let kind = entry.file_type().expect("a file type");
            if kind.is_dir() && !["target", ".git", "data"].iter().any(|name| path.ends_with(name)) {
                rooms.push(path);
            } else if kind.is_file() && !path.ends_with(".git") {
                found.push(path.to_str().expect("a path in UTF-8").to_owned());
            }
        }
    }
    found.sort();
    assert!(found.len() > 100, "the walk found only {found:?}");
    found
}

/// All Rust sources.
pub(crate) fn rust() -> Vec<String> {
    all().into_iter().filter(|path| path.ends_with(".rs")).collect()
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether a whole file is test code. Benches are: an input that does not hold ends their run.
pub(crate) fn is_test(path: &str) -> bool {
    let test = path.starts_with("tests/") || path.contains("/tests/") || name(path).starts_with("tests");
    test || path.starts_with("benches/counted/")
}

/// A Rust source, parsed.
pub(crate) fn parse(path: &str) -> syn::File {
    syn::parse_file(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A token and its line. Multi-character operators come as single characters.
#[derive(Debug)]
pub(crate) struct Token {
    /// The text.
    pub(crate) text: String,
    /// Its line, from 1.
    pub(crate) line: usize,
}

/// Every source as tokens, without comments.
pub(crate) fn tokens() -> &'static BTreeMap<String, Vec<Token>> {
    static ALL: LazyLock<BTreeMap<String, Vec<Token>>> =
        LazyLock::new(|| rust().into_iter().map(|path| (path.clone(), flat(parse(&path)))).collect());
    &ALL
}

/// What runs in production of every source: no test files, no items under `#[cfg(test)]`, no constants.
pub(crate) fn production() -> &'static BTreeMap<String, Vec<Token>> {
    static ALL: LazyLock<BTreeMap<String, Vec<Token>>> = LazyLock::new(|| {
        let parsed = |path: String| {
            let mut file = parse(&path);
            WithoutTests.visit_file_mut(&mut file);
            (path, flat(file))
        };
        rust().into_iter().filter(|path| !is_test(path)).map(parsed).collect()
    });
    &ALL
}

fn flat(file: syn::File) -> Vec<Token> {
    let mut flat = Vec::new();
    flatten(file.into_token_stream(), &mut flat);
    flat
}

/// Where `pattern`, a list of tokens, occurs; lines.
pub(crate) fn find(tokens: &[Token], pattern: &[&str]) -> Vec<usize> {
    let same = |window: &&[Token]| window.iter().zip(pattern).all(|(token, text)| token.text == *text);
    tokens.windows(pattern.len()).filter(same).map(|window| window[0].line).collect()
}

fn flatten(stream: TokenStream, flat: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                    proc_macro2::Delimiter::Brace => ("{", "}"),
                    proc_macro2::Delimiter::Bracket => ("[", "]"),
                    proc_macro2::Delimiter::None => ("", ""),
                };
                flat.push(Token { text: open.to_owned(), line });
                flatten(group.stream(), flat);
                flat.push(Token { text: close.to_owned(), line: group.span_close().start().line });
            }
            other => flat.push(Token { text: other.to_string(), line }),
        }
    }
}

struct WithoutTests;

impl VisitMut for WithoutTests {
    fn visit_file_mut(&mut self, file: &mut syn::File) {
        file.items.retain(|item| !is_test_item(item));
        visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut syn::ItemMod) {
        if let Some((_, items)) = &mut module.content {
            items.retain(|item| !is_test_item(item));
        }
        visit_item_mod_mut(self, module);
    }
}

fn is_test_item(item: &syn::Item) -> bool {
    let attributes = match item {
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        // the compiler runs these: what fails there does not build
        syn::Item::Const(_) => return true,
        _ => return false,
    };
    attributes.iter().map(|attribute| attribute.to_token_stream().to_string()).any(|text| {
        let text = text.replace(' ', "");
        text == "#[cfg(test)]" || text == "#[test]" || text.starts_with("#[cfg(any(test,")
    })
}
