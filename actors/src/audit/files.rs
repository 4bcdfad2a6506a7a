//! The files of the log: `audit-<number of its first record>.jsonl`, 0600 in a 0700 directory, and `key` beside them.
//! They are read by a node at its start and by `ronctl audit`, with or without a node.

use super::sink::Open;
use crate::durable_file;
use crate::entropy::{Entropy, NoEntropy};
use data_encoding::HEXLOWER;
use ron_core::audit::{Fault, Head, Place, Summary, Verifier, What};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where the log is in a data directory.
pub const DIR: &str = "audit";
const KEY_FILE: &str = "key";
/// Faults that are named; further ones are counted.
const FAULTS_MAX: usize = 100;
/// A line longer than this is not read as one, bytes.
const LINE_READ_MAX: u64 = 1 << 20;

/// Why the log cannot be opened. Names the file.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file cannot be read or written.
    #[error("audit log {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The key of the bodies' names is none.
    #[error(
        "audit log {path}: not 64 hex digits; restore it, or remove it: bodies get other names from then on"
    )]
    Key {
        /// Its file.
        path: PathBuf,
    },
    /// Somebody else writes it.
    #[error("audit log {path}: a node or a restore is writing it: stop it first")]
    InUse {
        /// The file that is locked.
        path: PathBuf,
    },
    /// No random bytes for a new key.
    #[error(transparent)]
    NoEntropy(#[from] NoEntropy),
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> AuditError + '_ {
    move |source| AuditError::Io { path: path.to_owned(), source }
}

/// A file of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// Where it is.
    pub path: PathBuf,
    /// The number of its first record.
    pub first: u64,
}

/// The name of the file whose first record has this number.
#[must_use]
pub fn file_name(first: u64) -> String {
    format!("audit-{first:020}.jsonl")
}

/// The number of the first record of a file of this name; `None` = it is no file of a log.
#[must_use]
pub fn first_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let first = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok()?;
    (file_name(first) == name).then_some(first)
}

/// The files in a directory, oldest first.
///
/// # Errors
/// The system's.
pub fn list(dir: &Path) -> io::Result<Vec<LogFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if let Some(first) = first_of(&path) {
            files.push(LogFile { path, first });
        }
    }
    files.sort_by_key(|file| file.first);
    Ok(files)
}

/// A new key for the names of bodies.
///
/// # Errors
/// No random bytes.
pub(super) fn new_key(entropy: &dyn Entropy) -> Result<[u8; 32], NoEntropy> {
    let mut key = [0; 32];
    entropy.fill(&mut key)?;
    Ok(key)
}

/// The key in a log's directory, made if there is none; makes the directory, too. As long as the file is held nobody
/// else gets it: a chain has one writer.
///
/// # Errors
/// See [`AuditError`].
pub(super) fn key(dir: &Path, entropy: &dyn Entropy) -> Result<([u8; 32], File), AuditError> {
    make_dir(dir).map_err(io_at(dir))?;
    let path = dir.join(KEY_FILE);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!("{}\n", HEXLOWER.encode(&new_key(entropy)?));
            durable_file::create(&path, text.as_bytes()).map_err(io_at(&path))?;
            File::open(&path)
        }
        opened => opened,
    };
    let file = file.map_err(io_at(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(AuditError::InUse { path }),
        Err(TryLockError::Error(error)) => return Err(io_at(&path)(error)),
    }
    let mut text = Vec::new();
    (&file).take(256).read_to_end(&mut text).map_err(io_at(&path))?;
    match HEXLOWER.decode(text.trim_ascii_end()).ok().and_then(|key| key.try_into().ok()) {
        Some(key) => Ok((key, file)),
        None => Err(AuditError::Key { path }),
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if fs::metadata(dir)?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    // its name in the data directory must be there when the first act is answered
    dir.parent()
        .filter(|above| !above.as_os_str().is_empty())
        .map_or(Ok(()), |above| File::open(above)?.sync_all())
}

/// Where a log goes on.
#[derive(Debug)]
pub(super) struct Resumed {
    /// The end of its chain.
    pub(super) head: Head,
    /// The file that has room for more.
    pub(super) open: Option<Open>,
    /// Bytes of an unfinished last line that were cut off.
    pub(super) torn_bytes: u64,
    /// The last file, if it is damaged, by the name under which it was put aside, and how.
    pub(super) aside: Option<(PathBuf, Fault)>,
}

/// Finds the end of the chain, cuts off an unfinished line, and puts a last file that is damaged in another way aside.
///
/// # Errors
/// See [`AuditError`].
pub(super) fn resume(dir: &Path) -> Result<Resumed, AuditError> {
    let files = list(dir).map_err(io_at(dir))?;
    let Some((last, before)) = files.split_last() else {
        return Ok(Resumed { head: Head::EMPTY, open: None, torn_bytes: 0, aside: None });
    };
    let path = &last.path;
    let mut reading = Reading::new(None);
    let whole = reading.file(path).map_err(io_at(path))?;
    let summary = reading.verifier.summary();
    let earlier = || -> Result<Head, AuditError> {
        let Some(file) = before.last() else { return Ok(Head::EMPTY) };
        let mut reading = Reading::new(None);
        reading.file(&file.path).map_err(io_at(&file.path))?;
        Ok(reading.verifier.summary().head)
    };
    let head = if summary.records > 0 { summary.head } else { earlier()? };
    if let Some(fault) = reading.faults.into_iter().find(|fault| fault.what != What::Torn) {
        let aside = put_aside(dir, path).map_err(io_at(path))?;
        return Ok(Resumed { head, open: None, torn_bytes: 0, aside: Some((aside, fault)) });
    }
    let file = OpenOptions::new().write(true).open(path).map_err(io_at(path))?;
    let torn_bytes = file.metadata().map_err(io_at(path))?.len().saturating_sub(whole);
    if torn_bytes > 0 {
        file.set_len(whole).and_then(|()| file.sync_all()).map_err(io_at(path))?;
    }
    let open = Open { file, path: path.clone(), synced: whole, new: true };
    Ok(Resumed { head, open: Some(open), torn_bytes, aside: None })
}

/// Gives a file a name that is no log's, and never one that is taken.
fn put_aside(dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for n in 1_u32.. {
        let aside = dir.join(format!("{name}.damaged-{n}"));
        // link, not rename: what was put aside before stays
        match fs::hard_link(path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => {
                fs::remove_file(path)?;
                File::open(dir)?.sync_all()?;
                return Ok(aside);
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// What reading a log came to.
#[derive(Debug)]
pub struct Report {
    /// What is wrong, in the order of the files; at most a hundred.
    pub faults: Vec<Fault>,
    /// How many more there are.
    pub more_faults: u64,
    /// What was read.
    pub summary: Summary,
}

/// Verifies files as one chain, in this order, up to `head` or beyond, if one is given. `growing` = a node writes
/// meanwhile: an unfinished line behind the head is no fault then. Blocks.
///
/// # Errors
/// A file cannot be read.
pub fn verify(files: &[PathBuf], head: Option<Head>, growing: bool) -> Result<Report, AuditError> {
    let mut reading = Reading::new(head);
    for path in files {
        reading.file(path).map_err(io_at(path))?;
    }
    let last = files.last().map_or_else(String::new, |path| path.display().to_string());
    let Reading { verifier, mut faults, mut more_faults, line } = reading;
    if growing && verifier.met_head() {
        faults.retain(|fault| fault.what != What::Torn);
    }
    if let Some(fault) = verifier.end(Place { file: &last, line }) {
        if faults.len() < FAULTS_MAX { faults.push(fault) } else { more_faults += 1 }
    }
    Ok(Report { faults, more_faults, summary: verifier.summary() })
}

/// Reads one log.
struct Reading {
    verifier: Verifier,
    faults: Vec<Fault>,
    more_faults: u64,
    /// The line of the file that was read last.
    line: u64,
}

impl Reading {
    fn new(head: Option<Head>) -> Reading {
        Reading { verifier: Verifier::new(head), faults: Vec::new(), more_faults: 0, line: 0 }
    }

    /// Reads a file; the bytes of its whole lines.
    fn file(&mut self, path: &Path) -> io::Result<u64> {
        if let Some(first) = first_of(path) {
            self.verifier.begins_with(first);
        }
        let shown = path.display().to_string();
        let mut whole = 0;
        self.line = 0;
        each_line(path, |line, ended| {
            self.line += 1;
            let at = Place { file: &shown, line: self.line };
            let fault = if ended {
                whole += line.len() as u64 + 1;
                self.verifier.line(at, line)
            } else {
                Some(Fault { file: shown.clone(), line: self.line, what: What::Torn })
            };
            match fault {
                Some(fault) if self.faults.len() < FAULTS_MAX => self.faults.push(fault),
                Some(_) => self.more_faults += 1,
                None => {}
            }
            Ok(())
        })?;
        Ok(whole)
    }
}

/// Calls `take` for each line of a file, without its end, and whether it has one. Blocks.
///
/// # Errors
/// The file's, and those of `take`.
pub fn each_line(path: &Path, mut take: impl FnMut(&[u8], bool) -> io::Result<()>) -> io::Result<()> {
    let mut from = BufReader::with_capacity(64 * 1024, File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if from.by_ref().take(LINE_READ_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let ended = line.ends_with(b"\n");
        if ended {
            line.pop();
        }
        // what goes on beyond the longest line is no line, and not the end of the file either
        take(&line, ended || line.len() as u64 == LINE_READ_MAX)?;
    }
}
