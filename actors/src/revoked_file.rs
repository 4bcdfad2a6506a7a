//! The file of the revocations, beside the keyring. Its form is [`ron_core::capability::Revoked`]'s; here it is read
//! at boot and replaced as a whole. A damaged one is never taken for a shorter list: the node does not start with it.

use crate::durable_file;
use ron_core::capability::Revoked;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes; the longest list is smaller.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why the revocations are not known. Names the file and what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum RevokedError {
    /// The file cannot be read.
    #[error("revocations {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error(
        "revocations {path}: damaged, {what}; restore the file, or remove it together with the keyring, which \
         voids every capability"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Which line, and how.
        what: String,
    },
}

/// Reads the revocations; there are none without a file.
///
/// # Errors
/// See [`RevokedError`].
pub fn load(path: &Path) -> Result<Revoked, RevokedError> {
    let io_error = |source| RevokedError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Revoked::default()),
        opened => opened.map_err(io_error)?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(io_error)?;
    let damaged = |what: String| RevokedError::Damaged { path: path.to_owned(), what };
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged("not text".to_owned()))?;
    Revoked::parse(text).map_err(damaged)
}

/// Puts the revocations on the device, directory included.
///
/// # Errors
/// The system's.
pub fn save(path: &Path, revoked: &Revoked) -> io::Result<()> {
    durable_file::replace(path, revoked.render().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_core::capability::{CapId, Revocation};
    use ron_core::time::Millis;

    #[test]
    fn is_read_as_it_was_written_and_never_in_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revoked");
        assert!(load(&path).unwrap().is_empty());
        let mut revoked = Revoked::default();
        revoked.add(&Revocation::Cap(CapId::of(&[7; 16])), Millis(5)).unwrap();
        save(&path, &revoked).unwrap();
        assert_eq!(load(&path).unwrap(), revoked);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()) && error.contains("damaged"), "{error}");
        }
        std::fs::write(&path, b"\xff").unwrap();
        assert!(load(&path).is_err());
        assert!(matches!(load(dir.path()).unwrap_err(), RevokedError::Io { .. }));
    }
}
