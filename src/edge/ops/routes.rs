//! Every route of the operations listener, once (TOOL-11): the router, the description for programs
//! and the names in the metrics are made of this table.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawPathParams, Request, State};
use axum::routing::{MethodRouter, get, post};

use super::{Ops, admin, answer, asyncapi, exposition, health, openapi, status};
use crate::edge::shield::command::{self, Listed};

/// What a route wants of whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: what it says names no tenant.
    Anybody,
    /// A token; which role is decided by what is asked for.
    Bearer,
}

/// How a route answers when all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `text/plain`.
    Text,
    /// JSON.
    Json,
    /// The exposition of metrics.
    Metrics,
}

/// A route that is no command.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Its path.
    pub path: &'static str,
    /// What it is for, in a sentence.
    pub doc: &'static str,
    /// Who may ask.
    pub access: Access,
    /// What it answers with.
    pub media: Media,
    /// Statuses that it answers with besides those of its access.
    pub statuses: &'static [u16],
    handler: fn() -> MethodRouter<Arc<Ops>>,
}

/// A command that only shows something, and the path at which a GET shows it too. What stands in
/// braces in the path is the argument of that name.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The path.
    pub path: &'static str,
    /// The command's name.
    pub command: &'static str,
}

/// Where commands are given; `{name}` is that of the command.
pub const COMMAND: &str = "/v1/commands/{name}";

/// All but the commands.
pub const ROUTES: &[Route] = &[
    Route {
        path: "/healthz",
        doc: "Answers while the process lives.",
        access: Access::Anybody,
        media: Media::Text,
        statuses: &[200],
        handler: || get(health::alive),
    },
    Route {
        path: "/readyz",
        doc: "Says whether the node may be given work, and why not.",
        access: Access::Anybody,
        media: Media::Json,
        statuses: &[200, 503],
        handler: || get(health::ready),
    },
    Route {
        path: "/version",
        doc: "Names the program, its version and the node.",
        access: Access::Anybody,
        media: Media::Json,
        statuses: &[200],
        handler: || get(health::version),
    },
    Route {
        path: "/metrics",
        doc: "The node's metrics, for Prometheus.",
        access: Access::Anybody,
        media: Media::Metrics,
        statuses: &[200],
        handler: || get(exposition::metrics),
    },
    Route {
        path: "/status",
        doc: "Shows the open realities of an admin's own tenant, with their bounds, sizes and state.",
        access: Access::Bearer,
        media: Media::Json,
        statuses: &[200],
        handler: || get(status::status),
    },
    Route {
        path: "/v1/openapi.json",
        doc: "Describes this listener (OpenAPI 3.1).",
        access: Access::Anybody,
        media: Media::Json,
        statuses: &[200],
        handler: || get(openapi::serve),
    },
    Route {
        path: "/v1/asyncapi.json",
        doc: "Describes the WebSocket protocol (AsyncAPI 3.0).",
        access: Access::Anybody,
        media: Media::Json,
        statuses: &[200],
        handler: || get(asyncapi::serve),
    },
    Route {
        path: "/v1/commands",
        doc: "Lists the commands with their roles and arguments.",
        access: Access::Bearer,
        media: Media::Json,
        statuses: &[200],
        handler: || get(admin::list),
    },
];

/// Commands that have a path of their own. One that this node does not have has none.
const VIEWS: &[View] = &[
    view("/v1/audit", "audit.list"),
    view("/v1/audit/head", "audit.head"),
    view("/v1/audit/verification", "audit.verify"),
    view("/v1/casil", "op.casil.get"),
    view("/v1/control", "control.list"),
    view("/v1/consumers", "consumer.list"),
    view("/v1/cron", "op.cron.list"),
    view("/v1/delayed", "delayed.list"),
    view("/v1/dlq", "dlq.list"),
    view("/v1/edge/status", "edge.status"),
    view("/v1/groups", "group.list"),
    view("/v1/groups/{group}", "group.show"),
    view("/v1/history", "history.get"),
    view("/v1/mirrors", "edge.mirror.list"),
    view("/v1/omega/substrates", "op.omega.list_substrates"),
    view("/v1/operators", "operators.list"),
    view("/v1/operators/{group}/{instance}", "operators.show"),
    view("/v1/policies", "edge.policy.list"),
    view("/v1/projections", "projection.list"),
    view("/v1/projections/{name}", "projection.status"),
    view("/v1/quota", "quota.show"),
    view("/v1/rates", "edge.rate.list"),
    view("/v1/realities", "reality.list"),
    view("/v1/revocations", "edge.revocations"),
    view("/v1/rooms", "room.list"),
    view("/v1/rooms/{room}", "room.info"),
    view("/v1/schemas", "edge.schema.list"),
    view("/v1/signatures", "edge.signature.key.list"),
    view("/v1/store", "op.store.list"),
    view("/v1/topic-declarations", "topic.declarations"),
    view("/v1/topics", "topics.list"),
    view("/v1/topics/{topic}", "topics.describe"),
    view("/v1/webhooks", "op.webhook.list"),
    view("/v1/wasm", "op.wasm.list"),
];

const fn view(path: &'static str, command: &'static str) -> View {
    View { path, command }
}

/// The views, each with its command; a test holds that none is without.
pub fn views() -> impl Iterator<Item = (&'static View, Listed)> {
    let all = command::all();
    VIEWS.iter().filter_map(move |view| {
        let command = all.iter().find(|command| command.name == view.command)?;
        Some((view, *command))
    })
}

/// The name of a route in metrics, if it is one of ours.
pub(super) fn known(path: &str) -> Option<&'static str> {
    let routes = ROUTES.iter().map(|route| route.path);
    let views = VIEWS.iter().map(|view| view.path);
    let mut paths = routes.chain(views).chain([COMMAND]);
    paths.find(|known| *known == path)
}

/// The router.
pub(super) fn router() -> Router<Arc<Ops>> {
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(route.path, (route.handler)());
    }
    for (view, _) in views() {
        let command = view.command;
        let show = move |State(ops): State<Arc<Ops>>, path: RawPathParams, request: Request| {
            admin::view(ops, command, path, request)
        };
        router = router.route(view.path, get(show));
    }
    router
        .route(COMMAND, post(admin::run))
        .method_not_allowed_fallback(answer::wrong_method)
        .fallback(answer::not_found)
}

#[cfg(test)]
mod tests {
    use super::*;

    // EDGE-23, TOOL-11
    #[test]
    fn every_view_shows_what_a_command_says() {
        assert_eq!(views().count(), VIEWS.len());
    }
}
