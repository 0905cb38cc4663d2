//! What the settings say about the runner.

use std::path::PathBuf;
use std::time::Duration;

/// How projections run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most records of a batch.
    pub batch_records_max: usize,
    /// About so many bytes of records are read for a batch.
    pub batch_bytes_max: usize,
    /// Threads that work on the lanes of each sink.
    pub threads_per_sink: usize,
    /// A sink that is away is tried again after this, then after twice as long, and so on.
    pub retry_min: Duration,
    /// Never later than this.
    pub retry_max: Duration,
    /// More dead letters of a lane within a minute halt it; 0: none do.
    pub poison_per_minute_max: u64,
    /// The log is told where a lane stands after so many records.
    pub checkpoint_records: u64,
    /// And, while nothing comes, not more often than this.
    pub checkpoint_interval: Duration,
    /// A sink that others can change is looked at this often: whether it still stands where it was
    /// left.
    pub look_interval: Duration,
    /// Jobs (backfills, rebuilds, verifications) that run at once.
    pub jobs_max: usize,
    /// Most records of a job's batch beside a lane that works: how long that one waits at most.
    pub job_batch_records_max: usize,
    /// Records that a job reads in a second; 0: as many as leave half of the time to the lane.
    pub job_records_per_second: u64,
    /// Where a verification keeps the rows that it computes, until it ends.
    pub scratch: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            batch_records_max: 1_000,
            batch_bytes_max: 4 << 20,
            threads_per_sink: 2,
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_secs(5),
            poison_per_minute_max: 0,
            checkpoint_records: 10_000,
            look_interval: Duration::from_secs(10),
            checkpoint_interval: Duration::from_secs(60),
            jobs_max: 2,
            job_batch_records_max: 500,
            job_records_per_second: 0,
            scratch: std::env::temp_dir().join("arqonbus-projections"),
        }
    }
}

impl Options {
    /// How long to wait after so many failures in a row: twice as long each time, within the
    /// bounds, and less by up to a quarter, so that lanes do not come back all at once.
    #[must_use]
    pub fn retry_after(&self, failures: u32) -> Duration {
        let doubled = self
            .retry_min
            .saturating_mul(1 << failures.saturating_sub(1).min(16));
        let wait = doubled.min(self.retry_max);
        let share = u32::from(uuid::Uuid::now_v7().as_bytes()[15]);
        wait - (wait / 4) * share / 255
    }
}
