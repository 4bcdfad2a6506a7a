//! The way of one message: signed, delivered under a lease that is kept, judged, settled.

use super::carrier::{Carrier, REST};
use super::endpoint::Endpoint;
use super::{Attempted, Ended, Outbound};
use crate::mailbox::Settle;
use ron_core::capability::Op;
use ron_core::egress::{Failure, Outcome, headers, retry_after_ms};
use ron_core::envelope::Delivered;
use ron_core::ids::{Kid, QueueKey};
use ron_core::reason::{Reason, Refusal};
use ron_core::shard::NackMode;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Longest text that is kept with a failed attempt.
const NOTE_CHARS_MAX: usize = 256;
/// The reason of a dead letter whose topic allows more attempts than the schedule has.
const EXHAUSTED: &str = "egress_exhausted";

/// The reason of a dead letter whose body is an object.
const BODY_IS_AN_OBJECT: &str = "egress_body_ref";

/// How a message is settled, and what is kept with it.
struct Settling {
    how: Settle,
    op: Op,
}

impl Carrier {
    /// One attempt at one message, to the end.
    pub(super) async fn carry(&self, message: Delivered, topic_attempts: &AtomicU32) {
        let _aboard = Aboard::of(&self.endpoint);
        if message.message.meta.body_ref.is_some() {
            // delivered with an empty body it would be another message, and nobody would know
            tracing::warn!(egress = self.name(), msg_id = %message.msg_id, "objects are not delivered");
            let note = Some(BODY_IS_AN_OBJECT.to_owned());
            let how = Settle::Nack { mode: NackMode::Reject, delay_ms: None, note };
            return self.settle(&message, Settling { how, op: Op::Nack }).await;
        }
        let wall = self.parts.clock.wall();
        let id = headers::webhook_id(&message);
        let signed = match self.endpoint.spec().signer.sign(&id, wall, &message.message.payload) {
            Ok(signed) => signed,
            Err(error) => {
                tracing::error!(egress = self.name(), msg_id = %message.msg_id, %error, "not signed");
                return self.settle(&message, release()).await;
            }
        };
        let mut request = Outbound { headers: signed.headers, body: message.message.payload.clone() };
        request.headers.push(("content-type".into(), headers::content_type(&message).to_owned()));
        let trace = headers::trace_context(&message).into_iter();
        request.headers.extend(trace.map(|(name, value)| (name.to_owned(), value)));
        let attempted = self.deliver(&message, request).await;
        let outcome = match &attempted.ended {
            Ended::Answered { status, .. } => Outcome::of_status(*status, &self.endpoint.spec().terminal),
            Ended::Failed(failure) => Outcome::Failed(*failure),
        };
        self.log(&message, outcome, &attempted, &signed.kids);
        self.endpoint.ended(&self.parts, message.msg_id, outcome, &attempted);
        self.endpoint.keep().await;
        let settling = self.judge(&message, outcome, &attempted, topic_attempts.load(Ordering::Relaxed));
        self.settle(&message, settling).await;
    }

    /// Delivers, and keeps the lease meanwhile.
    async fn deliver(&self, message: &Delivered, request: Outbound) -> Attempted {
        let visibility_ms = self.lease_ms();
        let mut delivering = pin!(self.endpoint.transport().deliver(request));
        loop {
            let half = tokio::time::sleep(Duration::from_millis(visibility_ms / 2));
            tokio::select! {
                attempted = &mut delivering => return attempted,
                () = half => {
                    let extend = Settle::Extend { visibility_ms };
                    if let Err(refusal) = self.settle_once(message, extend, Op::Recv).await {
                        tracing::warn!(egress = self.name(), %refusal, "a lease was not extended");
                    }
                }
            }
        }
    }

    /// What an outcome means for the message.
    fn judge(
        &self,
        message: &Delivered,
        outcome: Outcome,
        attempted: &Attempted,
        topic_attempts: u32,
    ) -> Settling {
        let nack =
            |mode, delay_ms, note| Settling { how: Settle::Nack { mode, delay_ms, note }, op: Op::Nack };
        let wants_ms = match &attempted.ended {
            Ended::Answered { retry_after: Some(value), .. } => {
                retry_after_ms(value, self.parts.clock.wall())
            }
            Ended::Answered { .. } | Ended::Failed(_) => None,
        };
        match outcome {
            Outcome::Delivered => Settling { how: Settle::Ack, op: Op::Ack },
            Outcome::Gone => release(),
            Outcome::Terminal(status) => {
                nack(NackMode::Reject, None, Some(format!("egress_status_{status}")))
            }
            Outcome::Failed(_) => {
                let schedule = &self.endpoint.spec().schedule;
                let note = Some(note(outcome, attempted));
                match schedule.delay_ms(message.attempt, outcome, wants_ms, self.random()) {
                    Some(delay_ms) => nack(NackMode::Fail, Some(delay_ms), note),
                    // its last failure dead-letters it by the topic's own count, and is kept with it
                    None if topic_attempts <= message.attempt => nack(NackMode::Fail, None, note),
                    None => nack(NackMode::Reject, None, Some(EXHAUSTED.to_owned())),
                }
            }
        }
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        // without randomness all jitter the same way, which does no harm
        let _ = self.parts.entropy.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Settles, and goes on trying while the lease runs: an ack that is lost is a delivery that is repeated.
    async fn settle(&self, message: &Delivered, settling: Settling) {
        let Settling { how, op } = settling;
        while let Err(refusal) = self.settle_once(message, how.clone(), op).await {
            if self.now() >= message.deadline || refusal.reason == Reason::StaleReceipt {
                tracing::warn!(egress = self.name(), msg_id = %message.msg_id, %refusal, "not settled: it comes again");
                return;
            }
            tokio::time::sleep(REST).await;
        }
    }

    async fn settle_once(&self, message: &Delivered, how: Settle, op: Op) -> Result<(), Refusal> {
        let QueueKey { tenant, topic } = self.queue();
        let token = self.parts.passport.mint_egress(tenant, topic, self.parts.clock.wall())?;
        self.enter(&token, op).await?;
        let receipts = vec![message.receipt.to_string()];
        let settled = self.parts.mailbox.settle(self.queue(), how, receipts).await?;
        match settled.first() {
            Some(Err(reason)) => Err(Refusal::new(*reason, "the delivery is no longer this egress's")),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// The line of one attempt. Names no payload, attribute, secret, header or path.
    fn log(&self, message: &Delivered, outcome: Outcome, attempted: &Attempted, kids: &[Kid]) {
        let took = attempted.took;
        let (status, cut) = match &attempted.ended {
            Ended::Answered { status, cut, .. } => (Some(*status), Some(*cut).filter(|cut| *cut)),
            Ended::Failed(_) => (None, None),
        };
        let phase = match attempted.ended {
            Ended::Failed(Failure::Timeout(phase) | Failure::Broken(phase)) => phase.label(),
            Ended::Failed(Failure::Ssrf) => "dns",
            Ended::Answered { .. } | Ended::Failed(_) => "http",
        };
        let kids: Vec<&str> = kids.iter().map(Kid::as_str).collect();
        let peer = attempted.peer.map(|peer| peer.to_string());
        tracing::info!(
            egress = self.name(),
            msg_id = %message.msg_id,
            attempt = message.attempt,
            result = outcome.label(),
            phase,
            peer,
            status,
            cut,
            dns_ms = took.dns_ms,
            tcp_ms = took.tcp_ms,
            tls_ms = took.tls_ms,
            http_ms = took.http_ms,
            kids = kids.join(","),
            config = self.endpoint.spec().config_version,
            detail = attempted.detail,
            "egress attempt"
        );
    }
}

/// An attempt that is under way, until it ends or is broken off.
struct Aboard<'e>(&'e Endpoint);

impl Aboard<'_> {
    fn of(endpoint: &Endpoint) -> Aboard<'_> {
        endpoint.under_way.fetch_add(1, Ordering::Relaxed);
        Aboard(endpoint)
    }
}

impl Drop for Aboard<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

fn release() -> Settling {
    let how = Settle::Nack { mode: NackMode::Release, delay_ms: None, note: None };
    Settling { how, op: Op::Nack }
}

fn note(outcome: Outcome, attempted: &Attempted) -> String {
    let text = match &attempted.detail {
        Some(detail) => format!("{outcome}: {detail}"),
        None => outcome.to_string(),
    };
    text.chars().take(NOTE_CHARS_MAX).collect()
}
