//! What is wrong with a list of rules before any request comes?

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use traflux_core::plan::health::ProbePlan;
use traflux_core::plan::identity::TrustedNames;
use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::routing::RulePlan;

use super::clients::unknown_clients;
use super::form::out_of_form;
use super::subsume::{contradiction, covers, excludes};

/// Something that a list of rules says and its author perhaps did not mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// No request fulfils the rule.
    NeverMatches {
        /// The rule.
        rule: String,
        /// Why.
        reason: String,
    },
    /// Every request that fulfils the rule is taken by an earlier one.
    Shadowed {
        /// The rule.
        rule: String,
        /// The earlier one.
        by: String,
    },
    /// Some requests fulfil both, and the order decides between different routes.
    Overlaps {
        /// The rule that wins.
        rule: String,
        /// The one that loses.
        other: String,
    },
    /// A rule or limit asks for a path that no request has, because paths are compared in one form
    /// ([`normal_path`](super::normal_path)).
    PathForm {
        /// Where it stands.
        path: String,
        /// The path that is written there.
        written: String,
        /// Its form.
        form: String,
    },
    /// A route names a backend that is described nowhere: it has no URL, price or key.
    UnknownBackend {
        /// Where it is named.
        path: String,
        /// Its name.
        backend: String,
    },
    /// A backend that no route names.
    UnusedBackend {
        /// Its name.
        backend: String,
    },
    /// A condition, band or share speaks of a tenant or tier that `identity` gives to nobody.
    UnknownClient {
        /// Where it stands.
        path: String,
        /// The tenant or tier.
        value: String,
    },
    /// A condition on a claim, where `identity` trusts none: only programs that embed the engine pass claims.
    NoClaims {
        /// Where it stands.
        path: String,
    },
    /// Requests that no rule matches are answered with 404.
    NoDefault,
    /// A gateway that listens beyond its machine asks nobody who they are, and pays backends with its own keys.
    Open {
        /// Where it listens.
        listen: String,
    },
    /// Backends are asked how they are at a path that nobody chose, and that public providers do not have.
    UsualProbe {
        /// The backends, sorted.
        backends: Vec<String>,
    },
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Something written has no effect.
    Warning,
}

impl Finding {
    /// How much it matters.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::NeverMatches { .. }
            | Self::Shadowed { .. }
            | Self::PathForm { .. }
            | Self::UnknownBackend { .. }
            | Self::UnknownClient { .. }
            | Self::NoClaims { .. }
            | Self::Open { .. } => Severity::Warning,
            Self::Overlaps { .. }
            | Self::UnusedBackend { .. }
            | Self::NoDefault
            | Self::UsualProbe { .. } => Severity::Note,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverMatches { rule, reason } => write!(f, "rule `{rule}` can never match: {reason}"),
            Self::Shadowed { rule, by } => {
                write!(f, "rule `{rule}` can never decide: `{by}`, tried before, takes all that it matches")
            }
            Self::Overlaps { rule, other } => {
                write!(f, "rules `{rule}` and `{other}` overlap: `{rule}` is tried first and decides")
            }
            Self::PathForm { path, written, form } => {
                write!(
                    f,
                    "{path}: no request of a gateway has `{written}`: paths are compared in one form, here `{form}`"
                )
            }
            Self::UnknownBackend { path, backend } => {
                write!(f, "{path}: backend `{backend}` is not described under `backends`")
            }
            Self::UnknownClient { path, value } => {
                write!(f, "{path}: `identity` gives `{value}` to nobody")
            }
            Self::NoClaims { path } => {
                write!(
                    f,
                    "{path}: claims come with no request: `identity` has neither `jwt` nor `claims_header`"
                )
            }
            Self::UnusedBackend { backend } => write!(f, "backend `{backend}` is named by no route"),
            Self::NoDefault => {
                f.write_str("no default route: a request that no rule matches is answered with 404")
            }
            Self::Open { listen } => write!(
                f,
                "server.listen: whoever reaches {listen} uses the keys of `backends`: `identity` has neither keys nor tokens, \
                 and `server.tls` asks for no certificate"
            ),
            Self::UsualProbe { backends } => write!(
                f,
                "health_check: {} answer `GET /health` with 200 to 299, or are ill; for another path set `health.probe`",
                backends.join(", ")
            ),
        }
    }
}

/// Positions of rules in the order in which they are tried: falling priority, then as written.
#[must_use]
pub(crate) fn order(rules: &[RulePlan]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rules.len()).collect();
    order.sort_by_key(|ix| Reverse(rules[*ix].priority));
    order
}

/// Looks through the rules of a plan. What it finds is certain; it does not find everything (a rule that several
/// others cover only together, two regular expressions without a common text). What clients there are it takes from
/// `identity`; a program that recognises them by itself may know others.
///
/// Pairs of rules are compared one by one: 10,000 rules take seconds.
#[must_use]
pub fn review(plan: &RequestPlan) -> Vec<Finding> {
    let rules = &plan.routing.rules;
    let order = order(rules);
    let mut findings = Vec::new();
    let mut alive: Vec<&RulePlan> = Vec::new();
    for rule in order.iter().map(|ix| &rules[*ix]) {
        let name = rule.name.clone();
        if let Some(reason) = contradiction(&rule.matches) {
            findings.push(Finding::NeverMatches { rule: name, reason });
            continue;
        }
        if let Some(earlier) = alive.iter().find(|earlier| covers(&earlier.matches, &rule.matches)) {
            findings.push(Finding::Shadowed { rule: name, by: earlier.name.clone() });
            continue;
        }
        // A rule before a wider one is how exceptions are written; only a crossing is worth a note.
        let crossing = alive.iter().filter(|earlier| {
            earlier.route != rule.route
                && !covers(&rule.matches, &earlier.matches)
                && !excludes(&earlier.matches, &rule.matches)
        });
        findings.extend(
            crossing.map(|earlier| Finding::Overlaps { rule: earlier.name.clone(), other: name.clone() }),
        );
        alive.push(rule);
    }
    let of_rules = rules.iter().enumerate().map(|(ix, rule)| (format!("routing.rules[{ix}]"), &rule.matches));
    let of_limits =
        plan.limits.iter().enumerate().map(|(ix, limit)| (format!("limits[{ix}]"), &limit.matches));
    for (at, matches) in of_rules.chain(of_limits) {
        if let Some((written, form)) = matches.path.as_ref().and_then(out_of_form) {
            let written = written.to_owned();
            findings.push(Finding::PathForm { path: format!("{at}.match.path"), written, form });
        }
    }
    for (path, route) in plan.routes() {
        findings.extend(
            route
                .backend_names()
                .filter(|name| !plan.backends.contains_key(*name))
                .map(|name| Finding::UnknownBackend { path: path.clone(), backend: name.to_owned() }),
        );
    }
    let used = |name: &String| plan.routes().any(|(_, route)| route.backend_names().any(|n| n == name));
    findings.extend(
        plan.backends
            .keys()
            .filter(|name| !used(name))
            .map(|name| Finding::UnusedBackend { backend: name.clone() }),
    );
    findings.extend(unknown_clients(plan));
    if plan.routing.default.is_none() {
        findings.push(Finding::NoDefault);
    }
    findings.extend(open(plan));
    findings.extend(usual_probe(plan));
    findings
}

/// Whether anybody may use the keys of backends. Who trusts headers has somebody before it who asks.
fn open(plan: &RequestPlan) -> Option<Finding> {
    let (server, identity) = (&plan.server, &plan.identity);
    let elsewhere = server.listen.parse::<SocketAddr>().is_ok_and(|address| !address.ip().is_loopback());
    let asks = !identity.api_keys.is_empty()
        || identity.jwt.is_some()
        || identity.claims_header.is_some()
        || identity.trusted_headers != TrustedNames::default()
        || server.tls.as_ref().is_some_and(|tls| tls.client_authority_file.is_some());
    let pays = plan.backends.values().any(|backend| backend.key.is_some());
    (elsewhere && pays && !asks).then(|| Finding::Open { listen: server.listen.clone() })
}

/// Which backends are asked at the usual path.
fn usual_probe(plan: &RequestPlan) -> Option<Finding> {
    let probed = plan.routes().filter(|(_, route)| route.health_check == Some(true));
    let backends: BTreeSet<String> =
        probed.flat_map(|(_, route)| route.backend_names()).map(str::to_owned).collect();
    (!backends.is_empty() && plan.health.probe.probe == ProbePlan::default().probe)
        .then(|| Finding::UsualProbe { backends: backends.into_iter().collect() })
}
