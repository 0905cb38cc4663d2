//! Who may no longer come in (EDGE-05).
//!
//! A fold of the tenant's events on `sys.edge.revocation.>`, one topic for each subject, token or
//! tenant, of which the last event holds.
//!
//! - A *revocation* means the tokens issued up to now, so that new ones can be given out at once. It
//!   goes by the second, as tokens do, and a token that does not say when it was issued counts as
//!   issued at the beginning. It is forgotten once no token that it means can be alive.
//! - A *ban* of a subject means every token, also those to come, until it is lifted.
//! - A *disconnection* ends sessions and forbids nothing, so that it is no event of this part.
//!
//! Must not know sockets, and nothing of how a token is verified.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::broker::journal::{Event, NewEvent};
use crate::broker::verb::{Argument, Command, Effect, Kind as Type};
use crate::broker::{Identity, Role};
use crate::config::Config;
use crate::edge::shield::Fault;
use crate::edge::shield::command::{Call, Handler};
use crate::edge::shield::decisions;
use crate::edge::shield::roll::Cause;
use crate::log::Micros;
use crate::proto::ErrorCode;
use crate::proto::v1::revocation::{Kind, State};
use crate::proto::v1::{Revocation, Value, value};

/// What the topics of this part begin with.
pub const TOPIC_PREFIX: &str = "sys.edge.revocation.";
const EVENT: &str = "edge.revocation";
const SCHEMA: &str = "arqon.v1.Revocation";
const NAME_BYTES_MAX: usize = 255;
const REASON_BYTES_MAX: usize = 1024;
/// Entries in force for a tenant; beyond them nothing but the whole tenant can be revoked.
const ENTRIES_MAX: usize = 100_000;

const SUBJECT: Argument = Argument {
    name: "subject",
    kind: Type::Text,
    required: false,
    doc: "the bearer whose tokens are meant",
};
const TOKEN: Argument = Argument {
    name: "token",
    kind: Type::Text,
    required: false,
    doc: "the id (jti) of the token that is meant",
};
const ALL: Argument = Argument {
    name: "all",
    kind: Type::Boolean,
    required: false,
    doc: "true: all tokens of the tenant are meant",
};
const REASON: Argument = Argument {
    name: "reason",
    kind: Type::Text,
    required: false,
    doc: "why, for people",
};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "edge.disconnect",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[SUBJECT, TOKEN, ALL, REASON],
        doc: "Ends the live sessions of a subject, a token or the whole tenant, and forbids nothing.",
        handler: disconnect,
    },
    Command {
        name: "edge.restore",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[SUBJECT, TOKEN, ALL, REASON],
        doc: "Lifts a revocation or a ban.",
        handler: restore,
    },
    Command {
        name: "edge.revocations",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[],
        doc: "Lists the revocations and bans in force.",
        handler: list,
    },
    Command {
        name: "edge.revoke",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            SUBJECT,
            TOKEN,
            ALL,
            Argument {
                name: "ban",
                kind: Type::Boolean,
                required: false,
                doc: "true: also the subject's tokens to come, until the ban is lifted",
            },
            Argument {
                name: "issued_before",
                kind: Type::Integer,
                required: false,
                doc: "tokens issued before this are meant, in seconds since the Unix epoch; now if left out",
            },
            REASON,
        ],
        doc: "Refuses tokens of a subject, one token, or all of the tenant, and ends their sessions.",
        handler: revoke,
    },
];

/// Whom a command or an event means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Whom {
    Subject(String),
    Token(String),
    Tenant,
}

impl Whom {
    fn of(kind: Kind, name: &str) -> Option<Self> {
        match (kind, name) {
            (Kind::Tenant, "") => Some(Self::Tenant),
            (Kind::Unspecified | Kind::Tenant, _) | (_, "") => None,
            (Kind::Subject, name) => Some(Self::Subject(name.to_owned())),
            (Kind::Token, name) => Some(Self::Token(name.to_owned())),
        }
    }

    const fn kind(&self) -> Kind {
        match self {
            Self::Subject(_) => Kind::Subject,
            Self::Token(_) => Kind::Token,
            Self::Tenant => Kind::Tenant,
        }
    }

    const fn kind_name(&self) -> &'static str {
        match self {
            Self::Subject(_) => "subject",
            Self::Token(_) => "token",
            Self::Tenant => "tenant",
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Subject(name) | Self::Token(name) => name,
            Self::Tenant => "",
        }
    }

    /// A name may hold what no topic can, so its hash stands there.
    fn topic(&self) -> String {
        let hash = Sha256::digest(self.name().as_bytes());
        let hex: String = hash.iter().take(16).map(|b| format!("{b:02x}")).collect();
        format!("{TOPIC_PREFIX}{}.{hex}", self.kind_name())
    }

    fn means(&self, identity: &Identity) -> bool {
        match self {
            Self::Subject(subject) => identity.subject == *subject,
            Self::Token(id) => identity.token_id.as_deref() == Some(id),
            Self::Tenant => true,
        }
    }
}

/// What is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refused {
    IssuedBefore(u64),
    Every,
}

#[derive(Clone, Debug)]
struct Entry {
    refused: Refused,
    since: Micros,
    reason: String,
    by: String,
}

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    entries: HashMap<Whom, Entry>,
    /// Longest life of a token, with what clocks may differ; `None` = tokens live for ever.
    lifetime: Option<Duration>,
}

impl Revocations {
    /// Nobody is revoked.
    #[must_use]
    pub fn of_node(config: &Config) -> Self {
        let (life, leeway) = (config.auth.lifetime_max_s, config.auth.leeway_s);
        Self {
            entries: HashMap::new(),
            lifetime: life
                .checked_add(2 * leeway)
                .filter(|_| life != u64::MAX)
                .map(Duration::from_secs),
        }
    }

    /// Applies an event.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, event: &Event<'_>) -> Result<(), Fault> {
        let unknown = || {
            let text = "a revocation that this version of the node does not understand";
            Fault::new(ErrorCode::FeatureDisabled, "", text)
        };
        let said = Revocation::decode(event.data).or(Err(unknown()))?;
        let whom = Whom::of(said.kind(), &said.name).ok_or_else(unknown)?;
        if event.topic != whom.topic() {
            return Err(unknown());
        }
        self.forget(event.at);
        let refused = match (said.state, &whom) {
            (Some(State::Lifted(true)), _) => {
                self.entries.remove(&whom);
                return Ok(());
            }
            (Some(State::IssuedBefore(before)), _) => Refused::IssuedBefore(before),
            (Some(State::Banned(true)), Whom::Subject(_)) => Refused::Every,
            // One token is not issued a second time.
            (Some(State::Banned(_) | State::Lifted(_)) | None, _) => return Err(unknown()),
        };
        let entry = Entry {
            refused,
            since: event.at,
            reason: said.reason,
            by: said.by,
        };
        self.entries.insert(whom, entry);
        Ok(())
    }

    /// Drops what means no token that can be alive.
    fn forget(&mut self, now: Micros) {
        let Some(lifetime) = self.lifetime else {
            return;
        };
        self.entries.retain(|_, entry| {
            let Refused::IssuedBefore(before) = entry.refused else {
                return true;
            };
            // One that says nothing of its issue lives from when it was first shown.
            let last_s = before.max(entry.since.as_millis() / 1000 + 1);
            last_s.saturating_add(lifetime.as_secs()) > now.as_millis() / 1000
        });
    }

    /// Whether nobody is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Why the bearer may not come in, if it may not.
    #[must_use]
    pub fn revoked(&self, identity: &Identity) -> Option<Cause> {
        if self.entries.is_empty() {
            return None;
        }
        let mut whom = vec![Whom::Tenant, Whom::Subject(identity.subject.clone())];
        whom.extend(identity.token_id.clone().map(Whom::Token));
        let issued_s = identity.issued_at.map_or(0, |at| at.as_millis() / 1000);
        let mut found = None;
        for entry in whom.iter().filter_map(|whom| self.entries.get(whom)) {
            match entry.refused {
                Refused::Every => return Some(Cause::Banned),
                Refused::IssuedBefore(before) if issued_s < before => found = Some(Cause::Revoked),
                Refused::IssuedBefore(_) => {}
            }
        }
        found
    }
}

/// What a token is worth, once it has been verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing speaks against it.
    Good,
    /// It is revoked.
    Revoked,
    /// The events that could revoke it cannot be read.
    Unknown,
}

/// Exactly one of the arguments that say who is meant.
fn whom(call: &Call<'_>) -> Result<Whom, Fault> {
    let given = &call.arguments;
    let all = given.boolean("all").unwrap_or(false);
    let (whom, field) = match (given.text("subject"), given.text("token"), all) {
        (Some(subject), None, false) => (Whom::Subject(subject.to_owned()), "arguments.subject"),
        (None, Some(token), false) => (Whom::Token(token.to_owned()), "arguments.token"),
        (None, None, true) => return Ok(Whom::Tenant),
        _ => {
            let text = "say who is meant by one of subject, token and all = true";
            return Err(Fault::invalid("arguments", text));
        }
    };
    let (found, name) = (whom.name().len(), whom.name());
    if name.is_empty() || found > NAME_BYTES_MAX {
        let text = format!("it has {found} bytes; needed are 1 to {NAME_BYTES_MAX}");
        return Err(Fault::invalid(field, text));
    }
    Ok(whom)
}

fn reason(call: &Call<'_>) -> Result<String, Fault> {
    let reason = call.arguments.text("reason").unwrap_or_default();
    if reason.len() > REASON_BYTES_MAX {
        let text = format!("the reason has more than {REASON_BYTES_MAX} bytes");
        return Err(Fault::invalid("arguments.reason", text));
    }
    Ok(reason.to_owned())
}

fn change(call: &Call<'_>, whom: &Whom, state: State) -> Result<u64, Fault> {
    let event = Revocation {
        kind: whom.kind().into(),
        name: whom.name().to_owned(),
        state: Some(state),
        reason: reason(call)?,
        by: call.caller.subject.clone(),
    };
    let event = NewEvent {
        topic: whom.topic(),
        kind: EVENT,
        schema: SCHEMA,
        data: Bytes::from(event.encode_to_vec()),
    };
    let sequence = call.guard.change(call.tenancy, event)?;
    Ok(sequence.get())
}

fn revoke(call: &Call<'_>) -> Result<Value, Fault> {
    let whom = whom(call)?;
    let ban = call.arguments.boolean("ban").unwrap_or(false);
    let issued_before = call.arguments.integer("issued_before");
    let state = match (ban, &whom, issued_before) {
        (false, _, before) => {
            // Tokens count in seconds: one that was issued in this second may be meant.
            let now_s = call.tenancy.now().as_millis() / 1000;
            State::IssuedBefore(before.unwrap_or(now_s + 1))
        }
        (true, Whom::Subject(subject), None) if *subject == call.caller.subject => {
            let text = "you cannot ban yourself: nobody might be left to lift it";
            return Err(Fault::invalid("arguments.ban", text));
        }
        (true, Whom::Subject(_), None) => State::Banned(true),
        (true, Whom::Subject(_), Some(_)) => {
            let text = "a ban means every token; leave issued_before out";
            return Err(Fault::invalid("arguments.issued_before", text));
        }
        (true, Whom::Token(_) | Whom::Tenant, _) => {
            let text = "only a subject can be banned; leave ban out";
            return Err(Fault::invalid("arguments.ban", text));
        }
    };
    let revocations = &call.guard.rules().revocations;
    if revocations.entries.len() >= ENTRIES_MAX && whom != Whom::Tenant {
        let text = format!(
            "{ENTRIES_MAX} revocations are in force, the limit; revoke the tenant's tokens as a whole (all = true), or lift some"
        );
        return Err(Fault::new(ErrorCode::TooLarge, "arguments", text));
    }
    let before = call.guard.roll().len();
    let sequence = change(call, &whom, state)?;
    tracing::info!(tenant = %call.tenancy.tenant(), kind = whom.kind_name(), ban, sequence, sessions = before, "tokens are revoked");
    let entry = call.guard.rules().revocations.entries.get(&whom).cloned();
    Ok(described(&whom, entry.as_ref(), sequence))
}

fn restore(call: &Call<'_>) -> Result<Value, Fault> {
    let whom = whom(call)?;
    let rules = call.guard.rules();
    let entry = rules.revocations.entries.get(&whom).ok_or_else(|| {
        let text = "nothing of this is revoked; `edge.revocations` lists what is";
        Fault::new(ErrorCode::NotFound, "arguments", text)
    })?;
    let sequence = change(call, &whom, State::Lifted(true))?;
    Ok(described(&whom, Some(entry), sequence))
}

fn described(whom: &Whom, entry: Option<&Entry>, sequence: u64) -> Value {
    let mut about = about(whom, entry);
    about.push(("sequence", sequence.into()));
    Value::object(about)
}

fn about(whom: &Whom, entry: Option<&Entry>) -> Vec<(&'static str, Value)> {
    let text = |text: &str| Value::from(text.to_owned());
    let mut about = vec![("kind", text(whom.kind_name()))];
    if *whom != Whom::Tenant {
        about.push(("name", text(whom.name())));
    }
    if let Some(entry) = entry {
        match entry.refused {
            Refused::IssuedBefore(before) => about.push(("issued_before", before.into())),
            Refused::Every => about.push(("banned", true.into())),
        }
        about.push(("since", (entry.since.as_millis() / 1000).into()));
        about.push(("by", text(&entry.by)));
        if !entry.reason.is_empty() {
            about.push(("reason", text(&entry.reason)));
        }
    }
    about
}

fn list(call: &Call<'_>) -> Result<Value, Fault> {
    let mut revocations = call.guard.rules().revocations.as_ref().clone();
    revocations.forget(call.tenancy.now());
    let mut entries: Vec<_> = revocations.entries.iter().collect();
    entries.sort_by_key(|(whom, entry)| (entry.since, whom.kind_name(), whom.name().to_owned()));
    let items = entries.into_iter();
    let items = items.map(|(whom, entry)| Value::object(about(whom, Some(entry))));
    Ok(value::Kind::List(value::List {
        items: items.collect(),
    })
    .into())
}

fn disconnect(call: &Call<'_>) -> Result<Value, Fault> {
    let whom = whom(call)?;
    let reason = reason(call)?;
    let roll = call.guard.roll();
    let ended = roll.end(|identity| whom.means(identity).then_some(Cause::Disconnected));
    let data = json!({
        "decision": "disconnected",
        "kind": whom.kind_name(),
        "name": whom.name(),
        "reason": reason,
        "by": call.caller.subject,
        "sessions": ended,
    });
    call.tenancy.note(NewEvent {
        topic: decisions::TOPIC.to_owned(),
        kind: "edge.disconnect",
        schema: "",
        data: Bytes::from(data.to_string()),
    });
    Ok(Value::object([("sessions", Value::from(ended as u64))]))
}

#[cfg(test)]
mod tests;
