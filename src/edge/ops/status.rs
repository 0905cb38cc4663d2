//! The node and its realities, for whoever may see them: an admin its own tenant's (EDGE-06), in
//! development whoever is on the machine all of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::Ops;
use super::access::{self, Caller};
use super::answer::refuse;
use crate::broker::damage::without_directories;
use crate::broker::{Reality, Role};
use crate::config::Profile;
use crate::edge::shield::Fault;
use crate::proto::ErrorCode;

/// Whose realities are shown.
enum Seen {
    All,
    Of(String),
}

impl Seen {
    fn includes(&self, tenant: &str) -> bool {
        match self {
            Self::All => true,
            Self::Of(own) => own == tenant,
        }
    }
}

pub(super) async fn status(State(ops): State<Arc<Ops>>, request: Request) -> Response {
    let seen = match access::admit(&ops, &request).await {
        Ok(Caller::Anybody) => Seen::All,
        Ok(Caller::Known(caller)) if caller.role == Role::Admin => {
            Seen::Of(caller.tenant.as_str().to_owned())
        }
        Ok(Caller::Known(_)) => {
            let text = "this needs a token with the role admin";
            return refuse(&Fault::new(ErrorCode::Forbidden, "", text));
        }
        Err(fault) => return refuse(&fault),
    };
    let mut tenancies = ops.broker.tenancies();
    tenancies.retain(|tenancy| seen.includes(tenancy.tenant().as_str()));
    let limited: Vec<Value> = tenancies
        .iter()
        .filter_map(|tenancy| {
            let (stored, limit) = tenancy.stored_bytes()?;
            let tenant = tenancy.tenant().as_str();
            Some(json!({ "tenant": tenant, "stored_bytes": stored, "stored_bytes_max": limit }))
        })
        .collect();
    let realities: Vec<Value> = tenancies
        .iter()
        .flat_map(|tenancy| tenancy.all_opened())
        .map(|reality| reality_status(&reality))
        .collect();
    let profile = match ops.profile {
        Profile::Development => "development",
        Profile::Production => "production",
    };
    Json(json!({
        "node": ops.node,
        "version": env!("CARGO_PKG_VERSION"),
        "profile": profile,
        "uptime_s": ops.started.elapsed().as_secs(),
        "draining": *ops.draining.borrow(),
        "sessions": ops.seats.total(),
        "realities": realities,
        "limited_tenants": limited,
    }))
    .into_response()
}

fn reality_status(reality: &Reality) -> Value {
    let log = reality.log().status();
    json!({
        "tenant": reality.tenant().as_str(),
        "reality": reality.name().as_str(),
        "first": log.bounds.first.get(),
        "durable_end": log.bounds.durable_end.get(),
        "written_end": log.bounds.written_end.get(),
        "segments": log.segments,
        "used_bytes": log.used_bytes,
        "tail_bytes": log.tail_bytes,
        "index_bytes": log.index_bytes,
        "file_handles": log.file_handles,
        "waiting_bytes": log.waiting_bytes,
        "flushes": log.flushes,
        "epoch": log.epoch,
        "subscriptions": reality.subscriptions(),
        "read_only": reality.read_only().map(|state| json!({
            "reason": state.reason,
            "repairing": state.repairing,
        })),
        "damaged_reads": reality.encounters().reads(),
        "damages": reality.encounters().places().iter().map(without_directories).collect::<Vec<_>>(),
    })
}
