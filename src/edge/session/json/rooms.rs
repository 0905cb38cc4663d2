//! Channels that a JSON client is a member of: each is a subscription of its session to the
//! channel's topic, from the moment it joins, and with its first one it hears private messages too.
//! What the session has sent itself is left out.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use crate::broker::fanout::Subscriber;
use crate::broker::rooms::{Entered, Going, Place, presence as records};
use crate::broker::subscription::{Start, Subscription};
use crate::broker::{self, Filter, RealityName, name, room};
use crate::edge::json::envelope::{sender, shown};
use crate::edge::json::frame::Frame;
use crate::edge::json::text::{Asked, Text};
use crate::edge::session::delivery::Given;
use crate::edge::session::refusal::Refusal;
use crate::edge::session::rooms::{JSON_MEMBER, LEFT, heard, watch};
use crate::edge::session::state::{Done, Session};
use crate::proto::ErrorCode;
use crate::proto::v1::Deliver;
use crate::proto::view::RecordView;

/// What is done once a channel is heard.
#[derive(Debug)]
pub(in crate::edge::session) enum Then {
    /// The message that was the reason.
    Send(Box<Frame>),
    /// An answer to the command that was.
    Answer(Asked),
}

/// A channel that has been joined, or not.
#[derive(Debug)]
pub(in crate::edge::session) struct Joined {
    place: Place,
    keys: Keys,
    outcome: Result<Ears, broker::Error>,
    then: Then,
}

/// Keys of the subscriptions that a join may begin.
#[derive(Clone, Copy, Debug)]
struct Keys {
    channel: u64,
    presence: u64,
    inbox: u64,
}

/// What a member hears with.
#[derive(Debug)]
struct Ears {
    entered: Entered,
    channel: Subscription,
    presence: Option<Subscription>,
    inbox: Option<Subscription>,
}

impl Session {
    /// The filter of a channel that this session may join and has not.
    pub(super) fn may_join(&self, room: &str, channel: &str) -> Result<Filter, Refusal> {
        if self.draining {
            return Err(Refusal::shutting_down());
        }
        let filter = self.filter(&RealityName::main(), &room::topic(room, channel))?;
        if self.hears(room, channel) {
            let text = format!("this session hears {room}/{channel} already");
            return Err(Refusal::invalid("channel", text));
        }
        let presence = usize::from(self.context.json.presence);
        let inbox = usize::from(self.wants_inbox());
        self.check_subscriptions(1 + presence + inbox)?;
        Ok(filter)
    }

    /// Whether this session hears a channel.
    pub(super) fn hears(&self, room: &str, channel: &str) -> bool {
        let place = (room.to_owned(), channel.to_owned());
        let client = self.client.as_ref();
        client.is_some_and(|client| client.channels.contains_key(&place))
    }

    /// Begins to hear a channel, then does what was to be done.
    pub(super) fn join(&mut self, place: &(String, String), then: Then) {
        let filter = match self.may_join(&place.0, &place.1) {
            Ok(filter) => filter,
            Err(refusal) => {
                return match then {
                    Then::Send(frame) => self.store_json(*frame),
                    Then::Answer(asked) => self.respond(&asked, Err(refusal)),
                };
            }
        };
        let keys = Keys {
            channel: self.subscriptions.new_key(),
            presence: self.subscriptions.new_key(),
            inbox: self.subscriptions.new_key(),
        };
        let inbox = self.wants_inbox().then(|| self.inbox()).flatten();
        let is_told = self.context.json.presence;
        let seat = self.seat();
        let place = Place::new(&place.0, &place.1);
        let tenancy = Arc::clone(&self.tenancy);
        let signals = Arc::clone(&self.signals);
        self.start(0, move || {
            let ear = || Arc::clone(&signals) as Arc<dyn Subscriber>;
            let begin = || {
                let reality = tenancy.reality(&RealityName::main())?;
                let latest = |filter, key| {
                    let request = heard(filter, Start::Latest, ear(), key);
                    Subscription::start(&reality, request).map(|(started, _)| started)
                };
                // Heard first: whoever reads that this one has joined can speak to it.
                let channel = latest(filter, keys.channel)?;
                let inbox = inbox.map(|filter| latest(filter, keys.inbox)).transpose()?;
                let entered = seat.join(&tenancy, &place)?;
                let presence = is_told.then(|| watch(&entered, &place, ear(), keys.presence));
                Ok(Ears {
                    channel,
                    inbox,
                    presence: presence.transpose()?,
                    entered,
                })
            };
            let outcome = begin();
            Done::Joined(Box::new(Joined {
                place,
                keys,
                outcome,
                then,
            }))
        });
    }

    /// Whether its next join is to begin its hearing of private messages.
    fn wants_inbox(&self) -> bool {
        self.client.as_ref().is_some_and(|one| one.inbox.is_none()) && self.inbox().is_some()
    }

    /// The filter of private messages to this session, if its token lets it see them.
    fn inbox(&self) -> Option<Filter> {
        let filter = Filter::new(&room::inbox(&self.identity.subject)).ok()?;
        self.identity.may_subscribe(&filter).then_some(filter)
    }

    /// Goes on after a channel has been joined, or not.
    pub(in crate::edge::session) fn joined(&mut self, joined: Joined) {
        let Joined {
            place,
            keys,
            outcome,
            then,
        } = joined;
        let entered = outcome.map(|ears| self.hear(&place, keys, ears));
        match then {
            // It is stored also where it cannot be heard.
            Then::Send(frame) => self.store_json(*frame),
            Then::Answer(asked) => {
                let data = entered.map(|entered| self.entered(&place, &entered));
                let outcome = data.map(|data| ("Joined channel", data));
                self.respond(&asked, outcome.map_err(Refusal::from));
            }
        }
    }

    fn hear(&mut self, place: &Place, keys: Keys, ears: Ears) -> Entered {
        self.last_reality = Some(Arc::clone(&ears.entered.reality));
        self.wake_if_first(&ears.entered);
        self.subscriptions
            .insert(keys.channel, keys.channel, ears.channel);
        let inbox = ears.inbox.is_some();
        for (key, other) in [(keys.presence, ears.presence), (keys.inbox, ears.inbox)] {
            if let Some(subscription) = other {
                self.subscriptions.insert(key, key, subscription);
            }
        }
        if self.context.json.presence
            && let Some(joined) = &mut self.place
        {
            joined.watches.insert(place.clone(), keys.presence);
        }
        if let Some(client) = &mut self.client {
            let name = (place.room.to_string(), place.channel.to_string());
            client.channels.insert(name, keys.channel);
            if inbox {
                client.inbox = Some(keys.inbox);
            }
        }
        ears.entered
    }

    /// Hears a channel no more, and is no member of it once that is on disk.
    pub(super) fn leave_of_json(&mut self, asked: Asked, place: &(String, String)) {
        let key = self
            .client
            .as_mut()
            .and_then(|client| client.channels.remove(place));
        let place = Place::new(&place.0, &place.1);
        if let Some(key) = key {
            self.subscriptions.remove(key);
        }
        self.stop_watching(&place);
        let seat = self.seat();
        let answer = self.has_left(&place);
        self.find_out(asked, move || {
            seat.leave(&place, LEFT)?;
            Ok(("Left channel", answer))
        });
    }

    /// It has been put out of a channel.
    pub(in crate::edge::session) fn put_out_of_json(&mut self, place: &Place, reason: &str) {
        let name = (place.room.to_string(), place.channel.to_string());
        let client = self.client.as_mut();
        if let Some(key) = client.and_then(|client| client.channels.remove(&name)) {
            self.subscriptions.remove(key);
        }
        let text = format!(
            "this session is a member of {}/{} no more: {reason}",
            place.room, place.channel
        );
        let asked = Asked {
            id: String::new(),
            room: Some(name.0),
            channel: Some(name.1),
        };
        self.json_refused(&asked, &Refusal::new(ErrorCode::NotMember, "channel", text));
    }

    /// Tells what a channel holds.
    pub(super) fn tell(&mut self, given: Given) {
        let Given {
            key,
            records,
            lost,
            failed,
        } = given;
        for record in decoded(records) {
            let Ok(view) = RecordView::parse(&record) else {
                // What is in the log was checked when it came in.
                tracing::error!("a record of the log cannot be shown as JSON");
                continue;
            };
            if let Some(said) = records::said(&view) {
                let now = view.appended_at;
                self.outbox
                    .push_text(Text::presence(&said, view.sequence, now).to_line());
            } else if !self.is_own(&view) && self.is_for_it(&view) {
                self.outbox.push_text(shown(&view).to_line());
            }
        }
        if let Some(lost) = lost {
            let text = format!(
                "records {} to {} of a channel cannot be read: {}",
                lost.first.get(),
                lost.last.get(),
                lost.reason
            );
            let refusal = Refusal::new(ErrorCode::StorageFailure, "", text);
            self.json_refused(&self.place_of(key), &refusal);
        }
        if let Some(refusal) = failed {
            self.channel_over(key, &refusal);
        }
    }

    /// Tells why a channel is heard no more.
    pub(super) fn channel_over(&mut self, key: u64, refusal: &Refusal) {
        let asked = self.place_of(key);
        if let Some(client) = &mut self.client {
            client.channels.retain(|_, other| *other != key);
            client.inbox = client.inbox.filter(|other| *other != key);
        }
        if let (Some(room), Some(channel), Some(joined)) =
            (&asked.room, &asked.channel, &self.place)
        {
            let place = Place::new(room, channel);
            joined.seat.drop_out(&place, Going::ENDED);
            self.stop_watching(&place);
        }
        self.json_refused(&asked, refusal);
    }

    fn place_of(&self, key: u64) -> Asked {
        let mut channels = self.client.iter().flat_map(|client| &client.channels);
        let found = channels.find(|(_, other)| **other == key);
        found.map_or_else(Asked::default, |((room, channel), _)| Asked {
            id: String::new(),
            room: Some(room.clone()),
            channel: Some(channel.clone()),
        })
    }

    /// Whether a private message is meant for this session, and not for another of its subject.
    fn is_for_it(&self, record: &RecordView<'_>) -> bool {
        let to = record.envelope.headers.get("to_client").unwrap_or_default();
        let is_named = name::is_direct_topic(record.topic) && to.starts_with(JSON_MEMBER);
        let own = self.client.as_ref().is_some_and(|client| client.id == to);
        !is_named || own
    }

    /// Whether this session has sent a record. Its name alone could be anybody's; that the subject
    /// is this session's too is the node's word.
    fn is_own(&self, record: &RecordView<'_>) -> bool {
        let client = self.client.as_ref().map_or("", |client| &client.id);
        sender(record) == (client, &self.identity.subject)
    }
}

/// Encoded records out of encoded `Deliver.records` fields.
pub(super) fn decoded(records: Bytes) -> Vec<Bytes> {
    match Deliver::decode(records) {
        Ok(deliver) => deliver.records,
        Err(error) => {
            tracing::error!(%error, "records of the log cannot be taken apart");
            Vec::new()
        }
    }
}

/// What a command about a channel names.
pub(super) fn place(frame: &Frame) -> Result<(String, String), Refusal> {
    Ok((named(frame, "room")?, named(frame, "channel")?))
}

/// The room or channel that a command names, among its arguments or beside them.
pub(super) fn named(frame: &Frame, what: &'static str) -> Result<String, Refusal> {
    let beside = match what {
        "room" => &frame.room,
        _ => &frame.channel,
    };
    let name = match frame.args.get(what) {
        None | Some(serde_json::Value::Null) => beside.clone(),
        Some(serde_json::Value::String(name)) => Some(name.clone()),
        Some(_) => {
            let text = format!("args.{what} must be a string");
            return Err(Refusal::invalid(what, text));
        }
    };
    name.filter(|name| !name.is_empty()).ok_or_else(|| {
        let text = format!("{what} is missing; name it in args.{what}");
        Refusal::invalid(what, text)
    })
}
