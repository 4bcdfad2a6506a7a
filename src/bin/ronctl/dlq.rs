//! `ronctl dlq …`: what to do with messages that nobody could process.

use crate::args;
use crate::client::{Call, Client};
use crate::failure::{Failure, failed};
use crate::output::{Output, printable, watched};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use ron_core::ids::QueueKey;
use serde_json::{Map, Value, json};
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

/// How often a task is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Counting and purging read all dead letters.
const LONG: Duration = Duration::from_secs(600);
/// The largest message (SPEC §4).
const BODY_MAX: u64 = 1024 * 1024;

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters
    List(ListArgs),
    /// Count them by their reasons
    Clusters {
        /// TENANT/TOPIC
        #[arg(value_parser = args::queue)]
        queue: QueueKey,
    },
    /// Show one, with its payload
    Show {
        /// TENANT/TOPIC
        #[arg(value_parser = args::queue)]
        queue: QueueKey,
        /// The message's id
        msg_id: String,
    },
    /// Make them ready again, at the tail of their topic; waits for the end
    Reprocess(ReprocessArgs),
    /// Send an edited copy of one as a new message
    Resend(ResendArgs),
    /// End them
    Purge(PurgeArgs),
    /// Show how far a task is, or all tasks of a topic
    Task {
        /// TENANT/TOPIC
        #[arg(value_parser = args::queue)]
        queue: QueueKey,
        /// The task; without it, the newest ones
        task_id: Option<String>,
        /// Wait until it is over
        #[arg(long, requires = "task_id")]
        wait: bool,
    },
    /// End a task; what it moved stays moved
    Cancel {
        /// TENANT/TOPIC
        #[arg(value_parser = args::queue)]
        queue: QueueKey,
        /// The task
        task_id: String,
    },
}

/// Arguments of `dlq list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// TENANT/TOPIC
    #[arg(value_parser = args::queue)]
    queue: QueueKey,
    /// At most this many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=100))]
    limit: u16,
    /// Go on where an earlier list ended
    #[arg(long)]
    cursor: Option<String>,
}

/// Which dead letters: all that is given must hold.
#[derive(Debug, Clone, Args)]
pub(crate) struct FilterArgs {
    /// With this reason
    #[arg(long)]
    reason: Option<String>,
    /// With this attribute; may be repeated
    #[arg(long = "attr", value_name = "NAME=VALUE", value_parser = args::attribute)]
    attrs: Vec<(String, String)>,
    /// Dead for at least this long, such as 1h
    #[arg(long, value_parser = args::duration)]
    older_than: Option<Duration>,
    /// With this id; may be repeated
    #[arg(long = "id", value_name = "MSG_ID")]
    ids: Vec<String>,
}

/// Arguments of `dlq reprocess`.
#[derive(Debug, Args)]
pub(crate) struct ReprocessArgs {
    /// TENANT/TOPIC
    #[arg(value_parser = args::queue)]
    queue: QueueKey,
    #[command(flatten)]
    selection: Selection,
}

/// Which dead letters are brought back, how many and how fast.
#[derive(Debug, Clone, Args)]
pub(crate) struct Selection {
    #[command(flatten)]
    filter: FilterArgs,
    /// At most this many
    #[arg(long)]
    limit: Option<u64>,
    /// At most this many a second
    #[arg(long)]
    rate: Option<u32>,
    /// Stop when more than this share of what was moved is dead again, 0 to 1 [default: 0.5]
    #[arg(long)]
    stop_if_returned: Option<f64>,
    /// Only count
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for the end
    #[arg(long)]
    detach: bool,
}

/// Arguments of `dlq purge`.
#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// TENANT/TOPIC
    #[arg(value_parser = args::queue)]
    queue: QueueKey,
    #[command(flatten)]
    filter: FilterArgs,
    /// Really: this cannot be undone
    #[arg(long, required = true)]
    yes: bool,
}

/// Arguments of `dlq resend`.
#[derive(Debug, Args)]
pub(crate) struct ResendArgs {
    /// TENANT/TOPIC
    #[arg(value_parser = args::queue)]
    queue: QueueKey,
    /// The dead letter's id
    msg_id: String,
    /// Another payload, as text
    #[arg(long, conflicts_with = "file")]
    body: Option<String>,
    /// Another payload: this file's bytes (`-` = stdin)
    #[arg(long)]
    file: Option<PathBuf>,
    /// Another content type
    #[arg(long)]
    content_type: Option<String>,
    /// Other attributes, instead of all it had; may be repeated
    #[arg(long = "attr", value_name = "NAME=VALUE", value_parser = args::attribute)]
    attrs: Vec<(String, String)>,
    /// End the dead letter by the same commit
    #[arg(long)]
    remove: bool,
}

/// Runs `dlq …`.
///
/// # Errors
/// The node's refusal, or that it cannot be reached; a task that did not end by being done.
pub(crate) async fn run(command: DlqCommand, mut client: Client, out: Output) -> Result<(), Failure> {
    let client = &mut client;
    match command {
        DlqCommand::List(args) => list(args, client, out).await,
        DlqCommand::Clusters { queue } => clusters(&queue, client, out).await,
        DlqCommand::Show { queue, msg_id } => show(&queue, &msg_id, client, out).await,
        DlqCommand::Reprocess(ReprocessArgs { queue, selection }) => {
            bring_back(&queue, selection, client, out).await
        }
        DlqCommand::Resend(args) => resend(args, client, out).await,
        DlqCommand::Purge(PurgeArgs { queue, filter, yes: _ }) => {
            let spinner = bar(None);
            let call = Call::json(format!("{}/purge", base(&queue)), &json!({ "filter": filter.json() }));
            let purged: Value = client.read(call.and_wait(LONG)).await?;
            spinner.finish_and_clear();
            pairs(&purged, out)
        }
        DlqCommand::Task { queue, task_id: Some(id), wait: true } => wait(&queue, &id, client, out).await,
        DlqCommand::Task { queue, task_id: Some(id), wait: false } => {
            pairs(&client.read(Call::get(task_path(&queue, &id))).await?, out)
        }
        DlqCommand::Task { queue, task_id: None, .. } => tasks(&queue, client, out).await,
        DlqCommand::Cancel { queue, task_id } => {
            pairs(&client.read(Call::delete(task_path(&queue, &task_id))).await?, out)
        }
    }
}

impl FilterArgs {
    fn json(self) -> Value {
        let mut filter = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            value.and_then(|value| filter.insert(name.to_owned(), value));
        };
        set("reason", self.reason.map(Value::from));
        set("attr", object(self.attrs));
        let ms = |age: Duration| Value::from(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        set("older_than_ms", self.older_than.map(ms));
        set("ids", (!self.ids.is_empty()).then(|| Value::from(self.ids)));
        Value::Object(filter)
    }
}

fn object(pairs: Vec<(String, String)>) -> Option<Value> {
    let map: Map<String, Value> = pairs.into_iter().map(|(name, value)| (name, value.into())).collect();
    (!map.is_empty()).then_some(Value::Object(map))
}

async fn list(args: ListArgs, client: &mut Client, out: Output) -> Result<(), Failure> {
    let cursor = args.cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let path = format!("/v1/{}/peek?state=dlq&limit={}{cursor}", args.queue, args.limit);
    let page: Value = client.read(Call::get(path)).await?;
    if out.json {
        return out.value(&page);
    }
    let row = |message: &Value| {
        let dead = &message["dead_letter"];
        vec![
            text(&message["msg_id"]),
            text(&dead["reason"]),
            text(&dead["attempts"]),
            text(&dead["at"]),
            text(&dead["last_error"]),
        ]
    };
    let rows = page["messages"].as_array().into_iter().flatten().map(row).collect();
    out.table(&["msg_id", "reason", "attempts", "died_at", "last_error"], rows)?;
    match page["cursor"].as_str() {
        Some(cursor) => out.line(format!("\nmore: --cursor {cursor}")),
        None => Ok(()),
    }
}

async fn clusters(queue: &QueueKey, client: &mut Client, out: Output) -> Result<(), Failure> {
    let found: Value = client.read(Call::get(base(queue)).and_wait(LONG)).await?;
    if out.json {
        return out.value(&found);
    }
    let row = |cluster: &Value| {
        let reason = cluster["reason"].as_str().map_or_else(|| "(others)".to_owned(), printable);
        vec![
            reason,
            text(&cluster["count"]),
            text(&cluster["oldest_at"]),
            text(&cluster["newest_at"]),
            text(&cluster["sample"][0]),
        ]
    };
    let rows = found["clusters"].as_array().into_iter().flatten().map(row).collect();
    out.table(&["reason", "count", "oldest_at", "newest_at", "sample"], rows)
}

async fn show(queue: &QueueKey, msg_id: &str, client: &mut Client, out: Output) -> Result<(), Failure> {
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/{queue}/peek?state=dlq&limit=100{cursor}");
        let page: Value = client.read(Call::get(path)).await?;
        let mut messages = page["messages"].as_array().into_iter().flatten();
        if let Some(message) = messages.find(|message| message["msg_id"] == msg_id) {
            return if out.json { out.value(message) } else { pairs(message, out) };
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Err(failed("no dead letter of this topic has this id")),
        }
    }
}

impl Selection {
    /// Of these dead letters, those that it names, no more than it wants.
    pub(crate) fn narrow(&self, mut ids: Vec<String>) -> Vec<String> {
        ids.retain(|id| self.filter.ids.is_empty() || self.filter.ids.contains(id));
        ids.truncate(self.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)));
        ids
    }

    /// The same for these ids alone.
    pub(crate) fn only(mut self, ids: Vec<String>) -> Selection {
        self.filter.ids = ids;
        self
    }
}

/// Makes dead letters ready again, and waits for the end unless that is not wanted.
///
/// # Errors
/// The node's refusal, or that it cannot be reached; a task that did not end by being done.
pub(crate) async fn bring_back(
    queue: &QueueKey,
    args: Selection,
    client: &mut Client,
    out: Output,
) -> Result<(), Failure> {
    let mut body = json!({ "filter": args.filter.json(), "dry_run": args.dry_run });
    let more = [
        ("limit", args.limit.map(Value::from)),
        ("rate_per_s", args.rate.map(Value::from)),
        ("stop_if_returned", args.stop_if_returned.map(Value::from)),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    let spinner = bar(None);
    let begun: Value =
        client.read(Call::json(format!("{}/reprocess", base(queue)), &body).and_wait(LONG)).await?;
    spinner.finish_and_clear();
    match begun["task_id"].as_str() {
        Some(id) if !args.detach => wait(queue, id, client, out).await,
        Some(_) | None => pairs(&begun, out),
    }
}

/// Shows how far a task is until it is over.
async fn wait(queue: &QueueKey, id: &str, client: &mut Client, out: Output) -> Result<(), Failure> {
    let mut bar = None;
    loop {
        let task: Value = client.read(Call::get(task_path(queue, id))).await?;
        let count = |name: &str| task[name].as_u64().unwrap_or(0);
        let total = task["limit"].as_u64().map_or(count("matched"), |limit| limit.min(count("matched")));
        let bar = bar.get_or_insert_with(|| self::bar(Some(total)));
        bar.set_position(count("moved"));
        bar.set_message(format!("{} dead again", count("returned")));
        if task["state"] != "running" {
            bar.finish_and_clear();
            pairs(&task, out)?;
            let state = text(&task["state"]);
            return if state == "done" { Ok(()) } else { Err(failed(format!("the task was {state}"))) };
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn tasks(queue: &QueueKey, client: &mut Client, out: Output) -> Result<(), Failure> {
    let found: Value = client.read(Call::get(format!("{}/tasks", base(queue)))).await?;
    if out.json {
        return out.value(&found);
    }
    let names = ["task_id", "state", "matched", "moved", "returned", "started_at", "ended_at"];
    let row = |task: &Value| names.map(|name| text(&task[name])).to_vec();
    out.table(&names, found["tasks"].as_array().into_iter().flatten().map(row).collect())
}

async fn resend(args: ResendArgs, client: &mut Client, out: Output) -> Result<(), Failure> {
    let mut body = json!({ "msg_id": args.msg_id, "remove": args.remove });
    if let Some(path) = &args.file {
        body["payload_b64"] = data_encoding::BASE64.encode(&read_file(path)?).into();
    }
    let more = [
        ("payload", args.body.map(Value::from)),
        ("content_type", args.content_type.map(Value::from)),
        ("attrs", object(args.attrs)),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    pairs(&client.read(Call::json(format!("{}/resend", base(&args.queue)), &body)).await?, out)
}

fn read_file(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |err| failed(format!("{}: {err}", path.display()));
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(BODY_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(BODY_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    }
    Ok(bytes)
}

/// A bar over `total`, or a spinner; hidden if nobody watches.
fn bar(total: Option<u64>) -> ProgressBar {
    if !watched() {
        return ProgressBar::hidden();
    }
    let Some(total) = total else {
        let spinner = ProgressBar::new_spinner().with_message("reading dead letters");
        spinner.enable_steady_tick(Duration::from_millis(100));
        return spinner;
    };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} moved, {msg} [{elapsed}]");
    ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn pairs(value: &Value, out: Output) -> Result<(), Failure> {
    if out.json {
        return out.value(value);
    }
    let fields = value.as_object().into_iter().flatten();
    let pairs: Vec<(&str, String)> = fields.map(|(name, value)| (name.as_str(), text(value))).collect();
    out.pairs(&pairs)
}

/// A value as a person reads it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    }
}

fn base(queue: &QueueKey) -> String {
    format!("/v1/{queue}/dlq")
}

fn task_path(queue: &QueueKey, id: &str) -> String {
    format!("{}/tasks/{id}", base(queue))
}
