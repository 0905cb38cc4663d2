//! The rules of names that a node refuses tokens by, as docs/protocol.md states them.
//!
//! For what is made without a node. The node's word is the last one.

const NAME_BYTES_MAX: usize = 63;
const PATTERN_BYTES_MAX: usize = 255;
const PATTERN_DEPTH_MAX: usize = 32;

/// `^[a-z0-9][a-z0-9_-]{0,62}$`.
pub(crate) fn tenant(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = text.len() <= NAME_BYTES_MAX
        && text.bytes().next().is_some_and(plain)
        && text
            .bytes()
            .all(|byte| plain(byte) || matches!(byte, b'_' | b'-'));
    fits.then(|| text.to_owned()).ok_or_else(|| {
        format!("needed are 1 to {NAME_BYTES_MAX} of a-z 0-9 _ -, the first a letter or digit")
    })
}

/// Tokens between dots; `*` for one, a last `>` for the rest.
pub(crate) fn pattern(text: &str) -> Result<String, String> {
    if text.len() > PATTERN_BYTES_MAX {
        return Err(format!("it is longer than {PATTERN_BYTES_MAX} bytes"));
    }
    let tokens: Vec<&str> = text.split('.').collect();
    if tokens.len() > PATTERN_DEPTH_MAX {
        return Err(format!("it has more than {PATTERN_DEPTH_MAX} tokens"));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_~:@+=-".contains(&byte);
    for (index, token) in tokens.iter().enumerate() {
        match *token {
            "" => return Err("it has an empty token".to_owned()),
            "*" => {}
            ">" if index + 1 == tokens.len() => {}
            ">" => return Err("`>` can only be the last token".to_owned()),
            token if token.bytes().all(allowed) => {}
            token => {
                return Err(format!(
                    "`{token}` is no token: allowed are `*`, a last `>`, and A-Z a-z 0-9 _ ~ : @ + = -"
                ));
            }
        }
    }
    Ok(text.to_owned())
}

/// A pattern of a token: with `!` in front it denies, and `{tenant}` and `{sub}` stand for what the
/// token says there.
pub(crate) fn permission(text: &str) -> Result<String, String> {
    let plain = text.strip_prefix('!').unwrap_or(text);
    pattern(&plain.replace("{tenant}", "t").replace("{sub}", "s"))?;
    Ok(text.to_owned())
}

/// What names the bearer: 1 to 255 bytes without control characters.
pub(crate) fn subject(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 255 || text.contains(char::is_control) {
        return Err("needed are 1 to 255 bytes without control characters".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    // EDGE-02, EDGE-07
    #[test]
    fn names_that_a_node_would_refuse_are_refused_here() {
        for good in ["dev", "0", "a-b_c", &"a".repeat(63)] {
            assert!(tenant(good).is_ok(), "{good}");
        }
        for bad in ["", "Dev", "_node", "a.b", "-a", &"a".repeat(64)] {
            assert!(tenant(bad).is_err(), "{bad}");
        }
        let deep = ["a"; 33].join(".");
        for good in [">", "*", "quake.>", "quake.*.alert", "A~:@+=-_.9", "sys.>"] {
            assert!(pattern(good).is_ok(), "{good}");
        }
        for bad in ["", "a..b", ".a", ">.a", "a*", "a b", "ä", "a>", &deep] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
        for good in ["!a.>", "users.{sub}.>", "!{tenant}.*", "a"] {
            assert!(permission(good).is_ok(), "{good}");
        }
        for bad in ["!", "!!a", "{other}", "a.{sub", "a b"] {
            assert!(permission(bad).is_err(), "{bad}");
        }
        assert!(subject("").is_err() && subject("a\nb").is_err() && subject("me").is_ok());
    }
}
