//! Which endpoints are disabled, and since when they fail: a small file, so that neither an operator's word nor five
//! days of failures are forgotten by a restart. A damaged one is never taken for an empty one.

use crate::durable_file;
use ron_core::egress::Saved;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The file is not what was written, or cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("egress states {path}: {what}; mend the file, or remove it, which enables every endpoint")]
pub struct BookError {
    path: PathBuf,
    what: String,
}

/// See the module.
#[derive(Debug)]
pub struct Book {
    path: Option<PathBuf>,
    saved: Mutex<BTreeMap<String, Saved>>,
}

impl Book {
    /// Reads the file; without a path everything is kept in memory alone. Blocks.
    ///
    /// # Errors
    /// [`BookError`].
    pub fn load(path: Option<PathBuf>) -> Result<Book, BookError> {
        let saved = match &path {
            None => BTreeMap::new(),
            Some(path) => {
                let bad = |what: String| BookError { path: path.clone(), what };
                match fs::read_to_string(path) {
                    Ok(text) => toml::from_str(&text).map_err(|error| bad(error.message().to_owned()))?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
                    Err(error) => return Err(bad(error.to_string())),
                }
            }
        };
        Ok(Book { path, saved: Mutex::new(saved) })
    }

    /// What is known of an endpoint.
    #[must_use]
    pub fn of(&self, endpoint: &str) -> Saved {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        saved.get(endpoint).copied().unwrap_or_default()
    }

    /// Keeps what is known of an endpoint; on the device when this returns. Blocks.
    ///
    /// # Errors
    /// The system's: it is then known until the end of the process only.
    pub fn put(&self, endpoint: &str, new: Saved) -> io::Result<()> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let old = match new == Saved::default() {
            true => saved.remove(endpoint),
            false => saved.insert(endpoint.to_owned(), new),
        };
        let Some(path) = self.path.as_deref().filter(|_| old.unwrap_or_default() != new) else {
            return Ok(());
        };
        let text = toml::to_string(&*saved).map_err(io::Error::other)?;
        durable_file::replace(path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_core::egress::DisabledWhy;
    use ron_core::time::Millis;

    #[test]
    fn states_survive_and_a_damaged_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("egress");
        let load = || Book::load(Some(path.clone()));
        let book = load().unwrap();
        let gone = Saved { disabled: Some((DisabledWhy::Gone, Millis(5))), failing_since: Some(Millis(3)) };
        book.put("billing.v2", gone).unwrap();
        book.put("other", Saved::default()).unwrap();
        assert_eq!(load().unwrap().of("billing.v2"), gone);
        assert_eq!(load().unwrap().of("other"), Saved::default());
        book.put("billing.v2", Saved::default()).unwrap();
        assert_eq!(load().unwrap().of("billing.v2"), Saved::default());
        for text in ["[billing", "[billing]\ndisabled = 5", "[billing]\nhappy = true"] {
            fs::write(&path, text).unwrap();
            assert!(load().unwrap_err().to_string().contains("remove it"), "{text}");
        }
        let memory = Book::load(None).unwrap();
        memory.put("x", gone).unwrap();
        assert_eq!(memory.of("x"), gone);
    }
}
