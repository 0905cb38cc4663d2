//! Acknowledgements that wait for projections (PRJ-17): a batch is stored and acknowledged, and its
//! producer wants to hear when a projection has passed it.
//!
//! A projection that lags keeps no producer from producing: what waits here counts against no limit
//! of what is under way, has one of its own, and a deadline.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::refusal::Refusal;
use super::signals::Signals;
use super::state::Session;
use crate::broker::RealityName;
use crate::edge::shield::Fault;
use crate::log::{Appended, Sequence};
use crate::projections::node;
use crate::proto::ErrorCode;
use crate::proto::v1::{Produced, server_frame::Body};

/// Acknowledgements of one session that may wait.
const WAITING_MAX: usize = 256;
/// Projections of one batch.
const NAMES_MAX: usize = 8;
/// How long one waits.
const PASSED_WITHIN: Duration = Duration::from_secs(30);

/// A batch that a projection has passed, or has not in time.
#[derive(Debug)]
pub(super) struct Passed {
    request_id: u64,
    projection: String,
    first: Sequence,
    last: Sequence,
    outcome: Result<(), node::Error>,
}

/// What a session waits for. Ends with it.
#[derive(Debug, Default)]
pub(super) struct Passing(Option<Box<JoinSet<()>>>);

impl Passing {
    fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |waits| waits.len())
    }

    /// Forgets those that have ended.
    fn clear(&mut self) {
        let Some(waits) = &mut self.0 else { return };
        // Whatever has to be told has been told.
        while waits.try_join_next().is_some() {}
        if waits.is_empty() {
            self.0 = None;
        }
    }
}

impl Session {
    /// Whether a batch in `reality` may be acknowledged when the projections called `names` have
    /// passed it.
    pub(super) fn check_projected(
        &self,
        reality: &RealityName,
        names: &[String],
    ) -> Result<(), Refusal> {
        let (found, limit) = (names.len(), NAMES_MAX);
        if found > limit {
            let (field, unit) = ("then_projected", "projections");
            return Err(Refusal::too_large(field, found, unit, limit));
        }
        if found > 0 && self.passing.len() + found > WAITING_MAX {
            let text = "too many batches of this session wait for projections; wait for some, or leave then_projected out";
            let mut refusal = Refusal::new(ErrorCode::RateLimited, "then_projected", text);
            (refusal.retryable, refusal.retry_after_ms) = (true, 100);
            return Err(refusal);
        }
        for (index, name) in names.iter().enumerate() {
            let field = format!("then_projected[{index}]");
            let kept = self.context.projections.find(name);
            let kept = kept.map_err(|error| {
                let field = field.clone();
                Refusal::from(Fault {
                    field,
                    ..Fault::from(error)
                })
            })?;
            let reads = kept.projection.reality();
            if reads != reality.as_str() {
                let text = format!("{name} reads the reality {reads}, and never passes this batch");
                return Err(Refusal::invalid(&field, text));
            }
        }
        Ok(())
    }

    /// Acknowledges a stored batch once more for each of `names`, when it has passed it.
    pub(super) fn await_projected(
        &mut self,
        request_id: u64,
        appended: Appended,
        names: Vec<String>,
    ) {
        if names.is_empty() || request_id == 0 {
            return;
        }
        let waits = self.passing.0.get_or_insert_default();
        let Appended { first, last, .. } = appended;
        for projection in names {
            let projections = Arc::clone(&self.context.projections);
            let signals: Arc<Signals> = Arc::clone(&self.signals);
            let tenant = self.identity.tenant.as_str().to_owned();
            waits.spawn(async move {
                let waited = projections.wait(&tenant, &projection, None, last, PASSED_WITHIN);
                let outcome = waited.await.map(drop);
                signals.passed(Passed {
                    request_id,
                    projection,
                    first,
                    last,
                    outcome,
                });
            });
        }
    }

    /// Tells what has become of a wait.
    pub(super) fn passed(&mut self, passed: Passed) {
        let Passed {
            request_id,
            projection,
            first,
            last,
            outcome,
        } = passed;
        self.passing.clear();
        match outcome {
            Ok(()) => {
                let produced = Produced {
                    first: first.get(),
                    last: last.get(),
                    projected: projection,
                    ..Produced::default()
                };
                self.outbox.answer(request_id, Body::Produced(produced));
            }
            Err(error) => {
                let fault = Fault {
                    field: "then_projected".to_owned(),
                    // The batch is stored, and must not be sent again.
                    retry_after_ms: 0,
                    ..Fault::from(error)
                };
                self.outbox.refuse(request_id, fault.into());
            }
        }
    }
}
