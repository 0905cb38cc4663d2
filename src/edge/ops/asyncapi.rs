//! The WebSocket protocol described for programs: AsyncAPI 3.0, made of the compiled descriptors
//! (TOOL-11).

use std::collections::BTreeSet;

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::answer::refuse;
use crate::edge::handshake::PATHS;
use crate::edge::shield::Fault;
use crate::proto::{DESCRIPTORS, ErrorCode};

/// The two frames, what they are called here, and who sends them, as seen by the node.
const FRAMES: [(&str, &str, &str); 2] = [
    ("arqon.v1.ClientFrame", "fromClient", "receive"),
    ("arqon.v1.ServerFrame", "fromNode", "send"),
];

pub(super) async fn serve() -> Response {
    match document() {
        Some(document) => Json(document).into_response(),
        None => refuse(&Fault::new(
            ErrorCode::Internal,
            "",
            "the contract's descriptors cannot be read",
        )),
    }
}

fn document() -> Option<Value> {
    let pool = DescriptorPool::decode(DESCRIPTORS).ok()?;
    let mut messages = Map::new();
    let mut operations = Map::new();
    let mut reached = BTreeSet::new();
    for (frame, name, action) in FRAMES {
        let frame = pool.get_message_by_name(frame)?;
        reach(&frame, &mut reached);
        let body = frame.oneofs().find(|oneof| oneof.name() == "body")?;
        let mut refs = Vec::new();
        for field in body.fields() {
            let key = format!("{}.{}", frame.name(), field.name());
            messages.insert(key.clone(), message(&frame, &field));
            refs.push(json!({ "$ref": format!("#/channels/session/messages/{key}") }));
        }
        let operation = json!({
            "action": action,
            "channel": { "$ref": "#/channels/session" },
            "messages": refs,
        });
        operations.insert(name.to_owned(), operation);
    }
    let channel: Map<String, Value> = messages
        .keys()
        .map(|key| {
            let reference = json!({ "$ref": format!("#/components/messages/{key}") });
            (key.clone(), reference)
        })
        .collect();
    let schemas: Map<String, Value> = reached
        .iter()
        .filter_map(|name| Some((name.clone(), schema(&pool.get_message_by_name(name)?))))
        .collect();
    Some(json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "ArqonBus",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The WebSocket subprotocol arqon.v1: one binary message is one ClientFrame or ServerFrame in protobuf. Schemas are those of the messages' JSON form; x-number is a field's number.",
        },
        "defaultContentType": "application/x-protobuf",
        "channels": { "session": {
            "address": PATHS[0],
            "description": "A session, from the 101 to its close.",
            "messages": channel,
            "bindings": { "ws": { "method": "GET" } },
        }},
        "operations": operations,
        "components": { "messages": messages, "schemas": schemas },
    }))
}

/// A frame with one of its bodies.
fn message(frame: &MessageDescriptor, body: &FieldDescriptor) -> Value {
    let mut properties = Map::new();
    let others = frame
        .fields()
        .filter(|field| field.containing_oneof().is_none());
    for field in others.chain([body.clone()]) {
        properties.insert(field.json_name().to_owned(), property(&field));
    }
    json!({
        "name": body.name(),
        "title": format!("{} in a {}", body.name(), frame.name()),
        "contentType": "application/x-protobuf",
        "payload": {
            "type": "object",
            "properties": properties,
            "required": [body.json_name()],
        },
    })
}

/// Notes a message and all that it holds.
fn reach(message: &MessageDescriptor, reached: &mut BTreeSet<String>) {
    if message.is_map_entry() || reached.insert(message.full_name().to_owned()) {
        for field in message.fields() {
            if let Kind::Message(inner) = field.kind() {
                reach(&inner, reached);
            }
        }
    }
}

fn schema(message: &MessageDescriptor) -> Value {
    let properties: Map<String, Value> = message
        .fields()
        .map(|field| (field.json_name().to_owned(), property(&field)))
        .collect();
    json!({ "type": "object", "properties": properties })
}

/// A field in the JSON form of protobuf.
fn property(field: &FieldDescriptor) -> Value {
    let mut property = if field.is_map() {
        let entry = match field.kind() {
            Kind::Message(entry) => entry.map_entry_value_field(),
            _ => field.clone(),
        };
        json!({ "type": "object", "additionalProperties": of_kind(&entry.kind()) })
    } else if field.is_list() {
        json!({ "type": "array", "items": of_kind(&field.kind()) })
    } else {
        of_kind(&field.kind())
    };
    property["x-number"] = field.number().into();
    property
}

fn of_kind(kind: &Kind) -> Value {
    match kind {
        Kind::Double | Kind::Float => json!({ "type": "number" }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "type": "integer" }),
        Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "minimum": 0 }),
        // Beyond what numbers of JSON hold exactly, they are texts.
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64 => {
            json!({ "type": ["integer", "string"], "format": "int64" })
        }
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::String => json!({ "type": "string" }),
        Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
        Kind::Enum(names) => {
            let values: Vec<String> = names.values().map(|one| one.name().to_owned()).collect();
            json!({ "type": "string", "enum": values })
        }
        Kind::Message(inner) => {
            json!({ "$ref": format!("#/components/schemas/{}", inner.full_name()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // TOOL-11
    #[test]
    fn every_body_of_a_frame_is_a_message_and_every_reference_leads_somewhere() {
        let document = document().unwrap();
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let mut bodies = 0;
        for (frame, name, _) in FRAMES {
            let frame = pool.get_message_by_name(frame).unwrap();
            let said = document["operations"][name]["messages"].as_array().unwrap();
            for field in frame.fields().filter(|field| field.name() != "request_id") {
                bodies += 1;
                let key = format!("{}.{}", frame.name(), field.name());
                let message = &document["components"]["messages"][&key];
                let body = &message["payload"]["properties"][field.json_name()];
                assert_eq!(body["x-number"], field.number(), "{key}");
                let reference = json!({ "$ref": format!("#/channels/session/messages/{key}") });
                assert!(said.contains(&reference), "{key}");
            }
        }
        let messages = document["components"]["messages"].as_object().unwrap();
        assert_eq!(messages.len(), bodies, "and nothing else is there");
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
        // A field of each shape, as it stands in the contract.
        let schemas = &document["components"]["schemas"];
        let subscribe = &schemas["arqon.v1.Subscribe"]["properties"];
        assert_eq!(subscribe["twistId"]["x-number"], 17);
        let envelope = &schemas["arqon.v1.Envelope"]["properties"];
        assert_eq!(
            envelope["headers"]["additionalProperties"]["type"],
            "string"
        );
        let envelopes = &schemas["arqon.v1.Produce"]["properties"]["envelopes"];
        assert_eq!(envelopes["type"], "array");
    }
}
