//! Which path does a request mean, however it is written?
//!
//! Rules look at paths, and so do backends. Written as `/public/../admin`, `/%61dmin` or `/public/%2e%2e/admin`, a path
//! would be one thing to a rule and another to a backend that reads it as RFC 3986 does. So dot segments are removed
//! (section 5.2.4) and letters that need no escape lose it (section 6.2.2.2) before anything looks at the path, and the
//! backend gets what the rules saw. Other escapes, such as `%2F`, and slashes that follow each other stay as they are.

use std::borrow::Cow;

/// The path in its one form.
pub(super) fn normal(path: &str) -> Cow<'_, str> {
    let mut path = unescaped(path);
    if path.contains("/.") {
        path = Cow::Owned(without_dots(&path));
    }
    path
}

/// Without escapes of letters, digits, `-`, `.`, `_` and `~`.
fn unescaped(path: &str) -> Cow<'_, str> {
    let digit = |byte: Option<&u8>| byte.and_then(|b| char::from(*b).to_digit(16));
    let bytes = path.as_bytes();
    let plain = |at: usize| {
        let (high, low) = (digit(bytes.get(at + 1))?, digit(bytes.get(at + 2))?);
        // Two digits are at most 255.
        let letter = char::from((high * 16 + low) as u8);
        (letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_' | '~')).then_some(letter)
    };
    if !(0..bytes.len()).any(|at| bytes[at] == b'%' && plain(at).is_some()) {
        return Cow::Borrowed(path);
    }
    let mut text = String::with_capacity(path.len());
    let mut letters = path.char_indices();
    while let Some((at, letter)) = letters.next() {
        match (letter == '%').then(|| plain(at)).flatten() {
            Some(plain) => {
                text.push(plain);
                letters.nth(1);
            }
            None => text.push(letter),
        }
    }
    Cow::Owned(text)
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
        ] {
            assert_eq!(normal(path), expected, "{path}");
            assert_eq!(normal(expected), expected, "{expected} has not one form");
        }
    }

    #[test]
    fn what_is_in_form_is_not_copied() {
        assert!(matches!(normal("/v1/a%2Fb"), Cow::Borrowed(_)));
    }
}
