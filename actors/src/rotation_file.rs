//! What was seen of providers' secrets, so that a restart in the midst of a rotation does not forget it. It decides
//! nothing about what is accepted: one that cannot be read is as if it were not there, and is told of.

use crate::durable_file;
use ron_core::rotation::Seen;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// What was seen, by provider and KID. Holds names and times alone.
pub type Remembered = BTreeMap<String, BTreeMap<String, Seen>>;

/// Reads the file; nothing, if there is none. Blocks.
///
/// # Errors
/// Why it cannot be read.
pub fn load(path: &Path) -> Result<Remembered, String> {
    match fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| error.message().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Remembered::new()),
        Err(error) => Err(error.to_string()),
    }
}

/// Replaces the file; on the device when this returns. Blocks.
///
/// # Errors
/// The system's: the file is then as it was.
pub fn save(path: &Path, seen: &Remembered) -> io::Result<()> {
    let text = toml::to_string(seen).map_err(io::Error::other)?;
    durable_file::replace(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_core::time::Millis;

    #[test]
    fn what_was_seen_comes_back_and_nonsense_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rotations");
        assert_eq!(load(&path), Ok(Remembered::new()));
        let seen = Seen { first_listed: Some(Millis(1)), last_match: Some(Millis(7)), ..Seen::default() };
        let all = Remembered::from([("hub.v2".to_owned(), BTreeMap::from([("2026-11".to_owned(), seen)]))]);
        save(&path, &all).unwrap();
        assert_eq!(load(&path), Ok(all));
        for text in ["[hub", "[hub.k]\nfirst_listed = \"soon\"", "[hub.k]\nhappy = true"] {
            fs::write(&path, text).unwrap();
            assert!(load(&path).is_err(), "{text}");
        }
    }
}
