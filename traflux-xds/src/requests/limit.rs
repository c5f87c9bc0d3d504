//! Which filters keep the limits?
//!
//! Each limit on requests is a `local_ratelimit` filter of its own: its `rate_limits` say which requests it counts and
//! under which key, its descriptors hold the buckets. Envoy's bucket refills steadily, as the plan's does.

use traflux_core::plan::limit::{LimitPlan, LimitScope, LimitShape, LimitUnit};
use traflux_core::plan::limit_key;
use traflux_core::plan::matching::PathMatch;
use traflux_core::plan::requests::RequestPlan;

use super::identity::{Identity, Source};
use super::matching::{BODY, Conditions, Expressed, conditions, header, path_expression, present_header};
use super::pattern::expression;
use super::support::Report;
use crate::name::metric_name;
use crate::proto::rich::*;
use crate::proto::*;

/// Scopes beyond this are not told apart: each may be missing, and every combination needs a descriptor.
const MOST_SCOPES: usize = 3;
/// Envoy refills no bucket more often.
const SHORTEST_FILL_MS: u128 = 50;

/// The filters of all limits that Envoy keeps, and whether one looks at bodies.
pub(crate) fn filters(
    plan: &RequestPlan,
    identity: &Identity,
    report: &mut Report,
) -> (Vec<(String, Any)>, bool) {
    let counted = plan.limits.iter().filter(|limit| limit.unit == LimitUnit::Requests).count();
    let mut reads_body = false;
    let mut filters = Vec::new();
    for (ix, limit) in plan.limits.iter().enumerate() {
        let at = format!("limits[{ix}]");
        let Some(expressed) = limit_report(limit, &at, counted > 1, identity, report) else { continue };
        reads_body |= limit.by.contains(&LimitScope::Model);
        let name = format!("traflux.limit.{}", metric_name(&limit.name));
        filters.push((name, pack_any(filter(limit, &expressed, identity))));
    }
    (filters, reads_body)
}

/// Says how a limit is expressed; `None` where it is left out.
fn limit_report(
    limit: &LimitPlan,
    at: &str,
    several: bool,
    identity: &Identity,
    report: &mut Report,
) -> Option<Conditions> {
    let field = |name: &str| format!("{at}.{name}");
    match limit.unit {
        LimitUnit::Requests => {}
        LimitUnit::Concurrency => {
            report.unsupported(
                at,
                "Envoy bounds requests in flight for each cluster only (`pool.max_requests`); left out",
            );
            return None;
        }
        unit => {
            let which = format!(
                "a rate limit service that is told of each answer's {}: charged afterwards, and only there; left out",
                unit.name()
            );
            report.needs(at, which);
            return None;
        }
    }
    let expressed = conditions(&limit.matches, &field("match"), "the limit is left out", identity, report);
    let conditions = match expressed {
        Expressed::As(conditions) if conditions.metadata.is_empty() => conditions,
        Expressed::As(_) => {
            report.unsupported(
                field("match"),
                "limits look at headers and the query only; the limit is left out",
            );
            report.unsupported(at, "left out for its conditions");
            return None;
        }
        Expressed::Never => {
            report.native(at, "no request fulfils its conditions");
            return None;
        }
        Expressed::Impossible => {
            report.unsupported(at, "left out for its conditions");
            return None;
        }
    };
    if limit.by.contains(&LimitScope::Backend) || limit.by.len() > MOST_SCOPES {
        report.unsupported(at, "counted before a backend is chosen, and by at most three things; left out");
        return None;
    }
    if let Some(PathMatch::Regex(_)) = &limit.matches.path {
        report.approximated(
            field("match.path"),
            "header matcher on :path",
            "`.` may reach into the query, which stands behind the path there",
        );
    }
    report.native(field("name"), "name of the filter");
    report.exact_if(
        !several,
        field("unit"),
        "local_ratelimit",
        "limits are judged one after another: a request that a later one refuses has used up the earlier",
    );
    let whole = bucket(limit.amount, limit.burst, limit).1;
    report.exact_if(whole, field("amount"), "token_bucket", "rounded to whole tokens");
    if !matches!(limit.shape, LimitShape::Calendar(_)) {
        report.native(field("period_ms"), "token_bucket");
    }
    if limit.offset.is_some() {
        report.unsupported(field("offset_ms"), "a bucket refills steadily and has no periods that begin");
    }
    if limit.burst.is_some() {
        report.exact_if(
            limit.burst.is_none_or(|b| b.fract() == 0.0),
            field("burst"),
            "max_tokens",
            "rounded to whole tokens",
        );
    }
    match limit.shape {
        LimitShape::TokenBucket => report.native(field("shape"), "token_bucket"),
        LimitShape::FixedWindow => report.approximated(
            field("shape"),
            "token_bucket",
            "refills steadily instead of at borders of the period",
        ),
        LimitShape::Calendar(_) => report.approximated(
            field("shape"),
            "token_bucket",
            "refills steadily over the mean length of the window instead of at its beginning",
        ),
        LimitShape::SlidingWindow => report.approximated(
            field("shape"),
            "token_bucket",
            "after a rest, up to twice the amount in one period",
        ),
        LimitShape::Pacing => report.approximated(
            field("shape"),
            "token_bucket of one",
            "requests that come early are refused instead of waiting",
        ),
        LimitShape::WarmUp(_) => report.approximated(
            field("shape"),
            "token_bucket of one",
            "the full rate at once, also after a rest; requests that come early are refused instead of waiting",
        ),
    }
    for (ix, scope) in limit.by.iter().enumerate() {
        let at = format!("{at}.by[{ix}]");
        match scope {
            LimitScope::Model => report.approximated(at, "metadata", "the model of JSON bodies only"),
            LimitScope::Header(_) => report.native(at, "request_headers; keys unused longest are forgotten"),
            _ => report
                .native(at, "request_headers on what `identity` names; keys unused longest are forgotten"),
        }
    }
    if limit.max_keys.is_some() {
        report.approximated(
            field("max_keys"),
            "max_dynamic_descriptors",
            "beyond it the key unused longest begins anew, where the engine refuses",
        );
    }
    for key in limit.overrides.keys() {
        report.native(format!("{at}.overrides.{key}"), "descriptor with this value");
    }
    if limit.max_wait.is_some() {
        report.unsupported(field("max_wait_ms"), "Envoy refuses at once");
    }
    if limit.persistent {
        report.unsupported(field("persistent"), "levels are lost with the process");
    }
    Some(conditions)
}

/// A bucket, and whether its numbers are those of the plan.
fn bucket(amount: f64, burst: Option<f64>, limit: &LimitPlan) -> (TokenBucket, bool) {
    // Small or broken amounts are said per several periods.
    let mut periods: u32 = 1;
    let period = limit.usual_period();
    let whole = |periods: u32| (amount * f64::from(periods)).fract().abs() < 1e-9;
    while periods < 1000 && !(whole(periods) && period.as_millis() * u128::from(periods) >= SHORTEST_FILL_MS)
    {
        periods += 1;
    }
    let burst = match limit.shape {
        LimitShape::Pacing | LimitShape::WarmUp(_) => 1.0,
        _ => burst.unwrap_or(amount),
    };
    let most = f64::from(u32::MAX);
    let tokens = (amount * f64::from(periods)).round().clamp(1.0, most);
    let bucket = TokenBucket {
        max_tokens: burst.round().clamp(1.0, most) as u32,
        tokens_per_fill: uint32(tokens as u32),
        fill_interval: duration(period * periods),
    };
    (bucket, whole(periods) && burst.fract() == 0.0)
}

/// One part of the key of a limit.
enum Part {
    Header { name: String, key: String },
    Model,
}

/// Where one scope of a limit is found.
enum Place {
    Part(usize),
    /// It is the same for all clients.
    Constant(String),
}

fn filter(limit: &LimitPlan, conditions: &Conditions, identity: &Identity) -> LocalRateLimit {
    let mut parts = Vec::new();
    let mut by = Vec::new();
    for scope in &limit.by {
        let source = match scope {
            LimitScope::Tenant => identity.tenant.clone(),
            LimitScope::UserTier => identity.user_tier.clone(),
            LimitScope::User => identity.user.clone(),
            LimitScope::Key => identity.key.clone(),
            LimitScope::Header(name) => {
                Source::Header { name: name.to_ascii_lowercase(), missing: String::new() }
            }
            LimitScope::Model => {
                by.push(Place::Part(parts.len()));
                parts.push(Part::Model);
                continue;
            }
            LimitScope::Backend => continue,
        };
        match source {
            // The same for all: nothing is counted apart.
            Source::Constant(value) => by.push(Place::Constant(value)),
            Source::Header { name, .. } => {
                by.push(Place::Part(parts.len()));
                parts.push(Part::Header { key: name.clone(), name });
            }
        }
    }
    let always = TokenBucketRule { limit, parts: &parts, by: &by };
    let headers: Vec<_> = parts
        .iter()
        .enumerate()
        .filter_map(|(ix, part)| matches!(part, Part::Header { .. }).then_some(ix))
        .collect();
    let (mut rate_limits, mut descriptors) = (Vec::new(), Vec::new());
    // A request without one of the headers is counted with all others that lack it.
    for absent in 0..1_usize << headers.len() {
        let missing: Vec<usize> =
            headers.iter().enumerate().filter(|(bit, _)| absent >> bit & 1 == 1).map(|(_, ix)| *ix).collect();
        rate_limits.push(RateLimit {
            actions: actions(limit, conditions, &parts, &missing),
            ..RateLimit::default()
        });
        descriptors.extend(always.descriptors(conditions, &missing));
    }
    let all = || {
        Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: 100,
                denominator: fractional_percent::DenominatorType::Hundred.into(),
            }),
            ..RuntimeFractionalPercent::default()
        })
    };
    LocalRateLimit {
        stat_prefix: metric_name(&limit.name),
        filter_enabled: all(),
        filter_enforced: all(),
        descriptors,
        rate_limits,
        always_consume_default_token_bucket: Some(BoolValue { value: false }),
        max_dynamic_descriptors: uint32(limit.max_keys.unwrap_or(LimitPlan::USUAL_MAX_KEYS)),
        enable_retry_after_header: true,
        ..LocalRateLimit::default()
    }
}

/// What makes a request's descriptor; a request for which one of them yields nothing is not counted.
fn actions(
    limit: &LimitPlan,
    conditions: &Conditions,
    parts: &[Part],
    missing: &[usize],
) -> Vec<rate_limit::Action> {
    use rate_limit::action::{self, ActionSpecifier as A};
    let mut headers = conditions.headers.clone();
    if let Some(path) = &conditions.path {
        headers.push(header(":path", expression(path_expression(path))));
    }
    let mut specifiers = vec![if headers.is_empty() {
        A::GenericKey(action::GenericKey {
            descriptor_value: limit.name.clone(),
            descriptor_key: "limit".into(),
            ..action::GenericKey::default()
        })
    } else {
        A::HeaderValueMatch(action::HeaderValueMatch {
            descriptor_value: limit.name.clone(),
            descriptor_key: "limit".into(),
            headers,
            ..action::HeaderValueMatch::default()
        })
    }];
    if !conditions.query.is_empty() {
        specifiers.push(A::QueryParameterValueMatch(action::QueryParameterValueMatch {
            descriptor_value: "yes".into(),
            descriptor_key: "query".into(),
            query_parameters: conditions.query.clone(),
            ..action::QueryParameterValueMatch::default()
        }));
    }
    for (ix, part) in parts.iter().enumerate() {
        specifiers.push(match part {
            Part::Header { name, .. } if missing.contains(&ix) => {
                A::HeaderValueMatch(action::HeaderValueMatch {
                    descriptor_value: "none".into(),
                    descriptor_key: format!("no {name}"),
                    headers: vec![present_header(name, false)],
                    ..action::HeaderValueMatch::default()
                })
            }
            Part::Header { name, key } => A::RequestHeaders(action::RequestHeaders {
                header_name: name.clone(),
                descriptor_key: key.clone(),
                skip_if_absent: false,
            }),
            Part::Model => A::Metadata(action::MetaData {
                descriptor_key: "model".into(),
                metadata_key: Some(MetadataKey {
                    key: BODY.into(),
                    path: vec![metadata_key::PathSegment {
                        segment: Some(metadata_key::path_segment::Segment::Key("model".into())),
                    }],
                }),
                default_value: "none".into(),
                source: action::meta_data::Source::Dynamic.into(),
                skip_if_absent: false,
            }),
        });
    }
    specifiers.into_iter().map(|specifier| rate_limit::Action { action_specifier: Some(specifier) }).collect()
}

struct TokenBucketRule<'a> {
    limit: &'a LimitPlan,
    parts: &'a [Part],
    /// One for each scope of the plan.
    by: &'a [Place],
}

impl TokenBucketRule<'_> {
    /// The buckets of requests that lack these headers: those of overrides before that of all others.
    fn descriptors(&self, conditions: &Conditions, missing: &[usize]) -> Vec<LocalRateLimitDescriptor> {
        let limit = self.limit;
        let mut all = Vec::new();
        for (key, amount) in &limit.overrides {
            let Some(values) = self.values(key) else { continue };
            let lacks = |ix: &usize| matches!(self.parts[*ix], Part::Header { .. }) && values[*ix].is_empty();
            if (0..self.parts.len()).filter(lacks).eq(missing.iter().copied()) {
                all.push(self.descriptor(conditions, missing, &values, *amount));
            }
        }
        let usual =
            self.descriptor(conditions, missing, &vec![String::new(); self.parts.len()], limit.amount);
        // Where an override speaks of all these requests nothing is left for it, and Envoy takes no two alike.
        if all.iter().all(|own| own.entries != usual.entries) {
            all.push(usual);
        }
        all
    }

    /// What an override's key says of each part; `None` where no client has that key.
    fn values(&self, key: &str) -> Option<Vec<String>> {
        let mut values = vec![String::new(); self.parts.len()];
        let said = limit_key::split(key, self.by.len())?;
        for (place, value) in self.by.iter().zip(said) {
            match place {
                Place::Part(ix) => values[*ix] = value,
                Place::Constant(constant) if *constant != value => return None,
                Place::Constant(_) => {}
            }
        }
        Some(values)
    }

    /// One bucket; an empty value stands for any, with a bucket for each.
    fn descriptor(
        &self,
        conditions: &Conditions,
        missing: &[usize],
        values: &[String],
        amount: f64,
    ) -> LocalRateLimitDescriptor {
        let entry =
            |key: &str, value: &str| rate_limit_descriptor::Entry { key: key.into(), value: value.into() };
        let mut entries = vec![entry("limit", &self.limit.name)];
        if !conditions.query.is_empty() {
            entries.push(entry("query", "yes"));
        }
        for (ix, part) in self.parts.iter().enumerate() {
            entries.push(match part {
                Part::Header { name, .. } if missing.contains(&ix) => entry(&format!("no {name}"), "none"),
                Part::Header { key, .. } => entry(key, &values[ix]),
                Part::Model => entry("model", &values[ix]),
            });
        }
        LocalRateLimitDescriptor {
            entries,
            token_bucket: Some(bucket(amount, self.limit.burst, self.limit).0),
            ..LocalRateLimitDescriptor::default()
        }
    }
}
