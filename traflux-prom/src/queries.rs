//! What exactly is asked, and why in these words?
//!
//! Every text that goes to Prometheus is made here. There is a fixed number of queries, whatever the size of
//! the fleet: each is grouped by source, service and endpoint, never one per endpoint.
//!
//! Five traps decided the wording:
//!
//! * **Double count.** Envoy writes the same metric once for the cluster and once for each zone. Without
//!   `traflux_endpoint!=""` a sum counts every request twice.
//! * **Ghost traffic.** When an Envoy dies, `rate(x[10s])` goes on to return a decaying number for ten
//!   seconds. Every rate is therefore joined with `up == 1` of the target it came from.
//! * **Survivor bias.** A request that times out never enters the latency histogram. An endpoint that times
//!   out 71 % of its requests shows a flattering p95. So those completed, those with a latency and those
//!   answered 504 are all counted, and what has no latency is known to be censored at the timeout.
//! * **Flush lag.** Counters are live, histograms are merged once per flush, so even a healthy endpoint has
//!   completed requests without a latency: several per cent at 10 requests/s and a window of 10 s, all of them
//!   at the first scrape. `completed` is asked for a second time, one flush earlier: what is missing to *both*
//!   is no lag.
//! * **Missing is not zero, except here.** The series of a response class appears with its first response.
//!   `or 0 * completed` turns "never failed" into 0 and leaves "not measured" missing.
//!
//! Counts are asked for as rates and divided by the reader, not in PromQL: ratios do not add up over sources,
//! counts do. Percentiles do not add up either, so the p95 per endpoint is a query of its own over the summed
//! buckets.

use std::fmt::Write as _;
use std::time::Duration;

use crate::labels::LabelMap;

/// How the data plane keeps endpoints apart in its statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// One cluster per service, one locality zone per endpoint: `cluster.<service>.zone.<from>.<endpoint>.…`.
    #[default]
    ZonePerEndpoint,
    /// One cluster per endpoint, named `<service>__<endpoint>`.
    ClusterPerEndpoint,
}

/// How latency histograms are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Histograms {
    /// One series per bucket.
    #[default]
    Classic,
    /// Native histograms: one series, buckets about 9 % wide. Needs Prometheus with
    /// `--enable-feature=native-histograms` and a scrape with `histogram_buckets=prometheusnative`.
    Native,
}

/// What the texts depend on beside the labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryOptions {
    /// What every metric's name starts with.
    pub metric_prefix: String,
    /// How endpoints are kept apart.
    pub layout: Layout,
    /// How latencies are stored.
    pub histograms: Histograms,
    /// Whether rates count only while their target is up. Off only where `up` does not reach the server.
    pub gate_on_up: bool,
    /// How often the data plane merges its histograms (Envoy's `stats_flush_interval`).
    pub flush_interval: Duration,
    /// More matchers that every series must satisfy, as (label, value): one environment of a shared server.
    pub matchers: Vec<(String, String)>,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            metric_prefix: "envoy_".into(),
            layout: Layout::default(),
            histograms: Histograms::default(),
            gate_on_up: true,
            flush_interval: Duration::from_secs(1),
            matchers: Vec::new(),
        }
    }
}

/// One collection's questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuerySet {
    /// Requests completed per second, errors and timeouts included. By source, service, endpoint.
    pub completed: String,
    /// The same one flush earlier: the window that the histogram may still be at.
    pub completed_before: String,
    /// Of those, answered 504 per second: that is what Envoy says for a request that timed out before any
    /// answer. A live counter, so without lag; a backend's own 504 is in it as well, but has a latency.
    pub timed_out: String,
    /// Of those, answered 5xx per second; 0 where there never was one. By source, service, endpoint.
    pub failed: String,
    /// Of those, with a latency per second. What is missing to `completed` timed out or was reset.
    pub timed: String,
    /// Milliseconds of latency per second. Over `timed` it is the mean; over 1000 it is the number of requests
    /// in flight (Little's law), without the sampling error that a gauge has.
    pub time: String,
    /// 95th percentile in milliseconds. By source, service, endpoint.
    pub p95_by_source: String,
    /// 95th percentile in milliseconds over the summed buckets of all sources. By service, endpoint.
    pub p95: String,
    /// Server time of the newest sample behind `completed`, in seconds. By source, service, endpoint.
    ///
    /// `timestamp` of a plain selector; of any other expression it is the time of evaluation, and of
    /// `last_over_time` it looked fresh on a target that was dead.
    pub newest: String,
    /// 1 where the host is healthy by the data plane's own checks. By service and host.
    pub healthy: String,
    /// 1 for each target that is up, 0 for each that is not.
    pub up: String,
}

impl QuerySet {
    /// Writes the questions for averages over `window`.
    ///
    /// `rate` needs two samples in the window: with a window below twice the scrape interval every answer is
    /// empty. Four times is a good choice.
    #[must_use]
    pub fn new(options: &QueryOptions, map: &LabelMap, window: Duration) -> Self {
        let text = Text { options, map, window: promql_duration(window) };
        let by_source = format!("{}, {}, {}", map.source_label, map.service_label, map.endpoint_label);
        let by_endpoint = format!("{}, {}", map.service_label, map.endpoint_label);
        let sum = |by: &str, inner: &str| format!("sum by ({by}) ({inner})");
        let completed = sum(&by_source, &text.rate("cluster_upstream_rq_completed", &[]));
        let before = format!(
            "rate({}[{}] offset {})",
            text.selector("cluster_upstream_rq_completed", &[]),
            text.window,
            promql_duration(options.flush_interval)
        );
        let filled = |rate: &str| format!("{} or 0 * {completed}", sum(&by_source, rate));
        let failed = filled(&text.rate("cluster_upstream_rq_xx", &[("envoy_response_code_class", "5")]));
        let timed_out = filled(&text.rate("cluster_upstream_rq", &[("envoy_response_code", "504")]));
        let (timed, time, p95_by_source, p95) = match options.histograms {
            Histograms::Classic => {
                let bucket = text.rate("cluster_upstream_rq_time_bucket", &[]);
                let quantile =
                    |by: &str| format!("histogram_quantile(0.95, {})", sum(&format!("{by}, le"), &bucket));
                (
                    sum(&by_source, &text.rate("cluster_upstream_rq_time_count", &[])),
                    sum(&by_source, &text.rate("cluster_upstream_rq_time_sum", &[])),
                    quantile(&by_source),
                    quantile(&by_endpoint),
                )
            }
            Histograms::Native => {
                let histogram = text.rate("cluster_upstream_rq_time", &[]);
                (
                    format!("histogram_count({})", sum(&by_source, &histogram)),
                    format!("histogram_sum({})", sum(&by_source, &histogram)),
                    format!("histogram_quantile(0.95, {})", sum(&by_source, &histogram)),
                    format!("histogram_quantile(0.95, {})", sum(&by_endpoint, &histogram)),
                )
            }
        };
        let newest =
            text.gated(&format!("timestamp({})", text.selector("cluster_upstream_rq_completed", &[])));
        let hosts = format!("{}, envoy_endpoint_address, envoy_endpoint_hostname", map.service_label);
        Self {
            newest: format!("max by ({by_source}) ({newest})"),
            // A host that one source reaches is healthy; what another source cannot reach is that route's loss.
            healthy: format!(
                "max by ({hosts}) ({})",
                text.gated(&text.host_selector("cluster_endpoint_healthy"))
            ),
            up: text.up(),
            completed_before: sum(&by_source, &text.gated(&before)),
            timed_out,
            completed,
            failed,
            timed,
            time,
            p95_by_source,
            p95,
        }
    }

    /// All questions with the name of what each measures.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &str); 11] {
        [
            ("throughput", &self.completed),
            ("throughput before", &self.completed_before),
            ("timeouts", &self.timed_out),
            ("errors", &self.failed),
            ("latency count", &self.timed),
            ("latency sum", &self.time),
            ("p95 per source", &self.p95_by_source),
            ("p95 per endpoint", &self.p95),
            ("sample age", &self.newest),
            ("health", &self.healthy),
            ("up", &self.up),
        ]
    }
}

/// The query that gives the age of a user's signal, where it can be known: that of a plain selector. Any other
/// expression is evaluated now, and how old its inputs are cannot be seen from outside.
#[must_use]
pub fn signal_freshness(query: &str) -> Option<String> {
    let query = query.trim();
    let name_end = query
        .char_indices()
        .find(|(ix, c)| !(c.is_ascii_alphabetic() || matches!(c, '_' | ':') || *ix > 0 && c.is_ascii_digit()))
        .map_or(query.len(), |(ix, _)| ix);
    let rest = query[name_end..].trim();
    let braces = rest.starts_with('{') && rest.find('}') == Some(rest.len() - 1);
    let plain = if rest.is_empty() { name_end > 0 } else { braces };
    plain.then(|| format!("timestamp({query})"))
}

/// A duration as PromQL writes it, in whole milliseconds, at least one.
#[must_use]
pub fn promql_duration(duration: Duration) -> String {
    let millis = duration.as_millis().max(1);
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

/// A string literal of PromQL.
#[must_use]
pub fn promql_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => {
                // Writing to a string cannot fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

struct Text<'a> {
    options: &'a QueryOptions,
    map: &'a LabelMap,
    window: String,
}

impl Text<'_> {
    /// Series of endpoints: without the first matcher the cluster's own series would count again.
    fn selector(&self, metric: &str, more: &[(&str, &str)]) -> String {
        let endpoint = format!("{}!=\"\"", self.map.endpoint_label);
        self.select(metric, std::iter::once(endpoint).chain(self.equal(more)))
    }

    /// Series of hosts, which carry no endpoint label.
    fn host_selector(&self, metric: &str) -> String {
        self.select(metric, self.equal(&[]))
    }

    fn equal(&self, more: &[(&str, &str)]) -> impl Iterator<Item = String> {
        let own = more.iter().map(|(label, value)| format!("{label}={}", promql_string(value)));
        let given =
            self.options.matchers.iter().map(|(label, value)| format!("{label}={}", promql_string(value)));
        own.chain(given).collect::<Vec<_>>().into_iter()
    }

    fn select(&self, metric: &str, matchers: impl Iterator<Item = String>) -> String {
        let matchers = matchers.collect::<Vec<_>>().join(",");
        let name = format!("{}{metric}", self.options.metric_prefix);
        if matchers.is_empty() { name } else { format!("{name}{{{matchers}}}") }
    }

    fn rate(&self, metric: &str, more: &[(&str, &str)]) -> String {
        self.gated(&format!("rate({}[{}])", self.selector(metric, more), self.window))
    }

    fn gated(&self, inner: &str) -> String {
        if self.options.gate_on_up {
            format!("{inner} and on (job, instance) ({} == 1)", self.up())
        } else {
            inner.to_owned()
        }
    }

    fn up(&self) -> String {
        let source = format!("{}!=\"\"", self.map.source_label);
        let given = self.equal(&[]);
        let matchers = std::iter::once(source).chain(given).collect::<Vec<_>>().join(",");
        format!("up{{{matchers}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(options: &QueryOptions) -> QuerySet {
        QuerySet::new(options, &LabelMap::default(), Duration::from_secs(10))
    }

    #[test]
    fn throughput_excludes_the_aggregate_series_and_targets_that_are_down() {
        assert_eq!(
            set(&QueryOptions::default()).completed,
            "sum by (traflux_source, envoy_cluster_name, traflux_endpoint) \
             (rate(envoy_cluster_upstream_rq_completed{traflux_endpoint!=\"\"}[10s]) \
             and on (job, instance) (up{traflux_source!=\"\"} == 1))"
        );
    }

    #[test]
    fn an_endpoint_that_never_failed_is_filled_with_zero() {
        let set = set(&QueryOptions { gate_on_up: false, ..QueryOptions::default() });
        assert_eq!(
            set.failed,
            format!(
                "sum by (traflux_source, envoy_cluster_name, traflux_endpoint) (rate(envoy_cluster_upstream_rq_xx\
             {{traflux_endpoint!=\"\",envoy_response_code_class=\"5\"}}[10s])) or 0 * {}",
                set.completed
            )
        );
    }

    #[test]
    fn the_percentile_per_endpoint_sums_buckets_over_sources() {
        let set = set(&QueryOptions { gate_on_up: false, ..QueryOptions::default() });
        assert_eq!(
            set.p95,
            "histogram_quantile(0.95, sum by (envoy_cluster_name, traflux_endpoint, le) \
             (rate(envoy_cluster_upstream_rq_time_bucket{traflux_endpoint!=\"\"}[10s])))"
        );
        assert!(set.p95_by_source.contains("(traflux_source, envoy_cluster_name, traflux_endpoint, le)"));
    }

    #[test]
    fn further_matchers_reach_every_query_and_are_quoted() {
        let matchers = vec![("env".to_owned(), "a\"b\\c".to_owned())];
        let set = set(&QueryOptions { matchers, ..QueryOptions::default() });
        for (name, query) in set.named() {
            assert!(query.contains(r#"env="a\"b\\c""#), "{name}: {query}");
        }
    }

    #[test]
    fn only_a_plain_selector_has_a_timestamp_of_its_own() {
        assert_eq!(signal_freshness("node_load1").as_deref(), Some("timestamp(node_load1)"));
        assert_eq!(signal_freshness(r#" q:len{a="b"} "#).as_deref(), Some(r#"timestamp(q:len{a="b"})"#));
        for expression in ["", "sum(x)", "rate(x[5m])", "x{a=\"1\"} / y{a=\"1\"}", "x + 1", "1"] {
            assert_eq!(signal_freshness(expression), None, "{expression}");
        }
    }

    #[test]
    fn durations_are_written_in_whole_units() {
        assert_eq!(promql_duration(Duration::from_secs(60)), "60s");
        assert_eq!(promql_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(promql_duration(Duration::ZERO), "1ms");
    }
}
