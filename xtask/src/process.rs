//! How is another program run so that its output is seen at once, kept, and bounded in time?

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// What became of a program.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Whether it ended with status 0 in time.
    pub success: bool,
    /// Why not.
    pub problem: Option<String>,
    /// Everything that it wrote, both streams in the order in which lines came.
    pub output: String,
    /// How long it took.
    pub elapsed: Duration,
}

/// Whether output is shown while it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Both streams pass through.
    All,
    /// Nothing is shown; the caller has the output.
    Nothing,
}

/// After a program ended, a process that it left behind may hold its pipes; output is waited for this long.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs a program to its end, or kills it with all its descendants at the deadline.
pub(crate) fn run(mut command: Command, deadline: Duration, show: Show) -> Outcome {
    let started = Instant::now();
    let failed = |problem: String, output: String| Outcome {
        success: false,
        problem: Some(problem),
        output,
        elapsed: started.elapsed(),
    };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return failed(format!("cannot start {program}: {error}"), String::new()),
    };
    let (sender, lines) = mpsc::channel();
    forward(child.stdout.take(), false, sender.clone());
    forward(child.stderr.take(), true, sender);

    let mut output = String::new();
    let mut status = None;
    let mut ended = None;
    loop {
        match lines.recv_timeout(Duration::from_millis(50)) {
            Ok((is_error, line)) => take(&mut output, is_error, &line, show),
            // Both pipes are closed: only the status is missing.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(10)),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if status.is_none() {
            status = child.try_wait().ok().flatten();
            ended = status.map(|_| Instant::now());
        }
        match ended {
            Some(at) => {
                let mut closed = false;
                while !closed && at.elapsed() < DRAIN {
                    match lines.recv_timeout(Duration::from_millis(50)) {
                        Ok((is_error, line)) => take(&mut output, is_error, &line, show),
                        Err(RecvTimeoutError::Disconnected) => closed = true,
                        Err(RecvTimeoutError::Timeout) => {}
                    }
                }
                break;
            }
            None if started.elapsed() > deadline => {
                kill_tree(child.id());
                let _ = child.kill();
                let _ = child.wait();
                return failed(format!("not done within {} s", deadline.as_secs()), output);
            }
            None => {}
        }
    }
    match status {
        Some(status) if status.success() => {
            Outcome { success: true, problem: None, output, elapsed: started.elapsed() }
        }
        Some(status) => failed(status.to_string(), output),
        None => failed("ended without a status".to_owned(), output),
    }
}

fn forward(stream: Option<impl Read + Send + 'static>, is_error: bool, to: Sender<(bool, Vec<u8>)>) {
    let Some(stream) = stream else { return };
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if to.send((is_error, std::mem::take(&mut line))).is_err() {
                return;
            }
        }
    });
}

fn take(output: &mut String, is_error: bool, line: &[u8], show: Show) {
    output.push_str(&String::from_utf8_lossy(line));
    if show == Show::All {
        // A closed terminal is no reason to stop the work.
        let _ = if is_error { std::io::stderr().write_all(line) } else { std::io::stdout().write_all(line) };
    }
}

/// Kills every process below `root`. The standard library knows no signals, so `kill` does it.
fn kill_tree(root: u32) {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (pid, parent) in processes() {
        children.entry(parent).or_default().push(pid);
    }
    let mut below = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        let found = children.remove(&pid).unwrap_or_default();
        open.extend(&found);
        below.extend(found);
    }
    if !below.is_empty() {
        let ids: Vec<String> = below.iter().map(u32::to_string).collect();
        let _ = Command::new("sh").args(["-c", &format!("kill -KILL {}", ids.join(" "))]).status();
    }
}

/// (process, parent) of everything that runs.
fn processes() -> Vec<(u32, u32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return processes_by_ps() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // `pid (name) state parent …`: the name may hold spaces and brackets.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect()
}

fn processes_by_ps() -> Vec<(u32, u32)> {
    let Ok(listed) = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output() else { return Vec::new() };
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_are_kept_and_a_status_other_than_zero_is_a_failure() {
        let outcome = run(shell("echo out; echo err >&2; exit 3"), Duration::from_secs(10), Show::Nothing);
        assert!(!outcome.success);
        assert!(outcome.output.contains("out\n") && outcome.output.contains("err\n"));
        assert_eq!(outcome.problem.as_deref(), Some("exit status: 3"));
    }

    #[test]
    fn a_program_past_its_deadline_is_killed_with_its_children() {
        let outcome = run(shell("sleep 60 & echo $!; wait"), Duration::from_millis(300), Show::Nothing);
        assert!(!outcome.success);
        assert!(outcome.elapsed < Duration::from_secs(10));
        let child: u32 = outcome.output.trim().parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        // An orphan that was killed may stay as a zombie until its new parent looks after it.
        let gone = || match std::fs::read_to_string(format!("/proc/{child}/stat")) {
            Ok(stat) => stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')),
            Err(_) => true,
        };
        while !gone() {
            assert!(Instant::now() < deadline, "process {child} is still there");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_a_failure_with_its_name() {
        let outcome = run(Command::new("no-such-program-here"), Duration::from_secs(1), Show::Nothing);
        assert!(outcome.problem.unwrap().contains("no-such-program-here"));
    }
}
