//! The schemas that the node knows for the tenant's topics, by which payloads are shown (MSG-15).

use arqonbus::client::Client;
use arqonbus::proto::json::{Schemas, message_of};
use arqonbus::proto::v1::{Value, value};
use arqonbus::proto::view::RecordView;
use serde_json::Value as Json;

/// Subjects whose schemas are fetched when a verb starts.
const SUBJECTS_MAX: usize = 200;

/// What is known of the payloads of topics.
pub(crate) struct Registered {
    pub(crate) schemas: Schemas,
    /// Topic patterns with the message bound to them, the most specific first.
    bound: Vec<(String, String)>,
}

impl Registered {
    /// Asks the node. One without a registry, or that does not answer, knows none: payloads are
    /// then shown as they are.
    pub(crate) async fn of(client: &Client) -> Self {
        let mut known = Self {
            schemas: Schemas::builtin(),
            bound: Vec::new(),
        };
        let Ok(list) = client.command("edge.schema.list", []).await else {
            return known;
        };
        let list = list.to_json();
        let text = |row: &Json, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let rows = |name: &str| list[name].as_array().cloned().unwrap_or_default();
        let subjects = rows("subjects");
        let protobuf = subjects.iter().filter(|row| row["language"] == "protobuf");
        for row in protobuf.take(SUBJECTS_MAX) {
            let subject = [("subject", Value::from(text(row, "subject")))];
            let Ok(shown) = client.command("edge.schema.show", subject).await else {
                continue;
            };
            if let Some(value::Kind::Bytes(descriptors)) =
                shown.field("descriptors").and_then(|one| one.kind.as_ref())
                && let Err(error) = known.schemas.add(descriptors)
            {
                tracing::warn!(%error, subject = text(row, "subject"), "payloads are shown without their schema");
            }
        }
        for binding in rows("bindings") {
            let subject = text(&binding, "subject");
            let of_subject = subjects
                .iter()
                .find(|row| row["subject"] == subject.as_str());
            let message = of_subject.map_or(String::new(), |row| text(row, "message"));
            if !message.is_empty() {
                known.bound.push((text(&binding, "pattern"), message));
            }
        }
        known.bound.sort_by_key(|(pattern, _)| specificity(pattern));
        known
    }

    /// Full name of the message that a payload is: as its envelope says, else as its topic is
    /// bound; empty if nobody says.
    pub(crate) fn message<'a>(&'a self, record: &RecordView<'a>) -> &'a str {
        let named = message_of(record);
        if !named.is_empty() {
            return named;
        }
        let mut bound = self.bound.iter();
        let found = bound.find(|(pattern, _)| matches(pattern, record.topic));
        found.map_or("", |(_, message)| message)
    }
}

/// Sorts the most specific pattern first, by the rule of the node: a literal goes before `*`, and
/// `*` before `>`.
fn specificity(pattern: &str) -> Vec<u8> {
    let kind = |token| match token {
        ">" => 2,
        "*" => 1,
        _ => 0,
    };
    pattern.split('.').map(kind).collect()
}

fn matches(pattern: &str, topic: &str) -> bool {
    let (mut pattern, mut topic) = (pattern.split('.'), topic.split('.'));
    loop {
        match (pattern.next(), topic.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some(wanted), Some(found)) if wanted == "*" || wanted == found => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_pattern_comes_first() {
        let mut patterns = ["a.>", "a.*.c", ">", "a.b.c", "a.b.*"];
        patterns.sort_by_key(|pattern| specificity(pattern));
        assert_eq!(patterns, ["a.b.c", "a.b.*", "a.*.c", "a.>", ">"]);
        assert!(matches("a.*.c", "a.b.c") && matches("a.>", "a.b") && matches("a", "a"));
        assert!(!matches("a.>", "a") && !matches("a", "a.b") && !matches("a.*", "a"));
    }
}
