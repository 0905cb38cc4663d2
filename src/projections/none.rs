//! A node that keeps no projections: what is asked of one names none.

use std::sync::Arc;

use futures_util::future::{BoxFuture, pending};
use tokio::runtime::Handle;

use super::logs::{Feed, Logs, LogsError};
use super::node::Projections;
use super::options::Options;
use super::projection::Payloads;
use crate::log::Clock;
use crate::proto::view::RecordView;

#[derive(Debug)]
struct NoLogs;

impl Payloads for NoLogs {
    fn to_json(&self, _tenant: &str, _record: &RecordView<'_>) -> Option<serde_json::Value> {
        None
    }
}

impl Logs for NoLogs {
    fn node(&self) -> &str {
        ""
    }

    fn tenants(&self, _reality: &str) -> Vec<String> {
        Vec::new()
    }

    fn open(&self, _tenant: &str, _reality: &str) -> Result<Arc<dyn Feed>, LogsError> {
        let reason = "this node keeps no projections".to_owned();
        let passing = false;
        Err(LogsError { reason, passing })
    }

    fn opened(&self) -> BoxFuture<'_, Vec<(String, String)>> {
        Box::pin(pending())
    }

    fn payloads(&self) -> &dyn Payloads {
        self
    }
}

impl Projections {
    /// No projections at all.
    ///
    /// # Errors
    /// None without threads to start.
    pub fn none(clock: Arc<dyn Clock>, runtime: &Handle) -> std::io::Result<Arc<Self>> {
        let logs = Arc::new(NoLogs);
        Self::start(Vec::new(), logs, clock, Options::default(), runtime)
    }
}
