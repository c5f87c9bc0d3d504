//! Which path does a request mean, however it is written?
//!
//! Rules look at paths, and so do backends. Written as `/public/../admin`, `/%61dmin` or `/public/%2e%2e/admin`, a path
//! would be one thing to a rule and another to a backend that reads it as RFC 3986 does. So dot segments are removed
//! (section 5.2.4) and letters that need no escape lose it (section 6.2.2.2) before anything looks at the path, and the
//! backend gets what the rules saw. Other escapes, such as `%2F`, and slashes that follow each other stay as they are.

use std::borrow::Cow;

use traflux_core::plan::matching::PathMatch;

/// The path in its one form, which has itself as its form.
///
/// ```
/// use traflux_gateway::rule::normal_path;
///
/// assert_eq!(normal_path("/public/%2e%2e/%61dmin"), "/admin");
/// ```
#[must_use]
pub fn normal_path(path: &str) -> Cow<'_, str> {
    let mut path = unescaped(path);
    if path.contains("/.") {
        path = Cow::Owned(without_dots(&path));
    }
    path
}

/// What a rule says of paths and no path in its one form fulfils: what is written there, and the form of it. Regular
/// expressions are not looked into.
pub(crate) fn out_of_form(path: &PathMatch) -> Option<(&str, String)> {
    let (written, more) = match path {
        PathMatch::Below(path) | PathMatch::Exact(path) => (path, ""),
        // Its last segment may go on: `/a/.` begins `/a/.hidden`.
        PathMatch::Prefix(path) => (path, "x"),
        PathMatch::Regex(_) => return None,
    };
    let whole = format!("{written}{more}");
    let form = normal_path(&whole);
    (form != whole).then(|| (written.as_str(), form[..form.len() - more.len()].to_owned()))
}

/// Without escapes of letters, digits, `-`, `.`, `_` and `~`.
///
/// One that is put together by what another leaves (`%%361`) goes too: else what is passed on would be an escape again.
fn unescaped(path: &str) -> Cow<'_, str> {
    if !path.as_bytes().windows(3).any(|three| plain(three).is_some()) {
        return Cow::Borrowed(path);
    }
    let mut text = Vec::with_capacity(path.len());
    for byte in path.bytes() {
        text.push(byte);
        while let Some(letter) = text.last_chunk::<3>().and_then(|three| plain(three)) {
            text.truncate(text.len() - 3);
            text.push(letter);
        }
    }
    // Only ASCII was taken away and added.
    Cow::Owned(String::from_utf8_lossy(&text).into_owned())
}

/// What three bytes stand for that are an escape without need.
fn plain(three: &[u8]) -> Option<u8> {
    let &[b'%', high, low] = three else { return None };
    let (high, low) = (char::from(high).to_digit(16)?, char::from(low).to_digit(16)?);
    // Two digits are at most 255.
    let letter = (high * 16 + low) as u8;
    (letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'.' | b'_' | b'~')).then_some(letter)
}

/// Without segments `.` and `..`, which go no further up than the root.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                // What lies in a folder was meant, even if nothing of it is named.
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_form() {
        for (path, expected) in [
            // From RFC 3986, section 5.2.4, with a slash before the second.
            ("/a/b/c/./../../g", "/a/g"),
            ("/mid/content=5/../6", "/mid/6"),
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/public/../admin", "/admin"),
            ("/public/%2e%2E/admin", "/admin"),
            ("/public/.%2e/admin", "/admin"),
            ("/%61dmin/%7Eme", "/admin/~me"),
            ("/../../x", "/x"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/.", "/"),
            ("/.hidden/a..b/...", "/.hidden/a..b/..."),
            ("/a%2Fb/%c3%a9", "/a%2Fb/%c3%a9"),
            ("/a//../b", "/a/b"),
            ("/%", "/%"),
            ("/%2", "/%2"),
            ("/%2g%2e", "/%2g."),
            ("*", "*"),
            ("/%%361dmin", "/admin"),
            ("/%%%36%31/%2%65/", "/%a/"),
            ("/%%32%65%2e/x", "/x"),
        ] {
            assert_eq!(normal_path(path), expected, "{path}");
            assert_eq!(normal_path(expected), expected, "{expected} has not one form");
        }
    }

    #[test]
    fn what_is_in_form_is_not_copied() {
        assert!(matches!(normal_path("/v1/a%2Fb"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_path_that_no_request_has_is_told() {
        let below = |path: &str| PathMatch::Below(path.to_owned());
        let prefix = |path: &str| PathMatch::Prefix(path.to_owned());
        for (path, expected) in [
            (below("/a/../b"), Some("/b")),
            (PathMatch::Exact("/%61".into()), Some("/a")),
            (below("/a/."), Some("/a/")),
            (below("/v1/.hidden/%2F"), None),
            (prefix("/a/../b"), Some("/b")),
            (prefix("/a/."), None),
            (prefix("/a/../"), Some("/")),
            (prefix("/%6"), None),
            (prefix("/%61"), Some("/a")),
            (PathMatch::Regex("/a/../b".into()), None),
        ] {
            assert_eq!(out_of_form(&path).map(|(_, form)| form).as_deref(), expected, "{path:?}");
        }
    }
}
