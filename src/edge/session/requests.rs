//! Requests of `arqon.v1`: from a ClientFrame to what is done about it.
//!
//! The match over the body is exhaustive: a verb that the protocol gains is refused here until
//! somebody decides what it may do.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::frame::{self, Deliver, HEAD_BYTES};
use super::refusal::Refusal;
use super::rooms;
use super::state::{Done, Session};
use crate::broker::consumer::CursorSink;
use crate::broker::fanout::{Subscriber, Visibility};
use crate::broker::group::Window;
use crate::broker::subscription::{self, Credit, LagRule, OnLag, Request, Start, Stop, Then};
use crate::broker::{self, Filter, RealityName, Role, Subscription, Traits};
use crate::edge::shield::command::Desk;
use crate::log::{Micros, Sequence};
use crate::proto::code::ErrorCode;
use crate::proto::v1::client_frame::Body as Asked;
use crate::proto::v1::subscribe;
use crate::proto::v1::{self, Acked, ClientFrame, CommandResult, Pong, server_frame::Body};

/// Bytes that a Fetch is answered with when it names no number.
const FETCH_BYTES_DEFAULT: u64 = 1 << 20;
/// A command may wait for something so long, and never longer than a session may be silent: it reads
/// nothing meanwhile, not even the answer to a ping.
const COMMAND_WAIT_MAX: Duration = Duration::from_secs(20);

impl Session {
    /// Takes one binary message.
    pub(super) fn receive_frame(&mut self, message: Bytes) {
        let frame = match ClientFrame::decode(message) {
            Ok(frame) => frame,
            Err(error) => {
                let text = format!("the message is not a ClientFrame: {error}");
                let refusal = Refusal::new(ErrorCode::InfraProtocolError, "", text);
                self.outbox.refuse(0, refusal);
                self.strike();
                return;
            }
        };
        let request_id = frame.request_id;
        if let Err(refusal) = self.serve(request_id, frame.body) {
            self.outbox.refuse(request_id, refusal);
        }
    }

    fn serve(&mut self, request_id: u64, asked: Option<Asked>) -> Result<(), Refusal> {
        match asked {
            Some(Asked::Produce(produce)) => self.produce(request_id, produce),
            Some(Asked::Subscribe(subscribe)) => self.subscribe(request_id, &subscribe),
            Some(Asked::Unsubscribe(end)) => {
                if let Some((key, _)) = self.memberships.get(end.subscription) {
                    self.memberships.end(key, request_id, &mut self.outbox);
                    return Ok(());
                }
                let (key, _) = self
                    .subscriptions
                    .get(end.subscription)
                    .ok_or_else(|| unknown_subscription(end.subscription))?;
                self.subscriptions.end(key, request_id, &mut self.outbox);
                Ok(())
            }
            Some(Asked::Credit(credit)) => self.credit(&credit),
            Some(Asked::Fetch(fetch)) => self.fetch(request_id, &fetch),
            Some(Asked::Ack(ack)) => self.ack(request_id, &ack),
            Some(Asked::Command(command)) => {
                self.command(request_id, command);
                Ok(())
            }
            Some(Asked::Refresh(refresh)) => self.refresh(request_id, &refresh.token),
            Some(Asked::Ping(ping)) => {
                // A session that only says that it is there keeps no log open.
                self.last_reality = None;
                let pong = Pong { data: ping.data };
                self.outbox.answer(request_id, Body::Pong(pong));
                Ok(())
            }
            Some(Asked::Nack(nack)) => self.nack(request_id, &nack),
            Some(Asked::Extend(extend)) => self.extend(request_id, &extend),
            Some(Asked::OperatorJoin(join)) => self.operator_join(request_id, None, join),
            Some(Asked::OperatorDrain(drain)) => self.operator_drain(request_id, &drain),
            Some(Asked::TaskResult(result)) => self.task_result(request_id, result),
            Some(Asked::TaskExtend(extend)) => self.task_extend(request_id, extend),
            None => {
                let text = "the frame has no body that this node knows; is the client newer?";
                Err(Refusal::new(ErrorCode::FeatureDisabled, "body", text))
            }
        }
    }

    /// The filter of a request, if the caller may see all that it matches there.
    pub(super) fn filter(&self, reality: &RealityName, filter: &str) -> Result<Filter, Refusal> {
        let field = "filter";
        let filter = Filter::new(filter).map_err(|fault| broker::Error::Name { field, fault })?;
        if reality.is_system() && self.identity.role != Role::Admin {
            let reality = reality.clone();
            return Err(broker::Error::RealityClosed { reality }.into());
        }
        if !self.identity.may_subscribe(&filter) {
            let text = format!("this token may not see all that {filter} matches");
            return Err(Refusal::new(ErrorCode::Forbidden, field, text));
        }
        Ok(filter)
    }

    fn subscribe(&mut self, request_id: u64, asked: &v1::Subscribe) -> Result<(), Refusal> {
        if self.draining {
            return Err(Refusal::shutting_down());
        }
        let id = asked.subscription;
        if id == 0 {
            return Err(Refusal::invalid(
                "subscription",
                "subscription must not be 0",
            ));
        }
        if !self.subscriptions.is_free(id) || !self.memberships.is_free(id) {
            let text = format!("subscription {id} is in use in this session");
            return Err(Refusal::invalid("subscription", text));
        }
        let (found, limit) = (
            self.subscriptions.len() + self.memberships.len() + 1,
            self.context.limits.subscriptions_max,
        );
        if found > limit {
            let unit = "subscriptions in this session";
            return Err(Refusal::too_large("subscription", found, unit, limit));
        }
        if asked.causal {
            return Err(Refusal::not_served("causal"));
        }
        let name = self.reality_name(&asked.reality)?;
        let filter = self.filter(&name, &asked.filter)?;
        let visibility = visibility(asked.visibility)?;
        let lag = self.lag_rule(asked)?;
        let credit = self.first_credit(asked)?;
        let (start, stop) = (start(asked)?, stop(asked));
        if !asked.group.is_empty() {
            return self.join_group(request_id, asked, name, filter, start, credit);
        }
        if asked.group_options.is_some() {
            let text = "group_options are of a group; name it, or leave them out";
            return Err(Refusal::invalid("group_options", text));
        }
        let traits = traits(&asked.twist_id, asked.spectral)?;
        if traits != Traits::default() && !asked.consumer.is_empty() {
            // A cursor counts for what its consumer reads, and is bound to topics alone.
            let text = "twist_id and spectral are not served for a named consumer; leave them or the consumer out";
            return Err(Refusal::new(ErrorCode::FeatureDisabled, "consumer", text));
        }
        let consumer = asked.consumer.clone();
        let key = self.subscriptions.new_key();
        let tenancy = Arc::clone(&self.tenancy);
        let signals = Arc::clone(&self.signals);
        self.start(request_id, move || {
            let begin = || {
                let reality = tenancy.reality(&name)?;
                let cursors = Arc::clone(&signals) as Arc<dyn CursorSink>;
                let lease = match consumer.as_str() {
                    "" => None,
                    name => {
                        let consumers = tenancy.consumers();
                        Some(consumers.lease(&reality, name, &filter, key, cursors)?)
                    }
                };
                let request = Request {
                    filter,
                    traits,
                    start,
                    stop,
                    visibility,
                    credit,
                    lag,
                    lease,
                    subscriber: signals as Arc<dyn Subscriber>,
                    key,
                };
                Subscription::start(&reality, request).map(Box::new)
            };
            Done::Subscribed {
                request_id,
                key,
                id,
                started: begin(),
            }
        });
        Ok(())
    }

    fn lag_rule(&self, asked: &v1::Subscribe) -> Result<LagRule, Refusal> {
        let field = "on_lag";
        let on_lag = match subscribe::OnLag::try_from(asked.on_lag) {
            Ok(subscribe::OnLag::CatchUp) => OnLag::CatchUp,
            Ok(subscribe::OnLag::DropOldest) => OnLag::DropOldest,
            Ok(subscribe::OnLag::End) => OnLag::End,
            Err(error) => return Err(Refusal::invalid(field, format!("{field}: {error}"))),
        };
        if on_lag != OnLag::CatchUp && !asked.consumer.is_empty() {
            let text = "a named consumer reads on from the log and loses nothing; leave on_lag out";
            return Err(Refusal::invalid(field, text));
        }
        Ok(LagRule {
            on_lag,
            records_max: self.context.limits.lag_records_max,
        })
    }

    fn first_credit(&self, asked: &v1::Subscribe) -> Result<Credit, Refusal> {
        let limits = &self.context.limits;
        if asked.credit_bytes > limits.credit_bytes_max {
            let text = format!(
                "credit_bytes is {}, more than the limit of {}",
                asked.credit_bytes, limits.credit_bytes_max
            );
            return Err(Refusal::invalid("credit_bytes", text));
        }
        // What a client gives no credit in, it does not count; if it counts neither, the node's
        // defaults hold.
        let (records, bytes) = match (asked.credit_records, asked.credit_bytes) {
            (0, 0) => (Some(limits.credit_records), Some(limits.credit_bytes)),
            (0, bytes) => (None, Some(bytes)),
            (records, 0) => (Some(records), None),
            (records, bytes) => (Some(records), Some(bytes)),
        };
        Ok(Credit {
            records,
            bytes: bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        })
    }

    fn credit(&mut self, credit: &v1::Credit) -> Result<(), Refusal> {
        let bytes_max = self.context.limits.credit_bytes_max;
        if let Some((key, entry)) = self.memberships.get(credit.subscription) {
            entry.member.widen(Window {
                records: credit.records,
                bytes: credit.bytes,
            });
            self.memberships.ready(key);
            return Ok(());
        }
        let (key, entry) = self
            .subscriptions
            .get(credit.subscription)
            .ok_or_else(|| unknown_subscription(credit.subscription))?;
        let subscription = &mut entry.subscription;
        subscription.add_credit(credit.records, credit.bytes, bytes_max);
        self.subscriptions.ready(key);
        Ok(())
    }

    pub(super) fn ack(&mut self, request_id: u64, ack: &v1::Ack) -> Result<(), Refusal> {
        if self.ack_work(request_id, ack)? {
            return Ok(());
        }
        let subscription = ack.subscription;
        let (key, entry) = self
            .subscriptions
            .get(subscription)
            .ok_or_else(|| unknown_subscription(subscription))?;
        let Some(lease) = entry.subscription.lease() else {
            let text = format!("subscription {subscription} has no named consumer to move");
            return Err(Refusal::invalid("subscription", text));
        };
        let Some(sequence) = Sequence::new(ack.sequence) else {
            return Err(Refusal::invalid("sequence", "sequence must not be 0"));
        };
        let stored = lease.ack(sequence)?;
        if request_id == 0 {
            return Ok(());
        }
        if stored {
            let acked = Acked {
                subscription,
                sequence: ack.sequence,
            };
            self.outbox.answer(request_id, Body::Acked(acked));
        } else {
            self.subscriptions.ack_waits(key, request_id, sequence);
        }
        Ok(())
    }

    fn fetch(&mut self, request_id: u64, asked: &v1::Fetch) -> Result<(), Refusal> {
        let name = self.reality_name(&asked.reality)?;
        let filter = self.filter(&name, &asked.filter)?;
        let limits = &self.context.limits;
        let or_default = |asked: u64, default: u64| if asked == 0 { default } else { asked };
        let records = or_default(asked.records, limits.credit_records);
        // The answer is one message, so it must not be larger than one may be.
        let bytes_max = limits.message_bytes_max - limits.message_bytes_max / 8;
        let bytes = or_default(asked.bytes, FETCH_BYTES_DEFAULT);
        let bytes = usize::try_from(bytes).map_or(bytes_max, |bytes| bytes.min(bytes_max));
        let from = Sequence::at_least_first(asked.from);
        let traits = traits(&asked.twist_id, asked.spectral)?;
        let tenancy = Arc::clone(&self.tenancy);
        let metrics = Arc::clone(&self.context.metrics);
        self.start(request_id, move || {
            let mut out = BytesMut::new();
            frame::begin(&mut out);
            let room = HEAD_BYTES + bytes;
            let read = tenancy.reality(&name).and_then(|reality| {
                subscription::fetch(&reality, filter, traits, from, records, room, &mut out)
            });
            match read {
                Ok(filled) => {
                    metrics.delivered(filled.records, (out.len() - HEAD_BYTES) as u64);
                    let deliver = Deliver {
                        request_id,
                        subscription: 0,
                        next: filled.next.get(),
                        end_of_log: matches!(filled.then, Then::Finished),
                        finished: true,
                        lost: filled.lost.as_ref(),
                        deliveries: Vec::new(),
                    };
                    Done::Frame(frame::end(&deliver, &mut out))
                }
                Err(error) => Done::Answer(request_id, Box::new(Err(error.into()))),
            }
        });
        Ok(())
    }

    fn command(&mut self, request_id: u64, asked: v1::CommandRequest) {
        if let Some(command) = rooms::of_session(&asked.name) {
            if let Err(refusal) = self.room_command(request_id, command, &asked.arguments) {
                self.outbox.refuse(request_id, refusal);
            }
            return;
        }
        let desk = self.desk();
        let identity = Arc::clone(&self.identity);
        let limit = self.context.limits.message_bytes_max;
        self.start(request_id, move || {
            let v1::CommandRequest { name, arguments } = asked;
            let result = desk.run(&identity, &name, &arguments);
            let result = result.map_err(Refusal::from).and_then(|result| {
                let found = result.encoded_len();
                // What does not fit beside others would end the session.
                if found > limit {
                    return Err(Refusal::answer_too_large(found, limit));
                }
                Ok(Body::CommandResult(CommandResult {
                    result: Some(result),
                }))
            });
            Done::Answer(request_id, Box::new(result))
        });
    }

    /// What this session's commands work on.
    pub(super) fn desk(&self) -> Desk {
        let silence = Duration::from_millis(self.context.limits.ping_after_ms);
        Desk {
            shield: Arc::clone(&self.context.shield),
            broker: Arc::clone(&self.context.broker),
            projections: Arc::clone(&self.context.projections),
            wait_max: COMMAND_WAIT_MAX.min(silence),
            tenancy: Arc::clone(&self.tenancy),
            guard: Arc::clone(&self.guard),
            from: Arc::clone(&self.context.peer),
        }
    }
}

fn unknown_subscription(id: u64) -> Refusal {
    let text = format!("this session has no subscription {id}");
    Refusal::new(ErrorCode::NotFound, "subscription", text)
}

/// What a request wants of records besides their topic.
fn traits(twist_id: &str, spectral: Option<v1::SpectralRange>) -> Result<Traits, Refusal> {
    let bounds = spectral.iter().flat_map(|range| {
        [
            ("spectral.coherence_min", range.coherence_min),
            ("spectral.coherence_max", range.coherence_max),
            ("spectral.criticality_min", range.criticality_min),
            ("spectral.criticality_max", range.criticality_max),
        ]
    });
    for (field, bound) in bounds {
        if bound.is_some_and(f32::is_nan) {
            let text = format!("{field} is not a number, so that nothing is within it");
            return Err(Refusal::invalid(field, text));
        }
    }
    Ok(Traits::new(twist_id, spectral))
}

fn visibility(wanted: i32) -> Result<Visibility, Refusal> {
    match subscribe::Visibility::try_from(wanted) {
        Ok(subscribe::Visibility::Durable) => Ok(Visibility::Durable),
        Ok(subscribe::Visibility::WrittenToo) => Ok(Visibility::WrittenToo),
        Err(error) => Err(Refusal::invalid(
            "visibility",
            format!("visibility: {error}"),
        )),
    }
}

fn start(asked: &v1::Subscribe) -> Result<Start, Refusal> {
    let unset = |field| {
        let text = format!("{field} must be true where it is set; leave it out for the default");
        Err(Refusal::invalid(field, text))
    };
    match asked.start {
        None | Some(subscribe::Start::Latest(true)) => Ok(Start::Latest),
        Some(subscribe::Start::Earliest(true)) => Ok(Start::Earliest),
        Some(subscribe::Start::Latest(false)) => unset("latest"),
        Some(subscribe::Start::Earliest(false)) => unset("earliest"),
        Some(subscribe::Start::Current(false)) => unset("current"),
        Some(subscribe::Start::Current(true))
            if !asked.consumer.is_empty() || !asked.group.is_empty() =>
        {
            // A cursor says that all before it is done with, and what is passed over is not.
            let text = "current is not served for named consumers and groups; leave it or them out";
            Err(Refusal::new(ErrorCode::FeatureDisabled, "current", text))
        }
        Some(subscribe::Start::Current(true)) => Ok(Start::Current),
        Some(subscribe::Start::Sequence(0)) => Ok(Start::Earliest),
        Some(subscribe::Start::Sequence(sequence)) => {
            Ok(Start::Sequence(Sequence::at_least_first(sequence)))
        }
        Some(subscribe::Start::Time(time)) => Ok(Start::Time(Micros(time))),
    }
}

fn stop(asked: &v1::Subscribe) -> Stop {
    Stop {
        sequence: Sequence::new(asked.stop_sequence),
        time: (asked.stop_time != 0).then_some(Micros(asked.stop_time)),
        at_end: asked.stop_at_end,
    }
}
