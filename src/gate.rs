//! From a webhook to a stored message: the provider's verifier judges it, and the mailbox takes it under the
//! capability that the verifier minted. No path enqueues without one.

use crate::egress::{VisitRules, Visitor};
use crate::http::intake::Allowance;
use crate::http::interop::{CustomAnswer, WebhookAnswer, WebhookCall, WebhookGate};
use crate::http::webhooks::Trace;
use crate::metrics::{ProviderMetrics, ShadowMetrics, WebhookResult};
use crate::providers::Providers;
use bytes::Bytes;
use http::{HeaderMap, Method};
use ron_actors::interop::{Case, Judged, VerifierHandle};
use ron_actors::kernel::bus::Bus;
use ron_actors::kernel::event::Event;
use ron_actors::mailbox::Mailbox;
use ron_actors::passport::{Grant, Passport};
use ron_actors::policy::InForce;
use ron_core::capability::{Ask, Audience, Op};
use ron_core::egress::headers::is_traceparent;
use ron_core::ids::{ContentHash, MessageId, QueueKey};
use ron_core::message::{MessageMeta, NewMessage};
use ron_core::policy::{Allowed, Request};
use ron_core::reason::{Reason, Refusal};
use ron_core::rotation::Rotation;
use ron_core::scheme::{AcceptReply, Accepted, Handshake, HeaderList, ProviderRules};
use ron_core::time::Clock;
use std::sync::{Arc, Mutex};

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
    pub allowance: Arc<Allowance>,
    /// Its metrics.
    pub metrics: ProviderMetrics,
    /// Counts verdicts that have no effect: it is in shadow mode (`enforce = false`).
    pub shadow: Option<ShadowMetrics>,
    /// How far its secrets are; the same over reloads.
    pub rotation: Arc<Mutex<Rotation>>,
    /// How its subscriptions are confirmed, if they are.
    pub confirm: Option<VisitRules>,
}

/// See the module.
#[derive(Debug)]
pub struct Gate {
    /// The providers that are served.
    pub providers: Arc<Providers>,
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
    /// Visits what subscriptions are confirmed by.
    pub visitor: Visitor,
}

fn header_list(headers: &HeaderMap) -> HeaderList {
    headers.iter().map(|(name, value)| (name.as_str(), Bytes::copy_from_slice(value.as_bytes()))).collect()
}

impl Gate {
    fn served(&self, provider: &str) -> Result<Arc<Served>, Refusal> {
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
        mut call: WebhookCall<'_>,
        trace: &mut Trace,
    ) -> Result<WebhookAnswer, Refusal> {
        trace.step = Some("POLICY");
        let allowed = self.allowed(call.provider, served);
        if let Err(refusal) = allowed.and_then(|allowed| allowed.check_bytes(call.body.len() as u64)) {
            return shadowed(served, call.method, refusal, trace).map(|()| shadow_answer(served));
        }
        let case = self.case(served, &call, std::mem::take(&mut trace.headers));
        let wall = case.wall;
        trace.step = Some("VERIFIER");
        match served.verifier.judge(case).await? {
            Judged::Refused(rejection) => {
                trace.step = Some(rejection.why.code());
                trace.late_kid = rejection.signer;
                tracing::debug!(
                    provider = call.provider,
                    why = rejection.why.code(),
                    reason = rejection.refusal.reason.code(),
                    corr_id = %call.call.corr,
                    "webhook refused"
                );
                shadowed(served, call.method, rejection.refusal, trace).map(|()| shadow_answer(served))
            }
            Judged::Handshake(mut handshake) => {
                if let Some(kid) = &handshake.kid {
                    served.metrics.secret_matched(kid.as_str());
                    // of a GET it is us who signed the answer, and the sender nothing
                    if call.method == Method::POST {
                        served.rotation().matched(kid, wall);
                    }
                }
                trace.kid = handshake.kid.clone();
                if let Some(url) = handshake.confirm.take() {
                    trace.step = Some("CONFIRM");
                    self.confirm(served, &mut call, &url).await?;
                }
                served.metrics.verified(WebhookResult::Handshake);
                Ok(WebhookAnswer::Handshake(handshake_answer(handshake)))
            }
            Judged::Accepted(accepted, grant) => {
                served.metrics.secret_matched(accepted.kid.as_str());
                served.rotation().matched(&accepted.kid, wall);
                accepted.skew_ms.into_iter().for_each(|ms| served.metrics.skewed(ms));
                trace.kid = Some(accepted.kid.clone());
                (trace.skew_ms, trace.unsigned_decided) = (accepted.skew_ms, accepted.unsigned_decided);
                if let Some(shadow) = &served.shadow {
                    shadow.accepted();
                    return Ok(shadow_answer(served));
                }
                trace.step = Some("SHED");
                call.admitted.clone()?;
                trace.step = Some("RATE");
                served.allowance.rate.charge()?;
                call.rate.charge_webhook()?;
                trace.step = Some("BYTES");
                let _room = call.budgets.sends.reserve(call.body.len())?;
                // its sender is known: what strangers may hold is theirs again, however slow the store is
                call.unverified = None;
                self.enqueue(served, &call, &accepted, grant, trace).await
            }
        }
    }

    /// Confirms a subscription that the provider has signed the question for.
    async fn confirm(&self, served: &Served, call: &mut WebhookCall<'_>, url: &str) -> Result<(), Refusal> {
        let Some(rules) = &served.confirm else {
            let text =
                "subscriptions are not confirmed here: confirm it where it was made, or set confirm.visit";
            return Err(Refusal::new(Reason::DownstreamUnavailable, text).without_effect());
        };
        served.allowance.rate.charge()?;
        call.rate.charge_webhook()?;
        // its sender is known, and the visit takes its time
        call.unverified = None;
        self.visitor.visit(url, rules).await?;
        tracing::info!(provider = call.provider, corr_id = %call.call.corr, "a subscription was confirmed");
        Ok(())
    }

    fn case(&self, served: &Served, call: &WebhookCall<'_>, headers: HeaderList) -> Case {
        Case {
            rules: served.rules.clone(),
            queue: served.queue.clone(),
            method: call.method.as_str().to_owned(),
            query: call.uri.query().unwrap_or_default().to_owned(),
            headers,
            body: call.body.clone(),
            wall: self.clock.wall(),
        }
    }

    async fn enqueue(
        &self,
        served: &Served,
        call: &WebhookCall<'_>,
        accepted: &Accepted,
        grant: Arc<Grant>,
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
        let grant = self.passport.judge(grant, &ask)?;
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
            body_ref: None,
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
    WebhookAnswer::Accepted { msg_id, duplicate, custom: custom_answer(&accepted.reply) }
}

/// What the scheme wants instead of the node's own answer.
fn custom_answer(reply: &AcceptReply) -> Option<CustomAnswer> {
    let custom = match &reply.body {
        Some((content_type, body)) => Some((content_type.clone(), Bytes::from(body.clone()))),
        None if reply.status == 202 => None,
        None => Some((None, Bytes::new())),
    };
    custom.map(|(content_type, body)| CustomAnswer {
        status: reply.status,
        content_type,
        body,
        headers: Vec::new(),
    })
}

/// Keeps a verdict of a provider in shadow mode for the record; gives it back where it counts. What is no event is
/// refused as always: a GET that is no challenge of the provider, another method.
fn shadowed(served: &Served, method: &Method, refusal: Refusal, trace: &mut Trace) -> Result<(), Refusal> {
    match &served.shadow {
        Some(shadow) if method == Method::POST => {
            shadow.refused(refusal.reason);
            trace.shadow = Some((refusal, trace.step));
            Ok(())
        }
        Some(_) | None => Err(refusal),
    }
}

/// The same to all events, whatever the verdict, so that a provider neither disables the endpoint nor repeats them. The
/// status and body that it wants to see, where it wants some, and marked as what it is.
fn shadow_answer(served: &Served) -> WebhookAnswer {
    let marked = |mut custom: CustomAnswer| {
        custom.headers.push(("x-shadow".to_owned(), "true".to_owned()));
        custom
    };
    WebhookAnswer::Shadow(custom_answer(served.rules.usual_reply()).map(marked))
}

impl WebhookGate for Gate {
    fn precheck(
        &self,
        provider: &str,
        method: &Method,
        headers: &HeaderMap,
        trace: &mut Trace,
    ) -> Result<Arc<Allowance>, Refusal> {
        trace.step = Some("PROVIDER");
        let served = self.served(provider)?;
        (trace.provider, trace.queue) = (Some(served.rules.name().clone()), Some(served.queue.clone()));
        trace.served = Some(served.clone());
        trace.step = Some("POLICY");
        trace.headers = header_list(headers);
        let judged = self.allowed(provider, &served).and_then(|_| {
            let checked = served.rules.precheck(method.as_str(), &trace.headers, self.clock.wall());
            checked.map(drop).map_err(|rejection| {
                trace.step = Some(rejection.why.code());
                rejection.refusal
            })
        });
        if let Err(refusal) = judged {
            let reason = refusal.reason;
            let verdict = shadowed(&served, method, refusal, trace);
            verdict.inspect_err(|_| served.metrics.verified(WebhookResult::Refused(reason)))?;
        }
        Ok(served.allowance.clone())
    }

    async fn receive(&self, call: WebhookCall<'_>, trace: &mut Trace) -> Result<WebhookAnswer, Refusal> {
        // what is in force since is for those that come since
        let served = match trace.served.clone() {
            Some(served) => served,
            None => self.served(call.provider)?,
        };
        if trace.shadow.is_some() {
            return Ok(shadow_answer(&served));
        }
        let answer = self.judged(&served, call, trace).await;
        if let Err(refusal) = &answer {
            served.metrics.verified(WebhookResult::Refused(refusal.reason));
        }
        answer
    }
}
