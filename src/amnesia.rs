//! What a node finds when it inspects its own process for what amnesia promises (SPEC §4.11): `ronctl amnesia verify`.
//! Looking and judging are apart, so that each judgement has its tests.

use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was found of one promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It holds.
    Ok,
    /// It does not.
    Exposed,
    /// It cannot be seen from here.
    Unknown,
}

/// One promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Its name.
    pub item: &'static str,
    /// What was found.
    pub state: Verdict,
    /// The finding in words, with the way out if there is one.
    pub detail: String,
}

fn item(item: &'static str, state: Verdict, detail: impl Into<String>) -> Item {
    Item { item, state, detail: detail.into() }
}

/// A descriptor, as `/proc/self/fd` and `fdinfo` show it.
#[derive(Debug, Clone)]
struct Descriptor {
    number: u32,
    target: String,
    /// Open flags; `None` = not readable.
    flags: Option<u32>,
}

/// Inspects this process. Blocks on `/proc` and on `data_dir`.
#[must_use]
pub fn verify(amnesia: bool, data_dir: &Path, ours: &[&str]) -> Vec<Item> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let descriptors = descriptors();
    let log_is_a_file =
        descriptors.as_ref().is_some_and(|all| all.iter().any(|fd| fd.number <= 2 && fd.is_file()));
    vec![
        switched_on(amnesia),
        left_on_disk(data_dir, ours),
        open_files(descriptors.as_deref()),
        mappings(read("/proc/self/maps").as_deref()),
        children(children_of_tasks().as_deref()),
        core_dumps(getrlimit(Resource::Core).current, dumpable_behavior().ok()),
        swap(read("/proc/self/status").as_deref(), read("/proc/swaps").as_deref()),
        written(read("/proc/self/io").as_deref(), log_is_a_file),
    ]
}

impl Descriptor {
    fn is_file(&self) -> bool {
        self.target.starts_with('/') && !self.target.starts_with("/dev/")
            || self.target.starts_with("/memfd:")
    }

    fn is_writable(&self) -> bool {
        self.flags.is_none_or(|flags| flags & 3 != 0)
    }
}

fn switched_on(amnesia: bool) -> Item {
    match amnesia {
        true => item("amnesia", Verdict::Ok, "on: messages live in memory alone"),
        false => {
            item("amnesia", Verdict::Exposed, "off: messages are kept on disk (node.amnesia, AMNESIA=on)")
        }
    }
}

fn left_on_disk(dir: &Path, ours: &[&str]) -> Item {
    match ours.iter().find(|name| dir.join(name).exists()) {
        Some(name) => {
            item("data-dir", Verdict::Exposed, format!("{} holds {name} of a durable node", dir.display()))
        }
        None => item("data-dir", Verdict::Ok, "none of a node's files are there"),
    }
}

/// Beyond stdin, stdout and stderr, which it was given.
fn open_files(descriptors: Option<&[Descriptor]>) -> Item {
    let Some(all) = descriptors else {
        return item("open-files", Verdict::Unknown, "/proc/self/fd cannot be read");
    };
    let open: Vec<&str> = all
        .iter()
        .filter(|fd| fd.number > 2 && fd.is_file() && fd.is_writable())
        .map(|fd| fd.target.as_str())
        .collect();
    match open.is_empty() {
        true => item(
            "open-files",
            Verdict::Ok,
            format!("{} descriptors, none a file open for writing", all.len()),
        ),
        false => item("open-files", Verdict::Exposed, format!("open for writing: {}", open.join(", "))),
    }
}

fn mappings(maps: Option<&str>) -> Item {
    let Some(maps) = maps.filter(|maps| !maps.is_empty()) else {
        return item("mappings", Verdict::Unknown, "/proc/self/maps cannot be read");
    };
    let shared = maps.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (permissions, path) = (words.nth(1)?, words.nth(3)?);
        let writable = permissions.contains('w') && permissions.contains('s');
        (writable && path.starts_with('/') && !path.starts_with("/dev/zero")).then_some(path)
    });
    let shared: Vec<&str> = shared.collect();
    match shared.is_empty() {
        true => item("mappings", Verdict::Ok, "no file is mapped shared and writable"),
        false => {
            item("mappings", Verdict::Exposed, format!("mapped shared and writable: {}", shared.join(", ")))
        }
    }
}

fn children(children: Option<&str>) -> Item {
    match children.map(str::trim) {
        None => item("children", Verdict::Unknown, "/proc/self/task/*/children cannot be read"),
        Some("") => item("children", Verdict::Ok, "none"),
        Some(pids) => item("children", Verdict::Exposed, format!("processes started by the node: {pids}")),
    }
}

fn core_dumps(limit: Option<u64>, dumpable: Option<DumpableBehavior>) -> Item {
    match (limit, dumpable) {
        (Some(0), Some(DumpableBehavior::NotDumpable)) => {
            item("core-dumps", Verdict::Ok, "RLIMIT_CORE 0, not dumpable")
        }
        (Some(0), None) => item("core-dumps", Verdict::Unknown, "PR_GET_DUMPABLE is not answered"),
        (Some(0), Some(_)) => item("core-dumps", Verdict::Exposed, "the process is dumpable"),
        _ => item("core-dumps", Verdict::Exposed, "RLIMIT_CORE allows a core file"),
    }
}

/// `VmLck` counts what is locked once it is touched; `VmSwap` what is in swap now.
fn swap(status: Option<&str>, swaps: Option<&str>) -> Item {
    let kib = |name: &str| {
        let line = status?.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    if swaps.is_some_and(|swaps| swaps.lines().count() <= 1) {
        return item("swap", Verdict::Ok, "this machine has none");
    }
    match (kib("VmSwap"), kib("VmLck")) {
        (Some(0), Some(locked)) if locked > 0 => item("swap", Verdict::Ok, "memory is locked"),
        (Some(0), Some(_)) => {
            let detail =
                "memory is not locked and this machine has swap: raise LimitMEMLOCK, or `swapoff -a`";
            item("swap", Verdict::Exposed, detail)
        }
        (Some(kib), _) => item("swap", Verdict::Exposed, format!("{kib} KiB of the node are in swap")),
        (None, _) => item("swap", Verdict::Unknown, "/proc/self/status does not say"),
    }
}

fn written(io: Option<&str>, log_is_a_file: bool) -> Item {
    let bytes = io.and_then(|io| io.lines().find_map(|line| line.strip_prefix("write_bytes:")));
    match (bytes.and_then(|bytes| bytes.trim().parse::<u64>().ok()), log_is_a_file) {
        (None, _) => {
            item("written", Verdict::Unknown, "/proc/self/io cannot be read: ask as the node's user or root")
        }
        (Some(0), _) => item("written", Verdict::Ok, "not a byte to any disk since the start"),
        (Some(bytes), true) => {
            let detail = format!("{bytes} bytes; stdout or stderr is a file, so they may be the log");
            item("written", Verdict::Unknown, detail)
        }
        (Some(bytes), false) => item("written", Verdict::Exposed, format!("{bytes} bytes went to a disk")),
    }
}

fn descriptors() -> Option<Vec<Descriptor>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").ok()?.flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that is closed meanwhile, such as this listing's own, is none.
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
        if info.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            continue;
        }
        let flags = info.ok().and_then(|info| flags_of(&info));
        all.push(Descriptor { number, target: target.display().to_string(), flags });
    }
    Some(all)
}

fn flags_of(info: &str) -> Option<u32> {
    let octal = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    u32::from_str_radix(octal.trim(), 8).ok()
}

/// The children of every thread; `None` if one cannot be read.
fn children_of_tasks() -> Option<String> {
    let mut all = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").ok()?.flatten() {
        let path: PathBuf = task.path().join("children");
        match std::fs::read_to_string(&path) {
            Ok(children) => all.insert(path, children),
            // The kernel keeps no such list, or the thread has ended.
            Err(_) if task.path().exists() => return None,
            Err(_) => continue,
        };
    }
    Some(all.into_values().collect::<Vec<_>>().concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd(number: u32, target: &str, flags: Option<u32>) -> Descriptor {
        Descriptor { number, target: target.to_owned(), flags }
    }

    #[test]
    fn only_files_open_for_writing_beyond_stdio_are_exposed() {
        let given = [
            fd(1, "/var/log/node", Some(1)),
            fd(5, "socket:[77]", Some(2)),
            fd(6, "anon_inode:[eventpoll]", Some(2)),
            fd(7, "/etc/ron/policy.toml", Some(0)),
            fd(8, "/dev/null", Some(2)),
        ];
        assert_eq!(open_files(Some(&given)).state, Verdict::Ok);
        for bad in [fd(9, "/tmp/x", Some(0o100_001)), fd(9, "/memfd:x", Some(2)), fd(9, "/tmp/y", None)] {
            let mut all = given.to_vec();
            all.push(bad);
            assert_eq!(open_files(Some(&all)).state, Verdict::Exposed);
        }
        assert_eq!(open_files(None).state, Verdict::Unknown);
        assert_eq!(flags_of("pos:\t0\nflags:\t0100002\nmnt_id:\t9\n"), Some(0o100_002));
    }

    #[test]
    fn a_file_mapped_shared_and_writable_is_exposed() {
        let fine = "55d0-55d1 r--p 00000000 fe:01 123 /usr/bin/ron-node\n\
            7f00-7f01 rw-s 00000000 00:01 9 /dev/zero (deleted)\n7f02-7f03 rw-p 00000000 00:00 0\n";
        assert_eq!(mappings(Some(fine)).state, Verdict::Ok);
        let bad = format!("{fine}7f04-7f05 rw-s 00000000 fe:01 124 /data/store.redb\n");
        assert!(mappings(Some(&bad)).detail.contains("/data/store.redb"));
        assert_eq!((mappings(Some(&bad)).state, mappings(None).state), (Verdict::Exposed, Verdict::Unknown));
    }

    #[test]
    fn children_core_dumps_and_written_bytes() {
        assert_eq!(children(Some(" \n")).state, Verdict::Ok);
        assert_eq!(children(Some("77 ")).state, Verdict::Exposed);
        assert_eq!(children(None).state, Verdict::Unknown);
        let sealed = Some(DumpableBehavior::NotDumpable);
        assert_eq!(core_dumps(Some(0), sealed).state, Verdict::Ok);
        assert_eq!(core_dumps(None, sealed).state, Verdict::Exposed, "no limit");
        assert_eq!(core_dumps(Some(0), Some(DumpableBehavior::Dumpable)).state, Verdict::Exposed);
        assert_eq!(core_dumps(Some(0), None).state, Verdict::Unknown);
        assert_eq!(written(Some("rchar: 5\nwrite_bytes: 0\n"), true).state, Verdict::Ok);
        assert_eq!(written(Some("write_bytes: 4096\n"), true).state, Verdict::Unknown);
        assert_eq!(written(Some("write_bytes: 4096\n"), false).state, Verdict::Exposed);
        assert_eq!(written(None, false).state, Verdict::Unknown);
    }

    #[test]
    fn swap_is_no_danger_where_there_is_none_or_memory_is_locked() {
        let (none, some) = ("Filename Type Size\n", "Filename Type Size\n/swapfile file 1024\n");
        let status = |swapped: u64, locked: u64| format!("VmLck:\t{locked} kB\nVmSwap:\t{swapped} kB\n");
        assert_eq!(swap(None, Some(none)).state, Verdict::Ok);
        assert_eq!(swap(Some(&status(0, 9_000)), Some(some)).state, Verdict::Ok);
        assert_eq!(swap(Some(&status(0, 0)), Some(some)).state, Verdict::Exposed);
        assert_eq!(swap(Some(&status(8, 9_000)), Some(some)).state, Verdict::Exposed);
        assert_eq!(swap(None, Some(some)).state, Verdict::Unknown);
    }

    #[test]
    fn this_process_can_look_at_itself() {
        let dir = tempfile::tempdir().unwrap();
        let found = verify(true, dir.path(), &["store.redb"]);
        let of = |name| found.iter().find(|found| found.item == name).unwrap().state;
        assert_eq!((of("amnesia"), of("data-dir")), (Verdict::Ok, Verdict::Ok));
        assert_ne!(of("open-files"), Verdict::Unknown);
        let held = std::fs::File::create(dir.path().join("store.redb")).unwrap();
        let found = verify(false, dir.path(), &["store.redb"]);
        let of = |name| found.iter().find(|found| found.item == name).unwrap().state;
        assert_eq!([of("amnesia"), of("data-dir"), of("open-files")], [Verdict::Exposed; 3]);
        drop(held);
    }
}
