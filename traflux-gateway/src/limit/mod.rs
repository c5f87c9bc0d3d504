//! May this request go now, and if not, when?
pub mod bucket;
pub mod meter;

pub use bucket::{BucketCell, Receipt, Shortfall};
pub use meter::{Meter, MeterError, Refill};
