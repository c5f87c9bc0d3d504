//! What does a log tell, and where has it gaps?

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::entry::{Call, Entry, Header, parse};
use super::file::rotated;
use crate::error::GatewayError;

/// Files of one run that are looked for.
const MOST_FILES: usize = 1000;

/// One line.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "entries are what a log consists of")]
pub enum Line {
    /// The beginning of a file.
    Header(Box<Header>),
    /// A call.
    Entry(Entry<'static>),
}

/// Entries that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Number of the first of them.
    pub first: u64,
    /// How many there are.
    pub count: u64,
    /// The line before which they are missing, from 1.
    pub line: usize,
}

/// Reads a log line by line.
#[derive(Debug)]
pub struct LogReader<R> {
    lines: R,
    text: String,
    line: usize,
    next: u64,
    run: Option<u64>,
    gaps: Vec<Gap>,
    is_cut: bool,
    not_replayable: Option<String>,
}

impl LogReader<Box<dyn BufRead>> {
    /// The log that ends with this file: files of the same run that were rotated away (`FILE.1`, `FILE.2`, …) come
    /// before it, the oldest first.
    ///
    /// # Errors
    /// [`GatewayError::PlanFile`] for a file that cannot be read, [`GatewayError::DecisionLog`] for one that is no log.
    pub fn open(file: &Path) -> Result<Self, GatewayError> {
        let run = first_header(file)?.run;
        let mut files = vec![file.to_owned()];
        for number in 1..MOST_FILES {
            let older = rotated(file, number);
            // What is there may be of a run before, or no log.
            if !older.exists() || !first_header(&older).is_ok_and(|header| header.run == run) {
                break;
            }
            files.push(older);
        }
        let mut chained: Box<dyn Read> = Box::new(std::io::empty());
        for file in files.iter().rev() {
            chained = Box::new(chained.chain(open(file)?));
        }
        Ok(Self::new(Box::new(BufReader::with_capacity(1 << 16, chained))))
    }
}

fn open(file: &Path) -> Result<File, GatewayError> {
    File::open(file).map_err(|problem| unreadable(file.to_owned(), &problem))
}

fn unreadable(file: PathBuf, problem: &std::io::Error) -> GatewayError {
    GatewayError::PlanFile { file, reason: problem.to_string() }
}

fn first_header(file: &Path) -> Result<Header, GatewayError> {
    let mut text = String::new();
    BufReader::new(open(file)?)
        .read_line(&mut text)
        .map_err(|problem| unreadable(file.to_owned(), &problem))?;
    let header: Header = parse(&text, 1)?;
    header.check().map_err(|problem| GatewayError::DecisionLog { line: 1, problem })?;
    Ok(header)
}

impl<R: BufRead> LogReader<R> {
    /// Reads from anything.
    pub fn new(lines: R) -> Self {
        Self {
            lines,
            text: String::new(),
            line: 0,
            next: 0,
            run: None,
            gaps: Vec::new(),
            is_cut: false,
            not_replayable: None,
        }
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// [`GatewayError::DecisionLog`] for a line that is none of a log. A last line without its end is no error: a
    /// process that was killed leaves one.
    pub fn read(&mut self) -> Result<Option<Line>, GatewayError> {
        self.text.clear();
        self.line += 1;
        let wrong = |line, problem: String| GatewayError::DecisionLog { line, problem };
        let read = self.lines.read_line(&mut self.text).map_err(|e| wrong(self.line, e.to_string()))?;
        if read == 0 {
            return Ok(None);
        }
        if !self.text.ends_with('\n') {
            self.is_cut = true;
            return Ok(None);
        }
        if self.run.is_none() || self.text.starts_with("{\"format\"") {
            let header: Header = parse(&self.text, self.line)?;
            header.check().map_err(|problem| wrong(self.line, problem))?;
            if self.run.is_some_and(|run| run != header.run) {
                return Err(wrong(self.line, "another run begins here; read its file alone".into()));
            }
            self.run = Some(header.run);
            if self.not_replayable.is_none() {
                self.not_replayable.clone_from(&header.not_replayable);
            }
            self.reach(header.first)?;
            return Ok(Some(Line::Header(Box::new(header))));
        }
        let entry: Entry<'static> = parse(&self.text, self.line)?;
        self.reach(entry.n)?;
        let why = match &entry.call {
            Call::Reload { in_force: true, not_replayable, .. } => not_replayable.clone(),
            Call::Restore { withheld: 1.., .. } => Some("levels under secret keys were not written".into()),
            _ => None,
        };
        self.not_replayable = self.not_replayable.take().or(why);
        self.next = entry.n + 1;
        Ok(Some(Line::Entry(entry)))
    }

    /// Notes what is missing before an entry.
    fn reach(&mut self, n: u64) -> Result<(), GatewayError> {
        if n < self.next {
            let problem = format!("entry {n} comes after entry {}", self.next - 1);
            return Err(GatewayError::DecisionLog { line: self.line, problem });
        }
        if n > self.next {
            self.gaps.push(Gap { first: self.next, count: n - self.next, line: self.line });
            self.next = n;
        }
        Ok(())
    }

    /// The text of the line read last.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text.trim_end()
    }

    /// Its number, from 1.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }

    /// Gaps up to here.
    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Whether the log broke off in the middle of a line.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Why what was read so far cannot be replayed; `None` where it can.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        if let Some(gap) = self.gaps.first() {
            let Gap { first, count, line } = gap;
            return Some(if *first == 0 {
                format!("the first {count} entries are gone")
            } else {
                format!("{count} entries are missing before line {line}")
            });
        }
        self.not_replayable.clone()
    }
}
