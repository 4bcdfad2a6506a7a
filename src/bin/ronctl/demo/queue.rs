//! The demo's steps about the queue's own promises: a lease outlives the process, a poison message ends in
//! the DLQ.

use super::stage::{self, ATTEMPTS_MAX, Stage, ensure, path};
use crate::client::Call;
use crate::failure::{Failure, failed};
use ron_client::{Delivery, Message, Nack};
use serde_json::Value;
use std::time::Duration;

/// The topic of the leased message.
const LEASED: &str = "leased";

/// The topic of the message that nobody can work on.
const POISON: &str = "poison";

/// Longer than the demo takes: the lease must not end by itself.
const LONG: Duration = Duration::from_secs(120);

/// How long a retry that is due soon may take.
const SOON: Duration = Duration::from_secs(3);

/// Leases a message for longer than the node will live.
///
/// # Errors
/// If it is not handed out.
pub(super) async fn lease(stage: &Stage) -> Result<Delivery, Failure> {
    let consumer = stage.consumer()?;
    consumer.send(LEASED, Message::new("work in progress")).await?;
    let mut deliveries = stage::recv(&consumer, LEASED, 1, SOON, LONG).await?;
    deliveries.pop().ok_or_else(|| failed("the message was not handed out"))
}

/// After the restart the message is still leased, and the receipt of before still settles it.
///
/// # Errors
/// If it is handed out again, or the receipt is refused.
pub(super) async fn lease_stands(stage: &Stage, delivered: Delivery) -> Result<String, Failure> {
    let (consumer, mut mailbox) = (stage.consumer()?, stage.mailbox()?);
    let early = stage::recv(&consumer, LEASED, 1, Duration::ZERO, LONG).await?;
    ensure(early.is_empty(), || format!("{} was delivered again before its deadline", delivered.msg_id))?;
    stage::ack(&consumer, LEASED, &[delivered]).await?;
    let stat = stage::stat(&mut mailbox, LEASED).await?;
    ensure(stat["ready"] == 0 && stat["vis"] == 0, || format!("acked, but the topic says {stat}"))?;
    Ok("not delivered again; the receipt from before the kill acked it".to_owned())
}

/// A message that fails every time is retried, then dead-lettered with the consumer's last error.
///
/// # Errors
/// If it is retried too little or too often, or is not in the DLQ.
pub(super) async fn poison(stage: &Stage) -> Result<String, Failure> {
    let (consumer, mut mailbox) = (stage.consumer()?, stage.mailbox()?);
    consumer.send(POISON, Message::new("poison")).await?;
    for attempt in 1..=ATTEMPTS_MAX {
        let deliveries = stage::recv(&consumer, POISON, 1, SOON, LONG).await?;
        let counted = deliveries.first().map(|delivered| delivered.attempt);
        ensure(counted.map(u64::from) == Some(attempt), || {
            format!("attempt {attempt}: the delivery says {counted:?}")
        })?;
        let receipts: Vec<_> = deliveries.iter().map(|delivered| delivered.receipt).collect();
        let why = Nack::fail(format!("cannot parse, attempt {attempt}")).delay(Duration::from_millis(20));
        stage::settled(consumer.nack(POISON, &receipts, why).await?)?;
    }
    let again = stage::recv(&consumer, POISON, 1, Duration::from_millis(200), LONG).await?;
    ensure(again.is_empty(), || format!("handed out a {}th time", ATTEMPTS_MAX + 1))?;
    let page: Value = mailbox.read(Call::get(path(POISON, "/peek?state=dlq"))).await?;
    let letter = &page["messages"][0]["dead_letter"];
    let last = format!("cannot parse, attempt {ATTEMPTS_MAX}");
    let right = letter["reason"] == "max_attempts"
        && letter["attempts"] == ATTEMPTS_MAX
        && letter["last_error"] == last;
    ensure(right, || format!("the DLQ says {page}"))?;
    Ok(format!("failed {ATTEMPTS_MAX} times, then in the DLQ: max_attempts, {last:?}"))
}
