//! How does the controller move the weights of an engine in the same process?
//!
//! Everything of [`traflux_gateway`] is here too, and beside it what connects it with the loop of
//! [`traflux_core::stages`]:
//!
//! | stage | here |
//! |---|---|
//! | what is controlled | [`fleet()`]: rules under `adaptive`, their backends, prices and capacities |
//! | observe | [`EngineSource`]: counters of the engine over a window |
//! | control | [`EngineActuator`]: `Engine::set_weights`, in force at once |
//! | all of it, at a plan's interval | [`EngineController`] |
//!
//! Estimators, solver and guard are those of the controller beside Envoy. `traflux gateway --config FILE` runs it
//! where the plan has a section [`control`](traflux_core::plan::control::ControlPlan); a program that embeds the
//! engine does the same in a few lines:
//!
//! ```
//! use traflux::core::Timestamp;
//! use traflux::core::plan::requests::RequestPlan;
//! use traflux::gateway::{Decision, Engine, EngineController, EngineSettings, Request};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let plan: RequestPlan = serde_json::from_str(
//!     r#"{"routing": {"default": {"backend": ["near", "far"]}},
//!         "control": {"interval_ms": 1000, "capacity_rps": {"near": 20, "far": 60}}}"#,
//! )?;
//! let now = Timestamp::ZERO;
//! let engine = Engine::new(&plan, &EngineSettings::default(), now)?;
//! let mut controller = EngineController::new(engine.clone());
//! // In a server: tokio::spawn(controller.run(clock, |line| eprintln!("{line}"))), and the engine serves beside it.
//! let decision = controller.tick(now).await?.ok_or("the plan leaves nothing to decide")?;
//! assert_eq!(decision.flows[0].weights, [("near".to_owned(), 5000), ("far".to_owned(), 5000)], "as the plan says");
//! let Decision::Forward(forward) = engine.decide(&Request::default(), now) else { return Err("no room".into()) };
//! assert!(["near", "far"].contains(&forward.backend()));
//! # Ok(())
//! # }
//! ```

mod actuator;
mod controller;
mod fleet;
mod price;
mod source;

pub use actuator::EngineActuator;
pub(crate) use controller::controlled;
pub use controller::{EngineControlError, EngineController};
pub use fleet::fleet;
pub use source::EngineSource;
#[doc(no_inline)]
pub use traflux_gateway::*;

use crate::config::ConfigError;

/// The plan that a text of YAML or JSON says. What types cannot say is not checked; `RequestPlan::validate` and
/// [`Engine::new`] do that.
///
/// ```
/// let plan = traflux::gateway::read_plan("routing: { default: { backend: [near, far] } }")?;
/// assert_eq!(plan.backend_names().into_iter().collect::<Vec<_>>(), ["far", "near"]);
/// let error = traflux::gateway::read_plan("routing: { default: { backends: near } }").unwrap_err();
/// assert_eq!(error.code(), "config_key");
/// # Ok::<(), traflux::ConfigError>(())
/// ```
///
/// # Errors
/// [`ConfigError::Syntax`], or [`ConfigError::Key`] with the path of the key.
pub fn read_plan(text: &str) -> Result<traflux_core::plan::requests::RequestPlan, ConfigError> {
    crate::config::read_yaml(text)
}
