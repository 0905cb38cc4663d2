//! What a session has joined: `room.join` and `room.leave` over frames, the Presence frames that
//! follow, and what JSON clients share of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use serde_json::json;

use super::refusal::Refusal;
use super::state::{Done, Session};
use crate::broker::fanout::{Subscriber, Visibility};
use crate::broker::rooms::command::{CHANNEL_OR_MAIN, ROOM, shown};
use crate::broker::rooms::{self, Entered, Going, Place, Seat, presence as records};
use crate::broker::subscription::{Credit, LagRule, Request, Start, Stop, Subscription};
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{self, Filter, Identity, RealityName, Role, Traits, room};
use crate::edge::handshake::Subprotocol;
use crate::edge::shield::command::{Call, Handler};
use crate::edge::shield::rules::Fault;
use crate::log::Sequence;
use crate::proto::ErrorCode;
use crate::proto::json::micros;
use crate::proto::v1::presence::Change;
use crate::proto::v1::{CommandResult, Deliver, Presence, Value, server_frame::Body};
use crate::proto::view::{EnvelopeView, RecordView};

/// What the members of a JSON client's name begin with.
pub const JSON_MEMBER: &str = "arq_client_";

/// Commands that only a session can be given.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "room.join",
        role: Role::User,
        effect: Effect::Writes,
        arguments: &[
            ROOM,
            CHANNEL_OR_MAIN,
            Argument {
                name: "presence",
                kind: Kind::Boolean,
                required: false,
                doc: "whether Presence frames follow; true if left out",
            },
        ],
        doc: "Makes this session a member of a channel until it leaves or ends; the answer names the others.",
        handler: of_a_session_alone,
    },
    Command {
        name: "room.leave",
        role: Role::User,
        effect: Effect::Writes,
        arguments: &[ROOM, CHANNEL_OR_MAIN],
        doc: "Makes this session a member of a channel no more.",
        handler: of_a_session_alone,
    },
];

fn of_a_session_alone(_call: &Call<'_>) -> Result<Value, Fault> {
    let text = "only a session over WebSocket can be a member of a channel";
    Err(Fault::new(ErrorCode::FeatureDisabled, "name", text))
}

/// The command called so, if a session alone can be given it.
pub(super) fn of_session(name: &str) -> Option<&'static Command<Handler>> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// Whether a token lets its bearer into a channel.
pub(super) fn may_join(identity: &Identity, place: &Place) -> bool {
    let filter = Filter::new(&room::topic(&place.room, &place.channel));
    filter.is_ok_and(|filter| identity.may_subscribe(&filter))
}

/// What a session has joined, and the subscriptions that tell it who else has.
#[derive(Debug)]
pub(super) struct SessionSeat {
    pub(super) seat: Arc<Seat>,
    pub(super) watches: HashMap<Place, u64>,
}

/// What a join has come to.
#[derive(Debug)]
pub(super) struct Arrived {
    request_id: u64,
    key: u64,
    place: Place,
    outcome: Result<(Entered, Option<Subscription>), broker::Error>,
}

impl Session {
    /// What others call it.
    pub(super) fn member_name(&self) -> String {
        let id = self.id.simple();
        match self.subprotocol {
            Subprotocol::Json => format!("{JSON_MEMBER}{id}"),
            Subprotocol::Frames | Subprotocol::Envelopes | Subprotocol::Unnamed => id.to_string(),
        }
    }

    /// Its seat, taken if it has none yet.
    pub(super) fn seat(&mut self) -> Arc<Seat> {
        if let Some(place) = &self.place {
            return Arc::clone(&place.seat);
        }
        let name = self.member_name();
        let signals = Arc::clone(&self.signals) as Arc<dyn rooms::Occupant>;
        let seat = Seat::new(self.tenancy.rooms(), &name, &self.identity.subject, signals);
        self.place = Some(Box::new(SessionSeat {
            seat: Arc::clone(&seat),
            watches: HashMap::new(),
        }));
        seat
    }

    /// What is to be said of it to those that it leaves behind.
    pub(super) fn goes(&self, going: Going) {
        if let Some(place) = &self.place {
            place.seat.goes(going);
        }
    }

    /// Carries out a command of [`COMMANDS`].
    pub(super) fn room_command(
        &mut self,
        request_id: u64,
        command: &Command<Handler>,
        arguments: &BTreeMap<String, Value>,
    ) -> Result<(), Refusal> {
        let arguments = command.admit(&self.identity, arguments)?;
        let text = |name| arguments.text(name).unwrap_or_default();
        let place = Place::new(text("room"), text("channel"));
        let seat = self.seat();
        if command.name == "room.leave" {
            // It need not be told that it has gone itself.
            self.stop_watching(&place);
            self.start(request_id, move || {
                let outcome = seat.leave(&place, LEFT);
                Done::Departed(request_id, place, outcome)
            });
            return Ok(());
        }
        if self.draining {
            return Err(Refusal::shutting_down());
        }
        self.check_sight(&place)?;
        let is_told = arguments.boolean("presence").unwrap_or(true);
        if is_told && !seat.is_in(&place) {
            self.check_subscriptions(1)?;
        }
        let key = self.subscriptions.new_key();
        let tenancy = Arc::clone(&self.tenancy);
        let subscriber = Arc::clone(&self.signals) as Arc<dyn Subscriber>;
        self.start(request_id, move || {
            let outcome = seat.join(&tenancy, &place).and_then(|entered| {
                let is_told = is_told && entered.is_new;
                let watch = is_told.then(|| watch(&entered, &place, subscriber, key));
                Ok((entered, watch.transpose()?))
            });
            Done::Arrived(Box::new(Arrived {
                request_id,
                key,
                place,
                outcome,
            }))
        });
        Ok(())
    }

    /// Whether the session's token lets it into a channel.
    pub(super) fn check_sight(&self, place: &Place) -> Result<(), Refusal> {
        let topic = room::topic(&place.room, &place.channel);
        self.filter(&RealityName::main(), &topic).map(drop)
    }

    /// Whether there is room for more subscriptions.
    pub(super) fn check_subscriptions(&self, more: usize) -> Result<(), Refusal> {
        let found = self.subscriptions.len() + more;
        let limit = self.context.limits.subscriptions_max;
        if found > limit {
            let unit = "subscriptions in this session";
            return Err(Refusal::too_large("channel", found, unit, limit));
        }
        Ok(())
    }

    /// Answers a join, and tells from now on who comes and goes.
    pub(super) fn arrived(&mut self, arrived: Arrived) {
        let Arrived {
            request_id,
            key,
            place,
            outcome,
        } = arrived;
        match outcome {
            Ok((entered, watch)) => {
                self.wake_if_first(&entered);
                let answer = self.entered(&place, &entered);
                let result = Some(Value::from(answer));
                let body = Body::CommandResult(CommandResult { result });
                self.outbox.answer(request_id, body);
                if let (Some(watch), Some(joined)) = (watch, &mut self.place) {
                    joined.watches.insert(place, key);
                    self.subscriptions.insert_presence(key, watch);
                }
            }
            Err(error) => self.outbox.refuse(request_id, error.into()),
        }
    }

    /// Has it said from now on who is there, if that is wanted.
    pub(super) fn wake_if_first(&self, entered: &Entered) {
        let is_wanted = self.tenancy.rooms().limits().heartbeat.is_some();
        if is_wanted && entered.is_new && entered.count == 1 {
            let duties = self.context.broker.duties();
            duties.wake(self.tenancy.tenant(), rooms::OPERATOR.name);
        }
    }

    /// What is answered to whoever has joined a channel.
    pub(super) fn entered(&self, place: &Place, entered: &Entered) -> serde_json::Value {
        let members: Vec<_> = entered.members.iter().map(shown).collect();
        json!({
            "room": &*place.room,
            "channel": &*place.channel,
            "room_id": &*place.room,
            "channel_id": &*place.channel,
            "topic": room::topic(&place.room, &place.channel),
            "presence_topic": room::presence(&place.room, &place.channel),
            "inbox": room::inbox(&self.identity.subject),
            "member": self.member_name(),
            "joined_by": self.member_name(),
            "joined_at": micros(entered.at.0),
            "room_joined": entered.is_new,
            "sequence": entered.sequence.get(),
            "total_members": entered.count,
            "members": members,
        })
    }

    /// Answers a leave.
    pub(super) fn departed(
        &mut self,
        request_id: u64,
        place: &Place,
        outcome: Result<(), broker::Error>,
    ) {
        match outcome {
            Ok(()) => {
                let result = Some(Value::from(self.has_left(place)));
                let body = Body::CommandResult(CommandResult { result });
                self.outbox.answer(request_id, body);
            }
            Err(error) => self.outbox.refuse(request_id, error.into()),
        }
    }

    /// What is answered to whoever has left a channel.
    pub(super) fn has_left(&self, place: &Place) -> serde_json::Value {
        json!({
            "room": &*place.room,
            "channel": &*place.channel,
            "room_id": &*place.room,
            "channel_id": &*place.channel,
            "left_by": self.member_name(),
            "left_at": micros(self.context.broker.now().0),
            "room_left": true,
        })
    }

    /// Hears no more who comes to a channel and goes.
    pub(super) fn stop_watching(&mut self, place: &Place) {
        let joined = self.place.as_mut();
        if let Some(key) = joined.and_then(|joined| joined.watches.remove(place)) {
            self.subscriptions.remove(key);
        }
    }

    /// It has been put out of a channel.
    pub(super) fn put_out(&mut self, place: &Place, reason: &'static str) {
        self.stop_watching(place);
        if self.client.is_some() {
            self.put_out_of_json(place, reason);
        } else if self.subprotocol == Subprotocol::Frames {
            let said = Presence {
                room: place.room.to_string(),
                channel: place.channel.to_string(),
                member: self.member_name(),
                subject: self.identity.subject.clone(),
                change: Change::Left.into(),
                reason: reason.to_owned(),
                ..Presence::default()
            };
            self.outbox.answer(0, Body::Presence(said));
        }
    }

    /// Leaves the channels that a new token does not let it into.
    pub(super) fn leave_what_is_closed(&mut self, identity: &Identity) {
        let Some(joined) = &self.place else {
            return;
        };
        let seat = Arc::clone(&joined.seat);
        for place in seat.places() {
            if !may_join(identity, &place) {
                seat.drop_out(&place, CLOSED_TO_IT);
                self.stop_watching(&place);
            }
        }
    }

    /// The topic of a message that names none: its addressee's, its room and channel, or its type.
    pub(super) fn topic_of(&self, view: &EnvelopeView<'_>) -> Result<Option<String>, Refusal> {
        if !view.topic.is_empty() {
            return Ok(None);
        }
        match view.headers.get("to_client").unwrap_or_default() {
            "" => super::envelopes::topic_of(view),
            to => {
                let addressee = self.addressee(to)?;
                Ok(Some(room::direct(&addressee, &self.identity.subject)))
            }
        }
    }

    /// The subject of a member, or the one called so.
    pub(super) fn addressee(&self, to: &str) -> Result<String, Refusal> {
        if let Some(subject) = self.tenancy.rooms().subject_of(to) {
            return Ok(subject.to_string());
        }
        if to.starts_with(JSON_MEMBER) {
            let text = "no member is called so; it has left, or never joined a channel: write to its subject";
            return Err(Refusal::new(ErrorCode::NotFound, "to_client", text));
        }
        Ok(to.to_owned())
    }

    /// Whether something may be said on a topic, as far as that is one of a room.
    pub(super) fn check_room(&self, topic: &str) -> Result<(), Refusal> {
        rooms::check_topic(&self.tenancy, topic).map_err(Refusal::from)
    }
}

/// By its own will.
pub(super) const LEFT: Going = Going {
    change: Change::Left,
    reason: "left",
};
const CLOSED_TO_IT: Going = Going {
    change: Change::Left,
    reason: "token",
};

/// A subscription to who comes to a channel and goes, after the join itself.
pub(super) fn watch(
    entered: &Entered,
    place: &Place,
    subscriber: Arc<dyn Subscriber>,
    key: u64,
) -> Result<Subscription, broker::Error> {
    let field = "channel";
    let filter = Filter::new(&room::presence(&place.room, &place.channel));
    let filter = filter.map_err(|fault| broker::Error::Name { field, fault })?;
    let start = Start::Sequence(entered.sequence.next());
    let request = heard(filter, start, subscriber, key);
    let (subscription, _) = Subscription::start(&entered.reality, request)?;
    Ok(subscription)
}

/// A subscription that the socket alone slows down.
pub(super) fn heard(
    filter: Filter,
    start: Start,
    subscriber: Arc<dyn Subscriber>,
    key: u64,
) -> Request {
    Request {
        filter,
        start,
        stop: Stop::default(),
        visibility: Visibility::Durable,
        credit: Credit::default(),
        lag: LagRule::NONE,
        traits: Traits::default(),
        lease: None,
        subscriber,
        key,
    }
}

/// Who has come and gone, out of encoded `Deliver.records` fields.
pub(super) fn presence(encoded: Bytes) -> Vec<Presence> {
    let deliver = match Deliver::decode(encoded) {
        Ok(deliver) => deliver,
        Err(error) => {
            tracing::error!(%error, "records of the log cannot be taken apart");
            return Vec::new();
        }
    };
    let said = deliver.records.iter().filter_map(|record| {
        let view = RecordView::parse(record).ok()?;
        let sequence = Sequence::new(view.sequence)?;
        Some(Presence {
            sequence: sequence.get(),
            ..records::said(&view)?
        })
    });
    said.collect()
}
