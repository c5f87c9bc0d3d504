//! Does each tenant get what it is entitled to?
//!
//! Jain's index of shares x₁ … xₙ is `(Σ x)² / (n · Σ x²)`: 1 when all are equal, 1/n when one has everything
//! (R. Jain, D. Chiu, W. Hawe, "A quantitative measure of fairness and discrimination for resource allocation in
//! shared computer systems", DEC-TR-301, 1984). As that report asks, what a tenant got is first divided by its
//! fair share, here the weighted max-min share of what was served: otherwise a tenant that asks for little would
//! count as treated badly.

/// One tenant in one window, in any unit that can be shared (tokens, requests, dollars).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim {
    /// What it asked for, at least what it got.
    pub demanded: f64,
    /// What it got.
    pub received: f64,
    /// Its weight; 0 is entitled to nothing and is left out.
    pub weight: f64,
}

/// How fairly a window was shared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fairness {
    /// Jain's index of received over entitled, 1/n to 1; 1 where nobody is entitled to anything.
    pub jain: f64,
    /// Position of the tenant with the least of what it is entitled to, and what share of it that is.
    pub worst: Option<(usize, f64)>,
    /// Tenants that are entitled to something.
    pub tenants: usize,
}

/// Jain's index; negative and non-finite values count as zero, 1 where nothing was given.
#[must_use]
pub fn jain_index(shares: impl IntoIterator<Item = f64>) -> f64 {
    let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for share in shares {
        let share = counted(share);
        n += 1.0;
        sum += share;
        squares += share * share;
    }
    if squares > 0.0 { sum * sum / (n * squares) } else { 1.0 }
}

/// What each would get of `total` under weighted max-min fairness: nobody more than it demands, and what that
/// leaves is shared by weight among the others (progressive filling; D. Bertsekas, R. Gallager, "Data
/// networks", section 6.5.2). O(n log n).
#[must_use]
pub fn max_min_shares(claims: &[Claim], total: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..claims.len()).filter(|ix| counted(claims[*ix].weight) > 0.0).collect();
    let level = |ix: &usize| counted(claims[*ix].demanded) / claims[*ix].weight;
    order.sort_by(|a, b| level(a).total_cmp(&level(b)).then(a.cmp(b)));
    let mut shares = vec![0.0; claims.len()];
    let mut left = counted(total);
    let mut weight: f64 = order.iter().map(|ix| claims[*ix].weight).sum();
    for ix in order {
        let Claim { demanded, weight: own, .. } = claims[ix];
        // The last one's weight may have lost digits to the subtractions.
        let fair = if own < weight { left * own / weight } else { left };
        shares[ix] = fair.min(counted(demanded));
        left = (left - shares[ix]).max(0.0);
        weight -= own;
    }
    shares
}

/// How fairly what was received in a window was shared.
#[must_use]
pub fn fairness(claims: &[Claim]) -> Fairness {
    let received = |claim: &Claim| counted(claim.received);
    let demands: Vec<Claim> =
        claims.iter().map(|c| Claim { demanded: counted(c.demanded).max(received(c)), ..*c }).collect();
    let total = claims.iter().map(received).sum();
    let entitled = max_min_shares(&demands, total);
    let ratios: Vec<(usize, f64)> = entitled
        .iter()
        .enumerate()
        .filter(|(_, entitled)| **entitled > 0.0)
        .map(|(ix, entitled)| (ix, received(&claims[ix]) / entitled))
        .collect();
    let worst = ratios.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    Fairness { jain: jain_index(ratios.iter().map(|(_, ratio)| *ratio)), worst, tenants: ratios.len() }
}

fn counted(value: f64) -> f64 {
    if value.is_finite() { value.max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(demanded: f64, received: f64, weight: f64) -> Claim {
        Claim { demanded, received, weight }
    }

    #[test]
    fn the_index_is_that_of_the_report() {
        // Jain, Chiu, Hawe 1984: k of n with equal shares and nothing for the others gives k/n.
        assert_eq!(jain_index([1.0; 7]), 1.0);
        assert_eq!(jain_index([1.0, 0.0, 0.0, 0.0]), 0.25);
        assert_eq!(jain_index([3.0, 3.0, 0.0]), 2.0 / 3.0);
        assert_eq!(jain_index([]), 1.0);
        assert_eq!(jain_index([0.0, f64::NAN]), 1.0);
    }

    #[test]
    fn max_min_fills_small_demands_and_shares_the_rest_by_weight() {
        // Bertsekas and Gallager's kind of example: 2 asks little; 8 − 1 = 7 are left for weights 1 and 2.5.
        let claims = [claim(10.0, 0.0, 1.0), claim(10.0, 0.0, 2.5), claim(1.0, 0.0, 1.0)];
        assert_eq!(max_min_shares(&claims, 8.0), [2.0, 5.0, 1.0]);
        assert_eq!(max_min_shares(&claims, 100.0), [10.0, 10.0, 1.0]);
        assert_eq!(max_min_shares(&[claim(1.0, 0.0, 0.0)], 1.0), [0.0]);
    }

    #[test]
    fn a_tenant_that_asks_for_little_and_gets_it_is_treated_fairly() {
        let window = [claim(5.0, 5.0, 1.0), claim(100.0, 50.0, 1.0), claim(100.0, 50.0, 1.0)];
        let fair = fairness(&window);
        assert_eq!((fair.jain, fair.tenants), (1.0, 3));
        assert!(jain_index(window.iter().map(|c| c.received)) < 0.75);
    }

    #[test]
    fn the_tenant_that_starves_is_named() {
        let unfair = fairness(&[claim(100.0, 90.0, 1.0), claim(100.0, 10.0, 1.0)]);
        assert_eq!(unfair.worst, Some((1, 0.2)));
        // 1.8 and 0.2 of the fair share: (1.8 + 0.2)² / (2 · (3.24 + 0.04)).
        assert!((unfair.jain - 4.0 / 6.56).abs() < 1e-12);
        // By weight 9 : 1 the same is fair.
        let weighted = fairness(&[claim(100.0, 90.0, 9.0), claim(100.0, 10.0, 1.0)]);
        assert!((weighted.jain - 1.0).abs() < 1e-12);
        assert_eq!(fairness(&[]).jain, 1.0);
    }
}
