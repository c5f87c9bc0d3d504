//! A page about every key of a configuration, from its JSON Schema.

use std::fmt::Write as _;

use serde_json::Value;

/// Writes a section with a table for each object of a schema.
pub(crate) struct Reference {
    schema: Value,
}

/// What a value may be.
#[derive(Default)]
struct Kind<'a> {
    name: String,
    /// Objects to describe below, and what their path adds to that of the key.
    inner: Vec<(String, &'a Value)>,
    optional: bool,
    /// What each of the words means that it may be.
    words: Vec<(&'a str, &'a str)>,
}

impl Kind<'_> {
    fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

impl Reference {
    pub(crate) fn new(schema: Value) -> Self {
        Self { schema }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        self.section("", &self.schema, &mut text, &mut Vec::new());
        text
    }

    /// `told` are the objects that have a section, and its title.
    fn section<'a>(
        &'a self,
        path: &str,
        object: &'a Value,
        text: &mut String,
        told: &mut Vec<(&'a Value, String)>,
    ) {
        let title = if path.is_empty() { "Top level".to_owned() } else { format!("`{path}`") };
        writeln!(text, "\n## {title}\n").unwrap();
        if let (Some(description), false) = (object["description"].as_str(), path.is_empty()) {
            writeln!(text, "{}\n", one_line(description)).unwrap();
        }
        if let Some((_, before)) = told.iter().find(|(other, _)| std::ptr::eq(*other, object)) {
            writeln!(text, "As {before}.").unwrap();
            return;
        }
        told.push((object, title));
        writeln!(text, "| key | type | default | unit | what it is |\n|---|---|---|---|---|").unwrap();
        let required: Vec<&str> =
            object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let (mut below, mut words) = (Vec::new(), String::new());
        for (key, property) in object["properties"].as_object().unwrap() {
            // Which of several forms this is; the title says it.
            if property.get("const").is_some() {
                continue;
            }
            let kind = self.kind(property);
            let default = match property.get("default") {
                _ if required.contains(&key.as_str()) => "required".to_owned(),
                Some(Value::Object(_)) if !kind.inner.is_empty() && !kind.optional => "see below".to_owned(),
                Some(Value::Array(list)) if list.iter().any(Value::is_object) => "see below".to_owned(),
                None | Some(Value::Null) => "unset".to_owned(),
                Some(default) => format!("`{default}`"),
            };
            let description = one_line(property["description"].as_str().unwrap_or(""));
            assert!(!description.is_empty(), "{path}.{key} has no description");
            writeln!(text, "| `{key}` | {} | {default} | {} | {description} |", kind.name, unit(key))
                .unwrap();
            for (word, meaning) in kind.words {
                writeln!(words, "- `{key}: {word}`: {}", one_line(meaning)).unwrap();
            }
            if let Some(Value::Array(list)) = property.get("default")
                && list.iter().any(Value::is_object)
            {
                let lines: Vec<String> = list.iter().map(|one| format!("  - {one}")).collect();
                writeln!(words, "\nWithout `{key}`:\n\n```yaml\n{key}:\n{}\n```", lines.join("\n")).unwrap();
            }
            let dot = if path.is_empty() { "" } else { "." };
            below
                .extend(kind.inner.into_iter().map(|(add, inner)| (format!("{path}{dot}{key}{add}"), inner)));
        }
        if !words.is_empty() {
            write!(text, "\n{}", words.trim_start_matches('\n')).unwrap();
        }
        for (path, inner) in below {
            self.section(&path, inner, text, told);
        }
    }

    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.schema.pointer(reference.trim_start_matches('#')).unwrap(),
            None => schema,
        }
    }

    fn kind<'a>(&'a self, property: &'a Value) -> Kind<'a> {
        let schema = self.resolve(property);
        if let Some(branches) = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
            return self.one_of(branches);
        }
        let (name, optional) = match &schema["type"] {
            Value::String(name) => (name.as_str(), false),
            Value::Array(names) => {
                (names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap(), true)
            }
            _ => return Kind::named("anything"),
        };
        let kind = match name {
            "object" => self.object(schema),
            "array" if schema.get("prefixItems").is_some() => Kind::named("pair"),
            "array" => {
                let items = self.kind(&schema["items"]);
                let plural = match items.name.as_str() {
                    "section" => "sections".to_owned(),
                    name if name.contains(' ') || name.contains('`') => name.to_owned(),
                    name => format!("{name}s"),
                };
                let inner = items.inner.into_iter().map(|(add, inner)| (format!("[]{add}"), inner)).collect();
                Kind { name: format!("list of {plural}"), inner, words: items.words, ..Kind::default() }
            }
            "string" => Kind::named("text"),
            "boolean" => Kind::named("true or false"),
            name => Kind::named(name),
        };
        Kind { optional, ..kind }
    }

    fn object<'a>(&'a self, schema: &'a Value) -> Kind<'a> {
        if schema.get("properties").is_some() {
            return Kind { inner: vec![(String::new(), schema)], ..Kind::named("section") };
        }
        let values = self.kind(&schema["additionalProperties"]);
        let name = if values.name == "section" { "sections" } else { &values.name };
        let inner = values.inner.into_iter().map(|(add, inner)| (format!(".<name>{add}"), inner)).collect();
        Kind { name: format!("map of {name}"), inner, ..Kind::default() }
    }

    /// One of several forms.
    fn one_of<'a>(&'a self, branches: &'a [Value]) -> Kind<'a> {
        let (mut names, mut found) = (Vec::<String>::new(), Kind::default());
        for branch in branches {
            let resolved = self.resolve(branch);
            if resolved["type"] == "null" {
                found.optional = true;
                continue;
            }
            let kind = self.form(resolved);
            let name = match kind.name.strip_prefix("list of ") {
                // One, or many of them.
                Some(_) if branches.len() == 2 && !names.is_empty() => "list of them".to_owned(),
                _ => kind.name,
            };
            if !names.contains(&name) {
                names.push(name);
            }
            found.words.extend(kind.words);
            for (add, inner) in kind.inner {
                let known = found.inner.iter().any(|(_, other)| std::ptr::eq(*other, inner));
                if !known {
                    found.inner.push((add, inner));
                }
            }
        }
        let last = names.pop().unwrap_or_default();
        found.name = if names.is_empty() { last } else { format!("{} or {last}", names.join(", ")) };
        found
    }

    /// One form of several: a word, an object of one key, one that says its kind, or anything else.
    fn form<'a>(&'a self, schema: &'a Value) -> Kind<'a> {
        if let Some(word) = schema["const"].as_str() {
            let words = schema["description"].as_str().map(|meaning| (word, meaning)).into_iter().collect();
            return Kind { words, ..Kind::named(format!("`{word}`")) };
        }
        let Some(properties) = schema["properties"].as_object() else { return self.kind(schema) };
        if let Some((tag, kind)) =
            properties.iter().find_map(|(key, value)| Some((key, value["const"].as_str()?)))
        {
            let more =
                if properties.len() > 1 { vec![(format!(" ({tag}: {kind})"), schema)] } else { Vec::new() };
            return Kind { inner: more, ..Kind::named(format!("`{{ {tag}: {kind} }}`")) };
        }
        match properties.iter().next() {
            Some((key, value)) if properties.len() == 1 && schema["required"][0] == **key => {
                let kind = self.kind(value);
                let inner =
                    kind.inner.into_iter().map(|(add, inner)| (format!(".{key}{add}"), inner)).collect();
                Kind { inner, ..Kind::named(format!("`{{ {key}: {} }}`", kind.name.replace('`', ""))) }
            }
            _ => self.kind(schema),
        }
    }
}

/// A description on one line, in the words of the file: links into the code are only their text.
fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    while let Some((before, rest)) = line.split_once("[`")
        && let Some((linked, after)) = rest.split_once("`]")
    {
        let after = match after.strip_prefix('(') {
            Some(target) => target.split_once(')').map_or(after, |(_, after)| after),
            None => after,
        };
        line = format!("{before}`{linked}`{after}");
    }
    // Other texts may lead into the code, too.
    while let Some((before, rest)) = line.split_once("](")
        && let Some((target, after)) = rest.split_once(')')
        && target.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, ':' | '_'))
        && let Some((before, linked)) = before.rsplit_once('[')
    {
        line = format!("{before}{linked}{after}");
    }
    line.replace("`None`", "unset")
}

/// Keys end in their unit.
fn unit(key: &str) -> &'static str {
    let units = [
        ("usd_per_million_for_10_ms", "$ per million requests"),
        ("usd_per_million", "$ per million requests"),
        ("dollars_per_million", "$ per million tokens"),
        ("usd_per_hour", "$ per hour"),
        ("hourly_usd", "$ per hour"),
        ("tokens_per_second", "tokens/s"),
        ("_per_second", "1/s"),
        ("_per_s", "1/s"),
        ("_rps", "requests/s"),
        ("_ms", "ms"),
        ("_s", "s"),
        ("_bytes", "bytes"),
    ];
    units.iter().find(|(end, _)| key.ends_with(end)).map_or("", |(_, unit)| unit)
}
