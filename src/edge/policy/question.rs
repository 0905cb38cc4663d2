//! What a policy is asked: a message without its payload.
//!
//! Owns what of a message a policy may know, and its encoding. That is all there is to a verdict
//! besides the payload and the policy itself: no clock, no chance, no state.

use prost::encoding::{WireType, encode_key as key, encode_varint};

use crate::edge::shield::Message;
use crate::proto::view::Headers;

/// A message, as policies see it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Question<'a> {
    /// Where it goes.
    pub topic: &'a str,
    /// Whose reality it goes to.
    pub tenant: &'a str,
    /// Who sends it.
    pub subject: &'a str,
    /// What the sender may do.
    pub role: &'a str,
    /// The id of the sender's token; empty = it has none.
    pub token_id: &'a str,
    /// Who produced it.
    pub producer: &'a str,
    /// The event's type, the signal's kind or the command's name.
    pub kind: &'a str,
    /// Full name of the payload's schema.
    pub schema: &'a str,
    /// When the edge took it, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Its headers.
    pub headers: Headers<'a>,
}

impl<'a> Question<'a> {
    /// What policies learn about `message`.
    #[must_use]
    pub fn about(message: &Message<'a>) -> Self {
        let Message { sender, view, .. } = message;
        let producer = match view.producer_id {
            "" => &sender.subject,
            named => named,
        };
        Self {
            topic: message.topic,
            tenant: sender.tenant.as_str(),
            subject: &sender.subject,
            role: sender.role.as_str(),
            token_id: sender.token_id.as_deref().unwrap_or_default(),
            producer,
            kind: view.payload.kind(),
            schema: view.schema,
            now_ms: message.now_ms,
            headers: view.headers,
        }
    }

    /// What the sender's token says under `name`.
    pub(super) fn claims(&self) -> [(&'static str, &'a str); 4] {
        [
            ("sub", self.subject),
            ("tenant", self.tenant),
            ("role", self.role),
            ("jti", self.token_id),
        ]
    }

    /// As `arqon.v1.PolicyContext`. By hand: the texts need not be copied into a message first.
    pub(super) fn encode(&self) -> Vec<u8> {
        let texts = [
            (1, self.topic),
            (2, self.tenant),
            (3, self.subject),
            (4, self.role),
            (5, self.producer),
            (6, self.kind),
            (7, self.schema),
        ];
        let room: usize = texts.iter().map(|(_, text)| text.len() + 11).sum();
        let mut encoded = Vec::with_capacity(room + 11);
        for (number, text) in texts {
            if !text.is_empty() {
                key(number, WireType::LengthDelimited, &mut encoded);
                encode_varint(text.len() as u64, &mut encoded);
                encoded.extend_from_slice(text.as_bytes());
            }
        }
        if self.now_ms != 0 {
            key(8, WireType::Varint, &mut encoded);
            encode_varint(self.now_ms, &mut encoded);
        }
        encoded
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::v1::PolicyContext;

    // EDGE-14
    #[test]
    fn question_is_a_policy_context() {
        let question = Question {
            topic: "a.b",
            tenant: "t",
            subject: "alice",
            role: "user",
            token_id: "7",
            producer: "p",
            kind: "k",
            schema: "s.S",
            now_ms: 1_700_000_000_000,
            headers: Headers::default(),
        };
        let context = PolicyContext {
            topic: "a.b".into(),
            tenant: "t".into(),
            subject: "alice".into(),
            role: "user".into(),
            producer: "p".into(),
            kind: "k".into(),
            schema: "s.S".into(),
            now_ms: 1_700_000_000_000,
        };
        assert_eq!(question.encode(), context.encode_to_vec());
        assert!(Question::default().encode().is_empty());
    }
}
