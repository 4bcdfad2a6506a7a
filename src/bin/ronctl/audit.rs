//! `ronctl audit verify|export|tail`: the audit log, of a running node or in files of which no node is needed.

use crate::ambient;
use crate::args;
use crate::client::{Call, Client};
use crate::failure::{Failure, failed};
use crate::locate::Places;
use crate::output::{Output, printable, warn};
use bytes::Bytes;
use clap::{Args, Subcommand};
use ron_actors::audit::files::{self, DIR};
use ron_core::audit::{Fault, Head, Place, Summary, Verifier};
use ron_core::time::Millis;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is printed at once when much is.
const CHUNK_BYTES: usize = 64 * 1024;

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check that nothing of the log was changed, removed, doubled or moved; a running node says how far it must go
    Verify {
        /// It must reach this record, or have it: SEQ:HASH as the node's log has it each minute
        #[arg(long, value_name = "SEQ:HASH", value_parser = Head::parse)]
        head: Option<Head>,
        #[command(flatten)]
        from: From,
    },
    /// Print records as lines of JSON, as they are in the log
    Export {
        /// Only from this moment on: 2026-11-23T10:00:00Z, or how long ago, such as 15m
        #[arg(long, value_name = "TIME", value_parser = moment)]
        since: Option<Moment>,
        /// Only before this moment
        #[arg(long, value_name = "TIME", value_parser = moment)]
        until: Option<Moment>,
        #[command(flatten)]
        from: From,
    },
    /// Show the newest records of a running node
    Tail {
        /// How many; the node has those that are still in memory
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: u64,
        /// Go on as more come
        #[arg(long, short)]
        follow: bool,
    },
}

/// Where the log is.
#[derive(Debug, Default, Args)]
pub(crate) struct From {
    /// These files, oldest first [without: those of the running node, else those in its data directory]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The files in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "files")]
    dir: Option<PathBuf>,
}

/// A moment, or how long ago it was.
#[derive(Debug, Clone)]
pub(crate) enum Moment {
    At(String),
    Ago(Duration),
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(ago) = args::duration(text) {
        return Ok(Moment::Ago(ago));
    }
    let rule = "write a time as 2026-11-23T10:00:00Z, or how long ago as 15m";
    let at = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
    let at = at.map_err(|_| rule.to_owned())?.unix_timestamp_nanos() / 1_000_000;
    Ok(Moment::At(Millis(u64::try_from(at).map_err(|_| rule.to_owned())?).rfc3339()))
}

impl Moment {
    /// As records have it: such texts are in the order of their times.
    fn text(&self) -> String {
        match self {
            Moment::At(text) => text.clone(),
            Moment::Ago(ago) => {
                let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
                Millis(ambient::wall().0.saturating_sub(ago)).rfc3339()
            }
        }
    }
}

/// Where a running node's log ends.
#[derive(Debug, Deserialize)]
struct Live {
    seq: u64,
    head: String,
    dir: Option<PathBuf>,
}

/// A log that can be read.
pub(crate) enum Log {
    /// Files, and where they end at least, if a node said so.
    Files(Vec<PathBuf>, Option<Head>),
    /// What a node has in memory, as lines.
    Memory(Vec<Bytes>, Option<Head>),
}

/// Finds the log: files that are named, else a running node's, else those of a stopped one.
///
/// # Errors
/// There is none, or the node's refusal.
pub(crate) async fn find(
    from: &From,
    node: impl FnOnce() -> Result<Client, Failure>,
    places: impl Fn(Option<&Path>) -> Result<Places, Failure>,
) -> Result<Log, Failure> {
    if !from.files.is_empty() {
        return Ok(Log::Files(from.files.clone(), None));
    }
    if let Some(dir) = &from.dir {
        return in_dir(dir, None);
    }
    let mut node = node()?;
    match node.read::<Live>(Call::get("/ctl/audit/head")).await {
        Ok(live) => {
            let head = Head::parse(&live.head).map_err(|why| failed(format!("the node's head: {why}")))?;
            match &live.dir {
                Some(dir) => in_dir(dir, Some(head)),
                None => Ok(Log::Memory(remembered(&mut node).await?, Some(head))),
            }
        }
        Err(Failure::Unreachable(_)) => in_dir(&places(None)?.data_dir.join(DIR), None),
        Err(failure) => Err(failure),
    }
}

fn in_dir(dir: &Path, head: Option<Head>) -> Result<Log, Failure> {
    let files = files::list(dir).map_err(|error| failed(format!("{}: {error}", dir.display())))?;
    if files.is_empty() && head.is_none() {
        return Err(failed(format!("{}: there is no audit log", dir.display())));
    }
    Ok(Log::Files(files.into_iter().map(|file| file.path).collect(), head))
}

/// What a node has in memory.
///
/// # Errors
/// The node's refusal, or that none answers.
pub(crate) async fn remembered(node: &mut Client) -> Result<Vec<Bytes>, Failure> {
    let mut lines = node.lines(Call::get("/ctl/audit/lines")).await?;
    let mut all = Vec::new();
    while let Some(line) = lines.next().await? {
        if !line.is_empty() {
            all.push(line);
        }
    }
    Ok(all)
}

/// Runs `ronctl audit`.
///
/// # Errors
/// The log is not as it was written, the node's refusal, or that none answers.
pub(crate) async fn run(
    command: AuditCommand,
    node: impl FnOnce() -> Result<Client, Failure>,
    places: impl Fn(Option<&Path>) -> Result<Places, Failure>,
    out: Output,
) -> Result<(), Failure> {
    match command {
        AuditCommand::Verify { head, from } => verify(&find(&from, node, places).await?, head, out),
        AuditCommand::Export { since, until, from } => {
            let log = find(&from, node, places).await?;
            let (since, until) = (since.map(|at| at.text()), until.map(|at| at.text()));
            export(&log, since.as_deref(), until.as_deref(), out)
        }
        AuditCommand::Tail { lines, follow } => tail(node()?, lines, follow, out).await,
    }
}

fn verify(log: &Log, asked: Option<Head>, out: Output) -> Result<(), Failure> {
    let (Log::Files(_, live) | Log::Memory(_, live)) = log;
    let mut judged = judge(log, live.or(asked), live.is_some())?;
    if let (Some(_), Some(asked)) = (live, asked) {
        // the node's own head is one question, the one that somebody noted another
        let more = judge(log, Some(asked), true)?.0;
        let new: Vec<Fault> = more.into_iter().filter(|fault| !judged.0.contains(fault)).collect();
        judged.0.extend(new);
    }
    let (faults, more, summary) = judged;
    let Summary { records, first, head, dropped, counted } = summary;
    if out.json {
        let named: Vec<String> = faults.iter().map(ToString::to_string).collect();
        out.value(&json!({
            "ok": faults.is_empty(), "records": records, "first": first, "head": head.to_string(),
            "dropped": dropped, "counted": counted, "faults": named, "more_faults": more,
        }))?;
    } else {
        for fault in &faults {
            out.line(fault)?;
        }
        out.pairs(&[
            ("records", format!("{records}, from {first} to {}", head.seq)),
            ("dropped", format!("{dropped}, as the records after them say")),
            ("counted", format!("{counted} decisions beyond those that have a record of their own")),
            ("head", head.to_string()),
        ])?;
    }
    match faults.len() as u64 + more {
        0 => Ok(()),
        n => Err(failed(format!("the audit log is not as it was written: {n} faults"))),
    }
}

fn judge(log: &Log, head: Option<Head>, growing: bool) -> Result<(Vec<Fault>, u64, Summary), Failure> {
    let lines = match log {
        Log::Files(files, _) => {
            let report = files::verify(files, head, growing).map_err(|error| failed(error.to_string()))?;
            return Ok((report.faults, report.more_faults, report.summary));
        }
        Log::Memory(lines, _) => lines,
    };
    let mut verifier = Verifier::new(head);
    let at = |line: u64| Place { file: "memory", line };
    let numbered = (1..).zip(lines);
    let mut faults: Vec<Fault> = numbered.filter_map(|(n, line)| verifier.line(at(n), line)).collect();
    faults.extend(verifier.end(at(lines.len() as u64)));
    Ok((faults, 0, verifier.summary()))
}

/// Calls `take` for each whole line of a log.
///
/// # Errors
/// A file cannot be read, or what `take` says.
pub(crate) fn each_line(
    log: &Log,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    match log {
        Log::Memory(lines, _) => lines.iter().try_for_each(|line| take(line)),
        Log::Files(files, _) => {
            let mut stopped = Ok(());
            for path in files {
                let read = files::each_line(path, |line, whole| {
                    if whole && stopped.is_ok() {
                        stopped = take(line);
                    }
                    if stopped.is_ok() { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
                });
                std::mem::replace(&mut stopped, Ok(()))?;
                read.map_err(|error| failed(format!("{}: {error}", path.display())))?;
            }
            Ok(())
        }
    }
}

fn export(log: &Log, since: Option<&str>, until: Option<&str>, out: Output) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Stamp<'a> {
        #[serde(borrow)]
        ts: &'a str,
    }
    let mut text = String::new();
    let mut unreadable = 0_u64;
    each_line(log, |line| {
        let Ok((line, stamp)) = str::from_utf8(line).map_err(drop).and_then(|line| {
            serde_json::from_str::<Stamp<'_>>(line).map(|stamp| (line, stamp)).map_err(drop)
        }) else {
            unreadable += 1;
            return Ok(());
        };
        if since.is_some_and(|since| stamp.ts < since) || until.is_some_and(|until| stamp.ts >= until) {
            return Ok(());
        }
        text.push_str(line);
        if text.len() >= CHUNK_BYTES {
            out.line(&text)?;
            text.clear();
        } else {
            text.push('\n');
        }
        Ok(())
    })?;
    if !text.is_empty() {
        out.line(text.trim_end())?;
    }
    match unreadable {
        0 => Ok(()),
        n => Err(failed(format!("{n} lines are no records and are left out: run `ronctl audit verify`"))),
    }
}

async fn tail(mut node: Client, count: u64, follow: bool, out: Output) -> Result<(), Failure> {
    let live: Live = node.read(Call::get("/ctl/audit/head")).await?;
    let after = live.seq.saturating_sub(count);
    let mut lines = node.lines(Call::get(format!("/ctl/audit/lines?after={after}&follow={follow}"))).await?;
    while let Some(line) = lines.next().await? {
        if line.is_empty() {
            continue; // the node has nothing to say, and says so
        }
        let text = String::from_utf8_lossy(&line);
        if out.json {
            out.line(text)?;
        } else {
            let record: Value = serde_json::from_str(&text)
                .map_err(|err| failed(format!("the node's line is not what was expected: {err}")))?;
            out.line(readable(&record))?;
        }
    }
    if follow {
        warn("the node ended");
    }
    Ok(())
}

/// A record for people: number, time, what, and the rest as `name=value`.
fn readable(record: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let head = ["v", "seq", "ts", "kind", "decision", "reason", "prev", "hash"];
    let rest = record.as_object().into_iter().flatten();
    let rest = rest.filter(|(name, value)| !head.contains(&name.as_str()) && **value != "-");
    let rest: String = rest.map(|(name, value)| format!(" {name}={}", text(value))).collect();
    let [seq, ts, kind, decision, reason] =
        ["seq", "ts", "kind", "decision", "reason"].map(|name| text(&record[name]));
    printable(&format!("{seq:>6}  {ts}  {kind:10} {decision:7} {reason}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        let at = |text: &str| moment(text).map(|moment| moment.text());
        assert_eq!(at("2026-11-23T10:00:00+01:00").unwrap(), "2026-11-23T09:00:00.000Z");
        assert_eq!(at("2026-11-23T10:00:00.5Z").unwrap(), "2026-11-23T10:00:00.500Z");
        assert!(at("15m").unwrap().as_str() > "2020");
        for bad in ["", "yesterday", "2026-11-23", "1900-01-01T00:00:00Z"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_record_is_readable_on_one_line() {
        let record = json!({"v": 1, "seq": 7, "ts": "2026-01-01T00:00:00.000Z", "corr_id": "-", "req_id": "-",
            "kind": "brownout", "decision": "done", "reason": "CLEAR", "count": 2, "prev": "b3:", "hash": "b3:"});
        let line = "     7  2026-01-01T00:00:00.000Z  brownout   done    CLEAR count=2";
        assert_eq!(readable(&record), line);
    }
}
