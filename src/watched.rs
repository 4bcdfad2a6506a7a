//! Watches the directories of files that an operator may replace while the node runs, and says when one may be another.
//!
//! Directories, since an editor renames and a mount swaps a link: the file itself is soon one that nobody means. It
//! reads none of them, and a directory that cannot be watched costs the watching alone.

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How long after a change it is told: an editor makes several at once.
const SETTLES_WITHIN: Duration = Duration::from_millis(100);

/// Watches until it is dropped.
#[derive(Debug)]
pub struct FileWatch {
    _watcher: RecommendedWatcher,
    task: JoinHandle<()>,
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FileWatch {
    /// Calls `changed` after one of `files` may have changed. `None` if there are none, or they cannot be watched,
    /// which is logged with `what` they are.
    #[must_use]
    pub fn begin(
        what: &'static str,
        files: &[PathBuf],
        changed: impl Fn() + Send + 'static,
    ) -> Option<FileWatch> {
        let names: BTreeSet<OsString> =
            files.iter().filter_map(|file| file.file_name().map(OsString::from)).collect();
        let dirs: BTreeSet<&Path> = files.iter().filter_map(|file| dir_of(file)).collect();
        if dirs.is_empty() {
            return None;
        }
        let noticed = Arc::new(Notify::new());
        let told = {
            let noticed = noticed.clone();
            move |event: notify::Result<notify::Event>| match event {
                Ok(event) if !concerns(&event, &names) => {}
                // An error may hide a change.
                Ok(_) | Err(_) => noticed.notify_one(),
            }
        };
        let watched = notify::recommended_watcher(told).and_then(|mut watcher| {
            dirs.iter().try_for_each(|dir| watcher.watch(dir, RecursiveMode::NonRecursive))?;
            Ok(watcher)
        });
        let watcher = match watched {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!(%error, ?dirs, "{what}: not watched, reload it by SIGHUP");
                return None;
            }
        };
        let task = tokio::spawn(async move {
            loop {
                noticed.notified().await;
                tokio::time::sleep(SETTLES_WITHIN).await;
                changed();
            }
        });
        Some(FileWatch { _watcher: watcher, task })
    }
}

fn dir_of(file: &Path) -> Option<&Path> {
    let dir = file.parent()?;
    Some(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })
}

/// Whether an event in a watched directory can mean another file. Reading one makes events, too, and those do not.
fn concerns(event: &notify::Event, names: &BTreeSet<OsString>) -> bool {
    let changes = match event.kind {
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => true,
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Any | EventKind::Other | EventKind::Access(_) | EventKind::Modify(_) => false,
    };
    // A mounted config map is a link to `..data`, which is renamed.
    let ours = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|found| names.contains(found) || found.as_encoded_bytes().starts_with(b".."))
    };
    changes && (event.paths.is_empty() || event.paths.iter().any(ours))
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, RenameMode};

    #[test]
    fn only_what_can_change_a_file_counts() {
        let names = BTreeSet::from([OsString::from("policy.toml"), OsString::from("key.pem")]);
        let heeded = |kind, path: &str| {
            let event = notify::Event::new(kind).add_path(Path::new("/etc/ron").join(path));
            concerns(&event, &names)
        };
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert!(heeded(renamed, "policy.toml") && heeded(renamed, "key.pem") && heeded(renamed, "..data"));
        assert!(heeded(EventKind::Access(AccessKind::Close(AccessMode::Write)), "policy.toml"));
        assert!(heeded(EventKind::Create(CreateKind::File), "policy.toml"));
        assert!(!heeded(renamed, "other.toml") && !heeded(renamed, "policy.toml.swp"));
        assert!(!heeded(EventKind::Access(AccessKind::Open(AccessMode::Any)), "policy.toml"));
    }

    #[test]
    fn a_bare_name_is_in_the_working_directory() {
        assert_eq!(dir_of(Path::new("policy.toml")), Some(Path::new(".")));
        assert_eq!(dir_of(Path::new("/etc/ron/policy.toml")), Some(Path::new("/etc/ron")));
        assert_eq!(dir_of(Path::new("/")), None);
    }
}
