//! `[policy]`: where the policy is.

use super::read::Section;
use std::path::PathBuf;

/// `[policy]`.
#[derive(Debug, Clone)]
pub struct PolicyConfig {
    /// The policy's file; if there is none, capabilities alone decide.
    pub file: Option<PathBuf>,
    /// Whether somebody named it, and will wonder if it is not there.
    pub named: bool,
}

impl PolicyConfig {
    pub(super) fn read(s: &Section<'_, '_>) -> PolicyConfig {
        let named = s.origin_at(&["file"]).is_some_and(|place| !place.starts_with("built-in"));
        PolicyConfig { file: s.path_opt("file"), named }
    }
}
