//! Small files that are replaced as a whole: after a crash there is the old text or the new one, never a part of
//! either. For what is not in the store: the keyring, the revocations.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Puts `text` in the place of `path`, open to its owner alone. It is on the device, directory included, when this
/// returns.
///
/// # Errors
/// The system's. The file is then as it was, or, if only the directory could not be synced, perhaps already new.
pub(crate) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let (dir, draft) = draft(path, text)?;
    fs::rename(&draft, path)?;
    File::open(dir)?.sync_all()
}

/// As [`replace`], but a file that is already there stays as it is.
///
/// # Errors
/// The system's.
pub(crate) fn create(path: &Path, text: &[u8]) -> io::Result<()> {
    let (dir, draft) = draft(path, text)?;
    // link, not rename: if another process was first, its file stays
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(dir)?.sync_all()
}

/// Writes the text beside `path` and syncs it; a crash half-way leaves nothing torn under the real name.
fn draft(path: &Path, text: &[u8]) -> io::Result<(PathBuf, PathBuf)> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let draft = path.with_extension("new");
    // always a new file: what is left of one whose sync failed must not be trusted
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(text)?;
    file.sync_all()?;
    Ok((dir.to_owned(), draft))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replaces_as_a_whole_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/file");
        create(&path, b"one").unwrap();
        create(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one", "create keeps what is there");
        // what a crash left of a draft is not in the way
        fs::write(path.with_extension("new"), b"torn").unwrap();
        replace(&path, b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("deep/file/under"), b"x").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"three");
    }
}
