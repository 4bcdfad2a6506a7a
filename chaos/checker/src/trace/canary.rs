//! The search for what must not lie around: payloads, attributes, keys, secrets, tokens and payload hashes.

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
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

/// Looks for many canaries at once in much: whole file systems.
#[derive(Debug)]
pub struct Scanner {
    forms: Vec<(&'static str, Vec<u8>)>,
    /// Which first two bytes any form has.
    begins: Vec<bool>,
    longest: usize,
}

/// Read in one piece, bytes.
const PIECE: usize = 1 << 20;

impl Scanner {
    /// A scanner for these.
    #[must_use]
    pub fn new(canaries: &[Canary]) -> Scanner {
        let forms: Vec<(&'static str, Vec<u8>)> = canaries
            .iter()
            .flat_map(|canary| canary.forms.iter().map(|form| (canary.name, form.clone())))
            .filter(|(_, form)| form.len() >= 2)
            .collect();
        let mut begins = vec![false; 1 << 16];
        for (_, form) in &forms {
            begins[first_two(form)] = true;
        }
        let longest = forms.iter().map(|(_, form)| form.len()).max().unwrap_or(1);
        Scanner { forms, begins, longest }
    }

    /// The names of what is in `bytes`.
    pub fn search(&self, bytes: &[u8], found: &mut BTreeSet<&'static str>) {
        for at in 0..bytes.len().saturating_sub(1) {
            if self.begins[first_two(&bytes[at..])] {
                let here = self.forms.iter().filter(|(_, form)| bytes[at..].starts_with(form));
                found.extend(here.map(|(name, _)| *name));
            }
        }
    }

    /// The names of what can be read from `file`.
    ///
    /// # Errors
    /// Reading it.
    pub fn read(&self, mut file: impl Read) -> io::Result<BTreeSet<&'static str>> {
        let (mut found, mut bytes, mut kept) = (BTreeSet::new(), vec![0; PIECE + self.longest], 0);
        loop {
            let read = match file.read(&mut bytes[kept..]) {
                Ok(0) => return Ok(found),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = kept + read;
            self.search(&bytes[..end], &mut found);
            // what begins here may go on in the next piece
            let from = end.saturating_sub(self.longest - 1);
            bytes.copy_within(from..end, 0);
            kept = end - from;
        }
    }
}

fn first_two(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
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

    #[test]
    fn a_scanner_finds_what_lies_across_two_reads() {
        /// Gives a few bytes at a time.
        struct Drip<'a>(&'a [u8], usize);
        impl Read for Drip<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let size = self.1.min(self.0.len()).min(into.len());
                into[..size].copy_from_slice(&self.0[..size]);
                self.0 = &self.0[size..];
                Ok(size)
            }
        }
        let scanner = Scanner::new(&[
            Canary::new("payload", "CANARY-0123456789abcdef"),
            Canary::new("key", "CANARY-fedcba9876543210"),
        ]);
        let text = format!("{}CANARY-0123456789abcdef{}", "C".repeat(100), "CA".repeat(50));
        let coded = BASE64.encode(b"{\"p\":\"CANARY-fedcba9876543210\"}");
        for step in [1, 2, 7, 22, 23, 24, 1_000] {
            assert_eq!(scanner.read(Drip(text.as_bytes(), step)).unwrap(), ["payload"].into(), "{step}");
            assert_eq!(scanner.read(Drip(coded.as_bytes(), step)).unwrap(), ["key"].into(), "{step}");
            assert_eq!(scanner.read(Drip(&text.as_bytes()[..120], step)).unwrap(), [].into(), "{step}");
        }
    }
}
