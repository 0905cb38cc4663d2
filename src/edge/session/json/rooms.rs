//! Channels that a JSON client hears: each is a subscription of its session to the channel's topic,
//! from the moment it joins. What the session has sent itself is left out.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use crate::broker::fanout::{Subscriber, Visibility};
use crate::broker::subscription::{Credit, LagRule, Request, Start, Stop, Subscription};
use crate::broker::{self, Filter, RealityName, Traits, room};
use crate::edge::json::envelope::{sender, shown};
use crate::edge::json::frame::Frame;
use crate::edge::json::text::Asked;
use crate::edge::session::delivery::Given;
use crate::edge::session::refusal::Refusal;
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
    place: (String, String),
    key: u64,
    started: Result<Subscription, broker::Error>,
    then: Then,
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
        let (found, limit) = (
            self.subscriptions.len() + 1,
            self.context.limits.subscriptions_max,
        );
        if found > limit {
            let unit = "subscriptions in this session";
            return Err(Refusal::too_large("channel", found, unit, limit));
        }
        Ok(filter)
    }

    /// Whether this session hears a channel.
    pub(super) fn hears(&self, room: &str, channel: &str) -> bool {
        let place = (room.to_owned(), channel.to_owned());
        let client = self.client.as_ref();
        client.is_some_and(|client| client.channels.contains_key(&place))
    }

    /// Begins to hear a channel, then does what was to be done.
    pub(super) fn join(&mut self, place: (String, String), then: Then) {
        let filter = match self.may_join(&place.0, &place.1) {
            Ok(filter) => filter,
            Err(refusal) => {
                return match then {
                    Then::Send(frame) => self.store_json(*frame),
                    Then::Answer(asked) => self.respond(&asked, Err(refusal)),
                };
            }
        };
        let key = self.subscriptions.new_key();
        let tenancy = Arc::clone(&self.tenancy);
        let subscriber = Arc::clone(&self.signals) as Arc<dyn Subscriber>;
        self.start(0, move || {
            let request = Request {
                filter,
                start: Start::Latest,
                stop: Stop::default(),
                visibility: Visibility::Durable,
                // The socket alone decides how fast: JSON clients have no way to give credit.
                credit: Credit::default(),
                lag: LagRule::NONE,
                traits: Traits::default(),
                lease: None,
                subscriber,
                key,
            };
            let reality = tenancy.reality(&RealityName::main());
            let started = reality.and_then(|reality| Subscription::start(&reality, request));
            Done::Joined(Box::new(Joined {
                place,
                key,
                started: started.map(|(subscription, _)| subscription),
                then,
            }))
        });
    }

    /// Goes on after a channel has been joined, or not.
    pub(in crate::edge::session) fn joined(&mut self, joined: Joined) {
        let Joined {
            place,
            key,
            started,
            then,
        } = joined;
        let started = started.map(|subscription| {
            self.last_reality = Some(Arc::clone(subscription.reality()));
            self.subscriptions.insert(key, key, subscription);
            if let Some(client) = &mut self.client {
                client.channels.insert(place.clone(), key);
            }
        });
        match then {
            // It is stored also where it cannot be heard.
            Then::Send(frame) => self.store_json(*frame),
            Then::Answer(asked) => {
                let (room, channel) = place;
                let data = serde_json::json!({
                    "room": room,
                    "channel": channel,
                    "joined_by": self.client.as_ref().map(|client| client.id.as_str()),
                    "joined_at": crate::proto::json::micros(self.context.broker.now().0),
                });
                let outcome = started.map(|()| ("Joined channel", data));
                self.respond(&asked, outcome.map_err(Refusal::from));
            }
        }
    }

    /// Hears a channel no more.
    pub(super) fn leave(&mut self, room: &str, channel: &str) -> Result<(), Refusal> {
        let place = (room.to_owned(), channel.to_owned());
        let client = self.client.as_mut();
        let key = client.and_then(|client| client.channels.remove(&place));
        let Some(key) = key else {
            let text = format!("this session is no member of {room}/{channel}; join_channel first");
            return Err(Refusal::new(ErrorCode::NotMember, "channel", text));
        };
        self.subscriptions.remove(key);
        Ok(())
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
            if !self.is_own(&view) {
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
