//! How far is a long command?

use std::borrow::Cow;

use indicatif::{ProgressBar, ProgressStyle};

/// Positions of the bar.
const STEPS: f64 = 1000.0;

/// A bar on standard error, for work whose done part is known. It is gone when dropped, and never there where
/// standard error is no terminal.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new(message: impl Into<Cow<'static, str>>) -> Self {
        let bar = ProgressBar::new(STEPS as u64);
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} % {elapsed} < {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(message);
        Self(bar)
    }

    /// The part that is done, from 0 to 1.
    pub(crate) fn set(&self, done: f64) {
        self.0.set_position((done * STEPS) as u64);
    }

    /// What is going on.
    pub(crate) fn message(&self, message: impl Into<Cow<'static, str>>) {
        self.0.set_message(message);
    }

    /// A line that stays above the bar.
    pub(crate) fn line(&self, line: &str) {
        self.0.println(line);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
