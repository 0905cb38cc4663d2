//! Whether the node lives and may be given work (TOOL-18). No tenant's name is in any of it.

use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::Ops;

pub(super) async fn alive() -> &'static str {
    "ok\n"
}

pub(super) async fn ready(State(ops): State<Arc<Ops>>) -> Response {
    let mut reasons = Vec::new();
    if *ops.draining.borrow() {
        reasons.push("draining: the node is going down".to_owned());
    }
    let read_only = ops.broker.read_only().len();
    if read_only > 0 {
        reasons.push(format!(
            "read_only: {read_only} realities take no writes; /status names them"
        ));
    }
    reasons.extend(short_of_room(&ops).await);
    let ill = ops.checkup.ill(&ops.broker);
    if ill.damaged > 0 {
        reasons.push(format!(
            "damaged_log: a log is damaged and will take no writes when it is opened ({} in all); the node's log names the file",
            ill.damaged
        ));
    }
    if ill.unreadable > 0 {
        reasons.push(format!(
            "unreadable_log: a log cannot be opened ({} in all); the node's log names it",
            ill.unreadable
        ));
    }
    let unfit = ops.shield.unfit().len();
    if unfit > 0 {
        reasons.push(format!(
            "edge_unfit: what the edge has in force cannot be established for {unfit} tenants, whose messages are refused; the node's log says why"
        ));
    }
    reasons.extend(ops.tls.as_ref().and_then(|tls| tls.unfit()));
    let missing = ops.verifier.missing_sets();
    if !missing.is_empty() {
        reasons.push(format!(
            "keys_missing: {} cannot be had, so that its tokens are refused; the node's log says why",
            missing.join(", ")
        ));
    }
    // Not a reason to be taken out of service: what is good is served, and writes are taken.
    let mut notices = ops.tls.as_ref().map_or_else(Vec::new, |tls| tls.notices());
    let damaged = ops.broker.damaged();
    if damaged > 0 {
        notices.push(format!(
            "damaged: reading has met damaged records in {damaged} realities; /status names them"
        ));
    }
    let failing = ops.verifier.failing_sets();
    if !failing.is_empty() {
        notices.push(format!(
            "keys_old: {} cannot be brought up to date; its last good keys are used, for a while",
            failing.join(", ")
        ));
    }
    let status = if reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(json!({ "ready": reasons.is_empty(), "reasons": reasons, "notices": notices })),
    )
        .into_response()
}

/// Without room for a segment no log can be created and none can go on when its last one is full.
async fn short_of_room(ops: &Ops) -> Option<String> {
    let data = ops.data.clone();
    // Not here: a disk that hangs must not hold up those who ask for something else.
    let asked = tokio::task::spawn_blocking(move || room_bytes(&data)).await;
    match asked {
        Ok(Ok(free)) if free >= ops.room_bytes_min => None,
        Ok(Ok(free)) => Some(format!(
            "disk_full: {free} bytes are free, a log needs {} to go on; make room",
            ops.room_bytes_min
        )),
        Ok(Err(error)) => Some(format!(
            "disk_failure: the data directory's file system does not say how much room it has: {error}"
        )),
        Err(error) => {
            tracing::error!(%error, "asking for the room on the disk failed");
            None
        }
    }
}

fn room_bytes(data: &Path) -> rustix::io::Result<u64> {
    let found = rustix::fs::statvfs(data)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

pub(super) async fn version(State(ops): State<Arc<Ops>>) -> Json<Value> {
    Json(json!({ "name": "arqonbus", "version": env!("CARGO_PKG_VERSION"), "node": ops.node }))
}
