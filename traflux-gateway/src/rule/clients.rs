//! Which conditions speak of clients that there never are?
//!
//! Tenants and tiers come from the keys of `identity`, from its `anonymous`, or from headers and claims that it trusts.
//! Where none of these can give a value, a condition on it never holds; for a queue the same goes for its bands and shares.

use std::collections::BTreeSet;

use traflux_core::plan::identity::{IdentityPlan, TrustedNames};
use traflux_core::plan::matching::{MatchPlan, TextMatch};
use traflux_core::plan::requests::RequestPlan;

use super::report::Finding;

/// The values that a client can have; `None` for any.
type Known<'a> = Option<BTreeSet<&'a str>>;

struct Clients<'a> {
    tiers: Known<'a>,
    tenants: Known<'a>,
    /// Whether claims come with requests.
    claims: bool,
}

impl<'a> Clients<'a> {
    fn of(plan: &'a IdentityPlan) -> Self {
        let (headers, claims) = (&plan.trusted_headers, &plan.trusted_claims);
        let anonymous = plan.anonymous.iter();
        let tiers =
            plan.api_keys.iter().map(|key| &key.user_tier).chain(anonymous.clone().map(|a| &a.user_tier));
        let tenants = plan.api_keys.iter().map(|key| &key.tenant).chain(anonymous.map(|a| &a.tenant));
        let any_tier = headers.user_tier.is_some() || claims.user_tier.is_some();
        let any_tenant = headers.tenant.is_some() || claims.tenant.is_some();
        // The empty name is that of nobody in particular, which everybody may be.
        Self {
            tiers: (!any_tier).then(|| tiers.map(String::as_str).chain([""]).collect()),
            tenants: (!any_tenant).then(|| tenants.map(String::as_str).chain([""]).collect()),
            claims: plan.jwt.is_some() || plan.claims_header.is_some() || *claims != TrustedNames::default(),
        }
    }

    fn each(&self, at: &str, values: &[String], known: &Known<'_>, findings: &mut Vec<Finding>) {
        let Some(known) = known else { return };
        for value in values.iter().filter(|value| !known.contains(value.as_str())) {
            findings.push(Finding::UnknownClient { path: at.to_owned(), value: value.clone() });
        }
    }

    fn matching(&self, at: &str, matches: &MatchPlan, findings: &mut Vec<Finding>) {
        self.each(&format!("{at}.user_tier"), &matches.user_tier, &self.tiers, findings);
        self.each(&format!("{at}.tenant"), &matches.tenant, &self.tenants, findings);
        if !self.claims {
            let wanted = matches.claims.iter().filter(|(_, text)| **text != TextMatch::Present(false));
            findings
                .extend(wanted.map(|(name, _)| Finding::NoClaims { path: format!("{at}.claims.{name}") }));
        }
    }
}

/// Conditions and shares of clients that `identity` never gives.
pub(super) fn unknown_clients(plan: &RequestPlan) -> Vec<Finding> {
    let clients = Clients::of(&plan.identity);
    let mut findings = Vec::new();
    for (ix, rule) in plan.routing.rules.iter().enumerate() {
        clients.matching(&format!("routing.rules[{ix}].match"), &rule.matches, &mut findings);
    }
    for (ix, limit) in plan.limits.iter().enumerate() {
        clients.matching(&format!("limits[{ix}].match"), &limit.matches, &mut findings);
    }
    for (ix, band) in plan.queue.bands.iter().enumerate() {
        clients.each(&format!("queue.bands[{ix}].user_tier"), &band.user_tier, &clients.tiers, &mut findings);
    }
    let shares: Vec<String> = plan.queue.tenants.keys().cloned().collect();
    clients.each("queue.tenants", &shares, &clients.tenants, &mut findings);
    findings
}
