//! The commands that change whose payloads must be signed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use prost::Message as _;

use super::{PublicKey, Signatures, key_id, key_topic, required_topic};
use crate::broker::Role;
use crate::broker::journal::NewEvent;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::edge::shield::Fault;
use crate::edge::shield::command::{Call, Handler};
use crate::proto::ErrorCode;
use crate::proto::v1::{SignatureKey, SignatureRequirement, Value};

/// What comes before the 32 bytes of an Ed25519 key in a `SubjectPublicKeyInfo` (RFC 8410).
const SPKI_HEAD: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

const PRODUCER: Argument = Argument {
    name: "producer",
    kind: Kind::Text,
    required: true,
    doc: "the producer, as envelopes or tokens name it",
};

const TOPICS: Argument = Argument {
    name: "topics",
    kind: Kind::Text,
    required: true,
    doc: "topic pattern",
};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "edge.signature.key.list",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the producers with keys, and the topics that take signed messages only.",
        handler: |call| Ok(list(&call.guard.rules().signatures)),
    },
    Command {
        name: "edge.signature.key.remove",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            PRODUCER,
            Argument {
                name: "key",
                kind: Kind::Text,
                required: true,
                doc: "short name of the key, as edge.signature.key.list shows it",
            },
        ],
        doc: "Takes a producer's key back.",
        handler: remove_key,
    },
    Command {
        name: "edge.signature.key.set",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            PRODUCER,
            Argument {
                name: "public_key",
                kind: Kind::Text,
                required: true,
                doc: "its Ed25519 public key: PEM, or 32 bytes in base64",
            },
        ],
        doc: "Registers a producer's key; others stay good until they are removed.",
        handler: set_key,
    },
    Command {
        name: "edge.signature.require",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[TOPICS],
        doc: "Has topics take signed messages only.",
        handler: |call| require(call, false),
    },
    Command {
        name: "edge.signature.unrequire",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[TOPICS],
        doc: "Takes such a requirement back.",
        handler: |call| require(call, true),
    },
];

fn set_key(call: &Call<'_>) -> Result<Value, Fault> {
    let producer = call.arguments.text("producer").unwrap_or_default();
    let given = call.arguments.text("public_key").unwrap_or_default();
    let key = parse(given).ok_or_else(|| {
        let text = "public_key is no Ed25519 public key: give PEM (BEGIN PUBLIC KEY), or its 32 bytes in base64";
        Fault::invalid("arguments.public_key", text)
    })?;
    put_key(call, producer, &key, false)?;
    Ok(Value::object([
        ("producer", producer.into()),
        ("key", key_id(&key).into()),
    ]))
}

fn remove_key(call: &Call<'_>) -> Result<Value, Fault> {
    let producer = call.arguments.text("producer").unwrap_or_default();
    let wanted = call.arguments.text("key").unwrap_or_default();
    let rules = call.guard.rules();
    let mut keys = rules.signatures.keys.get(producer).into_iter().flatten();
    let Some(key) = keys.find(|key| key_id(key) == wanted) else {
        let text = "this producer has no such key; edge.signature.key.list shows those there are";
        return Err(Fault::new(ErrorCode::NotFound, "arguments.key", text));
    };
    put_key(call, producer, key, true)?;
    Ok(Value::object([
        ("producer", producer.into()),
        ("removed", wanted.into()),
    ]))
}

fn put_key(call: &Call<'_>, producer: &str, key: &PublicKey, removed: bool) -> Result<(), Fault> {
    let message = SignatureKey {
        producer: producer.to_owned(),
        public_key: Bytes::copy_from_slice(key),
        removed,
        by: call.caller.subject.clone(),
    };
    let event = NewEvent {
        topic: key_topic(producer, key),
        kind: "edge.signature.key",
        schema: "arqon.v1.SignatureKey",
        data: message.encode_to_vec().into(),
    };
    call.guard.change(call.tenancy, event)?;
    Ok(())
}

fn require(call: &Call<'_>, removed: bool) -> Result<Value, Fault> {
    let topics = call.arguments.text("topics").unwrap_or_default();
    let rules = call.guard.rules();
    if removed && !rules.signatures.required.contains_key(topics) {
        let text = "no signature is required by this pattern; edge.signature.key.list shows those there are";
        return Err(Fault::new(ErrorCode::NotFound, "arguments.topics", text));
    }
    let message = SignatureRequirement {
        topics: topics.to_owned(),
        removed,
        by: call.caller.subject.clone(),
    };
    let event = NewEvent {
        topic: required_topic(topics),
        kind: "edge.signature.required",
        schema: "arqon.v1.SignatureRequirement",
        data: message.encode_to_vec().into(),
    };
    call.guard.change(call.tenancy, event)?;
    Ok(Value::object([
        ("topics", topics.into()),
        ("required", (!removed).into()),
    ]))
}

fn list(signatures: &Signatures) -> Value {
    let keys = signatures.keys.iter().flat_map(|(producer, keys)| {
        keys.iter().map(|key| {
            Value::object([
                ("producer", producer.as_str().into()),
                ("key", key_id(key).into()),
                ("public_key", Value::from(BASE64.encode(key))),
            ])
        })
    });
    let required = signatures.required.keys().map(String::as_str);
    Value::object([
        ("keys", keys.collect::<Value>()),
        ("required", required.collect::<Value>()),
    ])
}

/// A public key as people have it.
fn parse(text: &str) -> Option<PublicKey> {
    let pem = text.trim().strip_prefix("-----BEGIN PUBLIC KEY-----");
    let body = match pem {
        Some(rest) => rest.trim_end().strip_suffix("-----END PUBLIC KEY-----")?,
        None => text,
    };
    let body: String = body.split_whitespace().collect();
    let bytes = BASE64.decode(body).ok()?;
    let key = match pem {
        Some(_) => bytes.strip_prefix(SPKI_HEAD.as_slice())?,
        None => &bytes,
    };
    key.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // EDGE-20
    #[test]
    fn a_public_key_is_read_as_openssl_writes_it() {
        // The key of RFC 8410, section 10.1.
        let body = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
        let key = parse(&pem).expect("it is one");
        assert_eq!(key[..4], [0x19, 0xbf, 0x44, 0x09]);
        assert_eq!(parse(&BASE64.encode(key)), Some(key));
        for bad in [
            "",
            body,
            "-----BEGIN PUBLIC KEY-----",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
            "AAAA",
            &pem.replace("MCow", "MCox"),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
