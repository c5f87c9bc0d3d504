//! Is anything that Python or Node calls outside the border that makes errors of panics?
//!
//! PyO3 and napi make of a panic what no caller expects: an exception outside `Exception`, or the end of the process.
//! `errors::guarded` of each binding makes the error `internal_panic` of it. So the whole body of whatever is exported is
//! one call of it, or reads a field, which cannot panic.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// What begins a body that is inside: `guarded` itself, or a function that is nothing but a call of it.
const PYTHON: [&str; 2] = ["guarded(", "detached("];
const NODE: [&str; 3] = ["guarded(", "with(", "decide_with("];

/// Every Rust file below a folder of the repository.
fn sources(folder: &str) -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder), &mut found);
    found.sort();
    found
}

/// Names and bodies of the exported functions of a text as rustfmt leaves it. A function is exported when an attribute
/// of `single` stands before it, or when it is in an `impl` after an attribute of `whole`.
fn exported(text: &str, single: &str, whole: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut in_impl, mut marked) = (false, false);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim_start();
        let indent = &line[..line.len() - trimmed.len()];
        if line == "}" {
            in_impl = false;
        } else if trimmed.starts_with(single) {
            marked = true;
        } else if line.starts_with(whole) {
            in_impl = true;
        }
        if line.starts_with("pub struct") || line.starts_with("pub(crate) struct") {
            marked = false;
        }
        if line.starts_with("impl ") && single == whole {
            // Of napi: a marked `impl` says nothing of its functions, each has its own mark.
            marked = false;
        }
        let name = trimmed.strip_prefix("pub fn ").or_else(|| trimmed.strip_prefix("fn "));
        let Some(name) = name.filter(|_| marked || (in_impl && single != whole && indent == "    ")) else {
            continue;
        };
        marked = false;
        let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let mut last = line;
        while !last.ends_with('{') {
            last = lines.next().unwrap();
        }
        let end = format!("{indent}}}");
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != end).map(str::trim).collect();
        found.push((name, body.join("\n")));
    }
    found
}

/// Whether a body is one call of the border.
fn is_inside(body: &str, borders: &[&str]) -> bool {
    let Some(border) = borders.iter().find(|border| body.starts_with(**border)) else { return false };
    let mut depth = 0;
    for (ix, letter) in body.char_indices().skip(border.len() - 1) {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        if depth == 0 {
            return ix + 1 == body.len();
        }
    }
    false
}

/// Whether a body is a literal, or a field and what of it cannot panic.
fn only_reads(body: &str) -> bool {
    const HARMLESS: [&str; 9] = [
        "clone()",
        "as_str()",
        "len()",
        "is_none()",
        "is_some()",
        "as_deref()",
        "current()",
        "decisions()",
        "fallbacks()",
    ];
    let path = body.trim_start_matches('&');
    let is_text = body.len() > 1 && body.starts_with('"') && body[1..].find('"') == Some(body.len() - 2);
    let parts = path.strip_prefix("self.").map(|path| path.split('.'));
    let is_word = |part: &str| part.chars().all(|c| c.is_alphanumeric() || c == '_');
    is_text || parts.is_some_and(|mut parts| parts.all(|part| is_word(part) || HARMLESS.contains(&part)))
}

fn outside(folder: &str, single: &str, whole: &str, borders: &[&str], at_least: usize) -> Vec<String> {
    let mut outside = Vec::new();
    let mut seen = 0;
    for path in sources(folder) {
        for (name, body) in exported(&fs::read_to_string(&path).unwrap(), single, whole) {
            seen += 1;
            if !is_inside(&body, borders) && !only_reads(&body) {
                outside.push(format!("{}: {name}", path.file_name().unwrap().to_string_lossy()));
            }
        }
    }
    assert!(
        seen >= at_least,
        "{folder}: {seen} exported functions were found, at least {at_least} are there"
    );
    outside
}

#[test]
fn nothing_that_python_calls_is_outside_the_border() {
    let outside = outside("bindings/python/src", "#[pyfunction]", "#[pymethods]", &PYTHON, 180);
    assert!(outside.is_empty(), "{outside:#?}");
}

#[test]
fn nothing_that_node_calls_is_outside_the_border() {
    let outside = outside("bindings/node/src", "#[napi", "#[napi", &NODE, 30);
    assert!(outside.is_empty(), "{outside:#?}");
}

#[test]
fn what_is_outside_is_found() {
    let text = "#[pymethods]\nimpl A {\n    fn inside(&self) -> PyResult<()> {\n        guarded(|| {\n            Ok(())\n        })\n    }\n\n    fn late(\n        &self,\n    ) -> u8 {\n        let x = self.x();\n        guarded(|| x)\n    }\n\n    fn field(&self) -> u8 {\n        self.a.b\n    }\n}\n\n#[pyfunction]\nfn bare() -> u8 {\n    go()\n}\n\nfn ours() {\n    go()\n}\n";
    let all = exported(text, "#[pyfunction]", "#[pymethods]");
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["inside", "late", "field", "bare"]);
    let fine = |(_, body): &&(String, String)| is_inside(body, &PYTHON) || only_reads(body);
    let fine: Vec<&str> = all.iter().filter(fine).map(|(name, _)| name.as_str()).collect();
    assert_eq!(fine, ["inside", "field"]);
    assert!(!is_inside("guarded(|| a)?; b()", &PYTHON) && !only_reads("self.a.unwrap()"));
}
