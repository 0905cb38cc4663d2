//! Operators that a session is: joining a group, being given tasks, answering them (OPS-01, OPS-02).
//!
//! They live as long as the session: what they have in hand when it ends is given to others. Knows
//! frames; what becomes of a task is decided by the broker.

use std::sync::Arc;

use super::refusal::Refusal;
use super::signals::Signals;
use super::state::{Done, Session};
use crate::broker;
use crate::broker::operators::sam::{self, Given, Hands, Membership};
use crate::edge::handshake::Subprotocol;
use crate::edge::json::text::Asked;
use crate::proto::ErrorCode;
use crate::proto::v1::server_frame::Body;
use crate::proto::v1::{
    Joined, OperatorDrain, OperatorDrained, OperatorJoin, Task, TaskExtend, TaskExtended,
    TaskResult,
};

/// Most operators of one session.
const OPERATORS_MAX: usize = 16;
/// Most tasks that they take at a time, together: each waits in memory for the socket.
const CONCURRENCY_MAX: u64 = 256;

/// An operator that was let in, or not.
#[derive(Debug)]
pub(super) struct Admitted {
    request_id: u64,
    /// What a JSON client asked.
    asked: Option<Asked>,
    joined: Result<Membership, broker::Error>,
}

impl Hands for Signals {
    fn give(&self, task: Given) {
        self.task(task);
    }
}

impl Session {
    /// Lets an operator in.
    pub(super) fn operator_join(
        &mut self,
        request_id: u64,
        asked: Option<Asked>,
        join: OperatorJoin,
    ) -> Result<(), Refusal> {
        if self.draining {
            return Err(Refusal::shutting_down());
        }
        if self.operators.len() >= OPERATORS_MAX {
            let (found, unit) = (self.operators.len() + 1, "operators in this session");
            return Err(Refusal::too_large("operator", found, unit, OPERATORS_MAX));
        }
        let others = self.operators.iter();
        let taken: u64 = others
            .map(|one| u64::from(one.manifest().concurrency))
            .sum();
        let wanted = taken + u64::from(join.concurrency.max(1));
        if wanted > CONCURRENCY_MAX {
            let text = format!(
                "the operators of this session would take {wanted} tasks at a time, more than the limit of {CONCURRENCY_MAX}"
            );
            return Err(Refusal::invalid("concurrency", text));
        }
        let broker = Arc::clone(&self.context.broker);
        let tenancy = Arc::clone(&self.tenancy);
        let identity = Arc::clone(&self.identity);
        let hands = Arc::clone(&self.signals) as Arc<dyn Hands>;
        self.start(request_id, move || {
            let joined = sam::join(&broker, &tenancy, &identity, join, hands);
            Done::Admitted(Box::new(Admitted {
                request_id,
                asked,
                joined,
            }))
        });
        Ok(())
    }

    /// Tells an operator that it was let in, and lets it have tasks then.
    pub(super) fn admitted(&mut self, admitted: Admitted) {
        let Admitted {
            request_id,
            asked,
            joined,
        } = admitted;
        let membership = match joined {
            Ok(membership) => membership,
            Err(error) => {
                let refusal = Refusal::from(error);
                return match asked {
                    Some(asked) => self.json_refused(&asked, &refusal),
                    None => self.outbox.refuse(request_id, refusal),
                };
            }
        };
        let manifest = membership.manifest();
        let joined = Joined {
            group: manifest.group.clone(),
            instance: manifest.instance.clone(),
            lease_ms: manifest.lease_ms,
            concurrency: manifest.concurrency,
            attempts_max: sam::ATTEMPTS_MAX,
            heartbeat_ms: self.context.limits.ping_after_ms,
        };
        match asked {
            Some(asked) => self.operator_joined_json(&asked, &joined),
            None => self.outbox.answer(request_id, Body::Joined(joined)),
        }
        membership.begin();
        self.operators.push(Arc::new(membership));
    }

    /// Sends a task on its way.
    pub(super) fn give_task(&mut self, given: Given) {
        if self.subprotocol == Subprotocol::Json {
            return self.give_task_json(&given);
        }
        let task = Task {
            id: given.id,
            record: given.record,
            deadline_ms: given.deadline_ms,
            attempt: given.attempt,
            group: given.group,
            instance: given.instance,
            lease: given.lease,
            lease_ms: given.lease_ms,
        };
        self.outbox.answer(0, Body::Task(task));
    }

    fn holder(&self, id: &str, lease: u64) -> Result<Arc<Membership>, Refusal> {
        let mut operators = self.operators.iter();
        let holder = operators.find(|one| one.knows(id, lease));
        holder.cloned().ok_or_else(|| {
            let text = if self.operators.is_empty() {
                "this session is no operator; send an OperatorJoin first"
            } else {
                "the task is not in the hands of this session with this lease: it is done, or another has it"
            };
            Refusal::new(ErrorCode::Stale, "lease", text)
        })
    }

    /// Takes an operator's answer.
    pub(super) fn task_result(
        &mut self,
        request_id: u64,
        result: TaskResult,
    ) -> Result<(), Refusal> {
        let holder = self.holder(&result.id, result.lease)?;
        self.start(request_id, move || {
            let taken = holder.answer(result).map(Body::TaskTaken);
            Done::Answer(request_id, Box::new(taken.map_err(Refusal::from)))
        });
        Ok(())
    }

    /// Begins the lease of a task anew.
    pub(super) fn task_extend(
        &mut self,
        request_id: u64,
        extend: TaskExtend,
    ) -> Result<(), Refusal> {
        let holder = self.holder(&extend.id, extend.lease)?;
        let until = holder.extend(&extend.id, extend.lease)?;
        let extended = TaskExtended {
            id: extend.id,
            until,
        };
        self.outbox.answer(request_id, Body::TaskExtended(extended));
        Ok(())
    }

    /// Gives one of the session's operators no more tasks.
    pub(super) fn operator_drain(
        &mut self,
        request_id: u64,
        asked: &OperatorDrain,
    ) -> Result<(), Refusal> {
        let is_it = |one: &&Arc<Membership>| {
            let manifest = one.manifest();
            manifest.group == asked.group && manifest.instance == asked.instance
        };
        let found = self.operators.iter().find(is_it).cloned();
        let operator = found.ok_or_else(|| {
            let text = "this session has no such operator";
            Refusal::new(ErrorCode::NotFound, "instance", text)
        })?;
        self.start(request_id, move || {
            let manifest = operator.manifest();
            let (group, instance) = (manifest.group.clone(), manifest.instance.clone());
            let drained = operator.drain().map(|in_hand| {
                Body::OperatorDrained(OperatorDrained {
                    group,
                    instance,
                    in_hand,
                })
            });
            Done::Answer(request_id, Box::new(drained.map_err(Refusal::from)))
        });
        Ok(())
    }
}
