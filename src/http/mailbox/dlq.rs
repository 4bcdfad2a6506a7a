//! Routes of the dead letters' workbench: clusters, reprocessing and its tasks, purge, resend. Served where the
//! topic's other operator calls are; all but the clusters need the op `admin`.

use super::audited::Admitted;
use super::{Answer, App, BATCH_BYTES_MAX, MailboxApp, MailboxService, Want};
use crate::http::auth::Op;
use crate::http::body;
use crate::http::dto;
use crate::http::error::{Failure, json_of};
use crate::http::headers;
use crate::http::request::{Call, Path, path_part, queue_of};
use axum::Router;
use axum::extract::{Request, State};
use axum::routing::{get, post};
use http::StatusCode;
use ron_actors::mailbox::{Cluster, Enqueued, Mailbox};
use ron_core::ids::{MessageId, QueueKey};
use ron_core::reason::{Reason, Refusal};
use ron_core::reprocess::{DeadFilter, Task, TaskState};
use ron_core::time::Millis;
use serde::Serialize;
use std::sync::Arc;

/// The routes.
pub fn dlq_routes<M: MailboxService>(app: Arc<MailboxApp<M>>) -> Router {
    Router::new()
        .route("/v1/{tenant}/{topic}/dlq", get(clusters::<M>))
        .route("/v1/{tenant}/{topic}/dlq/reprocess", post(reprocess::<M>))
        .route("/v1/{tenant}/{topic}/dlq/purge", post(purge::<M>))
        .route("/v1/{tenant}/{topic}/dlq/resend", post(resend::<M>))
        .route("/v1/{tenant}/{topic}/dlq/tasks", get(tasks::<M>))
        .route("/v1/{tenant}/{topic}/dlq/tasks/{task}", get(task::<M>).delete(cancel::<M>))
        .with_state(app)
}

async fn clusters<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    #[derive(Serialize)]
    struct Clusters {
        dlq: u64,
        clusters: Vec<ClusterView>,
    }
    let queue = app.looks(Op::Peek, &path, request).await?.queue;
    let clusters: Vec<ClusterView> =
        app.workbench()?.clusters(&queue).await?.into_iter().map(ClusterView::of).collect();
    let dlq = clusters.iter().map(|cluster| cluster.count).sum();
    json_of(StatusCode::OK, &Clusters { dlq, clusters })
}

async fn reprocess<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    #[derive(Serialize)]
    struct Begun {
        task_id: Option<String>,
        matched: u64,
    }
    let (asked, body) = app.admin::<dto::ReprocessRequest>(&path, request).await?;
    let dto::Wanted { mut draft, ids, dry_run } = body.wanted.check()?;
    let (mailbox, queue) = (app.workbench()?, &asked.queue);
    name_slots(mailbox, queue, &mut draft.filter, ids).await?;
    let counted = mailbox.count_dead(queue, &draft.filter).await?;
    let mut task_id = None;
    if !dry_run {
        let act = app.act(&asked, "dlq.reprocess", Some(&format!("{} match", counted.0))).await?;
        let task = act.end(mailbox.reprocess(queue, draft, counted).await).await?;
        tracing::info!(%queue, task = task.number, matched = task.matched, "reprocessing begins");
        task_id = Some(task_name(&task));
    }
    json_of(StatusCode::OK, &Begun { task_id, matched: counted.0 })
}

async fn purge<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    #[derive(Serialize)]
    struct Purged {
        purged: u64,
    }
    let (asked, body) = app.admin::<dto::PurgeDeadRequest>(&path, request).await?;
    let (mut filter, ids) = body.wanted.filter.check()?;
    let (mailbox, queue) = (app.workbench()?, &asked.queue);
    name_slots(mailbox, queue, &mut filter, ids).await?;
    let act = app.act(&asked, "dlq.purge", None).await?;
    let purged = act.end(mailbox.purge_dead(queue, &filter).await).await?;
    json_of(StatusCode::OK, &Purged { purged })
}

async fn tasks<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    #[derive(Serialize)]
    struct Tasks {
        tasks: Vec<TaskView>,
    }
    let queue = app.looks(Op::Admin, &path, request).await?.queue;
    let tasks = app.workbench()?.tasks(&queue).await?;
    json_of(StatusCode::OK, &Tasks { tasks: tasks.iter().rev().map(TaskView::of).collect() })
}

async fn task<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    let queue = app.looks(Op::Admin, &path, request).await?.queue;
    let task = named(app.workbench()?, &queue, &path).await?;
    json_of(StatusCode::OK, &TaskView::of(&task))
}

async fn cancel<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    let asked = app.looks(Op::Admin, &path, request).await?;
    let (mailbox, queue) = (app.workbench()?, &asked.queue);
    let task = named(mailbox, queue, &path).await?;
    let act = app.act(&asked, "dlq.cancel", Some(&task_name(&task))).await?;
    let cancelled = act.end(mailbox.cancel_task(queue, task.number).await).await?;
    json_of(StatusCode::OK, &TaskView::of(&cancelled))
}

async fn resend<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    #[derive(Serialize)]
    struct Resent<'a> {
        msg_id: MessageId,
        source_msg_id: MessageId,
        duplicate: bool,
        removed: bool,
        payload_hash: String,
        durability: &'a str,
        corr_id: &'a str,
    }
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    let queue = queue_of(&path)?;
    let authority = app.allow(&parts, call, Want::on(Op::Admin, &queue)).await?;
    app.readiness.admit_send()?;
    headers::json_body(&parts.headers)?;
    let limits = app.limits.load();
    let room = body::within_limit(body::declared_len(&body), BATCH_BYTES_MAX)?;
    let _reserved = app.budgets.sends.reserve(room)?;
    let body = body::read(body, BATCH_BYTES_MAX, limits.body_deadline).await?;
    authority.still_holds(app.wall_s())?;
    let wanted: dto::ResendRequest = dto::json(&body)?;
    drop(body);
    let (source_msg_id, removed) = wanted.check()?;
    let mailbox = app.workbench()?;
    let (slot, original) = mailbox.dead_message(&queue, source_msg_id).await?;
    let message = wanted.into_message(original, &call.corr)?;
    authority.check_bytes(message.payload.len())?;
    let (payload_hash, bytes) = (message.payload_hash.to_string(), message.payload.len() as u64);
    let asked = Admitted::new(queue, call, &authority);
    let (act, queue) = (app.act(&asked, "dlq.resend", Some(&source_msg_id.to_string())).await?, &asked.queue);
    let done = if removed {
        app.charged(queue, bytes, mailbox.replace_dead(queue, message, slot)).await
    } else {
        let none = || Refusal::new(Reason::Internal, "the mailbox gave no result");
        let sent =
            app.store(queue, vec![message]).await.and_then(|sent| sent.into_iter().next().ok_or_else(none));
        sent.and_then(|sent| sent.map_err(super::answers::item_refused))
    };
    let done = act.end(done).await?;
    let Enqueued { msg_id, duplicate, .. } = done;
    let (durability, corr_id) = (limits.durability.label(), call.corr.as_str());
    let resent = Resent { msg_id, source_msg_id, duplicate, removed, payload_hash, durability, corr_id };
    json_of(StatusCode::OK, &resent)
}

impl<M: MailboxService> MailboxApp<M> {
    /// A call that only looks, or whose path says all.
    async fn looks(&self, op: Op, path: &Path, request: Request) -> Result<Admitted, Failure> {
        let (parts, _) = request.into_parts();
        let (queue, call) = (queue_of(path)?, Call::of(&parts)?);
        let authority = self.allow(&parts, call, Want::on(op, &queue)).await?;
        headers::plain_body(&parts.headers)?;
        Ok(Admitted::new(queue, call, &authority))
    }

    fn workbench(&self) -> Result<&Mailbox, Refusal> {
        let none = || Refusal::new(Reason::NotFound, "this listener has no dead letters' workbench");
        self.mailbox.workbench().ok_or_else(none)
    }
}

/// Finds out what the ids of a filter lead to.
async fn name_slots(
    mailbox: &Mailbox,
    queue: &QueueKey,
    filter: &mut DeadFilter,
    ids: Option<Vec<MessageId>>,
) -> Result<(), Refusal> {
    if let Some(ids) = ids {
        filter.slots = Some(mailbox.dead_slots(queue, &ids).await?);
    }
    Ok(())
}

/// A task's public name: of a topic that was deleted and made anew, no task has an old one's.
fn task_name(task: &Task) -> String {
    format!("t{:x}-{}", task.started.0, task.number)
}

/// The task that the path names.
async fn named(mailbox: &Mailbox, queue: &QueueKey, path: &Path) -> Result<Task, Refusal> {
    let name = path_part(path, "task")?;
    let tasks = mailbox.tasks(queue).await?;
    let none = || Refusal::new(Reason::NotFound, "no such task of this topic: the newest 16 are kept");
    tasks.into_iter().find(|task| task_name(task) == name).ok_or_else(none)
}

#[derive(Serialize)]
struct TaskView {
    task_id: String,
    state: TaskState,
    matched: u64,
    moved: u64,
    returned: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_per_s: Option<u32>,
    stop_if_returned: f64,
    started_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
}

impl TaskView {
    fn of(task: &Task) -> TaskView {
        TaskView {
            task_id: task_name(task),
            state: task.state,
            matched: task.matched,
            moved: task.moved,
            returned: task.returned,
            limit: task.draft.limit,
            rate_per_s: task.draft.rate_per_s,
            stop_if_returned: f64::from(task.draft.stop_permille) / 1_000.0,
            started_at: task.started.rfc3339(),
            ended_at: task.ended.map(Millis::rfc3339),
        }
    }
}

/// Dead letters of one reason.
#[derive(Serialize)]
struct ClusterView {
    /// `null` = all beyond the first 100 reasons.
    reason: Option<String>,
    count: u64,
    oldest_at: String,
    newest_at: String,
    sample: Vec<MessageId>,
}

impl ClusterView {
    fn of(cluster: Cluster) -> ClusterView {
        let Cluster { reason, count, oldest, newest, sample } = cluster;
        let (oldest_at, newest_at) = (oldest.rfc3339(), newest.rfc3339());
        ClusterView { reason, count, oldest_at, newest_at, sample }
    }
}
