//! What the mailbox's routes say to the audit log: who was allowed what, counted, and each act of an operator.

use super::{MailboxApp, MailboxService, Want};
use crate::audit::Act;
use crate::http::auth::{Authority, bearer};
use crate::http::request::{Call, Peer};
use http::request::Parts;
use ron_actors::audit::Audit;
use ron_core::audit::{Decision, Kind, OK, Usage, Who};
use ron_core::capability::claimed;
use ron_core::ids::{QueueKey, Tenant, Topic};
use ron_core::reason::{Reason, Refusal};

/// A call that changes a topic, and who may make it.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) queue: QueueKey,
    pub(super) call: Call,
    pub(super) who: Option<Who>,
}

impl Admitted {
    pub(super) fn new(queue: QueueKey, call: &Call, authority: &Authority) -> Admitted {
        let who = authority.held.as_ref().map(|held| held.who());
        Admitted { queue, call: call.clone(), who }
    }
}

/// Whether a token must have been checked for a refusal to have this reason.
const fn knows_who(reason: Reason) -> bool {
    matches!(reason, Reason::ExpiredToken | Reason::ScopeMismatch | Reason::PolicyBlocked | Reason::RateLimit)
}

/// Records that a request (its op, tenant and topic) was refused: counted if its capability was found to be genuine,
/// and as a stranger's otherwise.
pub(crate) fn refused(
    audit: &Audit,
    (op, tenant, topic): (&'static str, Option<&Tenant>, Option<&Topic>),
    token: Option<&str>,
    refusal: &Refusal,
    call: &Call,
) {
    let claims = token.and_then(claimed);
    let reason = refusal.reason.code();
    match claims {
        Some((cap_id, kid)) if knows_who(refusal.reason) => {
            let (tenant, topic) = (tenant.cloned(), topic.cloned());
            let usage = Usage { who: Who::Cap(cap_id, kid), op, tenant, topic, refused: Some(reason) };
            audit.usage(&usage, 1, |entry| call.name(entry));
        }
        claims => audit.stranger(Kind::Api, reason, || {
            let mut entry = audit.entry(Kind::Api, Decision::Deny, reason);
            call.name(&mut entry);
            entry.tenant = tenant.cloned();
            entry.cap_id = claims.map(|(cap_id, _)| cap_id);
            (entry.more.op, entry.more.topic) = (Some(op.into()), topic.cloned());
            entry
        }),
    }
}

impl<M: MailboxService> MailboxApp<M> {
    /// Records what was judged of a request.
    pub(super) fn told(
        &self,
        parts: &Parts,
        call: &Call,
        want: Want<'_>,
        judged: Result<Authority, Refusal>,
    ) -> Result<Authority, Refusal> {
        let held = match &judged {
            Ok(authority) => authority.held.as_ref().map(|held| held.who()),
            Err(refusal) => {
                let asked = (want.op.word(), Some(want.tenant), want.topic);
                refused(&self.audit, asked, bearer(&parts.headers).ok(), refusal, call);
                return judged;
            }
        };
        let who = match (held, call.peer) {
            (Some(who), _) => who,
            (None, Peer::Unix { uid, pid }) => Who::Local { uid, pid },
            (None, Peer::Tcp(_)) => return judged,
        };
        let (tenant, topic) = (Some(want.tenant.clone()), want.topic.cloned());
        let usage = Usage { who, op: want.op.word(), tenant, topic, refused: None };
        self.audit.usage(&usage, 1, |entry| call.name(entry));
        judged
    }

    /// Writes down an act before it is done.
    ///
    /// # Errors
    /// As [`Act::begin`].
    pub(super) async fn act(
        &self,
        asked: &Admitted,
        op: &'static str,
        detail: Option<&str>,
    ) -> Result<Act, Refusal> {
        let mut entry = self.audit.entry(Kind::Operator, Decision::Allow, OK);
        asked.call.name(&mut entry);
        if let Some(Who::Cap(cap_id, kid)) = &asked.who {
            (entry.cap_id, entry.kid) = (Some(*cap_id), Some(kid.clone()));
        }
        let QueueKey { tenant, topic } = asked.queue.clone();
        entry.tenant = Some(tenant);
        (entry.more.topic, entry.more.op) = (Some(topic), Some(op.into()));
        Act::begin(
            &self.audit,
            match detail {
                Some(text) => entry.detail(text),
                None => entry,
            },
        )
        .await
    }
}
