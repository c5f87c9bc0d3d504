//! By which factor is an endpoint slower than it should be at its load?
//!
//! An endpoint of nominal capacity `μ` that serves each request `f` times slower has capacity `μ/f` and takes
//!
//! ```text
//! L = S f (1 + W(X f / μ)),   W(ρ) = ρ^k / (c (1 − ρ)),   k = √(2(c + 1)) − 1
//! ```
//!
//! (the curve of [`LatencyCurve`](crate::LatencyCurve)). Given the measured latency `L` and load `X`, `f` is
//! the only unknown. At low load `f = L/S`: a brown-out shows although nothing saturates. Near saturation
//! `f → μ/X`: the capacity is the throughput, whatever the latency; this is Little's law with all servers busy.

/// `1 + W(ρ)`: latency over service time, for `ρ` in [0, 1).
pub(super) fn stretch(utilization: f64, servers: f64) -> f64 {
    let rho = utilization.clamp(0.0, 1.0 - 1e-9);
    let k = (2.0 * (servers + 1.0)).sqrt() - 1.0;
    1.0 + rho.powf(k) / (servers * (1.0 - rho))
}

/// Solves for `f`, given `L/S` and `X/μ`.
pub(super) fn slowdown(latency_ratio: f64, utilization: f64, servers: f64) -> f64 {
    let ratio = latency_ratio.clamp(1e-3, 1e6);
    if utilization <= 1e-9 {
        return ratio;
    }
    let utilization = utilization.min(1e6);
    let (mut low, mut high) = (0.0, ratio.min((1.0 - 1e-9) / utilization));
    // f·stretch rises in f, from 0 to at least `ratio` at the upper end.
    while high - low > 5e-4 * high {
        let middle = 0.5 * (low + high);
        if middle * stretch(utilization * middle, servers) < ratio {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowdown_found_explains_the_latency() {
        for servers in [1.0, 4.0, 64.0] {
            for utilization in [0.01, 0.3, 0.6, 0.9] {
                for factor in [0.8, 1.0, 1.5, 3.0, 10.0] {
                    if utilization * factor < 0.97 {
                        let ratio = factor * stretch(utilization * factor, servers);
                        let found = slowdown(ratio, utilization, servers);
                        assert!((found / factor - 1.0).abs() < 1e-3, "{found} of {factor}");
                    }
                }
            }
        }
    }

    #[test]
    fn at_saturation_the_capacity_is_the_throughput() {
        // 100 times the service time at a load of 0.6 μ: only a capacity just above 0.6 μ explains it.
        let capacity = 1.0 / slowdown(100.0, 0.6, 16.0);
        assert!(capacity > 0.6 && capacity < 0.602, "{capacity}");
    }
}
