//! The demo's steps about webhooks: accepted, recognised, refused, answered.

use super::stage::{self, Accepted, Stage, ensure, expect_refusal};
use crate::ambient::{self, millis, unix_seconds};
use crate::failure::{Failure, failed};
use crate::sender::Kind;
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a message that was answered may take to be there: no time at all, but the answer is not waited
/// for blindly.
const AT_ONCE: Duration = Duration::from_secs(2);

/// The lease of a message that is acked at once.
const LEASE: Duration = Duration::from_secs(30);

/// A provider's event goes in by its webhook and comes out of its topic, with the same bytes; what to tell of
/// it.
///
/// # Errors
/// If it is refused, lost, or changed.
pub(super) async fn round_trip(stage: &Stage, kind: Kind) -> Result<String, Failure> {
    let topic = kind.name();
    let id = HEXLOWER.encode(&ambient::random::<10>()?);
    let body = kind.event(&id);
    let webhook = stage.sender(kind)?.webhook(&id, unix_seconds(), &body);
    let (mut interop, consumer) = (stage.interop()?, stage.consumer()?);
    let began = ambient::now();
    let answer = interop.call(webhook).await?;
    let took = began.elapsed();
    ensure(answer.status.is_success(), || answer.refused().to_string())?;
    let deliveries = stage::recv(&consumer, topic, 10, AT_ONCE, LEASE).await?;
    let [delivered] = deliveries.as_slice() else {
        return Err(failed(format!("{} messages received instead of one", deliveries.len())));
    };
    ensure(delivered.payload == body, || format!("{} came out with other bytes", delivered.msg_id))?;
    let said = delivered.attr("webhook-provider");
    ensure(said == Some(topic), || format!("attribute webhook-provider is {said:?}"))?;
    stage::ack(&consumer, topic, &deliveries).await?;
    let status = answer.status.as_u16();
    Ok(format!("answered {status} in {:.1} ms, received with the same bytes, acked", millis(took)))
}

/// A provider sends the same event twice; the second is recognised, also after the first was acked.
///
/// # Errors
/// If it is not.
pub(super) async fn duplicate(stage: &Stage) -> Result<String, Failure> {
    let kind = Kind::Stripe;
    let body = kind.event(&HEXLOWER.encode(&ambient::random::<10>()?));
    let sender = stage.sender(kind)?;
    let (mut interop, consumer) = (stage.interop()?, stage.consumer()?);
    let first: Accepted = interop.read(sender.webhook("", unix_seconds(), &body)).await?;
    let deliveries = stage::recv(&consumer, kind.name(), 10, AT_ONCE, LEASE).await?;
    ensure(deliveries.len() == 1, || format!("{} messages received instead of one", deliveries.len()))?;
    stage::ack(&consumer, kind.name(), &deliveries).await?;
    let again: Accepted = interop.read(sender.webhook("", unix_seconds(), &body)).await?;
    let recognised = !first.duplicate && again.duplicate && first.msg_id == again.msg_id;
    ensure(recognised, || format!("first {first:?}, then {again:?}"))?;
    ensure_empty(stage, kind).await?;
    Ok(format!("recognised after the first was acked: duplicate:true, msg_id {}", again.msg_id))
}

/// A changed body does not fit its signature; the refusal.
///
/// # Errors
/// If it is accepted.
pub(super) async fn bad_signature(stage: &Stage) -> Result<String, Failure> {
    let kind = Kind::Github;
    let body = kind.event("0123456789");
    let mut webhook = stage.sender(kind)?.webhook("0123456789", unix_seconds(), &body);
    let mut changed = body;
    if let Some(byte) = changed.iter_mut().find(|byte| byte.is_ascii_digit()) {
        *byte ^= 1;
    }
    webhook.body = changed.into();
    let answer = stage.interop()?.call(webhook).await?;
    let envelope = expect_refusal(&answer, 401, "SIGNATURE_INVALID")?;
    ensure_empty(stage, kind).await?;
    Ok(format!("401 {envelope}"))
}

/// A rightly signed webhook of an hour ago is outside the window; the refusal.
///
/// # Errors
/// If it is accepted.
pub(super) async fn stale(stage: &Stage) -> Result<String, Failure> {
    let kind = Kind::Slack;
    let webhook = stage.sender(kind)?.webhook("", unix_seconds() - 3600, &kind.event("stale"));
    let answer = stage.interop()?.call(webhook).await?;
    let envelope = expect_refusal(&answer, 401, "REPLAY_WINDOW")?;
    ensure_empty(stage, kind).await?;
    Ok(format!("401 {envelope}"))
}

/// Slack's URL verification is answered with its challenge.
///
/// # Errors
/// If it is not, or enqueues something.
pub(super) async fn slack_handshake(stage: &Stage) -> Result<String, Failure> {
    let challenge = HEXLOWER.encode(&ambient::random::<16>()?);
    let body = json!({ "type": "url_verification", "token": "unused", "challenge": challenge }).to_string();
    let webhook = stage.sender(Kind::Slack)?.webhook("", unix_seconds(), body.as_bytes());
    let answer = stage.interop()?.call(webhook).await?;
    let echoed = answer.status == 200 && answer.body == challenge.as_bytes();
    ensure(echoed, || format!("answered {} {:?}", answer.status.as_u16(), answer.body))?;
    ensure_empty(stage, Kind::Slack).await?;
    Ok("url_verification answered with its challenge".to_owned())
}

/// Discord's PING is answered with a PONG, and refused if its signature is wrong, as Discord checks.
///
/// # Errors
/// If not, or if it enqueues something.
pub(super) async fn discord_handshake(stage: &Stage) -> Result<String, Failure> {
    let sender = stage.sender(Kind::Discord)?;
    let ping = sender.webhook("", unix_seconds(), br#"{"type":1}"#);
    let mut forged = ping.clone();
    forged.body = bytes::Bytes::from_static(br#"{"type": 1}"#);
    let mut interop = stage.interop()?;
    let answer = interop.call(ping).await?;
    let pong: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let ponged = answer.status == 200 && pong == Some(json!({ "type": 1 }));
    ensure(ponged, || format!("answered {} {:?}", answer.status.as_u16(), answer.body))?;
    expect_refusal(&interop.call(forged).await?, 401, "SIGNATURE_INVALID")?;
    ensure_empty(stage, Kind::Discord).await?;
    Ok("PING answered with PONG; a forged PING got 401".to_owned())
}

/// That nothing waits in the provider's topic.
async fn ensure_empty(stage: &Stage, kind: Kind) -> Result<(), Failure> {
    let left = stage::recv(&stage.consumer()?, kind.name(), 10, Duration::ZERO, LEASE).await?;
    ensure(left.is_empty(), || format!("{} messages in {} that should not be there", left.len(), kind.name()))
}
