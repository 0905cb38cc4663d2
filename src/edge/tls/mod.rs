//! TLS of both listeners (EDGE-08): the certificate in force, and how another takes its place.
//!
//! - [`files`]: what the settings name, read and checked as a whole.
//! - [`accept`](mod@accept): a connection up to the end of its TLS handshake.
//! - [`bearer`]: what a client's certificate says of its holder.
//!
//! Owns the pair that new handshakes get. A reload changes nothing for connections that are open:
//! each keeps the configuration that it began with. Only what can be used in every part is taken;
//! anything else leaves what was there in force and is said in the log, in the metrics and by
//! `/readyz`. TLS 1.3 alone; no session is resumed, so that every connection passes every check.
//! Must not know HTTP, frames or tokens.

pub mod accept;
pub mod bearer;
pub mod files;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio_rustls::rustls::{ServerConfig, ServerConnection};
use x509_parser::prelude::X509Certificate;

use self::bearer::Unfit;
use self::files::{Fault, Files, InForce};
use super::metrics::{Certificate, Metrics, Reload};
use crate::broker::Identity;
use crate::log::{Clock, Micros};

/// From so many days before a certificate's end on, `/readyz` says so.
const NOTICE_DAYS: i64 = 14;
const DAY_S: i64 = 24 * 60 * 60;

/// When a certificate begins and ends.
fn lifetime(certificate: &X509Certificate<'_>) -> (Micros, Micros) {
    let micros = |seconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        Micros(seconds.saturating_mul(1_000_000))
    };
    let validity = certificate.validity();
    (
        micros(validity.not_before.timestamp()),
        micros(validity.not_after.timestamp()),
    )
}

/// What the listeners encrypt with.
pub struct Tls {
    files: Files,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    in_force: ArcSwap<InForce>,
    /// What was last found wrong with the files, until they are good again.
    refused: Mutex<Option<String>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files and puts them in force.
    ///
    /// # Errors
    /// Why they cannot be.
    pub fn start(
        files: Files,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, Fault> {
        let in_force = files.read()?.usable(&files, clock.now())?;
        Ok(Arc::new(Self {
            files,
            clock,
            metrics,
            in_force: ArcSwap::from_pointee(in_force),
            refused: Mutex::default(),
        }))
    }

    /// What the next connection of a client gets.
    #[must_use]
    pub fn for_edge(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.in_force.load().edge)
    }

    /// What the next connection for operations gets: no client is asked for a certificate there.
    #[must_use]
    pub fn for_ops(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.in_force.load().ops)
    }

    /// Who holds the certificate that a connection's client has shown; `None` if it showed none.
    ///
    /// # Errors
    /// Its authority is known, but it does not say who holds it.
    pub fn bearer(&self, connection: &ServerConnection) -> Result<Option<Identity>, Unfit> {
        let shown = connection.peer_certificates().and_then(<[_]>::first);
        shown
            .map(|shown| bearer::identity(shown, self.files.admins(), self.clock.now()))
            .transpose()
    }

    /// Looks at the files again and again, and at once on `hangups`, until the node drains.
    pub async fn keep(
        self: Arc<Self>,
        mut hangups: Signal,
        every: Duration,
        mut draining: watch::Receiver<bool>,
    ) {
        loop {
            let asked = tokio::select! {
                hangup = hangups.recv() => hangup.is_some(),
                () = tokio::time::sleep(every) => false,
                // An error means that the sender is gone, which ends the node too.
                _ = draining.wait_for(|draining| *draining) => return,
            };
            let this = Arc::clone(&self);
            // A file system that hangs must not hold up the sessions.
            if let Err(error) = tokio::task::spawn_blocking(move || this.look(asked)).await {
                tracing::error!(%error, "looking at the TLS files failed");
            }
        }
    }

    /// Takes over what the files hold, if that has changed and can be used. `asked`: somebody
    /// wants to hear of it even if nothing is new.
    fn look(&self, asked: bool) {
        let found = self.files.read().and_then(|read| {
            if read.digest() == self.in_force.load().digest {
                return Ok(None);
            }
            read.usable(&self.files, self.clock.now()).map(Some)
        });
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(Some(next)) => {
                tracing::info!(days = self.days_until(next.ends_at), "TLS files taken over");
                self.in_force.store(Arc::new(next));
                self.metrics.tls_reloaded(Reload::Taken);
                *refused = None;
            }
            Ok(None) => {
                if asked || refused.is_some() {
                    tracing::info!("the TLS files are those in force");
                }
                *refused = None;
            }
            Err(fault) => {
                let text = fault.to_string();
                // Said once for each thing that is wrong, not at every look.
                if asked || refused.as_deref() != Some(&text) {
                    tracing::warn!(%fault, "new TLS files refused; the old ones stay in force");
                    self.metrics.tls_reloaded(Reload::Refused);
                }
                *refused = Some(text);
            }
        }
    }

    fn days_until(&self, end: Micros) -> i64 {
        let seconds = |at: Micros| i64::try_from(at.as_millis() / 1000).unwrap_or(i64::MAX);
        (seconds(end) - seconds(self.clock.now())).div_euclid(DAY_S)
    }

    /// Counts the days that are left, for `/metrics`.
    pub fn measure(&self) {
        let in_force = self.in_force.load();
        let left = |end| self.days_until(end);
        self.metrics
            .tls_days_left(Certificate::Server, left(in_force.ends_at));
        if let Some(end) = in_force.clients_end_at {
            self.metrics.tls_days_left(Certificate::ClientCa, left(end));
        }
    }

    /// Why nobody who checks the node's certificate can connect any more.
    #[must_use]
    pub fn unfit(&self) -> Option<String> {
        (self.in_force.load().ends_at <= self.clock.now()).then(|| {
            "tls_expired: the node's certificate has ended; put a new one in the place of the files"
                .to_owned()
        })
    }

    /// What an operator should know, though clients are still served.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.is_some() {
            notices.push(
                "tls_reload_refused: new TLS files cannot be used, the old ones stay in force; the node's log says why"
                    .to_owned(),
            );
        }
        let in_force = self.in_force.load();
        let ends = [
            ("the node's certificate", Some(in_force.ends_at)),
            (
                "an authority of client certificates",
                in_force.clients_end_at,
            ),
        ];
        for (what, end) in ends {
            let days = end.map(|end| self.days_until(end));
            if let Some(days) = days.filter(|days| (0..=NOTICE_DAYS).contains(days)) {
                notices.push(format!("tls_ends: {what} ends in {days} days"));
            }
        }
        notices
    }
}
