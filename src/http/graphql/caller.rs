//! How a resolver acts: it sends a request to the REST handlers of its listener, in this process, with the caller's
//! own capability. So both have the same checks, rates and reasons, because they are the same code.

use crate::http::auth::bearer;
use crate::http::body::Keeper;
use crate::http::door::Meter;
use crate::http::draft::malformed;
use crate::http::error::{RouteKind, refusal_of};
use crate::http::request::Call;
use async_graphql::ErrorExtensions;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::BodyExt;
use ron_core::capability::Token;
use ron_core::ids::{Tenant, Topic};
use ron_core::reason::{Reason, Refusal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Write;
use tower::ServiceExt;

/// Who runs an operation, and through what.
pub(super) struct Caller {
    pub(super) router: Router,
    pub(super) headers: HeaderMap,
    pub(super) call: Call,
    /// Holds what was received until it is written.
    pub(super) keeper: Keeper,
    pub(super) meter: Meter,
}

/// What a field gives: its value, or nothing and an error beside it; other fields stand.
pub(super) type Given<T> = Option<async_graphql::Result<T>>;

impl Caller {
    /// The path of a topic; without a tenant the capability's own is meant.
    ///
    /// # Errors
    /// As the REST path is refused.
    pub(super) fn base(&self, tenant: Option<&str>, topic: &str) -> Result<String, Refusal> {
        let tenant = match tenant {
            Some(tenant) => Tenant::parse(tenant).map_err(|bad| malformed(bad.to_string()))?,
            None => own_tenant(&self.headers)?,
        };
        let topic = Topic::parse(topic).map_err(|bad| malformed(bad.to_string()))?;
        Ok(format!("/v1/{tenant}/{topic}"))
    }

    /// Posts JSON to a REST route.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Refusal> {
        let unwritten = |_| Refusal::new(Reason::Internal, "the call could not be written");
        self.send(Method::POST, path, serde_json::to_vec(body).map_err(unwritten)?).await
    }

    /// Gets a REST route.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Refusal> {
        self.send(Method::GET, path, Vec::new()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, Refusal> {
        let internal = |text| Refusal::new(Reason::Internal, text);
        let mut request =
            http::Request::builder().method(method).uri(path).body(Body::from(Bytes::from(body)));
        let request = request.as_mut().map_err(|_| internal("the call has no valid path"))?;
        for value in self.headers.get_all(AUTHORIZATION) {
            request.headers_mut().append(AUTHORIZATION, value.clone());
        }
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.extensions_mut().insert(self.call.clone());
        request.extensions_mut().insert(self.keeper.clone());
        let request = std::mem::take(request);
        let mut response = match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if let Some(refusal) = refusal_of(&mut response) {
            self.meter.refused(RouteKind::Api, refusal.reason);
            return Err(refusal);
        }
        let body = response.into_body().collect().await;
        let body = body.map_err(|_| internal("the call's answer broke off"))?.to_bytes();
        serde_json::from_slice(&body).map_err(|_| internal("the call's answer could not be read"))
    }

    /// What a field shows of it.
    pub(super) fn given<T>(&self, result: Result<T, Refusal>) -> Given<T> {
        Some(result.map_err(|refusal| error(&refusal, &self.call)))
    }
}

/// The tenant that the request's capability claims to be for; whether it is, is judged with each call.
///
/// # Errors
/// UNAUTH.
pub(in crate::http) fn own_tenant(headers: &HeaderMap) -> Result<Tenant, Refusal> {
    let token = Token::parse(bearer(headers)?).map_err(|why| Refusal::new(Reason::Unauth, why))?;
    Tenant::parse(&token.tenant).map_err(|_| Refusal::new(Reason::Unauth, "capability: not a token"))
}

/// A refusal as GraphQL tells it: what REST has in the envelope and its headers is in the extensions.
pub(super) fn error(refusal: &Refusal, call: &Call) -> async_graphql::Error {
    async_graphql::Error::new(refusal.text.clone()).extend_with(|_, more| {
        more.set("reason", refusal.reason.code());
        more.set("effect", refusal.effect.label());
        more.set("corr_id", call.corr.as_str());
        if let Some(ms) = refusal.retry_after_ms.filter(|_| refusal.reason.retryable()) {
            more.set("retry_after_ms", ms);
        }
    })
}

/// A value in a query string.
pub(super) fn encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // writing to a String cannot fail
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
