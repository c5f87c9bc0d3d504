//! When is it time to end with what there is?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Ends long work at a deadline, or when somebody asks; clones share the request.
///
/// Work looks at it between its steps, so a step that has begun is finished.
#[derive(Debug, Clone, Default)]
pub struct Limit {
    deadline: Option<Instant>,
    stopped: Arc<AtomicBool>,
}

impl Limit {
    /// Ends after this time, counted from now.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self { deadline: Instant::now().checked_add(time), ..Self::default() }
    }

    /// Ends as soon as it can.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether it is time.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
            || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// When it ends by itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The same request, for a part of what is left of the time.
    #[must_use]
    pub fn part(&self, part: f64) -> Self {
        let deadline = self.deadline.map(|deadline| {
            let now = Instant::now();
            now + deadline.saturating_duration_since(now).mul_f64(part.clamp(0.0, 1.0))
        });
        Self { deadline, stopped: Arc::clone(&self.stopped) }
    }
}
