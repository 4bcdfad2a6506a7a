//! `ronctl interop egress …`: the endpoints that messages are delivered to, and what could not be delivered.

use crate::args;
use crate::client::{Call, Client};
use crate::dlq;
use crate::failure::{Failure, failed};
use crate::output::{Output, printable};
use clap::{Args, Subcommand};
use ron_core::ids::QueueKey;
use serde_json::{Value, json};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Ids of one reprocessing: a request may have so many.
const IDS_TOGETHER: usize = 256;
/// Dead letters on one page.
const PAGE: u32 = 100;

/// What to do with egress endpoints.
#[derive(Debug, Subcommand)]
pub(crate) enum EgressCommand {
    /// List the endpoints: their state, and how the last attempt ended
    List,
    /// Stop deliveries to an endpoint, over restarts, too; its messages stay in their topic
    Disable {
        /// Its name in the configuration
        name: String,
    },
    /// Let deliveries begin again, whatever stopped them: an operator, a 410, five days of failures, the breaker
    Enable {
        /// Its name in the configuration
        name: String,
    },
    /// Make messages that could not be delivered ready again, with all their attempts; waits for the end
    Replay(ReplayArgs),
}

/// Arguments of `interop egress replay`. All that is given must hold.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The endpoint's name in the configuration
    name: String,
    /// By the time when they died: since then, RFC 3339, or so long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "detach")]
    since: Option<Moment>,
    /// And until then
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "detach")]
    until: Option<Moment>,
    #[command(flatten)]
    selection: dlq::Selection,
}

/// A moment, or how long ago.
#[derive(Debug, Clone, Copy)]
enum Moment {
    At(OffsetDateTime),
    Ago(Duration),
}

fn moment(text: &str) -> Result<Moment, String> {
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(Moment::At(at));
    }
    args::duration(text).map(Moment::Ago).map_err(|_| "neither 2026-11-23T10:00:00Z nor 2h".to_owned())
}

impl Moment {
    fn at(self, wall: OffsetDateTime) -> OffsetDateTime {
        match self {
            Moment::At(at) => at,
            Moment::Ago(ago) => wall - ago,
        }
    }
}

/// Runs `interop egress …`.
///
/// # Errors
/// The node's refusal, or that it cannot be reached.
pub(crate) async fn run(command: EgressCommand, mut client: Client, out: Output) -> Result<(), Failure> {
    let switch =
        |verb: &str, name: String| Call::json(format!("/ctl/egress/{verb}"), &json!({ "name": name }));
    let call = match command {
        EgressCommand::List => return list(&mut client, out).await,
        EgressCommand::Replay(args) => return replay(args, &mut client, out).await,
        EgressCommand::Disable { name } => switch("disable", name),
        EgressCommand::Enable { name } => switch("enable", name),
    };
    let done: Value = client.read(call).await?;
    if out.json {
        return out.value(&done);
    }
    out.line(format!("{} is {}", text(&done["name"]), text(&done["state"])))
}

async fn list(client: &mut Client, out: Output) -> Result<(), Failure> {
    let all: Value = client.read(Call::get("/ctl/egress")).await?;
    if out.json {
        return out.value(&all);
    }
    let row = |egress: &Value| {
        let state = match (egress["enabled"].as_bool(), egress["why"].as_str()) {
            (Some(false), _) => "not enabled".to_owned(),
            (_, Some(why)) => format!("{} ({why})", text(&egress["state"])),
            (_, None) => text(&egress["state"]),
        };
        let last = &egress["last"];
        let last = [&last["at"], &last["text"]].map(text).join(" ");
        let counts = ["delivered", "attempts", "under_way"].map(|key| text(&egress[key]));
        [
            vec![text(&egress["name"]), text(&egress["queue"]), text(&egress["to"]), state],
            counts.to_vec(),
            vec![last],
        ]
        .concat()
    };
    let rows = all["egress"].as_array().into_iter().flatten().map(row).collect();
    out.table(&["name", "queue", "to", "state", "delivered", "attempts", "under_way", "last"], rows)
}

/// The queue that an endpoint delivers.
async fn queue_of(name: &str, client: &mut Client) -> Result<QueueKey, Failure> {
    let all: Value = client.read(Call::get("/ctl/egress")).await?;
    let found = all["egress"].as_array().into_iter().flatten().find(|egress| egress["name"] == name);
    let queue = found.and_then(|egress| args::queue(egress["queue"].as_str()?).ok());
    queue.ok_or_else(|| failed(format!("no egress {name} is configured: see `ronctl interop egress list`")))
}

async fn replay(args: ReplayArgs, client: &mut Client, out: Output) -> Result<(), Failure> {
    let queue = queue_of(&args.name, client).await?;
    let wall = OffsetDateTime::from_unix_timestamp_nanos(i128::from(crate::ambient::wall().0) * 1_000_000);
    let wall = wall.map_err(|_| failed("the clock of this machine is wrong".to_owned()))?;
    let (since, until) = (args.since.map(|at| at.at(wall)), args.until.map(|at| at.at(wall)));
    if since.is_none() && until.is_none() {
        return dlq::bring_back(&queue, args.selection, client, out).await;
    }
    // The node's filters know no window of time, so the ids in it are what is asked for.
    let within = |at: OffsetDateTime| since.is_none_or(|from| at >= from) && until.is_none_or(|to| at <= to);
    let ids = args.selection.narrow(dead_within(&queue, client, within).await?);
    if ids.is_empty() {
        return dlq::bring_back(&queue, args.selection.only(vec![NOBODY.to_owned()]), client, out).await;
    }
    for some in ids.chunks(IDS_TOGETHER) {
        dlq::bring_back(&queue, args.selection.clone().only(some.to_vec()), client, out).await?;
    }
    Ok(())
}

/// An id that no message has: what asks for it matches nothing.
const NOBODY: &str = "00000000000000000000000000";

/// The dead letters of a topic that died in a window of time.
async fn dead_within(
    queue: &QueueKey,
    client: &mut Client,
    within: impl Fn(OffsetDateTime) -> bool,
) -> Result<Vec<String>, Failure> {
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/{queue}/peek?state=dlq&limit={PAGE}{cursor}");
        let page: Value = client.read(Call::get(path)).await?;
        for message in page["messages"].as_array().into_iter().flatten() {
            let died = message["dead_letter"]["at"].as_str();
            let died = died.and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
            if died.is_some_and(&within) {
                ids.extend(message["msg_id"].as_str().map(str::to_owned));
            }
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(ids),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    }
}
