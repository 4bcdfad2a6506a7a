//! Routes of a topic's list of subscribers (SPEC §4.14). Changing it needs `admin` on the topic and `enqueue` on
//! each topic that joins: whoever makes the list decides what they get from then on. Looking at it needs `admin`.

use super::audited::Admitted;
use super::{Answer, App, BATCH_BYTES_MAX, MailboxApp, MailboxService, Want};
use crate::http::auth::{Access, Ask, Authority, Op};
use crate::http::body;
use crate::http::dto;
use crate::http::error::json_of;
use crate::http::headers;
use crate::http::request::{Call, Path, queue_of};
use axum::Router;
use axum::extract::{Request, State};
use axum::routing::put;
use http::StatusCode;
use ron_actors::mailbox::Mailbox;
use ron_core::fanout::{Edit, Listed};
use ron_core::ids::QueueKey;
use ron_core::policy;
use ron_core::reason::{Reason, Refusal};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The routes.
pub fn subscriber_routes<M: MailboxService>(app: Arc<MailboxApp<M>>) -> Router {
    Router::new().route("/v1/{tenant}/{topic}/subscribers", put(change::<M>).get(list::<M>)).with_state(app)
}

async fn change<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    #[derive(Serialize)]
    struct InForce {
        version: u64,
        count: u64,
    }
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    let queue = queue_of(&path)?;
    let authority = app.allow(&parts, call, Want::on(Op::Admin, &queue)).await?;
    headers::json_body(&parts.headers)?;
    let room = body::within_limit(body::declared_len(&body), BATCH_BYTES_MAX)?;
    let _reserved = app.budgets.sends.reserve(room)?;
    let body = body::read(body, BATCH_BYTES_MAX, app.limits.load().body_deadline).await?;
    authority.still_holds(app.wall_s())?;
    let edit = dto::json::<dto::SubscribersRequest>(&body)?.check()?;
    drop(body);
    app.may_send_to(&authority, call, &queue, &edit)?;
    let detail = format!("{} added, {} removed", edit.add.len(), edit.remove.len());
    let (fanout, asked) = (app.fanout()?, Admitted::new(queue, call, &authority));
    let (act, queue) = (app.act(&asked, "topic.subscribers", Some(&detail)).await?, &asked.queue);
    let list = act.end(fanout.subscribe(queue, edit).await).await?;
    tracing::info!(%queue, version = list.version, count = list.count, "subscribers changed");
    json_of(StatusCode::OK, &InForce { version: list.version, count: list.count })
}

async fn list<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    #[derive(Serialize)]
    struct Page<'a> {
        version: u64,
        count: u64,
        subscribers: Vec<Row<'a>>,
        cursor: Option<&'a str>,
    }
    let (parts, _) = request.into_parts();
    let queue = queue_of(&path)?;
    app.allow(&parts, Call::of(&parts)?, Want::on(Op::Admin, &queue)).await?;
    headers::plain_body(&parts.headers)?;
    let (after, limit) = dto::query::<dto::SubscribersQuery>(&parts.uri)?.check()?;
    let page = app.fanout()?.subscribers(&queue, after, limit).await?;
    let subscribers = page.subscribers.iter().map(Row::of).collect();
    let cursor = page.cursor.as_ref().map(|topic| topic.as_str());
    json_of(StatusCode::OK, &Page { version: page.version, count: page.count, subscribers, cursor })
}

/// A subscriber as the list shows it.
#[derive(Serialize)]
struct Row<'a> {
    topic: &'a str,
    filter: FilterView<'a>,
    /// Messages it has not got yet.
    lag: u64,
}

#[derive(Serialize)]
struct FilterView<'a> {
    attr: &'a BTreeMap<String, String>,
}

impl<'a> Row<'a> {
    fn of(listed: &'a Listed) -> Row<'a> {
        Row {
            topic: listed.topic.as_str(),
            filter: FilterView { attr: &listed.filter.attrs },
            lag: listed.lag,
        }
    }
}

impl<M: MailboxService> MailboxApp<M> {
    /// Whether the caller may send to all who join. Charges nothing: it is one request.
    fn may_send_to(
        &self,
        authority: &Authority,
        call: &Call,
        queue: &QueueKey,
        edit: &Edit,
    ) -> Result<(), Refusal> {
        let Access::Capability(_, audience) = &self.access else { return Ok(()) };
        let judged = self.policy.peek();
        for topic in edit.add.iter().map(|addition| &addition.topic) {
            let (op, tenant) = (Op::Enqueue, &queue.tenant);
            let ask = Ask {
                op,
                tenant,
                topic: Some(topic),
                audience: *audience,
                peer: call.peer.ip(),
                message_bytes: None,
                wall_unix_s: self.wall_s(),
            };
            let named =
                |refusal: Refusal| Refusal::new(refusal.reason, format!("add: {topic}: {}", refusal.text));
            authority.allows(&ask).map_err(named)?;
            let request = policy::Request { op, tenant, topic: Some(topic), provider: None };
            judged.policy.judge(&request).map_err(named)?;
        }
        Ok(())
    }

    fn fanout(&self) -> Result<&Mailbox, Refusal> {
        let none = || Refusal::new(Reason::NotFound, "this listener has no lists of subscribers");
        self.mailbox.workbench().ok_or_else(none)
    }
}
