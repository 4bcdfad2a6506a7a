//! Answered means fsynced, as a trace shows it: before the first byte of every successful answer there is a
//! write to the store of its own, and a completed sync that began after the last such write had ended.
//! SIGKILL can't show this, since the page cache survives it.

use super::Syscall;
use std::collections::HashSet;

/// The calls that the judgement needs.
pub const CALLS: &str = "openat,?open,close,?pwrite64,?pwritev,?pwritev2,write,writev,sendto,sendmsg,\
    ftruncate,fallocate,fsync,fdatasync,execve";

/// What a trace shows of one client's requests, sent one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncReport {
    /// Successful answers seen.
    pub answers: u64,
    /// Writes to files of the store.
    pub store_writes: u64,
    /// Completed syncs of files of the store.
    pub syncs: u64,
    /// Answers, by number from 1, that were not written and then synced before their first byte.
    pub unsynced: Vec<u64>,
}

/// Judges a trace. Files whose path begins with `store` are the store's. Only the last `promised` answers are
/// judged: those to the client, and not, say, the one to whoever minted its capability.
#[must_use]
pub fn judge(calls: &[Syscall], store: &str, promised: u64) -> SyncReport {
    let mut report = SyncReport::default();
    let mut store_fds: HashSet<i64> = HashSet::new();
    let mut length = 0;
    let mut writes: Vec<(usize, usize)> = Vec::new();
    let mut syncs: Vec<(usize, usize)> = Vec::new();
    let mut answers: Vec<usize> = Vec::new();
    for call in calls {
        let fd = call.arg(0).and_then(|fd| fd.parse::<i64>().ok());
        match call.name.as_str() {
            "openat" | "open" => {
                if let Some(fd) =
                    call.result.filter(|_| call.text().is_some_and(|path| path.starts_with(store)))
                {
                    store_fds.insert(fd);
                }
            }
            "close" => {
                fd.map(|fd| store_fds.remove(&fd));
            }
            "fsync" | "fdatasync"
                if call.result == Some(0) && fd.is_some_and(|fd| store_fds.contains(&fd)) =>
            {
                syncs.push((call.began, call.ended));
            }
            // shrinking cuts off what no record is in, and redb does it after its commit
            "ftruncate" if call.arg(1).and_then(|to| to.parse().ok()).is_some_and(|to: u64| to < length) => {}
            "pwrite64" | "pwritev" | "pwritev2" | "write" | "writev" | "ftruncate" | "fallocate"
                if fd.is_some_and(|fd| store_fds.contains(&fd)) =>
            {
                let number = |n| call.arg(n).and_then(|text| text.parse::<u64>().ok());
                let end = match call.name.as_str() {
                    "pwrite64" => number(3).zip(number(2)).map(|(offset, bytes)| offset + bytes),
                    "ftruncate" => number(1),
                    _ => None,
                };
                length = length.max(end.unwrap_or(0));
                writes.push((call.began, call.ended));
            }
            "write" | "writev" | "sendto" | "sendmsg"
                if call.text().is_some_and(|text| text.starts_with("HTTP/1.1 20")) =>
            {
                answers.push(call.began);
            }
            _ => {}
        }
    }
    report.store_writes = u64::try_from(writes.len()).unwrap_or(u64::MAX);
    report.syncs = u64::try_from(syncs.len()).unwrap_or(u64::MAX);
    report.answers = u64::try_from(answers.len()).unwrap_or(u64::MAX);
    let others = report.answers.saturating_sub(promised);
    let mut previous = 0;
    for (number, answer) in (1u64..).zip(answers) {
        // one client, one request at a time: what this answer promises was written after the previous answer
        let asked = std::mem::replace(&mut previous, answer);
        let written =
            writes.iter().filter(|(began, _)| (asked..answer).contains(began)).map(|(_, ended)| *ended);
        let synced = written
            .max()
            .is_some_and(|written| syncs.iter().any(|&(began, ended)| began > written && ended < answer));
        if !synced && number > others {
            report.unsynced.push(number);
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    fn run(trace: &str) -> SyncReport {
        let lines: String = trace.lines().map(|line| format!("{line}\n")).collect();
        judge(&read(lines.as_bytes()).unwrap(), "/d/data", 2)
    }

    const OPEN: &str = "1 openat(AT_FDCWD, \"/d/data/queue.redb\", O_RDWR|O_CREAT, 0600) = 5\n\
        1 openat(AT_FDCWD, \"/d/other\", O_RDWR) = 6\n";
    const WRITE: &str = "2 pwrite64(5, \"x\", 1, 0) = 1\n";
    const SYNC: &str = "2 fdatasync(5) = 0\n";
    const ANSWER: &str = "3 sendto(9, \"HTTP/1.1 200 OK\\r\\n\", 17, 0, NULL, 0) = 17\n";

    #[test]
    fn a_synced_answer_passes() {
        let report = run(&[OPEN, WRITE, SYNC, ANSWER, WRITE, WRITE, SYNC, ANSWER].concat());
        assert_eq!((report.answers, report.store_writes, report.syncs), (2, 3, 2));
        assert_eq!(report.unsynced, [0; 0]);
        let shrunk =
            run(&[OPEN, "2 pwrite64(5, \"x\", 1, 4096) = 1\n", SYNC, "2 ftruncate(5, 4096) = 0\n", ANSWER]
                .concat());
        assert_eq!(shrunk.unsynced, [0; 0]);
        let grown = run(&[OPEN, WRITE, SYNC, "2 ftruncate(5, 4096) = 0\n", ANSWER].concat());
        assert_eq!(grown.unsynced, [1]);
    }

    #[test]
    fn an_answer_without_its_sync_is_found() {
        let late = "2 fdatasync(5 <unfinished ...>\n";
        let end = "2 <... fdatasync resumed>) = 0\n";
        for (name, trace) in [
            ("never synced", [OPEN, WRITE, ANSWER].concat()),
            ("synced before the last write", [OPEN, WRITE, SYNC, WRITE, ANSWER].concat()),
            ("sync not ended", [OPEN, WRITE, late, ANSWER, end].concat()),
            ("sync failed", [OPEN, WRITE, "2 fdatasync(5) = -1 EIO (Input/output error)\n", ANSWER].concat()),
            ("another file", [OPEN, WRITE, "2 fdatasync(6) = 0\n", ANSWER].concat()),
            ("answered after nothing", [OPEN, ANSWER].concat()),
            ("answered out of memory", [OPEN, WRITE, SYNC, "1 getpid() = 1\n", ANSWER, ANSWER].concat()),
        ] {
            let report = run(&trace);
            assert_eq!(report.unsynced, [report.answers], "{name}");
        }
    }
}
