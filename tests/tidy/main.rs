//! The house's rules, checked on the sources themselves: sizes, who may import whom, what may be named where, and
//! that the manuals say what the code does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod files;
mod imports;
mod manual;
mod sizes;
mod watched;
mod words;

/// Fails with every finding, one a line.
#[track_caller]
fn assert_clean(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}
