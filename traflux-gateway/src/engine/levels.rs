//! What of a budget is used when the process starts anew?

use traflux_core::Timestamp;

use super::Engine;
use crate::limit::Levels;

impl Engine {
    /// A picture of what is used of the limits that the plan calls `persistent`, to be [saved](Levels::save) now and
    /// then and after the last request.
    #[must_use]
    pub fn levels(&self, now: Timestamp) -> Levels {
        let compiled = self.shared.compiled.load();
        let mut levels = compiled.limiter.levels(now);
        levels.levels.retain(|level| compiled.is_persistent(&level.limit));
        levels
    }

    /// Charges a picture of an earlier process, less what time has given back since. Returns how many levels found no
    /// place, because the plan has their limit no more. For a new engine, before its first request: a picture that is
    /// charged twice counts twice.
    pub fn restore(&self, now: Timestamp, levels: &Levels) -> usize {
        let mut turn = self.shared.log.as_deref().map(|log| log.begin());
        if let Some(turn) = &mut turn {
            turn.restored(levels, now);
        }
        self.shared.compiled.load().limiter.restore(now, levels)
    }
}
