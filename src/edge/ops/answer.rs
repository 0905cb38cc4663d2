//! How a refusal looks over HTTP: `{"error": {..}}` with the status of its code.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use crate::edge::handshake;
use crate::edge::shield::Fault;
use crate::proto::ErrorCode;

/// The answer to a request that is refused.
pub(super) fn refuse(fault: &Fault) -> Response {
    let status = status_of(fault.code);
    if matches!(fault.code, ErrorCode::StorageFailure | ErrorCode::Internal) {
        tracing::error!(%fault, "a request for operations failed");
    }
    let body = Json(json!({ "error": {
        "code": fault.code.as_str(),
        "message": fault.message,
        "field": fault.field,
        "retryable": fault.retry_after_ms > 0,
        "retry_after_ms": fault.retry_after_ms,
    }}));
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static(handshake::REALM);
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    if fault.retry_after_ms > 0 {
        let seconds = fault.retry_after_ms.div_ceil(1_000);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

pub(super) fn status_of(code: ErrorCode) -> StatusCode {
    StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A route that does not exist.
pub(super) async fn not_found() -> Response {
    let text = "there is nothing at this path; GET /v1/openapi.json lists what there is";
    refuse(&Fault::new(ErrorCode::NotFound, "path", text))
}

/// A route that does not take the request's method.
pub(super) async fn wrong_method() -> Response {
    let text = "this path takes another method; GET /v1/openapi.json says which";
    let mut response = refuse(&Fault::new(ErrorCode::InfraProtocolError, "method", text));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}
