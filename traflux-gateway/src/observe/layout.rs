//! Which series are there?
//!
//! All of them are named when a plan is compiled, so that a request is counted by index: no label is looked up
//! or hashed on the hot path, and the number of series has a bound before the first request comes.

use std::collections::HashSet;

use crate::error::GatewayError;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The position as a `usize`.
            #[inline]
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

index!(
    /// Position in [`MetricsLayout::series`].
    SeriesIx
);
index!(
    /// Position in [`MetricsLayout::routes`].
    RouteIx
);
index!(
    /// Position in [`MetricsLayout::deciders`].
    DeciderIx
);
index!(
    /// Position in [`MetricsLayout::reasons`].
    ReasonIx
);
index!(
    /// Position in [`MetricsLayout::bands`].
    BandIx
);

/// A backend and a model it serves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendModel {
    /// The backend.
    pub backend: String,
    /// The model; empty where backends serve no models.
    pub model: String,
}

/// A rule and a backend it may send to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// The rule.
    pub rule: String,
    /// The backend.
    pub backend: String,
}

/// A rule and the algorithm it decides with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decider {
    /// The rule.
    pub rule: String,
    /// The algorithm.
    pub algorithm: String,
}

/// The names of everything that is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricsLayout {
    /// Backends by model: requests, tokens, dollars and latencies.
    pub series: Vec<BackendModel>,
    /// Rules by backend: picks.
    pub routes: Vec<Route>,
    /// Rules by algorithm: decisions.
    pub deciders: Vec<Decider>,
    /// Why a decision came out as it did, "allowed" included.
    pub reasons: Vec<String>,
    /// Priority bands of the queue, the most urgent first.
    pub bands: Vec<String>,
}

impl MetricsLayout {
    /// Whether every name is there once.
    ///
    /// # Errors
    /// [`GatewayError::DuplicateName`] where two series would have the same labels.
    pub fn validate(&self) -> Result<(), GatewayError> {
        unique("series", self.series.iter().map(|s| (s.backend.as_str(), s.model.as_str())))?;
        unique("route", self.routes.iter().map(|r| (r.rule.as_str(), r.backend.as_str())))?;
        unique("decider", self.deciders.iter().map(|d| (d.rule.as_str(), d.algorithm.as_str())))?;
        unique("reason", self.reasons.iter().map(|r| (r.as_str(), "")))?;
        unique("band", self.bands.iter().map(|b| (b.as_str(), "")))
    }

    /// The series of a backend and model.
    #[must_use]
    pub fn series_ix(&self, backend: &str, model: &str) -> Option<SeriesIx> {
        let found = self.series.iter().position(|s| s.backend == backend && s.model == model);
        found.map(|ix| SeriesIx(ix as u32))
    }

    /// The route from a rule to a backend.
    #[must_use]
    pub fn route_ix(&self, rule: &str, backend: &str) -> Option<RouteIx> {
        let found = self.routes.iter().position(|r| r.rule == rule && r.backend == backend);
        found.map(|ix| RouteIx(ix as u32))
    }

    /// The decider of a rule and an algorithm.
    #[must_use]
    pub fn decider_ix(&self, rule: &str, algorithm: &str) -> Option<DeciderIx> {
        let found = self.deciders.iter().position(|d| d.rule == rule && d.algorithm == algorithm);
        found.map(|ix| DeciderIx(ix as u32))
    }

    /// A reason.
    #[must_use]
    pub fn reason_ix(&self, reason: &str) -> Option<ReasonIx> {
        self.reasons.iter().position(|r| r == reason).map(|ix| ReasonIx(ix as u32))
    }

    /// A band.
    #[must_use]
    pub fn band_ix(&self, band: &str) -> Option<BandIx> {
        self.bands.iter().position(|b| b == band).map(|ix| BandIx(ix as u32))
    }
}

fn unique<'a>(
    kind: &'static str,
    names: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), GatewayError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            let name = if name.1.is_empty() { name.0.to_owned() } else { format!("{}/{}", name.0, name.1) };
            return Err(GatewayError::DuplicateName { kind, name });
        }
    }
    Ok(())
}
