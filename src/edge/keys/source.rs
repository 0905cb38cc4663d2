//! A set of keys that changes: where it comes from, what it held last, and how old that is.
//!
//! Readers take what is there and go on; one task writes.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::fetch::Remote;
use super::set::{self, Broken, Contents, Publicity, SET_BYTES_MAX};
use super::{Absent, Key, KeyError, Parties, shown};
use crate::config::{Auth, JwksEntry};

/// Where a set comes from.
#[derive(Debug)]
pub(super) enum Place {
    File(PathBuf),
    Remote(Remote),
}

/// How often, how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Between two looks at a file.
    pub(super) poll: Duration,
    /// How long a fetched set is good.
    pub(super) cache: Duration,
    /// How long the last good set is used.
    pub(super) stale: Duration,
    /// Between two fetches for unknown keys.
    pub(super) refetch: Duration,
}

/// The last good set.
#[derive(Debug)]
struct Held {
    keys: Vec<Arc<Key>>,
    /// What else was in it, as it is said to the operator.
    passed_over: Arc<Vec<String>>,
    /// When it was last known to be what the place holds.
    confirmed: Instant,
}

/// A set of keys that changes.
#[derive(Debug)]
pub(super) struct Source {
    name: String,
    parties: Parties,
    place: Place,
    times: Times,
    held: ArcSwapOption<Held>,
    failing: AtomicBool,
    unknown_key: Notify,
}

impl Source {
    /// Reads a file; what comes over a network is not there yet.
    pub(super) fn open(
        index: usize,
        entry: &JwksEntry,
        auth: &Auth,
        parties: &Parties,
    ) -> Result<Self, KeyError> {
        let name = format!("auth.jwks[{index}]");
        let fail = |reason: String| KeyError::Set {
            name: name.clone(),
            reason,
        };
        let place = match (&entry.file, &entry.url) {
            (Some(_), None) if entry.ca.is_some() => {
                return Err(fail("ca is for a url".to_owned()));
            }
            (Some(file), None) => Place::File(file.clone()),
            (None, Some(url)) => {
                let ca = entry.ca.as_deref();
                Place::Remote(Remote::new(url, ca).map_err(|error| fail(error.to_string()))?)
            }
            (None, None) | (Some(_), Some(_)) => {
                return Err(fail("say either file or url".to_owned()));
            }
        };
        let issuer = entry.issuer.as_deref();
        if issuer.is_some_and(str::is_empty) {
            return Err(fail("issuer must not be empty".to_owned()));
        }
        let source = Self {
            parties: Parties {
                issuer: issuer.map_or_else(|| Arc::clone(&parties.issuer), Into::into),
                audience: Arc::clone(&parties.audience),
            },
            place,
            times: Times {
                poll: Duration::from_millis(auth.jwks_poll_ms),
                cache: Duration::from_secs(auth.jwks_cache_s),
                stale: Duration::from_secs(auth.jwks_stale_s),
                refetch: Duration::from_secs(auth.jwks_refetch_s),
            },
            held: ArcSwapOption::empty(),
            failing: AtomicBool::new(false),
            unknown_key: Notify::new(),
            name: name.clone(),
        };
        if let Place::File(file) = &source.place {
            let in_file = |reason: String| fail(format!("{}: {reason}", shown(file)));
            let bytes = bytes_of(file).map_err(|error| in_file(error.to_string()))?;
            let contents = source.read(&bytes).and_then(Contents::some);
            let contents = contents.map_err(|error| in_file(error.to_string()))?;
            source.take(contents);
        }
        Ok(source)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn issuer(&self) -> &str {
        &self.parties.issuer
    }

    pub(super) const fn place(&self) -> &Place {
        &self.place
    }

    pub(super) const fn times(&self) -> Times {
        self.times
    }

    /// The key that is called `id`.
    pub(super) fn find(&self, id: &str, now: Instant) -> Result<Arc<Key>, Absent> {
        let held = self.held.load();
        let held = held.as_ref().ok_or(Absent::NotYet)?;
        if !self.is_fresh(held, now) {
            return Err(Absent::Stale);
        }
        let key = held.keys.iter().find(|key| key.id == id);
        key.map(Arc::clone).ok_or(Absent::Id)
    }

    fn is_fresh(&self, held: &Held, now: Instant) -> bool {
        now.saturating_duration_since(held.confirmed) <= self.times.stale
    }

    /// Whether it has keys that may be used.
    pub(super) fn is_good(&self, now: Instant) -> bool {
        let held = self.held.load();
        let fresh = held.as_ref().filter(|held| self.is_fresh(held, now));
        fresh.is_some_and(|held| !held.keys.is_empty())
    }

    /// Whether the last try to get a newer set failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Somebody has come with a key that is not in it.
    pub(super) fn want(&self) {
        self.unknown_key.notify_one();
    }

    /// Waits for [`Source::want`].
    pub(super) async fn wanted(&self) {
        self.unknown_key.notified().await;
    }

    pub(super) fn read(&self, bytes: &[u8]) -> Result<Contents, Broken> {
        let publicity = match self.place {
            Place::File(_) => Publicity::Kept,
            Place::Remote(_) => Publicity::Published,
        };
        set::read(bytes, publicity, &self.parties)
    }

    /// Puts a set in the place of the last one. The operator hears of it if it is another.
    pub(super) fn take(&self, contents: Contents) {
        let Contents { keys, passed_over } = contents;
        let passed_over = Arc::new(passed_over);
        let ids = |keys: &[Arc<Key>]| keys.iter().map(|key| key.id.clone()).collect::<Vec<_>>();
        let known =
            self.held.load().as_ref().is_some_and(|held| {
                ids(&held.keys) == ids(&keys) && held.passed_over == passed_over
            });
        if !known {
            for reason in passed_over.iter() {
                tracing::warn!(set = self.name, %reason, "a key of a set is not used");
            }
            if keys.is_empty() {
                tracing::error!(
                    set = self.name,
                    "a set has no key left; its tokens are refused"
                );
            } else {
                let ids = ids(&keys);
                tracing::info!(
                    set = self.name,
                    ?ids,
                    "keys that verify tokens are in force"
                );
            }
        }
        self.hold(keys, passed_over);
    }

    /// The set is still what it was.
    pub(super) fn confirm(&self) {
        let held = self.held.load_full();
        if let Some(held) = held {
            self.hold(held.keys.clone(), Arc::clone(&held.passed_over));
        }
    }

    fn hold(&self, keys: Vec<Arc<Key>>, passed_over: Arc<Vec<String>>) {
        self.failing.store(false, Ordering::Relaxed);
        let held = Held {
            keys,
            passed_over,
            confirmed: Instant::now(),
        };
        self.held.store(Some(Arc::new(held)));
    }

    /// No newer set could be had.
    pub(super) fn fail(&self, reason: &dyn std::fmt::Display) {
        let first = !self.failing.swap(true, Ordering::Relaxed);
        if first {
            tracing::warn!(set = self.name, %reason, "keys that verify tokens cannot be brought up to date; the last good ones are used, for a while");
        } else {
            tracing::debug!(set = self.name, %reason, "keys that verify tokens still cannot be brought up to date");
        }
    }
}

/// Why a file gives no set.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("it cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("it has more than {SET_BYTES_MAX} bytes")]
    TooLarge,
}

/// All of a file, if it is of a size that a set may have. Blocks.
pub(super) fn bytes_of(path: &Path) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(SET_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > SET_BYTES_MAX {
        return Err(FileError::TooLarge);
    }
    Ok(bytes)
}
