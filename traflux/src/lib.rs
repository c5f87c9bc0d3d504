//! Traflux moves traffic between clouds, regions, providers and network paths by itself.
//!
//! The loop: observe → estimate → act → optimise → guard → control → learn. Its stages are the traits of
//! [`traflux_core::stages`]; [`Controller::tick`] goes once around. [`service`] runs it beside Envoy and
//! Prometheus; [`Config`] is what an operator writes; [`lab`] plays it on a simulated fleet; [`gateway`] runs it beside the
//! request engine in one process. [`te`] does the same for
//! the links of a network.

pub mod api;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod controller;
pub mod doctor;
mod family;
pub mod gateway;
pub mod lab;
mod progress;
pub mod service;
pub mod te;

pub use config::{Config, ConfigError};
pub use controller::{
    ControlConfig, Controller, Decision, DecisionLog, Fleet, Mode, Stages, StateStore, StoreError,
};
pub use family::error_family;
pub use traflux_core as core;
pub use traflux_lp as lp;
pub use traflux_policy as policy;
pub use traflux_prom as prom;
pub use traflux_sim as sim;
pub use traflux_xds as xds;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ReadmeOfTheProject;

#[cfg(doctest)]
#[doc = include_str!("../../docs/networks.md")]
struct Networks;
