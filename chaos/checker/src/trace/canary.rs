//! The search for what must not lie around: payloads, attributes, keys, secrets, tokens and payload hashes.

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use std::fs;
use std::path::Path;

/// A thing that must not be found, in the forms in which it could be.
#[derive(Debug, Clone)]
pub struct Canary {
    /// What it is, for the report; never the thing itself.
    pub name: &'static str,
    forms: Vec<Vec<u8>>,
}

impl Canary {
    /// A canary in plain, hexadecimal and base64 form. Base64 is searched from each of the three offsets at
    /// which it may begin inside a longer text.
    #[must_use]
    pub fn new(name: &'static str, thing: &str) -> Canary {
        let bytes = thing.as_bytes();
        let mut forms = vec![bytes.to_vec(), HEXLOWER.encode(bytes).into_bytes()];
        for offset in 0..3.min(bytes.len()) {
            let whole = bytes.len() - offset - (bytes.len() - offset) % 3;
            let inner = &bytes[offset..offset + whole];
            if inner.len() >= 9 {
                forms.push(BASE64.encode(inner).into_bytes());
                forms.push(BASE64URL_NOPAD.encode(inner).into_bytes());
            }
        }
        Canary { name, forms }
    }

    /// Whether it is in `bytes`.
    #[must_use]
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        self.forms.iter().any(|form| bytes.windows(form.len()).any(|window| window == form))
    }
}

/// What was found where.
#[must_use]
pub fn search(canaries: &[Canary], place: &str, bytes: &[u8]) -> Vec<String> {
    let found = canaries.iter().filter(|canary| canary.is_in(bytes));
    found.map(|canary| format!("{} in {place}", canary.name)).collect()
}

/// Searches a file, or all files below a directory. What can't be read is reported as found, not passed over.
#[must_use]
pub fn search_path(canaries: &[Canary], path: &Path) -> Vec<String> {
    let Ok(kind) = fs::symlink_metadata(path).map(|metadata| metadata.file_type()) else { return Vec::new() };
    if kind.is_dir() {
        return match fs::read_dir(path) {
            Ok(entries) => entries.flatten().flat_map(|entry| search_path(canaries, &entry.path())).collect(),
            Err(error) => vec![format!("{} can't be searched: {error}", path.display())],
        };
    }
    if !kind.is_file() {
        return Vec::new();
    }
    match fs::read(path) {
        Ok(bytes) => search(canaries, &path.display().to_string(), &bytes),
        Err(error) => vec![format!("{} can't be searched: {error}", path.display())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_is_found_in_every_form() {
        let canary = [Canary::new("payload", "CANARY-0123456789abcdef")];
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("plain", b"..CANARY-0123456789abcdef..".to_vec()),
            ("hex", HEXLOWER.encode(b"CANARY-0123456789abcdef").into_bytes()),
            ("base64", BASE64.encode(b"CANARY-0123456789abcdef").into_bytes()),
            ("base64 inside", BASE64.encode(b"{\"p\":\"CANARY-0123456789abcdef\"}").into_bytes()),
            ("base64 inside, one on", BASE64.encode(b"{\"pa\":\"CANARY-0123456789abcdef\"}").into_bytes()),
            ("base64 inside, two on", BASE64.encode(b"{\"pay\":\"CANARY-0123456789abcdef\"}").into_bytes()),
        ] {
            let sub = dir.path().join(name);
            fs::create_dir(&sub).unwrap();
            fs::write(sub.join("f"), text).unwrap();
            let found = search_path(&canary, &sub);
            assert_eq!(found.len(), 1, "{name}: {found:?}");
            assert!(found[0].starts_with("payload in"), "{found:?}");
        }
        assert_eq!(search(&canary, "x", b"CANARY-0123456789abcde"), [""; 0]);
        assert_eq!(search_path(&canary, &dir.path().join("absent")), [""; 0]);
    }
}
