//! A file of the datastore as a value: what exports give, and `file_store` and the
//! accessor `fs` take.

use std::any::Any;

use vql::{Key, Object, Value};

use crate::plugins::common::OsPath;
use crate::store::client_path;

/// What its text begins with.
const PREFIX: &str = "fs:";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StorePath(pub Vec<String>);

impl StorePath {
    /// The path a value means: one of these, a list of components, text with or
    /// without `fs:`.
    pub fn of(value: &Value) -> StorePath {
        if let Some(path) = value.downcast::<StorePath>() {
            return path.clone();
        }
        if let Some(path) = value.downcast::<OsPath>() {
            return StorePath::of_components(path.texts());
        }
        match value {
            Value::List(items) => {
                StorePath::of_components(items.iter().map(|i| i.to_text()).collect())
            }
            other => {
                let text = other.to_text();
                let text = text.strip_prefix(PREFIX).unwrap_or(&text);
                StorePath(client_path::split(text))
            }
        }
    }

    /// Components, perhaps of a text that was split with its prefix.
    pub fn of_components(mut parts: Vec<String>) -> StorePath {
        if parts.first().is_some_and(|p| p == PREFIX || p == "ds:") {
            parts.remove(0);
        }
        parts.retain(|p| !p.is_empty());
        StorePath(parts)
    }
}

impl Object for StorePath {
    fn type_name(&self) -> &'static str {
        "*path_specs.FSPathSpec"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn members(&self) -> Vec<Key> {
        vec![Key::from("Components")]
    }

    fn member(&self, name: &str) -> Option<Value> {
        match name {
            "Components" => Some(self.0.iter().collect()),
            "Base" | "Basename" => self.0.last().map(|n| n.as_str().into()),
            "String" | "VFSPath" => self.text().map(Value::from),
            _ => None,
        }
    }

    fn text(&self) -> Option<String> {
        Some(format!("{PREFIX}{}", client_path::join(&self.0)))
    }

    fn truth(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_to_name_a_file() {
        let want = StorePath(["downloads", "C.1", "a b.zip"].map(str::to_owned).to_vec());
        let text = want.text().unwrap();
        assert_eq!(text, "fs:/downloads/C.1/a b.zip");
        for value in [
            Value::from(text.as_str()),
            Value::from("/downloads/C.1/a b.zip"),
            Value::object(OsPath::linux(text.as_bytes())),
            Value::object(want.clone()),
            want.0.iter().collect(),
        ] {
            assert_eq!(StorePath::of(&value), want);
        }
    }
}
