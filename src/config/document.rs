//! A configuration file as a whole: ordered, with every key it holds.

use std::cell::RefCell;

use serde::de::DeserializeSeed;
use serde_json::{Map, Value};

use super::check::{Finding, Level};
use super::lines::Lines;
use super::reader::Node;
use super::schema::TOP;

/// A parsed file: its values (normalised to the types of the key table), where
/// they stand, and what is wrong with its shape.
#[derive(Clone, Debug)]
pub struct Document {
    /// The values, in the file's order.
    pub value: Value,
    /// Name of the file, for messages.
    pub origin: String,
    lines: Lines,
    problems: Vec<Finding>,
    /// Section that this file holds alone, its keys at the top.
    bare: Option<&'static str>,
}

impl Document {
    /// Parses YAML (or JSON, which is YAML). `Err` is a file that is no YAML mapping at
    /// all; unknown keys and wrong types are kept as [`Document::problems`].
    pub fn parse(text: &str, origin: &str) -> Result<Self, Finding> {
        Self::parse_section(text, origin, TOP, None)
    }

    /// Parses an API client's file: the keys of `api_config`, either in that section
    /// or, as `config api_client` writes them, at the top.
    pub fn parse_api_client(text: &str, origin: &str) -> Result<Self, Finding> {
        let bare = yaml_serde::from_str::<yaml_serde::Value>(text)
            .is_ok_and(|v| v.get("client_cert").is_some());
        if !bare {
            return Self::parse(text, origin);
        }
        let mut doc = Self::parse_section(text, origin, "ApiClientConfig", Some("api_config"))?;
        let mut top = Map::new();
        top.insert("api_config".to_owned(), doc.value);
        doc.value = Value::Object(top);
        Ok(doc)
    }

    fn parse_section(
        text: &str,
        origin: &str,
        section: &'static str,
        bare: Option<&'static str>,
    ) -> Result<Self, Finding> {
        let lines = Lines::of(text);
        let problems = RefCell::new(Vec::new());
        let node = Node::top(section, &problems);
        let value =
            node.deserialize(yaml_serde::Deserializer::from_str(text)).map_err(|e| Finding {
                level: Level::Error,
                origin: origin.to_owned(),
                line: e.location().map_or(1, |l| l.line()),
                path: String::new(),
                message: format!("not readable as YAML: {e}"),
            })?;
        let top_is_wrong = problems.borrow().iter().any(|(path, _)| path.is_empty());
        let value = if value.is_null() { Value::Object(Map::new()) } else { value };
        let mut doc = Self { value, origin: origin.to_owned(), lines, problems: Vec::new(), bare };
        if top_is_wrong || !doc.value.is_object() {
            let message = "the file is not a mapping of keys to values";
            return Err(doc.finding(Level::Error, "", message));
        }
        doc.problems = problems
            .into_inner()
            .into_iter()
            .map(|(path, message)| doc.finding(Level::Error, &path, message))
            .collect();
        Ok(doc)
    }

    /// A document made here, without a text of its own.
    pub fn from_value(value: Value, origin: &str) -> Result<Self, Finding> {
        Self::parse(&to_yaml(&value), origin)
    }

    /// Unknown keys, wrong types, keys given twice.
    pub fn problems(&self) -> &[Finding] {
        &self.problems
    }

    /// A finding about the key at `path`, with its line.
    pub fn finding(&self, level: Level, path: &str, message: impl Into<String>) -> Finding {
        let in_file = self
            .bare
            .and_then(|bare| path.strip_prefix(bare))
            .map_or(path, |p| p.trim_start_matches('.'));
        Finding {
            level,
            origin: self.origin.clone(),
            line: self.lines.find(in_file),
            path: path.to_owned(),
            message: message.into(),
        }
    }

    /// The value at a dotted path without indices; `None` if absent or null.
    pub fn get(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.value, |v, key| v.get(key)).filter(|v| !v.is_null())
    }

    /// The text at a dotted path.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.get(path)?.as_str()
    }

    /// Sets the value at a dotted path; sections are made, and put where stock
    /// would write them only if they already exist, else last.
    pub fn set(&mut self, path: &str, value: Value) {
        let mut at = &mut self.value;
        for key in path.split('.') {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            let Value::Object(map) = at else { return };
            at = map.entry(key).or_insert(Value::Null);
        }
        *at = value;
    }

    /// Removes the key at a dotted path, if it is there.
    pub fn remove(&mut self, path: &str) {
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
        let parent = match parent {
            "" => Some(&mut self.value),
            p => p.split('.').try_fold(&mut self.value, |v, key| v.get_mut(key)),
        };
        if let Some(Value::Object(map)) = parent {
            map.shift_remove(key);
        }
    }

    /// As YAML text, in the file's order. Comments are not kept.
    pub fn to_yaml(&self) -> String {
        to_yaml(&self.value)
    }
}

/// YAML text of a value.
pub fn to_yaml(value: &Value) -> String {
    yaml_serde::to_string(&yaml(value)).unwrap_or_default()
}

fn yaml(value: &Value) -> yaml_serde::Value {
    use yaml_serde::Value as Y;
    match value {
        Value::Null => Y::Null,
        Value::Bool(b) => Y::Bool(*b),
        Value::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
            (Some(n), ..) => Y::Number(n.into()),
            (_, Some(n), _) => Y::Number(n.into()),
            (.., Some(f)) => Y::Number(f.into()),
            _ => Y::String(n.to_string()),
        },
        Value::String(s) => Y::String(s.clone()),
        Value::Array(a) => Y::Sequence(a.iter().map(yaml).collect()),
        Value::Object(m) => {
            Y::Mapping(m.iter().map(|(k, v)| (Y::String(k.clone()), yaml(v))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        Document::parse(text, "f").unwrap().problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_keep_order_spelling_and_stock_booleans() {
        let text = "version:\n  version: 0.70\n  commit: 049040963\nClient:\n  nonce: yes\n  \
                    use_self_signed_ssl: yes\n  max_poll: 60\n  client_info_update_time: -1\n\
                    API:\nautoexec:\n  artifact_definitions:\n  - name: X\n    odd: [1, 2.5, ~]\n";
        let d = Document::parse(text, "f").unwrap();
        assert!(d.problems().is_empty(), "{:?}", d.problems());
        assert_eq!(d.text("version.version"), Some("0.70"));
        assert_eq!(d.text("version.commit"), Some("049040963"));
        assert_eq!(d.text("Client.nonce"), Some("yes"));
        assert_eq!(d.get("Client.use_self_signed_ssl"), Some(&Value::Bool(true)));
        assert_eq!(d.get("API"), None);
        let again = Document::parse(&d.to_yaml(), "g").unwrap();
        assert_eq!(again.value, d.value);
        assert!(d.to_yaml().starts_with("version:\n  version: "), "{}", d.to_yaml());
    }

    #[test]
    fn every_problem_is_named_with_its_line() {
        let text = "Client:\n  nonce: a\n  max_poll: soon\n  serverUrls: []\n  server_urls: https://x/\n\
                    Frontend:\n  bind_port: -1\n  bind_port: 5\n  resources: [1]\nfoo: {bar: 1}\n";
        assert_eq!(
            problems(text),
            [
                "f:3: Client.max_poll: should be a number from 0 up, is text",
                "f:4: Client.serverUrls: unknown key; did you mean server_urls?",
                "f:5: Client.server_urls: should be a list of text, is text",
                "f:8: Frontend.bind_port: should be a number from 0 up, is a negative number",
                "f:8: Frontend.bind_port: given twice",
                "f:9: Frontend.resources: should be a section, is a list",
                "f:10: foo: unknown key",
            ]
        );
    }

    #[test]
    fn what_is_no_mapping_is_refused() {
        for (text, part) in [
            ("- a\n", "mapping"),
            ("just text", "mapping"),
            ("a: [", "YAML"),
            ("Client:\n\tnonce: x", "YAML"),
        ] {
            let e = Document::parse(text, "f").unwrap_err();
            assert!(e.to_string().contains(part), "{text}: {e}");
        }
        assert!(Document::parse("", "f").unwrap().value.as_object().unwrap().is_empty());
    }

    #[test]
    fn set_makes_sections() {
        let mut d = Document::parse("Client:\n  nonce: a\n", "f").unwrap();
        d.set("Frontend.resources.concurrency", 3.into());
        d.set("Client.nonce", "b".into());
        assert_eq!(
            d.to_yaml(),
            "Client:\n  nonce: b\nFrontend:\n  resources:\n    concurrency: 3\n"
        );
        for path in ["Frontend.resources", "Client", "Frontend.none.deeper", "None"] {
            d.remove(path);
        }
        assert_eq!(d.to_yaml(), "Frontend: {}\n");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[A-Za-z:\\-\n \\[\\]{}0-9'\"|>&*!#]{0,120}") {
            if let Ok(d) = Document::parse(&text, "f") {
                let _ = d.to_yaml();
            }
        }

        #[test]
        fn any_text_survives_writing(s in "\\PC{0,40}", t in "([a-z0-9:#.~ -]{0,8}\n?){0,4}") {
            for s in [s, t] {
                let mut d = Document::parse("", "f").unwrap();
                d.set("Client.nonce", s.clone().into());
                let again = Document::parse(&d.to_yaml(), "g").unwrap();
                proptest::prop_assert_eq!(again.get("Client.nonce").and_then(Value::as_str), Some(s.as_str()));
            }
        }
    }
}
