//! What is read of a request's body?

use traflux_gateway::{RequestFacts, TokensPlan};

/// The body of a request.
pub fn check(data: &[u8]) {
    let Ok(facts) = RequestFacts::read(data) else { return };
    let text = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    assert!(text.trim_ascii_start().starts_with(b"{"), "a body that is no object was read");
    assert!(std::str::from_utf8(facts.prompt).is_ok() && facts.prompt.len() <= data.len());
    for bytes_per_token in [4.0, 1.0, 0.0, f64::MAX] {
        let estimate = facts.estimate(&TokensPlan { bytes_per_token, ..TokensPlan::default() });
        assert_eq!(estimate.output, facts.max_output.unwrap_or(4096));
        assert!(estimate.total() >= estimate.output);
    }
}
