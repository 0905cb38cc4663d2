//! Commands of JSON clients: those of the adapter itself, and the way to the node's.
//!
//! What reads the disk runs on a blocking thread; each command is answered by one `response`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use serde_json::{Value as Json, json};

use super::rooms::{Then, decoded, named, place};
use super::{Told, asked, failure};
use crate::broker::{self, Filter, Reality, RealityName, Tenancy, Traits, room, subscription};
use crate::edge::json::arguments::typed;
use crate::edge::json::commands::{help, is_of_older_system, of_node};
use crate::edge::json::envelope::shown;
use crate::edge::json::frame::{Frame, time_ms};
use crate::edge::json::text::{Asked, Text};
use crate::edge::session::refusal::Refusal;
use crate::edge::session::state::{Done, Session};
use crate::edge::shield::command::Desk;
use crate::log::{Micros, Sequence};
use crate::proto::ErrorCode;
use crate::proto::json::micros;
use crate::proto::view::RecordView;

/// Messages in an answer, unless the client says otherwise.
const HISTORY: u64 = 50;
/// Most that it may ask for.
const HISTORY_MAX: u64 = 1_000;
/// Bytes of records in an answer: as text they take more.
const HISTORY_BYTES_MAX: usize = 1 << 20;
/// Records that are looked at for the newest of a channel, from the end of the log on.
const LOOK_BACK: [u64; 4] = [1 << 10, 1 << 13, 1 << 16, 1 << 19];

/// Reads that one answer is made of.
const READS_MAX: usize = 64;

type Outcome = Result<(&'static str, Json), Refusal>;

impl Session {
    /// Carries out a command.
    pub(super) fn command_of_json(&mut self, frame: Frame) {
        let began = Instant::now();
        let name = frame.command.clone().unwrap_or_default();
        match name.as_str() {
            "ping" => {
                let outcome = Ok(("pong", self.pong(began)));
                self.respond(&asked(&frame), outcome);
            }
            "help" => self.respond(&asked(&frame), explain(&frame)),
            "auth.refresh" => {
                let outcome = self.refresh_json(&frame);
                self.respond(&asked(&frame), outcome);
            }
            "join_channel" => match place(&frame) {
                Ok(place) => self.join(place, Then::Answer(asked(&frame))),
                Err(refusal) => self.respond(&asked(&frame), Err(refusal)),
            },
            "leave_channel" => {
                let outcome = self.leave_of_json(&frame);
                self.respond(&asked(&frame), outcome);
            }
            "list_channels" => match named(&frame, "room") {
                Ok(room) => self.list_channels(asked(&frame), room),
                Err(refusal) => self.respond(&asked(&frame), Err(refusal)),
            },
            "channel_info" => match place(&frame) {
                Ok(place) => self.channel_info(asked(&frame), place),
                Err(refusal) => self.respond(&asked(&frame), Err(refusal)),
            },
            "history" => self.history(&frame),
            _ => self.run_of_node(name, frame),
        }
    }

    /// Answers a command.
    pub(in crate::edge::session) fn respond(&mut self, asked: &Asked, outcome: Outcome) {
        let now = self.context.broker.now();
        let text = match outcome {
            Ok((message, data)) => Text::done(asked, message, &data, now),
            Err(refusal) => {
                self.outbox.count(&refusal);
                Text::not_done(asked, &failure(&refusal, &[]), now)
            }
        };
        self.outbox.push_text(text.to_line());
        if self.context.json.legacy_acks {
            let text = Text::acknowledged(asked, now);
            self.outbox.push_text(text.to_line());
        }
    }

    fn pong(&self, began: Instant) -> Json {
        json!({
            "client_id": self.client.as_ref().map(|client| client.id.as_str()),
            "timestamp": micros(self.context.broker.now().0),
            "latency_ms": began.elapsed().as_secs_f64() * 1_000.0,
            "client_info": {
                "tenant": self.identity.tenant.as_str(),
                "subject": self.identity.subject,
                "role": self.identity.role.as_str(),
            },
        })
    }

    fn refresh_json(&mut self, frame: &Frame) -> Outcome {
        let Some(Json::String(token)) = frame.args.get("token") else {
            return Err(Refusal::invalid(
                "token",
                "token is missing; name it in args.token",
            ));
        };
        for (key, refusal) in self.renew(token)? {
            self.channel_over(key, &refusal);
        }
        let expires_at = u64::try_from(self.token_expires_at()).unwrap_or_default();
        let time = micros(expires_at.saturating_mul(1_000));
        Ok(("Token accepted", json!({"token_expires_at": time})))
    }

    fn leave_of_json(&mut self, frame: &Frame) -> Outcome {
        let (room, channel) = place(frame)?;
        self.leave(&room, &channel)?;
        let data = json!({
            "room": room,
            "channel": channel,
            "left_by": self.client.as_ref().map(|client| client.id.as_str()),
            "left_at": micros(self.context.broker.now().0),
        });
        Ok(("Left channel", data))
    }

    /// Runs a command of the node on a blocking thread.
    fn run_of_node(&mut self, name: String, frame: Frame) {
        let asked = asked(&frame);
        let Some(listed) = of_node(&name) else {
            let outcome = Err(not_known(&name));
            return self.respond(&asked, outcome);
        };
        let (said, message) = if name == "truth.verify" {
            (flat(frame), "Task enqueued")
        } else {
            (frame.args, "Command completed")
        };
        let arguments = typed(said, listed.arguments);
        let desk = self.desk();
        let identity = Arc::clone(&self.identity);
        self.find_out(asked, move || {
            let result = desk.run(&identity, &name, &arguments);
            let data = result.map_err(Refusal::from)?.to_json();
            Ok((message, data))
        });
    }

    fn find_out(&mut self, asked: Asked, work: impl FnOnce() -> Outcome + Send + 'static) {
        self.start(0, move || {
            let outcome = work();
            Done::Told(Box::new(Told { asked, outcome }))
        });
    }

    fn list_channels(&mut self, asked: Asked, room: String) {
        let heard = self.heard_in(&room);
        let (desk, identity) = (self.desk(), Arc::clone(&self.identity));
        self.find_out(asked, move || {
            let mut channels: Vec<Json> = Vec::new();
            let stored = channels_of(&desk, &identity, &room)?;
            let silent = heard
                .iter()
                .filter(|name| !stored.iter().any(|(found, _)| found == *name));
            for name in silent {
                channels.push(json!({"name": name, "records": 0, "joined": true}));
            }
            for (name, topic) in &stored {
                channels.push(json!({
                    "name": name,
                    "records": topic["records"],
                    "joined": heard.contains(name),
                }));
            }
            channels.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
            let data = json!({
                "room_name": room,
                "total_channels": channels.len(),
                "channels": channels,
            });
            Ok(("Channels listed", data))
        });
    }

    fn channel_info(&mut self, asked: Asked, (room, channel): (String, String)) {
        let joined = self.hears(&room, &channel);
        let (desk, identity) = (self.desk(), Arc::clone(&self.identity));
        self.find_out(asked, move || {
            let stored = channels_of(&desk, &identity, &room)?;
            let topic = stored.into_iter().find(|(name, _)| *name == channel);
            if topic.is_none() && !joined {
                let text = format!("nothing has been said in {room}/{channel}");
                return Err(Refusal::new(ErrorCode::NotFound, "channel", text));
            }
            let topic = topic.map(|(_, topic)| topic).unwrap_or_default();
            let number = |name: &str| topic[name].as_u64().unwrap_or(0);
            let data = json!({
                "room": room,
                "channel": channel,
                "joined": joined,
                "records": number("records"),
                "bytes": number("bytes"),
                "first_sequence": topic["first"],
                "last_sequence": topic["last"],
            });
            Ok(("Channel shown", data))
        });
    }

    fn heard_in(&self, room: &str) -> Vec<String> {
        let channels = self.client.iter().flat_map(|client| client.channels.keys());
        let here = channels.filter(|(other, _)| other == room);
        here.map(|(_, channel)| channel.clone()).collect()
    }

    fn history(&mut self, frame: &Frame) {
        let asked = asked(frame);
        let (wanted, filter) = match self.wanted(frame) {
            Ok(wanted) => wanted,
            Err(refusal) => return self.respond(&asked, Err(refusal)),
        };
        let tenancy = Arc::clone(&self.tenancy);
        self.find_out(asked, move || read(&tenancy, &wanted, &filter));
    }

    fn wanted(&self, frame: &Frame) -> Result<(Wanted, Filter), Refusal> {
        let (room, channel) = place(frame)?;
        let main = RealityName::main();
        let filter = self.filter(&main, &room::topic(&room, &channel))?;
        let limit = match frame.args.get("limit") {
            None | Some(Json::Null) => HISTORY,
            Some(limit) => limit
                .as_u64()
                .filter(|limit| (1..=HISTORY_MAX).contains(limit))
                .ok_or_else(|| {
                    let text = format!("limit must be a whole number from 1 to {HISTORY_MAX}");
                    Refusal::invalid("limit", text)
                })?,
        };
        let since = match frame.args.get("since") {
            None | Some(Json::Null) => Since::Newest,
            Some(Json::String(time)) => {
                let ms = time_ms(time, self.context.json.naive_times);
                let ms = ms.and_then(|ms| u64::try_from(ms).ok());
                let ms = ms.ok_or_else(bad_since)?;
                Since::Time(Micros(ms.saturating_mul(1_000)))
            }
            Some(sequence) => Since::Sequence(sequence.as_u64().ok_or_else(bad_since)?),
        };
        let wanted = Wanted {
            room,
            channel,
            limit,
            since,
        };
        Ok((wanted, filter))
    }
}

/// Older clients give what is to be verified as the arguments themselves, or as the payload.
fn flat(frame: Frame) -> serde_json::Map<String, Json> {
    if frame.args.contains_key("payload") {
        return frame.args;
    }
    let said = match frame.payload {
        Json::Object(fields) if frame.args.is_empty() => fields,
        _ => frame.args,
    };
    [("payload".to_owned(), Json::Object(said))]
        .into_iter()
        .collect()
}

fn bad_since() -> Refusal {
    Refusal::invalid(
        "since",
        "since must be a time in RFC 3339 with Z or an offset, or a sequence",
    )
}

fn not_known(name: &str) -> Refusal {
    let shown: String = name.chars().take(64).collect();
    if is_of_older_system(name) {
        let text = format!("{shown} is not served by this node");
        return Refusal::new(ErrorCode::FeatureDisabled, "command", text);
    }
    let text = format!("there is no command {shown}; `help` lists them");
    Refusal::new(ErrorCode::UnknownCommand, "command", text)
}

fn explain(frame: &Frame) -> Outcome {
    let name = match frame.args.get("command") {
        None | Some(Json::Null) => None,
        Some(Json::String(name)) => Some(name.as_str()),
        Some(_) => return Err(Refusal::invalid("command", "command must be a string")),
    };
    match help(name) {
        Some(found) => Ok(("Help", found)),
        None => Err(not_known(name.unwrap_or_default())),
    }
}

/// Channels of a room that hold records, each with what the node says of its topic.
fn channels_of(
    desk: &Desk,
    identity: &broker::Identity,
    of: &str,
) -> Result<Vec<(String, Json)>, Refusal> {
    let topics = desk.run(identity, "topics.list", &std::collections::BTreeMap::new());
    let topics = topics.map_err(Refusal::from)?.to_json();
    let of_room = topics.as_array().into_iter().flatten().filter_map(|topic| {
        let (room, channel) = room::of_topic(topic["topic"].as_str()?)?;
        (room == of).then(|| (channel, topic.clone()))
    });
    Ok(of_room.collect())
}

/// Which part of a channel's history is wanted.
struct Wanted {
    room: String,
    channel: String,
    limit: u64,
    since: Since,
}

enum Since {
    Newest,
    Time(Micros),
    Sequence(u64),
}

/// Reads history. Blocks on the disk.
fn read(tenancy: &Tenancy, wanted: &Wanted, filter: &Filter) -> Outcome {
    let reality = tenancy
        .reality(&RealityName::main())
        .map_err(Refusal::from)?;
    let found = match wanted.since {
        Since::Newest => newest(&reality, filter, wanted.limit)?,
        Since::Sequence(from) => onwards(
            &reality,
            filter,
            Sequence::at_least_first(from),
            wanted.limit,
        )?,
        Since::Time(time) => {
            let from = reality.log().seek_time(time).map_err(broker::Error::from)?;
            onwards(&reality, filter, from, wanted.limit)?
        }
    };
    let entries: Vec<Json> = found.records.iter().filter_map(entry).collect();
    let data = json!({
        "room": wanted.room,
        "channel": wanted.channel,
        "limit": wanted.limit,
        "count": entries.len(),
        "history": entries,
        "truncated": found.next.is_some() || found.is_cut,
        "next": found.next.map(Sequence::get),
    });
    Ok(("History read", data))
}

/// Records in the order of their sequences.
struct Part {
    records: Vec<Bytes>,
    /// Where to go on, if there is more behind.
    next: Option<Sequence>,
    /// There may be more before.
    is_cut: bool,
}

fn from_on(
    reality: &Arc<Reality>,
    filter: &Filter,
    from: Sequence,
    limit: u64,
) -> Result<Part, Refusal> {
    let mut out = BytesMut::new();
    // What was removed meanwhile is not asked for.
    let from = from.max(reality.bounds().first);
    let bytes = HISTORY_BYTES_MAX;
    let filled = subscription::fetch(
        reality,
        filter.clone(),
        Traits::default(),
        from,
        limit,
        bytes,
        &mut out,
    )?;
    let at_end = matches!(filled.then, subscription::Then::Finished);
    Ok(Part {
        records: decoded(out.freeze()),
        next: (!at_end).then_some(filled.next),
        is_cut: false,
    })
}

/// Records from `from` on, also where those of other channels lie between them.
fn onwards(
    reality: &Arc<Reality>,
    filter: &Filter,
    from: Sequence,
    limit: u64,
) -> Result<Part, Refusal> {
    let mut part = from_on(reality, filter, from, limit)?;
    for _ in 0..READS_MAX {
        let left = limit.saturating_sub(part.records.len() as u64);
        let bytes: usize = part.records.iter().map(Bytes::len).sum();
        let Some(next) = part.next.filter(|_| left > 0 && bytes < HISTORY_BYTES_MAX) else {
            break;
        };
        let more = from_on(reality, filter, next, left)?;
        part.records.extend(more.records);
        part.next = more.next;
    }
    Ok(part)
}

/// The newest records, looked for in a part of the log that grows until there are enough.
fn newest(reality: &Arc<Reality>, filter: &Filter, limit: u64) -> Result<Part, Refusal> {
    let bounds = reality.bounds();
    let (first, end) = (bounds.first, bounds.durable_end);
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut part = Part {
        records: Vec::new(),
        next: None,
        is_cut: false,
    };
    for back in LOOK_BACK {
        let start = Sequence::at_least_first(end.get().saturating_sub(back)).max(first);
        let (newest, was_cut) = last_of(reality, filter, start, wanted)?;
        part.is_cut = was_cut || start > first;
        part.records = newest.into();
        if part.records.len() >= wanted || start == first || was_cut {
            break;
        }
    }
    Ok(part)
}

/// The last `wanted` records from `start` on, and whether there were others before.
fn last_of(
    reality: &Arc<Reality>,
    filter: &Filter,
    start: Sequence,
    wanted: usize,
) -> Result<(VecDeque<Bytes>, bool), Refusal> {
    let (mut kept, mut bytes, mut was_cut) = (VecDeque::new(), 0, false);
    let mut from = Some(start);
    while let Some(at) = from {
        let part = from_on(reality, filter, at, u64::MAX)?;
        for record in part.records {
            bytes += record.len();
            kept.push_back(record);
            while kept.len() > wanted || (bytes > HISTORY_BYTES_MAX && kept.len() > 1) {
                bytes -= kept.pop_front().map_or(0, |record| record.len());
                was_cut = true;
            }
        }
        // A read that did not get on would never end.
        from = part.next.filter(|next| *next > at);
    }
    Ok((kept, was_cut))
}

fn entry(record: &Bytes) -> Option<Json> {
    let view = RecordView::parse(record).ok()?;
    let stored_at = micros(view.appended_at);
    let mut json = serde_json::to_value(shown(&view)).ok()?;
    let mut part = |name: &str| json.get_mut(name).map(Json::take).unwrap_or_default();
    Some(json!({
        "message_id": part("id"),
        "type": part("type"),
        "sender": part("sender"),
        "payload": part("payload"),
        "metadata": part("metadata"),
        "timestamp": part("timestamp"),
        "stored_at": stored_at,
        "sequence": view.sequence,
    }))
}
