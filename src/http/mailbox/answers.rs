//! The JSON of successful answers (SPEC §4). What is on the hot path is written by hand: every value there is
//! of an alphabet that needs no escaping.

use super::Durability;
use super::topic::paused_text;
use crate::http::error::{Failure, json_of};
use axum::response::Response;
use http::StatusCode;
use ron_actors::mailbox::{Enqueued, PeekPage, TopicRow, TopicStat};
use ron_actors::mailbox::{Fate, Happened, MessageHistory};
use ron_core::envelope::{Delivered, Envelope};
use ron_core::ids::{ContentHash, CorrId, MessageId};
use ron_core::message::Phase;
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::What;
use serde::Serialize;
use std::fmt::Write;

/// `{msg_id, duplicate, payload_hash, durability, corr_id}`; the last only where the answer is this alone.
pub(super) fn enqueued(
    done: Enqueued,
    hash: &ContentHash,
    durability: Durability,
    corr: Option<&CorrId>,
) -> String {
    let mut out = String::with_capacity(256);
    push_enqueued(&mut out, done, hash, durability);
    if let Some(corr) = corr {
        // writing to a String cannot fail
        let _ = write!(out, ",\"corr_id\":\"{corr}\"");
    }
    out.push('}');
    out
}

fn push_enqueued(out: &mut String, done: Enqueued, hash: &ContentHash, durability: Durability) {
    let durability = if done.msg_id.slot().is_ram() { Durability::Ram } else { durability };
    let (msg_id, duplicate, durability) = (done.msg_id, done.duplicate, durability.label());
    let _ = write!(
        out,
        r#"{{"msg_id":"{msg_id}","duplicate":{duplicate},"payload_hash":"{hash}","durability":"{durability}""#
    );
}

/// What a person is told about one refused message.
pub(crate) fn item_refused(reason: Reason) -> Refusal {
    let text = match reason {
        Reason::IdempotencyConflict => "this idempotency key was used with another payload",
        Reason::Backpressure => "the topic holds as many messages or idempotency keys as it may; retry later",
        Reason::Storage => "the store could not keep the message",
        Reason::NotFound => "the tenant has no such object as the message refers to",
        _ => "the message was refused",
    };
    Refusal::new(reason, text)
}

/// `{results:[…]}` of a batch: what was refused before the mailbox, and what the mailbox said of the others.
pub(super) fn batch(
    drafted: Vec<Result<ContentHash, Refusal>>,
    stored: Vec<Result<Enqueued, Reason>>,
    durability: Durability,
    refused: impl Fn(Reason),
) -> Result<String, Failure> {
    let mut out = String::with_capacity(32 + 256 * drafted.len());
    let mut stored = stored.into_iter();
    out.push_str("{\"results\":[");
    for (at, drafted) in drafted.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        let outcome = match drafted {
            Err(refusal) => Err(refusal),
            Ok(hash) => match stored.next() {
                Some(Ok(done)) => Ok((done, hash)),
                Some(Err(reason)) => Err(item_refused(reason)),
                None => return Err(Refusal::new(Reason::Internal, "the mailbox gave too few results").into()),
            },
        };
        match outcome {
            Ok((done, hash)) => out.push_str(&enqueued(done, &hash, durability, None)),
            Err(refusal) => {
                refused(refusal.reason);
                let error = serde_json::Value::from(&*refusal.text);
                let _ = write!(out, "{{\"error\":{error},\"reason\":\"{}\"}}", refusal.reason);
            }
        }
    }
    out.push_str("]}");
    Ok(out)
}

/// `{results:[{ok:true} or {ok:false,reason}]}`.
pub(super) fn settled(results: &[Result<(), Reason>], refused: impl Fn(Reason)) -> String {
    let mut out = String::with_capacity(16 + 12 * results.len());
    out.push_str("{\"results\":[");
    for (at, result) in results.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        match result {
            Ok(()) => out.push_str("{\"ok\":true}"),
            Err(reason) => {
                refused(*reason);
                let _ = write!(out, "{{\"ok\":false,\"reason\":\"{reason}\"}}");
            }
        }
    }
    out.push_str("]}");
    out
}

/// `{messages:[Envelope]}`.
pub(super) fn messages(messages: &[Delivered]) -> Result<Vec<u8>, Refusal> {
    #[derive(Serialize)]
    struct Messages {
        messages: Vec<Envelope>,
    }
    let messages: Vec<Envelope> = messages.iter().map(Envelope::from).collect();
    let body = |m: &Envelope| {
        m.payload.as_ref().map_or(0, String::len) + m.payload_b64.as_ref().map_or(0, String::len)
    };
    let size = messages.iter().map(|m| 700 + body(m)).sum();
    let mut out = Vec::with_capacity(size);
    serde_json::to_writer(&mut out, &Messages { messages })
        .map_err(|_| Refusal::new(Reason::Internal, "the messages could not be written"))?;
    Ok(out)
}

/// What is known of one message.
pub(super) fn message(id: MessageId, found: &MessageHistory) -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct Seen<'a> {
        event: &'static str,
        at: String,
        attempt: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Message<'a> {
        msg_id: String,
        state: &'static str,
        attempts: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        last_error: Option<&'a str>,
        history: Vec<Seen<'a>>,
        truncated: bool,
    }
    fn seen(happened: &Happened) -> Seen<'_> {
        let (event, reason) = (event_name(happened.what), happened.reason.as_deref());
        Seen { event, at: happened.at.rfc3339(), attempt: happened.attempt, reason }
    }
    let body = Message {
        msg_id: id.to_string(),
        state: match found.fate {
            Fate::Live(Phase::Ready) => "ready",
            Fate::Live(Phase::Delayed) => "delayed",
            Fate::Live(Phase::Leased) => "vis",
            Fate::Live(Phase::Dead) => "dlq",
            Fate::Ended(what) => event_name(what),
        },
        attempts: found.attempts,
        last_error: found.last_error.as_deref(),
        history: found.history.iter().map(seen).collect(),
        truncated: found.truncated,
    };
    json_of(StatusCode::OK, &body)
}

const fn event_name(what: What) -> &'static str {
    match what {
        What::Enqueued => "enqueued",
        What::Delivered => "delivered",
        What::Extended => "extended",
        What::Released => "released",
        What::Failed => "failed",
        What::TimedOut => "timed_out",
        What::DeadLettered => "dead_lettered",
        What::Reprocessed => "reprocessed",
        What::Acked => "acked",
        What::Expired => "expired",
        What::Purged => "purged",
    }
}

/// One Envelope on a line of its own.
pub(super) fn line(message: &Delivered) -> Result<Vec<u8>, Refusal> {
    let mut out = serde_json::to_vec(&Envelope::from(message))
        .map_err(|_| Refusal::new(Reason::Internal, "the message could not be written"))?;
    out.push(b'\n');
    Ok(out)
}

/// A page of a peek.
pub(super) fn peek(page: &PeekPage) -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct Page<'a> {
        messages: &'a [Envelope],
        cursor: Option<&'a str>,
    }
    json_of(StatusCode::OK, &Page { messages: &page.messages, cursor: page.cursor.as_deref() })
}

#[derive(Serialize)]
struct Stat<'a> {
    ready: u64,
    delayed: u64,
    vis: u64,
    dlq: u64,
    oldest_age_ms: u64,
    dedup_keys: u64,
    waiters: u64,
    /// As POST /pause names it; `null` = nothing.
    paused: Option<&'static str>,
    settings: Settings<'a>,
}

/// Exactly the names that PUT /settings takes.
#[derive(Serialize)]
pub(super) struct Settings<'a> {
    visibility_ms: u64,
    max_attempts: u32,
    max_deliveries: u32,
    backoff_base_ms: u64,
    backoff_max_ms: u64,
    retention_ms: u64,
    dlq_retention_ms: u64,
    dedup_window_ms: u64,
    max_dedup_keys: u64,
    durability: &'a str,
    /// `null` = no limit.
    max_depth: Option<u64>,
    fifo: bool,
}

impl Settings<'_> {
    /// The settings in force, and what an answered send is as safe as if the topic does not say less.
    pub(super) fn of(settings: &ron_core::shard::Settings, durability: Durability) -> Settings<'static> {
        Settings {
            visibility_ms: settings.visibility_ms,
            max_attempts: settings.max_attempts,
            max_deliveries: settings.max_deliveries,
            backoff_base_ms: settings.backoff_base_ms,
            backoff_max_ms: settings.backoff_max_ms,
            retention_ms: settings.retention_ms,
            dlq_retention_ms: settings.dlq_retention_ms,
            dedup_window_ms: settings.dedup_window_ms,
            max_dedup_keys: settings.max_dedup_keys,
            durability: if settings.ram { Durability::Ram.label() } else { durability.label() },
            max_depth: Some(settings.max_depth).filter(|depth| *depth != u64::MAX),
            fifo: settings.fifo,
        }
    }
}

/// The figures of a topic.
pub(super) fn stat(stat: &TopicStat, durability: Durability) -> Result<Response, Failure> {
    let stats = &stat.stats;
    let settings = Settings::of(&stat.settings, durability);
    let body = Stat {
        ready: stats.ready,
        delayed: stats.delayed,
        vis: stats.vis,
        dlq: stats.dlq,
        oldest_age_ms: stat.oldest_age_ms,
        dedup_keys: stat.dedup_keys,
        waiters: stats.waiters,
        paused: paused_text(stat.paused),
        settings,
    };
    json_of(StatusCode::OK, &body)
}

/// A page of a tenant's topics.
pub(super) fn topics(rows: &[TopicRow], cursor: Option<&str>) -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct Row<'a> {
        topic: &'a str,
        ready: u64,
        delayed: u64,
        vis: u64,
        dlq: u64,
    }
    #[derive(Serialize)]
    struct Page<'a> {
        topics: Vec<Row<'a>>,
        cursor: Option<&'a str>,
    }
    let row = |row: &TopicRow| (row.stats.ready, row.stats.delayed, row.stats.vis, row.stats.dlq);
    let topics = rows
        .iter()
        .map(|r| {
            let (ready, delayed, vis, dlq) = row(r);
            Row { topic: r.topic.as_str(), ready, delayed, vis, dlq }
        })
        .collect();
    json_of(StatusCode::OK, &Page { topics, cursor })
}
