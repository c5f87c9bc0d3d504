//! Which integers realise a row of weights exactly?
//!
//! Each endpoint is a locality of its own. Envoy's plain round robin looks at host weights only, proxyless
//! gRPC at locality weights only, so both carry the endpoint's weight: the hosts of an endpoint sum to its
//! locality weight, and the locality weights of a tier stand in the proportion of the plan's row.
//!
//! With one host per endpoint the integers are those of the plan. With several, all weights are scaled by
//! the least common multiple of the host counts, so that each divides evenly among its hosts; where that
//! would exceed the limit of 2³² − 1, by the largest factor that fits, and the hosts of one endpoint then
//! differ by at most 1 while the endpoint's sum stays exact.

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

/// Scales and divides one row. Endpoints of weight 0 are left out: a proxy refuses that weight. Tiers
/// become priorities without gaps; a tier without any positive weight does not count.
pub(crate) fn assign(service: &ServicePlan, row: &WeightRow) -> Result<Vec<Assigned>, XdsError> {
    if row.weights.len() != service.endpoints.len() {
        return Err(XdsError::RowShape {
            service: service.name.clone(),
            group: row.group.0.clone(),
            found: row.weights.len(),
            expected: service.endpoints.len(),
        });
    }
    let mut tiers: Vec<u8> = positive(service, row).map(|(ix, _)| service.endpoints[ix].tier).collect();
    tiers.sort_unstable();
    tiers.dedup();
    if tiers.is_empty() {
        return Err(XdsError::EmptyRow { service: service.name.clone(), group: row.group.0.clone() });
    }
    let mut assigned = Vec::new();
    for (priority, tier) in tiers.into_iter().enumerate() {
        let members: Vec<(usize, u32)> =
            positive(service, row).filter(|(ix, _)| service.endpoints[*ix].tier == tier).collect();
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
            let narrow = |value: u64| u32::try_from(value).expect("the tier's sum is at most u32::MAX");
            assigned.push(Assigned {
                endpoint: ix,
                priority: u32::try_from(priority).expect("at most 256 tiers"),
                weight: narrow(total),
                hosts: (0..count).map(|host| narrow(each + u64::from(host < over))).collect(),
            });
        }
    }
    Ok(assigned)
}

fn positive<'a>(service: &'a ServicePlan, row: &'a WeightRow) -> impl Iterator<Item = (usize, u32)> + 'a {
    let weights = row.weights.iter().copied().enumerate();
    weights.filter(|(ix, weight)| *weight > 0 && *ix < service.endpoints.len())
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
        WeightRow { group: NodeGroup("us".into()), weights: weights.to_vec() }
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
    fn weight_zero_leaves_out_and_tiers_close_up() {
        let assigned = assign(&service(&[(7, 1), (3, 1), (5, 1)]), &row(&[4, 0, 9])).unwrap();
        let got: Vec<_> = assigned.iter().map(|a| (a.endpoint, a.priority)).collect();
        assert_eq!(got, [(2, 0), (0, 1)]);
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
            for tier in 0..3u8 {
                let of_tier: Vec<_> =
                    assigned.iter().filter(|a| service.endpoints[a.endpoint].tier == tier).collect();
                let sum: u64 = of_tier.iter().map(|a| u64::from(a.weight)).sum();
                prop_assert!(sum <= u64::from(u32::MAX));
                for a in &of_tier {
                    prop_assert_eq!(a.hosts.iter().map(|h| u64::from(*h)).sum::<u64>(), u64::from(a.weight));
                    let (low, high) = (a.hosts.iter().min().unwrap(), a.hosts.iter().max().unwrap());
                    prop_assert!(*low >= 1 && high - low <= 1);
                    for b in &of_tier {
                        prop_assert_eq!(
                            u64::from(a.weight) * u64::from(weights[b.endpoint]),
                            u64::from(b.weight) * u64::from(weights[a.endpoint])
                        );
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
