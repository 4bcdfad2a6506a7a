//! `ronctl topic recv --follow`: shows messages as they come, until interrupted or the node ends the stream.

use super::{RecvArgs, ack, all_settled, base, show, whole_ms};
use crate::client::{Call, Client};
use crate::failure::{Failure, failed};
use crate::output::{Output, warn};
use serde_json::{Value, json};

pub(super) async fn follow(args: RecvArgs, client: &mut Client, out: Output) -> Result<(), Failure> {
    let mut want = json!({ "max_inflight": args.max });
    if let Some(visibility) = args.visibility {
        want["visibility_ms"] = json!(whole_ms(visibility));
    }
    let mut lines = client.lines(Call::json(format!("{}/recv/stream", base(&args.queue)), &want)).await?;
    while let Some(line) = lines.next().await? {
        if line.is_empty() {
            continue; // it says that it is there
        }
        let message: Value = serde_json::from_slice(&line)
            .map_err(|err| failed(format!("the node's line is not what was expected: {err}")))?;
        let Some(receipt) = message["receipt"].as_str() else {
            return Err(failed(format!(
                "the stream ended: {}: {}",
                show::plain(&message["reason"]),
                show::plain(&message["error"])
            )));
        };
        match out.json {
            true => out.value(&message)?,
            false => out.line(format!("{}\n", show::envelope(&message)))?,
        }
        if args.ack {
            all_settled(&ack(&args.queue, &[receipt.to_owned()], client).await?)?;
        }
    }
    warn("the node ended the stream: it shuts down");
    Ok(())
}
