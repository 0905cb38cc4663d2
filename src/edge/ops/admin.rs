//! The commands over HTTP (BRK-11): `POST /v1/commands/{name}`, and for those that only show
//! something a GET of its own. What there is and who may give it stands in the registry alone.

use std::sync::Arc;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Path, RawPathParams, Request, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Body as _;
use serde_json::{Value as JsonValue, json};

use super::access::{self, Caller, single};
use super::answer::refuse;
use super::arguments::{self, Given};
use super::{Ops, openapi};
use crate::broker::verb::Argument;
use crate::edge::shield::Fault;
use crate::edge::shield::command::{self, Desk};
use crate::proto::ErrorCode;

/// A body of arguments: a policy's module, in base64, with room to spare.
pub(super) const BODY_BYTES_MAX: usize = 8 << 20;
const JSON: &str = "application/json";

/// `GET /v1/commands`.
pub(super) async fn list(State(ops): State<Arc<Ops>>, request: Request) -> Response {
    if let Err(fault) = access::admit(&ops, &request).await {
        return refuse(&fault);
    }
    let argument = |argument: &Argument| {
        json!({
            "name": argument.name,
            "type": openapi::type_name(argument.kind),
            "required": argument.required,
            "doc": argument.doc,
        })
    };
    let commands: Vec<JsonValue> = command::all()
        .iter()
        .map(|command| {
            let arguments: Vec<JsonValue> = command.arguments.iter().map(argument).collect();
            json!({
                "name": command.name,
                "role": command.role.as_str(),
                "effect": command.effect.as_str(),
                "arguments": arguments,
                "doc": command.doc,
            })
        })
        .collect();
    Json(json!({ "result": commands })).into_response()
}

/// `POST /v1/commands/{name}`.
pub(super) async fn run(
    State(ops): State<Arc<Ops>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let from = access::address(&request);
    match given(&ops, &name, request).await {
        Ok((caller, given)) => carry_out(&ops, from, caller, name, given).await,
        Err(fault) => refuse(&fault),
    }
}

/// The GET that shows what `command` says; its arguments are those of the path and the query.
pub(super) async fn view(
    ops: Arc<Ops>,
    command: &'static str,
    path: RawPathParams,
    request: Request,
) -> Response {
    let caller = match access::admit(&ops, &request).await {
        Ok(caller) => caller,
        Err(fault) => return refuse(&fault),
    };
    let query = request.uri().query().unwrap_or_default();
    let given = arguments::of_query(query, arguments_of(command));
    match given.and_then(|given| arguments::with_path(given, &path)) {
        Ok(given) => {
            let from = access::address(&request);
            carry_out(&ops, from, caller, command.to_owned(), given).await
        }
        Err(fault) => refuse(&fault),
    }
}

/// Who asks, and with which arguments. Nothing of the body is read for whoever may not ask.
async fn given(ops: &Ops, name: &str, request: Request) -> Result<(Caller, Given), Fault> {
    let caller = access::admit(ops, &request).await?;
    // What a page can have a browser post to other sites unasked is never JSON by its type.
    let kind = single(request.headers(), &header::CONTENT_TYPE)?.unwrap_or_default();
    let media = kind.split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case(JSON) {
        let text = "send the arguments as a JSON object, with Content-Type: application/json";
        return Err(Fault::invalid("Content-Type", text));
    }
    let too_large = || {
        let text = format!("the body has more than {BODY_BYTES_MAX} bytes, or ends too early");
        Fault::new(ErrorCode::TooLarge, "body", text)
    };
    // What it announces is enough to refuse it.
    if request.body().size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let body = to_bytes(request.into_body(), BODY_BYTES_MAX).await;
    let body = body.map_err(|error| {
        tracing::debug!(%error, "a body could not be read");
        too_large()
    })?;
    let given = arguments::of_body(&body, arguments_of(name))?;
    Ok((caller, given))
}

fn arguments_of(name: &str) -> &'static [Argument] {
    let all = command::all();
    let found = all.iter().find(|command| command.name == name);
    found.map_or(&[], |command| command.arguments)
}

async fn carry_out(
    ops: &Ops,
    from: Arc<str>,
    caller: Caller,
    name: String,
    given: Given,
) -> Response {
    let identity = match caller.identity() {
        Ok(identity) => identity,
        Err(fault) => return refuse(&fault),
    };
    let (tenancy, guard) = match access::open(ops, &identity.tenant).await {
        Ok(opened) => opened,
        Err(fault) => return refuse(&fault),
    };
    let desk = Desk {
        shield: Arc::clone(&ops.shield),
        broker: Arc::clone(&ops.broker),
        projections: Arc::clone(&ops.projections),
        wait_max: ops.wait_max,
        tenancy,
        guard,
        from,
    };
    let done = tokio::task::spawn_blocking(move || desk.run(&identity, &name, &given)).await;
    match done {
        Ok(Ok(result)) => Json(json!({ "result": result.to_json() })).into_response(),
        Ok(Err(fault)) => refuse(&fault),
        Err(error) => {
            tracing::error!(%error, "a command panicked");
            refuse(&access::internal())
        }
    }
}
