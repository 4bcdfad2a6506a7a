//! SPEC §4.11 as a trace shows it: a node with amnesia on opens nothing for writing but sockets, creates,
//! renames and removes no file, maps none shared-writable and starts no child.

use super::Syscall;
use std::fmt;
use std::path::Path;

/// The calls that the judgement needs, as strace's `-e trace=` takes them; `?` marks those that not every
/// architecture has.
pub const CALLS: &str = "?open,openat,?openat2,?creat,?mkdir,mkdirat,?mknod,mknodat,?rename,renameat,\
    renameat2,?unlink,unlinkat,?rmdir,?link,linkat,?symlink,symlinkat,truncate,ftruncate,fallocate,\
    ?memfd_create,?memfd_secret,mmap,?shmget,execve,?execveat,?fork,?vfork,clone,?clone3,?chmod,fchmod,\
    fchmodat,?chown,fchown,fchownat,setxattr,fsetxattr,?utime,?utimes,utimensat,?io_uring_setup,bind,mount,\
    fsync,fdatasync,sync_file_range,?copy_file_range,?sendfile,?pwrite64,?pwritev,?pwritev2";

/// Something that amnesia forbids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    /// What kind, in a word or two.
    pub kind: &'static str,
    /// The call.
    pub call: String,
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.call)
    }
}

/// Everything in a trace that amnesia forbids. Tries that failed count as well: on another machine they would
/// not. The first successful execve is the start of the node itself.
#[must_use]
pub fn exposures(calls: &[Syscall]) -> Vec<Exposure> {
    let mut started = false;
    let mut found = Vec::new();
    for call in calls {
        if call.name == "execve" && !started {
            // a failed try is strace looking for the program
            started = call.result == Some(0);
            continue;
        }
        if let Some(kind) = judge(call) {
            let result = call.result.map_or_else(|| "error".to_owned(), |result| result.to_string());
            found.push(Exposure { kind, call: format!("{}({}) = {result}", call.name, call.args) });
        }
    }
    found
}

fn judge(call: &Syscall) -> Option<&'static str> {
    let any =
        |flags: &str, of: &[&str]| flags.split(['|', ' ', '{', ',', '=']).any(|flag| of.contains(&flag));
    let writable = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_TMPFILE"];
    match call.name.as_str() {
        "open" => any(call.arg(1)?, &writable).then_some("opened for writing"),
        "openat" | "openat2" => any(call.arg(2)?, &writable).then_some("opened for writing"),
        "creat" => Some("opened for writing"),
        "mkdir" | "mkdirat" => Some("directory made"),
        "mknod" | "mknodat" | "link" | "linkat" | "symlink" | "symlinkat" => Some("file made"),
        "bind" => {
            let path = call.text().filter(|_| call.args.contains("AF_UNIX"))?;
            // an abstract name is written @"name"
            let abstract_name = call.args.contains("sun_path=@");
            (!abstract_name && !path.is_empty()).then_some("file made")
        }
        "rename" | "renameat" | "renameat2" => Some("file renamed"),
        "unlink" | "unlinkat" | "rmdir" => Some("file removed"),
        "truncate" | "ftruncate" | "fallocate" => Some("file resized"),
        "memfd_create" | "memfd_secret" | "shmget" => Some("memory file made"),
        "mmap" => {
            let shared = any(call.arg(3)?, &["MAP_SHARED", "MAP_SHARED_VALIDATE"]);
            let of_file = !any(call.arg(3)?, &["MAP_ANONYMOUS"]);
            (shared && of_file && any(call.arg(2)?, &["PROT_WRITE"])).then_some("file mapped shared-writable")
        }
        "execve" | "execveat" | "fork" | "vfork" => Some("child started"),
        "clone" | "clone3" => (!call.args.contains("CLONE_THREAD")).then_some("child started"),
        "chmod" | "fchmod" | "fchmodat" | "chown" | "fchown" | "fchownat" | "setxattr" | "fsetxattr"
        | "utime" | "utimes" | "utimensat" => Some("file changed"),
        "fsync" | "fdatasync" | "sync_file_range" | "copy_file_range" | "pwrite64" | "pwritev"
        | "pwritev2" => Some("file written"),
        "sendfile" => None, // from a file to a socket; a writable file would have been opened
        "io_uring_setup" => Some("io_uring, which hides what is opened"),
        "mount" => Some("mounted"),
        _ => None,
    }
}

/// What /proc shows of a running node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    /// Open descriptors that a file can be written through.
    pub writable_files: Vec<String>,
    /// `write_bytes` of /proc/PID/io; `None` if it can't be read (not dumpable, and we are not root).
    pub write_bytes: Option<u64>,
}

/// Looks at process `pid`.
#[must_use]
pub fn inspect(pid: i32) -> Inspection {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok();
    let write_bytes =
        io.and_then(|io| io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.trim().parse().ok()));
    let mut writable_files = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let info =
            std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy()));
        let flags = match info {
            Ok(flags) => flags,
            // Closed since it was listed, as what the node reads about itself is. How it was opened is in the
            // trace.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(_) => String::new(),
        };
        let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("02").trim();
        let writable = u32::from_str_radix(flags, 8).unwrap_or(2) & 3 != 0;
        if writable && target.starts_with(Path::new("/")) {
            writable_files.push(target.display().to_string());
        }
    }
    writable_files.sort();
    Inspection { writable_files, write_bytes }
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    fn kinds(trace: &str) -> Vec<&'static str> {
        let lines: String = trace.lines().map(|line| format!("7 {line}\n")).collect();
        exposures(&read(lines.as_bytes()).unwrap()).into_iter().map(|one| one.kind).collect()
    }

    const CLEAN: &str = r#"execve("/no/node", ["node"], 0x0 /* 3 vars */) = -1 ENOENT (No such file)
execve("/bin/node", ["node"], 0x0 /* 3 vars */) = 0
openat(AT_FDCWD, "/O_WRONLY", O_RDONLY|O_CLOEXEC) = 3
openat2(AT_FDCWD, "x", {flags=O_RDONLY|O_CLOEXEC, resolve=0}, 24) = 4
mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f00
mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0) = 0x7f00
mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE, 3, 0) = 0x7f00
mmap(NULL, 4096, PROT_READ, MAP_SHARED, 3, 0) = 0x7f00
clone3({flags=CLONE_VM|CLONE_FS|CLONE_THREAD, child_tid=0x7f}, 88) = 8
bind(5, {sa_family=AF_UNIX, sun_path=@"ron-node.0.9410"}, 18) = 0
bind(6, {sa_family=AF_INET, sin_port=htons(0), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
"#;

    #[test]
    fn nothing_is_found_in_a_clean_trace() {
        assert_eq!(kinds(CLEAN), [""; 0]);
    }

    #[test]
    fn each_forbidden_call_is_found_also_when_it_failed() {
        for (line, kind) in [
            (r#"openat(AT_FDCWD, "f", O_WRONLY|O_CLOEXEC) = 3"#, "opened for writing"),
            (r#"openat(AT_FDCWD, "f", O_RDWR) = -1 EROFS (Read-only file system)"#, "opened for writing"),
            (r#"openat(AT_FDCWD, "f", O_RDONLY|O_CREAT, 0644) = 3"#, "opened for writing"),
            (r#"openat2(3, "f", {flags=O_RDWR|O_CLOEXEC, resolve=0}, 24) = 4"#, "opened for writing"),
            (r#"openat(AT_FDCWD, "/tmp", O_WRONLY|O_TMPFILE, 0600) = 4"#, "opened for writing"),
            (r#"mkdir("data", 0700) = -1 EEXIST (File exists)"#, "directory made"),
            (r#"renameat2(AT_FDCWD, "a", AT_FDCWD, "b", 0) = 0"#, "file renamed"),
            (r#"unlink("a") = 0"#, "file removed"),
            (r#"ftruncate(4, 4096) = 0"#, "file resized"),
            (r#"memfd_create("x", MFD_CLOEXEC) = 4"#, "memory file made"),
            (
                r#"mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 4, 0) = 0x7f"#,
                "file mapped shared-writable",
            ),
            (r#"execve("/bin/sh", ["sh"], 0x0 /* 3 vars */) = 0"#, "child started"),
            (r#"clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD) = 9"#, "child started"),
            (r#"vfork() = 9"#, "child started"),
            (r#"bind(5, {sa_family=AF_UNIX, sun_path="/d/ronctl.sock"}, 18) = 0"#, "file made"),
            (r#"pwrite64(4, "redb", 4, 0) = 4"#, "file written"),
            (r#"fdatasync(4) = 0"#, "file written"),
            (r#"io_uring_setup(8, {flags=0}) = 4"#, "io_uring, which hides what is opened"),
        ] {
            assert_eq!(kinds(&format!("{CLEAN}{line}\n")), [kind], "{line}");
        }
    }

    #[test]
    fn a_process_with_a_writable_file_is_seen() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let own = inspect(i32::try_from(std::process::id()).unwrap());
        assert!(own.writable_files.contains(&file.path().display().to_string()), "{own:?}");
    }
}
