//! What one call of a policy, and all policies together, may use up.
//!
//! Owns the numbers. Those that a node's settings name come from there; the rest is fixed, because
//! authors rely on it ([`docs/policy-abi.md`](../../../docs/policy-abi.md)).

use std::time::Duration;

pub use crate::broker::sandbox::{
    FUNCTIONS_MAX, MODULE_BYTES_MAX, STACK_BYTES_MAX, TABLE_ELEMENTS_MAX,
};
use crate::config::Config;

/// Lines that one call may log.
pub const LOG_LINES_MAX: usize = 16;
/// Bytes that the lines of one call may have together.
pub const LOG_BYTES_MAX: usize = 4 << 10;
/// Labels that one call may give.
pub const TAGS_MAX: usize = 16;
/// Length of a label, and of the code of a refusal.
pub const LABEL_BYTES_MAX: usize = 64;
/// Length of the text of a refusal.
pub const TEXT_BYTES_MAX: usize = 512;
/// Ranges of one redaction.
pub const RANGES_MAX: usize = 4_096;
/// Length of a header that a policy of level 0 can ask for, which does not say how much it takes.
pub const OLD_HEADER_BYTES_MAX: usize = 256;
/// Length of what a policy is configured with.
pub const CONFIG_BYTES_MAX: usize = 64 << 10;
/// Messages that one instance judges before it is replaced.
pub const INSTANCE_CALLS_MAX: u32 = 10_000;
/// How long an instance lives.
pub const INSTANCE_LIFE: Duration = Duration::from_secs(60);
/// What an answer may have beyond the payload that it holds.
const ANSWER_OVERHEAD_BYTES: usize = 256 << 10;

/// The numbers that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time that one call may compute. Time in which its thread does not run does not count.
    pub deadline: Duration,
    /// Linear memory of one instance.
    pub memory_bytes_max: usize,
    /// Instances of all policies together.
    pub instances_max: usize,
    /// Instances of one policy: calls of it at a time.
    pub policy_instances_max: usize,
    /// Policies of one tenant.
    pub policies_max: usize,
    /// Modules of one tenant, of all versions that are kept, together.
    pub tenant_bytes_max: usize,
    /// Compiled modules that are kept although no policy uses them.
    pub modules_kept: usize,
    /// Fuel of a call of a metered policy, whatever the payload.
    pub fuel_base: u64,
    /// And for each byte of the payload.
    pub fuel_per_byte: u64,
    /// Length of a payload that a policy puts in place of another.
    pub payload_bytes_max: usize,
    /// Whether the lines that a policy logs are kept for whoever asked it.
    pub log: LogLines,
}

/// What becomes of the lines that a policy logs. They may quote the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLines {
    /// They are counted, and gone.
    Counted,
    /// They are handed to whoever had the policy judge.
    Kept,
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(&Config::default())
    }
}

impl Limits {
    /// What the settings say.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let policy = &config.policy;
        Self {
            deadline: Duration::from_millis(policy.deadline_ms),
            memory_bytes_max: policy.memory_bytes_max,
            instances_max: policy.instances_max,
            policy_instances_max: policy.policy_instances_max,
            policies_max: policy.policies_max,
            tenant_bytes_max: policy.tenant_bytes_max,
            modules_kept: policy.modules_kept,
            fuel_base: policy.fuel_base,
            fuel_per_byte: policy.fuel_per_byte,
            payload_bytes_max: config.limits.envelope_bytes_max,
            log: if policy.log_lines {
                LogLines::Kept
            } else {
                LogLines::Counted
            },
        }
    }

    pub(super) const fn answer_bytes_max(&self) -> usize {
        self.payload_bytes_max + ANSWER_OVERHEAD_BYTES
    }

    pub(super) const fn fuel(&self, payload_bytes: u64) -> u64 {
        let bytes = self.fuel_per_byte.saturating_mul(payload_bytes);
        self.fuel_base.saturating_add(bytes)
    }
}
