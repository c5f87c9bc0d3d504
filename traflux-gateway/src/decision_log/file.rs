//! Where do lines go?
//!
//! A [`LogFile`] is a file of bounded size: when it is full it becomes `FILE.1`, what was `FILE.1` becomes `FILE.2`,
//! and the oldest beyond the number kept is deleted. Only its owner may read it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::DecisionLog;

/// How large a log may get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFileSettings {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of one file. It may exceed them by what waits in memory.
    pub max_bytes: u64,
    /// Files kept beside the one that is written.
    pub keep: usize,
}

impl LogFileSettings {
    /// 256 MiB a file, 15 of them beside the one that is written: 4 GiB.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_bytes: 256 << 20, keep: 15 }
    }
}

/// Writes what a [`DecisionLog`] has gathered.
#[derive(Debug)]
pub struct LogFile {
    settings: LogFileSettings,
    file: File,
    written: u64,
    lines: Vec<u8>,
    /// The lines to come begin with a header, for a file of their own.
    is_full: bool,
}

impl LogFile {
    /// A new file. One that is there, of a run before, is rotated away.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(settings: LogFileSettings) -> std::io::Result<Self> {
        if std::fs::symlink_metadata(&settings.path).is_ok_and(|data| data.len() > 0) {
            rotate(&settings.path, settings.keep)?;
        }
        let file = new_file(&settings.path)?;
        Ok(Self { settings, file, written: 0, lines: Vec::new(), is_full: false })
    }

    /// Writes all lines that were not written yet. After a failure they are lost, and the log has a gap.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&mut self, log: &DecisionLog) -> std::io::Result<()> {
        let turns_over = self.is_full;
        // Lines beyond the limit still go to this file: those behind them begin with a header.
        let fills = self.written >= self.settings.max_bytes && !turns_over;
        log.take(&mut self.lines, fills);
        if turns_over {
            rotate(&self.settings.path, self.settings.keep)?;
            self.file = new_file(&self.settings.path)?;
            self.written = 0;
        }
        self.is_full = fills;
        self.written += self.lines.len() as u64;
        self.file.write_all(&self.lines)
    }

    /// Waits until the disk has everything.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
}

/// The name of a file that was rotated away so many times.
pub(super) fn rotated(file: &Path, number: usize) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn rotate(path: &Path, keep: usize) -> std::io::Result<()> {
    if keep == 0 {
        return std::fs::remove_file(path);
    }
    for number in (1..keep).rev() {
        let from = rotated(path, number);
        if from.exists() {
            std::fs::rename(from, rotated(path, number + 1))?;
        }
    }
    std::fs::rename(path, rotated(path, 1))
}

/// Never through a link that somebody put there, never over a file that is there.
fn new_file(path: &Path) -> std::io::Result<File> {
    if std::fs::symlink_metadata(path).is_ok_and(|data| data.is_file() && data.len() == 0) {
        std::fs::remove_file(path)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
