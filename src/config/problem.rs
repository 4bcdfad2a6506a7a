//! What is wrong with a configuration, said so that it can be mended.

use serde::Serialize;
use std::fmt;

/// One thing wrong. Never holds a value: it might be a secret in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The key, by its full path: `interop.limits.max_conns`. Empty if it is about a whole file.
    pub key: String,
    /// The file and line, the variable, or the flag that it comes from.
    pub place: String,
    /// What is wrong.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)?;
        self.hint.iter().try_for_each(|hint| write!(f, "\n    {hint}"))
    }
}

/// All problems of a configuration, as one text of several lines.
#[must_use]
pub fn report(problems: &[Problem]) -> String {
    let count = problems.len();
    let mut text = format!("configuration: {count} problem{}\n", if count == 1 { "" } else { "s" });
    for problem in problems {
        text.push_str(&format!("  {problem}\n"));
    }
    text
}
