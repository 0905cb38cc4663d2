//! How much may come in, by session, tenant and topic (EDGE-10).
//!
//! - [`allowance`]: what somebody may send, and taking from several at once.
//! - [`arrivals`]: how often somebody may connect.
//!
//! A session and a tenant have what the node's settings say. What comes in on the topics of a
//! pattern is limited by the tenant's own events, in addition: so a tenant can only tighten. How
//! full an allowance is lives in memory alone; a node that starts anew begins with full ones.

pub mod allowance;
pub mod arrivals;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use self::allowance::{Allowance, Demand, Pace, Short};
use crate::broker::journal::{Event, NewEvent};
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{Filter, Role, name};
use crate::config::Limits;
use crate::edge::shield::command::{Call, Handler};
use crate::edge::shield::rules::TOPIC_PREFIX;
use crate::edge::shield::{Blocked, Fault};
use crate::proto::ErrorCode;
use crate::proto::v1::{TopicRateRemoved, TopicRateSet, Value, value};
use crate::proto::view::EnvelopeView;

/// Kinds of this part's events.
const SET: &str = "edge.rate.set";
const REMOVED: &str = "edge.rate.removed";
/// Rates of one tenant.
const RATES_MAX: usize = 100;
const NAME_BYTES_MAX: usize = 64;
const BURST_MS_MAX: u64 = 60_000;
/// More than any node takes; keeps the arithmetic exact.
const PER_SECOND_MAX: u64 = 1 << 40;

const NAME: Argument = Argument {
    name: "name",
    kind: Kind::Text,
    required: true,
    doc: "what the rate is called",
};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "edge.rate.list",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists how much may come in: by session and tenant, as the node allows, and by topic.",
        handler: list,
    },
    Command {
        name: "edge.rate.remove",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[NAME],
        doc: "Removes a rate of the tenant.",
        handler: remove,
    },
    Command {
        name: "edge.rate.set",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            NAME,
            Argument {
                name: "pattern",
                kind: Kind::Text,
                required: true,
                doc: "the topics whose messages count",
            },
            Argument {
                name: "messages_per_second",
                kind: Kind::Integer,
                required: false,
                doc: "messages a second on all of them together; 0 or left out: not limited",
            },
            Argument {
                name: "bytes_per_second",
                kind: Kind::Integer,
                required: false,
                doc: "bytes of envelopes a second; 0 or left out: not limited",
            },
            Argument {
                name: "burst_ms",
                kind: Kind::Integer,
                required: false,
                doc: "as much may come at once as the rate lets through in this time; 1000 if left out",
            },
        ],
        doc: "Limits what comes in on the topics of a pattern, on top of what the node allows.",
        handler: set,
    },
];

/// What one session may send.
#[must_use]
pub fn of_session(limits: &Limits) -> Pace {
    Pace {
        messages_per_second: limits.session_messages_per_second,
        bytes_per_second: limits.session_bytes_per_second,
        burst_ms: limits.rate_burst_ms,
    }
}

/// What all sessions of a tenant together may send.
#[must_use]
pub fn of_tenant(limits: &Limits) -> Pace {
    Pace {
        messages_per_second: limits.tenant_messages_per_second,
        bytes_per_second: limits.tenant_bytes_per_second,
        burst_ms: limits.rate_burst_ms,
    }
}

/// A limit on the topics of a pattern.
#[derive(Clone, Debug)]
struct TopicRate {
    filter: Filter,
    pace: Pace,
    /// Shared by all states of the rules in which it stands.
    allowance: Arc<Allowance>,
}

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct TopicRates {
    /// By name.
    rates: BTreeMap<String, TopicRate>,
}

impl TopicRates {
    /// Applies an event.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, event: &Event<'_>) -> Result<(), Fault> {
        let name = event.topic.strip_prefix(TOPIC_PREFIX);
        let name = name.and_then(|rest| rest.strip_prefix("rate."));
        let name = name.filter(|name| !name.is_empty() && !name.contains('.'));
        let name = name.ok_or_else(|| Fault::invalid("name", "name is no single token"))?;
        match event.kind {
            SET => {
                let asked =
                    TopicRateSet::decode(event.data).map_err(|error| undecodable(&error))?;
                if !self.rates.contains_key(name) && self.rates.len() >= RATES_MAX {
                    let text = format!(
                        "there are {RATES_MAX} rates, which is the limit; remove one first"
                    );
                    return Err(Fault::new(ErrorCode::TooLarge, "name", text));
                }
                self.rates.insert(name.to_owned(), TopicRate::new(&asked)?);
            }
            REMOVED => {
                TopicRateRemoved::decode(event.data).map_err(|error| undecodable(&error))?;
                self.rates.remove(name);
            }
            kind => {
                let kind: String = kind.chars().take(64).collect();
                let text = format!("{kind:?} is nothing that this version of the node knows");
                return Err(Fault::new(ErrorCode::FeatureDisabled, "", text));
            }
        }
        Ok(())
    }
}

fn undecodable(error: &prost::DecodeError) -> Fault {
    let text = format!("the event cannot be decoded: {error}");
    Fault::new(ErrorCode::StorageFailure, "", text)
}

impl TopicRate {
    fn new(asked: &TopicRateSet) -> Result<Self, Fault> {
        let filter = Filter::new(&asked.pattern)
            .map_err(|fault| Fault::invalid("pattern", format!("pattern {fault}")))?;
        let within = |field: &'static str, found: u64, limit: u64| {
            let text = format!("{field} is {found}, more than {limit}");
            if found > limit {
                Err(Fault::invalid(field, text))
            } else {
                Ok(())
            }
        };
        within(
            "messages_per_second",
            asked.messages_per_second,
            PER_SECOND_MAX,
        )?;
        within("bytes_per_second", asked.bytes_per_second, PER_SECOND_MAX)?;
        within("burst_ms", asked.burst_ms, BURST_MS_MAX)?;
        let pace = Pace {
            messages_per_second: asked.messages_per_second,
            bytes_per_second: asked.bytes_per_second,
            burst_ms: asked.burst_ms,
        };
        let allowance = Allowance::new(pace).ok_or_else(|| {
            let text = "one of messages_per_second and bytes_per_second must not be 0; to end a limit, remove it";
            Fault::invalid("messages_per_second", text)
        })?;
        Ok(Self {
            filter,
            pace,
            allowance: Arc::new(allowance),
        })
    }
}

/// Whose allowances a batch counts against.
#[derive(Debug)]
pub struct Payers<'a> {
    /// The session's, if it is limited.
    pub session: Option<&'a Allowance>,
    /// Its tenant's, if that is limited.
    pub tenant: Option<&'a Allowance>,
    /// The tenant's own rates.
    pub topics: &'a TopicRates,
}

/// Who is short, for a refusal's text.
#[derive(Clone, Copy)]
enum Payer<'a> {
    Session,
    Tenant,
    /// With the index of the first envelope that counts.
    Topics(&'a str, &'a Filter, usize),
}

impl Payers<'_> {
    /// Whether nothing is limited.
    #[must_use]
    pub fn are_free(&self) -> bool {
        self.session.is_none() && self.tenant.is_none() && self.topics.rates.is_empty()
    }

    /// Takes a whole batch from all that it counts against, or from none; `topic` is the first
    /// envelope's, which need not name it.
    ///
    /// # Errors
    /// It cannot be taken now, or never.
    pub fn pay(&self, topic: &str, envelopes: &[Bytes]) -> Result<(), Blocked> {
        if self.are_free() {
            return Ok(());
        }
        let whole = Demand {
            messages: envelopes.len() as u64,
            bytes: envelopes.iter().map(|one| one.len() as u64).sum(),
        };
        let mut payers = Vec::with_capacity(2);
        let mut demands = Vec::with_capacity(2);
        if let Some(session) = self.session {
            payers.push(Payer::Session);
            demands.push((session, whole));
        }
        if let Some(tenant) = self.tenant {
            payers.push(Payer::Tenant);
            demands.push((tenant, whole));
        }
        if !self.topics.rates.is_empty() {
            // What does not parse is refused by whoever reads it next.
            let views: Vec<_> = envelopes
                .iter()
                .map(|one| EnvelopeView::parse(one))
                .collect();
            for (name, rate) in &self.topics.rates {
                let counts = |index: usize| match (index, &views[index]) {
                    (0, _) => rate.filter.governs(topic),
                    (_, Ok(view)) => rate.filter.governs(view.topic),
                    (_, Err(_)) => false,
                };
                let mut demand = Demand::default();
                let mut first = None;
                for index in (0..envelopes.len()).filter(|index| counts(*index)) {
                    first.get_or_insert(index);
                    demand.messages += 1;
                    demand.bytes += envelopes[index].len() as u64;
                }
                if let Some(first) = first {
                    payers.push(Payer::Topics(name, &rate.filter, first));
                    demands.push((rate.allowance.as_ref(), demand));
                }
            }
        }
        allowance::take_all(&demands)
            .map_err(|(index, short)| blocked(payers[index], short, envelopes.len() > 1))
    }
}

fn blocked(payer: Payer<'_>, short: Short, batch: bool) -> Blocked {
    let (who, reason) = match payer {
        Payer::Session => ("this session".to_owned(), "rate.session"),
        Payer::Tenant => ("this tenant".to_owned(), "rate.tenant"),
        Payer::Topics(name, filter, _) => (
            format!("topics that match {filter} (rate {name})"),
            "rate.topic",
        ),
    };
    let Short {
        unit,
        asked,
        per_second,
        at_once,
        wait,
    } = short;
    let what = if batch { "the batch" } else { "the message" };
    let allowed = format!("{who}: {per_second} {unit} a second are allowed, {at_once} at once");
    let mut blocked = match wait {
        Some(wait) => {
            // Rounded up: a client that waits exactly so long must not come too early.
            let ms = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            let text = format!("{allowed}; {what} of {asked} may come in {ms} ms");
            let mut blocked = Blocked::new(ErrorCode::RateLimited, reason, text);
            blocked.retry_after_ms = ms.max(1);
            blocked
        }
        None => {
            let text =
                format!("{allowed}, and {what} has {asked}: it can never pass; send less at once");
            Blocked::new(ErrorCode::TooLarge, reason, text)
        }
    };
    blocked.field = match (payer, batch) {
        (Payer::Topics(_, _, index), true) => format!("envelopes[{index}].topic").into(),
        (Payer::Topics(..), false) => "topic".into(),
        (Payer::Session | Payer::Tenant, true) => "envelopes".into(),
        (Payer::Session | Payer::Tenant, false) => "".into(),
    };
    blocked
}

fn topic_of(call: &Call<'_>) -> Result<(String, String), Fault> {
    let name = call.arguments.text("name").unwrap_or_default();
    let field = "arguments.name";
    if name.len() > NAME_BYTES_MAX || name.contains('.') {
        let text = format!("name must be one token of at most {NAME_BYTES_MAX} bytes");
        return Err(Fault::invalid(field, text));
    }
    let topic = format!("{TOPIC_PREFIX}rate.{name}");
    name::check_topic(&topic).map_err(|fault| {
        Fault::invalid(field, format!("name cannot be part of a topic: {fault}"))
    })?;
    Ok((name.to_owned(), topic))
}

fn set(call: &Call<'_>) -> Result<Value, Fault> {
    let (name, topic) = topic_of(call)?;
    let number = |argument, default| call.arguments.integer(argument).unwrap_or(default);
    let asked = TopicRateSet {
        pattern: call
            .arguments
            .text("pattern")
            .unwrap_or_default()
            .to_owned(),
        messages_per_second: number("messages_per_second", 0),
        bytes_per_second: number("bytes_per_second", 0),
        burst_ms: number("burst_ms", 1_000),
    };
    let node = call.shield.tenant_pace();
    loosens(
        "messages_per_second",
        asked.messages_per_second,
        node.messages_per_second,
    )?;
    loosens(
        "bytes_per_second",
        asked.bytes_per_second,
        node.bytes_per_second,
    )?;
    let event = NewEvent {
        topic,
        kind: SET,
        schema: "arqon.v1.TopicRateSet",
        data: asked.encode_to_vec().into(),
    };
    call.guard.change(call.tenancy, event)?;
    let fields = [("set", Value::from(name.as_str()))];
    Ok(Value::object(fields))
}

/// Refuses what would look like more than the node allows, and would not be.
fn loosens(field: &str, asked: u64, node: u64) -> Result<(), Fault> {
    if node > 0 && asked > node {
        let text = format!(
            "{field} is {asked}, more than the {node} that the node allows this tenant; a rate can only tighten that"
        );
        return Err(Fault::invalid(&format!("arguments.{field}"), text));
    }
    Ok(())
}

fn remove(call: &Call<'_>) -> Result<Value, Fault> {
    let (name, topic) = topic_of(call)?;
    if !call.guard.rules().rates.rates.contains_key(&name) {
        let text = format!("there is no rate {name}; edge.rate.list shows those that there are");
        return Err(Fault::new(ErrorCode::NotFound, "arguments.name", text));
    }
    let event = NewEvent {
        topic,
        kind: REMOVED,
        schema: "arqon.v1.TopicRateRemoved",
        data: TopicRateRemoved {}.encode_to_vec().into(),
    };
    call.guard.change(call.tenancy, event)?;
    Ok(Value::object([("removed", Value::from(name.as_str()))]))
}

fn list(call: &Call<'_>) -> Result<Value, Fault> {
    let rules = call.guard.rules();
    let one = |rate: (&String, &TopicRate)| {
        let (name, TopicRate { filter, pace, .. }) = rate;
        let mut fields = vec![
            ("name", Value::from(name.as_str())),
            ("pattern", Value::from(filter.as_str())),
        ];
        fields.extend(numbers(*pace));
        Value::object(fields)
    };
    let items = rules.rates.rates.iter().map(one).collect();
    let topics = Value::from(value::Kind::List(value::List { items }));
    Ok(Value::object([
        (
            "session",
            Value::object(numbers(call.shield.session_pace())),
        ),
        ("tenant", Value::object(numbers(call.shield.tenant_pace()))),
        ("topics", topics),
    ]))
}

fn numbers(pace: Pace) -> [(&'static str, Value); 3] {
    [
        ("messages_per_second", pace.messages_per_second.into()),
        ("bytes_per_second", pace.bytes_per_second.into()),
        ("burst_ms", pace.burst_ms.into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Micros, Sequence};
    use crate::proto::v1::Envelope;

    fn applied(rates: &mut TopicRates, name: &str, kind: &str, data: &[u8]) -> Result<(), Fault> {
        rates.apply(&Event {
            sequence: Sequence::FIRST,
            at: Micros(0),
            topic: &format!("sys.edge.rate.{name}"),
            kind,
            data,
        })
    }

    fn set(rates: &mut TopicRates, name: &str, pattern: &str, messages: u64) -> Result<(), Fault> {
        let asked = TopicRateSet {
            pattern: pattern.into(),
            messages_per_second: messages,
            bytes_per_second: 0,
            burst_ms: 1_000,
        };
        applied(rates, name, SET, &asked.encode_to_vec())
    }

    fn envelopes(topics: &[&str]) -> Vec<Bytes> {
        let encoded = |topic: &&str| {
            let envelope = Envelope {
                topic: (*topic).into(),
                ..Envelope::default()
            };
            envelope.encode_to_vec().into()
        };
        topics.iter().map(encoded).collect()
    }

    fn pay(rates: &TopicRates, topics: &[&str]) -> Result<(), (ErrorCode, String)> {
        let payers = Payers {
            session: None,
            tenant: None,
            topics: rates,
        };
        let paid = payers.pay(topics[0], &envelopes(topics));
        paid.map_err(|blocked| {
            assert_eq!(
                blocked.retry_after_ms > 0,
                blocked.code == ErrorCode::RateLimited
            );
            (blocked.code, blocked.field.into_owned())
        })
    }

    // EDGE-10
    #[test]
    fn topics_count_against_every_pattern_that_they_match() {
        let mut rates = TopicRates::default();
        set(&mut rates, "all", ">", 5).unwrap();
        set(&mut rates, "some", "a.*", 2).unwrap();
        assert_eq!(pay(&rates, &["b", "a.x", "a.y"]), Ok(()));
        let refused = pay(&rates, &["b", "a.x"]);
        assert_eq!(
            refused,
            Err((ErrorCode::RateLimited, "envelopes[1].topic".into()))
        );
        // What was refused has cost nothing.
        assert_eq!(pay(&rates, &["b", "c"]), Ok(()));
        assert_eq!(
            pay(&rates, &["c"]),
            Err((ErrorCode::RateLimited, "topic".into()))
        );
        let never = pay(&rates, &["a.x", "a.y", "a.z"]);
        assert_eq!(
            never,
            Err((ErrorCode::TooLarge, "envelopes[0].topic".into()))
        );
    }

    // EDGE-10
    #[test]
    fn a_rate_that_another_event_changes_nothing_of_keeps_its_level() {
        let mut rates = TopicRates::default();
        set(&mut rates, "a", "a", 1).unwrap();
        assert_eq!(pay(&rates, &["a"]), Ok(()));
        let mut changed = rates.clone();
        set(&mut changed, "b", "b", 1).unwrap();
        assert!(pay(&changed, &["a"]).is_err());
        applied(&mut changed, "a", REMOVED, &[]).unwrap();
        assert_eq!(pay(&changed, &["a"]), Ok(()));
    }

    // EDGE-10
    #[test]
    fn an_event_that_limits_nothing_or_is_unknown_is_not_put_in_force() {
        let mut rates = TopicRates::default();
        assert_eq!(
            set(&mut rates, "a", ">", 0).unwrap_err().field,
            "messages_per_second"
        );
        assert_eq!(
            set(&mut rates, "a", "a..b", 1).unwrap_err().field,
            "pattern"
        );
        assert!(set(&mut rates, "a.b", ">", 1).is_err());
        assert!(applied(&mut rates, "a", "edge.rate.newer", &[]).is_err());
        assert!(applied(&mut rates, "a", SET, &[0xff]).is_err());
        for number in 0..RATES_MAX {
            set(&mut rates, &format!("n{number}"), ">", 1).unwrap();
        }
        assert_eq!(
            set(&mut rates, "more", ">", 1).unwrap_err().code,
            ErrorCode::TooLarge
        );
        assert!(set(&mut rates, "n7", "a", 1).is_ok());
    }
}
