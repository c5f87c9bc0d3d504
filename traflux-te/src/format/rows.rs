//! How are matrices read and written, one on each line?
//!
//! A line holds `n · n` numbers apart by white space or commas, row by row (row = source). Blank lines and lines that
//! begin with `#` are skipped, but for `# unit: kbit/s` and the like, which says what the numbers below it are in. Files
//! of this kind may be larger than memory; [`MatrixRows`] reads matrix by matrix.

use std::io::{BufRead, Read};
use std::path::PathBuf;

use traflux_core::network::{Network, TrafficMatrix};

use super::error::{FormatError, Place};
use super::text::{Range, quoted};
use super::unit::RateUnit;

/// Bytes that a line may have for each of its numbers; 25 are needed to write any `f64`.
const BYTES_PER_NUMBER: usize = 64;

/// The longest line where the number of nodes is not known.
const MAX_LINE_BYTES: usize = 1 << 28;

/// As much of a line that is too long for the network is looked through to say how many numbers it holds.
const MAX_COUNTED_BYTES: usize = 1 << 26;

/// What a comment begins with that says the unit.
const UNIT: &str = "unit:";

/// Reads one matrix after another; ends after the first error.
///
/// ```
/// use traflux_te::format::{MatrixRows, RateUnit};
///
/// let text = "0 1 2 0\n0 3 4 0\n";
/// let matrices: Vec<_> =
///     MatrixRows::new(text.as_bytes(), Some(2), RateUnit::KILOBIT).collect::<Result<_, _>>()?;
/// assert_eq!(matrices[1].as_slice(), [0.0, 3e3, 4e3, 0.0]);
/// # Ok::<(), traflux_te::format::FormatError>(())
/// ```
#[derive(Debug)]
pub struct MatrixRows<R> {
    reader: R,
    /// Of the network, where there is one.
    network: Option<usize>,
    nodes: Option<usize>,
    unit: RateUnit,
    /// Whether the file may say another one.
    fixed: bool,
    line: usize,
    buffer: Vec<u8>,
    ended: bool,
    file: Option<PathBuf>,
}

impl<R: BufRead> MatrixRows<R> {
    /// Matrices for a network of `nodes` nodes, or for as many as the first line tells, in a unit unless the file says
    /// another one.
    pub fn new(reader: R, nodes: Option<usize>, unit: RateUnit) -> Self {
        let (line, buffer, ended, file) = (0, Vec::new(), false, None);
        Self { reader, network: nodes, nodes, unit, fixed: false, line, buffer, ended, file }
    }

    /// The unit is this one, whatever the file says.
    #[must_use]
    pub fn in_unit(mut self, unit: RateUnit) -> Self {
        (self.unit, self.fixed) = (unit, true);
        self
    }

    /// The file that errors name.
    #[must_use]
    pub fn in_file(mut self, file: PathBuf) -> Self {
        self.file = Some(file);
        self
    }

    fn place(&self, column: usize) -> Place {
        Place { file: self.file.clone(), line: self.line, column }
    }

    /// Reads the next line into the buffer; false at the end.
    fn read_line(&mut self) -> Result<bool, FormatError> {
        let limit = match self.nodes {
            Some(nodes) => square(nodes).saturating_mul(BYTES_PER_NUMBER).saturating_add(1 << 16),
            None => MAX_LINE_BYTES,
        };
        self.buffer.clear();
        self.line += 1;
        let read =
            (&mut self.reader).take((limit as u64).saturating_add(1)).read_until(b'\n', &mut self.buffer);
        let read =
            read.map_err(|source| FormatError::Io { file: self.file.clone().unwrap_or_default(), source })?;
        if read > limit {
            let place = self.place(1);
            return Err(match (self.network, self.count_on()?) {
                (Some(nodes), Some(entries)) => FormatError::MatrixSize { place, entries, nodes },
                _ => FormatError::TooLarge { place, what: "bytes on one line", found: read, limit },
            });
        }
        Ok(read > 0)
    }

    /// How many numbers the line in the buffer holds that goes on in the reader, without keeping it; `None` where it is
    /// no line of numbers or does not end within reason.
    fn count_on(&mut self) -> Result<Option<usize>, FormatError> {
        if self.network.is_none()
            || !self.buffer.iter().all(|byte| is_separator(*byte) || is_of_number(*byte))
        {
            return Ok(None);
        }
        let mut counter = Counter::default();
        counter.add(&self.buffer);
        let (mut ended, mut seen) = (self.buffer.ends_with(b"\n"), self.buffer.len());
        while !ended {
            let file = &self.file;
            let io = |source| FormatError::Io { file: file.clone().unwrap_or_default(), source };
            let bytes = self.reader.fill_buf().map_err(io)?;
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(bytes.len());
            counter.add(&bytes[..taken]);
            ended = end.is_some() || bytes.is_empty();
            seen += taken;
            self.reader.consume(taken);
            if seen > MAX_COUNTED_BYTES {
                return Ok(None);
            }
        }
        Ok(Some(counter.numbers))
    }

    /// The unit that a comment says, unless it is known.
    fn comment(&self, line: &str) -> Result<Option<RateUnit>, FormatError> {
        let Some(unit) = unit_in(line).filter(|_| !self.fixed) else { return Ok(None) };
        let unit =
            unit.parse().map_err(|_| FormatError::Unit { place: self.place(1), found: quoted(unit) })?;
        Ok(Some(unit))
    }

    fn next_matrix(&mut self) -> Result<Option<TrafficMatrix>, FormatError> {
        loop {
            if !self.read_line()? {
                return Ok(None);
            }
            let line = std::str::from_utf8(&self.buffer).map_err(|error| FormatError::Encoding {
                place: self.place(error.valid_up_to() + 1),
                expected: "UTF-8",
                found: format!("byte {:#04x}", self.buffer[error.valid_up_to()]),
            })?;
            let line = line.strip_prefix('\u{feff}').filter(|_| self.line == 1).unwrap_or(line);
            if line.trim_start().starts_with('#') {
                if let Some(unit) = self.comment(line)? {
                    self.unit = unit;
                }
                continue;
            }
            if line.trim().is_empty() {
                continue;
            }
            let (nodes, demands) = self.numbers(line)?;
            let matrix = TrafficMatrix::from_rows(nodes, demands)
                .map_err(|source| FormatError::Network { place: self.place(1), source })?;
            self.nodes = Some(nodes);
            return Ok(Some(matrix));
        }
    }

    fn numbers(&self, line: &str) -> Result<(usize, Vec<f64>), FormatError> {
        let found = numbers(line).count();
        let nodes = self.nodes.unwrap_or(found.isqrt());
        if square(nodes) != found {
            let (place, expected) = (self.place(1), square(nodes));
            return Err(match self.network {
                Some(nodes) => FormatError::MatrixSize { place, entries: found, nodes },
                None => FormatError::Count { place, what: "numbers", found, expected },
            });
        }
        if nodes > Network::MAX_NODES {
            let (place, limit) = (self.place(1), Network::MAX_NODES);
            return Err(FormatError::TooLarge { place, what: "nodes", found: nodes, limit });
        }
        let mut demands = Vec::with_capacity(found);
        for text in numbers(line) {
            // What stands on the diagonal is dropped, so anything that is a number will do.
            let on_diagonal = demands.len() % (nodes + 1) == 0;
            let value = self.unit.read(text).filter(|value| on_diagonal || Range::NotNegative.holds(*value));
            let Some(value) = value else {
                let column = line[..text.as_ptr() as usize - line.as_ptr() as usize].chars().count() + 1;
                return Err(FormatError::Value {
                    place: self.place(column),
                    what: "a demand",
                    expected: Range::NotNegative.name(),
                    found: quoted(text),
                });
            };
            demands.push(value);
        }
        Ok((nodes, demands))
    }
}

impl<R: BufRead> Iterator for MatrixRows<R> {
    type Item = Result<TrafficMatrix, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_matrix().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// What stands between blanks and commas.
pub(super) fn numbers(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| c.is_ascii_whitespace() || c == ',').filter(|text| !text.is_empty())
}

fn is_separator(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b','
}

fn is_of_number(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+' | b'e' | b'E')
}

/// Counts what [`numbers`] would find, piece by piece.
#[derive(Default)]
struct Counter {
    numbers: usize,
    within: bool,
}

impl Counter {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let within = !is_separator(*byte);
            self.numbers += usize::from(within && !self.within);
            self.within = within;
        }
    }
}

/// What a comment says of the unit.
fn unit_in(line: &str) -> Option<&str> {
    let comment = line.trim().strip_prefix('#')?.trim_start();
    comment.strip_prefix(UNIT).map(str::trim)
}

/// Whether the first lines say the unit, before any number.
pub(super) fn says_unit(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head);
    let head = head.strip_prefix('\u{feff}').unwrap_or(&head);
    let comments = head.lines().take_while(|line| line.trim().is_empty() || line.trim().starts_with('#'));
    comments.filter_map(unit_in).next().is_some()
}

fn square(nodes: usize) -> usize {
    nodes.saturating_mul(nodes)
}

/// The matrices, one on each line. Where the unit is not the one that a reader takes for granted, the first line says it.
pub(super) fn write(matrices: &[TrafficMatrix], unit: RateUnit, usual: RateUnit) -> String {
    let mut text = if unit == usual { String::new() } else { format!("# {UNIT} {unit}\n") };
    for matrix in matrices {
        for (at, demand) in matrix.as_slice().iter().enumerate() {
            if at > 0 {
                text.push(' ');
            }
            text.push_str(&unit.print(*demand));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, nodes: Option<usize>) -> Result<Vec<TrafficMatrix>, FormatError> {
        MatrixRows::new(text.as_bytes(), nodes, RateUnit::BIT).collect()
    }

    #[test]
    fn the_first_line_tells_the_number_of_nodes_and_the_others_must_match() {
        let matrices = read("# two nodes\n\n7 1 2 7\r\n0 3 4 0", None).unwrap();
        assert_eq!(matrices[0].as_slice(), [0.0, 1.0, 2.0, 0.0]);
        assert_eq!(matrices[1].as_slice(), [0.0, 3.0, 4.0, 0.0]);
        let error = read("0 1 2 0\n0 1 2\n", None).unwrap_err();
        assert_eq!(error.to_string(), "line 2, column 1: expected 4 numbers, found 3");
        let error = read("0 1 2\n", None).unwrap_err();
        assert_eq!(error.to_string(), "line 1, column 1: expected 1 numbers, found 3");
    }

    #[test]
    fn a_demand_that_is_none_is_named_with_its_column_unless_it_is_on_the_diagonal() {
        assert!(read("nan 1 2 -1\n", Some(2)).is_ok());
        for (text, found) in
            [("0 1 -2 0", "-2"), ("0 1 nan 0", "nan"), ("0 1 x 0", "x"), ("0 1 1e999 0", "1e999")]
        {
            let message = "a demand must be a finite number that is not negative";
            for nodes in [Some(2), None] {
                let error = read(text, nodes).unwrap_err();
                assert_eq!(error.to_string(), format!("line 1, column 5: {message}, found `{found}`"));
            }
        }
    }

    #[test]
    fn commas_separate_as_blanks_do() {
        let matrices = read("0,1, 2 ,0\n0 3,4 0,\n", None).unwrap();
        assert_eq!(matrices[0].as_slice(), [0.0, 1.0, 2.0, 0.0]);
        assert_eq!(matrices[1].as_slice(), [0.0, 3.0, 4.0, 0.0]);
        let error = read("0,1,x,0\n", Some(2)).unwrap_err();
        assert!(error.to_string().starts_with("line 1, column 5: "), "{error}");
        assert!(read("0,1,,0\n", Some(2)).is_err(), "a number is missing");
    }

    #[test]
    fn a_matrix_of_another_size_is_named_by_its_size_however_long_its_line_is() {
        // More bytes than a line of two nodes may have.
        let line = "1.5 ".repeat(150 * 150);
        let error = read(&format!("0 1 2 0\n{line}\n"), Some(2)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 2, column 1: matrix has 150×150 entries, network has 2 nodes (2×2 entries)"
        );
        assert_eq!(error.code(), "format_matrix_size");
        let error = read("0 1 2\n", Some(2)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 1, column 1: matrix has 3 entries, network has 2 nodes (2×2 entries)"
        );
        // What is no line of numbers is not counted.
        let error = read(&"word ".repeat(1 << 16), Some(2)).unwrap_err();
        assert_eq!(error.code(), "format_too_large");
    }

    #[test]
    fn a_comment_says_the_unit_unless_somebody_knows_better() {
        let text = "# made by hand\n# unit: kbit/s\n0 1 2 0\n#unit: 100 bytes / 5 min\n0 3 6 0\n";
        let matrices = read(text, Some(2)).unwrap();
        assert_eq!(matrices[0].as_slice(), [0.0, 1e3, 2e3, 0.0]);
        assert_eq!(matrices[1].as_slice(), [0.0, 8.0, 16.0, 0.0]);
        let known = MatrixRows::new(text.as_bytes(), Some(2), RateUnit::BIT).in_unit(RateUnit::MEGABIT);
        assert_eq!(known.last().unwrap().unwrap().as_slice(), [0.0, 3e6, 6e6, 0.0]);
        let error = read("# unit: parsec\n", Some(2)).unwrap_err();
        assert_eq!((error.code(), error.place().unwrap().line), ("format_unit", 1));
    }

    #[test]
    fn an_endless_line_is_refused_before_it_fills_memory() {
        let endless = std::io::BufReader::new(std::io::repeat(b'1'));
        let error = MatrixRows::new(endless, Some(2), RateUnit::BIT).next().unwrap().unwrap_err();
        assert_eq!(error.code(), "format_too_large");
    }

    #[test]
    fn nothing_follows_an_error() {
        let mut rows = MatrixRows::new("0 1 2 0\nx\n0 1 2 0\n".as_bytes(), None, RateUnit::BIT);
        assert!(rows.next().unwrap().is_ok());
        assert!(rows.next().unwrap().is_err());
        assert!(rows.next().is_none());
    }
}
