//! A progress bar on stderr for what lasts; silent for what does not, and where nobody looks.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shorter work shows no bar.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Progress {
    bar: ProgressBar,
    since: Instant,
    shown: bool,
}

impl Progress {
    /// Counts `what` up to `total`, if that is known.
    pub(crate) fn new(total: Option<u64>, what: &str) -> Self {
        let template = if total.is_some() {
            format!("{{wide_bar}} {{human_pos}}/{{human_len}} {what} {{per_sec}} {{eta}} left")
        } else {
            format!("{{spinner}} {{human_pos}} {what} {{per_sec}} {{elapsed}}")
        };
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar =
            ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()).with_style(style);
        Self {
            bar,
            since: Instant::now(),
            shown: false,
        }
    }

    pub(crate) fn add(&mut self, count: u64) {
        self.bar.inc(count);
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
