//! `ronctl topic subscribers`: who gets copies of a topic's messages.

use super::{base, escaped, show};
use crate::args;
use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::output::Output;
use clap::Args;
use ron_core::ids::{QueueKey, Topic};
use serde_json::{Map, Value, json};

/// Subscribers that one call may change (SPEC §4).
const CALL_MAX: usize = 1_000;

/// Arguments of `topic subscribers`; without any the list is shown.
#[derive(Debug, Args)]
pub(crate) struct SubscribersArgs {
    /// TENANT/TOPIC
    #[arg(value_parser = args::queue)]
    queue: QueueKey,
    /// A topic of the same tenant that gets copies from now on; may be repeated
    #[arg(long, value_name = "TOPIC", value_parser = topic)]
    add: Vec<Topic>,
    /// A topic that gets none of what is sent from now on; may be repeated
    #[arg(long, value_name = "TOPIC", value_parser = topic)]
    remove: Vec<Topic>,
    /// Those added get only messages with this attribute; may be repeated
    #[arg(long = "attr", value_name = "NAME=VALUE", value_parser = args::attribute, requires = "add")]
    attrs: Vec<(String, String)>,
}

fn topic(text: &str) -> Result<Topic, String> {
    Topic::parse(text).map_err(|bad| bad.to_string())
}

pub(super) async fn run(args: SubscribersArgs, client: &mut Client, out: Output) -> Result<(), Failure> {
    let path = format!("{}/subscribers", base(&args.queue));
    if args.add.is_empty() && args.remove.is_empty() {
        return list(&path, client, out).await;
    }
    if args.add.len() + args.remove.len() > CALL_MAX {
        return Err(Failure::Usage(format!("at most {CALL_MAX} subscribers a call")));
    }
    let attr: Map<String, Value> = args.attrs.into_iter().map(|(name, value)| (name, json!(value))).collect();
    let add = |topic: &Topic| json!({ "topic": topic.as_str(), "filter": { "attr": attr } });
    let remove = args.remove.iter().map(|topic| topic.as_str());
    let body = json!({
        "add": args.add.iter().map(add).collect::<Vec<Value>>(),
        "remove": remove.collect::<Vec<&str>>(),
    });
    let in_force: Value = client.read(Call::put_json(path, &body)).await?;
    if out.json { out.value(&in_force) } else { out.pairs(&show::flat(&in_force)) }
}

async fn list(path: &str, client: &mut Client, out: Output) -> Result<(), Failure> {
    let mut rows: Vec<Value> = Vec::new();
    let mut query = format!("?limit={CALL_MAX}");
    let page = loop {
        let page: Value = client.read(Call::get(format!("{path}{query}"))).await?;
        rows.extend(page["subscribers"].as_array().cloned().unwrap_or_default());
        match page["cursor"].as_str() {
            Some(cursor) => query = format!("?limit={CALL_MAX}&cursor={}", escaped(cursor)),
            None => break page,
        }
    };
    if out.json {
        let all = json!({ "version": page["version"], "count": page["count"], "subscribers": rows });
        return out.value(&all);
    }
    out.line(format!(
        "version {}, {} subscribers",
        show::plain(&page["version"]),
        show::plain(&page["count"])
    ))?;
    let row = |row: &Value| {
        let wanted = row["filter"]["attr"].as_object().into_iter().flatten();
        let wanted: Vec<String> =
            wanted.map(|(name, value)| format!("{name}={}", show::plain(value))).collect();
        vec![show::plain(&row["topic"]), show::plain(&row["lag"]), wanted.join(" ")]
    };
    out.table(&["topic", "lag", "only"], rows.iter().map(row).collect())
}
