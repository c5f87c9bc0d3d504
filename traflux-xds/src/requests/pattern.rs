//! How is a condition on a text written for Envoy?
//!
//! Envoy matches regular expressions with RE2 and always as a whole. What RE2 reads otherwise than the engine does is
//! not passed on.

use traflux_core::plan::matching::TextMatch;

use crate::proto::rich::*;

/// A regular expression.
pub(crate) fn regex(regex: impl Into<String>) -> RegexMatcher {
    RegexMatcher { regex: regex.into(), ..RegexMatcher::default() }
}

/// A text that a regular expression matches only as itself.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// One of several texts, as a regular expression.
pub(crate) fn alternatives<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts.into_iter().map(escaped).collect::<Vec<_>>().join("|")
}

/// Why RE2 would refuse a regular expression or read it otherwise, as far as that can be seen.
pub(crate) fn foreign_to_re2(pattern: &str) -> Option<&'static str> {
    // Set operations on classes: in RE2 the same characters are members of the class.
    if ["&&", "~~"].iter().any(|op| pattern.contains(op)) || nested_class(pattern) {
        return Some("set operations on classes of characters");
    }
    let mut rest = pattern;
    while let Some(at) = rest.find("(?") {
        rest = &rest[at + 2..];
        if rest.starts_with(['P', '<', ':']) {
            continue;
        }
        let end = rest.find([':', ')']).unwrap_or(rest.len());
        if rest[..end].chars().any(|flag| !"imsU-".contains(flag)) {
            return Some("a flag beside i, m, s and U");
        }
    }
    let mut escape = false;
    for c in pattern.chars() {
        if escape && "uU<>".contains(c) {
            return Some("an escape that RE2 does not know");
        }
        escape = c == '\\' && !escape;
    }
    None
}

/// Whether a class holds another, or a difference.
fn nested_class(pattern: &str) -> bool {
    let (mut inside, mut escape, mut before) = (false, false, ' ');
    for c in pattern.chars() {
        match c {
            _ if escape => escape = false,
            '\\' => escape = true,
            '[' if inside => return true,
            '[' => inside = true,
            ']' => inside = false,
            '-' if inside && before == '-' => return true,
            _ => {}
        }
        before = c;
    }
    false
}

/// How a condition on a text looks to Envoy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TextTest {
    /// A matcher of the text.
    Matches(StringMatcher),
    /// Whether there is a text.
    Present(bool),
    /// Not possible, and why.
    Foreign(&'static str),
}

fn matches(pattern: string_matcher::MatchPattern) -> TextTest {
    TextTest::Matches(StringMatcher { match_pattern: Some(pattern), ignore_case: false })
}

/// A matcher of a regular expression.
pub(crate) fn expression(pattern: impl Into<String>) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::SafeRegex(regex(pattern))),
        ignore_case: false,
    }
}

/// A condition on a text that Envoy sees as the engine does.
pub(crate) fn text_test(text: &TextMatch) -> TextTest {
    use string_matcher::MatchPattern as P;
    match text {
        TextMatch::Exact(text) => matches(P::Exact(text.clone())),
        TextMatch::OneOf(texts) => {
            TextTest::Matches(expression(alternatives(texts.iter().map(String::as_str))))
        }
        // Envoy refuses empty texts here; every text begins with one.
        TextMatch::Prefix(text) | TextMatch::Suffix(text) | TextMatch::Contains(text) if text.is_empty() => {
            TextTest::Present(true)
        }
        TextMatch::Prefix(text) => matches(P::Prefix(text.clone())),
        TextMatch::Suffix(text) => matches(P::Suffix(text.clone())),
        TextMatch::Contains(text) => matches(P::Contains(text.clone())),
        TextMatch::Regex(pattern) => match foreign_to_re2(pattern) {
            Some(what) => TextTest::Foreign(what),
            None => TextTest::Matches(expression(pattern.clone())),
        },
        TextMatch::Present(present) => TextTest::Present(*present),
    }
}

/// A condition on a value of the query. Envoy compares values as they were sent, the engine after decoding, so the
/// expression takes every way in which a text can be written; `None` for a regular expression of the plan's own.
pub(crate) fn query_test(text: &TextMatch) -> Option<TextTest> {
    /// One character of a decoded value, however it was written.
    const ANY: &str = "(?:%[0-9A-Fa-f]{2}|[^%&])*";
    let spelled = |text: &String| text.bytes().map(spellings).collect::<String>();
    let pattern = match text {
        TextMatch::Exact(text) => spelled(text),
        TextMatch::OneOf(texts) => texts.iter().map(spelled).collect::<Vec<_>>().join("|"),
        TextMatch::Prefix(text) => format!("{}{ANY}", spelled(text)),
        TextMatch::Suffix(text) => format!("{ANY}{}", spelled(text)),
        TextMatch::Contains(text) => format!("{ANY}{}{ANY}", spelled(text)),
        TextMatch::Regex(_) => return None,
        TextMatch::Present(present) => return Some(TextTest::Present(*present)),
    };
    Some(TextTest::Matches(expression(pattern)))
}

/// Every way to write a byte in a query.
fn spellings(byte: u8) -> String {
    let digit = |nibble: u8| {
        let digit = char::from(b"0123456789ABCDEF"[usize::from(nibble)]);
        if digit.is_ascii_digit() {
            digit.to_string()
        } else {
            format!("[{digit}{}]", digit.to_ascii_lowercase())
        }
    };
    let encoded = format!("%{}{}", digit(byte >> 4), digit(byte & 15));
    match byte {
        b' ' => format!(r"(?: |\+|{encoded})"),
        b'%' | b'&' | b'+' | b'#' | 0..=b' ' | 127.. => format!("(?:{encoded})"),
        byte => format!("(?:{}|{encoded})", escaped(&char::from(byte).to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_re2_reads_otherwise_is_seen() {
        for (pattern, foreign) in [
            ("/v[0-9]+", false),
            (r"a\[b", false),
            ("(?i)abc", false),
            ("(?P<x>a)", false),
            ("[a-z&&[^aeiou]]", true),
            ("[a-z--x]", true),
            ("(?x) a b", true),
            (r"\u{61}", true),
        ] {
            assert_eq!(foreign_to_re2(pattern).is_some(), foreign, "{pattern}");
        }
    }

    #[test]
    fn a_query_value_is_matched_in_every_spelling() {
        let Some(TextTest::Matches(matcher)) = query_test(&TextMatch::Exact("a b".into())) else {
            panic!("a matcher");
        };
        let expected = r"(?:a|%61)(?: |\+|%20)(?:b|%62)";
        assert_eq!(matcher, expression(expected));
    }
}
