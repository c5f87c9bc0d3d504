//! Which header says who asks?

use traflux_core::plan::identity::IdentityPlan;

use super::options::RequestOptions;
use super::pattern::alternatives;
use super::support::Report;
use crate::proto::rich::*;
use crate::proto::*;

/// Header in which the authorization service states the tenant, where the plan trusts no header for it.
pub const TENANT_HEADER: &str = "x-traflux-tenant";
/// Header in which the authorization service states the tier, where the plan trusts no header for it.
pub const USER_TIER_HEADER: &str = "x-traflux-user-tier";
/// Header in which the authorization service states the name of the API key.
pub const KEY_HEADER: &str = "x-traflux-key";

/// Where Envoy finds one property of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// It is the same for all.
    Constant(String),
    /// A header has it; without the header it is this.
    Header { name: String, missing: String },
}

/// Where Envoy finds who a client is.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) tenant: Source,
    pub(crate) user_tier: Source,
    pub(crate) user: Source,
    pub(crate) key: Source,
    /// Keys are required and nothing can check them.
    pub(crate) closed: bool,
    /// Headers that no client may send.
    pub(crate) reserved: Vec<&'static str>,
}

impl Identity {
    pub(crate) fn new(plan: &IdentityPlan, options: &RequestOptions, report: &mut Report) -> Self {
        let asks = is_secured(plan) && options.authorization.is_some();
        for ix in 0..plan.api_keys.len() {
            report.needs(
                format!("identity.api_keys[{ix}]"),
                if asks {
                    "ext_authz: a service that hashes the key presented, knows the table and answers with tenant and tier"
                } else {
                    "ext_authz: Envoy's own check of keys wants them in plain text, the plan has hashes. No service is \
                     given, so keys are not checked and, unless `anonymous` is set, every request is refused with 401"
                },
            );
        }
        let anonymous = plan.anonymous.clone().unwrap_or_default();
        if plan.anonymous.is_some() {
            report.native("identity.anonymous", "matchers that take a missing header for this client's");
        }
        let trusted = &plan.trusted_headers;
        let mut source =
            |name: &Option<String>, field: &str, stated: Option<&'static str>, missing: String| {
                if name.is_some() {
                    report.native(
                        format!("identity.trusted_headers.{field}"),
                        "header matchers, request_headers of limits",
                    );
                }
                match (name, stated.filter(|_| asks)) {
                    (Some(name), _) => Source::Header { name: name.to_ascii_lowercase(), missing },
                    (None, Some(stated)) => Source::Header { name: stated.into(), missing },
                    (None, None) => Source::Constant(missing),
                }
            };
        let tenant = source(&trusted.tenant, "tenant", Some(TENANT_HEADER), anonymous.tenant);
        let user_tier = source(&trusted.user_tier, "user_tier", Some(USER_TIER_HEADER), anonymous.user_tier);
        let user = source(&trusted.user, "user", None, String::new());
        let key = source(&None, "", Some(KEY_HEADER), String::new());
        let claims = &plan.trusted_claims;
        for (name, field) in
            [(&claims.tenant, "tenant"), (&claims.user, "user"), (&claims.user_tier, "user_tier")]
        {
            if name.is_some() {
                report.needs(
                    format!("identity.trusted_claims.{field}"),
                    "a proxy in front, or jwt_authn with the issuer's keys, that puts the claim into a trusted header; \
                     the claim itself is not looked at",
                );
            }
        }
        if plan.jwt.is_some() {
            report.needs(
                "identity.jwt",
                if asks {
                    "ext_authz: the service that knows the keys also verifies tokens and answers with tenant and tier"
                } else {
                    "ext_authz, or jwt_authn with the issuer's keys, which are not in the plan itself. Tokens are not \
                     checked and, unless `anonymous` is set, every request is refused with 401"
                },
            );
        }
        if plan.claims_header.is_some() {
            report.needs(
                "identity.claims_header",
                "a proxy in front that puts claims into trusted headers of their own; this one is not looked at",
            );
        }
        let closed = is_secured(plan) && plan.anonymous.is_none() && !asks;
        let reserved = if asks { vec![TENANT_HEADER, USER_TIER_HEADER, KEY_HEADER] } else { Vec::new() };
        let trusts = |name: &Option<String>, header: &str| {
            name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(header))
        };
        let reserved = reserved
            .into_iter()
            .filter(|header| !trusts(&trusted.tenant, header) && !trusts(&trusted.user_tier, header))
            .collect();
        Self { tenant, user_tier, user, key, closed, reserved }
    }
}

/// Whether a client has to show a key or a token.
pub(crate) fn is_secured(plan: &IdentityPlan) -> bool {
    !plan.api_keys.is_empty() || plan.jwt.is_some()
}

impl Source {
    /// A matcher of one of these values: `Ok(None)` where every client has one, `Err` where none can.
    pub(crate) fn one_of(&self, texts: &[String]) -> Result<Option<HeaderMatcher>, ()> {
        match self {
            Self::Constant(value) => {
                if texts.contains(value) {
                    Ok(None)
                } else {
                    Err(())
                }
            }
            Self::Header { name, missing } => {
                // A missing header reads as an empty one.
                let empty = texts.contains(missing);
                let texts = texts.iter().map(String::as_str).chain(empty.then_some(""));
                Ok(Some(HeaderMatcher {
                    name: name.clone(),
                    treat_missing_header_as_empty: empty,
                    header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(
                        super::pattern::expression(alternatives(texts)),
                    )),
                    ..HeaderMatcher::default()
                }))
            }
        }
    }
}

/// Name of the cluster of the authorization service.
pub(crate) const AUTHORIZATION_CLUSTER: &str = "traflux_authorization";

/// The filters that take reserved headers from clients and ask the service.
pub(crate) fn filters(
    plan: &IdentityPlan,
    options: &RequestOptions,
    identity: &Identity,
) -> Vec<(&'static str, Any)> {
    let Some(host) = options.authorization.as_ref().filter(|_| is_secured(plan)) else {
        return Vec::new();
    };
    let remove = identity
        .reserved
        .iter()
        .map(|name| Mutation { action: Some(mutation::Action::Remove((*name).to_owned())) });
    let stated = [&identity.tenant, &identity.user_tier, &identity.key].into_iter().filter_map(|s| match s {
        Source::Header { name, .. } => Some(StringMatcher {
            match_pattern: Some(string_matcher::MatchPattern::Exact(name.clone())),
            ignore_case: true,
        }),
        Source::Constant(_) => None,
    });
    let asked = ["authorization", "x-api-key", "api-key"].map(|name| StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Exact(name.into())),
        ignore_case: true,
    });
    vec![
        (
            "envoy.filters.http.header_mutation",
            pack_any(HeaderMutation {
                mutations: Some(Mutations { request_mutations: remove.collect(), ..Mutations::default() }),
                ..HeaderMutation::default()
            }),
        ),
        (
            "envoy.filters.http.ext_authz",
            pack_any(ExtAuthz {
                services: Some(ext_authz::Services::HttpService(HttpService {
                    server_uri: Some(HttpUri {
                        uri: format!("http://{}:{}", host.address, host.port),
                        http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(
                            AUTHORIZATION_CLUSTER.into(),
                        )),
                        timeout: duration(options.authorization_timeout),
                    }),
                    authorization_response: Some(AuthorizationResponse {
                        allowed_upstream_headers: Some(ListStringMatcher { patterns: stated.collect() }),
                        ..AuthorizationResponse::default()
                    }),
                    ..HttpService::default()
                })),
                allowed_headers: Some(ListStringMatcher { patterns: asked.to_vec() }),
                // Rules look at what the service states.
                clear_route_cache: true,
                failure_mode_allow: false,
                status_on_error: Some(HttpStatus { code: 503 }),
                ..ExtAuthz::default()
            }),
        ),
    ]
}
