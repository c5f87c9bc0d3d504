//! What of a budget is used when the plan changes or the process starts anew?
//!
//! A key with an amount of its own has a limit of its own, see `compile::limits`. Pictures name levels as plans do, by
//! limit and key, so that what was used stays used whether or not the key has an amount of its own by then.

use traflux_core::Timestamp;

use super::Engine;
use crate::limit::Levels;

impl Engine {
    /// A picture of what is used of the limits that the plan calls `persistent`, to be [saved](Levels::save) now and
    /// then and after the last request.
    #[must_use]
    pub fn levels(&self, now: Timestamp) -> Levels {
        let compiled = self.compiled.load();
        let mut levels = compiled.limiter.levels(now);
        let places = compiled.persistent();
        levels.levels.retain_mut(|level| {
            let Some((limit, own)) = places.get(level.limit.as_str()) else { return false };
            match (own, &level.key) {
                (Some(own), _) => {
                    level.limit.clone_from(&limit.name);
                    level.key = Some((*own).to_owned());
                    true
                }
                // From before the key had an amount of its own.
                (None, Some(key)) => !limit.overrides.contains_key(key),
                (None, None) => true,
            }
        });
        levels.levels.sort_unstable_by(|a, b| (&a.limit, &a.key).cmp(&(&b.limit, &b.key)));
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
        let compiled = self.compiled.load();
        let mut levels = levels.clone();
        for level in &mut levels.levels {
            let own = level.key.as_ref().and_then(|key| compiled.override_of(&level.limit, key));
            if let Some(own) = own {
                (level.limit, level.key) = (own, None);
            }
        }
        compiled.limiter.restore(now, &levels)
    }
}
