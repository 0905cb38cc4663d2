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
            "join_channel" | "room.join" => match place(&frame) {
                Ok(place) => self.join(&place, Then::Answer(asked(&frame))),
                Err(refusal) => self.respond(&asked(&frame), Err(refusal)),
            },
            "leave_channel" | "room.leave" => match place(&frame) {
                Ok(place) => self.leave_of_json(asked(&frame), &place),
                Err(refusal) => self.respond(&asked(&frame), Err(refusal)),
            },
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
        let limit = self.context.limits.message_bytes_max;
        let done = outcome.and_then(|(message, data)| {
            let line = Text::done(asked, message, &data, now).to_line();
            if line.len() > limit {
                return Err(Refusal::answer_too_large(line.len(), limit));
            }
            Ok(line)
        });
        let line = done.unwrap_or_else(|refusal| {
            self.outbox.count(&refusal);
            Text::not_done(asked, &failure(&refusal, &[]), now).to_line()
        });
        self.outbox.push_text(line);
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

    pub(super) fn find_out(
        &mut self,
        asked: Asked,
        work: impl FnOnce() -> Outcome + Send + 'static,
    ) {
        self.start(0, move || {
            let outcome = work();
            Done::Told(Box::new(Told { asked, outcome }))
        });
    }

    fn list_channels(&mut self, asked: Asked, room: String) {
        let heard = self.heard_in(&room);
        let (desk, identity) = (self.desk(), Arc::clone(&self.identity));
        self.find_out(asked, move || {
            let given = [("room", room)];
            let mut data = of_desk(&desk, &identity, "channel.list", given)?;
            let channels = data["channels"].as_array_mut();
            for channel in channels.into_iter().flatten() {
                let joined = channel["name"].as_str();
                let joined = joined.is_some_and(|name| heard.iter().any(|one| one == name));
                channel["joined"] = joined.into();
            }
            Ok(("Channels listed", data))
        });
    }

    fn channel_info(&mut self, asked: Asked, (room, channel): (String, String)) {
        let joined = self.hears(&room, &channel);
        let (desk, identity) = (self.desk(), Arc::clone(&self.identity));
        self.find_out(asked, move || {
            let given = [("room", room), ("channel", channel)];
            let mut data = of_desk(&desk, &identity, "channel.info", given)?;
            data["joined"] = joined.into();
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
        let (wanted, filters) = match self.wanted(frame) {
            Ok(wanted) => wanted,
            Err(refusal) => return self.respond(&asked, Err(refusal)),
        };
        let tenancy = Arc::clone(&self.tenancy);
        self.find_out(asked, move || read(&tenancy, &wanted, &filters));
    }

    fn wanted(&self, frame: &Frame) -> Result<(Wanted, Vec<Filter>), Refusal> {
        let main = RealityName::main();
        let (of, filters) = match frame.args.get("with") {
            None | Some(Json::Null) => {
                let (room, channel) = place(frame)?;
                let topic = room::topic(&room, &channel);
                let of = vec![("room", room), ("channel", channel)];
                (of, vec![self.filter(&main, &topic)?])
            }
            Some(Json::String(with)) if !with.is_empty() => {
                let (own, other) = (&self.identity.subject, self.addressee(with)?);
                let mut topics = vec![room::direct(own, &other), room::direct(&other, own)];
                topics.dedup();
                let filters = topics.iter().map(|topic| self.filter(&main, topic));
                (vec![("with", other)], filters.collect::<Result<_, _>>()?)
            }
            Some(_) => {
                return Err(Refusal::invalid(
                    "with",
                    "with must be a member or a subject",
                ));
            }
        };
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
        Ok((Wanted { of, limit, since }, filters))
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

/// What a command of the node answers.
fn of_desk<const N: usize>(
    desk: &Desk,
    identity: &broker::Identity,
    name: &str,
    given: [(&str, String); N],
) -> Result<Json, Refusal> {
    let given = given.map(|(name, text)| (name.to_owned(), Json::from(text).into()));
    let answer = desk.run(identity, name, &given.into_iter().collect());
    Ok(answer.map_err(Refusal::from)?.to_json())
}

/// Which part of a channel's history is wanted.
struct Wanted {
    /// The channel, or whoever it was talked with.
    of: Vec<(&'static str, String)>,
    limit: u64,
    since: Since,
}

enum Since {
    Newest,
    Time(Micros),
    Sequence(u64),
}

/// Reads history. Blocks on the disk.
fn read(tenancy: &Tenancy, wanted: &Wanted, filters: &[Filter]) -> Outcome {
    let reality = tenancy
        .reality(&RealityName::main())
        .map_err(Refusal::from)?;
    let parts = filters.iter().map(|filter| match wanted.since {
        Since::Newest => newest(&reality, filter, wanted.limit),
        Since::Sequence(from) => onwards(
            &reality,
            filter,
            Sequence::at_least_first(from),
            wanted.limit,
        ),
        Since::Time(time) => {
            let from = reality.log().seek_time(time).map_err(broker::Error::from)?;
            onwards(&reality, filter, from, wanted.limit)
        }
    });
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    let found = merged(parts, wanted);
    let entries: Vec<Json> = found.records.iter().filter_map(entry).collect();
    let mut data = json!({
        "limit": wanted.limit,
        "count": entries.len(),
        "history": entries,
        "truncated": found.next.is_some() || found.is_cut,
        "next": found.next.map(Sequence::get),
    });
    for (name, value) in &wanted.of {
        data[*name] = value.as_str().into();
    }
    Ok(("History read", data))
}

/// Several parts as one, in order, and no longer than each may be.
fn merged(mut parts: Vec<Part>, wanted: &Wanted) -> Part {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return only;
    }
    let next = parts.iter().filter_map(|part| part.next).min();
    let mut is_cut = parts.iter().any(|part| part.is_cut);
    let sequence = |record: &Bytes| RecordView::parse(record).map_or(0, |view| view.sequence);
    let all = parts.into_iter().flat_map(|part| part.records);
    let mut all: Vec<(u64, Bytes)> = all.map(|record| (sequence(&record), record)).collect();
    all.sort_unstable_by_key(|(sequence, _)| *sequence);
    // Beyond where one part goes on, the other may have told of what comes later.
    if let Some(next) = next {
        all.retain(|(sequence, _)| *sequence < next.get());
    }
    let mut next = next;
    let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let over = all.len().saturating_sub(limit);
    if over > 0 {
        match wanted.since {
            Since::Newest => {
                all.drain(..over);
                is_cut = true;
            }
            Since::Time(_) | Since::Sequence(_) => {
                let first_left = all.get(limit).map(|(sequence, _)| *sequence);
                next = first_left.and_then(Sequence::new);
                all.truncate(limit);
            }
        }
    }
    Part {
        records: all.into_iter().map(|(_, record)| record).collect(),
        next,
        is_cut,
    }
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
