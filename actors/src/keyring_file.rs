//! The keyring's file: root keys in TOML that nobody but its owner may read, on disk before their first use.
//!
//! ```toml
//! [[key]]
//! kid = "2026-11-21-5f0a24"
//! key = "…"                          # base64url, 32 bytes
//! created = "2026-11-21T10:00:00Z"
//! not_after = "2027-01-20T10:00:00Z" # only on a key that was rotated out
//! ```

use crate::durable_file;
use crate::entropy::{Entropy, NoEntropy};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ron_core::capability::{KeyEntry, Keyring, RootKey};
use ron_core::ids::Kid;
use ron_core::time::Millis;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

/// Largest keyring file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why there is no keyring. Names the file and what is wrong with it, never a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file cannot be read or written.
    #[error("keyring {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Others than its owner have access to the file.
    #[error("keyring {path}: others have access (mode {mode:04o}); run: chmod 600 {path}")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file's text is not a keyring.
    #[error("keyring {path}: {what}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong, by place and field.
        what: String,
    },
    /// No random bytes for a new key.
    #[error(transparent)]
    NoEntropy(#[from] NoEntropy),
}

/// Loads the keyring, or makes it with one new key if there is no such file.
///
/// # Errors
/// See [`KeyringError`]. A file that is there is never replaced.
pub fn load_or_create(path: &Path, wall: Millis, entropy: &dyn Entropy) -> Result<Keyring, KeyringError> {
    match load(path) {
        Err(KeyringError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            create(path, &in_memory(wall, entropy)?)?;
            load(path)
        }
        loaded => loaded,
    }
}

/// Loads a keyring that must exist.
///
/// # Errors
/// See [`KeyringError`].
pub fn load(path: &Path) -> Result<Keyring, KeyringError> {
    let io_error = |source| KeyringError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io_error)?;
    let mode = file.metadata().map_err(io_error)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyringError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(io_error)?;
    parse(&text).map_err(|what| KeyringError::Malformed { path: path.to_owned(), what })
}

/// A ring of one new key that is nowhere but in memory.
///
/// # Errors
/// No random bytes.
pub fn in_memory(wall: Millis, entropy: &dyn Entropy) -> Result<Keyring, KeyringError> {
    let malformed = |what: &str| KeyringError::Malformed { path: PathBuf::new(), what: what.to_owned() };
    Keyring::new(vec![new_key(wall, entropy)?]).map_err(malformed)
}

/// A new key, named by its day and three random bytes.
///
/// # Errors
/// No random bytes.
pub fn new_key(wall: Millis, entropy: &dyn Entropy) -> Result<KeyEntry, KeyringError> {
    let mut key = Zeroizing::new([0; 32]);
    entropy.fill(&mut *key)?;
    let mut suffix = [0; 3];
    entropy.fill(&mut suffix)?;
    let kid = format!("{}-{}", &wall.rfc3339()[..10], HEXLOWER.encode(&suffix));
    let malformed = |what: String| KeyringError::Malformed { path: PathBuf::new(), what };
    Ok(KeyEntry {
        kid: Kid::parse(&kid).map_err(|bad| malformed(bad.to_string()))?,
        key: RootKey::new(*key),
        created_unix_s: wall.0 / 1000,
        not_after_unix_s: None,
    })
}

/// Writes a new file and makes it durable, directory included, before anything is made with its keys.
fn create(path: &Path, ring: &Keyring) -> Result<(), KeyringError> {
    let created = durable_file::create(path, render(ring).as_bytes());
    created.map_err(|source| KeyringError::Io { path: path.to_owned(), source })
}

/// Replaces the file's ring by a later one, durably, before anything is made with its new key. `in_force` is what the
/// file must hold: one that was edited since is not overwritten.
///
/// # Errors
/// See [`KeyringError`].
pub fn replace(path: &Path, in_force: &Keyring, later: &Keyring) -> Result<(), KeyringError> {
    if *render(&load(path)?) != *render(in_force) {
        let what = "it was changed since the node read it; restart the node, then rotate".to_owned();
        return Err(KeyringError::Malformed { path: path.to_owned(), what });
    }
    let replaced = durable_file::replace(path, render(later).as_bytes());
    replaced.map_err(|source| KeyringError::Io { path: path.to_owned(), source })
}

/// The file's text.
#[must_use]
pub fn render(ring: &Keyring) -> Zeroizing<String> {
    let stamp = |unix_s: u64| Millis(unix_s.saturating_mul(1000)).rfc3339();
    let mut text =
        Zeroizing::new(String::from("# Root keys of capabilities: whoever reads this can do anything.\n"));
    for entry in ring.entries() {
        let key = Zeroizing::new(BASE64URL_NOPAD.encode(entry.key.bytes()));
        text.push_str(&format!("\n[[key]]\nkid = \"{}\"\nkey = \"", entry.kid));
        text.push_str(&key);
        text.push_str(&format!("\"\ncreated = \"{}\"\n", stamp(entry.created_unix_s)));
        if let Some(end) = entry.not_after_unix_s {
            text.push_str(&format!("not_after = \"{}\"\n", stamp(end)));
        }
    }
    text
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    key: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    kid: String,
    key: String,
    created: toml::Value,
    not_after: Option<toml::Value>,
}

/// Reads the file's text.
///
/// # Errors
/// What is wrong, by key number and field; never a value.
pub fn parse(text: &str) -> Result<Keyring, String> {
    let document: Document = toml::from_str(text).map_err(|error| {
        // the parser's own message could quote a line that holds a key
        let line =
            error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        format!("line {line}: not a table [[key]] with kid, key, created and perhaps not_after")
    })?;
    let mut entries = Vec::new();
    for (at, row) in document.key.into_iter().enumerate() {
        let wrong = |field: &str, rule: &str| format!("key {}: {field} must be {rule}", at + 1);
        let encoded = Zeroizing::new(row.key);
        let kid = Kid::parse(&row.kid).map_err(|bad| wrong("kid", bad.rule))?;
        let bytes = Zeroizing::new(
            BASE64URL_NOPAD.decode(encoded.trim_end_matches('=').as_bytes()).unwrap_or_default(),
        );
        let key = <[u8; 32]>::try_from(&bytes[..]).map_err(|_| wrong("key", "32 bytes of base64url"))?;
        let stamp =
            |field, value| unix_s(value).ok_or_else(|| wrong(field, "a time, as 2026-11-21T10:00:00Z"));
        entries.push(KeyEntry {
            kid,
            key: RootKey::new(key),
            created_unix_s: stamp("created", &row.created)?,
            not_after_unix_s: row.not_after.as_ref().map(|value| stamp("not_after", value)).transpose()?,
        });
    }
    Keyring::new(entries).map_err(str::to_owned)
}

/// A time as text, as TOML's own type, or in Unix seconds.
fn unix_s(value: &toml::Value) -> Option<u64> {
    let text = match value {
        toml::Value::Integer(seconds) => return u64::try_from(*seconds).ok(),
        toml::Value::String(text) => text.clone(),
        toml::Value::Datetime(at) => at.to_string(),
        _ => return None,
    };
    let whole_day = text.len() == "2026-11-21".len();
    let text = if whole_day { format!("{text}T00:00:00Z") } else { text };
    OffsetDateTime::parse(&text, &Rfc3339).ok().and_then(|at| u64::try_from(at.unix_timestamp()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    const WALL: Millis = Millis(1_795_000_000_000);

    fn private(path: &Path, text: &str) {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn is_made_once_and_read_ever_after() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/keyring");
        let made = load_or_create(&path, WALL, &SeededEntropy::new(1)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left");
        let again = load_or_create(&path, Millis(0), &SeededEntropy::new(2)).unwrap();
        assert_eq!(made.minting().key.bytes(), again.minting().key.bytes());
        assert_eq!(made.minting().kid, again.minting().kid);
        assert!(made.minting().kid.as_str().starts_with("2026-11-18-"), "{}", made.minting().kid);
        assert_eq!(again.minting().created_unix_s, 1_795_000_000);
    }

    #[test]
    fn is_replaced_by_a_later_ring_unless_somebody_edited_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyring");
        let entropy = SeededEntropy::new(1);
        let first = load_or_create(&path, WALL, &entropy).unwrap();
        let (second, _) = first.rotate(new_key(WALL, &entropy).unwrap(), WALL.0 / 1000, 60).unwrap();
        replace(&path, &first, &second).unwrap();
        assert_eq!(render(&load(&path).unwrap()), render(&second));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let (third, _) = second.rotate(new_key(WALL, &entropy).unwrap(), WALL.0 / 1000, 60).unwrap();
        let error = replace(&path, &first, &third).unwrap_err().to_string();
        assert!(error.contains("restart the node"), "{error}");
        assert_eq!(render(&load(&path).unwrap()), render(&second));
        fs::remove_file(&path).unwrap();
        assert!(replace(&path, &second, &third).is_err() && !path.exists());
    }

    #[test]
    fn access_by_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyring");
        load_or_create(&path, WALL, &SeededEntropy::new(1)).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = load_or_create(&path, WALL, &SeededEntropy::new(1)).unwrap_err();
            assert!(matches!(error, KeyringError::Exposed { .. }), "{error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(load(&path).is_ok());
    }

    #[test]
    fn a_bad_file_is_named_and_kept_and_never_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I";
        for (at, text) in [
            String::new(),
            "key = 1".into(),
            format!("[[key]]\nkid = \"a\"\nkey = \"{secret}\""),
            format!("[[key]]\nkid = \"A\"\nkey = \"{secret}\"\ncreated = 1"),
            format!("[[key]]\nkid = \"a\"\nkey = \"{secret}x\"\ncreated = 1"),
            format!("[[key]]\nkid = \"a\"\nkey = \"{secret}\"\ncreated = \"soon\""),
            format!("[[key]]\nkid = \"a\"\nkey = \"{secret}\ncreated = 1"),
            format!("[[key]]\nkid = \"a\"\nkey = \"{secret}\"\ncreated = 1\nnot_after = 5"),
        ]
        .iter()
        .enumerate()
        {
            let path = dir.path().join(at.to_string());
            private(&path, text);
            let error = load_or_create(&path, WALL, &SeededEntropy::new(1)).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()) && !error.contains("c2Vj"), "{error}");
            assert_eq!(&fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn times_may_be_text_dates_or_seconds_and_render_round_trips() {
        let key = BASE64URL_NOPAD.encode(&[7; 32]);
        let text = format!(
            "[[key]]\nkid=\"a\"\nkey=\"{key}=\"\ncreated=2023-11-14T22:13:20Z\nnot_after=\"2023-11-15\"\n\
             [[key]]\nkid=\"b\"\nkey=\"{key}\"\ncreated=1700000000\n"
        );
        let ring = parse(&text).unwrap();
        assert_eq!(ring.entries()[0].created_unix_s, 1_700_000_000);
        assert_eq!(ring.entries()[0].not_after_unix_s, Some(1_700_006_400));
        assert_eq!(ring.minting().kid.as_str(), "b");
        let again = parse(&render(&ring)).unwrap();
        assert_eq!(render(&again), render(&ring));
    }
}
