//! A progress bar on stderr for what lasts; silent for what does not, and where nobody looks.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shorter work shows no bar.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    since: Instant,
    shown: bool,
}

impl Progress {
    pub(crate) fn of_bytes(total: u64) -> Self {
        let template = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let target = ProgressDrawTarget::hidden();
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style);
        Self {
            bar,
            since: Instant::now(),
            shown: false,
        }
    }

    pub(crate) fn add(&mut self, bytes: u64) {
        self.bar.inc(bytes);
        if !self.shown && self.since.elapsed() > PATIENCE {
            self.shown = true;
            // Draws nothing when stderr is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
