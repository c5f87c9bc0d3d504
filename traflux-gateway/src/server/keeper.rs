//! Who keeps what is used of budgets while the process is down?

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use traflux_core::plan::requests::RequestPlan;
use traflux_core::{PlanError, Timestamp};

use crate::engine::Engine;
use crate::error::GatewayError;
use crate::limit::Levels;

/// How often levels are written: what a process that is killed forgets.
pub(super) const SAVE_EVERY: Duration = Duration::from_secs(5);

/// The file of levels, for this process alone.
#[derive(Debug)]
pub(crate) struct Keeper {
    path: PathBuf,
    /// Locked as long as the process lives; beside the file, which is replaced at each save.
    _lock: File,
    /// Writers come one after another: the last picture is the one that stays.
    writing: Mutex<()>,
    saved: AtomicU64,
    failed: AtomicU64,
}

impl Keeper {
    /// Opens the file that a plan names and charges what it says to a new engine. `None` where the plan keeps nothing.
    pub(super) fn open(
        plan: &RequestPlan,
        engine: &Engine,
        now: Timestamp,
    ) -> Result<Option<Arc<Self>>, GatewayError> {
        check(plan)?;
        let Some(path) = plan.server.levels_file.as_ref().map(PathBuf::from) else { return Ok(None) };
        let failed =
            |error: std::io::Error| GatewayError::LevelStore { path: path.clone(), kind: error.kind() };
        let mut beside = path.clone().into_os_string();
        beside.push(".lock");
        let lock = File::create(&beside).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(GatewayError::LevelStoreBusy { path }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        if let Some(levels) = Levels::load(&path)? {
            engine.restore(now, &levels);
        }
        let (saved, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        let keeper = Self { path, _lock: lock, writing: Mutex::new(()), saved, failed };
        // A folder that cannot be written is found now, not when the process ends.
        keeper.save(engine, now)?;
        Ok(Some(Arc::new(keeper)))
    }

    /// Writes what is used now. Blocks on the disk.
    pub(super) fn save(&self, engine: &Engine, now: Timestamp) -> Result<(), GatewayError> {
        let _one_by_one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let result = engine.levels(now).save(&self.path);
        let count = if result.is_ok() { &self.saved } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// Its counters for Prometheus.
    pub(super) fn exposition(&self) -> String {
        format!(
            "# TYPE traflux_gateway_level_saves_total counter\n\
             traflux_gateway_level_saves_total{{result=\"success\"}} {}\n\
             traflux_gateway_level_saves_total{{result=\"failure\"}} {}\n",
            self.saved.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed)
        )
    }
}

/// Refuses what [`Keeper::open`] would refuse, without taking the file: a gateway may be using it.
pub(super) fn look(plan: &RequestPlan) -> Result<(), GatewayError> {
    check(plan)?;
    let Some(path) = plan.server.levels_file.as_ref().map(PathBuf::from) else { return Ok(()) };
    look_at_folder(&path)
        .map_err(|error| GatewayError::LevelStore { path: path.clone(), kind: error.kind() })?;
    Levels::load(&path).map(drop)
}

/// Whether the lock can be written and the file be replaced: by a file of another name, which is gone again afterwards.
fn look_at_folder(path: &Path) -> std::io::Result<()> {
    let beside = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    match File::options().write(true).open(beside(".lock")) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let tried = beside(".check");
    match File::create_new(&tried) {
        Ok(_) => std::fs::remove_file(&tried),
        // Another check looks at the same time.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Refuses a plan whose limits shall be kept and that does not say where.
pub(super) fn check(plan: &RequestPlan) -> Result<(), GatewayError> {
    let kept = plan.limits.iter().position(|limit| limit.persistent);
    match kept.filter(|_| plan.server.levels_file.is_none()) {
        Some(ix) => Err(PlanError::Key {
            path: format!("limits[{ix}].persistent"),
            problem: "needs server.levels_file, where levels are kept".to_owned(),
        }
        .into()),
        None => Ok(()),
    }
}
