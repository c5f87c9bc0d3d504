//! Which members and parameters does this structured field hold?
//!
//! The part of RFC 9651 that rate-limit fields use: lists of strings, tokens or numbers with parameters, and
//! the `key=value` members of dictionaries. Lenient where the RFC is strict (a stray blank does no harm),
//! never allocating, and total: anything not understood yields members that no caller recognises.

/// More parameters than any draft has; further ones are dropped.
const MAX_PARAMETERS: usize = 8;
/// Further members are dropped.
const MAX_MEMBERS: usize = 16;

/// One member of a list or dictionary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Member<'a> {
    /// The item of a list, without quotes, or the key of a dictionary.
    pub(crate) item: &'a [u8],
    /// The value of a dictionary member.
    pub(crate) value: Option<&'a [u8]>,
    parameters: [(&'a [u8], &'a [u8]); MAX_PARAMETERS],
}

impl<'a> Member<'a> {
    /// The value of a parameter, without quotes.
    pub(crate) fn parameter(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.parameters.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }
}

/// The members of a field value, in order.
pub(crate) fn members(field: &[u8]) -> impl Iterator<Item = Member<'_>> {
    pieces(field, b',').filter(|piece| !piece.is_empty()).take(MAX_MEMBERS).map(|text| {
        let mut parts = pieces(text, b';');
        let (item, value) = pair(parts.next().unwrap_or_default());
        let mut member = Member { item, value, ..Member::default() };
        for (slot, part) in member.parameters.iter_mut().zip(parts) {
            let (name, value) = pair(part);
            *slot = (name, value.unwrap_or_default());
        }
        member
    })
}

/// Splits at a separator that stands outside quotes; pieces are trimmed.
fn pieces(field: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = text.iter().position(|b| {
            match b {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ => {}
            }
            *b == separator && !quoted
        });
        rest = end.map(|end| &text[end + 1..]);
        Some(text[..end.unwrap_or(text.len())].trim_ascii())
    })
}

/// `key=value` or a bare item, quotes removed. A quoted item is never a key.
fn pair(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    if text.first() == Some(&b'"') {
        return (unquoted(text), None);
    }
    match text.iter().position(|b| *b == b'=') {
        Some(at) => (text[..at].trim_ascii(), Some(unquoted(text[at + 1..].trim_ascii()))),
        None => (text, None),
    }
}

fn unquoted(text: &[u8]) -> &[u8] {
    match text {
        [b'"', inner @ .., b'"'] => inner,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_the_current_draft_have_names_and_parameters() {
        let all: Vec<_> =
            members(br#""burst";q=100;w=60;pk=:cHsdsR894==:, "daily, \"big\"";q=1000;qu="requests""#)
                .collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].item, b"burst");
        assert_eq!(all[0].parameter(b"q"), Some(&b"100"[..]));
        assert_eq!(all[0].parameter(b"pk"), Some(&b":cHsdsR894==:"[..]));
        assert_eq!(all[1].item, br#"daily, \"big\""#);
        assert_eq!(all[1].parameter(b"qu"), Some(&b"requests"[..]));
        assert_eq!(all[1].parameter(b"w"), None);
    }

    #[test]
    fn members_of_a_dictionary_have_values() {
        let all: Vec<_> = members(b"limit=100, remaining=50 ,reset=5").collect();
        assert_eq!(
            all.iter().map(|m| (m.item, m.value)).collect::<Vec<_>>(),
            [(&b"limit"[..], Some(&b"100"[..])), (b"remaining", Some(b"50")), (b"reset", Some(b"5")),]
        );
    }

    #[test]
    fn an_open_quote_and_a_flood_of_members_do_no_harm() {
        assert_eq!(members(b"\"open;q=1, x").count(), 1);
        assert_eq!(members(&b"a,".repeat(10_000)).count(), MAX_MEMBERS);
        assert_eq!(members(b",,,").count(), 0);
    }
}
