//! Trained policies.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::{Array1, Array2};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use traflux_core::{Observation, ObservationSpace, Policy as Acts};
use traflux_policy::{Checkpoint as Stored, CriticalCount, LearnedPolicy, Mode, PolicyStatus};

use crate::controller::Observation as Seen;
use crate::convert::{detached, invalid, shape};
use crate::errors::{guarded, py_err};

/// Puts the names of this file into its module.
pub(crate) fn register(_py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Checkpoint>()?;
    module.add_class::<Policy>()
}

/// A trained policy in a file, with everything needed to use it rightly.
#[pyclass(frozen, module = "traflux._traflux.policy")]
pub(crate) struct Checkpoint {
    inner: Stored,
}

impl Checkpoint {
    pub(crate) fn inner(&self) -> &Stored {
        &self.inner
    }
}

#[pymethods]
impl Checkpoint {
    /// Read and check a file that ``traflux train`` or ``traflux te train`` wrote.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        guarded(|| Ok(Self { inner: detached(py, || Stored::load(&path).map_err(py_err))? }))
    }

    /// Read and check the bytes of a file.
    #[staticmethod]
    fn from_bytes(data: &[u8]) -> PyResult<Self> {
        guarded(|| Ok(Self { inner: Stored::from_bytes(data).map_err(py_err)? }))
    }

    /// The fleet policy that comes with the program.
    #[staticmethod]
    fn shipped() -> PyResult<Self> {
        guarded(|| Ok(Self { inner: traflux::checkpoint::shipped().map_err(py_err)? }))
    }

    /// Write the file and rename it into place.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        detached(py, || self.inner.save(&path).map_err(py_err))
    }

    /// The bytes of the file; equal checkpoints have equal ones.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        guarded(|| Ok(PyBytes::new(py, &self.inner.to_bytes().map_err(py_err)?)))
    }

    /// Names of the features of a group, in the order of columns.
    #[getter]
    fn group_features(&self) -> Vec<String> {
        self.inner.observations.group_features.clone()
    }

    /// Names of the features of the whole, in order.
    #[getter]
    fn context_features(&self) -> Vec<String> {
        self.inner.observations.context_features.clone()
    }

    /// Most groups that it was trained to choose.
    #[getter]
    fn critical(&self) -> usize {
        self.inner.actions.critical
    }

    /// The command that trained it.
    #[getter]
    fn command(&self) -> &str {
        &self.inner.provenance.command
    }

    /// Its seed.
    #[getter]
    fn seed(&self) -> u64 {
        self.inner.provenance.seed
    }

    /// Environment steps that it learned from.
    #[getter]
    fn steps(&self) -> u64 {
        self.inner.provenance.steps
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        guarded(|| {
            let py = slf.py();
            let make = py.get_type::<Self>().getattr("from_bytes")?;
            Ok((make, (slf.get().to_bytes(py)?,)).into_pyobject(py)?.into_any())
        })
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            let (features, chosen) =
                (self.inner.observations.group_features.len(), self.inner.actions.critical);
            Ok(format!("Checkpoint({features} group features, chooses {chosen})"))
        })
    }
}

/// A policy that acts.
#[pyclass(frozen, module = "traflux._traflux.policy")]
pub(crate) struct Policy {
    inner: Mutex<LearnedPolicy>,
    space: ObservationSpace,
    status: Arc<PolicyStatus>,
    count: CriticalCount,
}

#[pymethods]
impl Policy {
    #[new]
    #[pyo3(signature = (checkpoint, *, count=None, seed=None, margin=0.5, fallback=true))]
    fn new(
        checkpoint: &Checkpoint,
        count: Option<usize>,
        seed: Option<u64>,
        margin: f32,
        fallback: bool,
    ) -> PyResult<Self> {
        guarded(|| {
            let checkpoint = &checkpoint.inner;
            let space = checkpoint.observations.clone();
            let mut policy = LearnedPolicy::from_checkpoint(checkpoint, &space).map_err(py_err)?;
            let count = CriticalCount::new(count.unwrap_or(checkpoint.actions.critical));
            policy =
                policy.with_critical_count(count.clone(), &space).with_margin(fallback.then_some(margin));
            if let Some(seed) = seed {
                policy.set_mode(Mode::Exploring { seed });
            }
            Ok(Self { status: policy.status(), inner: Mutex::new(policy), space, count })
        })
    }

    /// Most groups that are chosen.
    #[getter]
    fn count(&self) -> usize {
        self.count.current()
    }

    /// Names of the columns of ``groups``.
    #[getter]
    fn group_features(&self) -> Vec<String> {
        self.space.group_features.clone()
    }

    /// Names of the entries of ``context``.
    #[getter]
    fn context_features(&self) -> Vec<String> {
        self.space.context_features.clone()
    }

    /// How many decisions were taken.
    #[getter]
    fn decisions(&self) -> u64 {
        self.status.decisions()
    }

    /// How many of them were the plain policy's.
    #[getter]
    fn fallbacks(&self) -> u64 {
        self.status.fallbacks()
    }

    /// Chooses for one observation: ``groups`` ``(groups, features)`` and ``context`` ``(features,)`` float32, ``mask``
    /// ``(groups,)`` bool.
    fn act<'py>(
        &self,
        py: Python<'py>,
        groups: &Bound<'py, PyAny>,
        context: &Bound<'py, PyAny>,
        mask: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        guarded(|| {
            let observation = observation(py, groups, context, mask)?;
            let found = [observation.groups.ncols(), observation.context.len()];
            let expected = [self.space.group_features.len(), self.space.context_features.len()];
            if found != expected {
                return Err(shape("features of groups and context", &found, &expected));
            }
            self.chosen(py, &observation)
        })
    }

    /// Chooses for an observation of a `Controller`, of which it sees the features that it was made for: as ``act``.
    fn act_on<'py>(&self, py: Python<'py>, observation: &Seen) -> PyResult<Bound<'py, PyDict>> {
        guarded(|| {
            let observation = self.space.of(observation.space(), observation.seen()).map_err(py_err)?;
            self.chosen(py, &observation)
        })
    }
}

impl Policy {
    fn chosen<'py>(&self, py: Python<'py>, observation: &Observation) -> PyResult<Bound<'py, PyDict>> {
        let action = detached(py, || {
            self.inner.lock().unwrap_or_else(PoisonError::into_inner).act(observation).map_err(py_err)
        })?;
        let out = PyDict::new(py);
        let critical: Vec<i64> = action.critical.iter().map(|group| group.ix() as i64).collect();
        let multipliers: Vec<f64> =
            (0..observation.len()).map(|ix| action.multiplier(traflux_core::GroupIx::from(ix))).collect();
        out.set_item("critical", critical.into_pyarray(py))?;
        out.set_item("headroom", action.headroom)?;
        out.set_item("cost_multipliers", multipliers.into_pyarray(py))?;
        out.set_item("log_probability", action.log_probability)?;
        out.set_item("value", action.value)?;
        Ok(out)
    }
}

fn float32<'py>(py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let options = PyDict::new(py);
    options.set_item("dtype", "float32")?;
    py.import("numpy")?.call_method("ascontiguousarray", (value,), Some(&options))
}

/// Arrays as an observation. They are copied: a policy keeps nothing of its caller's.
fn observation(
    py: Python<'_>,
    groups: &Bound<'_, PyAny>,
    context: &Bound<'_, PyAny>,
    mask: Option<&Bound<'_, PyAny>>,
) -> PyResult<Observation> {
    let groups: numpy::PyReadonlyArray2<'_, f32> =
        float32(py, groups)?.extract().map_err(|_| invalid("groups is not a table of numbers"))?;
    let context: numpy::PyReadonlyArray1<'_, f32> =
        float32(py, context)?.extract().map_err(|_| invalid("context is not a vector of numbers"))?;
    let groups: Array2<f32> = groups.as_array().to_owned();
    let context: Array1<f32> = context.as_array().to_owned();
    let mask = match mask {
        None => vec![true; groups.nrows()],
        Some(mask) => {
            let options = PyDict::new(py);
            options.set_item("dtype", "bool")?;
            let mask = py.import("numpy")?.call_method("ascontiguousarray", (mask,), Some(&options))?;
            let mask: Bound<'_, PyArray1<bool>> =
                mask.cast_into().map_err(|_| invalid("mask is not a vector"))?;
            numpy::PyArrayMethods::to_vec(&mask).map_err(|_| invalid("mask is not contiguous"))?
        }
    };
    if mask.len() != groups.nrows() {
        return Err(shape("mask", &[mask.len()], &[groups.nrows()]));
    }
    Ok(Observation { groups, context, mask })
}
