//! Which elements does an XML file hold, and where?
//!
//! Containers are walked and only their items become small trees, so that a file of a million demands never
//! stands in memory as one. Entities other than the five of XML are refused and none is ever declared, so no
//! text grows by expansion.

use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::error::FormatError;
use super::text::Source;

/// The deepest nesting.
const MAX_DEPTH: usize = 64;

/// The most elements of one item, such as the paths of a demand.
const MAX_ITEM_ELEMENTS: usize = 1 << 16;

/// The most attributes of one element.
const MAX_ATTRIBUTES: usize = 256;

/// An element with what it holds.
#[derive(Debug, Clone)]
pub(super) struct Element {
    /// Name without prefix.
    pub(super) name: String,
    /// Offset of the tag.
    pub(super) at: usize,
    attributes: Vec<(String, String)>,
    /// Text directly in it.
    pub(super) text: String,
    /// Offset of the first text that is not blank, of the tag without.
    pub(super) text_at: usize,
    pub(super) children: Vec<Element>,
}

impl Element {
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// An attribute without which the element means nothing.
    pub(super) fn required(&self, source: &Source<'_>, name: &'static str) -> Result<&str, FormatError> {
        self.attribute(name)
            .ok_or_else(|| source.syntax(self.at, format!("attribute `{name}` of <{}>", self.name), ""))
    }

    /// The trimmed text of a child without which the element means nothing, and its offset.
    pub(super) fn required_text(
        &self,
        source: &Source<'_>,
        name: &'static str,
    ) -> Result<(&str, usize), FormatError> {
        self.child_text(name)
            .ok_or_else(|| source.syntax(self.at, format!("<{name}> in <{}>", self.name), ""))
    }

    pub(super) fn child_text(&self, name: &str) -> Option<(&str, usize)> {
        self.child(name).map(|child| (child.text.trim(), child.text_at))
    }
}

/// What a walk meets.
#[derive(Debug)]
pub(super) enum Visit {
    /// A container opens; its children follow.
    Open(Element),
    /// Any other element, whole.
    Item(Element),
    /// A comment, trimmed.
    Comment(String),
}

/// Walks the elements named in `containers`, and hands over every other element as a tree.
pub(super) fn walk(
    source: &Source<'_>,
    containers: &[&str],
    visit: &mut dyn FnMut(Visit) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let mut reader = Reader::from_str(source.text);
    reader.config_mut().expand_empty_elements = true;
    let mut open: Vec<String> = Vec::new();
    // The item that is being read: its ancestors and itself.
    let mut item: Vec<Element> = Vec::new();
    let mut item_elements = 0;
    let mut seen_root = false;
    loop {
        let at = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let event = reader.read_event().map_err(|error| {
            let at = usize::try_from(reader.error_position()).unwrap_or(at);
            source.problem(at, "well-formed XML", &error.to_string())
        })?;
        match event {
            Event::Start(tag) => {
                if open.len() + item.len() >= MAX_DEPTH {
                    return Err(source.too_large(at, "levels of nesting", MAX_DEPTH + 1, MAX_DEPTH));
                }
                if seen_root && open.is_empty() && item.is_empty() {
                    return Err(source.syntax(at, "one root element", "another"));
                }
                seen_root = true;
                let element = element(source, at, &tag)?;
                if item.is_empty() && containers.contains(&element.name.as_str()) {
                    open.push(element.name.clone());
                    visit(Visit::Open(element))?;
                } else {
                    item_elements += 1;
                    if item_elements > MAX_ITEM_ELEMENTS {
                        return Err(source.too_large(
                            at,
                            "elements in one",
                            item_elements,
                            MAX_ITEM_ELEMENTS,
                        ));
                    }
                    item.push(element);
                }
            }
            Event::End(_) => match (item.pop(), item.last_mut()) {
                (Some(done), Some(parent)) => parent.children.push(done),
                (Some(done), None) => {
                    item_elements = 0;
                    visit(Visit::Item(done))?;
                }
                (None, _) => {
                    open.pop();
                }
            },
            Event::Text(text) => {
                // Line ends are normalised in the content, so places are found in the text as it stands.
                let blank = text.len() - text.trim_start().len();
                add_text(source, &mut item, seen_root, at + blank, &text.xml10_content())?;
            }
            Event::CData(text) => {
                let at = at + "<![CDATA[".len();
                let blank = text.len() - text.trim_start().len();
                add_text(source, &mut item, seen_root, at + blank, &text.xml10_content())?;
            }
            Event::GeneralRef(reference) => {
                let resolved = resolve(source, at, &reference)?;
                add_text(source, &mut item, seen_root, at, &resolved)?;
            }
            Event::Comment(text) => visit(Visit::Comment(text.xml10_content().trim().to_string()))?,
            Event::Empty(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            Event::Eof => break,
        }
    }
    if let Some(name) = item.last().map(|element| &element.name).or(open.last()) {
        return Err(source.syntax(source.end(), format!("</{name}>"), ""));
    }
    if !seen_root {
        return Err(source.syntax(source.end(), "an element", ""));
    }
    Ok(())
}

fn element(source: &Source<'_>, at: usize, tag: &BytesStart<'_>) -> Result<Element, FormatError> {
    let mut attributes = Vec::new();
    // Looking for an equal name among all earlier ones takes quadratic time, so their number is limited.
    for (count, attribute) in tag.attributes().enumerate() {
        if count == MAX_ATTRIBUTES {
            return Err(source.too_large(at, "attributes of one element", count + 1, MAX_ATTRIBUTES));
        }
        let attribute =
            attribute.map_err(|error| source.problem(at, "well-formed attributes", &error.to_string()))?;
        let value = attribute
            .normalized_value(XmlVersion::Implicit1_0)
            .map_err(|error| source.problem(at, "an attribute in XML", &error.to_string()))?;
        attributes.push((attribute.key.local_name().as_ref().to_string(), value.into_owned()));
    }
    let name = tag.local_name().as_ref().to_string();
    Ok(Element { name, at, attributes, text: String::new(), text_at: at, children: Vec::new() })
}

fn add_text(
    source: &Source<'_>,
    item: &mut [Element],
    seen_root: bool,
    at: usize,
    text: &str,
) -> Result<(), FormatError> {
    let blank = text.trim().is_empty();
    match item.last_mut() {
        Some(element) => {
            // The text of an element begins behind its tag.
            if element.text_at == element.at && !blank {
                element.text_at = at;
            }
            element.text.push_str(text);
            Ok(())
        }
        None if blank => Ok(()),
        None => Err(source.syntax(at, if seen_root { "a tag" } else { "an XML file" }, text)),
    }
}

fn resolve(source: &Source<'_>, at: usize, reference: &BytesRef<'_>) -> Result<String, FormatError> {
    let name = reference.xml10_content();
    let unknown =
        || source.syntax(at, "a character or one of &lt; &gt; &amp; &quot; &apos;", &format!("&{name};"));
    if reference.is_char_ref() {
        let character = reference.resolve_char_ref().map_err(|_| unknown())?;
        return character.map(String::from).ok_or_else(unknown);
    }
    let text = match name.as_ref() {
        "lt" => "<",
        "gt" => ">",
        "amp" => "&",
        "quot" => "\"",
        "apos" => "'",
        _ => return Err(unknown()),
    };
    Ok(text.to_string())
}

/// Text for an element or an attribute. A character that XML cannot hold at all becomes U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' | '\u{7f}'..='\u{9f}' | '\u{2028}' => {
                escaped.push_str(&format!("&#{};", u32::from(character)));
            }
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Whether an XML declaration names an encoding whose bytes are code points, or none.
pub(super) fn declares_latin(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(200)];
    let head: String = head.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect();
    let Some(declaration) = head.find("<?xml").and_then(|at| head[at..].split("?>").next()) else {
        return false;
    };
    ["iso-8859-1", "latin1", "us-ascii", "windows-1252"].iter().any(|name| declaration.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, FormatError> {
        let mut seen = Vec::new();
        walk(&Source { text }, &["box"], &mut |visit| {
            seen.push(match visit {
                Visit::Open(element) => format!("open {}", element.name),
                Visit::Item(element) => {
                    format!("{} {:?} {}", element.name, element.text, element.children.len())
                }
                Visit::Comment(text) => format!("comment {text}"),
            });
            Ok(())
        })?;
        Ok(seen)
    }

    #[test]
    fn containers_are_walked_and_items_are_whole() {
        let seen =
            names("<?xml version='1.0'?><box><!-- c --><a>1&lt;&#65;<b/></a><n:box xmlns:n='u'/></box>")
                .unwrap();
        assert_eq!(seen, ["open box", "comment c", "a \"1<A\" 1", "open box"]);
    }

    #[test]
    fn what_is_not_well_formed_is_refused_with_its_place() {
        for (text, message) in [
            ("<box>\n <a></b></box>", "line 2, column 5: expected well-formed XML"),
            ("<box>\n", "line 2, column 1: expected </box>, found nothing"),
            ("<box><a", "line 1, column 6: expected well-formed XML"),
            ("<box/><box/>", "line 1, column 7: expected one root element"),
            ("<box>&lol;</box>", "line 1, column 6: expected a character or one of"),
            ("<box a=1/>", "line 1, column 1: expected well-formed attributes"),
            ("<box>text</box>", "line 1, column 6: expected a tag, found `text`"),
            ("", "line 1, column 1: expected an element"),
        ] {
            let error = names(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    #[test]
    fn texts_are_placed_where_they_stand() {
        let text = "<box>\r\n<a>\r\n  12</a>\r\n<a><![CDATA[ 34]]></a></box>";
        let source = Source { text };
        let mut places = Vec::new();
        walk(&source, &["box"], &mut |visit| {
            if let Visit::Item(element) = visit {
                let place = source.place(element.text_at);
                places.push((element.text.trim().to_string(), place.line, place.column));
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(places, [("12".to_string(), 3, 3), ("34".to_string(), 4, 14)]);
    }

    #[test]
    fn nesting_and_the_size_of_an_item_are_bounded() {
        assert_eq!(names(&"<a>".repeat(1000)).unwrap_err().code(), "format_too_large");
        let wide = format!("<box><a>{}</a></box>", "<b/>".repeat(MAX_ITEM_ELEMENTS));
        assert_eq!(names(&wide).unwrap_err().code(), "format_too_large");
        let attributes: String = (0..=MAX_ATTRIBUTES).map(|at| format!(" a{at}=''")).collect();
        assert_eq!(names(&format!("<box{attributes}/>")).unwrap_err().code(), "format_too_large");
    }

    #[test]
    fn escaped_text_reads_back() {
        let text = "a<b>&\"'\n\t\u{85}é";
        let seen = names(&format!("<box><a>{}</a></box>", escape(text))).unwrap();
        assert_eq!(seen[1], format!("a {text:?} 0"));
    }
}
