//! Which integers realise a row of weights exactly?
//!
//! Each endpoint is a locality of its own. Envoy's plain round robin looks at host weights only, proxyless
//! gRPC at locality weights only, so both carry the endpoint's weight: the hosts of an endpoint sum to its
//! locality weight, and the locality weights of a priority stand in the proportion of the plan's row.
//!
//! With one host per endpoint the integers are those of the plan. With several, all weights are scaled by
//! the least common multiple of the host counts, so that each divides evenly among its hosts; where that
//! would exceed the limit of 2³² − 1, by the largest factor that fits, and the hosts of one endpoint then
//! differ by at most 1 while the endpoint's sum stays exact.
//!
//! Every endpoint with a positive weight is in priority 0, whatever its tier. Weight 0 leaves out an endpoint
//! of tier 0; those of higher tiers stand by, each tier a priority of its own, without gaps, alike in weight:
//! the proxy turns to them by itself when too few hosts before them are healthy.

use std::collections::BTreeMap;

use traflux_core::{ServicePlan, WeightRow};

use crate::error::XdsError;

/// One endpoint as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// Position of the endpoint in the plan.
    pub endpoint: usize,
    /// Priority: 0 first, without gaps.
    pub priority: u32,
    /// Weight of the locality: the sum of the next.
    pub weight: u32,
    /// One weight per host.
    pub hosts: Vec<u32>,
}

/// Scales and divides one row.
pub(crate) fn assign(service: &ServicePlan, row: &WeightRow) -> Result<Vec<Assigned>, XdsError> {
    if row.weights.len() != service.endpoints.len() {
        return Err(XdsError::RowShape {
            service: service.name.clone(),
            group: row.group.0.clone(),
            found: row.weights.len(),
            expected: service.endpoints.len(),
        });
    }
    if row.weights.iter().all(|weight| *weight == 0) {
        return Err(XdsError::EmptyRow { service: service.name.clone(), group: row.group.0.clone() });
    }
    let mut levels: BTreeMap<u8, Vec<(usize, u32)>> = BTreeMap::new();
    for (ix, (endpoint, weight)) in service.endpoints.iter().zip(&row.weights).enumerate() {
        match (*weight, endpoint.tier) {
            (0, 0) => {}
            (0, tier) => levels.entry(tier).or_default().push((ix, 1)),
            (weight, _) => levels.entry(0).or_default().push((ix, weight)),
        }
    }
    let mut assigned = Vec::new();
    for (priority, (tier, members)) in (0u32..).zip(levels) {
        let sum: u64 = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let limit = u64::from(u32::MAX) / sum;
        if limit == 0 {
            return Err(XdsError::WeightSum {
                service: service.name.clone(),
                group: row.group.0.clone(),
                tier,
                sum,
            });
        }
        // All endpoints of the service, also those left out now: the scale must not change when one of
        // them comes or goes.
        let factor = service
            .endpoints
            .iter()
            .try_fold(1u64, |multiple, e| least_common_multiple(multiple, e.hosts.len() as u64, limit))
            .unwrap_or(limit);
        for (ix, weight) in members {
            let endpoint = &service.endpoints[ix];
            let count = endpoint.hosts.len() as u64;
            let total = u64::from(weight) * factor;
            if total < count {
                return Err(XdsError::TooManyHosts {
                    service: service.name.clone(),
                    endpoint: endpoint.name.clone(),
                    hosts: endpoint.hosts.len(),
                    weight,
                });
            }
            let (each, over) = (total / count, total % count);
            let narrow =
                |value: u64| u32::try_from(value).expect("the sum of a priority is at most u32::MAX");
            assigned.push(Assigned {
                endpoint: ix,
                priority,
                weight: narrow(total),
                hosts: (0..count).map(|host| narrow(each + u64::from(host < over))).collect(),
            });
        }
    }
    Ok(assigned)
}

/// `None` when it would exceed the limit.
fn least_common_multiple(a: u64, b: u64, limit: u64) -> Option<u64> {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).checked_mul(b).filter(|multiple| *multiple <= limit && *multiple > 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use traflux_core::{EndpointPlan, HostPlan, NodeGroup};

    use super::*;

    fn service(endpoints: &[(u8, usize)]) -> ServicePlan {
        ServicePlan {
            name: "checkout".into(),
            listener: None,
            timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            http2: false,
            endpoints: endpoints
                .iter()
                .enumerate()
                .map(|(ix, (tier, hosts))| EndpointPlan {
                    name: format!("e{ix}"),
                    hosts: (0..*hosts)
                        .map(|h| HostPlan { address: format!("10.0.{ix}.{h}"), port: 80 })
                        .collect(),
                    region: None,
                    tier: *tier,
                })
                .collect(),
            rows: vec![],
        }
    }

    fn row(weights: &[u32]) -> WeightRow {
        WeightRow { group: NodeGroup("us".into()), listener: None, weights: weights.to_vec() }
    }

    #[test]
    fn with_one_host_each_the_integers_are_those_of_the_plan() {
        let assigned = assign(&service(&[(0, 1), (0, 1), (0, 1)]), &row(&[70, 20, 10])).unwrap();
        let weights: Vec<_> = assigned.iter().map(|a| (a.weight, a.hosts.clone())).collect();
        assert_eq!(weights, [(70, vec![70]), (20, vec![20]), (10, vec![10])]);
    }

    #[test]
    fn with_two_and_three_hosts_all_weights_scale_by_six() {
        let assigned = assign(&service(&[(0, 2), (0, 3), (0, 1)]), &row(&[5, 3, 2])).unwrap();
        assert_eq!(assigned[0].hosts, [15, 15]);
        assert_eq!(assigned[1].hosts, [6, 6, 6]);
        assert_eq!(assigned[2].hosts, [12]);
        assert_eq!([30, 18, 12], [assigned[0].weight, assigned[1].weight, assigned[2].weight]);
    }

    #[test]
    fn weight_zero_leaves_out_of_tier_zero_and_higher_tiers_stand_by_without_gaps() {
        let tiers = service(&[(0, 1), (0, 1), (7, 1), (3, 1), (5, 1), (7, 1)]);
        let assigned = assign(&tiers, &row(&[4, 0, 0, 0, 9, 0])).unwrap();
        let got: Vec<_> = assigned.iter().map(|a| (a.endpoint, a.priority, a.weight)).collect();
        assert_eq!(got, [(0, 0, 4), (4, 0, 9), (3, 1, 1), (2, 2, 1), (5, 2, 1)]);
    }

    #[test]
    fn a_row_of_zeros_is_refused_and_so_is_a_sum_above_the_limit() {
        let one = service(&[(0, 1), (0, 1)]);
        assert_eq!(assign(&one, &row(&[0, 0])).unwrap_err().code(), "xds_empty_row");
        assert_eq!(assign(&one, &row(&[u32::MAX, 1])).unwrap_err().code(), "xds_weight_sum");
        assert_eq!(assign(&one, &row(&[u32::MAX - 1, 1])).unwrap().len(), 2);
        assert_eq!(assign(&one, &row(&[1])).unwrap_err().code(), "xds_row_shape");
    }

    #[test]
    fn more_hosts_than_the_scaled_weight_are_refused() {
        let wide = service(&[(0, 3), (0, 1)]);
        assert_eq!(assign(&wide, &row(&[1, u32::MAX - 1])).unwrap_err().code(), "xds_too_many_hosts");
    }

    proptest! {
        #[test]
        fn shares_are_exact_and_the_sum_fits(
            parts in prop::collection::vec((0u8..3, 1usize..40, 0u32..2_000_000), 1..12)
        ) {
            let service = service(&parts.iter().map(|p| (p.0, p.1)).collect::<Vec<_>>());
            let weights: Vec<u32> = parts.iter().map(|p| p.2).collect();
            prop_assume!(weights.iter().any(|w| *w > 0));
            let Ok(assigned) = assign(&service, &row(&weights)) else {
                // Only a share too small for its hosts may be refused.
                prop_assert!(parts.iter().any(|p| p.2 > 0 && (p.2 as usize) < p.1));
                return Ok(());
            };
            for priority in 0..3u32 {
                let level: Vec<_> = assigned.iter().filter(|a| a.priority == priority).collect();
                let sum: u64 = level.iter().map(|a| u64::from(a.weight)).sum();
                prop_assert!(sum <= u64::from(u32::MAX));
                let asked = |a: &Assigned| u64::from(weights[a.endpoint].max(u32::from(priority > 0)));
                for a in &level {
                    prop_assert_eq!(priority == 0, weights[a.endpoint] > 0);
                    prop_assert_eq!(a.hosts.iter().map(|h| u64::from(*h)).sum::<u64>(), u64::from(a.weight));
                    let (low, high) = (a.hosts.iter().min().unwrap(), a.hosts.iter().max().unwrap());
                    prop_assert!(*low >= 1 && high - low <= 1);
                    for b in &level {
                        prop_assert_eq!(u64::from(a.weight) * asked(b), u64::from(b.weight) * asked(a));
                    }
                }
            }
            let mut priorities: Vec<u32> = assigned.iter().map(|a| a.priority).collect();
            priorities.sort_unstable();
            priorities.dedup();
            prop_assert_eq!(priorities.clone(), (0..priorities.len() as u32).collect::<Vec<_>>());
        }
    }
}
