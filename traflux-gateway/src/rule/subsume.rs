//! Does one set of conditions contain another, or exclude it?
//!
//! Both answers are one-sided: `true` is certain, `false` means "not known". Regular expressions are compared
//! by their text and tried on exact texts; nothing is guessed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use traflux_core::plan::matching::{MatchPlan, PathMatch, TextMatch};

use super::condition::{Pattern, whole};

/// Whether every request that fulfils `inner` fulfils `outer`.
pub(crate) fn covers(outer: &MatchPlan, inner: &MatchPlan) -> bool {
    let path = match (&outer.path, &inner.path) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => path_covers(outer, inner),
    };
    path && list_covers(&fold(&outer.method), &fold(&inner.method))
        && list_covers(&outer.user_tier, &inner.user_tier)
        && list_covers(&outer.tenant, &inner.tenant)
        && patterns_cover(&outer.model, &inner.model, Pattern::of_model)
        && patterns_cover(&outer.host, &inner.host, Pattern::of_host)
        && texts_cover(&lower(&outer.headers), &lower(&inner.headers))
        && texts_cover(&named(&outer.query), &named(&inner.query))
        && texts_cover(&named(&outer.claims), &named(&inner.claims))
        && outer.estimated_tokens.is_none_or(|o| {
            let i = inner.estimated_tokens.unwrap_or_default();
            o.min <= i.min && i.max <= o.max
        })
        && outer.stream.is_none_or(|o| inner.stream == Some(o))
}

/// Whether no request fulfils both.
pub(crate) fn excludes(a: &MatchPlan, b: &MatchPlan) -> bool {
    let paths = match (&a.path, &b.path) {
        (Some(a), Some(b)) => paths_exclude(a, b),
        _ => false,
    };
    let lists = |a: &[String], b: &[String]| {
        !a.is_empty() && !b.is_empty() && a.iter().all(|x| b.iter().all(|y| x != y))
    };
    let ranges = match (a.estimated_tokens, b.estimated_tokens) {
        (Some(a), Some(b)) => a.max < b.min || b.max < a.min,
        _ => false,
    };
    paths
        || lists(&fold(&a.method), &fold(&b.method))
        || lists(&a.user_tier, &b.user_tier)
        || lists(&a.tenant, &b.tenant)
        || patterns_exclude(&a.model, &b.model, Pattern::of_model)
        || patterns_exclude(&a.host, &b.host, Pattern::of_host)
        || texts_exclude(&lower(&a.headers), &lower(&b.headers))
        || texts_exclude(&named(&a.query), &named(&b.query))
        || texts_exclude(&named(&a.claims), &named(&b.claims))
        || ranges
        || matches!((a.stream, b.stream), (Some(a), Some(b)) if a != b)
}

/// Why no request fulfils these conditions, where that is certain.
pub(crate) fn contradiction(plan: &MatchPlan) -> Option<String> {
    if let Some(range) = plan.estimated_tokens.filter(|r| r.min > r.max) {
        return Some(format!("estimated tokens: min {} is above max {}", range.min, range.max));
    }
    let headers: Vec<_> = plan.headers.iter().collect();
    headers.iter().enumerate().find_map(|(ix, (name, text))| {
        headers[..ix].iter().find_map(|(other, earlier)| {
            (name.eq_ignore_ascii_case(other) && text_excludes(earlier, text))
                .then(|| format!("headers `{other}` and `{name}` are one header with two values"))
        })
    })
}

fn fold(texts: &[String]) -> Vec<String> {
    texts.iter().map(|t| t.to_ascii_uppercase()).collect()
}

/// Conditions on texts by name. A header may stand there twice, in other letters.
type Named<'a> = Vec<(Cow<'a, str>, &'a TextMatch)>;

fn lower(map: &BTreeMap<String, TextMatch>) -> Named<'_> {
    map.iter().map(|(name, text)| (name.to_ascii_lowercase().into(), text)).collect()
}

fn named(map: &BTreeMap<String, TextMatch>) -> Named<'_> {
    map.iter().map(|(name, text)| (name.as_str().into(), text)).collect()
}

fn list_covers(outer: &[String], inner: &[String]) -> bool {
    outer.is_empty() || (!inner.is_empty() && inner.iter().all(|text| outer.contains(text)))
}

fn patterns_cover(outer: &[String], inner: &[String], read: fn(&str) -> Pattern) -> bool {
    let covered = |inner: &Pattern| {
        outer.iter().map(|o| read(o)).any(|outer| match (&outer, inner) {
            (outer, Pattern::Exact(text)) => outer.holds(text),
            (Pattern::Prefix(outer), Pattern::Prefix(inner)) => inner.starts_with(outer.as_str()),
            (Pattern::Suffix(outer), Pattern::Suffix(inner)) => inner.ends_with(outer.as_str()),
            _ => false,
        })
    };
    outer.is_empty() || (!inner.is_empty() && inner.iter().all(|text| covered(&read(text))))
}

fn patterns_exclude(a: &[String], b: &[String], read: fn(&str) -> Pattern) -> bool {
    let apart = |a: &Pattern, b: &Pattern| match (a, b) {
        (a, Pattern::Exact(text)) => !a.holds(text),
        (Pattern::Exact(text), b) => !b.holds(text),
        (Pattern::Prefix(a), Pattern::Prefix(b)) => !a.starts_with(b.as_str()) && !b.starts_with(a.as_str()),
        (Pattern::Suffix(a), Pattern::Suffix(b)) => !a.ends_with(b.as_str()) && !b.ends_with(a.as_str()),
        _ => false,
    };
    !a.is_empty() && !b.is_empty() && a.iter().all(|a| b.iter().all(|b| apart(&read(a), &read(b))))
}

fn base(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

fn path_covers(outer: &PathMatch, inner: &PathMatch) -> bool {
    match (outer, inner) {
        (PathMatch::Regex(pattern), PathMatch::Exact(path)) => whole(pattern).is_ok_and(|r| r.is_match(path)),
        (PathMatch::Regex(outer), PathMatch::Regex(inner)) => outer == inner,
        (PathMatch::Regex(_), _) | (_, PathMatch::Regex(_)) => false,
        (outer, PathMatch::Exact(path)) => outer.holds(path) == Some(true),
        (PathMatch::Exact(_), _) => false,
        (PathMatch::Below(outer), PathMatch::Below(inner)) => {
            PathMatch::Below(outer.clone()).holds(base(inner)) == Some(true) || base(outer).is_empty()
        }
        (PathMatch::Below(outer), PathMatch::Prefix(inner)) => {
            inner.starts_with(&format!("{}/", base(outer)))
        }
        (PathMatch::Prefix(outer), PathMatch::Below(inner)) => {
            base(inner).starts_with(outer.as_str()) || (base(inner).is_empty() && outer == "/")
        }
        (PathMatch::Prefix(outer), PathMatch::Prefix(inner)) => inner.starts_with(outer.as_str()),
    }
}

fn paths_exclude(a: &PathMatch, b: &PathMatch) -> bool {
    let apart = |a: &str, b: &str| !a.starts_with(b) && !b.starts_with(a);
    match (a, b) {
        (PathMatch::Regex(pattern), PathMatch::Exact(path))
        | (PathMatch::Exact(path), PathMatch::Regex(pattern)) => {
            whole(pattern).is_ok_and(|r| !r.is_match(path))
        }
        (PathMatch::Regex(_), _) | (_, PathMatch::Regex(_)) => false,
        (PathMatch::Exact(path), other) | (other, PathMatch::Exact(path)) => other.holds(path) == Some(false),
        (PathMatch::Below(a), PathMatch::Below(b)) => {
            apart(&format!("{}/", base(a)), &format!("{}/", base(b)))
        }
        (PathMatch::Below(below), PathMatch::Prefix(prefix))
        | (PathMatch::Prefix(prefix), PathMatch::Below(below)) => {
            apart(&format!("{}/", base(below)), prefix) && !base(below).starts_with(prefix.as_str())
        }
        (PathMatch::Prefix(a), PathMatch::Prefix(b)) => apart(a, b),
    }
}

fn texts_cover(outer: &Named<'_>, inner: &Named<'_>) -> bool {
    outer.iter().all(|(name, outer)| inner.iter().any(|(n, inner)| n == name && text_covers(outer, inner)))
}

fn texts_exclude(a: &Named<'_>, b: &Named<'_>) -> bool {
    a.iter().any(|(name, a)| b.iter().any(|(n, b)| n == name && text_excludes(a, b)))
}

/// The texts that a condition names one by one.
fn listed(condition: &TextMatch) -> Option<Vec<&str>> {
    match condition {
        TextMatch::Exact(text) => Some(vec![text]),
        TextMatch::OneOf(texts) => Some(texts.iter().map(String::as_str).collect()),
        _ => None,
    }
}

fn holds(condition: &TextMatch, text: &str) -> bool {
    match condition {
        TextMatch::Regex(pattern) => whole(pattern).is_ok_and(|r| r.is_match(text)),
        condition => condition.holds(Some(text)) == Some(true),
    }
}

fn text_covers(outer: &TextMatch, inner: &TextMatch) -> bool {
    if let Some(texts) = listed(inner) {
        return texts.iter().all(|text| holds(outer, text));
    }
    match (outer, inner) {
        (TextMatch::Present(a), TextMatch::Present(b)) => a == b,
        (TextMatch::Present(true), _) => true,
        (TextMatch::Prefix(a), TextMatch::Prefix(b)) => b.starts_with(a.as_str()),
        (TextMatch::Suffix(a), TextMatch::Suffix(b)) => b.ends_with(a.as_str()),
        (TextMatch::Contains(a), TextMatch::Contains(b) | TextMatch::Prefix(b) | TextMatch::Suffix(b)) => {
            b.contains(a.as_str())
        }
        (TextMatch::Regex(a), TextMatch::Regex(b)) => a == b,
        _ => false,
    }
}

fn text_excludes(a: &TextMatch, b: &TextMatch) -> bool {
    if let Some(texts) = listed(a) {
        return texts.iter().all(|text| !holds(b, text));
    }
    if let Some(texts) = listed(b) {
        return texts.iter().all(|text| !holds(a, text));
    }
    match (a, b) {
        (TextMatch::Present(false), TextMatch::Present(false)) => false,
        (TextMatch::Present(false), _) | (_, TextMatch::Present(false)) => true,
        (TextMatch::Prefix(a), TextMatch::Prefix(b)) => {
            !a.starts_with(b.as_str()) && !b.starts_with(a.as_str())
        }
        (TextMatch::Suffix(a), TextMatch::Suffix(b)) => !a.ends_with(b.as_str()) && !b.ends_with(a.as_str()),
        _ => false,
    }
}
