//! Topics whose names say who publishes there, on both sides of a connection.

/// First token of the topics that the broker keeps for itself.
pub const SYSTEM_TOKEN: &str = "sys";
/// First token of the topics of dead letters.
pub const DEAD_LETTER_TOKEN: &str = "dlq";
/// First token of the topics that the built-in operators answer on.
pub const OPERATOR_TOKEN: &str = "op";
/// Dead letters of the Continuum contract; its name is older than that token.
pub const CONTINUUM_DEAD_LETTERS: &str = "continuum.episode.dlq.v1";

/// Whether `topic` is one that the broker keeps for itself.
#[must_use]
pub fn is_system(topic: &str) -> bool {
    begins_with(topic, SYSTEM_TOKEN)
}

/// Whether dead letters stand on `topic`. The node alone appends them, so that what they say can be
/// relied on; whoever may subscribe reads them.
#[must_use]
pub fn is_of_dead_letters(topic: &str) -> bool {
    begins_with(topic, DEAD_LETTER_TOKEN) || topic == CONTINUUM_DEAD_LETTERS
}

/// Whether the built-in operators keep what they have to say on `topic`. The node alone appends
/// there; whoever may subscribe reads it.
#[must_use]
pub fn is_of_operators(topic: &str) -> bool {
    begins_with(topic, OPERATOR_TOKEN)
}

/// Whether the node alone appends to `topic`.
#[must_use]
pub fn is_reserved(topic: &str) -> bool {
    is_system(topic) || is_of_dead_letters(topic) || is_of_operators(topic)
}

fn begins_with(topic: &str, token: &str) -> bool {
    topic
        .strip_prefix(token)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    // PRJ-04
    #[test]
    fn reserved_topics_are_known_by_whole_tokens() {
        for reserved in [
            "sys",
            "sys.log",
            "dlq",
            "dlq.orders",
            "continuum.episode.dlq.v1",
            "op",
            "op.store.a.b",
        ] {
            assert!(is_reserved(reserved), "{reserved}");
        }
        for open in [
            "system.log",
            "dlqs.a",
            "orders.dlq",
            "a.sys",
            "ops.load",
            "continuum.episode.v1",
            "continuum.episode.dlq.v1.x",
        ] {
            assert!(!is_reserved(open), "{open}");
        }
        assert!(!is_system("dlq.orders") && !is_of_dead_letters("sys.log"));
    }
}
