//! Request-level load balancing decisions
