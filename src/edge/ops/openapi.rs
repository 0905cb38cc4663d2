//! The operations listener described for programs: OpenAPI 3.1, made of the routes and the registry
//! of commands (TOOL-11).

use std::collections::BTreeSet;

use axum::Json;
use serde_json::{Map, Value, json};

use super::routes::{Access, COMMAND, Media, ROUTES, Route, View, views};
use crate::broker::verb::{Argument, Kind};
use crate::edge::shield::command::{self, Listed};
use crate::proto::ErrorCode;

pub(super) async fn serve() -> Json<Value> {
    Json(document())
}

/// The name of an argument's type.
pub(super) const fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Bytes => "bytes",
        Kind::Integer => "integer",
        Kind::Boolean => "boolean",
        Kind::Texts => "texts",
        Kind::Object => "object",
        Kind::Number => "number",
        Kind::Any => "any",
    }
}

fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        paths.insert(route.path.to_owned(), json!({ "get": of_route(route) }));
    }
    for (view, command) in views() {
        paths.insert(
            view.path.to_owned(),
            json!({ "get": of_view(view, &command) }),
        );
    }
    for command in command::all() {
        let path = COMMAND.replace("{name}", command.name);
        paths.insert(path, json!({ "post": of_command(&command) }));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "ArqonBus operations",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Health, metrics and the admin API of a node. The tenant that a command works on is that of the token.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
            },
            "schemas": { "Error": error() },
        },
    })
}

fn of_route(route: &Route) -> Value {
    let mut responses = Map::new();
    for status in route.statuses {
        responses.insert(status.to_string(), good(route.media));
    }
    let mut operation = operation(&format!("get {}", route.path), route.doc);
    if route.access == Access::Bearer {
        refusals(&mut responses);
        operation.insert("security".to_owned(), json!([{ "bearer": [] }]));
    }
    operation.insert("responses".to_owned(), responses.into());
    operation.into()
}

fn of_view(view: &View, command: &Listed) -> Value {
    let parameters: Vec<Value> = command
        .arguments
        .iter()
        .map(|argument| {
            let in_path = view.path.contains(&format!("{{{}}}", argument.name));
            // A list is one parameter, with commas.
            let (place, style) = if in_path {
                ("path", "simple")
            } else {
                ("query", "form")
            };
            json!({
                "name": argument.name,
                "in": place,
                "required": argument.required,
                "description": argument.doc,
                "schema": schema(argument.kind),
                "style": style,
                "explode": false,
            })
        })
        .collect();
    let mut operation = commanded(command, &format!("show {}", command.name));
    operation.insert("parameters".to_owned(), parameters.into());
    operation.into()
}

fn of_command(command: &Listed) -> Value {
    let properties: Map<String, Value> = command
        .arguments
        .iter()
        .map(|argument| {
            let mut schema = schema(argument.kind);
            schema["description"] = argument.doc.into();
            (argument.name.to_owned(), schema)
        })
        .collect();
    let needed = command
        .arguments
        .iter()
        .filter(|argument| argument.required);
    let needed: Vec<&str> = needed.map(|argument: &Argument| argument.name).collect();
    let mut operation = commanded(command, command.name);
    let body = json!({
        "required": true,
        "content": { "application/json": { "schema": {
            "type": "object",
            "properties": properties,
            "required": needed,
            "additionalProperties": false,
        }}},
    });
    operation.insert("requestBody".to_owned(), body);
    operation.into()
}

/// What a command's two forms have in common.
fn commanded(command: &Listed, id: &str) -> Map<String, Value> {
    let mut responses = Map::new();
    responses.insert("200".to_owned(), result());
    refusals(&mut responses);
    let mut operation = operation(id, command.doc);
    operation.insert("security".to_owned(), json!([{ "bearer": [] }]));
    operation.insert("x-role".to_owned(), command.role.as_str().into());
    operation.insert("responses".to_owned(), responses.into());
    operation
}

fn operation(id: &str, doc: &str) -> Map<String, Value> {
    let id = id.replace(['/', ' '], "_").replace("__", "_");
    let pairs = [("operationId", id.as_str()), ("summary", doc)];
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect()
}

/// A type of arguments in JSON Schema.
fn schema(kind: Kind) -> Value {
    match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
        Kind::Integer => json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Object => json!({ "type": "object" }),
        Kind::Number => json!({ "type": "number" }),
        Kind::Any => json!({}),
    }
}

fn good(media: Media) -> Value {
    let (kind, schema) = match media {
        Media::Text => ("text/plain", json!({ "type": "string" })),
        Media::Json => ("application/json", json!({ "type": "object" })),
        Media::Metrics => ("application/openmetrics-text", json!({ "type": "string" })),
    };
    json!({ "description": "As asked for.", "content": { kind: { "schema": schema } } })
}

fn result() -> Value {
    json!({
        "description": "The command was carried out.",
        "content": { "application/json": { "schema": {
            "type": "object",
            "properties": { "result": {} },
            "required": ["result"],
            "additionalProperties": false,
        }}},
    })
}

/// The statuses that any of the codes is answered with.
fn refusals(responses: &mut Map<String, Value>) {
    let statuses: BTreeSet<u16> = ErrorCode::ALL
        .iter()
        .map(|code| code.http_status())
        .collect();
    for status in statuses {
        let codes = ErrorCode::ALL
            .iter()
            .filter(|code| code.http_status() == status);
        let codes: Vec<&str> = codes.map(|code| code.as_str()).collect();
        responses.insert(
            status.to_string(),
            json!({
                "description": codes.join(", "),
                "content": { "application/json": {
                    "schema": { "$ref": "#/components/schemas/Error" },
                }},
            }),
        );
    }
}

fn error() -> Value {
    let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    json!({
        "type": "object",
        "properties": { "error": {
            "type": "object",
            "properties": {
                "code": { "type": "string", "enum": codes },
                "message": { "type": "string" },
                "field": { "type": "string" },
                "retryable": { "type": "boolean" },
                "retry_after_ms": { "type": "integer", "minimum": 0 },
            },
            "required": ["code", "message", "field", "retryable", "retry_after_ms"],
            "additionalProperties": false,
        }},
        "required": ["error"],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // TOOL-11
    #[test]
    fn every_operation_has_a_name_of_its_own_and_every_reference_leads_somewhere() {
        let document = document();
        let mut names = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap().to_owned();
                assert!(names.insert(name), "{method} {path}");
                let responses = operation["responses"].as_object().unwrap();
                assert!(responses.contains_key("200"), "{method} {path}");
            }
        }
        assert!(names.len() > command::all().len());
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
