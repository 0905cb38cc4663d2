//! How much one store may hold.

use super::names::Names;
use crate::broker::command::Call;
use crate::broker::error::{ArgumentFault, Error};
use crate::log::Micros;

/// Longest time to live: a hundred years.
const TTL_MS_MAX: u64 = 100 * 365 * 24 * 60 * 60 * 1_000;

/// Bounds of the store of one reality.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest key in bytes.
    pub key_bytes_max: usize,
    /// Largest value in bytes.
    pub value_bytes_max: usize,
    /// Most keys of a namespace.
    pub namespace_keys_max: usize,
    /// Most keys of all namespaces of a reality.
    pub keys_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: 200,
            value_bytes_max: 256 << 10,
            namespace_keys_max: 100_000,
            keys_max: 1_000_000,
        }
    }
}

impl Limits {
    pub(super) fn check_key(&self, key: &str) -> Result<(), Error> {
        within("arguments.key", "bytes", key.len(), self.key_bytes_max)
    }

    pub(super) fn check_value(&self, found: usize) -> Result<(), Error> {
        within("arguments.value", "bytes", found, self.value_bytes_max)
    }

    /// Whether there is room for another key. What has expired makes some.
    pub(super) fn check_room(
        &self,
        names: &mut Names,
        prefix: &str,
        now: Micros,
    ) -> Result<(), Error> {
        if names.count(prefix) < self.namespace_keys_max && names.len() < self.keys_max {
            return Ok(());
        }
        names.expire(now);
        let (field, unit) = ("arguments.key", "keys in its namespace");
        within(
            field,
            unit,
            names.count(prefix) + 1,
            self.namespace_keys_max,
        )?;
        within(field, "keys in its reality", names.len() + 1, self.keys_max)
    }

    /// When what is set at `now` with a time to live ends, in milliseconds.
    pub(super) fn end_of(call: &Call<'_>, now: Micros, ttl_ms: u64) -> Result<u64, Error> {
        if (1..=TTL_MS_MAX).contains(&ttl_ms) {
            return Ok(now.as_millis().saturating_add(ttl_ms));
        }
        let (found, max) = (ttl_ms.to_string(), TTL_MS_MAX);
        Err(Error::Argument {
            command: call.command,
            argument: "ttl_ms".to_owned(),
            fault: ArgumentFault::Number { found, max },
        })
    }
}

const fn within(
    field: &'static str,
    unit: &'static str,
    found: usize,
    limit: usize,
) -> Result<(), Error> {
    if found <= limit {
        return Ok(());
    }
    Err(Error::OverLimit {
        field,
        unit,
        found,
        limit,
    })
}
