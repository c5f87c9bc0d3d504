//! How many tokens will a request use, before anyone has counted them?
//!
//! Limits, prices and rooms are reserved by this estimate, and settled by what backends report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::range::check;
use crate::error::PlanError;

/// How tokens are told from bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TokensPlan {
    /// Bytes of a request's body per token, 0.1 to 100; 4, as English text has. 1 is an upper bound for every tokeniser of
    /// bytes: budgets then hold exactly for requests that state the most tokens of their answer and hold all that is
    /// read, without a history that the provider keeps and without content that is fetched by its address.
    pub bytes_per_token: f64,
    /// The most tokens written where the request does not say, at most 10⁹; 4096.
    pub default_output_tokens: u64,
    /// The same for some models, by the name that requests give; a `*` at the end stands for any continuation, and of
    /// several names the longest holds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, ModelTokensPlan>,
}

/// How tokens of a model are told from bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ModelTokensPlan {
    /// Bytes of a request's body per token; as for other models, without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_token: Option<f64>,
    /// The most tokens written where the request does not say; as for other models, without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_output_tokens: Option<u64>,
}

impl Default for TokensPlan {
    fn default() -> Self {
        Self { bytes_per_token: 4.0, default_output_tokens: 4096, models: BTreeMap::new() }
    }
}

impl TokensPlan {
    /// Tokens that a request to a model reads and at most writes, by the bytes of its body and the most tokens that it
    /// says it wants.
    #[must_use]
    pub fn estimate(&self, model: &str, input_bytes: usize, max_output: Option<u64>) -> (u64, u64) {
        let known = self.model(model).unwrap_or_default();
        let bytes_per_token = known.bytes_per_token.unwrap_or(self.bytes_per_token);
        let input = (input_bytes as f64 / bytes_per_token.max(f64::MIN_POSITIVE)).ceil() as u64;
        let output = max_output.or(known.default_output_tokens).unwrap_or(self.default_output_tokens);
        (input, output)
    }

    fn model(&self, name: &str) -> Option<ModelTokensPlan> {
        let begins = |pattern: &str| pattern.strip_suffix('*').is_some_and(|stem| name.starts_with(stem));
        // Exactly this name, else the longest beginning.
        self.models.get(name).copied().or_else(|| {
            let fitting = self.models.iter().filter(|(pattern, _)| begins(pattern));
            fitting.max_by_key(|(pattern, _)| pattern.len()).map(|(_, model)| *model)
        })
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// [`PlanError::Key`] for a value out of its range.
    pub fn validate(&self) -> Result<(), PlanError> {
        let in_range = |bytes_per_token: Option<f64>, output: Option<u64>| {
            if let Some(bytes) = bytes_per_token {
                check((0.1..=100.0).contains(&bytes), "bytes_per_token", bytes, "0.1 to 100")?;
            }
            let output = output.unwrap_or_default();
            check(output <= 1_000_000_000, "default_output_tokens", output, "at most 1000000000")
        };
        in_range(Some(self.bytes_per_token), Some(self.default_output_tokens))?;
        for (name, model) in &self.models {
            in_range(model.bytes_per_token, model.default_output_tokens)
                .map_err(|error| error.under(&format!("models.{name}")))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_of_a_model_holds_and_what_it_leaves_open_is_as_usual() {
        let plan: TokensPlan = serde_json::from_str(
            r#"{"bytes_per_token": 3, "default_output_tokens": 100, "models": {
                "gpt-*": {"bytes_per_token": 2}, "gpt-5*": {"default_output_tokens": 7},
                "gpt-5": {"bytes_per_token": 1, "default_output_tokens": 9}}}"#,
        )
        .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(plan.validate(), Ok(()));
        assert_eq!(plan.estimate("claude", 30, None), (10, 100));
        assert_eq!(plan.estimate("gpt-4", 31, None), (16, 100));
        assert_eq!(plan.estimate("gpt-5-mini", 30, None), (10, 7));
        assert_eq!(plan.estimate("gpt-5", 30, None), (30, 9));
        assert_eq!(plan.estimate("gpt-5", 30, Some(1)), (30, 1), "what the request says holds");
        assert_eq!(TokensPlan::default().estimate("", 30, None), (8, 4096));
    }

    #[test]
    fn what_is_out_of_range_is_named_with_its_value() {
        let problem = |json: &str| {
            let plan: TokensPlan = serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}"));
            plan.validate().err().map(|error| error.to_string())
        };
        let zero = "bytes_per_token: 0, expected 0.1 to 100";
        assert_eq!(problem(r#"{"bytes_per_token": 0}"#).as_deref(), Some(zero));
        let model = r#"{"models": {"m": {"default_output_tokens": 1000000001}}}"#;
        let expected = "models.m.default_output_tokens: 1000000001, expected at most 1000000000";
        assert_eq!(problem(model).as_deref(), Some(expected));
    }
}
