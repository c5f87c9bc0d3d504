//! What of the plan does a server look at for each request?

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::ServerConfig;
use traflux_core::plan::limit::{LimitScope, LimitUnit};
use traflux_core::plan::matching::MatchPlan;
use traflux_core::plan::requests::RequestPlan;

use super::settings::ServerSettings;
use super::tokens::{self, Tokens};
use super::upstream::{Upstreams, read_secret};
use super::{prepare, probing, scraping, tls};
use crate::error::GatewayError;
use crate::identity::IdentityTable;
use crate::units::PicoDollars;
use crate::wire::Usage;

/// A plan in force. A request that has begun keeps the one that it began with.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) plan: Arc<RequestPlan>,
    pub(super) identity: IdentityTable,
    pub(super) tokens: Tokens,
    pub(super) upstreams: Upstreams,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) admin_key: Option<String>,
    /// Whether what bodies say decides: a model, a stream, tokens or dollars. Then no body may say to a backend what it
    /// does not say here.
    pub(super) goes_by_bodies: bool,
    /// Time limits of routes by the name of their rule.
    timeouts: HashMap<String, Duration>,
}

impl Live {
    /// Reads everything that a plan names: keys, certificates, authorities.
    pub(super) fn new(
        plan: &RequestPlan,
        settings: &ServerSettings,
        before: Option<&Self>,
    ) -> Result<Self, GatewayError> {
        plan.validate()?;
        prepare::check_admin(plan)?;
        probing::check(plan)?;
        scraping::check(plan)?;
        tokens::check(plan)?;
        let rules = plan.routing.rules.iter().map(|rule| (rule.name.as_str(), &rule.route));
        let routes = rules.chain(plan.routing.default.iter().map(|route| ("default", route)));
        Ok(Self {
            identity: IdentityTable::new(&plan.identity)?,
            tokens: Tokens::new(&plan.identity)?,
            upstreams: Upstreams::new(plan, settings, before.map(|before| &before.upstreams))?,
            tls: plan.server.tls.as_ref().map(tls::config).transpose()?,
            admin_key: plan
                .server
                .admin_key
                .as_ref()
                .map(|source| read_secret("server.admin_key", source))
                .transpose()?,
            goes_by_bodies: goes_by_bodies(plan),
            timeouts: routes.filter_map(|(name, route)| Some((name.to_owned(), route.timeout?))).collect(),
            plan: Arc::new(plan.clone()),
        })
    }

    /// The time limit of a route.
    pub(super) fn timeout(&self, rule: &str) -> Option<Duration> {
        self.timeouts.get(rule).copied()
    }

    /// What a backend charges for an answer.
    pub(super) fn price(&self, backend: &str, model: &str, usage: Usage) -> PicoDollars {
        let Some(backend) = self.plan.backends.get(backend) else { return PicoDollars::ZERO };
        let price = backend.price_of(model);
        let input = price.input_dollars_per_million;
        let cached = price.cached_dollars_per_million.unwrap_or(input);
        // A dollar per million tokens is a million pico-dollars a token.
        let tokens = usage.input.saturating_sub(usage.cached) as f64 * input
            + usage.cached as f64 * cached
            + usage.output as f64 * price.output_dollars_per_million;
        PicoDollars((tokens * 1e6 + price.request_dollars * 1e12).round() as u64)
    }
}

fn goes_by_bodies(plan: &RequestPlan) -> bool {
    let asks = |matches: &MatchPlan| {
        !matches.model.is_empty() || matches.estimated_tokens.is_some() || matches.stream.is_some()
    };
    plan.backends.values().any(|backend| !backend.models.is_empty())
        || plan.routing.rules.iter().any(|rule| asks(&rule.matches))
        || plan.limits.iter().any(|limit| {
            asks(&limit.matches)
                || limit.by.contains(&LimitScope::Model)
                || !matches!(limit.unit, LimitUnit::Requests | LimitUnit::Concurrency)
        })
}
