//! Seeded discrete-event simulator of a multi-cloud fleet
