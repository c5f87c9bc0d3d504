//! What does a typical request cost at each backend?
//!
//! Backends are compared by the same request: its tokens are the mean of what was seen lately at all of them
//! together, because what each was sent differs (long prompts here, short answers there) and would pass for a price.
//! The price is that of the plan for these tokens:
//!
//! `p = request + (input − cached)·p_in + cached·p_cached + output·p_out`,
//!
//! in the mean over the models that all backends of the rule serve (of those that it serves itself, where they have
//! none in common), weighted by their requests.

use std::collections::BTreeMap;

use traflux_core::UnitPrice;
use traflux_core::plan::backend::{BackendPlan, PricePlan};
use traflux_gateway::Outcome;
use traflux_gateway::observe::Snapshot;

/// What requests are like, by model; the empty name stands for requests whose backends list no models.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Typical {
    models: BTreeMap<String, Usage>,
}

/// What requests for a model used, in sum.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Usage {
    requests: f64,
    input: f64,
    cached: f64,
    output: f64,
}

/// A request of which nothing is known, as the engine takes it too.
const UNKNOWN: Usage = Usage { requests: 1.0, input: 1000.0, cached: 0.0, output: 300.0 };
/// Requests from which their mean counts for more than that.
const FEW: f64 = 10.0;

impl Typical {
    /// What was counted at all backends.
    pub(super) fn of(counted: &Snapshot) -> Self {
        let mut models: BTreeMap<String, Usage> = BTreeMap::new();
        for series in &counted.layout().series {
            let Some(ix) = counted.layout().series_ix(&series.backend, &series.model) else { continue };
            let requests = counted.requests(ix, Outcome::Success);
            if requests == 0 {
                continue;
            }
            let usage = models.entry(series.model.clone()).or_default();
            usage.requests += requests as f64;
            usage.input += counted.input_tokens(ix) as f64;
            usage.cached += counted.cached_tokens(ix) as f64;
            usage.output += counted.output_tokens(ix) as f64;
        }
        Self { models }
    }

    /// The means over all models, or what is assumed while there are few.
    fn mean(&self) -> Usage {
        let sum = self.models.values().fold(Usage::default(), |sum, usage| sum.plus(usage));
        if sum.requests >= FEW { sum } else { UNKNOWN }
    }
}

impl Usage {
    fn plus(self, other: &Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            input: self.input + other.input,
            cached: self.cached + other.cached,
            output: self.output + other.output,
        }
    }

    /// Dollars of the mean request.
    fn cost(&self, price: &PricePlan) -> f64 {
        let cached_price = price.cached_dollars_per_million.unwrap_or(price.input_dollars_per_million);
        let tokens = (self.input - self.cached).max(0.0) * price.input_dollars_per_million
            + self.cached * cached_price
            + self.output * price.output_dollars_per_million;
        price.request_dollars + tokens * 1e-6 / self.requests.max(1.0)
    }
}

/// The price of a typical request at a backend by itself.
pub(super) fn price_at(backend: &BackendPlan, typical: &Typical) -> UnitPrice {
    prices(&[Some(backend)], typical)[0]
}

/// The prices of a typical request at the backends of one rule; one that the plan does not describe costs nothing.
pub(super) fn prices(backends: &[Option<&BackendPlan>], typical: &Typical) -> Vec<UnitPrice> {
    let mean = typical.mean();
    let listed: Vec<&str> =
        backends.iter().flatten().flat_map(|b| b.models.keys()).map(String::as_str).collect();
    let shared = |model: &&str| backends.iter().all(|b| b.is_none_or(|b| b.serves(model)));
    let any_shared = listed.iter().any(&shared);
    backends
        .iter()
        .map(|backend| {
            let Some(backend) = backend else { return UnitPrice::ZERO };
            let mut models: Vec<&str> =
                listed.iter().filter(|m| backend.serves(m) && (!any_shared || shared(m))).copied().collect();
            models.sort_unstable();
            models.dedup();
            if models.is_empty() {
                return per_million(mean.cost(&backend.price));
            }
            let (mut requests, mut dollars) = (0.0, 0.0);
            for model in models {
                let usage = typical.models.get(model).filter(|usage| usage.requests >= FEW);
                // A model that nobody asks for counts a little, so that prices are known before the first request.
                let weight = usage.map_or(1e-3, |usage| usage.requests);
                requests += weight;
                dollars += weight * usage.unwrap_or(&mean).cost(&backend.price_of(model));
            }
            per_million(dollars / requests)
        })
        .collect()
}

fn per_million(dollars: f64) -> UnitPrice {
    UnitPrice::saturating(dollars * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(json: &str) -> BackendPlan {
        serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}"))
    }

    fn usage(requests: f64, input: f64, cached: f64, output: f64) -> Usage {
        let sum = |each: f64| each * requests;
        Usage { requests, input: sum(input), cached: sum(cached), output: sum(output) }
    }

    #[test]
    fn before_the_first_requests_a_thousand_tokens_in_and_300_out_are_assumed() {
        let plan = backend(
            r#"{"price": {"input_dollars_per_million": 1, "output_dollars_per_million": 10, "request_dollars": 0.002}}"#,
        );
        // 1000 · $1 + 300 · $10 per million tokens, and $0.002: $0.006 a request.
        assert!((price_at(&plan, &Typical::default()).get() - 6000.0).abs() < 1e-6);
    }

    #[test]
    fn the_same_typical_request_is_priced_everywhere_by_the_models_in_common() {
        let dear = backend(
            r#"{"models": {"mini": {"price": {"input_dollars_per_million": 2}}, "large": {"price": {"input_dollars_per_million": 100}}}}"#,
        );
        let cheap = backend(
            r#"{"models": {"mini": {"price": {"input_dollars_per_million": 1, "cached_dollars_per_million": 0.5}}}}"#,
        );
        let typical = Typical {
            models: BTreeMap::from([
                ("mini".to_owned(), usage(50.0, 200.0, 100.0, 10.0)),
                ("large".to_owned(), usage(50.0, 9000.0, 0.0, 900.0)),
            ]),
        };
        let priced: Vec<f64> =
            prices(&[Some(&dear), Some(&cheap), None], &typical).into_iter().map(UnitPrice::get).collect();
        // 200 tokens at $2; 100 at $1 and 100 cached ones at $0.50; nothing is known of the third.
        assert!((priced[0] - 400.0).abs() < 1e-6 && (priced[1] - 150.0).abs() < 1e-6, "{priced:?}");
        assert_eq!(priced[2], 0.0);
    }
}
