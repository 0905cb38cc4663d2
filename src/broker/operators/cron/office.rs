//! The task that fires a tenant's jobs: a heap of the next times, and the wall clock.
//!
//! It sleeps no longer than [`LOOK_EVERY`], so that a clock that was set is noticed: forward, what
//! is due since counts as late or missed; back, what has run does not run again, because a job goes
//! on behind the time that its last run was planned for.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;

use super::firing::{Stand, reality_of};
use super::job::{Change, End, Job, Jobs};
use super::schedule::Schedule;
use crate::broker::error::Error;
use crate::broker::operators::{Duty, Office};
use crate::broker::{Reality, Tenancy};

/// What it does unasked.
pub(super) const DUTY: Duty = Duty {
    is_due: |tenancy| tenancy.ledger::<Jobs>().read(|jobs| !jobs.is_empty()),
    run: |office| -> BoxFuture<'static, Result<(), Error>> { Box::pin(run(office)) },
};

/// Longest time between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Firings under way at a time; they share the log's flushes.
const TOGETHER: usize = 64;
/// Jobs that are taken off the heap at a time.
const ROUND: usize = 1_024;
/// A job that could not be fired is tried again after this.
const AGAIN_AFTER_MS: u64 = 1_000;

/// A job, and where it stands.
#[derive(Clone, Debug)]
struct Post {
    job: Arc<Job>,
    schedule: Arc<Schedule>,
    reality: Arc<Reality>,
    stand: Stand,
    /// What was planned up to here has been seen to.
    after: u64,
}

/// What came of looking after a job.
enum Outcome {
    /// To be looked at again then.
    Next(Box<Post>, u64),
    Ended(String, End),
    /// Not now; the log says where it stands.
    Failed(String),
}

async fn run(office: Office) -> Result<(), Error> {
    let mut posts: HashMap<String, Post> = HashMap::new();
    let mut due: BinaryHeap<Reverse<(u64, String)>> = BinaryHeap::new();
    let mut rung = true;
    while !office.is_closing() {
        if rung {
            (posts, due) = office
                .blocking({
                    let posts = std::mem::take(&mut posts);
                    move |tenancy| manned(tenancy, posts)
                })
                .await?;
            if posts.is_empty() {
                return Ok(());
            }
        }
        let now = office.tenancy.now().as_millis();
        let mut round = Vec::new();
        while round.len() < ROUND
            && let Some(Reverse((at, _))) = due.peek()
            && *at <= now
            && let Some(Reverse((_, id))) = due.pop()
        {
            round.extend(posts.get(&id).cloned());
        }
        if round.is_empty() {
            let wait = due.peek().map_or(LOOK_EVERY, |Reverse((at, _))| {
                Duration::from_millis(at.saturating_sub(now)).min(LOOK_EVERY)
            });
            rung = tokio::time::timeout(wait, office.rung()).await.is_ok();
            continue;
        }
        rung = false;
        let missed_after = office.broker.settings().cron.missed_after_ms;
        let under_way = round
            .into_iter()
            .map(|post| office.blocking(move |_| Ok(attend(post, now, missed_after))));
        let mut outcomes = futures_util::stream::iter(under_way).buffer_unordered(TOGETHER);
        let mut ended = Vec::new();
        while let Some(outcome) = outcomes.next().await {
            match outcome? {
                Outcome::Next(post, at) => {
                    let id = post.job.id.clone();
                    due.push(Reverse((at, id.clone())));
                    posts.insert(id, *post);
                }
                Outcome::Ended(id, end) => {
                    posts.remove(&id);
                    ended.push((id, end));
                }
                Outcome::Failed(id) => {
                    due.push(Reverse((now.saturating_add(AGAIN_AFTER_MS), id)));
                }
            }
        }
        drop(outcomes);
        if !ended.is_empty() {
            office
                .blocking(move |tenancy| end_all(tenancy, ended))
                .await?;
            rung = posts.is_empty();
        }
    }
    Ok(())
}

/// When which job is to be looked at next, the earliest first.
type Agenda = BinaryHeap<Reverse<(u64, String)>>;

/// The jobs that are to run, where each stands, and when each is to be looked at. Those that have
/// not changed stay as they are. Blocks.
fn manned(
    tenancy: &Arc<Tenancy>,
    mut known: HashMap<String, Post>,
) -> Result<(HashMap<String, Post>, Agenda), Error> {
    let jobs: Vec<Arc<Job>> = tenancy.ledger::<Jobs>().read(|jobs| {
        let running = jobs.all().filter(|job| !job.paused);
        running.cloned().collect()
    })?;
    let mut posts = HashMap::with_capacity(jobs.len());
    let (mut due, mut ended) = (BinaryHeap::with_capacity(jobs.len()), Vec::new());
    for job in jobs {
        let id = job.id.clone();
        let post = match known
            .remove(&id)
            .filter(|post| post.job == job && !post.reality.is_gone())
        {
            Some(post) => post,
            None => match Post::of(tenancy, job) {
                Ok(post) => post,
                Err(Error::NoSuchReality { .. }) => {
                    ended.push((id, End::Nowhere));
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        match post.next() {
            Some(at) => {
                due.push(Reverse((at, id.clone())));
                posts.insert(id, post);
            }
            None => ended.push((id, End::Done)),
        }
    }
    end_all(tenancy, ended)?;
    Ok((posts, due))
}

fn end_all(tenancy: &Tenancy, ended: Vec<(String, End)>) -> Result<(), Error> {
    if ended.is_empty() {
        return Ok(());
    }
    tenancy.ledger::<Jobs>().change(|jobs| {
        let there = ended.into_iter().filter(|(id, _)| jobs.get(id).is_some());
        let by = "op-cron".to_owned();
        let events = there.map(|(id, end)| {
            Change::Ended {
                id,
                by: by.clone(),
                end,
            }
            .event()
        });
        Ok(((), events.collect()))
    })
}

impl Post {
    fn of(tenancy: &Tenancy, job: Arc<Job>) -> Result<Self, Error> {
        let reality = reality_of(tenancy, &job)?;
        let stand = Stand::of(&reality, &job.id)?;
        let schedule = Schedule::of(&job.plan).map_err(|bad| {
            tracing::error!(job = job.id, %bad, "a job's plan cannot be followed by this version of the node");
            Error::Internal
        })?;
        Ok(Self {
            after: stand.planned_ms.max(job.from_ms),
            schedule: Arc::new(schedule),
            reality,
            stand,
            job,
        })
    }

    /// When it is to be looked at next; `None` if never.
    fn next(&self) -> Option<u64> {
        let left = self
            .job
            .count
            .is_none_or(|count| self.stand.iteration < count);
        self.schedule.next(self.after).filter(|_| left)
    }
}

/// Fires a job, if it is due. Blocks.
fn attend(mut post: Post, now: u64, missed_after: u64) -> Outcome {
    let id = post.job.id.clone();
    match post
        .schedule
        .due(post.after, now, post.job.misfire, missed_after)
    {
        Some(planned) => match post.stand.fire(&post.reality, &post.job, planned) {
            Ok(stand) => {
                post.stand = stand;
                post.after = planned;
            }
            Err(error) => {
                if post.reality.is_gone() {
                    return Outcome::Ended(id, End::Nowhere);
                }
                tracing::warn!(tenant = %post.reality.tenant(), job = id, %error, "a job was not fired; it is tried again");
                // Whether it is recorded is for the log to say.
                let Ok(stand) = Stand::of(&post.reality, &id) else {
                    return Outcome::Failed(id);
                };
                post.stand = stand;
                post.after = post.after.max(stand.planned_ms);
                return Outcome::Next(Box::new(post), now.saturating_add(AGAIN_AFTER_MS));
            }
        },
        // All that was due was missed, and is not made up for.
        None if post.next().is_some_and(|at| at <= now) => post.after = now,
        None => {}
    }
    match post.next() {
        Some(at) => Outcome::Next(Box::new(post), at),
        None => Outcome::Ended(id, End::Done),
    }
}
