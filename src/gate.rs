//! From a webhook to a stored message: the provider's verifier judges it, and the mailbox takes it under the
//! capability that the verifier minted. No path enqueues without one.

use crate::http::intake::{Allowance, Terms};
use crate::http::interop::{CustomAnswer, WebhookAnswer, WebhookCall, WebhookGate};
use crate::http::webhooks::Trace;
use crate::metrics::{ProviderMetrics, WebhookResult};
use bytes::Bytes;
use http::{HeaderMap, Method};
use ron_actors::interop::{Judged, VerifierHandle};
use ron_actors::kernel::bus::Bus;
use ron_actors::kernel::event::Event;
use ron_actors::mailbox::Mailbox;
use ron_actors::passport::Passport;
use ron_actors::policy::InForce;
use ron_core::capability::{Ask, Audience, Op};
use ron_core::egress::headers::is_traceparent;
use ron_core::ids::{ContentHash, MessageId, QueueKey};
use ron_core::message::{MessageMeta, NewMessage};
use ron_core::policy::{Allowed, Request};
use ron_core::reason::{Reason, Refusal};
use ron_core::scheme::{Accepted, Handshake, HeaderList, ProviderRules};
use ron_core::time::Clock;
use std::collections::HashMap;
use std::sync::Arc;

/// A provider that is served.
#[derive(Debug)]
pub struct Served {
    /// Its rules, for the checks before its verifier.
    pub rules: Arc<ProviderRules>,
    /// Its verifier.
    pub verifier: VerifierHandle,
    /// Where its events go.
    pub queue: QueueKey,
    /// What its webhooks may be, and hold before they are verified.
    pub allowance: Allowance,
    /// Its metrics.
    pub metrics: ProviderMetrics,
}

/// See the module.
#[derive(Debug)]
pub struct Gate {
    /// The providers that are enabled, by name.
    pub providers: Arc<HashMap<String, Served>>,
    /// Where events go.
    pub mailbox: Mailbox,
    /// Checks the minted capability like any other.
    pub passport: Passport,
    /// Tells of accepted webhooks.
    pub bus: Bus,
    /// Wall clock.
    pub clock: Arc<dyn Clock>,
    /// What may come in at all, and what the tenants may use.
    pub policy: InForce,
}

fn header_list(headers: &HeaderMap) -> HeaderList {
    headers.iter().map(|(name, value)| (name.as_str(), Bytes::copy_from_slice(value.as_bytes()))).collect()
}

impl Gate {
    fn served(&self, provider: &str) -> Result<&Served, Refusal> {
        let unknown = || Refusal::new(Reason::PolicyBlocked, "no provider of this name is enabled");
        self.providers.get(provider).ok_or_else(unknown)
    }

    /// What the policy makes of the provider's events.
    fn allowed(&self, provider: &str, served: &Served) -> Result<Allowed, Refusal> {
        let QueueKey { tenant, topic } = &served.queue;
        let request = Request { op: Op::Enqueue, tenant, topic: Some(topic), provider: Some(provider) };
        self.policy.peek().policy.judge(&request)
    }

    async fn judged(
        &self,
        served: &Served,
        call: WebhookCall<'_>,
        trace: &mut Trace,
    ) -> Result<WebhookAnswer, Refusal> {
        trace.step = Some("POLICY");
        self.allowed(call.provider, served)?.check_bytes(call.body.len() as u64)?;
        let wall = self.clock.wall();
        let headers = header_list(call.headers);
        let method = call.method.as_str().to_owned();
        let query = call.uri.query().unwrap_or_default().to_owned();
        trace.step = Some("VERIFIER");
        match served.verifier.judge(method, query, headers, call.body.clone(), wall).await? {
            Judged::Refused(rejection) => {
                trace.step = Some(rejection.why.code());
                tracing::debug!(
                    provider = call.provider,
                    why = rejection.why.code(),
                    reason = rejection.refusal.reason.code(),
                    corr_id = %call.call.corr,
                    "webhook refused"
                );
                Err(rejection.refusal)
            }
            Judged::Handshake(Handshake { confirm: Some(_), .. }) => {
                let text = "this node does not visit the provider's confirmation URL; confirm the subscription there";
                Err(Refusal::new(Reason::DownstreamUnavailable, text).without_effect())
            }
            Judged::Handshake(handshake) => {
                if let Some(kid) = &handshake.kid {
                    served.metrics.secret_matched(kid.as_str());
                }
                trace.kid = handshake.kid.clone();
                served.metrics.verified(WebhookResult::Handshake);
                Ok(WebhookAnswer::Handshake(handshake_answer(handshake)))
            }
            Judged::Accepted(accepted, token) => {
                served.metrics.secret_matched(accepted.kid.as_str());
                trace.kid = Some(accepted.kid.clone());
                (trace.skew_ms, trace.unsigned_decided) = (accepted.skew_ms, accepted.unsigned_decided);
                trace.step = Some("SHED");
                call.admitted.clone()?;
                trace.step = Some("RATE");
                served.allowance.rate.charge()?;
                call.rate.charge_webhook()?;
                self.enqueue(served, &call, &accepted, &token, trace).await
            }
        }
    }

    async fn enqueue(
        &self,
        served: &Served,
        call: &WebhookCall<'_>,
        accepted: &Accepted,
        token: &str,
        trace: &mut Trace,
    ) -> Result<WebhookAnswer, Refusal> {
        trace.step = Some("CAPABILITY");
        let ask = Ask {
            op: Op::Enqueue,
            tenant: &served.queue.tenant,
            topic: Some(&served.queue.topic),
            audience: Audience::Mailbox,
            peer: call.call.peer.ip(),
            message_bytes: Some(call.body.len() as u64),
            wall_unix_s: self.clock.wall().0 / 1000,
        };
        let grant = self.passport.authorize_once(token, &ask).await?;
        trace.cap_id = Some(grant.capability.cap_id);
        trace.step = Some("QUOTA");
        let (tenant, bytes) = (&served.queue.tenant, call.body.len() as u64);
        self.policy.charge_request(tenant, &*self.clock)?;
        self.policy.charge_bytes(tenant, &*self.clock, bytes)?;
        trace.step = Some("ENQUEUE");
        let message = self.message(served, call, accepted);
        let stored = self.mailbox.enqueue(&served.queue, vec![message]).await;
        let stored = stored.inspect_err(|refusal| self.policy.give_back(tenant, bytes, refusal))?.pop();
        let enqueued = match stored {
            Some(Ok(enqueued)) => enqueued,
            Some(Err(Reason::IdempotencyConflict)) => {
                trace.step = Some("DEDUP");
                let text = "this event's id is known, with another body, and the body is not signed";
                return Err(Refusal::new(Reason::ReplayWindow, text));
            }
            Some(Err(reason)) => {
                let text = "no more events can be remembered now: none is forgotten early; retry later";
                return Err(Refusal::new(reason, text));
            }
            None => return Err(Refusal::new(Reason::Internal, "the mailbox gave no answer")),
        };
        trace.id_conflict = enqueued.other_body;
        if enqueued.other_body {
            tracing::info!(
                provider = call.provider,
                corr_id = %call.call.corr,
                "id_conflict: a known event came with another signed body; taken for the provider's own retry"
            );
        }
        let result = if enqueued.duplicate { WebhookResult::Duplicate } else { WebhookResult::Accepted };
        served.metrics.verified(result);
        self.bus.publish_for(
            Event::WebhookAccepted {
                provider: served.rules.name().clone(),
                msg_id: enqueued.msg_id.to_string().into(),
                duplicate: enqueued.duplicate,
            },
            Some(call.call.corr.clone()),
        );
        Ok(accepted_answer(accepted, enqueued.msg_id, enqueued.duplicate))
    }

    fn message(&self, served: &Served, call: &WebhookCall<'_>, accepted: &Accepted) -> NewMessage {
        let payload = call.body.clone();
        let payload_hash = ContentHash::of(&payload);
        let content_type = call.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let mut attrs = accepted.attrs.clone();
        attrs.extend(trace_of(call.headers));
        let meta = MessageMeta {
            content_type: content_type.unwrap_or("application/octet-stream").to_owned(),
            attrs,
            idempotency_key: None,
            corr_id: call.call.corr.to_string(),
            source_msg_id: None,
        };
        let dedup = Some(accepted.dedup.claim(served.rules.name(), &payload_hash));
        NewMessage { payload, payload_hash, meta, delay_ms: 0, ttl_ms: None, dedup }
    }
}

/// The W3C trace that the webhook is part of. No signature covers it, and it decides nothing: egress sends it on.
fn trace_of(headers: &HeaderMap) -> Option<(String, String)> {
    let mut all = headers.get_all("traceparent").iter();
    let parent = all.next().filter(|_| all.next().is_none()).and_then(|value| value.to_str().ok())?;
    is_traceparent(parent).then(|| ("traceparent".to_owned(), parent.to_owned()))
}

fn handshake_answer(handshake: Handshake) -> CustomAnswer {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    CustomAnswer {
        status: handshake.status,
        content_type: handshake.content_type,
        body: handshake.body.into(),
        headers: handshake.headers.iter().map(owned).collect(),
    }
}

/// The answer that the scheme names; by default the node's own.
fn accepted_answer(accepted: &Accepted, msg_id: MessageId, duplicate: bool) -> WebhookAnswer {
    let custom = match &accepted.reply.body {
        Some((content_type, body)) => Some((content_type.clone(), Bytes::from(body.clone()))),
        None if accepted.reply.status == 202 => None,
        None => Some((None, Bytes::new())),
    };
    let custom = custom.map(|(content_type, body)| CustomAnswer {
        status: accepted.reply.status,
        content_type,
        body,
        headers: Vec::new(),
    });
    WebhookAnswer::Accepted { msg_id, duplicate, custom }
}

impl WebhookGate for Gate {
    fn precheck(
        &self,
        provider: &str,
        method: &Method,
        headers: &HeaderMap,
        trace: &mut Trace,
    ) -> Result<Terms<'_>, Refusal> {
        trace.step = Some("PROVIDER");
        let served = self.served(provider)?;
        (trace.provider, trace.queue) = (Some(served.rules.name().clone()), Some(served.queue.clone()));
        trace.step = Some("POLICY");
        let judged = self.allowed(provider, served).and_then(|_| {
            let checked = served.rules.precheck(method.as_str(), &header_list(headers), self.clock.wall());
            checked.map(drop).map_err(|rejection| {
                trace.step = Some(rejection.why.code());
                rejection.refusal
            })
        });
        judged.inspect_err(|refusal| served.metrics.verified(WebhookResult::Refused(refusal.reason)))?;
        Ok(served.allowance.terms())
    }

    async fn receive(&self, call: WebhookCall<'_>, trace: &mut Trace) -> Result<WebhookAnswer, Refusal> {
        let served = self.served(call.provider)?;
        let answer = self.judged(served, call, trace).await;
        if let Err(refusal) = &answer {
            served.metrics.verified(WebhookResult::Refused(refusal.reason));
        }
        answer
    }
}
