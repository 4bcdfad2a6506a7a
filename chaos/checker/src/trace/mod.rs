//! What strace saw of a node: read here, judged in [`amnesia`] and [`sync`].

pub mod amnesia;
pub mod canary;
pub mod drive;
pub mod sync;

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::BufRead;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// One system call, begun and, as far as the trace shows, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syscall {
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// Its arguments as strace writes them, without the parentheses.
    pub args: String,
    /// What it gave; `None` for an error or if its end was not seen.
    pub result: Option<i64>,
    /// The line on which it began: a clock that orders calls.
    pub began: usize,
    /// The line on which it ended.
    pub ended: usize,
}

impl Syscall {
    /// The argument number `n`, counted from 0, split at top-level commas.
    #[must_use]
    pub fn arg(&self, n: usize) -> Option<&str> {
        let (mut depth, mut quoted, mut escaped) = (0i32, false, false);
        let mut start = 0;
        let mut found = 0;
        for (at, c) in self.args.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                '(' | '[' | '{' if !quoted => depth += 1,
                ')' | ']' | '}' if !quoted => depth -= 1,
                ',' if !quoted && depth == 0 => {
                    if found == n {
                        return self.args.get(start..at).map(str::trim);
                    }
                    found += 1;
                    start = at + 1;
                }
                _ => {}
            }
        }
        (found == n).then(|| self.args.get(start..).map(str::trim)).flatten()
    }

    /// The first string among the arguments, as strace escapes it.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        let from = self.args.find('"')? + 1;
        let rest = self.args.get(from..)?;
        let mut escaped = false;
        let end = rest.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        rest.get(..end)
    }
}

/// Reads `strace -f -o` output; calls are in the order in which they began. Lines that are no calls (signals,
/// exits) are left out.
///
/// # Errors
/// I/O, and a trace without any call in it: strace itself failed.
pub fn read(from: impl BufRead) -> Result<Vec<Syscall>> {
    let mut calls: Vec<Syscall> = Vec::new();
    let mut unfinished: HashMap<u32, usize> = HashMap::new();
    for (number, line) in from.split(b'\n').enumerate() {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let Some((tid, rest)) = line.trim_start().split_once(char::is_whitespace) else { continue };
        let Ok(tid) = tid.parse::<u32>() else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let open = unfinished.remove(&tid).and_then(|at| calls.get_mut(at));
            if let (Some(call), Some((_, tail))) = (open, resumed.split_once("resumed>")) {
                let (args, result) = split_result(tail);
                call.args.push_str(args);
                (call.result, call.ended) = (result, number);
            }
            continue;
        }
        let Some((name, tail)) = rest.split_once('(') else { continue };
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        let (name, began, ended) = (name.to_owned(), number, number);
        let call = if let Some(args) = tail.strip_suffix("<unfinished ...>") {
            unfinished.insert(tid, calls.len());
            Syscall { tid, name, args: args.trim_end().to_owned(), result: None, began, ended: usize::MAX }
        } else {
            let (args, result) = split_result(tail);
            Syscall { tid, name, args: args.to_owned(), result, began, ended }
        };
        calls.push(call);
    }
    anyhow::ensure!(!calls.is_empty(), "the trace holds no system call");
    Ok(calls)
}

/// Splits `args) = result …`.
fn split_result(tail: &str) -> (&str, Option<i64>) {
    let Some((args, result)) = tail.rsplit_once(" = ") else { return (tail, None) };
    let number = result.split_whitespace().next().unwrap_or_default();
    let value = match number.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => number.parse().ok(),
    };
    (args.trim_end().trim_end_matches(')'), value.filter(|&value| value >= 0))
}

/// A command that runs `traced` under strace, following threads and children, writing `calls` (strace's
/// `-e trace=` list) to `out` with strings cut at `strings` bytes.
#[must_use]
pub fn strace(traced: &Command, calls: &str, strings: u32, out: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "signal=none", "-s", &strings.to_string(), "-e"]);
    command.arg(format!("trace={calls}")).arg("-o").arg(out).arg("--").arg(traced.get_program());
    command.args(traced.get_args());
    for (name, value) in traced.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(dir) = traced.get_current_dir() {
        command.current_dir(dir);
    }
    command
}

/// The process that `strace`, itself process `tracer`, runs.
///
/// # Errors
/// If there is none after a few seconds.
pub fn traced_pid(tracer: u32, program: &OsStr) -> Result<i32> {
    let children = format!("/proc/{tracer}/task/{tracer}/children");
    let name =
        Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let find = || {
        let text = std::fs::read_to_string(&children).ok()?;
        text.split_whitespace().find_map(|pid| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            // the kernel keeps 15 bytes of a name
            (name.starts_with(comm.trim_end()) && !comm.starts_with("strace")).then(|| pid.parse().ok())?
        })
    };
    crate::clock::poll(Duration::from_secs(10), Duration::from_millis(10), find)
        .with_context(|| format!("strace runs no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
100 execve(\"/bin/node\", [\"node\", \"--config\", \"a,b(c\"], 0x7ffd /* 9 vars */) = 0
100 openat(AT_FDCWD, \"/etc/ld.so.cache\", O_RDONLY|O_CLOEXEC) = 3
101 openat(AT_FDCWD, \"/d/x \\\"q\\\", y\", O_RDWR|O_CREAT, 0644 <unfinished ...>
100 mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, 3, 0) = 0x7f1234
101 <... openat resumed>) = 9
100 openat(AT_FDCWD, \"/none\", O_RDONLY) = -1 ENOENT (No such file or directory)
101 exit_group(0 <unfinished ...>
100 +++ exited with 0 +++
";

    #[test]
    fn reads_whole_and_interrupted_calls() {
        let calls = read(SAMPLE.as_bytes()).unwrap();
        let names: Vec<_> = calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, ["execve", "openat", "openat", "mmap", "openat", "exit_group"]);
        let interrupted = &calls[2];
        assert_eq!(
            (interrupted.tid, interrupted.result, interrupted.began, interrupted.ended),
            (101, Some(9), 2, 4)
        );
        assert_eq!(interrupted.arg(2), Some("O_RDWR|O_CREAT"));
        assert_eq!(interrupted.text(), Some("/d/x \\\"q\\\", y"));
        assert_eq!(calls[0].arg(2), Some("0x7ffd /* 9 vars */"));
        assert_eq!(calls[3].result, Some(0x7f1234));
        assert_eq!(calls[4].result, None);
        assert_eq!(calls[4].arg(9), None);
        assert!(read(&b"strace: exec: No such file\n"[..]).is_err());
    }
}
