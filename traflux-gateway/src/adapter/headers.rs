//! How does the engine look at headers?

use http::HeaderMap;

use crate::request::Lookup;

/// Headers of the `http` crate, to look values up in. A value that is no visible ASCII is as good as absent.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a>(pub &'a HeaderMap);

impl Lookup for Headers<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }
}
