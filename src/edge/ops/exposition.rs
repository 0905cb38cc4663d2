//! What is counted, for Prometheus. No tenant's name is in it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use prometheus_client::metrics::gauge::Gauge;

use super::Ops;
use super::answer::refuse;
use crate::edge::metrics::Upkeep;
use crate::edge::shield::Fault;
use crate::proto::ErrorCode;

const EXPOSITION: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn metrics(State(ops): State<Arc<Ops>>) -> Response {
    let totals = ops.broker.totals();
    let metrics = &ops.metrics;
    let gauge = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge(&metrics.realities, totals.realities as u64);
    gauge(&metrics.realities_read_only, totals.read_only as u64);
    gauge(&metrics.subscriptions, totals.subscriptions as u64);
    gauge(&metrics.group_members, totals.group_members as u64);
    gauge(&metrics.group_in_flight, totals.group_in_flight as u64);
    gauge(&metrics.group_open, totals.group_open as u64);
    let (members, channels) = ops.broker.room_members();
    gauge(&metrics.room_members, members as u64);
    gauge(&metrics.room_channels, channels as u64);
    gauge(&metrics.log_used_bytes, totals.used_bytes);
    gauge(&metrics.log_tail_bytes, totals.tail_bytes as u64);
    gauge(&metrics.log_index_bytes, totals.index_bytes);
    gauge(&metrics.log_file_handles, totals.file_handles as u64);
    gauge(&metrics.log_waiting_bytes, totals.waiting_bytes as u64);
    metrics.set_flushes(totals.flushes);
    metrics.set_damaged_reads(totals.damaged_reads);
    let upkeep = ops.broker.maintained_in_all();
    metrics.set_upkeep(&Upkeep {
        runs: upkeep.runs,
        failures: upkeep.failures,
        reclaimed_bytes: upkeep.reclaimed_bytes,
        removed_records: upkeep.removed_records,
        scrubs: upkeep.scrubs,
    });
    gauge(&metrics.log_held_bytes, upkeep.held_bytes);
    gauge(&metrics.log_scrub_damages, upkeep.scrub_damages);
    metrics.tasks.set(ops.broker.sam_counts().all());
    metrics
        .projections
        .measure(&ops.projections, ops.clock.now());
    metrics.webhooks.measure(&ops.broker.webhooks().totals());
    if let Some(tls) = &ops.tls {
        tls.measure();
    }
    match metrics.exposition() {
        Ok(text) => ([(header::CONTENT_TYPE, EXPOSITION)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            refuse(&Fault::new(
                ErrorCode::Internal,
                "",
                "the metrics could not be written; see the node's log",
            ))
        }
    }
}
