//! Examples of Traflux as a library.
