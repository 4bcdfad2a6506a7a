//! `ronctl topic set|pause|resume|purge|delete`: what changes a topic as a whole.

use super::{base, show};
use crate::args;
use crate::client::{Call, Client};
use crate::failure::Failure;
use crate::output::Output;
use clap::{Args, ValueEnum};
use ron_core::ids::QueueKey;
use serde_json::{Map, Value, json};

/// Arguments of `topic set`.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// TENANT/TOPIC
    #[arg(value_parser = args::queue)]
    queue: QueueKey,
    /// Settings as `stat` shows them; numbers, or durations such as 30s for those in ms
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, Value)>,
}

/// What to stop or start again.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum What {
    Recv,
    Enqueue,
    Both,
}

/// One setting of the command line. What the names and their ranges are is the node's to say.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as max_attempts=3")?;
    let value = match (value.parse::<u64>(), value) {
        (Ok(number), _) => json!(number),
        (Err(_), "true") => json!(true),
        (Err(_), "false") => json!(false),
        (Err(_), _) if name.ends_with("_ms") => {
            json!(u64::try_from(args::duration(value)?.as_millis()).unwrap_or(u64::MAX))
        }
        (Err(_), text) => json!(text),
    };
    Ok((name.to_owned(), value))
}

pub(super) async fn set(args: SetArgs, client: &mut Client, out: Output) -> Result<(), Failure> {
    let body = Value::Object(args.settings.into_iter().collect::<Map<String, Value>>());
    let in_force: Value =
        client.read(Call::put_json(format!("{}/settings", base(&args.queue)), &body)).await?;
    if out.json { out.value(&in_force) } else { out.pairs(&show::flat(&in_force)) }
}

pub(super) async fn pause(
    queue: &QueueKey,
    what: What,
    call: &str,
    client: &mut Client,
    out: Output,
) -> Result<(), Failure> {
    let body = json!({ "what": format!("{what:?}").to_lowercase() });
    let now: Value = client.read(Call::json(format!("{}/{call}", base(queue)), &body)).await?;
    if out.json { out.value(&now) } else { out.pairs(&show::flat(&now)) }
}

pub(super) async fn purge(queue: &QueueKey, client: &mut Client, out: Output) -> Result<(), Failure> {
    let body = json!({ "confirm": queue.topic.as_str() });
    let purged: Value = client.read(Call::json(format!("{}/purge", base(queue)), &body)).await?;
    if out.json { out.value(&purged) } else { out.pairs(&show::flat(&purged)) }
}

pub(super) async fn delete(queue: &QueueKey, client: &mut Client, out: Output) -> Result<(), Failure> {
    let body = json!({ "confirm": queue.topic.as_str() });
    let deleted: Value = client.read(Call::delete_json(base(queue), &body)).await?;
    if out.json { out.value(&deleted) } else { out.pairs(&show::flat(&deleted)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_numbers_durations_flags_or_words() {
        let read = |text| setting(text).map(|(_, value)| value);
        assert_eq!(read("max_attempts=3"), Ok(json!(3)));
        assert_eq!(read("retention_ms=2h"), Ok(json!(7_200_000)));
        assert_eq!(read("fifo=false"), Ok(json!(false)));
        assert_eq!(read("durability=fsync"), Ok(json!("fsync")));
        assert!(read("max_attempts").is_err());
        assert!(read("retention_ms=soon").is_err());
    }
}
