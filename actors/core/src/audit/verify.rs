//! Reads a chain line by line and says what is wrong with it.

use super::chain::{HASH_MEMBER, Head, VERSION, read_hash};
use serde::Deserialize;

/// Where a line stands.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its file, as it is shown.
    pub file: &'a str,
    /// Its number there, from 1.
    pub line: u64,
}

/// Something that is wrong with a chain, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct Fault {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// What it is.
    pub what: What,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// The line is no record.
    #[error("not a record: {0}")]
    NotARecord(&'static str),
    /// The record is of another version of the format.
    #[error("version {0} of the format is not known here; use the ronctl of the node that wrote it")]
    Version(u64),
    /// The record is not as it was written.
    #[error("record {seq} was changed: its hash does not fit")]
    Hash {
        /// Its number, as it says.
        seq: u64,
    },
    /// Records are missing, doubled or moved.
    #[error("record {found} stands where {expected} belongs: records were removed, doubled or moved")]
    Order {
        /// The number that belongs here.
        expected: u64,
        /// The number that the record has.
        found: u64,
    },
    /// The record does not follow the one before it.
    #[error("record {seq} does not follow the one before it: `prev` is another record's hash")]
    Prev {
        /// Its number.
        seq: u64,
    },
    /// The last line has no end.
    #[error(
        "the last line has no end: a node that was killed while it wrote leaves such a one, and cuts it at its start"
    )]
    Torn,
    /// The chain ends before the head.
    #[error("records are missing at the end: the chain must reach {head}, and ends with record {last}")]
    CutTail {
        /// The head that was given.
        head: Head,
        /// The last record there is.
        last: u64,
    },
    /// The head's record has another hash.
    #[error("record {} is not the one of the head: this is another history", head.seq)]
    OtherHistory {
        /// The head that was given.
        head: Head,
    },
    /// The head is older than all that is there.
    #[error("the head's record {} is older than the first one here, {first}: it was rotated out", head.seq)]
    TooOld {
        /// The head that was given.
        head: Head,
        /// The first record there is.
        first: u64,
    },
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// How many records.
    pub records: u64,
    /// The number of the first; 0 if there is none.
    pub first: u64,
    /// The last one.
    pub head: Head,
    /// How many entries records say were dropped before them.
    pub dropped: u64,
    /// How many decisions records of counts stand for, beside the records themselves.
    pub counted: u64,
}

/// Reads one chain. See the module. After a fault it goes on with what the line says, so that one change is one fault.
#[derive(Debug)]
pub struct Verifier {
    /// The number that comes next, if it is known.
    next: Option<u64>,
    /// The hash that `prev` must be, if it is known.
    prev: Option<[u8; 32]>,
    wanted: Option<Head>,
    met: Option<bool>,
    summary: Summary,
}

#[derive(Deserialize)]
struct Link<'a> {
    v: u64,
    seq: u64,
    #[serde(borrow)]
    prev: &'a str,
    dropped: Option<u64>,
    count: Option<u64>,
}

impl Verifier {
    /// Reads a chain from wherever it begins: the oldest records may have been rotated out. It must reach `head`, if
    /// one is given.
    #[must_use]
    pub fn new(head: Option<Head>) -> Verifier {
        let summary = Summary { records: 0, first: 0, head: Head::EMPTY, dropped: 0, counted: 0 };
        Verifier { next: None, prev: None, wanted: head, met: None, summary }
    }

    /// The first record must have this number: the name of its file says so.
    pub fn begins_with(&mut self, seq: u64) {
        if self.summary.records == 0 {
            self.next = Some(seq);
        }
    }

    /// Reads a line, without its end.
    pub fn line(&mut self, at: Place<'_>, line: &[u8]) -> Option<Fault> {
        let fault = |what| Some(Fault { file: at.file.to_owned(), line: at.line, what });
        let read = match read(line) {
            Ok(read) => read,
            Err(what) => {
                // whatever comes next cannot be held against it
                (self.next, self.prev) = (None, None);
                return fault(what);
            }
        };
        let Read { link, claimed, hash } = read;
        let (expected, prev) = (self.next, self.prev);
        let whole = claimed == hash;
        // a number in a changed line says nothing
        let seq = if whole { link.seq } else { expected.unwrap_or(link.seq) };
        self.next = Some(seq.saturating_add(1));
        self.prev = Some(claimed);
        self.note(seq, claimed, &link);
        if !whole {
            return fault(What::Hash { seq: link.seq });
        }
        match expected {
            Some(expected) if expected != seq => fault(What::Order { expected, found: seq }),
            _ if seq == 1 && read_hash(link.prev) != Some(Head::EMPTY.hash) => fault(What::Prev { seq }),
            _ if prev.is_some_and(|prev| read_hash(link.prev) != Some(prev)) => fault(What::Prev { seq }),
            _ => None,
        }
    }

    fn note(&mut self, seq: u64, hash: [u8; 32], link: &Link<'_>) {
        let summary = &mut self.summary;
        if summary.records == 0 {
            summary.first = seq;
        }
        summary.records += 1;
        summary.head = Head { seq, hash };
        summary.dropped = summary.dropped.saturating_add(link.dropped.unwrap_or(0));
        summary.counted =
            summary.counted.saturating_add(link.count.map_or(0, |count| count.saturating_sub(1)));
        if let Some(wanted) = self.wanted.filter(|wanted| wanted.seq == seq) {
            self.met = Some(self.met.unwrap_or(false) || wanted.hash == hash);
        }
    }

    /// What has been read so far.
    #[must_use]
    pub const fn summary(&self) -> Summary {
        self.summary
    }

    /// Whether the head that was given has been met.
    #[must_use]
    pub fn met_head(&self) -> bool {
        self.met == Some(true) || self.wanted == Some(Head::EMPTY)
    }

    /// There is no more, `at` the end of the last file. The fault, if the head was not met.
    #[must_use]
    pub fn end(&self, at: Place<'_>) -> Option<Fault> {
        let head = self.wanted.filter(|_| !self.met_head())?;
        let Summary { records, first, head: Head { seq: last, .. }, .. } = self.summary;
        let what = match self.met {
            Some(_) => What::OtherHistory { head },
            None if records > 0 && head.seq < first => What::TooOld { head, first },
            None => What::CutTail { head, last },
        };
        Some(Fault { file: at.file.to_owned(), line: at.line, what })
    }
}

struct Read<'a> {
    link: Link<'a>,
    /// The hash that the line says it has.
    claimed: [u8; 32],
    /// The hash that it has.
    hash: [u8; 32],
}

/// Bytes of a line behind what is hashed, the closing brace included.
const TAIL_BYTES: usize = HASH_MEMBER.len() + 64 + 2;

fn read(line: &[u8]) -> Result<Read<'_>, What> {
    let no = |why| What::NotARecord(why);
    let cut = line.len().checked_sub(TAIL_BYTES).ok_or(no("too short"))?;
    let text = str::from_utf8(line).map_err(|_| no("not UTF-8"))?;
    let (body, tail) = text.split_at_checked(cut).ok_or(no("it does not end with its hash"))?;
    let digits = tail.strip_prefix(HASH_MEMBER).and_then(|rest| rest.strip_suffix("\"}"));
    let claimed = digits.and_then(|digits| read_hash(&format!("b3:{digits}")));
    let claimed = claimed.ok_or(no("it does not end with its hash"))?;
    let hash = *blake3::Hasher::new().update(body.as_bytes()).update(b"}").finalize().as_bytes();
    let link: Result<Link<'_>, _> = serde_json::from_str(text);
    let link = match link {
        Ok(link) => link,
        // a byte in a name or a number makes it unreadable, but what it is, is a changed line
        Err(_) => return Err(no("not JSON with v, seq and prev")),
    };
    if link.v != VERSION && claimed == hash {
        return Err(What::Version(link.v));
    }
    Ok(Read { link, claimed, hash })
}
