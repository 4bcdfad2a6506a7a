//! The schema: each field is one call of the JSON API, and nullable, so that a refused one leaves the others standing.

use super::caller::{Caller, Given, encoded};
use super::types::{
    BatchAnswer, Begun, DeadFilter, Enqueued, Long, MessageHistory, MessageInput, NackMode, PeekState,
    Peeked, Received, Settled, TopicStat,
};
use crate::http::draft::malformed;
use async_graphql::{Context, Object};
use ron_core::ids::MessageId;
use ron_core::reason::{Reason, Refusal};
use serde::Serialize;
use serde_json::json;

/// What can be looked at.
pub(super) struct Query;

/// A topic of a tenant.
pub(super) struct Topic {
    tenant: Option<String>,
    name: String,
}

fn caller<'c>(ctx: &'c Context<'_>) -> Result<&'c Caller, Refusal> {
    ctx.data_opt::<Caller>().ok_or_else(|| Refusal::new(Reason::Internal, "the operation has no caller"))
}

/// Runs a call, and shows what came of it.
macro_rules! shown {
    ($ctx:expr, |$caller:ident| $run:expr) => {{
        let $caller = match caller($ctx) {
            Ok(caller) => caller,
            Err(refusal) => return Some(Err(async_graphql::Error::new(refusal.text))),
        };
        let result = async { $run }.await;
        $caller.given(result)
    }};
}

/// A body without the members that were not given.
fn given(body: &serde_json::Value) -> serde_json::Value {
    let members = body.as_object().into_iter().flatten();
    members.filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[Object(rename_args = "snake_case")]
impl Query {
    /// A topic; without a tenant the capability's own is meant. Nothing is checked before something is asked of it.
    async fn topic(&self, tenant: Option<String>, name: String) -> Topic {
        Topic { tenant, name }
    }
}

impl Topic {
    fn base(&self, caller: &Caller) -> Result<String, Refusal> {
        caller.base(self.tenant.as_deref(), &self.name)
    }
}

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl Topic {
    /// Its figures and settings. Needs the op `stat`.
    async fn stat(&self, ctx: &Context<'_>) -> Given<TopicStat> {
        shown!(ctx, |caller| caller.get(&self.base(caller)?).await)
    }

    /// Looks at messages without leasing them; `limit` is 1 to 100. Needs the op `peek`.
    #[graphql(complexity = "limit as usize * child_complexity + 1")]
    async fn peek(
        &self,
        ctx: &Context<'_>,
        #[graphql(default_with = "PeekState::Ready")] state: PeekState,
        #[graphql(default = 20)] limit: u32,
        cursor: Option<String>,
    ) -> Given<Peeked> {
        shown!(ctx, |caller| {
            let base = self.base(caller)?;
            let state = json!(state);
            let state = state.as_str().unwrap_or_default();
            let cursor = cursor.map(|cursor| format!("&cursor={}", encoded(&cursor))).unwrap_or_default();
            caller.get(&format!("{base}/peek?state={state}&limit={limit}{cursor}")).await
        })
    }

    /// What is known of one message. Needs the op `peek`.
    async fn message(&self, ctx: &Context<'_>, msg_id: String) -> Given<MessageHistory> {
        shown!(ctx, |caller| {
            let base = self.base(caller)?;
            let id = MessageId::parse(&msg_id).map_err(|bad| malformed(bad.to_string()))?;
            caller.get(&format!("{base}/messages/{id}")).await
        })
    }
}

/// What can be done. Fields run one after the other.
pub(super) struct Mutation;

#[Object(rename_fields = "snake_case", rename_args = "snake_case")]
impl Mutation {
    /// Sends a message. Needs the op `enqueue`.
    async fn enqueue(
        &self,
        ctx: &Context<'_>,
        tenant: Option<String>,
        topic: String,
        message: MessageInput,
    ) -> Given<Enqueued> {
        shown!(ctx, |caller| {
            let base = caller.base(tenant.as_deref(), &topic)?;
            let body = json!({"messages": [message]});
            let answer: BatchAnswer = caller.post(&format!("{base}/enqueue/batch"), &body).await?;
            let none = || Refusal::new(Reason::Internal, "the mailbox gave no result");
            let result = answer.results.into_iter().next().ok_or_else(none)?;
            if let Some(code) = &result.reason {
                let reason = Reason::ALL.into_iter().find(|reason| reason.code() == code).ok_or_else(none)?;
                return Err(Refusal::new(reason, result.error.unwrap_or_default()));
            }
            result.stored().ok_or_else(none)
        })
    }

    /// Sends messages; what is accepted is one commit. Needs the op `enqueue`.
    #[graphql(complexity = "messages.len() * child_complexity + 1")]
    async fn enqueue_batch(
        &self,
        ctx: &Context<'_>,
        tenant: Option<String>,
        topic: String,
        messages: Vec<MessageInput>,
    ) -> Given<BatchAnswer> {
        shown!(ctx, |caller| {
            let base = caller.base(tenant.as_deref(), &topic)?;
            caller.post(&format!("{base}/enqueue/batch"), &json!({"messages": messages})).await
        })
    }

    /// Leases messages; `max_messages` is 1 to 256. Needs the op `recv`.
    #[graphql(complexity = "max_messages as usize * child_complexity + 1")]
    #[allow(clippy::too_many_arguments)] // the body's members
    async fn recv(
        &self,
        ctx: &Context<'_>,
        tenant: Option<String>,
        topic: String,
        #[graphql(default = 1)] max_messages: u32,
        max_bytes: Option<Long>,
        visibility_ms: Option<Long>,
        wait_ms: Option<Long>,
    ) -> Given<Received> {
        shown!(ctx, |caller| {
            let base = caller.base(tenant.as_deref(), &topic)?;
            let body = json!({"max_messages": max_messages, "max_bytes": max_bytes,
                "visibility_ms": visibility_ms, "wait_ms": wait_ms});
            caller.post(&format!("{base}/recv"), &given(&body)).await
        })
    }

    /// Messages are done. Needs the op `ack`.
    async fn ack(
        &self,
        ctx: &Context<'_>,
        tenant: Option<String>,
        topic: String,
        receipts: Vec<String>,
    ) -> Given<Settled> {
        settle(ctx, tenant, &topic, "ack", &json!({"receipts": receipts})).await
    }

    /// Messages failed. Needs the op `nack`.
    #[allow(clippy::too_many_arguments)] // the body's members
    async fn nack(
        &self,
        ctx: &Context<'_>,
        tenant: Option<String>,
        topic: String,
        receipts: Vec<String>,
        #[graphql(default_with = "NackMode::Fail")] mode: NackMode,
        delay_ms: Option<Long>,
        reason: Option<String>,
    ) -> Given<Settled> {
        let body = json!({"receipts": receipts, "mode": mode, "delay_ms": delay_ms, "reason": reason});
        settle(ctx, tenant, &topic, "nack", &given(&body)).await
    }

    /// Leases go on; `visibility_ms` counts from now. Needs the op `recv`.
    async fn extend(
        &self,
        ctx: &Context<'_>,
        tenant: Option<String>,
        topic: String,
        receipts: Vec<String>,
        visibility_ms: Long,
    ) -> Given<Settled> {
        let body = json!({"receipts": receipts, "visibility_ms": visibility_ms});
        settle(ctx, tenant, &topic, "extend", &body).await
    }

    /// Brings dead letters back. Needs the op `admin`, and is there on the mailbox's own port only.
    #[allow(clippy::too_many_arguments)] // the body's members
    async fn redrive(
        &self,
        ctx: &Context<'_>,
        tenant: Option<String>,
        topic: String,
        filter: Option<DeadFilter>,
        limit: Option<Long>,
        rate_per_s: Option<Long>,
        dry_run: Option<bool>,
        stop_if_returned: Option<f64>,
    ) -> Given<Begun> {
        shown!(ctx, |caller| {
            let base = caller.base(tenant.as_deref(), &topic)?;
            let body = json!({"filter": filter, "limit": limit, "rate_per_s": rate_per_s, "dry_run": dry_run,
                "stop_if_returned": stop_if_returned});
            caller.post(&format!("{base}/dlq/reprocess"), &given(&body)).await
        })
    }
}

async fn settle(
    ctx: &Context<'_>,
    tenant: Option<String>,
    topic: &str,
    call: &str,
    body: &impl Serialize,
) -> Given<Settled> {
    shown!(ctx, |caller| {
        let base = caller.base(tenant.as_deref(), topic)?;
        caller.post(&format!("{base}/{call}"), body).await
    })
}
