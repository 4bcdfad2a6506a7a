//! Takes everything out of the webhooks' topics.

use crate::api::{Api, text};
use anyhow::{Result, ensure};
use data_encoding::BASE64;
use serde_json::{Value, json};

/// A message as it came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its id.
    pub msg_id: String,
    /// Its payload.
    pub body: Vec<u8>,
    /// Its attribute `webhook-provider`.
    pub provider: String,
    /// Its attribute `webhook-id`: only where the id is signed.
    pub id: Option<String>,
}

/// Receives and acks until `topic` is empty and nothing of it is in flight.
///
/// # Errors
/// A call fails, an ack is refused, or the node keeps something in flight that nobody has.
pub fn drain(api: &mut Api, topic: &str, into: &mut Vec<Stored>) -> Result<()> {
    loop {
        let ask = json!({"max_messages": 256, "visibility_ms": 600_000, "wait_ms": 200});
        let got = api.recv(topic, &ask)?;
        if got.is_empty() {
            break;
        }
        for message in &got {
            let attrs = &message["attrs"];
            into.push(Stored {
                msg_id: text(message, "msg_id").to_owned(),
                body: payload(message)?,
                provider: text(attrs, "webhook-provider").to_owned(),
                id: attrs["webhook-id"].as_str().map(str::to_owned),
            });
        }
        let receipts: Vec<&str> = got.iter().map(|message| text(message, "receipt")).collect();
        for result in api.settle(topic, "ack", &receipts, &Value::Null)? {
            ensure!(result["ok"] == true, "ack in {topic}: {result}");
        }
    }
    let stat = api.done("GET", topic, &Value::Null)?;
    for state in ["ready", "delayed", "vis", "dlq"] {
        ensure!(stat[state] == 0, "{topic} is not empty after everything was taken: {stat}");
    }
    Ok(())
}

fn payload(message: &Value) -> Result<Vec<u8>> {
    if let Some(text) = message["payload"].as_str() {
        return Ok(text.as_bytes().to_vec());
    }
    Ok(BASE64.decode(text(message, "payload_b64").as_bytes())?)
}
