//! How many tokens did an answer use?

use pyo3::prelude::*;
use traflux_gateway::wire::{BodyKind, UsageReader as Inner};

use crate::errors::guarded;

/// Reads tokens from the answer of a language model while it passes.
///
/// `content_type` is that of the answer: JSON or server-sent events; of others nothing is read.
#[pyclass(module = "traflux.gateway")]
pub(crate) struct UsageReader {
    reader: Option<Inner>,
}

#[pymethods]
impl UsageReader {
    #[new]
    fn new(content_type: &str) -> PyResult<Self> {
        guarded(|| Ok(Self { reader: BodyKind::of_content_type(content_type).map(Inner::new) }))
    }

    /// Takes in a piece of the body.
    fn push(&mut self, chunk: &[u8]) -> PyResult<()> {
        guarded(|| {
            if let Some(reader) = &mut self.reader {
                reader.push(chunk);
            }
            Ok(())
        })
    }

    /// What was found: the arguments of `Forward.finish` that say so; empty where the answer does not.
    fn usage(&self) -> PyResult<std::collections::HashMap<&'static str, u64>> {
        guarded(|| {
            let usage = self.reader.as_ref().and_then(Inner::usage);
            let pairs = usage.map(|usage| {
                [
                    ("input_tokens", usage.input),
                    ("output_tokens", usage.output),
                    ("cached_tokens", usage.cached),
                ]
            });
            Ok(pairs.into_iter().flatten().collect())
        })
    }
}
