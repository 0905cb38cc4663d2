//! Secrets that are known by their shape: each begins with letters that hardly anything else does.
//!
//! One search for all beginnings goes over a text; only where one stands is the rest of the shape
//! looked at, in a window of fixed size. So a text without any costs one pass, and none costs more
//! than a constant times its length.

use std::ops::Range;
use std::sync::LazyLock;

use regex::bytes::Regex;

use super::entropy;
use super::finding::Kind;

/// What a secret looks like.
struct Shape {
    kind: Kind,
    /// What it begins with: one of these.
    begins: &'static [&'static str],
    /// All of it, from its beginning; the first group is the secret, if there is one.
    pattern: &'static str,
    /// What its characters must be beside.
    check: fn(&[u8]) -> bool,
    /// Whether it can only stand where no letter, digit, `_` or `-` is before it.
    starts_word: bool,
}

const fn any(_secret: &[u8]) -> bool {
    true
}

/// Not a word of natural language with hyphens.
fn random(secret: &[u8]) -> bool {
    secret.iter().any(u8::is_ascii_digit)
        && secret.iter().any(u8::is_ascii_alphabetic)
        && entropy::centibits(secret) >= 350
}

fn has_digit(secret: &[u8]) -> bool {
    secret.iter().any(u8::is_ascii_digit)
}

/// `user:password` in base64.
fn basic(secret: &[u8]) -> bool {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let decoded = STANDARD_NO_PAD.decode(secret);
    decoded.is_ok_and(|text| text.contains(&b':') && std::str::from_utf8(&text).is_ok())
}

/// Not a place to put a password into.
fn password(secret: &[u8]) -> bool {
    !super::keyed::is_placeholder(secret)
}

const fn shape(
    kind: Kind,
    begins: &'static [&'static str],
    pattern: &'static str,
    check: fn(&[u8]) -> bool,
) -> Shape {
    Shape {
        kind,
        begins,
        pattern,
        check,
        starts_word: true,
    }
}

/// Sources are the issuers' own descriptions of their tokens.
const SHAPES: [Shape; 24] = [
    shape(
        Kind::AccessKey,
        &["AKIA", "ASIA", "ABIA", "ACCA"],
        r"[A-Z]{4}[A-Z2-7]{16}",
        any,
    ),
    shape(Kind::AccessKey, &["AIza"], r"AIza[0-9A-Za-z_-]{35}", any),
    shape(Kind::Token, &["ya29."], r"ya29\.[0-9A-Za-z_-]{20,}", any),
    shape(
        Kind::AccessKey,
        &["GOCSPX-"],
        r"GOCSPX-[0-9A-Za-z_-]{28}",
        any,
    ),
    shape(
        Kind::Token,
        &["ghp_", "gho_", "ghu_", "ghs_", "ghr_"],
        r"gh[pousr]_[A-Za-z0-9]{36,}",
        any,
    ),
    shape(
        Kind::Token,
        &["github_pat_"],
        r"github_pat_[A-Za-z0-9_]{22,}",
        any,
    ),
    shape(Kind::Token, &["glpat-"], r"glpat-[A-Za-z0-9_-]{20,}", any),
    shape(
        Kind::Token,
        &["xox"],
        r"xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,}",
        has_digit,
    ),
    shape(
        Kind::Token,
        &["xapp-"],
        r"xapp-[0-9]-[A-Za-z0-9-]{10,}",
        any,
    ),
    shape(
        Kind::Token,
        &["hooks.slack.com/"],
        r"hooks\.slack\.com/(?:services|workflows)/([A-Za-z0-9+/]{20,})",
        any,
    ),
    shape(
        Kind::AccessKey,
        &[
            "sk_live_", "sk_test_", "rk_live_", "rk_test_", "pk_live_", "pk_test_",
        ],
        r"[spr]k_(?:live|test)_[A-Za-z0-9]{16,}",
        any,
    ),
    shape(
        Kind::AccessKey,
        &["whsec_"],
        r"whsec_[A-Za-z0-9+/]{24,}",
        any,
    ),
    shape(Kind::AccessKey, &["sk-"], r"sk-[A-Za-z0-9_-]{20,}", random),
    shape(
        Kind::AccessKey,
        &["SG."],
        r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
        any,
    ),
    shape(Kind::Token, &["npm_"], r"npm_[A-Za-z0-9]{36}", any),
    shape(
        Kind::Token,
        &["pypi-AgE"],
        r"pypi-AgE[A-Za-z0-9_-]{50,}",
        any,
    ),
    shape(Kind::Token, &["hf_"], r"hf_[A-Za-z0-9]{34,}", random),
    shape(Kind::Token, &["dop_v1_"], r"dop_v1_[a-f0-9]{64}", any),
    shape(Kind::Token, &["hvs."], r"hvs\.[A-Za-z0-9_-]{24,}", any),
    shape(
        Kind::PrivateKey,
        &["AGE-SECRET-KEY-1"],
        r"AGE-SECRET-KEY-1[0-9A-Z]{58}",
        any,
    ),
    shape(
        Kind::Token,
        &["eyJ"],
        r"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
        any,
    ),
    shape(
        Kind::Token,
        &["earer ", "EARER "],
        r"(?i:earer)\s{1,4}([A-Za-z0-9._~+/-]{16,})",
        has_digit,
    )
    .anywhere(),
    shape(
        Kind::Token,
        &["asic "],
        r"asic\s{1,4}([A-Za-z0-9+/]{12,})",
        basic,
    )
    .anywhere(),
    shape(
        Kind::Connection,
        &["://"],
        r#"://[^\s/:@"'<>\\\x00]{0,128}:([^\s/@"'<>\x00]{1,256})@[A-Za-z0-9\[]"#,
        password,
    )
    .anywhere(),
];

impl Shape {
    const fn anywhere(mut self) -> Self {
        self.starts_word = false;
        self
    }
}

const KEY_BLOCK_BEGIN: &str = "-----BEGIN ";
/// Longest window in which a shape is looked for; what goes on after it belongs to it.
const REACH: usize = 512;
/// Beginnings in binary data that turn out to be none, after which the rest cannot be cleared: no
/// image has a tenth of them, and each costs a look at a whole window. Addresses, which may be many,
/// cost little.
const FALSE_STARTS_MAX: usize = 1_000;

struct Compiled {
    beginnings: Regex,
    shapes: Vec<Regex>,
    key_block: Regex,
    key_block_end: Regex,
}

static COMPILED: LazyLock<Result<Compiled, regex::Error>> = LazyLock::new(|| {
    let literals = SHAPES.iter().flat_map(|shape| shape.begins).copied();
    let literals = literals.chain([KEY_BLOCK_BEGIN]).map(regex::escape);
    let ascii = |pattern: &str| Regex::new(&format!("(?-u){pattern}"));
    let shapes = SHAPES
        .iter()
        .map(|shape| ascii(&format!("^{}", shape.pattern)));
    Ok(Compiled {
        beginnings: ascii(&literals.collect::<Vec<_>>().join("|"))?,
        shapes: shapes.collect::<Result<_, _>>()?,
        key_block: ascii("^-----BEGIN (?:[A-Z0-9]{1,16} ){0,4}PRIVATE KEY(?: BLOCK)?-----")?,
        key_block_end: ascii("-----END [A-Z0-9 ]{0,80}-----")?,
    })
});

/// Whether the letter before a secret may be one of its own kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Edges {
    /// A text: what stands in the middle of a word is no secret.
    Text,
    /// Binary: a length before a string may look like a letter.
    Binary,
}

/// Whether shapes can be looked for at all.
///
/// # Errors
/// A pattern of this file cannot be compiled.
pub(super) fn ready() -> Result<(), &'static regex::Error> {
    COMPILED.as_ref().map(drop)
}

/// Shows every secret of a known shape.
pub(super) fn find(text: &[u8], edges: Edges, mut visit: impl FnMut(Kind, Range<usize>)) {
    let Ok(compiled) = COMPILED.as_ref() else {
        // `ready` has said so to whoever put the inspection in force.
        visit(Kind::Pattern, 0..text.len());
        return;
    };
    let (mut at, mut false_starts) = (0, 0);
    while let Some(begin) = compiled.beginnings.find_at(text, at) {
        at = begin.start() + 1;
        if false_starts > FALSE_STARTS_MAX {
            visit(Kind::Random, begin.start()..text.len());
            return;
        }
        if let Some((kind, range)) = compiled.secret(text, begin.range(), edges) {
            at = range.end.max(at);
            visit(kind, range);
        } else if edges == Edges::Binary && begin.as_bytes() != b"://" {
            false_starts += 1;
        }
    }
}

impl Compiled {
    fn secret(
        &self,
        text: &[u8],
        begin: Range<usize>,
        edges: Edges,
    ) -> Option<(Kind, Range<usize>)> {
        let literal = text.get(begin.clone())?;
        let start = begin.start;
        let window = text.get(start..text.len().min(start + REACH))?;
        if literal == KEY_BLOCK_BEGIN.as_bytes() {
            let head = self.key_block.find(window)?;
            return Some((
                Kind::PrivateKey,
                start..self.key_block_end(text, start + head.end()),
            ));
        }
        let is_this = |shape: &Shape| shape.begins.iter().any(|one| one.as_bytes() == literal);
        let index = SHAPES.iter().position(is_this)?;
        let (shape, regex) = (&SHAPES[index], self.shapes.get(index)?);
        let before = start.checked_sub(1).and_then(|before| text.get(before));
        if edges == Edges::Text && shape.starts_word && before.is_some_and(|b| continues(*b)) {
            return None;
        }
        // Nearly all that fails does so here, without the captures.
        let all = regex.find(window)?;
        let secret = match regex.captures_len() {
            1 => all.range(),
            _ => regex.captures(window)?.get(1)?.range(),
        };
        if !(shape.check)(window.get(secret.clone())?) {
            return None;
        }
        let mut end = start + secret.end;
        if all.end() == window.len() {
            let rest = text.get(end..).unwrap_or_default();
            end += rest
                .iter()
                .take_while(|byte| continues(**byte) || **byte == b'.')
                .count();
        }
        Some((shape.kind, start + secret.start..end))
    }

    /// A key block goes to the end that belongs to it, or of the text.
    fn key_block_end(&self, text: &[u8], from: usize) -> usize {
        let rest = text.get(from..).unwrap_or_default();
        match self.key_block_end.find(rest) {
            Some(end) => from + end.end(),
            None => text.len(),
        }
    }
}

const fn continues(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}
