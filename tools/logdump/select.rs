//! Which records are meant: by topic, place, and what stands in the envelope.

use std::str::FromStr;

use arqonbus::log::RecordRef;
use arqonbus::proto::view::RecordView;

/// A sequence, or a time in microseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    Sequence(u64),
    Time(u64),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "earliest" {
            return Ok(Self::Sequence(1));
        }
        if let Ok(sequence) = text.parse::<u64>() {
            return Ok(Self::Sequence(sequence));
        }
        let wrong = "needed is a sequence (a number) or a time like 2018-02-01T00:00:00Z";
        let time: jiff::Timestamp = text.parse().map_err(|error| format!("{wrong} ({error})"))?;
        u64::try_from(time.as_microsecond())
            .map(Self::Time)
            .map_err(|_negative| "times before 1970 are not in any log".to_owned())
    }
}

/// A topic filter: `*` is one token, `>` at the end one or more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pattern(String);

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = text.split('.').count();
        for (at, token) in text.split('.').enumerate() {
            if token.is_empty() {
                return Err("a token between dots is empty".to_owned());
            }
            if token == ">" && at + 1 != count {
                return Err("`>` can only be the last token".to_owned());
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl Pattern {
    /// Unlike a subscription, `>` alone shows the topics of the system too: they are in the files.
    pub(crate) fn matches(&self, topic: &str) -> bool {
        let mut topic = topic.split('.');
        for token in self.0.split('.') {
            match (token, topic.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (literal, Some(found)) if literal == found => {}
                _ => return false,
            }
        }
        topic.next().is_none()
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("needed is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Selects records.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Selection {
    /// Only topics that match, like `quake.*` or `orders.>`
    #[arg(long, value_name = "FILTER")]
    topic: Option<Pattern>,

    /// First sequence, or records appended at or after a time (RFC 3339)
    #[arg(long, value_name = "SEQ|TIME")]
    from: Option<Place>,

    /// Last sequence, or records appended up to a time (RFC 3339)
    #[arg(long, value_name = "SEQ|TIME")]
    to: Option<Place>,

    /// Only records with this key
    #[arg(long)]
    key: Option<String>,

    /// Only records with this header; may be given several times, then all must be there
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,

    /// Only the record with this id
    #[arg(long)]
    id: Option<String>,

    /// Only records with this trace id
    #[arg(long, value_name = "ID")]
    trace_id: Option<String>,

    /// Only records of this producer
    #[arg(long, value_name = "NAME")]
    producer: Option<String>,

    /// Only commands and events of this type
    #[arg(long = "type", value_name = "NAME")]
    kind: Option<String>,

    /// Only records whose envelopes name this schema
    #[arg(long, value_name = "NAME")]
    schema: Option<String>,
}

impl Selection {
    /// One record.
    pub(crate) fn only(sequence: u64) -> Self {
        let place = Some(Place::Sequence(sequence));
        Self {
            from: place,
            to: place,
            ..Self::default()
        }
    }

    /// The first sequence that can be meant.
    pub(crate) fn first(&self) -> u64 {
        match self.from {
            Some(Place::Sequence(first)) => first,
            Some(Place::Time(_)) | None => 0,
        }
    }

    /// The last sequence that can be meant, where that is known.
    pub(crate) fn last(&self) -> Option<u64> {
        match self.to {
            Some(Place::Sequence(last)) => Some(last),
            Some(Place::Time(_)) | None => None,
        }
    }

    /// The sequence, if no other can be meant.
    pub(crate) fn the_one(&self) -> Option<u64> {
        self.last().filter(|&last| last == self.first())
    }

    /// The first time that can be meant.
    pub(crate) fn first_time(&self) -> u64 {
        match self.from {
            Some(Place::Time(time)) => time,
            Some(Place::Sequence(_)) | None => 0,
        }
    }

    /// Whether nothing at or behind this place can be meant.
    pub(crate) fn is_past(&self, sequence: u64, time: u64) -> bool {
        match self.to {
            Some(Place::Sequence(last)) => sequence > last,
            Some(Place::Time(last)) => time > last,
            None => false,
        }
    }

    /// Looks at what can be had without decoding the envelope.
    pub(crate) fn wants(&self, record: &RecordRef<'_>) -> bool {
        record.sequence.get() >= self.first()
            && record.appended_at.0 >= self.first_time()
            && !self.is_past(record.sequence.get(), record.appended_at.0)
            && self
                .topic
                .as_ref()
                .is_none_or(|topic| topic.matches(record.topic))
    }

    /// Looks into the envelope. Without a view (it cannot be decoded) only what asks for nothing
    /// in it is satisfied.
    pub(crate) fn wants_envelope(&self, view: Option<&RecordView<'_>>) -> bool {
        let Some(view) = view else {
            return !self.looks_into_envelopes();
        };
        let fits = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        fits(&self.key, view.envelope.key)
            && fits(&self.producer, view.producer())
            && fits(&self.kind, view.envelope.payload.kind())
            && fits(&self.schema, view.envelope.schema)
            && (self.id.is_none() || fits(&self.id, &view.id()))
            && (self.trace_id.is_none() || fits(&self.trace_id, &view.trace_id()))
            && self
                .headers
                .iter()
                .all(|(name, value)| view.envelope.headers.get(name) == Some(value))
    }

    /// Whether records are chosen by their envelopes.
    pub(crate) fn looks_into_envelopes(&self) -> bool {
        let texts = [
            &self.key,
            &self.id,
            &self.trace_id,
            &self.producer,
            &self.kind,
            &self.schema,
        ];
        texts.into_iter().any(Option::is_some) || !self.headers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_filters_do() {
        let matches = |pattern: &str, topic| pattern.parse::<Pattern>().unwrap().matches(topic);
        assert!(matches("quake.*", "quake.ak"));
        assert!(!matches("quake.*", "quake.ak.m5"));
        assert!(!matches("quake.*", "quake"));
        assert!(matches("quake.>", "quake.ak.m5"));
        assert!(!matches("quake.>", "quake"));
        assert!(matches(">", "sys.audit"));
        assert!(matches("*.ak", "quake.ak"));
        assert!("a..b".parse::<Pattern>().is_err());
        assert!(">.a".parse::<Pattern>().is_err());
    }
}
