//! Did the load grow, or did an endpoint lose capacity?
//!
//! Two witnesses. *The load itself*: while the demand rises, a windowed throughput is an average over the past
//! and lags behind the load that makes the latency; for as long as readings rise, the true load may be a
//! multiple of what is read. *The peers*: what slows most of the fleet down at once (a shared network, a
//! model that is wrong for all) is no endpoint's loss.

use super::smooth::Recent;

/// Whether a throughput is rising faster than its window can follow.
#[derive(Debug, Clone, Default)]
pub(super) struct Rise {
    recent: Recent,
    rising: bool,
}

impl Rise {
    /// Takes a new reading, an average over `window` seconds; `ratio` is the growth within half a window
    /// that counts as rising.
    ///
    /// The last half window decides: when it is level, the window before it lies on the plateau as well.
    pub(super) fn observe(&mut self, time: f64, rate: f64, window: f64, ratio: f64) -> bool {
        self.recent.push(time, rate, (0.5 * window).max(12.0));
        // 3 standard deviations of the difference of two Poisson counts.
        let noise = 3.0 * (2.0 / (rate * window).max(1.0)).sqrt();
        self.rising = rate > self.recent.min() * (ratio + noise);
        self.rising
    }

    /// Whether the last reading was one of a rise.
    pub(super) fn is_rising(&self) -> bool {
        self.rising
    }
}

/// What slows the peers down: for each resource the capacity-weighted lower median of the others' slowdowns,
/// at least 1, and 1 where fewer than two others can tell.
pub(super) fn common_slowdown(slowdowns: &[Option<(f64, f64)>]) -> Vec<f64> {
    let at = |ix: usize| slowdowns[ix].unwrap_or((1.0, 0.0));
    let mut order: Vec<usize> = (0..slowdowns.len()).filter(|ix| slowdowns[*ix].is_some()).collect();
    order.sort_by(|a, b| at(*a).0.total_cmp(&at(*b).0).then(a.cmp(b)));
    // Weight up to and including each place of the order, and the place of each resource in it.
    let mut sums = Vec::with_capacity(order.len());
    let mut places = vec![usize::MAX; slowdowns.len()];
    let mut total = 0.0;
    for (place, ix) in order.iter().enumerate() {
        total += at(*ix).1;
        sums.push(total);
        places[*ix] = place;
    }
    (0..slowdowns.len())
        .map(|own| {
            let (_, weight) = at(own);
            if order.len() < 2 + usize::from(slowdowns[own].is_some()) {
                return 1.0;
            }
            let half = 0.5 * (total - weight) * (1.0 - 1e-12);
            let below = |limit: f64| sums.partition_point(|sum| *sum < limit);
            let mut place = below(half);
            if place >= places[own] {
                // Behind its own place the sums hold its own weight, which does not count.
                place = below(half + weight).max(places[own] + 1);
            }
            order.get(place).map_or(1.0, |ix| at(*ix).0.max(1.0))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_slows_most_of_the_fleet_is_common_and_what_slows_few_is_not() {
        let fleet = |slow: usize| -> Vec<Option<(f64, f64)>> {
            (0..8).map(|ix| Some((if ix < slow { 3.0 } else { 1.0 }, 100.0))).collect()
        };
        assert_eq!(common_slowdown(&fleet(3)), [1.0; 8]);
        assert_eq!(common_slowdown(&fleet(7)), [3.0; 8]);
    }

    #[test]
    fn a_large_endpoint_outweighs_small_ones_but_not_as_its_own_witness() {
        let fleet = [Some((1.0, 10.0)), Some((4.0, 100.0)), Some((2.0, 10.0)), None];
        // Others of the first: 4 (weight 100) and 2; of the second: 1 and 2; of the third: 1 and 4.
        assert_eq!(common_slowdown(&fleet), [4.0, 1.0, 4.0, 4.0]);
    }

    #[test]
    fn one_of_two_endpoints_has_no_peers_to_compare_with() {
        assert_eq!(common_slowdown(&[Some((5.0, 1.0)), Some((5.0, 1.0))]), [1.0, 1.0]);
        assert_eq!(common_slowdown(&[None, None]), [1.0, 1.0]);
    }

    #[test]
    fn a_ramp_counts_as_rising_until_its_window_is_level() {
        let mut rise = Rise::default();
        let rate = |t: f64| 400.0 + 500.0 * ((t - 60.0) / 90.0).clamp(0.0, 1.0);
        let mut levels = Vec::new();
        for step in 0..20 {
            let t = 15.0 * f64::from(step);
            levels.push((t, rise.observe(t, rate(t), 60.0, 1.1)));
        }
        let at = |time: f64| levels.iter().find(|(t, _)| *t == time).unwrap().1;
        assert!(!at(45.0) && at(90.0) && at(150.0) && !at(195.0));
    }
}
