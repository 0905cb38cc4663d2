//! A progress bar on stderr for what lasts; silent for what does not, and where nobody looks.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Shorter work shows no bar.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Progress {
    bar: ProgressBar,
    what: &'static str,
    count: u64,
    by: By,
    since: Instant,
    shown: bool,
}

/// What the bar's length stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Count,
    Bytes,
}

impl Progress {
    /// Counts `what` up to `total`, if that is known.
    pub(crate) fn new(total: Option<u64>, what: &'static str) -> Self {
        let template = if total.is_some() {
            "{wide_bar} {human_pos}/{human_len} {msg} {left} left"
        } else {
            "{spinner} {human_pos} {msg} {elapsed}"
        };
        Self::with(total, what, By::Count, template)
    }

    /// Counts `what`, and shows how much of an input of `total` bytes that is.
    pub(crate) fn of_bytes(total: u64, what: &'static str) -> Self {
        let template = "{wide_bar} {bytes}/{total_bytes}, {msg} {left} left";
        Self::with(Some(total), what, By::Bytes, template)
    }

    fn with(total: Option<u64>, what: &'static str, by: By, template: &str) -> Self {
        let since = Instant::now();
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key(
                "left",
                move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    // A line that cannot be drawn is missed by nobody.
                    let _unseen = write!(out, "{}", left(state, since.elapsed()));
                },
            );
        let bar =
            ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden()).with_style(style);
        Self {
            bar,
            what,
            count: 0,
            by,
            since,
            shown: false,
        }
    }

    pub(crate) fn add(&mut self, count: u64) {
        self.add_sized(count, 0);
    }

    /// `count` more, made from `bytes` of the input.
    pub(crate) fn add_sized(&mut self, count: u64, bytes: u64) {
        self.count += count;
        let took = self.since.elapsed();
        if took > PATIENCE {
            self.bar.set_message(self.message(took));
            if !self.shown {
                self.shown = true;
                // Draws nothing when stderr is no terminal.
                self.bar.set_draw_target(ProgressDrawTarget::stderr());
            }
        }
        self.bar.inc(match self.by {
            By::Count => count,
            By::Bytes => bytes,
        });
    }

    /// The rate is the one since the beginning: the bar was not there to see it all.
    fn message(&self, took: Duration) -> String {
        let (count, what) = (self.count, self.what);
        let rate = u128::from(count) * 1000 / took.as_millis().max(1);
        match self.by {
            By::Count => format!("{what} {rate}/s"),
            By::Bytes => format!("{count} {what} {rate}/s"),
        }
    }
}

fn left(state: &ProgressState, took: Duration) -> String {
    match state.len() {
        Some(total) if state.pos() > 0 => {
            let rest = u128::from(total.saturating_sub(state.pos()));
            let left_ms = took.as_millis() * rest / u128::from(state.pos());
            format!("{} s", left_ms.div_ceil(1000))
        }
        _ => "?".to_owned(),
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bar_of_a_file_has_its_size_and_the_rate_since_the_beginning() {
        let mut progress = Progress::of_bytes(1000, "events stored");
        progress.add_sized(10, 250);
        assert_eq!(
            (progress.bar.position(), progress.bar.length()),
            (250, Some(1000))
        );
        let text = progress.message(Duration::from_secs(2));
        assert_eq!(text, "10 events stored 5/s");
    }
}
