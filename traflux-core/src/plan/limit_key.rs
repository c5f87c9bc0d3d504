//! How is a key of several scopes written?
//!
//! `acme/gpt-5` for a tenant and a model. In all parts but the last a slash is written `\/` and a backslash `\\`, so that
//! no two clients whose names contain slashes share a key; the last part stands as it is.

/// Adds what one scope says to a key.
pub fn push_part(key: &mut String, part: &str, is_last: bool) {
    if is_last || !part.contains(['/', '\\']) {
        key.push_str(part);
        return;
    }
    for character in part.chars() {
        if matches!(character, '/' | '\\') {
            key.push('\\');
        }
        key.push(character);
    }
}

/// What each of so many scopes says in a key; `None` for a key that no request has.
#[must_use]
pub fn split(key: &str, scopes: usize) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = key.chars();
    while parts.len() + 1 < scopes {
        let mut part = String::new();
        loop {
            match rest.next()? {
                '/' => break,
                '\\' => part.push(rest.next().filter(|next| matches!(next, '/' | '\\'))?),
                other => part.push(other),
            }
        }
        parts.push(part);
    }
    parts.push(rest.collect());
    Some(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(parts: &[String]) -> String {
        let mut key = String::new();
        for (ix, part) in parts.iter().enumerate() {
            if ix > 0 {
                key.push('/');
            }
            push_part(&mut key, part, ix + 1 == parts.len());
        }
        key
    }

    proptest! {
        #[test]
        fn every_key_splits_into_what_it_was_made_of(parts in prop::collection::vec(r"[ab/\\é]{0,4}", 1..5)) {
            prop_assert_eq!(split(&joined(&parts), parts.len()), Some(parts));
        }

        #[test]
        fn what_splits_is_the_key_of_its_parts_and_of_no_others(key in r"[ab/\\]{0,8}", scopes in 1usize..4) {
            if let Some(parts) = split(&key, scopes) {
                prop_assert_eq!(joined(&parts), key);
            }
        }
    }

    #[test]
    fn keys_of_too_few_parts_and_stray_backslashes_belong_to_nobody() {
        for (key, scopes) in [("a", 2), ("a\\/b", 2), ("a\\", 2), ("a\\b/c", 2), ("a/b", 3)] {
            assert_eq!(split(key, scopes), None, "{key}");
        }
    }
}
