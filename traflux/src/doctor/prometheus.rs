//! Does Prometheus see what the controller needs to know?
//!
//! The questions go from the outside in: is it there, does it scrape the Envoys, do their series carry the
//! labels, are those fresh and fine enough. The first that fails explains the rest, so later ones are left
//! out then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use traflux_core::Timestamp;
use traflux_prom::queries::{promql_duration, promql_string};
use traflux_prom::{
    Answer, Histograms, LabelMap, PromClient, PromError, QueryOptions, QuerySet, Sample, Value, sanitize,
};

use super::{Finding, some_of};
use crate::config::Config;
use crate::service::http_options;

/// A clock difference below this is not worth a word.
const CLOCK_TOLERANCE_S: f64 = 2.0;
/// Two neighbouring bounds of a histogram further apart than this make a percentile a guess.
const BUCKET_RATIO: f64 = 2.5;

pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let client = match PromClient::new(http_options(&config.metrics.prometheus)) {
        Ok(client) => client,
        Err(problem) => {
            return vec![Finding::fail("prometheus", problem.to_string(), "mend `metrics.prometheus`")];
        }
    };
    let look = Look { config, client, labels: labels(config) };
    let mut findings = Vec::new();
    look.all(&mut findings).await;
    findings
}

fn labels(config: &Config) -> LabelMap {
    LabelMap { source_label: config.metrics.prometheus.source_label.clone(), ..LabelMap::default() }
}

struct Look<'a> {
    config: &'a Config,
    client: PromClient,
    labels: LabelMap,
}

impl Look<'_> {
    async fn all(&self, findings: &mut Vec<Finding>) {
        let (reached, there) = self.reachable().await;
        findings.push(reached);
        if !there {
            return;
        }
        findings.push(self.clock().await);
        let (sources, any_up) = self.sources().await;
        findings.extend(sources);
        if !any_up {
            return;
        }
        findings.push(self.scrape_interval().await);
        let (series, any) = self.series().await;
        findings.extend(series);
        if any {
            findings.push(self.histograms().await);
            findings.extend(self.flush().await);
            findings.push(self.questions().await);
        }
        findings.extend(self.signals().await);
    }

    /// The second value says whether it answers queries.
    async fn reachable(&self) -> (Finding, bool) {
        const WHAT: &str = "prometheus";
        match self.client.version().await {
            Ok(version) => (Finding::ok(WHAT, format!("{}, version {version}", self.client.host())), true),
            // Servers that speak the API without telling a version are no Prometheus, but will do.
            Err(PromError::NotFound { .. }) => match self.client.instant("vector(1)").await {
                Ok(_) => {
                    (Finding::ok(WHAT, format!("{} answers, without a version", self.client.host())), true)
                }
                Err(problem) => (unreachable(WHAT, &problem), false),
            },
            Err(problem) => (unreachable(WHAT, &problem), false),
        }
    }

    async fn clock(&self) -> Finding {
        const WHAT: &str = "clocks";
        let before = SystemTime::now();
        let answer = self.client.instant("time()").await;
        let after = SystemTime::now();
        let theirs = match answer {
            Ok(Answer { value: Value::Scalar(point), .. }) => point.value,
            Ok(answer) => {
                return Finding::warn(WHAT, format!("time() gave a {}", answer.value.kind()), REPORT);
            }
            Err(problem) => return unreachable(WHAT, &problem),
        };
        let seconds = |at: SystemTime| {
            let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp::new(since).as_secs_f64()
        };
        let (before, after) = (seconds(before), seconds(after));
        // Anything between the two moments may be the true one.
        let difference = if theirs < before { theirs - before } else { (theirs - after).max(0.0) };
        if difference.abs() <= CLOCK_TOLERANCE_S {
            return Finding::ok(
                WHAT,
                format!("Prometheus and this machine agree within {CLOCK_TOLERANCE_S:.0} s"),
            );
        }
        let side = if difference > 0.0 { "ahead of" } else { "behind" };
        Finding::warn(
            WHAT,
            format!("Prometheus is {:.1} s {side} this machine", difference.abs()),
            "run a time service on both; ages stay right, as they are counted on Prometheus's clock, \
             but times in logs and decisions do not match",
        )
    }

    /// The second value says whether any source is up.
    async fn sources(&self) -> (Vec<Finding>, bool) {
        let label = &self.labels.source_label;
        let up = match self.client.instant(&format!("up{{{label}!=\"\"}}")).await {
            Ok(answer) => answer,
            Err(problem) => return (vec![unreachable("scrape targets", &problem)], false),
        };
        let fix = format!(
            "scrape every Envoy of the source with the label `{label}`: `traflux bootstrap prometheus` prints how"
        );
        let mut by_source: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
        for sample in up.samples() {
            by_source.entry(sample.labels.get(label).unwrap_or("")).or_default().push(sample);
        }
        if by_source.is_empty() {
            let finding =
                Finding::fail("scrape targets", format!("no target carries the label `{label}`"), fix);
            return (vec![finding], false);
        }
        let mut findings = Vec::new();
        let mut any_up = false;
        for source in &self.config.sources {
            let what = format!("targets of {}", source.name);
            let targets = by_source.remove(source.name.as_str()).unwrap_or_default();
            let down: Vec<String> = targets
                .iter()
                .filter(|sample| sample.number() != Some(1.0))
                .map(|sample| sample.labels.get("instance").unwrap_or("?").to_owned())
                .collect();
            any_up |= down.len() < targets.len();
            findings.push(if targets.is_empty() {
                Finding::fail(what, format!("no target carries `{label}=\"{}\"`", source.name), fix.clone())
            } else if down.len() == targets.len() {
                Finding::fail(
                    what,
                    format!("down: {}", some_of(&down)),
                    "look at the target's last error in Prometheus; the admin interface must be reachable from there",
                )
            } else if down.is_empty() {
                Finding::ok(what, format!("{} up", targets.len()))
            } else {
                Finding::warn(
                    what,
                    format!("{} up, down: {}", targets.len() - down.len(), some_of(&down)),
                    "what the missing ones carry is not seen; mend them or take them out of the scrape configuration",
                )
            });
        }
        if !by_source.is_empty() {
            let names: Vec<String> = by_source.keys().map(|name| (*name).to_owned()).collect();
            findings.push(Finding::warn(
                "targets of no source",
                format!("labelled with sources that are not configured: {}", some_of(&names)),
                "add them to `sources`, or take the label off; their load counts as background",
            ));
        }
        (findings, any_up)
    }

    async fn scrape_interval(&self) -> Finding {
        const WHAT: &str = "scrape interval";
        let prometheus = &self.config.metrics.prometheus;
        let range = Duration::from_secs_f64((8.0 * prometheus.scrape_interval_s).max(60.0));
        let query = format!("up{{{}!=\"\"}}[{}]", self.labels.source_label, promql_duration(range));
        let series = match self.client.instant(&query).await {
            Ok(Answer { value: Value::Matrix(series), .. }) => series,
            Ok(answer) => {
                return Finding::warn(WHAT, format!("a range gave a {}", answer.value.kind()), REPORT);
            }
            Err(problem) => return unreachable(WHAT, &problem),
        };
        let slowest = series
            .iter()
            .filter_map(|series| {
                let mut steps: Vec<f64> =
                    series.points.windows(2).map(|pair| pair[1].at.since(pair[0].at).as_secs_f64()).collect();
                steps.sort_by(f64::total_cmp);
                steps.get(steps.len() / 2).copied()
            })
            .reduce(f64::max);
        let Some(found) = slowest else {
            return Finding::warn(
                WHAT,
                format!("fewer than two scrapes within {} s", range.as_secs()),
                "wait for a few scrapes and look again",
            );
        };
        let (wanted, window) = (prometheus.scrape_interval_s, prometheus.window_s);
        if window < 2.0 * found {
            return Finding::fail(
                WHAT,
                format!(
                    "targets are scraped every {found:.1} s; a window of {window} s holds no two scrapes"
                ),
                format!(
                    "scrape more often, or set `metrics.prometheus.window_s` to at least {:.0}",
                    (4.0 * found).ceil()
                ),
            );
        }
        if window < 3.9 * found {
            return Finding::warn(
                WHAT,
                format!(
                    "targets are scraped every {found:.1} s; a window of {window} s holds fewer than four"
                ),
                format!(
                    "scrape more often, or set `metrics.prometheus.window_s` to {:.0}",
                    (4.0 * found).ceil()
                ),
            );
        }
        if (found / wanted - 1.0).abs() > 0.25 {
            return Finding::warn(
                WHAT,
                format!("targets are scraped every {found:.1} s, the configuration says {wanted} s"),
                format!(
                    "set `metrics.prometheus.scrape_interval_s` to {found:.1}: it is part of the dead time"
                ),
            );
        }
        Finding::ok(WHAT, format!("{found:.1} s, window {window} s"))
    }

    /// Whose series are there; the second value says whether any are.
    async fn series(&self) -> (Vec<Finding>, bool) {
        const WHAT: &str = "series of endpoints";
        let LabelMap { source_label, service_label, endpoint_label, .. } = &self.labels;
        let query = format!(
            "count by ({source_label}, {service_label}, {endpoint_label}) ({})",
            self.endpoint_series("cluster_upstream_rq_completed")
        );
        let answer = match self.client.instant(&query).await {
            Ok(answer) => answer,
            Err(problem) => return (vec![unreachable(WHAT, &problem)], false),
        };
        if answer.samples().is_empty() {
            return (vec![self.why_no_series().await], false);
        }
        let carrying = self.sources_with_requests().await;
        let text = |sample: &Sample, label: &str| sample.labels.get(label).unwrap_or("").to_owned();
        let mut seen: BTreeSet<(String, String, String)> = answer
            .samples()
            .iter()
            .map(|s| (text(s, source_label), text(s, service_label), text(s, endpoint_label)))
            .collect();
        let mut findings = Vec::new();
        for source in &self.config.sources {
            let mut missing = Vec::new();
            let mut known = 0;
            for spec in self.config.endpoints() {
                let key = (source.name.clone(), sanitize(&spec.service.name), sanitize(&spec.endpoint.name));
                if seen.remove(&key) {
                    known += 1;
                } else {
                    missing.push(spec.endpoint.name.clone());
                }
            }
            let what = format!("series of {}", source.name);
            findings.push(if missing.is_empty() {
                Finding::ok(what, format!("all {known} endpoints"))
            } else if known > 0 {
                Finding::warn(
                    what,
                    format!("{known} endpoints; none yet of {}", some_of(&missing)),
                    "an endpoint shows with its first request; if it never does, its name or the regular \
                     expression of `stats_tags` is not the one of `traflux bootstrap envoy`",
                )
            } else if carrying.contains(&source.name) {
                Finding::fail(what, NO_ZONES, ZONE_FIX)
            } else {
                Finding::warn(what, "no request yet", "send a request through its Envoy and look again")
            });
        }
        if !seen.is_empty() {
            let names: BTreeSet<String> =
                seen.into_iter().map(|(_, service, endpoint)| format!("{service}/{endpoint}")).collect();
            findings.push(Finding::warn(
                "unknown series",
                format!("of no configured endpoint: {}", some_of(&names)),
                "nothing to do where endpoints were removed: Envoy keeps their series until it restarts",
            ));
        }
        (findings, true)
    }

    /// Between an Envoy that is scraped and a series with an endpoint's label several things can be missing.
    async fn why_no_series(&self) -> Finding {
        const WHAT: &str = "series of endpoints";
        let label = &self.labels.endpoint_label;
        let prefix = QueryOptions::default().metric_prefix;
        let any = |answer: Result<Answer, PromError>| answer.is_ok_and(|a| !a.samples().is_empty());
        let up = format!("{}!=\"\"", self.labels.source_label);
        let zones = format!("count({{__name__=~\"{prefix}cluster_zone_.+\",{up}}})");
        if any(self.client.instant(&zones).await) {
            return Finding::fail(
                WHAT,
                format!("there are zone series, but none with the label `{label}`"),
                format!(
                    "add the `stats_tags` of `traflux bootstrap envoy` with `tag_name: {label}` to the Envoy"
                ),
            );
        }
        if !self.sources_with_requests().await.is_empty() {
            return Finding::fail(WHAT, NO_ZONES, ZONE_FIX);
        }
        let clusters = format!("count({prefix}cluster_upstream_rq_completed{{{up}}})");
        if any(self.client.instant(&clusters).await) {
            return Finding::warn(
                WHAT,
                "the Envoys are scraped, but no request went to a configured service yet",
                "send a request through a listener and look again",
            );
        }
        Finding::fail(
            WHAT,
            format!("no series `{prefix}cluster_upstream_rq_completed`"),
            "scrape `/stats/prometheus` of the admin interface",
        )
    }

    /// Sources whose Envoys completed a request to a configured service, whatever its zone.
    async fn sources_with_requests(&self) -> BTreeSet<String> {
        let LabelMap { source_label, service_label, .. } = &self.labels;
        let prefix = QueryOptions::default().metric_prefix;
        // A sanitised name holds nothing that is special in a regular expression.
        let services: Vec<String> = self.config.services.iter().map(|s| sanitize(&s.name)).collect();
        let services = services.join("|");
        let query = format!(
            "count by ({source_label}) ({prefix}cluster_upstream_rq_completed\
             {{{source_label}!=\"\",{service_label}=~\"{services}\"}} > 0)"
        );
        let Ok(answer) = self.client.instant(&query).await else { return BTreeSet::new() };
        answer.samples().iter().filter_map(|s| s.labels.get(source_label)).map(str::to_owned).collect()
    }

    async fn histograms(&self) -> Finding {
        const WHAT: &str = "latency histograms";
        if self.config.metrics.prometheus.native_histograms {
            let query = format!("count({})", self.endpoint_series("cluster_upstream_rq_time"));
            return match self.client.instant(&query).await {
                Ok(answer) if answer.samples().is_empty() => Finding::fail(
                    WHAT,
                    "no native histograms",
                    "run Prometheus with `--enable-feature=native-histograms` and scrape with \
                     `histogram_buckets=prometheusnative`, or set `native_histograms: false`",
                ),
                Ok(_) => Finding::ok(WHAT, "native"),
                Err(problem) => unreachable(WHAT, &problem),
            };
        }
        let query = format!("count by (le) ({})", self.endpoint_series("cluster_upstream_rq_time_bucket"));
        let answer = match self.client.instant(&query).await {
            Ok(answer) => answer,
            Err(problem) => return unreachable(WHAT, &problem),
        };
        let mut bounds: Vec<f64> = answer
            .samples()
            .iter()
            .filter_map(|sample| sample.labels.get("le")?.parse::<f64>().ok())
            .filter(|bound| bound.is_finite() && *bound > 0.0)
            .collect();
        bounds.sort_by(f64::total_cmp);
        let timeout = self.config.services.iter().map(|s| s.timeout_ms).fold(0.0, f64::max);
        let fix =
            "set `histogram_bucket_settings` with bounds there, as `traflux bootstrap envoy` prints them";
        let Some(last) = bounds.last() else {
            return Finding::fail(WHAT, "no buckets", fix);
        };
        // Between 1 ms and the timeout; what is outside decides nothing.
        let coarse = bounds
            .windows(2)
            .filter(|pair| pair[1] > 1.0 && pair[0] < timeout)
            .find(|pair| pair[1] / pair[0].max(1.0) > BUCKET_RATIO * 1.001);
        if let Some(pair) = coarse {
            return Finding::warn(
                WHAT,
                format!("{} buckets, none between {} and {} ms", bounds.len(), pair[0], pair[1]),
                fix,
            );
        }
        if *last < timeout {
            return Finding::warn(
                WHAT,
                format!("the last bucket ends at {last} ms, requests may take {timeout} ms"),
                fix,
            );
        }
        Finding::ok(WHAT, format!("{} buckets up to {last} ms", bounds.len()))
    }

    /// Counters are live, histograms are merged when statistics are flushed: where they change less often than
    /// counters, latency lags behind.
    async fn flush(&self) -> Option<Finding> {
        const WHAT: &str = "stats flush interval";
        if self.config.metrics.prometheus.native_histograms {
            return None;
        }
        let range =
            Duration::from_secs_f64((8.0 * self.config.metrics.prometheus.scrape_interval_s).max(60.0));
        let changes = async |metric: &str| {
            let query = format!("max(changes({}[{}]))", self.endpoint_series(metric), promql_duration(range));
            let answer = self.client.instant(&query).await.ok()?;
            answer.samples().first()?.number()
        };
        let (counter, histogram) =
            tokio::join!(changes("cluster_upstream_rq_completed"), changes("cluster_upstream_rq_time_count"));
        let (counter, histogram) = (counter?, histogram?);
        if counter < 6.0 {
            return Some(Finding::warn(
                WHAT,
                format!("cannot be told: counters changed {counter:.0} times within {} s", range.as_secs()),
                "send some requests and look again",
            ));
        }
        Some(if histogram < 0.6 * counter {
            Finding::warn(
                WHAT,
                format!("latencies changed {histogram:.0} times while counters changed {counter:.0} times"),
                "set `stats_flush_interval: 1s` in the Envoy's configuration",
            )
        } else {
            Finding::ok(WHAT, "latencies are as fresh as counters")
        })
    }

    /// The very questions that the controller asks.
    async fn questions(&self) -> Finding {
        const WHAT: &str = "queries";
        let prometheus = &self.config.metrics.prometheus;
        let options = QueryOptions {
            histograms: if prometheus.native_histograms { Histograms::Native } else { Histograms::Classic },
            ..QueryOptions::default()
        };
        let set = QuerySet::new(&options, &self.labels, Duration::from_secs_f64(prometheus.window_s));
        let answers = futures_util::future::join_all(
            set.named().map(|(name, query)| async move { (name, self.client.instant(query).await) }),
        )
        .await;
        let mut empty = Vec::new();
        for (name, answer) in &answers {
            match answer {
                Err(problem) => {
                    return Finding::fail(
                        WHAT,
                        format!("{name}: {problem}"),
                        "see `metrics.prometheus` of the documentation",
                    );
                }
                // Health needs `per_endpoint_stats`; everything else works without.
                Ok(answer) if answer.samples().is_empty() && *name != "health" => {
                    empty.push((*name).to_owned())
                }
                Ok(_) => {}
            }
        }
        if empty.is_empty() {
            Finding::ok(WHAT, format!("all {} are answered", answers.len()))
        } else {
            Finding::warn(
                WHAT,
                format!("no answer to {}", some_of(&empty)),
                "send requests for a whole window and look again",
            )
        }
    }

    async fn signals(&self) -> Vec<Finding> {
        let names: BTreeSet<String> = self.config.endpoints().map(|s| sanitize(&s.endpoint.name)).collect();
        let mut findings = Vec::new();
        for signal in &self.config.metrics.prometheus.signals {
            let what = format!("signal {}", signal.name);
            let answer = match self.client.instant(&signal.query).await {
                Ok(answer) => answer,
                Err(problem) => {
                    findings.push(Finding::fail(what, problem.to_string(), "mend its query"));
                    continue;
                }
            };
            let known = answer
                .samples()
                .iter()
                .filter_map(|sample| sample.labels.get(&signal.label))
                .filter(|name| names.contains(&sanitize(name)))
                .count();
            findings.push(if known > 0 {
                Finding::ok(what, format!("names {known} endpoints"))
            } else {
                Finding::warn(
                    what,
                    format!("no series whose label `{}` is the name of an endpoint", signal.label),
                    "aggregate the query by a label with the endpoint's name, and name that label in `label`",
                )
            });
        }
        findings
    }

    /// Series of one metric that name an endpoint and come from a source.
    fn endpoint_series(&self, metric: &str) -> String {
        let prefix = QueryOptions::default().metric_prefix;
        let nothing = promql_string("");
        format!(
            "{prefix}{metric}{{{}!={nothing},{}!={nothing}}}",
            self.labels.endpoint_label, self.labels.source_label
        )
    }
}

const NO_ZONES: &str = "there are series of clusters, but none of zones";
const ZONE_FIX: &str = "start Envoy with `node.locality.zone` (or `--service-zone`): without it there are no zone \
     series, and with it latency is known per endpoint";
const REPORT: &str = "this server does not answer like Prometheus; look at `metrics.prometheus.url`";

fn unreachable(what: &str, problem: &PromError) -> Finding {
    let fix = match problem {
        PromError::Unreachable { .. } | PromError::Deadline { .. } => {
            "start Prometheus, or mend `metrics.prometheus.url` and `timeout_ms`"
        }
        PromError::Unauthorized { .. } | PromError::SecretFile { .. } => "mend `metrics.prometheus.auth`",
        PromError::Tls { .. } => "mend `metrics.prometheus.auth.ca_file`, or the certificate of the server",
        PromError::NotFound { .. } | PromError::Redirect { .. } | PromError::BadAnswer { .. } => {
            "mend `metrics.prometheus.url`: it must lead to the API of Prometheus, without `/api/v1`"
        }
        PromError::Unavailable { .. } => "wait until Prometheus has started, or look at its log",
        PromError::TooLarge { .. }
        | PromError::Query { .. }
        | PromError::Options { .. }
        | PromError::Prices { .. } => "mend `metrics.prometheus`",
    };
    Finding::fail(what, problem.to_string(), fix)
}
