//! What do people write, and who asks?

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use traflux::gateway::read_plan;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::{IdentityTable, review};

use super::pairs;
use crate::errors::{guarded, input, py_err};

/// What is decided for each request: rules, backends, limits, queues.
///
/// Parameters
/// ----------
/// source
///     YAML or JSON as text, or the same as a mapping.
///
/// Raises
/// ------
/// ConfigError
///     For text that cannot be read or a key that there is not, with its path.
/// PlanError
///     For values that contradict each other, with the path of the key.
#[pyclass(module = "traflux.gateway", frozen, eq)]
#[derive(PartialEq)]
pub(crate) struct Plan {
    pub(super) plan: Arc<RequestPlan>,
}

impl Plan {
    /// From a plan, a text or a mapping.
    pub(super) fn of(source: &Bound<'_, PyAny>) -> PyResult<Arc<RequestPlan>> {
        if let Ok(plan) = source.cast::<Self>() {
            return Ok(Arc::clone(&plan.get().plan));
        }
        let text = match source.cast::<PyString>() {
            Ok(text) => text.to_str()?.to_owned(),
            Err(_) => json_text(source)?,
        };
        source.py().detach(|| {
            let plan = read_plan(&text).map_err(py_err)?;
            plan.validate().map_err(py_err)?;
            Ok(Arc::new(plan))
        })
    }
}

#[pymethods]
impl Plan {
    #[new]
    fn new(source: &Bound<'_, PyAny>) -> PyResult<Self> {
        guarded(|| Ok(Self { plan: Self::of(source)? }))
    }

    /// Reads a file of YAML or JSON.
    #[staticmethod]
    fn read(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        guarded(|| {
            let text = std::fs::read_to_string(&path)?;
            Ok(Self { plan: Self::of(&PyString::new(py, &text).into_any())? })
        })
    }

    /// The plan as a mapping, with every default.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        guarded(|| Ok(from_json(py, &self.to_json()?)?.cast_into::<PyDict>()?))
    }

    /// The plan as JSON, with every default.
    fn to_json(&self) -> PyResult<String> {
        guarded(|| serde_json::to_string(&*self.plan).map_err(|error| input("input_plan", error)))
    }

    /// What is odd about it: rules that can never decide, backends without use.
    fn review(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        guarded(|| Ok(py.detach(|| review(&self.plan).iter().map(ToString::to_string).collect())))
    }

    /// Names of all backends, sorted.
    #[getter]
    fn backends(&self) -> PyResult<Vec<&str>> {
        guarded(|| Ok(self.plan.backend_names().into_iter().collect()))
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            let plan = &self.plan;
            Ok(format!(
                "Plan(rules={}, backends={}, limits={})",
                plan.routing.rules.len(),
                plan.backend_names().len(),
                plan.limits.len()
            ))
        })
    }
}

/// Who asks, as far as it was verified.
#[pyclass(module = "traflux.gateway", frozen, get_all, eq)]
#[derive(PartialEq)]
pub(crate) struct Client {
    /// Whose limits and fair share it draws on.
    tenant: String,
    /// Name of the API key, never the key.
    key: String,
    /// End user.
    user: String,
    /// Tier.
    user_tier: String,
}

#[pymethods]
impl Client {
    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            let Self { tenant, key, user, user_tier } = self;
            Ok(format!("Client(tenant={tenant:?}, key={key:?}, user={user:?}, user_tier={user_tier:?})"))
        })
    }
}

/// The clients of a plan, by what their requests show.
#[pyclass(module = "traflux.gateway", frozen)]
pub(crate) struct Identities {
    table: IdentityTable,
}

#[pymethods]
impl Identities {
    #[new]
    fn new(plan: &Bound<'_, PyAny>) -> PyResult<Self> {
        guarded(|| Ok(Self { table: IdentityTable::new(&Plan::of(plan)?.identity).map_err(py_err)? }))
    }

    /// Who sent these headers; `None` where the plan asks for a key and there is no valid one.
    ///
    /// `claims` are verified claims of a token. Both are mappings, or pairs of `str` or `bytes`.
    #[pyo3(signature = (headers, claims=None))]
    fn resolve(
        &self,
        headers: &Bound<'_, PyAny>,
        claims: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Client>> {
        guarded(|| {
            let (headers, claims) = (pairs(Some(headers))?, pairs(claims)?);
            Ok(self.table.resolve(&headers, &claims).map(|client| Client {
                tenant: client.tenant.to_owned(),
                key: client.key.to_owned(),
                user: client.user.to_owned(),
                user_tier: client.user_tier.to_owned(),
            }))
        })
    }
}

/// JSON of a value of Python.
pub(crate) fn json_text(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let text = value.py().import("json")?.call_method1("dumps", (value,));
    text.map_err(|error| input("input_json", error))?.extract()
}

/// The value of Python that a JSON text says.
pub(crate) fn from_json<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("json")?.call_method1("loads", (text,))
}
