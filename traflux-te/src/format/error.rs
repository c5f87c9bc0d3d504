//! What is wrong with this file, and where?

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use traflux_core::error::NetworkError;

use super::kind::Format;

/// Where in which file; line and column count from 1, the column in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, where the input came from one.
    pub file: Option<PathBuf>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Place {
    /// The first character of text that came from no file.
    pub(super) const START: Self = Self { file: None, line: 1, column: 1 };
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}:{}:{}", file.display(), self.line, self.column),
            None => write!(f, "line {}, column {}", self.line, self.column),
        }
    }
}

/// A file that cannot be read or written as asked.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The operating system refused.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Bytes that are no text in an encoding that is understood.
    #[error("{place}: expected {expected}, found {found}")]
    Encoding {
        /// The first such byte.
        place: Place,
        /// Encodings that are understood.
        expected: &'static str,
        /// The byte or the name of the encoding.
        found: String,
    },
    /// Text that the format does not allow here.
    #[error("{place}: expected {expected}, found {found}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the format asks for.
        expected: Cow<'static, str>,
        /// What stands there.
        found: String,
    },
    /// A number outside its range, or no number.
    #[error("{place}: {what} must be {expected}, found {found}")]
    Value {
        /// Where.
        place: Place,
        /// Which quantity.
        what: &'static str,
        /// Its range.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A link or a demand names a node that is not there.
    #[error("{place}: expected one of the nodes, found {node}")]
    UnknownNode {
        /// Where.
        place: Place,
        /// What stands there.
        node: String,
    },
    /// Two elements share an identifier.
    #[error("{place}: expected {what} that is not yet taken, found {name} again")]
    Duplicate {
        /// The second one.
        place: Place,
        /// What kind of identifier.
        what: &'static str,
        /// The identifier.
        name: String,
    },
    /// The file does not say it and no option does.
    #[error("{place}: expected {what}, found none; give it with {option}")]
    Missing {
        /// The element that lacks it.
        place: Place,
        /// What is missing.
        what: &'static str,
        /// The option, in the library and on the command line.
        option: &'static str,
    },
    /// More or fewer elements than stated elsewhere.
    #[error("{place}: expected {expected} {what}, found {found}")]
    Count {
        /// Where they were counted.
        place: Place,
        /// What was counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A matrix for another number of nodes.
    #[error("{place}: matrix has {} entries, network has {nodes} nodes ({nodes}×{nodes} entries)", square(*entries))]
    MatrixSize {
        /// Where the matrix begins.
        place: Place,
        /// Its entries.
        entries: usize,
        /// Nodes of the network.
        nodes: usize,
    },
    /// More than this library takes.
    #[error("{place}: expected at most {limit} {what}, found {found}")]
    TooLarge {
        /// Where the limit was passed.
        place: Place,
        /// What there is too much of.
        what: &'static str,
        /// How many there are; at least this many where counting stopped.
        found: usize,
        /// The most there may be.
        limit: usize,
    },
    /// Neither the name nor the content tells the format.
    #[error("{place}: expected {expected}, found none of them")]
    UnknownFormat {
        /// The start of the file.
        place: Place,
        /// What was looked for.
        expected: &'static str,
    },
    /// The format has no room for what was asked.
    #[error("{}expected {expected}, found {found}", of_file(place))]
    Unsupported {
        /// The file, if one is read; line and column say nothing here.
        place: Place,
        /// What the caller can do.
        expected: &'static str,
        /// What was asked.
        found: String,
    },
    /// Several matrices for a format with room for one.
    #[error(
        "{format} holds one matrix, there are {found}: choose one (`te convert --matrix`), or take `rows` or `cfr-rl`, which hold many"
    )]
    OneMatrix {
        /// The format.
        format: Format,
        /// How many there are.
        found: usize,
    },
    /// A unit of rates that is not understood; it comes from an option or from the file.
    #[error(
        "{place}: expected a unit of rates such as `kbit/s`, `10 Gbit/s` or `100 bytes / 5 min`, found {found}"
    )]
    Unit {
        /// Where it stands; line 1, column 1 for an option.
        place: Place,
        /// The text.
        found: String,
    },
    /// Numbers that are fine one by one but make no network.
    #[error("{place}: {source}")]
    Network {
        /// The start of the file.
        place: Place,
        /// Why not.
        source: NetworkError,
    },
}

impl FormatError {
    /// Where it happened; of an error of the operating system only the file is known, of writing nothing.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Io { .. } | Self::OneMatrix { .. } => None,
            Self::Encoding { place, .. }
            | Self::Syntax { place, .. }
            | Self::Value { place, .. }
            | Self::UnknownNode { place, .. }
            | Self::Duplicate { place, .. }
            | Self::Missing { place, .. }
            | Self::Count { place, .. }
            | Self::MatrixSize { place, .. }
            | Self::TooLarge { place, .. }
            | Self::UnknownFormat { place, .. }
            | Self::Unsupported { place, .. }
            | Self::Unit { place, .. }
            | Self::Network { place, .. } => Some(place),
        }
    }

    /// The same error with the file it happened in.
    #[must_use]
    pub fn in_file(mut self, path: &Path) -> Self {
        match &mut self {
            Self::Io { file, .. } => *file = path.to_path_buf(),
            Self::OneMatrix { .. } => {}
            Self::Encoding { place, .. }
            | Self::Syntax { place, .. }
            | Self::Value { place, .. }
            | Self::UnknownNode { place, .. }
            | Self::Duplicate { place, .. }
            | Self::Missing { place, .. }
            | Self::Count { place, .. }
            | Self::MatrixSize { place, .. }
            | Self::TooLarge { place, .. }
            | Self::UnknownFormat { place, .. }
            | Self::Unsupported { place, .. }
            | Self::Unit { place, .. }
            | Self::Network { place, .. } => place.file = Some(path.to_path_buf()),
        }
        self
    }

    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "format_io",
            Self::Encoding { .. } => "format_encoding",
            Self::Syntax { .. } => "format_syntax",
            Self::Value { .. } => "format_value",
            Self::UnknownNode { .. } => "format_unknown_node",
            Self::Duplicate { .. } => "format_duplicate",
            Self::Missing { .. } => "format_missing",
            Self::Count { .. } => "format_count",
            Self::MatrixSize { .. } => "format_matrix_size",
            Self::TooLarge { .. } => "format_too_large",
            Self::UnknownFormat { .. } => "format_unknown",
            Self::Unsupported { .. } => "format_unsupported",
            Self::OneMatrix { .. } => "format_one_matrix",
            Self::Unit { .. } => "format_unit",
            Self::Network { source, .. } => source.code(),
        }
    }

    /// Whether the same call may succeed later with nothing changed here: only where reading was interrupted.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        use std::io::ErrorKind::{Interrupted, ResourceBusy, TimedOut, WouldBlock};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), Interrupted | ResourceBusy | TimedOut | WouldBlock))
    }
}

/// `150×150`, or the number as it is.
fn square(entries: usize) -> String {
    let side = entries.isqrt();
    if side * side == entries { format!("{side}×{side}") } else { entries.to_string() }
}

fn of_file(place: &Place) -> String {
    place.file.as_ref().map_or_else(String::new, |file| format!("{}: ", file.display()))
}
