//! The chain: gives entries their numbers, links and hashes, and writes them as lines.

use super::entry::{Decision, Entry, Kind};
use crate::time::Millis;
use data_encoding::HEXLOWER;
use serde::Serialize;

/// The version of the format, member `v`.
pub(super) const VERSION: u64 = 1;
/// Longest line that is written, its end included, bytes: every member is bounded, `detail` by far the most.
pub const LINE_BYTES_MAX: usize = 8 * 1024;

/// The end of a chain: a record's number and hash. Written `SEQ:b3:HEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The record's number; 0 = there is none yet.
    pub seq: u64,
    /// Its hash; all zero if there is none yet.
    pub hash: [u8; 32],
}

impl Head {
    /// The end of a chain that has no record.
    pub const EMPTY: Head = Head { seq: 0, hash: [0; 32] };

    /// Reads `SEQ:b3:HEX`, as the log and `ronctl audit` print it.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(text: &str) -> Result<Head, &'static str> {
        const RULE: &str = "write SEQ:HASH as the log has it, such as 17:b3: and 64 hex digits";
        let (seq, hash) = text.split_once(':').ok_or(RULE)?;
        let digits = !seq.is_empty() && seq.bytes().all(|byte| byte.is_ascii_digit());
        let seq = seq.parse().ok().filter(|_| digits).ok_or(RULE)?;
        Ok(Head { seq, hash: read_hash(hash).ok_or(RULE)? })
    }

    /// The hash as records have it.
    #[must_use]
    pub fn hash_text(&self) -> String {
        hash_text("b3:", &self.hash)
    }
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash_text())
    }
}

fn hash_text(prefix: &str, hash: &[u8; 32]) -> String {
    let mut text = String::with_capacity(prefix.len() + 64);
    text.push_str(prefix);
    HEXLOWER.encode_append(hash, &mut text);
    text
}

/// Reads `b3:` and 64 lower-case hex digits.
pub(super) fn read_hash(text: &str) -> Option<[u8; 32]> {
    let bytes = HEXLOWER.decode(text.strip_prefix("b3:")?.as_bytes()).ok()?;
    bytes.try_into().ok()
}

/// Writes a chain. See the module.
#[derive(Debug, Clone)]
pub struct Chain {
    head: Head,
    dropped: u64,
}

impl Chain {
    /// The chain that goes on after `head`.
    #[must_use]
    pub const fn after(head: Head) -> Chain {
        Chain { head, dropped: 0 }
    }

    /// Its end.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// This many entries were lost before they came here; the next record says so.
    pub fn dropped(&mut self, count: u64) {
        self.dropped = self.dropped.saturating_add(count);
    }

    /// Adds a record; its line, with the end of line.
    pub fn append(&mut self, entry: &Entry) -> String {
        let seq = self.head.seq + 1;
        let dropped = (self.dropped > 0).then_some(self.dropped);
        // every member is text, a number or absent, so it always serialises
        let mut line = serde_json::to_string(&Body::of(entry, seq, dropped, &self.head)).unwrap_or_default();
        let hash = *blake3::hash(line.as_bytes()).as_bytes();
        line.pop();
        line.push_str(HASH_MEMBER);
        HEXLOWER.encode_append(&hash, &mut line);
        line.push_str("\"}\n");
        self.head = Head { seq, hash };
        self.dropped = 0;
        line
    }
}

/// What stands between the hashed part of a line and the digits of its hash.
pub(super) const HASH_MEMBER: &str = ",\"hash\":\"b3:";

/// A record without its hash, members in the order in which they are written.
#[derive(Serialize)]
struct Body<'a> {
    v: u64,
    seq: u64,
    ts: String,
    corr_id: &'a str,
    req_id: String,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cap_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    decision: Decision,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skew_ms: Option<i64>,
    #[serde(skip_serializing_if = "is_false")]
    unsigned_decided: bool,
    #[serde(skip_serializing_if = "is_false")]
    id_conflict: bool,
    #[serde(skip_serializing_if = "is_false")]
    shadow: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
    prev: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde asks for
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What stands for the ids of a record that no request caused.
const NO_ID: &str = "-";

impl<'a> Body<'a> {
    fn of(entry: &'a Entry, seq: u64, dropped: Option<u64>, after: &Head) -> Body<'a> {
        let more = &entry.more;
        Body {
            v: VERSION,
            seq,
            ts: entry.at.rfc3339(),
            corr_id: entry.corr_id.as_ref().map_or(NO_ID, |id| id.as_str()),
            req_id: entry.req_id.map_or(NO_ID.to_owned(), |id| format!("{id:032x}")),
            kind: entry.kind,
            provider: entry.provider.as_ref().map(|name| name.as_str()),
            tenant: entry.tenant.as_ref().map(|tenant| tenant.as_str()),
            cap_id: entry.cap_id.map(|id| id.to_string()),
            kid: entry.kid.as_ref().map(|kid| kid.as_str()),
            content: entry.content.as_ref().map(|hash| hash_text("b3k:", hash)),
            decision: entry.decision,
            reason: entry.reason,
            step: more.step,
            op: more.op.as_deref(),
            topic: more.topic.as_ref().map(|topic| topic.as_str()),
            msg_id: more.msg_id.map(|id| id.to_string()),
            skew_ms: more.skew_ms,
            unsigned_decided: more.unsigned_decided,
            id_conflict: more.id_conflict,
            shadow: more.shadow,
            version: more.version,
            count: more.count,
            since: more.since.map(Millis::rfc3339),
            uid: more.uid,
            pid: more.pid,
            ip: more.ip.map(|ip| ip.to_string()),
            detail: more.detail.as_deref(),
            dropped,
            prev: after.hash_text(),
        }
    }
}
