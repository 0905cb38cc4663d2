//! What is looked for in JSON text before it is parsed: how deep it is nested, and whether it holds
//! whole numbers that a double cannot. Parsing would cost memory for the one and round the other.

/// Largest whole number up to which a double holds every one.
pub const WHOLE_MAX: u64 = 1 << 53;

/// The shape of a text; of no meaning where the text is no JSON.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Objects and lists around the innermost value.
    pub depth: usize,
    /// There is a whole number beyond [`WHOLE_MAX`], written without fraction and exponent.
    pub large_whole: bool,
}

impl Shape {
    /// Looks at `text` once.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut shape = Self::default();
        let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
        let mut rest = text.as_bytes();
        while let [byte, after @ ..] = rest {
            rest = after;
            if in_string {
                in_string = escaped || *byte != b'"';
                escaped = !escaped && *byte == b'\\';
                continue;
            }
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' => {
                    depth += 1;
                    shape.depth = shape.depth.max(depth);
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b'0'..=b'9' => {
                    let mut whole = Some(u64::from(byte - b'0'));
                    let mut is_whole = true;
                    while let [byte, after @ ..] = rest {
                        match byte {
                            b'0'..=b'9' => {
                                let digit = u64::from(byte - b'0');
                                whole = whole
                                    .and_then(|whole| whole.checked_mul(10)?.checked_add(digit));
                            }
                            b'.' | b'e' | b'E' | b'+' | b'-' => is_whole = false,
                            _ => break,
                        }
                        rest = after;
                    }
                    shape.large_whole |= is_whole && whole.is_none_or(|whole| whole > WHOLE_MAX);
                }
                _ => {}
            }
        }
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> (usize, bool) {
        let Shape { depth, large_whole } = Shape::of(text);
        (depth, large_whole)
    }

    // EDGE-09
    #[test]
    fn depth_counts_what_is_outside_of_strings() {
        assert_eq!(shape("1"), (0, false));
        assert_eq!(shape(r#"{"a":[[]],"b":{}}"#), (3, false));
        assert_eq!(shape(r#"{"a[[[\"[[":"\\"}"#), (1, false));
        assert_eq!(shape("]]]["), (1, false));
    }

    #[test]
    fn whole_numbers_are_told_from_others() {
        assert_eq!(shape("9007199254740992"), (0, false));
        assert_eq!(shape("-9007199254740993"), (0, true));
        assert_eq!(shape("[123456789012345678901234567890]"), (1, true));
        assert_eq!(
            shape("[1e300,9007199254740993.5,9007199254740993e0]"),
            (1, false)
        );
        assert_eq!(shape(r#""9007199254740993""#), (0, false));
    }
}
