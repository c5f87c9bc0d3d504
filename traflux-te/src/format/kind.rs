//! Which format is this file in?

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use super::error::{FormatError, Place};
use super::text::quoted;
use super::unit::RateUnit;

/// As much of a file as tells its format.
pub(super) const HEAD_BYTES: u64 = 1 << 16;

/// A format of networks, matrices or both; see the [table](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// SNDlib's text format.
    SndlibNative,
    /// SNDlib's XML format, networks and dynamic demands.
    SndlibXml,
    /// GraphML with the attributes of the Topology Zoo.
    GraphMl,
    /// GML with the attributes of the Topology Zoo.
    Gml,
    /// REPETITA's `.graph` and `.demands` files.
    Repetita,
    /// CFR-RL's table of links, and rows of matrices in its unit.
    CfrRl,
    /// Rows of matrices, as DOTE and FIGRET have them.
    Rows,
    /// NetworkX node-link JSON: TopoHub, TEAL, FIGRET.
    NodeLink,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 8] = [
        Self::SndlibNative,
        Self::SndlibXml,
        Self::GraphMl,
        Self::Gml,
        Self::Repetita,
        Self::CfrRl,
        Self::Rows,
        Self::NodeLink,
    ];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SndlibNative => "sndlib",
            Self::SndlibXml => "sndlib-xml",
            Self::GraphMl => "graphml",
            Self::Gml => "gml",
            Self::Repetita => "repetita",
            Self::CfrRl => "cfr-rl",
            Self::Rows => "rows",
            Self::NodeLink => "node-link",
        }
    }

    /// The format that the extension of a file tells; `.txt` and none tell nothing.
    #[must_use]
    pub fn from_extension(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "graphml" => Some(Self::GraphMl),
            "gml" => Some(Self::Gml),
            "graph" | "demands" => Some(Self::Repetita),
            "json" => Some(Self::NodeLink),
            "xml" => Some(Self::SndlibXml),
            "hist" | "rows" => Some(Self::Rows),
            _ => None,
        }
    }

    /// The format that the start of a file tells.
    #[must_use]
    pub fn from_content(bytes: &[u8]) -> Option<Self> {
        let head = &bytes[..bytes.len().min(HEAD_BYTES as usize)];
        let head = String::from_utf8_lossy(head);
        let head = head.trim_start_matches('\u{feff}').trim_start();
        if head.starts_with('{') {
            return Some(Self::NodeLink);
        }
        if head.starts_with('<') {
            let at = |tag| head.find(tag).unwrap_or(usize::MAX);
            return match (at("<graphml"), at("<network")) {
                (usize::MAX, usize::MAX) => None,
                (graph, network) => Some(if graph < network { Self::GraphMl } else { Self::SndlibXml }),
            };
        }
        let line = head.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["?SNDlib", ..] => Some(Self::SndlibNative),
            ["NODES" | "DEMANDS", count] if count.parse::<usize>().is_ok() => Some(Self::Repetita),
            ["Node_num:", ..] => Some(Self::CfrRl),
            ["graph" | "graph[" | "Creator" | "Version", ..] => Some(Self::Gml),
            _ => {
                let words: Vec<&str> = super::rows::numbers(line).collect();
                let [numbers @ .., last] = words.as_slice() else { return None };
                // The last number may be cut.
                let all = numbers.iter().all(|word| word.parse::<f64>().is_ok());
                let starts = last.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.');
                (all && starts && !numbers.is_empty()).then_some(Self::Rows)
            }
        }
    }

    /// The format of a file: its content tells, or else its extension.
    ///
    /// # Errors
    /// [`FormatError::UnknownFormat`] when neither does, [`FormatError::Io`] when it cannot be read.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        let path = path.as_ref();
        let io = |source| FormatError::Io { file: path.to_path_buf(), source };
        let mut head = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head))
            .map_err(io)?;
        Self::of(Some(path), &head).map_err(|error| error.in_file(path))
    }

    /// The format that the content tells, else the extension of the name.
    ///
    /// # Errors
    /// [`FormatError::UnknownFormat`] where neither does.
    pub fn of(path: Option<&Path>, bytes: &[u8]) -> Result<Self, FormatError> {
        let found = Self::from_content(bytes).or_else(|| path.and_then(Self::from_extension));
        found.ok_or(FormatError::UnknownFormat {
            place: Place::START,
            expected: "the start of an SNDlib, GraphML, GML, REPETITA, CFR-RL, node-link or rows file",
        })
    }

    /// The unit of rows of matrices, where the format has them.
    pub(super) fn row_unit(self) -> Option<RateUnit> {
        match self {
            Self::CfrRl => Some(RateUnit::HUNDRED_BYTES_PER_FIVE_MINUTES),
            Self::Rows => Some(RateUnit::BIT),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = FormatError;

    /// Takes the name on the command line.
    fn from_str(text: &str) -> Result<Self, FormatError> {
        Self::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| FormatError::Unsupported {
            place: Place::START,
            expected: "sndlib, sndlib-xml, graphml, gml, repetita, cfr-rl, rows or node-link",
            found: quoted(text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_the_format_and_the_extension_only_where_it_does_not() {
        for (content, format) in [
            ("?SNDlib native format; type: network; version: 1.0", Some(Format::SndlibNative)),
            ("\u{feff} <?xml version=\"1.0\"?>\n<network>", Some(Format::SndlibXml)),
            ("<graphml><!-- <network --></graphml>", Some(Format::GraphMl)),
            ("<html>", None),
            ("# made by hand\nCreator \"x\"\ngraph [", Some(Format::Gml)),
            ("graph\n[", Some(Format::Gml)),
            ("NODES 4", Some(Format::Repetita)),
            ("DEMANDS 4", Some(Format::Repetita)),
            ("NODES (", None),
            ("Node_num: 3\tEdge_num: 1", Some(Format::CfrRl)),
            ("0.0 1.5 2e9 0.", Some(Format::Rows)),
            ("0,1.5, 2e9,", Some(Format::Rows)),
            ("{", Some(Format::NodeLink)),
            ("", None),
            ("word", None),
        ] {
            assert_eq!(Format::from_content(content.as_bytes()), format, "{content}");
        }
        assert_eq!(Format::of(Some(Path::new("a.GML")), b"odd").unwrap(), Format::Gml);
        assert_eq!(Format::of(Some(Path::new("a.gml")), b"NODES 3").unwrap(), Format::Repetita);
        assert_eq!(Format::of(Some(Path::new("a.txt")), b"odd").unwrap_err().code(), "format_unknown");
    }

    #[test]
    fn names_read_back() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        assert_eq!("csv".parse::<Format>().unwrap_err().code(), "format_unsupported");
    }
}
