//! A policy of one tenant, ready to judge: a module, its configuration and its instances.
//!
//! Owns the instances: no two tenants, and no two versions, ever share one. An instance that has
//! failed, or has done enough, is replaced. Everything is synchronous.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use super::engine::{Engine, Seat};
use super::instance::Instance;
use super::limits::CONFIG_BYTES_MAX;
use super::module::{Module, Unfit};
use super::question::Question;
use super::tally::Tally;
use super::verdict::{Failure, Judged};

/// How long the instances of a policy live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// As long as they are good, if the module can forget a message; else for one message.
    Reused,
    /// For one message.
    Message,
}

impl Isolation {
    /// As a manifest says it.
    #[must_use]
    pub const fn of(isolated: bool) -> Self {
        if isolated {
            Self::Message
        } else {
            Self::Reused
        }
    }
}

/// A module with what it is configured with, and its instances.
#[derive(Debug)]
pub struct Policy {
    engine: Engine,
    module: Arc<Module>,
    config: Bytes,
    reuse: bool,
    idle: Mutex<Idle>,
    instances: Arc<AtomicUsize>,
    /// What its calls have come to.
    pub tally: Tally,
}

#[derive(Debug)]
struct Idle {
    #[expect(
        clippy::vec_box,
        reason = "taking one out and putting it back must be quick"
    )]
    instances: Vec<Box<Instance>>,
    /// When one was put back last.
    since: Instant,
}

impl Policy {
    /// Makes a module ready to judge, and one instance, which shows that its configuration is good.
    ///
    /// # Errors
    /// What is wrong with the two.
    pub fn new(
        engine: &Engine,
        module: Arc<Module>,
        config: Bytes,
        isolation: Isolation,
    ) -> Result<Arc<Self>, Unfit> {
        if config.len() > CONFIG_BYTES_MAX {
            let found = config.len();
            return Err(Unfit::one(format!(
                "its configuration has {found} bytes, over the limit of {CONFIG_BYTES_MAX}"
            )));
        }
        let policy = Arc::new(Self {
            engine: engine.clone(),
            reuse: module.resets && isolation == Isolation::Reused,
            module,
            config,
            idle: Mutex::new(Idle {
                instances: Vec::new(),
                since: Instant::now(),
            }),
            instances: Arc::default(),
            tally: Tally::default(),
        });
        match policy.take(Instant::now()) {
            Ok(first) => {
                if policy.reuse {
                    policy.put_back(first, Instant::now());
                }
            }
            // There is no room for a trial; the first message says.
            Err(Failure::Busy) => {}
            Err(failure) => {
                return Err(Unfit::one(format!("cannot be made ready: {failure}")));
            }
        }
        engine.remember(&policy);
        Ok(policy)
    }

    /// What it runs.
    #[must_use]
    pub const fn module(&self) -> &Arc<Module> {
        &self.module
    }

    /// Has it judge a payload. Never waits for anybody.
    #[must_use]
    pub fn judge(&self, question: &Question<'_>, body: &[u8]) -> Judged {
        self.judge_in(question, &question.encode(), body)
    }

    /// The same where `context` is the question, encoded.
    pub(super) fn judge_in(&self, question: &Question<'_>, context: &[u8], body: &[u8]) -> Judged {
        let started = Instant::now();
        let mut judged = Judged {
            outcome: Err(Failure::Busy),
            tags: Vec::new(),
            log: Vec::new(),
            log_lines: 0,
            took: std::time::Duration::ZERO,
            fuel: None,
        };
        match self.take(started) {
            Err(failure) => judged.outcome = Err(failure),
            Ok(mut instance) => {
                let (engine, module) = (&self.engine, &self.module);
                judged.outcome = instance.judge(engine, module, question, context, body);
                judged.fuel = instance.fuel_used(engine, module, body);
                let guest = instance.said();
                judged.log_lines = guest.line_count;
                judged.tags = std::mem::take(&mut guest.tags);
                judged.log = std::mem::take(&mut guest.lines);
                if judged.outcome.is_ok() && self.reuse && instance.forget() {
                    self.put_back(instance, started);
                }
            }
        }
        judged.took = started.elapsed();
        self.count(&judged);
        judged
    }

    fn count(&self, judged: &Judged) {
        let timed = self.tally.begin();
        self.tally.end(judged);
        let tallies = self.engine.tallies();
        tallies.call(judged);
        if timed {
            tallies.duration.observe(judged.took.as_secs_f64());
        }
        if judged.log_lines > 0 {
            tallies.log_lines.inc_by(judged.log_lines as u64);
        }
    }

    /// Counts whether, in the shadow, it has agreed with the policy in force.
    pub(super) fn compared(&self, same: bool) {
        let (counter, outcome) = match same {
            true => (&self.tally.same, "same"),
            false => (&self.tally.different, "different"),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.engine.tallies().shadow(outcome);
    }

    fn take(&self, now: Instant) -> Result<Box<Instance>, Failure> {
        while let Some(instance) = self.pop() {
            if !instance.is_worn(now) {
                return Ok(instance);
            }
        }
        let max = self.engine.limits().policy_instances_max;
        let ours = Seat::take(&self.instances, max).ok_or(Failure::Busy)?;
        let node = self.engine.seat().ok_or(Failure::Busy)?;
        Instance::new(&self.engine, &self.module, &self.config, (node, ours)).map(Box::new)
    }

    fn pop(&self) -> Option<Box<Instance>> {
        self.idle().instances.pop()
    }

    fn put_back(&self, instance: Box<Instance>, now: Instant) {
        let mut idle = self.idle();
        idle.since = now;
        idle.instances.push(instance);
    }

    /// Since when it has not been asked, if it has an instance that idles.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let idle = self.idle();
        (!idle.instances.is_empty()).then_some(idle.since)
    }

    /// Ends an instance that idles, if there still is one.
    pub(super) fn let_one_go(&self) -> bool {
        self.pop().is_some()
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
