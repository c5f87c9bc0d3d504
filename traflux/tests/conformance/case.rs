//! How is a case read so that nothing of it is overlooked?

use std::collections::BTreeSet;

use serde_json::Value;

/// What a call gave: a value, or the code of its error and whether trying again may help.
pub(crate) type Gave = Result<Value, (&'static str, bool)>;

/// The keys of an object, of which each has to be read.
pub(crate) struct Fields<'a> {
    value: &'a Value,
    left: BTreeSet<&'a str>,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(value: &'a Value) -> Self {
        Self { value, left: value.as_object().unwrap().keys().map(String::as_str).collect() }
    }

    /// The value under a key, `null` too.
    pub(crate) fn take(&mut self, key: &str) -> Option<&'a Value> {
        self.left.remove(key);
        self.value.get(key)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.value.get(key).is_some()
    }

    pub(crate) fn text(&mut self, key: &str) -> Option<&'a str> {
        self.take(key).map(|value| value.as_str().unwrap())
    }

    pub(crate) fn number(&mut self, key: &str) -> Option<f64> {
        self.take(key).map(|value| value.as_f64().unwrap())
    }

    pub(crate) fn count(&mut self, key: &str) -> Option<u64> {
        self.take(key).map(|value| value.as_u64().unwrap())
    }

    /// Numbers of a list, or of a list of rows one after another; `null` is infinite.
    pub(crate) fn numbers(&mut self, key: &str) -> Option<Vec<f64>> {
        fn flat(value: &Value, out: &mut Vec<f64>) {
            match value {
                Value::Array(values) => values.iter().for_each(|value| flat(value, out)),
                Value::Null => out.push(f64::INFINITY),
                value => out.push(value.as_f64().unwrap()),
            }
        }
        self.take(key).map(|value| {
            let mut out = Vec::new();
            flat(value, &mut out);
            out
        })
    }

    pub(crate) fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        self.take(key).map(|value| {
            value.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
        })
    }

    pub(crate) fn all_read(self, whose: &str) {
        assert!(self.left.is_empty(), "{whose}: nobody read {:?}", self.left);
    }
}

/// Compares what is expected; what was found may have more keys.
pub(crate) fn compare(found: &Value, expected: &Value, tolerance: f64, place: &str) {
    match expected {
        Value::Object(fields) => {
            for (key, expected) in fields {
                let found = found.get(key).unwrap_or_else(|| panic!("{place}.{key} is missing in {found}"));
                compare(found, expected, tolerance, &format!("{place}.{key}"));
            }
        }
        Value::Array(values) => {
            let found = found.as_array().unwrap_or_else(|| panic!("{place}: {found}"));
            assert_eq!(found.len(), values.len(), "{place}: {found:?}");
            for (ix, (found, expected)) in found.iter().zip(values).enumerate() {
                compare(found, expected, tolerance, &format!("{place}[{ix}]"));
            }
        }
        Value::Number(number) => {
            let expected = number.as_f64().unwrap();
            let found = found.as_f64().unwrap_or_else(|| panic!("{place}: {found}, expected {expected}"));
            let allowed = tolerance * expected.abs().max(1.0);
            assert!((found - expected).abs() <= allowed, "{place}: {found}, expected {expected}");
        }
        expected => assert_eq!(found, expected, "{place}"),
    }
}
