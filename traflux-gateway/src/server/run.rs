//! How does a gateway run as a process of its own?

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use traflux_core::plan::requests::RequestPlan;

use super::gateway::{Drained, Gateway};
use super::settings::ServerSettings;
use crate::error::GatewayError;

/// How a process runs.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSettings {
    /// The file with the plan; read again when it changes and at SIGHUP.
    pub file: PathBuf,
    /// The gateway.
    pub server: ServerSettings,
    /// How often the file is looked at.
    pub watch_interval: Duration,
}

impl RunSettings {
    /// A plan's file, everything else as usual.
    #[must_use]
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), server: ServerSettings::default(), watch_interval: Duration::from_secs(1) }
    }
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    changed: Option<SystemTime>,
    bytes: u64,
}

impl Stamp {
    pub(super) fn of(file: &Path) -> Option<Self> {
        let data = std::fs::metadata(file).ok()?;
        Some(Self { changed: data.modified().ok(), bytes: data.len() })
    }
}

/// Runs a gateway until SIGTERM or SIGINT, then drains it. `read` makes a plan of the file's text; what happens is
/// told to `tell`, a line at a time. The future that `beside` makes of the running gateway runs until the drain: a
/// controller of its engine, for one.
///
/// # Errors
/// [`GatewayError`] when it cannot start. Later a file that holds no plan changes nothing; it is told.
pub fn run<F: Future<Output = ()> + Send + 'static>(
    settings: RunSettings,
    read: impl Fn(&str) -> Result<RequestPlan, String>,
    mut tell: impl FnMut(&str),
    beside: impl FnOnce(&Gateway) -> F,
) -> Result<Drained, GatewayError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| GatewayError::Listen { address: "runtime".into(), reason: e.to_string() })?;
    runtime.block_on(serve(settings, read, &mut tell, beside))
}

async fn serve<F: Future<Output = ()> + Send + 'static>(
    settings: RunSettings,
    read: impl Fn(&str) -> Result<RequestPlan, String>,
    tell: &mut impl FnMut(&str),
    beside: impl FnOnce(&Gateway) -> F,
) -> Result<Drained, GatewayError> {
    let RunSettings { file, server, watch_interval } = settings;
    let read = || {
        let wrong = |reason: String| GatewayError::PlanFile { file: file.clone(), reason };
        let text = std::fs::read_to_string(&file).map_err(|e| wrong(e.to_string()))?;
        read(&text).map_err(wrong)
    };
    // Before reading, so that a change in between is seen.
    let mut seen = Stamp::of(&file);
    let mut signals = Signals::new();
    let gateway = Gateway::start(&read()?, server).await?;
    tell(&format!("listening on {}", gateway.address()));
    if let Some(address) = gateway.admin_address() {
        tell(&format!("metrics and explanations on http://{address}"));
    }
    let beside = tokio::spawn(beside(&gateway));
    let mut renewal = None;
    loop {
        let forced = tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => break,
                Signal::Reload => true,
            },
            () = tokio::time::sleep(watch_interval) => false,
        };
        for event in gateway.engine().take_anomaly_events() {
            tell(&event.to_string());
        }
        let problem = gateway.renewal_problem();
        if problem != renewal {
            match &problem {
                Some(error) => {
                    tell(&format!("certificates and keys in use are older than their files: {error}"))
                }
                None => tell("certificates and keys are those of their files again"),
            }
            renewal = problem;
        }
        let now = Stamp::of(&file);
        // A file that is gone for a moment is being replaced.
        if !forced && (now == seen || now.is_none()) {
            continue;
        }
        seen = now;
        match gateway.take_in(read()) {
            Ok(()) => tell(&format!("{}: in force", file.display())),
            Err(error) => tell(&format!("the old plan stays in force: {error}")),
        }
    }
    beside.abort();
    tell("draining");
    let drained = gateway.drain().await;
    tell(&format!("{} connections ended, {} were cut off", drained.finished, drained.cut_off));
    Ok(drained)
}

enum Signal {
    Stop,
    Reload,
}

#[cfg(unix)]
struct Signals {
    stop: Option<tokio::signal::unix::Signal>,
    interrupt: Option<tokio::signal::unix::Signal>,
    reload: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        // A system that does not deliver one keeps its default.
        Self {
            stop: signal(SignalKind::terminate()).ok(),
            interrupt: signal(SignalKind::interrupt()).ok(),
            reload: signal(SignalKind::hangup()).ok(),
        }
    }

    async fn next(&mut self) -> Signal {
        async fn of(signal: &mut Option<tokio::signal::unix::Signal>) {
            match signal {
                Some(signal) => drop(signal.recv().await),
                None => std::future::pending().await,
            }
        }
        tokio::select! {
            () = of(&mut self.stop) => Signal::Stop,
            () = of(&mut self.interrupt) => Signal::Stop,
            () = of(&mut self.reload) => Signal::Reload,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Self {
        Self
    }

    async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal::Stop
    }
}
