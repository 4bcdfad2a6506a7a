//! The only place where a refusal becomes an HTTP answer (SPEC §3).
//!
//! A handler returns [`Failure`]; it travels as an extension of an empty response, and [`finish`] writes the
//! envelope once the correlation id is known. Whatever the framework refuses by itself goes the same way.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use ron_core::ids::CorrId;
use ron_core::reason::{Reason, Refusal};
use serde::Serialize;

/// Carries the correlation id, both ways.
pub const X_CORR_ID: HeaderName = HeaderName::from_static("x-corr-id");
/// Says whether a refused request may have taken effect.
pub const X_EFFECT: HeaderName = HeaderName::from_static("x-effect");

/// What kind of route refused: a few codes and headers depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// A provider's webhook: it retries a 503, so a full queue is one.
    Webhook,
    /// A call that wants a capability.
    Api,
    /// Anything else.
    Plain,
}

/// A refusal on its way out of a handler.
#[derive(Debug)]
pub struct Failure(pub Refusal);

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure(refusal)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status(&self.0, RouteKind::Plain);
        response.extensions_mut().insert(self.0);
        response
    }
}

/// Marks a non-2xx answer whose body is its own format (readyz, a provider's handshake).
#[derive(Debug, Clone, Copy)]
pub struct OwnAnswer;

/// The status of a refusal. BACKPRESSURE is 503 to a provider, 429 to a client that knows to slow down.
#[must_use]
pub fn status(refusal: &Refusal, kind: RouteKind) -> StatusCode {
    let code = match (refusal.reason, kind) {
        (Reason::Backpressure, RouteKind::Webhook) => 503,
        (reason, _) => reason.status(),
    };
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// `Retry-After` in whole seconds, at least 1.
#[must_use]
pub const fn retry_after_s(ms: u64) -> u64 {
    let seconds = ms.div_ceil(1000);
    if seconds == 0 { 1 } else { seconds }
}

/// The refusal that `response` stands for, if it is one.
pub fn refusal_of(response: &mut Response) -> Option<Refusal> {
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        return Some(refusal);
    }
    let status = response.status();
    if status.is_success() || status.is_redirection() || response.extensions().get::<OwnAnswer>().is_some() {
        return None;
    }
    Some(match status.as_u16() {
        404 => not_found(),
        405 => method_not_allowed(),
        408 => Refusal::new(Reason::Timeout, "the request did not arrive in time"),
        413 => Refusal::new(Reason::BodyLimit, "the body is over the limit"),
        415 => Refusal::new(Reason::UnsupportedEncoding, "this content type or coding is not accepted here"),
        400..=499 => Refusal::new(Reason::Malformed, "the request could not be read"),
        _ => Refusal::new(Reason::Internal, "internal error; the log has it under the corr_id"),
    })
}

/// There is no such route.
#[must_use]
pub fn not_found() -> Refusal {
    Refusal::new(Reason::NotFound, "no such route; the path is /v1/{tenant}/{topic}/{call}")
}

/// The route has other methods.
#[must_use]
pub fn method_not_allowed() -> Refusal {
    Refusal::new(Reason::MethodNotAllowed, "this route has another method; see the Allow header")
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a str,
    reason: Reason,
    corr_id: &'a str,
}

/// The answer to a refused request. `from` is the response the refusal came in: its `Allow` is kept.
#[must_use]
pub fn render(refusal: &Refusal, corr: &CorrId, kind: RouteKind, from: &HeaderMap) -> Response {
    let body = Envelope { error: &refusal.text, reason: refusal.reason, corr_id: corr.as_str() };
    // three strings always serialise
    let body = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status(refusal, kind);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, body.len().into());
    headers.insert(X_EFFECT, HeaderValue::from_static(refusal.effect.label()));
    if refusal.reason.retryable() {
        headers.insert(RETRY_AFTER, retry_after_s(refusal.retry_after_ms.unwrap_or(1000)).into());
    }
    if let Some(allow) = from.get(ALLOW) {
        headers.insert(ALLOW, allow.clone());
    }
    if kind == RouteKind::Api && matches!(refusal.reason, Reason::Unauth | Reason::ExpiredToken) {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    *response.body_mut() = Body::from(body);
    response
}

/// The last line of a stream that a refusal ends.
#[must_use]
pub fn line(refusal: &Refusal, corr: &CorrId) -> Vec<u8> {
    let body = Envelope { error: &refusal.text, reason: refusal.reason, corr_id: corr.as_str() };
    // three strings always serialise
    let mut line = serde_json::to_vec(&body).unwrap_or_default();
    line.push(b'\n');
    line
}

/// A JSON answer with this status.
#[must_use]
pub fn json(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `value` as a JSON answer with this status.
///
/// # Errors
/// INTERNAL if the value does not serialise, which would be a bug.
pub fn json_of(status: StatusCode, value: &impl Serialize) -> Result<Response, Failure> {
    match serde_json::to_vec(value) {
        Ok(body) => Ok(json(status, body)),
        Err(_) => Err(Failure(Refusal::new(Reason::Internal, "the answer could not be written"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corr() -> CorrId {
        CorrId::parse("corr-0001").unwrap()
    }

    #[test]
    fn retry_after_is_whole_seconds_and_never_zero() {
        for (ms, s) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (30_000, 30)] {
            assert_eq!(retry_after_s(ms), s, "{ms} ms");
        }
    }

    #[test]
    fn a_full_queue_is_503_to_providers_only() {
        let refusal = Refusal::new(Reason::Backpressure, "full");
        assert_eq!(status(&refusal, RouteKind::Webhook), 503);
        assert_eq!(status(&refusal, RouteKind::Api), 429);
    }

    #[test]
    fn every_reason_has_its_headers() {
        for reason in Reason::ALL {
            let refusal = Refusal::new(reason, "text").retry_after(2500);
            let response = render(&refusal, &corr(), RouteKind::Api, &HeaderMap::new());
            let headers = response.headers();
            assert_eq!(headers[&X_EFFECT], reason.effect().label());
            assert_eq!(headers.get(RETRY_AFTER).is_some(), reason.retryable(), "{reason}");
            if reason.retryable() {
                assert_eq!(headers[RETRY_AFTER], "3");
            }
            assert_eq!(response.status().as_u16(), reason.status());
        }
    }

    #[test]
    fn framework_errors_become_refusals() {
        for (code, reason) in [
            (404, Reason::NotFound),
            (405, Reason::MethodNotAllowed),
            (413, Reason::BodyLimit),
            (415, Reason::UnsupportedEncoding),
            (422, Reason::Malformed),
            (500, Reason::Internal),
            (502, Reason::Internal),
        ] {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            assert_eq!(refusal_of(&mut response).unwrap().reason, reason, "{code}");
        }
        let mut own = Response::new(Body::empty());
        *own.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        own.extensions_mut().insert(OwnAnswer);
        assert!(refusal_of(&mut own).is_none());
    }
}
