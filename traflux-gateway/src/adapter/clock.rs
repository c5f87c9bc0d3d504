//! What time is it?

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use traflux_core::Timestamp;

/// Time since 1970 that never goes backwards: the wall clock is read once, a monotonic clock from then on.
///
/// Windows of limits that begin at multiples of their period so begin when people expect it, and a wall clock that
/// is set while the program runs changes nothing.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    epoch: Duration,
    started: Instant,
}

impl Clock {
    /// A clock that is right now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            epoch: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            started: Instant::now(),
        }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::new(self.epoch + self.started.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_1970_and_never_goes_back() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(first.since_epoch() > Duration::from_secs(50 * 365 * 86_400));
        assert!(clock.now() >= first);
    }
}
