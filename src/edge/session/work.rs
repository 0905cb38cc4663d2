//! Requests of a member of a group: to join, to answer for a record, to ask for more time.

use std::sync::Arc;
use std::time::Duration;

use super::refusal::Refusal;
use super::state::{Done, Session};
use crate::broker::group::{Failed, Join, Window, Worker};
use crate::broker::subscription::{Credit, Start};
use crate::broker::{Filter, RealityName, letter};
use crate::log::Sequence;
use crate::proto::v1::{self, Extended, server_frame::Body};

/// Records that a member has at a time if it says nothing: few, so that others get some too.
const WINDOW_RECORDS: u64 = 16;

impl Session {
    /// Becomes a member of a group.
    pub(super) fn join_group(
        &mut self,
        request_id: u64,
        asked: &v1::Subscribe,
        name: RealityName,
        filter: Filter,
        start: Start,
        credit: Credit,
    ) -> Result<(), Refusal> {
        check_plain(asked)?;
        let window = Window {
            records: match (asked.credit_records, asked.credit_bytes) {
                (0, 0) => WINDOW_RECORDS,
                _ => credit.records.unwrap_or(u64::MAX),
            },
            bytes: credit
                .bytes
                .map_or(u64::MAX, |bytes| u64::try_from(bytes).unwrap_or_default()),
        };
        let (id, group) = (asked.subscription, asked.group.clone());
        let options = asked.group_options.unwrap_or_default();
        let subject = self.identity.subject.clone();
        let key = self.subscriptions.new_key();
        let tenancy = Arc::clone(&self.tenancy);
        let worker = Arc::clone(&self.signals) as Arc<dyn Worker>;
        self.start(request_id, move || {
            let begin = || {
                let reality = tenancy.reality(&name)?;
                let join = Join {
                    group: &group,
                    filter: &filter,
                    start,
                    options,
                    window,
                    name: &subject,
                    worker,
                    key,
                };
                tenancy.groups().join(&reality, join).map(Box::new)
            };
            Done::JoinedGroup {
                request_id,
                key,
                id,
                member: begin(),
            }
        });
        Ok(())
    }

    /// Exactly one record is done. `false` if the subscription is no group's.
    pub(super) fn ack_work(&mut self, request_id: u64, ack: &v1::Ack) -> Result<bool, Refusal> {
        let Some((key, entry)) = self.memberships.get(ack.subscription) else {
            return Ok(false);
        };
        let answered = entry.member.ack(sequence(ack.sequence)?, ack.attempt)?;
        let (sequence, outbox) = (ack.sequence, &mut self.outbox);
        self.memberships
            .answered(key, request_id, sequence, answered, outbox);
        Ok(true)
    }

    /// A record has failed.
    pub(super) fn nack(&mut self, request_id: u64, nack: &v1::Nack) -> Result<(), Refusal> {
        let Some((key, entry)) = self.memberships.get(nack.subscription) else {
            return self.give_up(request_id, nack);
        };
        let failed = Failed {
            error: &nack.reason,
            delay: (nack.delay_ms != 0).then(|| Duration::from_millis(nack.delay_ms)),
            for_good: nack.dead_letter,
        };
        let answered = entry
            .member
            .nack(sequence(nack.sequence)?, nack.attempt, &failed)?;
        let (sequence, outbox) = (nack.sequence, &mut self.outbox);
        self.memberships
            .answered(key, request_id, sequence, answered, outbox);
        Ok(())
    }

    /// A named consumer will never deal with a record: it becomes a dead letter, and then it is done
    /// like by an Ack.
    fn give_up(&mut self, request_id: u64, nack: &v1::Nack) -> Result<(), Refusal> {
        let by = self.identity.subject.clone();
        let subscription = nack.subscription;
        let Some((_, entry)) = self.subscriptions.get(subscription) else {
            return Err(no_group(subscription));
        };
        let Some(lease) = entry.subscription.lease() else {
            return Err(no_group(subscription));
        };
        if !nack.dead_letter {
            let text = "a named consumer reads in order, so that nothing is tried again behind it; set dead_letter, or use a group";
            return Err(Refusal::invalid("dead_letter", text));
        }
        let sequence = sequence(nack.sequence)?;
        let reality = Arc::clone(entry.subscription.reality());
        let filter = entry.subscription.filter().clone();
        let (consumer, error) = (lease.consumer().to_owned(), nack.reason.clone());
        self.start(request_id, move || {
            let written = letter::give_up(&reality, &consumer, &filter, sequence, &error, &by);
            let ack = v1::Ack {
                subscription,
                sequence: sequence.get(),
                attempt: 0,
            };
            Done::GaveUp(request_id, ack, written)
        });
        Ok(())
    }

    /// A record takes longer.
    pub(super) fn extend(&mut self, request_id: u64, extend: &v1::Extend) -> Result<(), Refusal> {
        let subscription = extend.subscription;
        let Some((_, entry)) = self.memberships.get(subscription) else {
            return Err(no_group(subscription));
        };
        let by = (extend.by_ms != 0).then(|| Duration::from_millis(extend.by_ms));
        let deadline = entry
            .member
            .extend(sequence(extend.sequence)?, extend.attempt, by)?;
        if request_id != 0 {
            let extended = Extended {
                subscription,
                sequence: extend.sequence,
                deadline_ms: deadline.as_millis(),
            };
            self.outbox.answer(request_id, Body::Extended(extended));
        }
        Ok(())
    }
}

fn sequence(asked: u64) -> Result<Sequence, Refusal> {
    Sequence::new(asked).ok_or_else(|| Refusal::invalid("sequence", "sequence must not be 0"))
}

fn no_group(subscription: u64) -> Refusal {
    let text = format!("this session has no subscription {subscription} with a group or consumer");
    Refusal::new(crate::proto::ErrorCode::NotFound, "subscription", text)
}

/// Refuses what has no meaning where members share the records.
fn check_plain(asked: &v1::Subscribe) -> Result<(), Refusal> {
    let plain = [
        ("consumer", asked.consumer.is_empty()),
        ("stop_sequence", asked.stop_sequence == 0),
        ("stop_time", asked.stop_time == 0),
        ("stop_at_end", !asked.stop_at_end),
        ("visibility", asked.visibility == 0),
        ("on_lag", asked.on_lag == 0),
        ("twist_id", asked.twist_id.is_empty()),
        ("spectral", asked.spectral.is_none()),
    ];
    match plain.iter().find(|(_, plain)| !plain) {
        Some((field, _)) => {
            let text = format!("{field} has no meaning for a group; leave it or the group out");
            Err(Refusal::invalid(field, text))
        }
        None => Ok(()),
    }
}
