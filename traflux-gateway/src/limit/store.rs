//! What of a budget is used after a restart?
//!
//! [`Limiter::levels`] takes a picture of all levels that are not zero, [`Limiter::restore`] charges it to a new
//! limiter, less what has drained since. In between a small text file keeps it: a header with version and moment, one line
//! per level, a checksum. It is replaced by a rename, so a crash leaves the old or the new one, whole. A
//! file that is damaged in any byte is an error and nothing of it is used: a budget never begins anew
//! unnoticed.
//!
//! What is in flight is not kept; estimates of requests that were in flight are, as charged. A level is rounded up by
//! at most two units; that of a sliding window counts as charged at the moment of the picture.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use traflux_core::Timestamp;

use super::cells::Counting;
use super::limiter::Limiter;
use super::nanos;
use crate::error::GatewayError;

const HEADER: &str = "traflux-levels 1";

/// The largest file that is read: some two million levels.
const MOST_BYTES: u64 = 128 << 20;

/// What is used of one limit by one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLevel {
    /// The name of the limit.
    pub limit: String,
    /// The key; `None` for a limit without scope.
    pub key: Option<String>,
    /// Units used, debt included.
    pub used: u64,
}

/// A picture of levels.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Levels {
    /// When it was taken, in nanoseconds since the epoch.
    pub at_ns: u64,
    /// Levels that were not zero.
    pub levels: Vec<SavedLevel>,
}

impl Limiter {
    /// All levels that are not zero, in order of limit and key. Other threads may go on; each level is as of its own
    /// moment after `now`.
    #[must_use]
    pub fn levels(&self, now: Timestamp) -> Levels {
        let at_ns = nanos(now);
        let mut levels = Vec::new();
        for limit in self.inner.limits.iter().filter(|l| !matches!(l.counting, Counting::InFlight { .. })) {
            let mut push = |key: Option<&str>, slot: usize| {
                let used = limit.level(slot, at_ns).used;
                if used > 0 {
                    let limit = limit.name.to_string();
                    levels.push(SavedLevel { limit, key: key.map(str::to_owned), used });
                }
            };
            match limit.scope {
                None => push(None, 0),
                Some(scope) => self.inner.scopes[scope].keys.for_each(|key, slot| push(Some(key), slot)),
            }
        }
        levels.sort_unstable_by(|a, b| (&a.limit, &a.key).cmp(&(&b.limit, &b.key)));
        Levels { at_ns, levels }
    }

    /// Charges a picture to this limiter, less what has drained since under its present rules. Returns how many
    /// levels found no place: their limit is gone or counts otherwise, or their scope is full. Meant for a new limiter,
    /// before the first request.
    pub fn restore(&self, now: Timestamp, saved: &Levels) -> usize {
        let now_ns = nanos(now);
        let mut lost = 0;
        for level in &saved.levels {
            let limit = self.inner.limits.iter().find(|l| *l.name == *level.limit);
            let Some(limit) = limit.filter(|l| l.scope.is_some() == level.key.is_some()) else {
                lost += 1;
                continue;
            };
            let left = limit.left_of(level.used, saved.at_ns, now_ns);
            if left == 0 {
                continue;
            }
            let slot = match (limit.scope, &level.key) {
                (Some(scope), Some(key)) => {
                    self.key(now, super::ScopeIx(scope as u16), key).map(|key| key.slot as usize)
                }
                _ => Some(0),
            };
            match slot {
                Some(slot) => limit.debit(slot, now_ns, left),
                None => lost += 1,
            }
        }
        lost
    }
}

impl Levels {
    /// Writes the file: beside it first, then renamed over it. Blocks on the disk; not for the path of a request.
    ///
    /// # Errors
    /// [`GatewayError::LevelStore`].
    pub fn save(&self, path: &Path) -> Result<(), GatewayError> {
        let failed =
            |error: io::Error| GatewayError::LevelStore { path: path.to_owned(), kind: error.kind() };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&beside)?;
            file.write_all(self.to_text().as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
            // The rename itself is on disk when the folder is; not every system lets a folder be opened.
            if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty())
                && let Ok(folder) = File::open(folder)
            {
                folder.sync_all()?;
            }
            Ok(())
        };
        write().map_err(failed)
    }

    /// Reads the file; `None` where there is none.
    ///
    /// # Errors
    /// [`GatewayError::LevelStore`], and [`GatewayError::LevelStoreDamaged`] for a file of another version, above 128
    /// MiB or with a wrong checksum.
    pub fn load(path: &Path) -> Result<Option<Self>, GatewayError> {
        let failed =
            |error: io::Error| GatewayError::LevelStore { path: path.to_owned(), kind: error.kind() };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(GatewayError::LevelStoreDamaged { line: 1, problem: "the file is above 128 MiB" });
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| GatewayError::LevelStoreDamaged { line: 1, problem: "not UTF-8" })?;
        Self::from_text(&text).map(Some)
    }

    /// The file as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER} {}\n", self.at_ns);
        for level in &self.levels {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}\t{}", level.used, escaped(&level.limit));
            if let Some(key) = &level.key {
                let _ = write!(text, "\t{}", escaped(key));
            }
            text.push('\n');
        }
        let sum = checksum(text.as_bytes());
        let _ = writeln!(text, "end {} {sum:016x}", self.levels.len());
        text
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`GatewayError::LevelStoreDamaged`].
    pub fn from_text(text: &str) -> Result<Self, GatewayError> {
        let damaged = |line, problem| GatewayError::LevelStoreDamaged { line, problem };
        let lines = text.lines().count();
        let at_ns = text.lines().next().and_then(|l| l.strip_prefix(HEADER)?.strip_prefix(' ')?.parse().ok());
        let at_ns = at_ns.ok_or(damaged(1, "not a level store of version 1"))?;
        let body = text.strip_suffix('\n').and_then(|t| t.rfind('\n')).map(|end| text.split_at(end + 1));
        let (body, end) = body.ok_or(damaged(lines, "the end is missing"))?;
        let expected = format!("end {} {:016x}\n", lines.saturating_sub(2), checksum(body.as_bytes()));
        if end != expected {
            return Err(damaged(lines, "wrong checksum or number of levels"));
        }
        let mut levels = Vec::with_capacity(lines.saturating_sub(2));
        for (ix, line) in body.lines().enumerate().skip(1) {
            let wrong = || damaged(ix + 1, "expected a number, a limit and a key");
            let mut fields = line.split('\t');
            let used = fields.next().and_then(|f| f.parse().ok()).ok_or_else(wrong)?;
            let limit = fields.next().and_then(unescaped).ok_or_else(wrong)?;
            let key = fields.next().map(|f| unescaped(f).ok_or_else(wrong)).transpose()?;
            if fields.next().is_some() {
                return Err(wrong());
            }
            levels.push(SavedLevel { limit, key, used });
        }
        Ok(Self { at_ns, levels })
    }
}

/// Without line ends and tabs.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescaped(field: &str) -> Option<String> {
    let mut name = String::with_capacity(field.len());
    let mut characters = field.chars();
    while let Some(character) = characters.next() {
        name.push(match character {
            '\\' => match characters.next()? {
                '\\' => '\\',
                't' => '\t',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            plain => plain,
        });
    }
    Some(name)
}

/// FNV-1a of 64 bits: any single changed byte changes it.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_published_one_of_foobar() {
        assert_eq!(checksum(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn any_damaged_byte_and_any_missing_end_is_an_error() {
        let level =
            |key: Option<&str>, used| SavedLevel { limit: "a\tb".into(), key: key.map(str::to_owned), used };
        let levels = Levels {
            at_ns: 17,
            levels: vec![level(None, 5), level(Some("x\\\n"), u64::MAX), level(Some(""), 1)],
        };
        let text = levels.to_text();
        assert_eq!(Levels::from_text(&text).unwrap(), levels);
        for ix in 0..text.len() {
            assert!(Levels::from_text(&text[..ix]).is_err(), "cut at {ix}");
            let mut bytes = text.clone().into_bytes();
            bytes[ix] = if bytes[ix] == b'7' { b'8' } else { b'7' };
            assert!(Levels::from_text(&String::from_utf8(bytes).unwrap()).is_err(), "byte {ix}");
        }
    }
}
