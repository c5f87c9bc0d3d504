//! How well does Envoy say what a field of the plan says?

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use traflux_core::plan::backend::BackendPlan;

/// How a field is expressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "support", rename_all = "snake_case")]
pub enum Support {
    /// Envoy does the same.
    Native,
    /// Envoy does something close.
    Approximated {
        /// What differs.
        gap: String,
    },
    /// Envoy does it with a service that has to run beside it.
    NeedsService {
        /// Which service, and what it has to do.
        which: String,
    },
    /// Envoy does not do it.
    Unsupported {
        /// Why, and what happens instead.
        why: String,
    },
}

impl Support {
    /// Its name in reports.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Approximated { .. } => "approximated",
            Self::NeedsService { .. } => "needs a service",
            Self::Unsupported { .. } => "unsupported",
        }
    }

    /// What there is to say about it.
    #[must_use]
    pub fn remark(&self) -> &str {
        match self {
            Self::Native => "",
            Self::Approximated { gap } => gap,
            Self::NeedsService { which } => which,
            Self::Unsupported { why } => why,
        }
    }
}

/// A field of a plan, or a part of the plan with all its fields, and how it is expressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldSupport {
    /// Path of the field as messages about plans write it: `routing.rules[0].match.path`. It speaks for all
    /// that lies below it and has no line of its own.
    pub path: String,
    /// How it is expressed.
    #[serde(flatten)]
    pub support: Support,
    /// The resource and field of Envoy that expresses it; empty where none does.
    pub note: String,
}

/// The lines of a report while it is written: of fields, and of what the engine does where a field is absent.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<FieldSupport>, Vec<FieldSupport>);

impl Report {
    fn add(&mut self, path: impl Into<String>, support: Support, note: impl Into<String>) {
        let line = FieldSupport { path: path.into(), support, note: note.into() };
        if !self.0.contains(&line) {
            self.0.push(line);
        }
    }

    pub(crate) fn native(&mut self, path: impl Into<String>, note: impl Into<String>) {
        self.add(path, Support::Native, note);
    }

    pub(crate) fn approximated(
        &mut self,
        path: impl Into<String>,
        note: impl Into<String>,
        gap: impl Into<String>,
    ) {
        self.add(path, Support::Approximated { gap: gap.into() }, note);
    }

    pub(crate) fn needs(&mut self, path: impl Into<String>, which: impl Into<String>) {
        self.add(path, Support::NeedsService { which: which.into() }, "");
    }

    pub(crate) fn unsupported(&mut self, path: impl Into<String>, why: impl Into<String>) {
        self.add(path, Support::Unsupported { why: why.into() }, "");
    }

    /// Envoy does not do what the engine does where a field is absent.
    pub(crate) fn absent(&mut self, path: impl Into<String>, why: impl Into<String>) {
        let support = Support::Unsupported { why: why.into() };
        self.1.push(FieldSupport { path: path.into(), support, note: String::new() });
    }

    /// Native where two values agree, approximated with this gap where they do not.
    pub(crate) fn exact_if(&mut self, exact: bool, path: impl Into<String>, note: &str, gap: &str) {
        if exact {
            self.native(path, note);
        } else {
            self.approximated(path, note, gap);
        }
    }

    /// Whether a line speaks for this path.
    pub(crate) fn covers(&self, path: &str) -> bool {
        self.0.iter().any(|line| {
            path.strip_prefix(line.path.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Adds a line for whatever is set and was not spoken of, so that a field which this compiler does not know
    /// is never taken for one that Envoy does. Then come the fields that are as usual and that Envoy does otherwise.
    pub(crate) fn finish(
        mut self,
        plan: &serde_json::Value,
        default: &serde_json::Value,
    ) -> (Vec<FieldSupport>, Vec<FieldSupport>) {
        let mut leaves = Vec::new();
        walk(plan, Some(default), String::new(), &mut leaves);
        for path in leaves {
            if !self.covers(&path) {
                self.unsupported(path, UNKNOWN);
            }
        }
        // What was not set is no question of support, but for the strategy, which holds where rules are silent.
        let is_set = |path: &str| path == STRATEGY || at(plan, path) != at(default, path);
        let (set, mut usual): (Vec<_>, Vec<_>) =
            self.0.into_iter().partition(|line| at(plan, &line.path).is_none() || is_set(&line.path));
        usual.retain(|line| line.support != Support::Native);
        usual.append(&mut self.1);
        usual.sort_by(|a, b| a.path.cmp(&b.path));
        self.0 = set;
        // A field that is native in one place and not in another is not native.
        let gaps: BTreeSet<String> =
            self.0.iter().filter(|l| l.support != Support::Native).map(|l| l.path.clone()).collect();
        self.0.retain(|line| line.support != Support::Native || !gaps.contains(&line.path));
        self.0.sort_by(|a, b| a.path.cmp(&b.path));
        (self.0, usual)
    }
}

/// Why a field is unsupported that this compiler does not know.
pub(crate) const UNKNOWN: &str = "not known to this compiler; ignored";

/// Path of the algorithm that holds where rules name none.
pub(crate) const STRATEGY: &str = "routing.strategy";

/// The value at a path without list positions.
fn at<'a>(value: &'a serde_json::Value, path: &str) -> Option<&'a serde_json::Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

/// Paths of all leaves that differ from the default.
fn walk(
    value: &serde_json::Value,
    default: Option<&serde_json::Value>,
    path: String,
    leaves: &mut Vec<String>,
) {
    use serde_json::Value;
    if Some(value) == default {
        return;
    }
    let item = item_default(&path);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let default = default.and_then(|d| d.get(key)).or(item.as_ref());
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(value, default, path, leaves);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (ix, value) in list.iter().enumerate() {
                walk(value, item.as_ref(), format!("{path}[{ix}]"), leaves);
            }
        }
        _ => leaves.push(path),
    }
}

/// What the members of a list or map have where nothing is said.
fn item_default(path: &str) -> Option<serde_json::Value> {
    match path {
        "backends" => serde_json::to_value(BackendPlan::default()).ok(),
        "limits" => Some(serde_json::json!({ "persistent": false, "period_ms": 60_000 })),
        _ => None,
    }
}

/// Writes a report as a table: one line per field, what is not native first.
#[must_use]
pub fn table(fields: &[FieldSupport]) -> String {
    let mut sorted: Vec<_> = fields.iter().collect();
    sorted.sort_by_key(|line| (line.support == Support::Native, line.path.as_str()));
    let width = |text: fn(&FieldSupport) -> usize| sorted.iter().map(|line| text(line)).max().unwrap_or(0);
    let (path, support) = (width(|l| l.path.chars().count()), width(|l| l.support.name().len()));
    let mut out = String::new();
    for line in sorted {
        let remark = [line.note.as_str(), line.support.remark()];
        let remark: Vec<_> = remark.into_iter().filter(|text| !text.is_empty()).collect();
        let name = line.support.name();
        writeln!(out, "{:path$}  {name:support$}  {}", line.path, remark.join("; "))
            .expect("a String takes any text");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_set_and_not_spoken_of_is_reported_as_unsupported() {
        let mut report = Report::default();
        report.native("a", "");
        report.native("list[0].x", "");
        let plan = json!({"a": {"b": 1}, "ab": 2, "same": 3, "list": [{"x": 1, "y": 2}]});
        let (fields, _) = report.finish(&plan, &json!({"same": 3}));
        let unknown: Vec<_> =
            fields.iter().filter(|f| f.support.remark() == UNKNOWN).map(|f| f.path.as_str()).collect();
        assert_eq!(unknown, ["ab", "list[0].y"]);
    }

    #[test]
    fn what_is_as_usual_and_not_native_is_told_apart_from_what_is_set() {
        let mut report = Report::default();
        report.approximated("a", "", "gap");
        report.approximated("b", "", "gap");
        report.native("c", "");
        let plan = json!({"a": 1, "b": 2, "c": 3});
        let (fields, usual) = report.finish(&plan, &json!({"a": 1, "b": 0, "c": 3}));
        let paths = |lines: &[FieldSupport]| lines.iter().map(|line| line.path.clone()).collect::<Vec<_>>();
        assert_eq!((paths(&fields), paths(&usual)), (vec!["b".to_owned()], vec!["a".to_owned()]));
    }

    #[test]
    fn a_table_begins_with_what_is_not_native() {
        let mut report = Report::default();
        report.native("a", "route");
        report.unsupported("b.long", "no such thing");
        let text = table(&report.0);
        assert_eq!(text, "b.long  unsupported  no such thing\na       native       route\n");
    }
}
