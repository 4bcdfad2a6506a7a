//! `POST /put` and `GET /o/{address}`: content-addressed objects of a tenant (SPEC §7), on the public port with
//! `interop.api`.
//!
//! Whose objects they are is said by the capability; absent and another tenant's are the same 404. Small bodies are
//! one commit; larger ones go to the store as they come. All of an object is read and its hash compared before the
//! first of its bytes is sent: chaining values of its parts would save the second reading of a large one, and would
//! send what comes before a damaged part.

mod range;

use crate::http::auth::Op;
use crate::http::body;
use crate::http::draft::malformed;
use crate::http::error::{Failure, json};
use crate::http::graphql::own_tenant;
use crate::http::headers;
use crate::http::mailbox::{MailboxApp, MailboxService, Want, refused};
use crate::http::request::{Call, Path, path_part};
use crate::metrics::Stage;
use crate::objects::Taken;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::stream;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use ron_actors::store::{OBJECT_WHOLE_MAX, ObjectReader, ReadFailure, Store};
use ron_core::ids::{ContentHash, Tenant};
use ron_core::reason::{Reason, Refusal};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Uploads, and downloads, at once: each holds up to 1 MiB.
const TRANSFERS_MAX: usize = 32;

/// What the two routes work with.
#[derive(Debug)]
pub struct ObjectsApp<M> {
    api: Arc<MailboxApp<M>>,
    store: Store,
    object_max: u64,
    body_deadline: Duration,
    uploads: Semaphore,
    downloads: Arc<Semaphore>,
}

impl<M> ObjectsApp<M> {
    /// Objects in `store` of at most `object_max` bytes, for whom `api` lets in. Of a body 1 MiB has to come within
    /// each `body_deadline`.
    #[must_use]
    pub fn new(
        api: Arc<MailboxApp<M>>,
        store: Store,
        object_max: u64,
        body_deadline: Duration,
    ) -> ObjectsApp<M> {
        let (uploads, downloads) = (Semaphore::new(TRANSFERS_MAX), Arc::new(Semaphore::new(TRANSFERS_MAX)));
        ObjectsApp { api, store, object_max, body_deadline, uploads, downloads }
    }
}

/// The two routes.
pub fn object_routes<M: MailboxService>(app: Arc<ObjectsApp<M>>) -> Router {
    Router::new().route("/put", post(put::<M>)).route("/o/{address}", get(serve::<M>)).with_state(app)
}

type Answer = Result<Response, Failure>;
type App<M> = State<Arc<ObjectsApp<M>>>;

async fn put<M: MailboxService>(State(app): App<M>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let call = Call::of(&parts)?;
    let tenant = app.tenant(&parts, call, Op::Put)?;
    let declared = body::declared_len(&body);
    let want = Want { op: Op::Put, tenant: &tenant, topic: None, bytes: declared };
    let authority = app.api.allow(&parts, call, want).await?;
    app.api.readiness.admit_send()?;
    headers::plain_body(&parts.headers)?;
    let claimed = headers::payload_hash(&parts.headers)?;
    let limit = usize::try_from(app.object_max).unwrap_or(usize::MAX);
    let room = body::within_limit(declared, limit)?;
    let _slot = app.uploads.try_acquire().map_err(|_| busy())?;
    let _reserved = app.api.budgets.sends.reserve(room.min(OBJECT_WHOLE_MAX))?;
    let mut incoming = body::Paced::new(body, app.body_deadline);
    let mut taken = Taken::new(app.store.clone(), tenant.clone());
    while let Some(data) = incoming.next().await? {
        if incoming.len() > app.object_max {
            return Err(body::over(limit).into());
        }
        // it may take its time; its authority may have ended meanwhile
        authority.still_holds(app.api.wall_s())?;
        authority.check_bytes(usize::try_from(incoming.len()).unwrap_or(usize::MAX))?;
        taken.take(&data).await?;
    }
    authority.still_holds(app.api.wall_s())?;
    if claimed.is_some_and(|claimed| claimed != taken.hash()) {
        app.api.meter.metrics().mailbox.integrity_fail(Stage::Ingress);
        return Err(malformed("X-Payload-Hash is not the hash of the body that arrived").into());
    }
    let (policy, clock, len) = (&app.api.policy, &*app.api.clock, incoming.len());
    policy.charge_bytes(&tenant, clock, len)?;
    let stored = taken.store().await;
    let address = stored.inspect_err(|refusal| policy.give_back(&tenant, len, refusal))?;
    let answer = format!(r#"{{"address":"{address}","len":{len},"corr_id":"{}"}}"#, call.corr);
    Ok(json(StatusCode::ACCEPTED, answer.into_bytes()))
}

async fn serve<M: MailboxService>(State(app): App<M>, path: Path, request: Request) -> Answer {
    let (parts, _) = request.into_parts();
    let call = Call::of(&parts)?;
    let address =
        ContentHash::parse(path_part(&path, "address")?).map_err(|bad| malformed(bad.to_string()))?;
    let tenant = app.tenant(&parts, call, Op::Get)?;
    let want = Want { op: Op::Get, tenant: &tenant, topic: None, bytes: None };
    app.api.allow(&parts, call, want).await?;
    headers::plain_body(&parts.headers)?;
    let none = || Refusal::new(Reason::NotFound, "there is no such object");
    let object = app.store.object(&tenant, &address).ok_or_else(none)?;
    let mut response = Response::new(Body::empty());
    describe(response.headers_mut(), &address)?;
    if range::known(&parts.headers, &address)? {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let wanted = range::wanted(&parts.headers, &address, object.len());
    let served = wanted.clone().unwrap_or(0..object.len());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, (served.end - served.start).into());
    if wanted.is_some() {
        let said = format!("bytes {}-{}/{}", served.start, served.end - 1, object.len());
        headers.insert(CONTENT_RANGE, HeaderValue::try_from(said).map_err(|_| bug())?);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if parts.method != Method::HEAD {
        *response.body_mut() = app.body_of(object, served).await?;
    }
    Ok(response)
}

fn bug() -> Refusal {
    Refusal::new(Reason::Internal, "the answer's headers could not be written")
}

fn busy() -> Refusal {
    Refusal::new(Reason::Backpressure, "too many objects are under way; retry later")
}

/// What every answer about an object says.
fn describe(headers: &mut HeaderMap, address: &ContentHash) -> Result<(), Refusal> {
    headers.insert(ETAG, HeaderValue::try_from(format!("\"{address}\"")).map_err(|_| bug())?);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(())
}

impl<M: MailboxService> ObjectsApp<M> {
    /// Whose objects the request means: its capability's own. Whether that is one is judged next.
    fn tenant(&self, parts: &Parts, call: &Call, op: Op) -> Result<Tenant, Refusal> {
        own_tenant(&parts.headers).inspect_err(|refusal| {
            let token = crate::http::auth::bearer(&parts.headers).ok();
            refused(&self.api.audit, (op.word(), None, None), token, refusal, call);
        })
    }

    /// These bytes of an object, all of which has been found to be what was put.
    async fn body_of(&self, object: ObjectReader, served: Range<u64>) -> Result<Body, Refusal> {
        let slot = self.downloads.clone().try_acquire_owned().map_err(|_| busy())?;
        let whole = object.verify().await.map_err(|failure| self.unreadable(failure))?;
        Ok(match whole {
            Some(whole) => Body::from(whole.slice(served.start as usize..served.end as usize)),
            None => Body::from_stream(stream::try_unfold(Sending { object, at: served, _slot: slot }, next)),
        })
    }

    fn unreadable(&self, failure: ReadFailure) -> Refusal {
        let text = match failure {
            ReadFailure::Damaged => {
                self.api.meter.metrics().mailbox.integrity_fail(Stage::Egress);
                "the object is damaged on this node and is not served; put it again"
            }
            ReadFailure::Gone | ReadFailure::Store => "the store cannot be read now; retry",
        };
        Refusal::new(Reason::Storage, text).without_effect()
    }
}

/// What is left to be sent of an object.
struct Sending {
    object: ObjectReader,
    at: Range<u64>,
    _slot: OwnedSemaphorePermit,
}

/// The next bytes. An error breaks the connection off: its length was promised.
async fn next(mut sending: Sending) -> Result<Option<(Bytes, Sending)>, std::io::Error> {
    let left = sending.at.end - sending.at.start;
    if left == 0 {
        return Ok(None);
    }
    let read = sending.object.read(sending.at.start).await;
    let mut bytes = read.map_err(|_| std::io::Error::other("the object could not be read on"))?;
    bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
    sending.at.start += bytes.len() as u64;
    Ok(Some((bytes, sending)))
}
