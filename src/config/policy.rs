//! `[policy]`: where the policy is.

use super::read::Section;
use std::path::PathBuf;

/// `[policy]`.
#[derive(Debug, Clone)]
pub struct PolicyConfig {
    /// The policy's file; without it capabilities alone decide.
    pub file: Option<PathBuf>,
}

impl PolicyConfig {
    pub(super) fn read(s: &Section<'_, '_>) -> PolicyConfig {
        PolicyConfig { file: s.path_opt("file") }
    }
}
