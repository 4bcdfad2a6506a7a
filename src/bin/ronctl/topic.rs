//! `ronctl topic …`: look at queues and move single messages by hand, over the control socket.

use crate::args;
use crate::client::{Call, Client};
use crate::failure::{Failure, failed};
use crate::output::Output;
use clap::{Args, Subcommand, ValueEnum};
use ron_core::ids::{QueueKey, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

mod admin;
mod follow;
mod show;
mod subscribers;

use admin::{SetArgs, What};
use subscribers::SubscribersArgs;

/// The largest message (SPEC §4); one byte more is read, so that the node refuses it instead of getting a
/// part.
const BODY_MAX: u64 = 1024 * 1024;

/// What to do with a topic.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// List a tenant's topics with their depths
    List {
        /// The tenant
        #[arg(value_parser = args::tenant)]
        tenant: Tenant,
    },
    /// Show a topic's depths and settings
    Stat {
        /// TENANT/TOPIC
        #[arg(value_parser = args::queue)]
        queue: QueueKey,
    },
    /// Send one message: the text given, else a file's bytes, else stdin
    Send(SendArgs),
    /// Receive messages; each stays leased until it is acked or its visibility ends
    Recv(RecvArgs),
    /// Look at messages without leasing them
    Peek(PeekArgs),
    /// Show where a message is and what happened to it
    Show {
        /// TENANT/TOPIC
        #[arg(value_parser = args::queue)]
        queue: QueueKey,
        /// As `send`, `recv` and `peek` show it
        msg_id: String,
    },
    /// Settle deliveries: their messages are done
    Ack {
        /// TENANT/TOPIC
        #[arg(value_parser = args::queue)]
        queue: QueueKey,
        /// Receipts, as `recv` shows them
        #[arg(required = true)]
        receipts: Vec<String>,
    },
    /// Change a topic's settings
    Set(SetArgs),
    /// Show who gets copies of a topic's messages, or change that
    Subscribers(SubscribersArgs),
    /// Stop receives or sends; settling goes on
    Pause {
        /// TENANT/TOPIC
        #[arg(value_parser = args::queue)]
        queue: QueueKey,
        /// What to stop
        #[arg(value_enum)]
        what: What,
    },
    /// Let receives or sends go on
    Resume {
        /// TENANT/TOPIC
        #[arg(value_parser = args::queue)]
        queue: QueueKey,
        /// What to let go on
        #[arg(value_enum)]
        what: What,
    },
    /// Delete a topic with all its messages, dead letters, settings and tasks
    Delete {
        /// TENANT/TOPIC
        #[arg(value_parser = args::queue)]
        queue: QueueKey,
        /// Really: this cannot be undone
        #[arg(long, required = true)]
        yes: bool,
    },
    /// End all messages but dead letters, those in flight included
    Purge {
        /// TENANT/TOPIC
        #[arg(value_parser = args::queue)]
        queue: QueueKey,
        /// Really: this cannot be undone
        #[arg(long, required = true)]
        yes: bool,
    },
}

/// Arguments of `topic send`.
#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// TENANT/TOPIC
    #[arg(value_parser = args::queue)]
    queue: QueueKey,
    /// The message; without it and `--file`, stdin is read
    #[arg(conflicts_with = "file")]
    body: Option<String>,
    /// Send this file's bytes (`-` = stdin)
    #[arg(long)]
    file: Option<PathBuf>,
    /// Idempotency key: the same key with the same body is one message
    #[arg(long)]
    key: Option<String>,
    /// Deliver it only after this time, such as 30s
    #[arg(long, value_parser = args::duration)]
    delay: Option<Duration>,
    /// Drop it if it has not been received within this time
    #[arg(long, value_parser = args::duration)]
    ttl: Option<Duration>,
    /// An attribute; may be repeated
    #[arg(long = "attr", value_name = "NAME=VALUE", value_parser = args::attribute)]
    attrs: Vec<(String, String)>,
    /// The message's content type [default: application/octet-stream; for a text argument, JSON or plain
    /// text]
    #[arg(long)]
    content_type: Option<String>,
}

/// Arguments of `topic recv`.
#[derive(Debug, Args)]
pub(crate) struct RecvArgs {
    /// TENANT/TOPIC
    #[arg(value_parser = args::queue)]
    queue: QueueKey,
    /// At most this many
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    max: u16,
    /// Wait this long for the first message, at most 20s
    #[arg(long, value_parser = args::duration)]
    wait: Option<Duration>,
    /// How long the messages stay hidden from others [default: the topic's]
    #[arg(long, value_parser = args::duration)]
    visibility: Option<Duration>,
    /// Ack what was shown
    #[arg(long)]
    ack: bool,
    /// Go on until interrupted, by a stream that holds at most MAX messages unsettled
    #[arg(long, conflicts_with = "wait")]
    follow: bool,
}

/// Arguments of `topic peek`.
#[derive(Debug, Args)]
pub(crate) struct PeekArgs {
    /// TENANT/TOPIC
    #[arg(value_parser = args::queue)]
    queue: QueueKey,
    /// Which messages
    #[arg(long, value_enum, default_value_t = State::Ready)]
    state: State,
    /// At most this many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=100))]
    limit: u16,
    /// Go on where an earlier peek ended
    #[arg(long)]
    cursor: Option<String>,
}

/// Where in its life a message is.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Ready,
    Delayed,
    Vis,
    Dlq,
}

/// A message as the node hands it out. What is not shown in a line of its own is kept for `--json`.
#[derive(Debug, Clone, Deserialize)]
struct Received {
    messages: Vec<Value>,
    #[serde(default)]
    cursor: Option<String>,
}

/// One item's fate in an answer to ack.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Settled {
    ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The answer to ack.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SettledAll {
    results: Vec<Settled>,
}

/// Runs `ronctl topic`.
///
/// # Errors
/// The node's refusal, or [`Failure::Unreachable`].
pub(crate) async fn run(command: TopicCommand, mut client: Client, out: Output) -> Result<(), Failure> {
    match command {
        TopicCommand::List { tenant } => list(&tenant, &mut client, out).await,
        TopicCommand::Stat { queue } => stat(&queue, &mut client, out).await,
        TopicCommand::Send(args) => send(args, &mut client, out).await,
        TopicCommand::Recv(args) if args.follow => follow::follow(args, &mut client, out).await,
        TopicCommand::Recv(args) => recv(args, &mut client, out).await,
        TopicCommand::Peek(args) => peek(args, &mut client, out).await,
        TopicCommand::Show { queue, msg_id } => message(&queue, &msg_id, &mut client, out).await,
        TopicCommand::Ack { queue, receipts } => {
            let settled = ack(&queue, &receipts, &mut client).await?;
            if out.json {
                out.value(&settled)?;
            } else {
                for (receipt, result) in receipts.iter().zip(&settled.results) {
                    let fate =
                        if result.ok { "acked" } else { result.reason.as_deref().unwrap_or("refused") };
                    out.line(format!("{fate}  {receipt}"))?;
                }
            }
            all_settled(&settled)
        }
        TopicCommand::Set(args) => admin::set(args, &mut client, out).await,
        TopicCommand::Subscribers(args) => subscribers::run(args, &mut client, out).await,
        TopicCommand::Pause { queue, what } => admin::pause(&queue, what, "pause", &mut client, out).await,
        TopicCommand::Resume { queue, what } => admin::pause(&queue, what, "resume", &mut client, out).await,
        TopicCommand::Delete { queue, yes: _ } => admin::delete(&queue, &mut client, out).await,
        TopicCommand::Purge { queue, yes: _ } => admin::purge(&queue, &mut client, out).await,
    }
}

async fn list(tenant: &Tenant, client: &mut Client, out: Output) -> Result<(), Failure> {
    let mut topics: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let query = cursor.map(|cursor| format!("?cursor={}", escaped(&cursor))).unwrap_or_default();
        let page: Value = client.read(Call::get(format!("/v1/{tenant}{query}"))).await?;
        topics.extend(page["topics"].as_array().cloned().unwrap_or_default());
        cursor = page["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    if out.json {
        return out.value(&json!({ "topics": topics }));
    }
    let columns = ["topic", "ready", "delayed", "vis", "dlq"];
    let row = |topic: &Value| columns.iter().map(|&name| show::plain(&topic[name])).collect();
    out.table(&columns, topics.iter().map(row).collect())
}

async fn stat(queue: &QueueKey, client: &mut Client, out: Output) -> Result<(), Failure> {
    let stat: Value = client.read(Call::get(base(queue))).await?;
    if out.json { out.value(&stat) } else { out.pairs(&show::flat(&stat)) }
}

async fn send(args: SendArgs, client: &mut Client, out: Output) -> Result<(), Failure> {
    let (body, guessed) = match (&args.body, &args.file) {
        (Some(text), _) => (text.clone().into_bytes(), Some(text_type(text))),
        (None, Some(path)) => (read_file(path)?, None),
        (None, None) if io::stdin().is_terminal() => {
            return Err(Failure::Usage(
                "give the message as an argument, with --file, or on stdin".to_owned(),
            ));
        }
        (None, None) => (read_file(Path::new("-"))?, None),
    };
    let mut call = Call::post(format!("{}/enqueue", base(&args.queue)), body);
    if let Some(content_type) = args.content_type.as_deref().or(guessed) {
        call = call.header("content-type", content_type);
    }
    if let Some(key) = args.key {
        call = call.header("idempotency-key", key);
    }
    if let Some(delay) = args.delay {
        call = call.header("x-delay-ms", delay.as_millis().to_string());
    }
    if let Some(ttl) = args.ttl {
        call = call.header("x-ttl-ms", ttl.as_millis().to_string());
    }
    for (name, value) in args.attrs {
        call = call.header(&format!("x-attr-{name}"), value);
    }
    let sent: Value = client.read(call).await?;
    if out.json { out.value(&sent) } else { out.pairs(&show::flat(&sent)) }
}

async fn recv(args: RecvArgs, client: &mut Client, out: Output) -> Result<(), Failure> {
    let wait = args.wait.unwrap_or_default();
    let mut want = json!({ "max_messages": args.max, "wait_ms": whole_ms(wait) });
    if let Some(visibility) = args.visibility {
        want["visibility_ms"] = json!(whole_ms(visibility));
    }
    let call = Call::json(format!("{}/recv", base(&args.queue)), &want).and_wait(wait);
    let received: Received = client.read(call).await?;
    print_messages(&received, out)?;
    if !args.ack || received.messages.is_empty() {
        return Ok(());
    }
    let receipts: Vec<String> = received
        .messages
        .iter()
        .filter_map(|message| message["receipt"].as_str().map(str::to_owned))
        .collect();
    let settled = ack(&args.queue, &receipts, client).await?;
    all_settled(&settled)?;
    if out.json { Ok(()) } else { out.line(format!("\n{} acked", receipts.len())) }
}

async fn peek(args: PeekArgs, client: &mut Client, out: Output) -> Result<(), Failure> {
    let state = format!("{:?}", args.state).to_lowercase();
    let cursor = args.cursor.map(|cursor| format!("&cursor={}", escaped(&cursor))).unwrap_or_default();
    let path = format!("{}/peek?state={state}&limit={}{cursor}", base(&args.queue), args.limit);
    let page: Received = client.read(Call::get(path)).await?;
    print_messages(&page, out)?;
    match page.cursor {
        Some(cursor) if !out.json => out.line(format!("\nmore: --cursor {cursor}")),
        _ => Ok(()),
    }
}

async fn message(queue: &QueueKey, id: &str, client: &mut Client, out: Output) -> Result<(), Failure> {
    let found: Value = client.read(Call::get(format!("{}/messages/{}", base(queue), escaped(id)))).await?;
    if out.json {
        return out.value(&found);
    }
    let fields = ["msg_id", "state", "attempts", "last_error", "truncated"];
    out.pairs(&fields.map(|name| (name, show::plain(&found[name]))))?;
    let columns = ["at", "event", "attempt", "reason"];
    let row = |event: &Value| columns.iter().map(|&name| show::plain(&event[name])).collect();
    out.line("")?;
    out.table(&columns, found["history"].as_array().into_iter().flatten().map(row).collect())
}

fn print_messages(page: &Received, out: Output) -> Result<(), Failure> {
    if out.json {
        return out.value(&json!({ "messages": page.messages, "cursor": page.cursor }));
    }
    if page.messages.is_empty() {
        return out.line("no messages");
    }
    for (at, message) in page.messages.iter().enumerate() {
        if at > 0 {
            out.line("")?;
        }
        out.line(show::envelope(message))?;
    }
    Ok(())
}

async fn ack(queue: &QueueKey, receipts: &[String], client: &mut Client) -> Result<SettledAll, Failure> {
    client.read(Call::json(format!("{}/ack", base(queue)), &json!({ "receipts": receipts }))).await
}

fn all_settled(settled: &SettledAll) -> Result<(), Failure> {
    let refused: Vec<&str> =
        settled.results.iter().filter(|result| !result.ok).filter_map(|r| r.reason.as_deref()).collect();
    match refused.first() {
        None => Ok(()),
        Some(first) => Err(failed(format!("{} not acked: {first}", refused.len()))),
    }
}

fn base(queue: &QueueKey) -> String {
    format!("/v1/{queue}")
}

fn whole_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What a text given as an argument is, so that `recv` shows it as text again.
fn text_type(text: &str) -> &'static str {
    let json = matches!(serde_json::from_str(text), Ok(Value::Object(_) | Value::Array(_)));
    if json { "application/json" } else { "text/plain; charset=utf-8" }
}

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = match path.to_str() {
        Some("-") => io::stdin().lock().take(BODY_MAX + 1).read_to_end(&mut bytes),
        _ => std::fs::File::open(path).and_then(|file| file.take(BODY_MAX + 1).read_to_end(&mut bytes)),
    };
    read.map_err(|err| failed(format!("{}: {err}", path.display())))?;
    Ok(bytes)
}

/// A value in a query string: everything but the unreserved characters escaped.
fn escaped(value: &str) -> String {
    let mut safe = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => safe.push(byte.into()),
            _ => safe.push_str(&format!("%{byte:02X}")),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_argument_is_json_only_if_it_is_an_object_or_array() {
        assert_eq!(text_type(r#"{"a":1}"#), "application/json");
        assert_eq!(text_type("[1]"), "application/json");
        for text in ["hello", "1", "\"quoted\"", "{not json", ""] {
            assert_eq!(text_type(text), "text/plain; charset=utf-8", "{text}");
        }
    }

    #[test]
    fn query_values_are_escaped() {
        assert_eq!(escaped("aZ0-._~"), "aZ0-._~");
        assert_eq!(escaped("a b&c=ü"), "a%20b%26c%3D%C3%BC");
    }
}
