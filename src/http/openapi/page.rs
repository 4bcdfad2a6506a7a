//! The page at `/docs`: Swagger UI out of `vendor/swagger-ui`, allowed to load from here alone.

use crate::http::error::{Failure, not_found};
use crate::http::request::{Path, path_part};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};

const INDEX: &str = include_str!("page/index.html");
const START: &str = include_str!("page/start.js");
const BUNDLE: &str = include_str!("../../../vendor/swagger-ui/swagger-ui-bundle.js");
const STYLE: &str = include_str!("../../../vendor/swagger-ui/swagger-ui.css");

/// Scripts, styles and requests to this origin only, nothing inline, nobody's frame. The style's icons are `data:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /docs`
pub(super) async fn index() -> Response {
    answer("text/html; charset=utf-8", INDEX)
}

/// `GET /docs/{file}`
///
/// # Errors
/// NOT_FOUND for any other file.
pub(super) async fn file(path: Path) -> Result<Response, Failure> {
    Ok(match path_part(&path, "file")? {
        "start.js" => answer("text/javascript; charset=utf-8", START),
        "swagger-ui-bundle.js" => answer("text/javascript; charset=utf-8", BUNDLE),
        "swagger-ui.css" => answer("text/css; charset=utf-8", STYLE),
        _ => return Err(Failure(not_found())),
    })
}

fn answer(content_type: &'static str, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(Bytes::from_static(text.as_bytes())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // another build may serve another page under the same name
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
