//! Which split was last known to be good?
//!
//! A small JSON file with shares by flow and route name, replaced atomically when a plan is acknowledged.
//! After a restart the controller begins there.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use traflux_core::{FlowIx, PlanError, PlanVersion, Split, Topology};

/// The state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("state file {path}: {reason}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The file is not a state of this program; it is left as it is.
    #[error("state file {path} cannot be read: {reason}; move it away to start from the static weights")]
    Corrupt {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The saved shares cannot be expressed as weights.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl StoreError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "store_io",
            Self::Corrupt { .. } => "store_corrupt",
            Self::Plan(error) => error.code(),
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Io { .. })
    }
}

/// A file that holds the last acknowledged split.
#[derive(Debug, Clone)]
pub struct StateStore {
    path: PathBuf,
}

const FORMAT: &str = "traflux-state-1";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    format: String,
    version: String,
    /// Flow name → route name → share.
    shares: BTreeMap<String, BTreeMap<String, f64>>,
}

impl StateStore {
    /// A store at this path; the file need not exist yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the saved split as far as it fits the topology: a flow that is new gets its row of `fallback`, a
    /// route that is new share 0. `None` when nothing was ever saved.
    ///
    /// # Errors
    /// [`StoreError`] for a file that exists but cannot be understood.
    pub fn load(&self, topology: &Topology, fallback: &Split) -> Result<Option<Split>, StoreError> {
        let Some(saved) = self.read()? else { return Ok(None) };
        let mut amounts = vec![0.0; topology.routes().len()];
        for (ix, flow) in topology.flows().iter().enumerate() {
            let Some(row) = saved.shares.get(&flow.name) else {
                let range = topology.route_range(FlowIx::from(ix));
                amounts[range.clone()].copy_from_slice(&fallback.shares()[range]);
                continue;
            };
            if let Some((route, share)) = row.iter().find(|(_, s)| !s.is_finite() || **s < 0.0 || **s > 1.0) {
                return Err(self.corrupt(format!("share of `{route}` is {share}")));
            }
            for at in topology.route_range(FlowIx::from(ix)) {
                amounts[at] = row.get(&topology.routes()[at].name).copied().unwrap_or(0.0);
            }
        }
        Ok(Some(Split::proportional(topology, &amounts)))
    }

    /// Replaces the file: written beside it, synced, renamed. Rows of sources that are not acknowledged stay as
    /// they were in the file.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the old file then stays.
    pub fn save(
        &self,
        topology: &Topology,
        split: &Split,
        version: &PlanVersion,
        acknowledged: impl Fn(&str) -> bool,
    ) -> Result<(), StoreError> {
        let mut shares = match self.read()? {
            Some(saved) => saved.shares,
            None => BTreeMap::new(),
        };
        shares.retain(|flow, _| topology.flow(flow).is_some());
        for (ix, flow) in topology.flows().iter().enumerate().filter(|(_, f)| acknowledged(&f.source)) {
            let row = topology
                .route_range(FlowIx::from(ix))
                .map(|at| (topology.routes()[at].name.clone(), split.shares()[at]))
                .collect();
            shares.insert(flow.name.clone(), row);
        }
        let saved = Saved { format: FORMAT.to_owned(), version: version.to_string(), shares };
        let text = serde_json::to_string_pretty(&saved)
            .map_err(|e| StoreError::Io { path: self.path.display().to_string(), reason: e.to_string() })?;
        if let Some(parent) = self.path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(|e| self.io(&e))?;
        }
        let beside = self.path.with_extension("new");
        let mut file = std::fs::File::create(&beside).map_err(|e| self.io(&e))?;
        file.write_all(text.as_bytes()).map_err(|e| self.io(&e))?;
        file.sync_all().map_err(|e| self.io(&e))?;
        std::fs::rename(&beside, &self.path).map_err(|e| self.io(&e))
    }

    fn read(&self) -> Result<Option<Saved>, StoreError> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(&error)),
        };
        let saved: Saved = serde_json::from_str(&text).map_err(|e| self.corrupt(e.to_string()))?;
        if saved.format != FORMAT {
            return Err(self.corrupt(format!("format is `{}`, expected `{FORMAT}`", saved.format)));
        }
        Ok(Some(saved))
    }

    fn corrupt(&self, reason: String) -> StoreError {
        StoreError::Corrupt { path: self.path.display().to_string(), reason }
    }

    fn io(&self, error: &std::io::Error) -> StoreError {
        StoreError::Io { path: self.path.display().to_string(), reason: error.to_string() }
    }
}
