//! How does the engine look at headers?

use std::borrow::Cow;

use http::header::HOST;
use http::{HeaderMap, Uri};

use crate::request::Lookup;

/// Headers of the `http` crate, to look values up in. A value that is no visible ASCII is as good as absent.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a>(pub &'a HeaderMap);

impl Lookup for Headers<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }
}

/// The host that a client asks for, without port, in lower case: that of the URI, which goes before the header (RFC 9112,
/// section 3.2.2); empty where there is neither.
pub(crate) fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Cow<'a, str> {
    let host = uri.host().or_else(|| {
        let host = headers.get(HOST)?.to_str().ok()?;
        // The colon before a port, not one within an address of IPv6.
        Some(host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(host, _)| host))
    });
    let host = host.unwrap_or_default();
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_that_of_the_uri_or_of_the_header_without_port_in_lower_case() {
        for (uri, header, expected) in [
            ("/x", "API.example:8080", "api.example"),
            ("/x", "[::1]:80", "[::1]"),
            ("/x", "[::1]", "[::1]"),
            ("http://one.example:1/x", "two.example", "one.example"),
            ("/x", "", ""),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(header.parse().ok().filter(|_| !header.is_empty()).map(|value| (HOST, value)));
            let uri: Uri = uri.parse().unwrap_or_default();
            assert_eq!(host(&uri, &headers), expected);
        }
    }
}
