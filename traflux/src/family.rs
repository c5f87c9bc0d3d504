//! What kind of error does a code name?
//!
//! Codes are alike in every language; the families are the classes that Python and Node raise. A code belongs to the same
//! one whichever call gave it.

/// Beginnings of codes, and the family of each; the first that fits counts.
const FAMILIES: [(&str, &str); 26] = [
    ("input_", "InputError"),
    ("internal_panic", "InternalPanic"),
    ("config_", "ConfigError"),
    ("topology_", "TopologyError"),
    ("plan_", "PlanError"),
    ("network_", "NetworkError"),
    ("format_", "NetworkError"),
    ("te_", "NetworkError"),
    ("observe_", "ObserveError"),
    ("estimate_", "EstimateError"),
    ("encode_", "EncodeError"),
    ("policy_", "PolicyError"),
    ("checkpoint_", "PolicyError"),
    ("run_learner", "PolicyError"),
    ("run_", "ConfigError"),
    ("solve_", "SolveError"),
    ("flow_", "SolveError"),
    ("table_", "SolveError"),
    ("check_", "SolveError"),
    ("actuate_", "ActuateError"),
    ("environment_", "SimulationError"),
    ("sim_", "SimulationError"),
    ("store_", "StoreError"),
    ("gateway_", "GatewayError"),
    ("xds_", "ConfigError"),
    ("prom_", "ConfigError"),
];

/// The family of an error by its code: the name of its class in Python and Node; `TrafluxError` where it has none.
///
/// ```
/// assert_eq!(traflux::error_family("solve_deadline"), "SolveError");
/// ```
#[must_use]
pub fn error_family(code: &str) -> &'static str {
    let family = FAMILIES.iter().find(|(beginning, _)| code.starts_with(beginning));
    family.map_or("TrafluxError", |(_, family)| family)
}
