//! How are networks and matrices read from and written to the files people have?
//!
//! | [`Format`] | name, extension | network: what is read | demands | what a written file cannot hold |
//! |---|---|---|---|---|
//! | [`Format::NodeLink`] | `node-link`, `.json` | nodes with `name` or `label` and `pos`, links under `links` or `edges` with `capacity`, `weight`, `delay_s` or `dist` (km, 5 µs each); `directed` | `graph.demands` (TopoHub) | nothing |
//! | [`Format::GraphMl`] | `graphml`, `.graphml` | Topology Zoo: `label`, `Longitude`, `Latitude`, `LinkSpeedRaw` or `LinkSpeed` with `LinkSpeedUnits`; also `capacity`, `weight`, `delay_s`, `dist` | none | demands |
//! | [`Format::Gml`] | `gml`, `.gml` | the same names as GraphML | none | demands |
//! | [`Format::SndlibNative`] | `sndlib`, `.txt` | names, coordinates, pre-installed capacity or else one module of the largest kind, routing cost as weight | `DEMANDS` | delays; blanks in names |
//! | [`Format::SndlibXml`] | `sndlib-xml`, `.xml` | the same | `demands`, also in files without a structure | delays; blanks in names |
//! | [`Format::Repetita`] | `repetita`, `.graph` and `.demands` | names, positions, weight, bandwidth, delay | the `.demands` file | demands (in the same file); blanks in names |
//! | [`Format::CfrRl`] | `cfr-rl`, none | numbered nodes, OSPF weight, capacity | rows, see below | names, positions, delays, demands (in the same file) |
//! | [`Format::Rows`] | `rows`, `.hist` | none | one matrix on each line, `n · n` numbers row by row, apart by white space or commas (DOTE, FIGRET, CFR-RL) | the network |
//!
//! **Units.** Everything becomes bit/s on reading. Without an option a number counts as: kbit/s in REPETITA and
//! CFR-RL (unless the header of its table says otherwise), the `unit` of the file or else Mbit/s in SNDlib,
//! bit/s in node-link JSON and in `rows`, 100 bytes per 5 minutes in the matrices of [`Format::CfrRl`] (Abilene).
//! `LinkSpeedRaw` is always bit/s. [`ReadOptions`] overrides all of these but the last. Rows that are written in another
//! unit than their format's begin with `# unit: …`, which the reader believes; a file that cannot say its unit and is not
//! in that of its format comes with a warning ([`Written::warnings`]).
//!
//! **What a file does not say.** A link without a capacity is an error unless [`ReadOptions::default_capacity`]
//! is given: TopoHub has no capacities at all. Weights default to 1, delays to zero.
//!
//! **Directions.** Undirected links become two directed ones, there and back, next to each other. SNDlib does
//! not say in this file which kind its links are; they count as undirected. Files that this module writes carry
//! the comment `link model: DIRECTED` where that would be wrong.
//!
//! **Names and order.** Nodes keep the order of the file, except that node-link identifiers which are exactly
//! the numbers from 0 put the nodes in *their* order, as matrices count by them. Equal labels of the Topology
//! Zoo and of REPETITA are told apart as `x`, `x_2`, `x_3`. Links from a node to itself are left out, parallel
//! links are kept. Both are reported in [`NetworkFile::warnings`].
//!
//! **Round trips.** Numbers are printed with the fewest digits that read back as the same `f64`, in every unit
//! that is a power of ten of bit/s; in others (8/3 bit/s) to the last place of the `f64`.
//!
//! **Hostile files.** Any input ends in a value or in a [`FormatError`] with line and column. Nodes are limited
//! to [`Network::MAX_NODES`], nodes with demands listed one by one to [`MAX_LISTED_NODES`], links to
//! [`MAX_LINKS`]; nesting is limited and entities are not expanded.
//!
//! ```
//! use traflux_te::format::{Format, ReadOptions, WriteOptions, read_network, write_network};
//!
//! let text = "NODES 2\nlabel x y\na 0 0\nb 1 0\n\nEDGES 1\nlabel src dest weight bw delay\ne 0 1 10 5000 200\n";
//! let file = read_network(text.as_bytes(), Format::Repetita, &ReadOptions::default())?;
//! assert_eq!(file.network.links()[0].capacity.get(), 5e6); // kbit/s
//!
//! let json = write_network(&file.network, None, Format::NodeLink, &WriteOptions::default())?;
//! let again = read_network(json.text.as_bytes(), Format::NodeLink, &ReadOptions::default())?;
//! assert_eq!(again.network, file.network);
//! # Ok::<(), traflux_te::format::FormatError>(())
//! ```

mod attributes;
mod cfr_rl;
mod draft;
mod error;
mod gml;
mod graphml;
mod kind;
mod node_link;
mod options;
mod repetita;
mod rows;
mod sndlib;
mod sndlib_xml;
mod text;
mod unit;
mod write;
mod xml;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use traflux_core::network::{Network, NodeIx, TrafficMatrix};

pub use draft::{MAX_LINKS, MAX_LISTED_NODES, Warning};
pub use error::{FormatError, Place};
pub use kind::Format;
pub use options::{ReadOptions, WriteOptions};
pub use rows::MatrixRows;
pub use unit::{RateUnit, parse_rate};
pub use write::Written;

use text::Source;

/// The largest file that is read as a whole, 1 GiB. Rows of matrices are read one by one and have no limit.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// What a file says about a network.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkFile {
    /// The format it was in.
    pub format: Format,
    /// Nodes and links.
    pub network: Network,
    /// Demands, where the same file has some.
    pub demands: Option<TrafficMatrix>,
    /// Name of the network, where the file has one.
    pub name: Option<String>,
    /// What was read in a way its author may not have meant; at most 101.
    pub warnings: Vec<Warning>,
}

/// The nodes that demands of another file refer to, by name.
struct Targets<'a> {
    by_name: HashMap<&'a str, NodeIx>,
}

impl<'a> Targets<'a> {
    fn new(network: &'a Network) -> Self {
        let names = network.nodes().iter().enumerate();
        Self { by_name: names.map(|(at, node)| (node.name.as_str(), NodeIx::from(at))).collect() }
    }

    fn nodes(&self) -> usize {
        self.by_name.len()
    }

    fn find(&self, name: &str) -> Option<NodeIx> {
        self.by_name.get(name).copied()
    }
}

/// Reads a network, and its demands where the same file has some.
///
/// # Errors
/// [`FormatError`], with line and column, for anything that the format does not allow or that no option supplies;
/// [`FormatError::Unsupported`] for [`Format::Rows`], which has no network.
pub fn read_network(bytes: &[u8], format: Format, options: &ReadOptions) -> Result<NetworkFile, FormatError> {
    let (text, latin) = text::decode(bytes, allows_latin(bytes, format))?;
    let source = Source { text: &text };
    let mut file = match format {
        Format::SndlibNative => sndlib::read(source, options),
        Format::SndlibXml => sndlib_xml::read(source, options),
        Format::GraphMl => graphml::read(source, options),
        Format::Gml => gml::read(source, options),
        Format::Repetita => repetita::read(source, options),
        Format::CfrRl => cfr_rl::read(source, options),
        Format::NodeLink => node_link::read(source, options),
        Format::Rows => Err(unsupported("a format of networks", "rows, which hold matrices only")),
    }?;
    if latin {
        let message = "the file is not UTF-8 and was read as ISO 8859-1".into();
        file.warnings.insert(0, Warning { line: None, message });
    }
    Ok(file)
}

/// Reads the demands for a known network: one matrix, or as many as there are rows.
///
/// Nodes are found by name in SNDlib and node-link files, by position in the others.
///
/// # Errors
/// [`FormatError`], with line and column; [`FormatError::Unsupported`] for GraphML and GML, which have no demands.
pub fn read_matrices(
    bytes: &[u8],
    format: Format,
    network: &Network,
    options: &ReadOptions,
) -> Result<Vec<TrafficMatrix>, FormatError> {
    let nodes = network.nodes().len();
    if let Some(unit) = format.row_unit() {
        return rows_of(bytes, nodes, unit, options).collect();
    }
    let (text, _) = text::decode(bytes, allows_latin(bytes, format))?;
    let source = Source { text: &text };
    let targets = Targets::new(network);
    let matrix = match format {
        Format::SndlibNative => sndlib::read_demands(source, options, &targets),
        Format::SndlibXml => sndlib_xml::read_demands(source, options, &targets),
        Format::Repetita => repetita::read_demands(source, options, nodes),
        Format::NodeLink => node_link::read_demands(source, options, &targets),
        Format::GraphMl | Format::Gml | Format::CfrRl | Format::Rows => {
            Err(unsupported("a format of matrices", format.name()))
        }
    }?;
    Ok(vec![matrix])
}

/// [`read_network`] from a file, whose name and content tell the format unless it is given.
///
/// # Errors
/// As [`read_network`], with the file in the error; [`FormatError::Io`], [`FormatError::UnknownFormat`], and
/// [`FormatError::TooLarge`] beyond [`MAX_FILE_BYTES`].
pub fn read_network_file(
    path: impl AsRef<Path>,
    format: Option<Format>,
    options: &ReadOptions,
) -> Result<NetworkFile, FormatError> {
    let path = path.as_ref();
    let bytes = read_bytes(path)?;
    let format = format.map_or_else(|| Format::of(Some(path), &bytes), Ok);
    format.and_then(|format| read_network(&bytes, format, options)).map_err(|error| error.in_file(path))
}

/// [`read_matrices`] from a file, whose name and content tell the format unless it is given.
///
/// The content of rows does not tell CFR-RL's from others: without a format they count in bit/s.
/// [`matrices_in_file`] says where such a guess was made.
///
/// # Errors
/// As [`read_matrices`], with the file in the error; [`FormatError::Io`], [`FormatError::UnknownFormat`], and
/// [`FormatError::TooLarge`] beyond [`MAX_FILE_BYTES`] where the format is not one of rows.
pub fn read_matrices_file(
    path: impl AsRef<Path>,
    format: Option<Format>,
    network: &Network,
    options: &ReadOptions,
) -> Result<Vec<TrafficMatrix>, FormatError> {
    matrices_in_file(path, format, network, options)?.collect()
}

/// The same one by one: of rows no more than one matrix is in memory. It ends after the first error.
///
/// # Errors
/// As [`read_matrices_file`]; those of rows come from the iterator.
pub fn matrices_in_file(
    path: impl AsRef<Path>,
    format: Option<Format>,
    network: &Network,
    options: &ReadOptions,
) -> Result<MatrixFile, FormatError> {
    let path = path.as_ref();
    // A pipe can be opened only once: its start, which tells the format, is read again from memory.
    let mut file = open(path)?;
    let mut head = Vec::new();
    if format.is_none() {
        let read = (&mut file).take(kind::HEAD_BYTES).read_to_end(&mut head);
        read.map_err(|source| FormatError::Io { file: path.to_path_buf(), source })?;
    }
    let told = format.or_else(|| Format::from_extension(path));
    let format = format.map_or_else(|| Format::of(Some(path), &head).map_err(|e| e.in_file(path)), Ok)?;
    let mut warnings = Vec::new();
    if let (Some(unit), None) = (format.row_unit(), options.demand_unit.or(options.unit))
        && told != Some(format)
        && !rows::says_unit(&head)
    {
        let message = format!(
            "rows that do not say their unit, taken for {unit}; `--demand-unit` says another one, the format `cfr-rl` \
             means 100 bytes / 5 min"
        );
        warnings.push(Warning { line: None, message });
    }
    let all = Cursor::new(head).chain(file);
    if let Some(unit) = format.row_unit() {
        let rows = rows_of(BufReader::new(all), network.nodes().len(), unit, options);
        let matrices = Box::new(rows.in_file(path.to_path_buf()));
        return Ok(MatrixFile { format, warnings, matrices });
    }
    let bytes = read_to_end(all, path)?;
    let matrices = read_matrices(&bytes, format, network, options).map_err(|error| error.in_file(path))?;
    Ok(MatrixFile { format, warnings, matrices: Box::new(matrices.into_iter().map(Ok)) })
}

/// The matrices of a file, one after the other.
pub struct MatrixFile {
    /// The format it is in.
    pub format: Format,
    /// What was read in a way its author may not have meant.
    pub warnings: Vec<Warning>,
    matrices: Box<dyn Iterator<Item = Result<TrafficMatrix, FormatError>>>,
}

impl std::fmt::Debug for MatrixFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MatrixFile").field("format", &self.format).field("warnings", &self.warnings).finish()
    }
}

impl Iterator for MatrixFile {
    type Item = Result<TrafficMatrix, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.matrices.next()
    }
}

/// Rows in the unit of the options, or else in that of the file, or else in that of the format.
fn rows_of<R: BufRead>(reader: R, nodes: usize, unit: RateUnit, options: &ReadOptions) -> MatrixRows<R> {
    let rows = MatrixRows::new(reader, Some(nodes), unit);
    match options.demand_unit.or(options.unit) {
        Some(unit) => rows.in_unit(unit),
        None => rows,
    }
}

/// Writes a network, with demands where the format has room for them.
///
/// # Errors
/// [`FormatError::Unsupported`] for [`Format::Rows`], which has no network, and for demands of another number of
/// nodes.
pub fn write_network(
    network: &Network,
    demands: Option<&TrafficMatrix>,
    format: Format,
    options: &WriteOptions,
) -> Result<Written, FormatError> {
    check_sizes(network, demands.into_iter())?;
    Ok(match format {
        Format::SndlibNative => sndlib::write(network, demands, options),
        Format::SndlibXml => sndlib_xml::write(network, demands, options),
        Format::GraphMl => graphml::write(network, demands.is_some(), options),
        Format::Gml => gml::write(network, demands.is_some(), options),
        Format::Repetita => repetita::write(network, demands.is_some(), options),
        Format::CfrRl => cfr_rl::write(network, demands.is_some(), options),
        Format::NodeLink => node_link::write(network, demands, options),
        Format::Rows => return Err(unsupported("a format of networks", "rows, which hold matrices only")),
    })
}

/// Writes matrices: any number of them as rows, one as a REPETITA `.demands` file, or one with its network in a
/// format that has demands beside links.
///
/// # Errors
/// [`FormatError::Unsupported`] for GraphML and GML and for matrices of another number of nodes,
/// [`FormatError::OneMatrix`] for several matrices where one fits.
pub fn write_matrices(
    network: &Network,
    matrices: &[TrafficMatrix],
    format: Format,
    options: &WriteOptions,
) -> Result<Written, FormatError> {
    check_sizes(network, matrices.iter())?;
    if let Some(usual) = format.row_unit() {
        let text = rows::write(matrices, options.demand_unit(usual), usual);
        let mut written = Written { text, ..Written::default() };
        if format == Format::CfrRl && options.demand_unit(usual) == usual {
            written.lose(format!("the file does not say its unit, {usual}: read it as cfr-rl, not as rows"));
        }
        return Ok(written);
    }
    if matches!(format, Format::GraphMl | Format::Gml) {
        return Err(unsupported("a format that holds matrices", &format!("{format}, which has links only")));
    }
    let [matrix] = matrices else {
        return Err(FormatError::OneMatrix { format, found: matrices.len() });
    };
    match format {
        Format::Repetita => Ok(repetita::write_demands(matrix, options)),
        _ => write_network(network, Some(matrix), format, options),
    }
}

fn check_sizes<'a>(
    network: &Network,
    mut matrices: impl Iterator<Item = &'a TrafficMatrix>,
) -> Result<(), FormatError> {
    let nodes = network.nodes().len();
    match matrices.find(|matrix| matrix.nodes() != nodes) {
        Some(other) => {
            let found = format!("one of {} nodes for a network of {nodes}", other.nodes());
            Err(unsupported("matrices of the network's size", &found))
        }
        None => Ok(()),
    }
}

fn unsupported(expected: &'static str, found: &str) -> FormatError {
    FormatError::Unsupported { place: Place::START, expected, found: found.into() }
}

/// GML was ASCII before it met the names of cities; XML says what it is.
fn allows_latin(bytes: &[u8], format: Format) -> bool {
    match format {
        Format::Gml => true,
        Format::GraphMl | Format::SndlibXml => xml::declares_latin(bytes),
        _ => false,
    }
}

fn open(path: &Path) -> Result<File, FormatError> {
    File::open(path).map_err(|source| FormatError::Io { file: path.to_path_buf(), source })
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, FormatError> {
    read_to_end(open(path)?, path)
}

fn read_to_end(from: impl Read, path: &Path) -> Result<Vec<u8>, FormatError> {
    let mut bytes = Vec::new();
    let read = from.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| FormatError::Io { file: path.to_path_buf(), source })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let place = Place { file: Some(path.to_path_buf()), line: 1, column: 1 };
        let limit = usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX);
        return Err(FormatError::TooLarge { place, what: "bytes", found: bytes.len(), limit });
    }
    Ok(bytes)
}
