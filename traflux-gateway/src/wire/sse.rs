//! Where does one event of a stream end and the next begin?
//!
//! Server-sent events as in the HTML standard, section 9.2.6 ("Interpreting an event stream"), of which only
//! `event` and `data` matter here. Lines end with LF, CRLF or CR; chunks may be cut anywhere.

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// Its type; empty where the stream names none.
    pub event: &'a [u8],
    /// Its data, lines joined by LF.
    pub data: &'a [u8],
}

/// Reads events from chunks of bytes, holding at most one event.
#[derive(Debug, Clone)]
pub struct SseParser {
    /// Bytes of the line that is not complete yet.
    line: Vec<u8>,
    event: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    max_event_bytes: usize,
    /// Whether the event at hand went beyond the bound and is skipped.
    oversized: bool,
    skipped: u64,
    after_cr: bool,
    at_start: bool,
}

impl SseParser {
    /// A parser at the beginning of a stream, which skips an event where a line and the data before it come to more
    /// bytes than this.
    #[must_use]
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            line: Vec::new(),
            event: Vec::new(),
            data: Vec::new(),
            has_data: false,
            max_event_bytes,
            oversized: false,
            skipped: 0,
            after_cr: false,
            at_start: true,
        }
    }

    /// Takes in a chunk and calls `each` with every event that it completes.
    pub fn push(&mut self, chunk: &[u8], mut each: impl FnMut(SseEvent<'_>)) {
        let mut rest = chunk;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else {
                self.keep(rest);
                return;
            };
            self.after_cr = rest[end] == b'\r';
            if self.line.is_empty() && !self.oversized {
                self.oversized = end + self.data.len() > self.max_event_bytes;
                // As `keep` leaves it: a mark of byte order alone is no empty line where it is too long.
                self.take_line(if self.oversized { b":" } else { &rest[..end] }, &mut each);
            } else {
                self.keep(&rest[..end]);
                let line = std::mem::take(&mut self.line);
                self.take_line(&line, &mut each);
                self.line = line;
                self.line.clear();
            }
            rest = &rest[end + 1..];
        }
    }

    /// Events that were skipped because they were too long.
    #[must_use]
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.line.len() + self.data.len() + bytes.len() > self.max_event_bytes {
            // The rest of the line is not kept; what is left of it must not look like an empty line.
            self.oversized = true;
            self.line.clear();
            self.line.push(b':');
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn take_line(&mut self, line: &[u8], each: &mut impl FnMut(SseEvent<'_>)) {
        let line = if std::mem::take(&mut self.at_start) {
            line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
        } else {
            line
        };
        if line.is_empty() {
            if self.oversized {
                self.skipped += 1;
            } else if self.has_data {
                each(SseEvent { event: &self.event, data: &self.data });
            }
            self.event.clear();
            self.data.clear();
            self.has_data = false;
            self.oversized = false;
            return;
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" if !self.oversized => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.has_data = true;
            }
            b"event" if !self.oversized => {
                self.event.clear();
                self.event.extend_from_slice(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(parser: &mut SseParser, chunks: &[&[u8]]) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for chunk in chunks {
            parser.push(chunk, |e| found.push((text(e.event), text(e.data))));
        }
        found
    }

    #[test]
    fn a_line_that_is_too_long_is_none_wherever_it_is_cut() {
        let stream = b"\xef\xbb\xbf\r(";
        let read = |chunks: &[&[u8]]| {
            let mut parser = SseParser::new(0);
            (events(&mut parser, chunks), parser.skipped())
        };
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(read(&[stream]), read(&bytes));
        assert_eq!(read(&[stream]), (Vec::new(), 0));
    }

    #[test]
    fn events_are_the_same_wherever_chunks_are_cut_and_however_lines_end() {
        let stream =
            "\u{feff}: hello\nevent: a\ndata: one\ndata:two\n\ndata\n\nid: 3\n\ndata: {\"x\": 1}\n\n";
        let expected =
            [("a", "one\ntwo"), ("", ""), ("", "{\"x\": 1}")].map(|(e, d)| (e.to_owned(), d.to_owned()));
        for ending in ["\n", "\r\n", "\r"] {
            let bytes = stream.replace('\n', ending).into_bytes();
            for size in 1..bytes.len() {
                let chunks: Vec<_> = bytes.chunks(size).collect();
                assert_eq!(events(&mut SseParser::new(1000), &chunks), expected, "{ending:?} cut by {size}");
            }
        }
    }

    #[test]
    fn an_event_beyond_the_bound_is_skipped_and_the_next_is_read() {
        let long = format!("data: {}\ndata: more\n\ndata: next\n\n", "x".repeat(200));
        for size in [1, 7, 50, 300] {
            let mut parser = SseParser::new(100);
            let chunks: Vec<_> = long.as_bytes().chunks(size).collect();
            assert_eq!(events(&mut parser, &chunks), [(String::new(), "next".to_owned())], "cut by {size}");
            assert_eq!(parser.skipped(), 1);
        }
    }

    #[test]
    fn a_line_beyond_the_bound_counts_the_same_in_one_chunk_and_in_many() {
        for line in
            [format!(":{}", "-".repeat(40)), format!("event: {}", "e".repeat(15)), "data: 123456".to_owned()]
        {
            let stream = format!("data: 123456789\n{line}\n\ndata: next\n\n");
            for size in 1..=stream.len() {
                let mut parser = SseParser::new(20);
                let chunks: Vec<_> = stream.as_bytes().chunks(size).collect();
                let expected = [(String::new(), "next".to_owned())];
                assert_eq!(events(&mut parser, &chunks), expected, "{line} cut by {size}");
                assert_eq!(parser.skipped(), 1);
            }
        }
    }

    #[test]
    fn a_stream_that_ends_within_an_event_yields_nothing_of_it() {
        assert!(events(&mut SseParser::new(100), &[b"data: torn\n"]).is_empty());
    }
}
