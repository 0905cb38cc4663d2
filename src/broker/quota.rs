//! `quota.show`: what a tenant uses up, and how much it may (BRK-12).
//!
//! Rates are the edge's, and shown by `edge.rate.list`.

use super::command::{Call, fields, number};
use super::error::Error;
use crate::proto::v1::Value;

pub(super) fn show(call: &Call<'_>) -> Result<Value, Error> {
    let tenancy = call.tenancy;
    let options = &call.broker.options;
    // Counted only where there is a limit; the open logs know their bytes anyhow.
    let (bytes, bytes_max) = tenancy.stored_bytes().unwrap_or_else(|| {
        let logs = tenancy.all_opened();
        (
            logs.iter().map(|reality| reality.log().used_bytes()).sum(),
            0,
        )
    });
    let topics = tenancy.topics_held();
    let realities = tenancy.names().len() as u64;
    let consumers = tenancy.consumers().list().len() as u64;
    let mut shown = vec![
        ("stored_bytes", number(bytes)),
        ("stored_bytes_max", number(bytes_max)),
        ("realities", number(realities)),
        ("realities_max", number(tenancy.realities_max() as u64)),
        ("consumers", number(consumers)),
        ("consumers_max", number(options.consumers_max as u64)),
    ];
    if let Some((held, limit)) = topics {
        shown.push(("topics", number(held)));
        shown.push(("topics_max", number(limit)));
    }
    Ok(fields(shown))
}
