//! Routes that change a topic as a whole: settings, pause and resume, purge, delete. All need the op `admin`, and are
//! served where the operator is: on the mailbox's own port and the Unix socket.

use super::audited::Admitted;
use super::{Answer, App, MailboxApp, MailboxService, Want, answers};
use crate::http::auth::Op;
use crate::http::dto;
use crate::http::error::json_of;
use crate::http::request::{Call, Path, queue_of};
use axum::Router;
use axum::extract::{Request, State};
use axum::routing::{delete, post, put};
use http::StatusCode;
use ron_core::shard::{Paused, TopicChange};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// The routes.
pub fn topic_routes<M: MailboxService>(app: Arc<MailboxApp<M>>) -> Router {
    Router::new()
        .route("/v1/{tenant}/{topic}", delete(delete_topic::<M>))
        .route("/v1/{tenant}/{topic}/settings", put(settings::<M>))
        .route("/v1/{tenant}/{topic}/pause", post(pause::<M>))
        .route("/v1/{tenant}/{topic}/resume", post(resume::<M>))
        .route("/v1/{tenant}/{topic}/purge", post(purge::<M>))
        .with_state(app)
}

async fn settings<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    let (asked, body) = app.admin::<dto::SettingsRequest>(&path, request).await?;
    let durability = app.limits.load().durability;
    let change = TopicChange::Settings(body.wanted.check(durability)?);
    let act = app.act(&asked, "topic.set", Some(&body.text)).await?;
    let topic = act.end(app.mailbox.configure(&asked.queue, change).await).await?;
    json_of(StatusCode::OK, &answers::Settings::of(&topic.settings, durability))
}

async fn pause<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    app.set_paused(&path, request, true).await
}

async fn resume<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    app.set_paused(&path, request, false).await
}

async fn purge<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    #[derive(Serialize)]
    struct Purged {
        purged: u64,
    }
    let (asked, body) = app.admin::<dto::ConfirmRequest>(&path, request).await?;
    body.wanted.check(&asked.queue.topic)?;
    let act = app.act(&asked, "topic.purge", None).await?;
    let purged = act.end(app.mailbox.purge(&asked.queue).await).await?;
    json_of(StatusCode::OK, &Purged { purged })
}

async fn delete_topic<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    #[derive(Serialize)]
    struct Deleted {
        deleted: bool,
        purged: u64,
    }
    let (asked, body) = app.admin::<dto::ConfirmRequest>(&path, request).await?;
    body.wanted.check(&asked.queue.topic)?;
    let act = app.act(&asked, "topic.delete", None).await?;
    let purged = act.end(app.mailbox.delete(&asked.queue).await).await?;
    tracing::info!(queue = %asked.queue, purged, "topic deleted");
    json_of(StatusCode::OK, &Deleted { deleted: true, purged })
}

/// What a call that changes a topic asks for.
pub(super) struct Body<T> {
    pub(super) wanted: T,
    /// As it was sent, for the audit log.
    pub(super) text: String,
}

impl<M: MailboxService> MailboxApp<M> {
    /// Who calls for a change of the topic, and the body of the call.
    pub(super) async fn admin<T: DeserializeOwned>(
        &self,
        path: &Path,
        request: Request,
    ) -> Result<(Admitted, Body<T>), crate::http::error::Failure> {
        let (parts, body) = request.into_parts();
        let queue = queue_of(path)?;
        let call = Call::of(&parts)?;
        let authority = self.allow(&parts, call, Want::on(Op::Admin, &queue)).await?;
        let body = self.settling_body(&parts, body).await?;
        authority.still_holds(self.wall_s())?;
        let text = String::from_utf8_lossy(&body).into_owned();
        Ok((Admitted::new(queue, call, &authority), Body { wanted: dto::json(&body)?, text }))
    }

    async fn set_paused(&self, path: &Path, request: Request, paused: bool) -> Answer {
        #[derive(Serialize)]
        struct Now {
            paused: Option<&'static str>,
        }
        let (asked, body) = self.admin::<dto::PauseRequest>(path, request).await?;
        let what = body.wanted.what();
        let op = if paused { "topic.pause" } else { "topic.resume" };
        let act = self.act(&asked, op, Some(&body.text)).await?;
        let change = TopicChange::Pause { what, paused };
        let topic = act.end(self.mailbox.configure(&asked.queue, change).await).await?;
        json_of(StatusCode::OK, &Now { paused: paused_text(topic.paused) })
    }
}

/// What is paused, in the words of the request that pauses it; `None` = nothing.
pub(super) const fn paused_text(paused: Paused) -> Option<&'static str> {
    match (paused.recv, paused.enqueue) {
        (false, false) => None,
        (true, false) => Some("recv"),
        (false, true) => Some("enqueue"),
        (true, true) => Some("both"),
    }
}
