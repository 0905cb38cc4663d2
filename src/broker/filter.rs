//! Topic filters: `*` stands for one token, `>` for one or more at the end; and what else of a
//! record a reader may ask for (MSG-12).
//!
//! Owns their rules, matching one topic, and whether one filter covers another. A wildcard as the
//! first token never reaches the topics of the system and private messages: these must be named.
//! Knows no subscriber.

use std::fmt;

use prost::Message as _;

use super::name::{self, NameError, SYSTEM_TOKEN};
use crate::proto::topic::is_of_operators;
use crate::proto::v1::{SpectralMetadata, SpectralRange};
use crate::proto::view::RecordView;

const FILTER_ALPHABET: &str =
    "A-Z a-z 0-9 _ ~ : @ + = -, or `*` alone in a token, or `>` alone at the end";

/// One part of a filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token<'a> {
    /// Itself.
    Literal(&'a str),
    /// Any one token.
    Any,
    /// One or more tokens up to the end.
    Rest,
}

impl<'a> Token<'a> {
    fn parse(text: &'a str) -> Self {
        match text {
            "*" => Self::Any,
            ">" => Self::Rest,
            literal => Self::Literal(literal),
        }
    }

    /// Whether, as a first token, it is one that no wildcard stands for.
    fn is_hidden(self) -> bool {
        matches!(self, Self::Literal(token) if name::is_hidden_token(token))
    }
}

/// A checked topic filter.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Filter {
    text: Box<str>,
    kind: Kind,
}

/// What decides how a topic is matched, so that the frequent filters cost one comparison.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Everything,
    Literal,
    /// Literal tokens and then `>`: the bytes before the `>`.
    Prefix(u8),
    Tokens,
}

impl Filter {
    /// Parses a filter.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn new(text: &str) -> Result<Self, NameError> {
        name::check_tokens(text, FILTER_ALPHABET, |token| match token {
            "*" | ">" => None,
            _ => token.bytes().position(|byte| !name::is_token_byte(byte)),
        })?;
        let early = text.find('>').filter(|at| *at + 1 != text.len());
        if let Some(at) = early {
            return Err(NameError::RestNotLast { at });
        }
        let literal_before_rest = text.strip_suffix('>').filter(|start| !start.contains('*'));
        let kind = match literal_before_rest {
            Some("") => Kind::Everything,
            Some(prefix) => u8::try_from(prefix.len()).map_or(Kind::Tokens, Kind::Prefix),
            None if text.contains(['*', '>']) => Kind::Tokens,
            None => Kind::Literal,
        };
        Ok(Self {
            text: text.into(),
            kind,
        })
    }

    /// The filter that matches every topic but those of the system and private messages.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            text: ">".into(),
            kind: Kind::Everything,
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is `>`.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.kind == Kind::Everything
    }

    /// Whether it names the `sys.` topics.
    #[must_use]
    pub fn names_system(&self) -> bool {
        name::is_system_topic(&self.text)
    }

    /// Whether it names the topics of operators.
    pub(super) fn names_operators(&self) -> bool {
        is_of_operators(&self.text)
    }

    /// Whether it names the topics of private messages.
    #[must_use]
    pub fn names_direct(&self) -> bool {
        name::is_direct_topic(&self.text)
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = Token<'_>> {
        self.text.split('.').map(Token::parse)
    }

    /// Whether a reader that asks for it gets `topic`, which must be a valid topic.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        self.fits(topic, name::is_hidden_token)
    }

    /// Whether a rule for it holds for `topic`. Private messages are hidden from readers that do not
    /// name them, and from no rule.
    #[must_use]
    pub fn governs(&self, topic: &str) -> bool {
        self.fits(topic, |token| token == SYSTEM_TOKEN)
    }

    fn fits(&self, topic: &str, hides: fn(&str) -> bool) -> bool {
        match self.kind {
            Kind::Everything => !hides(topic.split('.').next().unwrap_or_default()),
            Kind::Literal => *self.text == *topic,
            Kind::Prefix(bytes) => {
                let bytes = usize::from(bytes);
                topic.len() > bytes && topic.as_bytes()[..bytes] == self.text.as_bytes()[..bytes]
            }
            Kind::Tokens => self.fits_tokens(topic, hides),
        }
    }

    fn fits_tokens(&self, topic: &str, hides: fn(&str) -> bool) -> bool {
        let mut topic_tokens = topic.split('.');
        let mut first = true;
        for token in self.tokens() {
            let Some(found) = topic_tokens.next() else {
                return false;
            };
            let hidden = first && hides(found);
            first = false;
            match token {
                Token::Literal(wanted) if wanted == found => {}
                Token::Any if !hidden => {}
                Token::Rest => return !hidden,
                Token::Literal(_) | Token::Any => return false,
            }
        }
        topic_tokens.next().is_none()
    }

    /// Whether every topic that `other` can match is matched by this filter too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let mut theirs = other.tokens();
        let mut first = true;
        for own in self.tokens() {
            let Some(their) = theirs.next() else {
                return false;
            };
            let hidden = first && their.is_hidden();
            first = false;
            match (own, their) {
                (Token::Literal(a), Token::Literal(b)) if a == b => {}
                (Token::Any, Token::Literal(_) | Token::Any) if !hidden => {}
                (Token::Rest, _) => return !hidden,
                (Token::Literal(_) | Token::Any, _) => return false,
            }
        }
        theirs.next().is_none()
    }

    /// Whether there can be a topic that both match.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mut ours, mut theirs) = (self.tokens(), other.tokens());
        let mut first = true;
        loop {
            let (own, their) = match (ours.next(), theirs.next()) {
                (Some(own), Some(their)) => (own, their),
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
            };
            if first && (own.is_hidden() || their.is_hidden()) && own != their {
                return false;
            }
            first = false;
            match (own, their) {
                (Token::Rest, _) | (_, Token::Rest) => return true,
                (Token::Literal(a), Token::Literal(b)) if a != b => return false,
                (Token::Literal(_) | Token::Any, Token::Literal(_) | Token::Any) => {}
            }
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({})", self.text)
    }
}

/// What the envelopes of wanted records have besides their topic. Whoever asks for nothing pays
/// nothing: the envelope is then not looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traits(Option<Box<Wanted>>);

#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    /// Empty: whatever it is.
    twist_id: String,
    spectral: Option<SpectralRange>,
}

impl Traits {
    /// Exactly this `twist_id`, unless it is empty, and spectral metadata within `spectral`, if
    /// that is given.
    #[must_use]
    pub fn new(twist_id: &str, spectral: Option<SpectralRange>) -> Self {
        if twist_id.is_empty() && spectral.is_none() {
            return Self(None);
        }
        let twist_id = twist_id.to_owned();
        Self(Some(Box::new(Wanted { twist_id, spectral })))
    }

    /// Whether an encoded record has them. What cannot be decoded is wanted by nobody who asks for
    /// anything of it.
    #[must_use]
    pub fn fit(&self, record: &[u8]) -> bool {
        let Some(wanted) = &self.0 else {
            return true;
        };
        let Ok(record) = RecordView::parse(record) else {
            return false;
        };
        let envelope = &record.envelope;
        if !wanted.twist_id.is_empty() && wanted.twist_id != envelope.twist_id {
            return false;
        }
        let Some(range) = &wanted.spectral else {
            return true;
        };
        let found = envelope.spectral.map(SpectralMetadata::decode);
        found.is_some_and(|found| found.is_ok_and(|found| within(range, &found)))
    }
}

/// Comparisons with NaN are false, so that it lies within no bounds.
fn within(range: &SpectralRange, found: &SpectralMetadata) -> bool {
    let inside = |value: f32, min: Option<f32>, max: Option<f32>| {
        min.is_none_or(|min| value >= min) && max.is_none_or(|max| value <= max)
    };
    inside(found.coherence, range.coherence_min, range.coherence_max)
        && inside(
            found.criticality,
            range.criticality_min,
            range.criticality_max,
        )
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule said as plainly as it can be.
    pub(in crate::broker) fn naive(filter: &[&str], topic: &[&str], first: bool) -> bool {
        match (filter, topic) {
            ([], []) => true,
            ([_, ..], []) | ([], [_, ..]) => false,
            ([">"], [head, ..]) => !(first && matches!(*head, "sys" | "direct")),
            (["*", filter @ ..], [head, topic @ ..]) => {
                !(first && matches!(*head, "sys" | "direct")) && naive(filter, topic, false)
            }
            ([wanted, filter @ ..], [head, topic @ ..]) => {
                wanted == head && naive(filter, topic, false)
            }
        }
    }

    pub(in crate::broker) fn topics() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof!["a", "b", "sys", "direct", "ab"], 1..5)
            .prop_map(|tokens| tokens.join("."))
    }

    pub(in crate::broker) fn filters() -> impl Strategy<Value = String> {
        let tokens = prop::collection::vec(prop_oneof!["a", "b", "sys", "direct", "[*]"], 0..4);
        (tokens, prop_oneof!["a", "sys", "direct", "[*]", ">"]).prop_map(|(mut tokens, last)| {
            tokens.push(last);
            tokens.join(".")
        })
    }

    proptest! {
        // REL-06, BRK-01
        #[test]
        fn matching_agrees_with_the_plain_rule(filter in filters(), topic in topics()) {
            let parsed = Filter::new(&filter).unwrap();
            let filter: Vec<_> = filter.split('.').collect();
            let tokens: Vec<_> = topic.split('.').collect();
            prop_assert_eq!(parsed.matches(&topic), naive(&filter, &tokens, true));
        }

        // EDGE-07: what a claim covers is never more than what it matches.
        #[test]
        fn a_covered_filter_matches_nothing_beyond(
            wide in filters(),
            narrow in filters(),
            topic in topics(),
        ) {
            let wide = Filter::new(&wide).unwrap();
            let narrow = Filter::new(&narrow).unwrap();
            if wide.covers(&narrow) && narrow.matches(&topic) {
                prop_assert!(wide.matches(&topic));
            }
            prop_assert!(wide.covers(&wide));
        }
    }

    #[test]
    fn wildcards_must_be_named_into_the_system_topics() {
        let all = Filter::new(">").unwrap();
        assert!(all.is_everything());
        assert!(!all.matches("sys.log"));
        for wide in [">", "*.*.*", "*.>"] {
            let wide = Filter::new(wide).unwrap();
            assert!(!wide.matches("direct.a.b") && wide.governs("direct.a.b"));
            assert!(!wide.governs("sys.a.b") && wide.governs("x.a.b"));
        }
        assert!(all.matches("a.sys.log"));
        assert!(!Filter::new("*.log").unwrap().matches("sys.log"));
        assert!(Filter::new("sys.>").unwrap().matches("sys.log"));
        assert!(!all.covers(&Filter::new("sys.>").unwrap()));
        assert!(all.covers(&Filter::new("a.*.b").unwrap()));
    }

    #[test]
    fn bad_filters_say_where() {
        assert_eq!(Filter::new("a.>.b"), Err(NameError::RestNotLast { at: 2 }));
        assert_eq!(Filter::new("a..b"), Err(NameError::EmptyToken { at: 2 }));
        assert!(matches!(
            Filter::new("a.b*"),
            Err(NameError::Character {
                found: '*',
                at: 3,
                ..
            })
        ));
        assert_eq!(Filter::new(""), Err(NameError::Empty));
    }

    // EDGE-07
    #[test]
    fn filters_overlap_where_a_topic_could_match_both() {
        let overlap = |a: &str, b: &str| {
            let (a, b) = (Filter::new(a).unwrap(), Filter::new(b).unwrap());
            assert_eq!(a.overlaps(&b), b.overlaps(&a), "{a} {b}");
            a.overlaps(&b)
        };
        let shared = [
            ("a", "a"),
            ("a.>", "a.b.c"),
            ("*.b", "a.*"),
            (">", "*"),
            ("sys.>", "sys.log"),
        ];
        for (a, b) in shared {
            assert!(overlap(a, b), "{a} {b}");
        }
        let apart = [
            ("a", "b"),
            ("a", "a.b"),
            ("a.>", "a"),
            ("*.b", "a.c"),
            (">", "sys.>"),
            ("*", "sys"),
        ];
        for (a, b) in apart {
            assert!(!overlap(a, b), "{a} {b}");
        }
    }

    fn record(twist_id: &str, spectral: Option<(f32, f32)>) -> Vec<u8> {
        use crate::proto::v1::{Envelope, Record};
        let envelope = Envelope {
            twist_id: twist_id.into(),
            spectral: spectral.map(|(coherence, criticality)| SpectralMetadata {
                coherence,
                criticality,
                eigenvalues: Vec::new(),
            }),
            ..Envelope::default()
        };
        let envelope = envelope.encode_to_vec().into();
        Record {
            sequence: 1,
            envelope,
            ..Record::default()
        }
        .encode_to_vec()
    }

    // MSG-12
    #[test]
    fn records_are_wanted_by_twist_and_spectral_metadata() {
        let nothing = Traits::new("", None);
        assert!(nothing.fit(b"not looked at") && nothing.fit(&record("", None)));

        let twist = Traits::new("what-if", None);
        assert!(twist.fit(&record("what-if", None)));
        assert!(!twist.fit(&record("what-if-2", None)) && !twist.fit(&record("", None)));
        assert!(!twist.fit(b"\xff"), "what cannot be read is not wanted");

        let range = SpectralRange {
            coherence_min: Some(0.5),
            criticality_max: Some(-1.0),
            ..SpectralRange::default()
        };
        let spectral = Traits::new("", Some(range));
        for (found, fits) in [
            (None, false),
            (Some((0.5, -1.0)), true),
            (Some((0.75, -2.0)), true),
            (Some((0.25, -2.0)), false),
            (Some((0.75, 0.0)), false),
            (Some((f32::NAN, -2.0)), false),
        ] {
            assert_eq!(spectral.fit(&record("x", found)), fits, "{found:?}");
        }
        let any = Traits::new("", Some(SpectralRange::default()));
        assert!(any.fit(&record("", Some((f32::NAN, 0.0)))) && !any.fit(&record("", None)));
        let both = Traits::new("x", Some(range));
        assert!(both.fit(&record("x", Some((1.0, -1.0)))));
        assert!(!both.fit(&record("y", Some((1.0, -1.0)))));
    }
}
