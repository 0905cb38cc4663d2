//! What a JSON client is told, as text: one form for what others say and for what the node says.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use super::frame::VERSION;
use crate::log::Micros;
use crate::proto::ErrorCode;
use crate::proto::json::micros;
use crate::proto::v1::Presence;

/// Who the node is among senders.
const NODE: &str = "arqonbus";

/// A message to a JSON client. `payload`, `args` and `metadata` are always there, the others where
/// there is something to say.
#[derive(Debug, Default, Serialize)]
pub struct Text {
    /// Of the message, or of the one that is answered.
    pub id: String,
    /// RFC 3339 in UTC.
    pub timestamp: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of the protocol.
    pub version: Version,
    /// Where it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<String>,
    /// Where in the room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Who says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Of clients older than `sender`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_client: Option<String>,
    /// Of the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_client: Option<String>,
    /// What it says.
    pub payload: Content,
    /// Arguments of a command.
    pub args: Map<String, Json>,
    /// What is said about it.
    pub metadata: Map<String, Json>,
    /// Name of a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// What it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// How that went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What went wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// For programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
}

/// Always the one version of the older protocol.
#[derive(Debug, Default)]
pub struct Version;

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(VERSION)
    }
}

/// What a message says.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// As it should be.
    Object(Map<String, Json>),
    /// What its sender chose instead.
    Value(Json),
    /// JSON that is passed on as it came.
    Raw(Box<RawValue>),
}

impl Default for Content {
    fn default() -> Self {
        Self::Object(Map::new())
    }
}

/// What of a message is needed to answer it.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Its id.
    pub id: String,
    /// Its room.
    pub room: Option<String>,
    /// Its channel.
    pub channel: Option<String>,
}

/// An error on its way to a JSON client.
#[derive(Debug)]
pub struct Failure<'a> {
    /// For programs, as the whole node knows it.
    pub code: ErrorCode,
    /// For people.
    pub message: &'a str,
    /// The part at fault.
    pub field: &'a str,
    /// Whether the same may be sent again unchanged.
    pub retryable: bool,
    /// After how long.
    pub retry_after_ms: u64,
    /// All rules that are broken, where several may be.
    pub errors: &'a [String],
}

impl Text {
    /// Somebody has come to a channel, or gone.
    #[must_use]
    pub fn presence(said: &Presence, sequence: u64, at_micros: u64) -> Self {
        let Json::Object(payload) = json!({
            "presence_event": {
                "change": said.change().word(),
                "member": said.member,
                "subject": said.subject,
                "reason": said.reason,
                "since": micros(said.since),
            },
        }) else {
            return Self::default();
        };
        let mut metadata = Map::new();
        metadata.insert("arqonbus".into(), json!({"sequence": sequence}));
        Self {
            id: Uuid::now_v7().to_string(),
            timestamp: micros(at_micros),
            kind: "telemetry".into(),
            room: Some(said.room.clone()),
            channel: Some(said.channel.clone()),
            sender: Some(NODE.into()),
            payload: Content::Object(payload),
            metadata,
            ..Self::default()
        }
    }

    /// As it is sent.
    #[must_use]
    pub fn to_line(&self) -> String {
        // Nothing in it can fail to be written: keys are texts, numbers are finite.
        serde_json::to_string(self).unwrap_or_default()
    }

    fn of_node(kind: &str, now: Micros) -> Self {
        Self {
            id: Uuid::now_v7().to_string(),
            timestamp: micros(now.0),
            kind: kind.to_owned(),
            sender: Some(NODE.to_owned()),
            ..Self::default()
        }
    }

    fn answer(kind: &str, asked: &Asked, now: Micros) -> Self {
        Self {
            room: asked.room.clone(),
            channel: asked.channel.clone(),
            request_id: Some(asked.id.clone()).filter(|id| !id.is_empty()),
            ..Self::of_node(kind, now)
        }
    }

    /// A task for an operator, as the command that the older system sent.
    #[must_use]
    pub fn task(
        id: &str,
        command: &str,
        said: Content,
        metadata: Map<String, Json>,
        now: Micros,
    ) -> Self {
        let args = match &said {
            Content::Value(Json::Object(fields)) => fields.clone(),
            Content::Object(fields) => fields.clone(),
            Content::Value(_) | Content::Raw(_) => Map::new(),
        };
        Self {
            id: id.to_owned(),
            command: Some(command.to_owned()),
            payload: said,
            args,
            metadata,
            ..Self::of_node("command", now)
        }
    }

    /// The first message of a session.
    #[must_use]
    pub fn welcome(client_id: &str, now: Micros) -> Self {
        let payload = json!({"welcome": "Connected to ArqonBus", "client_id": client_id});
        Self {
            payload: Content::Value(payload),
            ..Self::of_node("message", now)
        }
    }

    /// A message is on disk under `sequence`.
    #[must_use]
    pub fn stored(asked: &Asked, payload: Content, sequence: u64, now: Micros) -> Self {
        Self {
            id: asked.id.clone(),
            payload,
            status: Some("success".to_owned()),
            metadata: [("sequence".to_owned(), sequence.into())]
                .into_iter()
                .collect(),
            ..Self::answer("message_response", asked, now)
        }
    }

    /// A command is done.
    #[must_use]
    pub fn done(asked: &Asked, message: &str, data: &Json, now: Micros) -> Self {
        let payload = json!({"message": message, "data": data});
        Self {
            payload: Content::Value(payload),
            status: Some("success".to_owned()),
            ..Self::answer("response", asked, now)
        }
    }

    /// A command is not done.
    #[must_use]
    pub fn not_done(asked: &Asked, failure: &Failure<'_>, now: Micros) -> Self {
        let prefix = match failure.code {
            ErrorCode::ValidationError => "Validation error: ",
            _ => "",
        };
        let message = format!("{prefix}{}", failure.message);
        let mut data = Map::new();
        if !failure.field.is_empty() {
            data.insert("field".into(), failure.field.into());
        }
        Self {
            payload: Content::Value(json!({"message": message, "data": data})),
            status: Some("error".to_owned()),
            error: Some(message),
            error_code: Some(failure.code.to_older_command().to_owned()),
            metadata: failure.metadata(),
            ..Self::answer("response", asked, now)
        }
    }

    /// The second answer to a command, for clients that wait for it.
    #[must_use]
    pub fn acknowledged(asked: &Asked, now: Micros) -> Self {
        Self {
            id: asked.id.clone(),
            payload: Content::Value(json!({"result": "ok"})),
            ..Self::answer("command_response", asked, now)
        }
    }

    /// A message is refused.
    #[must_use]
    pub fn refused(asked: &Asked, failure: &Failure<'_>, now: Micros) -> Self {
        let code = failure.code.to_older();
        let one = [failure.message.to_owned()];
        let (error, payload) = match failure.code {
            ErrorCode::ValidationError => {
                let errors = if failure.errors.is_empty() {
                    &one
                } else {
                    failure.errors
                };
                ("Message validation failed", json!({"errors": errors}))
            }
            ErrorCode::CasilPolicyBlockedSecret | ErrorCode::CasilPolicyOversize => (
                "CASIL blocked message",
                json!({"reason": code, "details": failure.message}),
            ),
            _ => (failure.message, json!({})),
        };
        Self {
            payload: Content::Value(payload),
            error: Some(error.to_owned()),
            error_code: Some(code.to_owned()),
            status: Some("error".to_owned()),
            metadata: failure.metadata(),
            ..Self::answer("error", asked, now)
        }
    }

    /// A text is no message at all, so that there is nothing to answer to.
    #[must_use]
    pub fn undecodable(reason: &str, now: Micros) -> Self {
        let failure = Failure {
            code: ErrorCode::InfraProtocolError,
            message: reason,
            field: "",
            retryable: false,
            retry_after_ms: 0,
            errors: &[],
        };
        let mut text = Self::refused(&Asked::default(), &failure, now);
        // As the older system calls it.
        text.error_code = Some(ErrorCode::Internal.to_older().to_owned());
        text
    }

    /// The message is in a form that this connection does not take; `required` is the one it does.
    #[must_use]
    pub fn wrong_form(required: &str, now: Micros) -> Self {
        let error = format!("this connection takes {required} messages only");
        Self {
            payload: Content::Value(json!({"required_protocol": required})),
            error: Some(error),
            error_code: Some(ErrorCode::InfraProtocolError.as_str().to_owned()),
            status: Some("error".to_owned()),
            ..Self::of_node("error", now)
        }
    }
}

impl Failure<'_> {
    fn metadata(&self) -> Map<String, Json> {
        let mut metadata = Map::new();
        metadata.insert("code".into(), self.code.as_str().into());
        if !self.field.is_empty() {
            metadata.insert("field".into(), self.field.into());
        }
        metadata.insert("retryable".into(), self.retryable.into());
        if self.retry_after_ms > 0 {
            metadata.insert("retry_after_ms".into(), self.retry_after_ms.into());
        }
        metadata
    }
}
