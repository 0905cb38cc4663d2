//! Enough of Rust's lexical grammar to tell code from comments and strings. Knows no syntax tree.

/// What [`only_code`] blanks out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blank {
    Comments,
    CommentsAndStrings,
}

/// `text` with the characters of comments (and of string and character literals) replaced by
/// spaces, so that line numbers and columns stay.
pub(crate) fn only_code(text: &str, blank: Blank) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => block_comment_end(&chars, at),
            '"' => quoted_end(&chars, at),
            'r' if !follows_identifier(&chars, at) => raw_string_end(&chars, at).unwrap_or(at + 1),
            '\'' => char_literal_end(&chars, at).unwrap_or(at + 1),
            _ => at + 1,
        };
        let is_comment = chars[at] == '/' && end > at + 1;
        let is_blank = end > at + 1 && (is_comment || blank == Blank::CommentsAndStrings);
        for &c in &chars[at..end] {
            out.push(if is_blank && c != '\n' { ' ' } else { c });
        }
        at = end;
    }
    out
}

fn line_end(chars: &[char], from: usize) -> usize {
    (from..chars.len())
        .find(|&at| chars[at] == '\n')
        .unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], from: usize) -> usize {
    let mut depth = 0;
    let mut at = from;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn quoted_end(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], from: usize) -> Option<usize> {
    let hashes = chars[from + 1..].iter().take_while(|&&c| c == '#').count();
    if chars.get(from + 1 + hashes) != Some(&'"') {
        return None;
    }
    let closing = |at: usize| {
        chars[at] == '"' && chars[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes
    };
    let quote = (from + 2 + hashes..chars.len()).find(|&at| closing(at));
    Some(quote.map_or(chars.len(), |at| at + 1 + hashes))
}

/// `None` for a lifetime.
fn char_literal_end(chars: &[char], from: usize) -> Option<usize> {
    match chars.get(from + 1)? {
        '\\' => (from + 3..chars.len())
            .find(|&at| chars[at] == '\'')
            .map(|at| at + 1),
        _ if chars.get(from + 2) == Some(&'\'') => Some(from + 3),
        _ => None,
    }
}

fn follows_identifier(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

/// Line of a byte position, from 1.
pub(crate) fn line_of(text: &str, position: usize) -> usize {
    text.bytes().take(position).filter(|&b| b == b'\n').count() + 1
}

/// The identifiers and numbers of `text` with their byte positions.
pub(crate) fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let start = text.as_ptr() as usize;
    text.split(move |c| !is_word(c))
        .filter(|word| !word.is_empty())
        .map(move |word| (word.as_ptr() as usize - start, word))
}

#[test]
fn comments_and_strings_are_told_from_code() {
    let text = "a // b\n/* c /* d */ e */ f \"g \\\" h\" 'i' 'j: r#\"k\" l\"# m";
    let code = only_code(text, Blank::CommentsAndStrings);
    let left: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(left, ["a", "f", "'j:", "m"]);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.matches('\n').count(), 1);
    assert!(only_code(text, Blank::Comments).contains("\"g \\\" h\""));
}
