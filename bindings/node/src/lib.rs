//! How does Node reach the engines of Traflux?
//!
//! One file per module; each converts values and calls a crate of the family. What people call is `index.js`: it puts
//! objects around what is here, which passes numbers and texts, because those cross the border fastest.

pub mod controller;
pub mod engine;
pub mod errors;
pub mod lp;
pub mod networks;
pub mod request;
