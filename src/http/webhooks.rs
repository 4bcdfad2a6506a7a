//! What becomes of a webhook, for the audit log: one record each, and of strangers past a few a second a count.

use crate::gate::Served;
use crate::http::interop::WebhookAnswer;
use crate::http::request::Call;
use bytes::Bytes;
use ron_actors::audit::Audit;
use ron_core::audit::{Decision, Entry, Kind, OK};
use ron_core::capability::CapId;
use ron_core::ids::{Kid, ProviderName, QueueKey};
use ron_core::reason::{Effect, Refusal};
use ron_core::scheme::HeaderList;
use std::sync::Arc;

/// What is found out about a webhook on its way.
#[derive(Debug, Default)]
pub struct Trace {
    /// The step that it is at; of a refused one, the step that refused it.
    pub step: Option<&'static str>,
    /// The provider, once it is known to be one.
    pub provider: Option<ProviderName>,
    /// Where its events go.
    pub queue: Option<QueueKey>,
    /// Its headers, until it is judged by them.
    pub headers: HeaderList,
    /// Its body, once it is read.
    pub body: Option<Bytes>,
    /// Which secret made the signature: from here on its sender is no stranger.
    pub kid: Option<Kid>,
    /// The capability that it was given.
    pub cap_id: Option<CapId>,
    /// The sender's clock minus ours, ms.
    pub skew_ms: Option<i64>,
    /// An unsigned value took part in the decision.
    pub unsigned_decided: bool,
    /// It is a known event with another signed body.
    pub id_conflict: bool,
    /// Which secret made the signature of one that is refused for that secret's time.
    pub late_kid: Option<Kid>,
    /// The rules by which it is judged to its end, whatever is put in force meanwhile.
    pub served: Option<Arc<Served>>,
    /// What it would be refused with and at which step, if its provider were not in shadow mode.
    pub shadow: Option<(Refusal, Option<&'static str>)>,
}

/// Records what became of a webhook, also if it is dropped in the midst of it.
#[derive(Debug)]
pub(super) struct Telling<'a> {
    audit: &'a Audit,
    call: &'a Call,
    /// What is known by now.
    pub(super) trace: Trace,
    told: bool,
}

impl<'a> Telling<'a> {
    pub(super) fn new(audit: &'a Audit, call: &'a Call) -> Telling<'a> {
        Telling { audit, call, trace: Trace::default(), told: false }
    }

    /// It is answered so.
    pub(super) fn answered(mut self, answer: &Result<WebhookAnswer, Refusal>) {
        self.told = true;
        match answer {
            Ok(WebhookAnswer::Handshake(_)) => self.audit.record(self.entry(Decision::Allow, "HANDSHAKE")),
            Ok(WebhookAnswer::Accepted { msg_id, duplicate, .. }) => {
                let mut entry = self.entry(Decision::Allow, if *duplicate { "DUPLICATE" } else { OK });
                entry.more.msg_id = Some(*msg_id);
                self.audit.record(entry);
            }
            Ok(WebhookAnswer::Shadow(_)) => match &self.trace.shadow {
                Some((refusal, step)) => self.refused_at(refusal, *step),
                None => self.audit.record(self.entry(Decision::Allow, "SHADOW")),
            },
            Err(refusal) => self.refused(refusal),
        }
    }

    fn refused(&self, refusal: &Refusal) {
        self.refused_at(refusal, self.trace.step);
    }

    fn refused_at(&self, refusal: &Refusal, step: Option<&'static str>) {
        let reason = refusal.reason.code();
        // a store that failed may have it all the same
        let decision = if refusal.effect == Effect::Unknown { Decision::Failed } else { Decision::Deny };
        let entry = || {
            let mut entry = self.entry(decision, reason);
            entry.more.step = step;
            entry
        };
        match self.trace.kid {
            Some(_) => self.audit.record(entry()),
            None => self.audit.stranger(Kind::Webhook, reason, entry),
        }
    }

    fn entry(&self, decision: Decision, reason: &'static str) -> Entry {
        let trace = &self.trace;
        let mut entry = self.audit.entry(Kind::Webhook, decision, reason);
        self.call.name(&mut entry);
        entry.provider.clone_from(&trace.provider);
        entry.tenant = trace.queue.as_ref().map(|queue| queue.tenant.clone());
        entry.more.topic = trace.queue.as_ref().map(|queue| queue.topic.clone());
        entry.kid = trace.kid.clone().or_else(|| trace.late_kid.clone());
        entry.cap_id = trace.cap_id;
        entry.content = trace.body.as_ref().map(|body| self.audit.content(body));
        entry.more.skew_ms = trace.skew_ms;
        entry.more.unsigned_decided = trace.unsigned_decided;
        entry.more.id_conflict = trace.id_conflict;
        entry.more.shadow = trace.served.as_ref().is_some_and(|served| served.shadow.is_some());
        entry
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        // a stranger who goes away was promised nothing, and nothing was decided
        if !self.told && self.trace.kid.is_some() {
            let mut entry = self.entry(Decision::Unknown, "GONE");
            entry.more.step = self.trace.step;
            self.audit.record(entry);
        }
    }
}
