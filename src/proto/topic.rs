//! Topics whose names say who publishes there, on both sides of a connection.

/// First token of the topics that the broker keeps for itself.
pub const SYSTEM_TOKEN: &str = "sys";
/// First token of the topics of dead letters.
pub const DEAD_LETTER_TOKEN: &str = "dlq";
/// First token of the topics that the built-in operators answer on.
pub const OPERATOR_TOKEN: &str = "op";
/// Dead letters of the Continuum contract; its name is older than that token.
pub const CONTINUUM_DEAD_LETTERS: &str = "continuum.episode.dlq.v1";

/// First token of private messages: `direct.<addressee>.<sender>`.
pub const DIRECT_TOKEN: &str = "direct";

/// Whether a wildcard as the first token of a filter does not reach what begins with `token`.
#[must_use]
pub fn is_hidden_token(token: &str) -> bool {
    token == SYSTEM_TOKEN || token == DIRECT_TOKEN
}

/// Whether only filters that name the first token of `topic` match it.
#[must_use]
pub fn is_hidden(topic: &str) -> bool {
    is_system(topic) || is_direct(topic)
}

/// Whether `topic` is one of private messages, which concern its addressee and its sender alone.
#[must_use]
pub fn is_direct(topic: &str) -> bool {
    begins_with(topic, DIRECT_TOKEN)
}

/// The addressee and the sender that a topic or filter of private messages names, as tokens.
#[must_use]
pub fn parties(topic: &str) -> Option<(&str, &str)> {
    let (addressee, sender) = topic
        .strip_prefix(DIRECT_TOKEN)?
        .strip_prefix('.')?
        .split_once('.')?;
    (!sender.contains('.')).then_some((addressee, sender))
}

/// Whether `topic` is one that the broker keeps for itself.
#[must_use]
pub fn is_system(topic: &str) -> bool {
    begins_with(topic, SYSTEM_TOKEN)
}

/// First tokens of the topics of control parameters.
const CONTROL_PREFIX: &str = "sys.control.";

/// Whether a controller's parameters stand on `topic`, or all that a filter of this text matches
/// are such topics.
#[must_use]
pub fn is_control(topic: &str) -> bool {
    topic.starts_with(CONTROL_PREFIX)
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

/// Whether `byte` may stand in a topic token.
#[must_use]
pub const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'~' | b':' | b'@' | b'+' | b'=' | b'-')
}

/// Appends `name`, which is a free text, as a token of a topic: what may not stand in one is written
/// `~` and two hexadecimal digits for each byte, so that no two names are one token.
pub fn write_token(name: &str, out: &mut String) {
    for byte in name.bytes() {
        if is_token_byte(byte) && byte != b'~' {
            out.push(char::from(byte));
        } else {
            for digit in [byte >> 4, byte & 15] {
                let digit = char::from_digit(u32::from(digit), 16).unwrap_or('0');
                out.push(digit.to_ascii_uppercase());
            }
            out.insert(out.len() - 2, '~');
        }
    }
}

/// The name that a token stands for; `None` for what [`write_token`] does not write.
#[must_use]
pub fn read_token(token: &str) -> Option<String> {
    let mut name = Vec::with_capacity(token.len());
    let mut bytes = token.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'.' => return None,
            b'~' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let byte = u8::try_from(digit()? << 4 | digit()?).ok()?;
                name.push(byte);
            }
            plain => name.push(plain),
        }
    }
    String::from_utf8(name).ok()
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

    // BRK-09
    #[test]
    fn private_messages_have_two_parties() {
        assert_eq!(parties("direct.ann.bob"), Some(("ann", "bob")));
        assert_eq!(parties("direct.ann.>"), Some(("ann", ">")));
        for none in [
            "direct",
            "direct.ann",
            "direct.a.b.c",
            "directs.a.b",
            "a.direct.b.c",
        ] {
            assert_eq!(parties(none), None, "{none}");
        }
        assert!(is_direct("direct") && is_hidden("direct.a.b") && is_hidden("sys.x"));
        assert!(!is_hidden("directs.a") && !is_reserved("direct.a.b"));
    }
}
