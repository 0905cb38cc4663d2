//! The task of one set: gets it anew in time, and when somebody comes with a key it does not have.
//!
//! One task a set, so that there is never more than one fetch of it. Ends when the node drains.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::fetch::Remote;
use super::source::{Place, Source, bytes_of};

/// After a failed fetch; doubled from then on.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// Keeps a set fresh.
pub(super) async fn run(source: Arc<Source>, mut draining: watch::Receiver<bool>) {
    let kept = async {
        match source.place() {
            Place::File(_) => poll(&source).await,
            Place::Remote(remote) => refresh(&source, remote).await,
        }
    };
    tokio::select! {
        () = kept => {}
        // An error means that the sender is gone, which ends the node too.
        _ = draining.wait_for(|draining| *draining) => {}
    }
}

/// A file is read whole each time: its time of change is not to be relied on where it is a mounted
/// secret, and it is small.
async fn poll(source: &Arc<Source>) {
    let mut last = Vec::new();
    loop {
        tokio::time::sleep(source.times().poll).await;
        let reader = Arc::clone(source);
        let read = tokio::task::spawn_blocking(move || match reader.place() {
            Place::File(path) => bytes_of(path).map_err(|error| error.to_string()),
            Place::Remote(_) => Err("it is no file".to_owned()),
        });
        match read.await {
            Ok(Ok(bytes)) if bytes == last => source.confirm(),
            Ok(Ok(bytes)) => {
                if take(source, &bytes) {
                    last = bytes;
                }
            }
            Ok(Err(reason)) => source.fail(&reason),
            Err(error) => source.fail(&error),
        }
    }
}

async fn refresh(source: &Source, remote: &Remote) {
    let times = source.times();
    let mut retry = RETRY_FIRST;
    let mut asked_for: Option<Instant> = None;
    loop {
        let good = match remote.fetch().await {
            Ok(bytes) => take(source, &bytes),
            Err(error) => {
                source.fail(&error);
                false
            }
        };
        let wait = if good {
            retry = RETRY_FIRST;
            times.cache / 5 * 4
        } else {
            let wait = retry;
            retry = (retry * 2).min(RETRY_LONGEST);
            wait
        };
        let due = tokio::time::Instant::now() + wait;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => break,
                () = source.wanted() => {
                    // Whoever floods the node with names of keys has it ask once, not more.
                    if asked_for.is_none_or(|at| at.elapsed() >= times.refetch) {
                        asked_for = Some(Instant::now());
                        break;
                    }
                }
            }
        }
    }
}

/// Whether it is a set.
fn take(source: &Source, bytes: &[u8]) -> bool {
    match source.read(bytes) {
        Ok(contents) => {
            source.take(contents);
            true
        }
        Err(broken) => {
            source.fail(&broken);
            false
        }
    }
}
