//! Who writes the decision log to disk?
//!
//! A thread of its own, ten times a second: lines gather in memory meanwhile, so no request waits for the disk. What the
//! disk does not take is a gap in the log, and counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::decision_log::{LogFile, LogFileSettings};
use crate::engine::Engine;
use crate::error::GatewayError;

/// How often lines are written: what a process that is killed forgets.
const WRITE_EVERY: Duration = Duration::from_millis(100);

/// The thread that writes. It ends, with everything written, when this is dropped.
#[derive(Debug)]
pub(crate) struct Recording {
    engine: Engine,
    failed: Arc<AtomicU64>,
    thread: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

impl Recording {
    /// Begins to write what an engine records.
    pub(super) fn start(engine: Engine, file: LogFileSettings) -> Result<Self, GatewayError> {
        let path = file.path.clone();
        let unusable = |problem: std::io::Error| GatewayError::PlanFile {
            file: path.clone(),
            reason: problem.to_string(),
        };
        let mut file = LogFile::create(file).map_err(&unusable)?;
        let failed = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = channel();
        let (writer, failures) = (engine.clone(), Arc::clone(&failed));
        let write = move || {
            let Some(log) = writer.decision_log() else { return };
            loop {
                let ends = stopped.recv_timeout(WRITE_EVERY) != Err(RecvTimeoutError::Timeout);
                if ends {
                    log.close();
                }
                if file.write(log).is_err() {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
                if ends {
                    // The system writes it later where it cannot now.
                    let _ = file.sync();
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("decision-log".to_owned()).spawn(write);
        let thread = Mutex::new(Some((stop, thread.map_err(&unusable)?)));
        Ok(Self { engine, failed, thread })
    }

    /// Writes the rest and waits until the disk has it.
    pub(super) fn finish(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, thread)) = thread {
            drop(stop);
            // A thread that panicked has nothing more to write.
            let _ = thread.join();
        }
    }

    /// Its counters for Prometheus.
    pub(super) fn exposition(&self) -> String {
        let (written, dropped) = self.engine.decision_log().map_or((0, 0), |log| log.counts());
        let failed = self.failed.load(Ordering::Relaxed);
        format!(
            "# TYPE traflux_gateway_decision_log_entries_total counter\n\
             traflux_gateway_decision_log_entries_total{{result=\"written\"}} {written}\n\
             traflux_gateway_decision_log_entries_total{{result=\"dropped\"}} {dropped}\n\
             # TYPE traflux_gateway_decision_log_write_failures_total counter\n\
             traflux_gateway_decision_log_write_failures_total {failed}\n"
        )
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.finish();
    }
}
