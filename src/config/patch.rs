//! Changes to a document: JSON merge patch (RFC 7396) and JSON patch (RFC 6902).

use serde_json::{Map, Value};

/// Why a patch cannot be applied; names the operation by its number from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// Not a patch at all.
    #[error("{0}")]
    Malformed(String),
    /// An operation without what it needs.
    #[error("operation {0}: {1}")]
    Operation(usize, String),
}

/// Applies a merge patch: objects merge, null removes, everything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.shift_remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Applies a JSON patch; on error the target is unchanged.
pub fn apply(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Array(operations) = patch else {
        return Err(PatchError::Malformed("a JSON patch is a list of operations".into()));
    };
    let mut work = target.clone();
    for (i, op) in operations.iter().enumerate() {
        operation(&mut work, op).map_err(|e| PatchError::Operation(i, e))?;
    }
    *target = work;
    Ok(())
}

fn operation(doc: &mut Value, op: &Value) -> Result<(), String> {
    let text = |key: &str| op.get(key).and_then(Value::as_str).ok_or(format!("no {key:?}"));
    let value = || op.get("value").cloned().ok_or("no \"value\"".to_owned());
    let path = text("path")?;
    match text("op")? {
        "add" => add(doc, path, value()?),
        "remove" => remove(doc, path).map(|_| ()),
        "replace" => {
            let new = value()?;
            *at(doc, path).ok_or(format!("no such place: {path:?}"))? = new;
            Ok(())
        }
        "move" => {
            let from = text("from")?;
            if path != from && path.strip_prefix(from).is_some_and(|p| p.starts_with('/')) {
                return Err(format!("cannot move {from:?} into itself"));
            }
            let v = remove(doc, from)?;
            add(doc, path, v)
        }
        "copy" => {
            let from = text("from")?;
            let v = at(doc, from).ok_or(format!("no such place: {from:?}"))?.clone();
            add(doc, path, v)
        }
        "test" => {
            let wanted = value()?;
            match at(doc, path) {
                Some(v) if *v == wanted => Ok(()),
                _ => Err(format!("test of {path:?} failed")),
            }
        }
        other => Err(format!("unknown operation {other:?}")),
    }
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// The place a JSON pointer names.
fn at<'a>(doc: &'a mut Value, pointer: &str) -> Option<&'a mut Value> {
    doc.pointer_mut(pointer)
}

/// A pointer's parent and last token.
fn parent<'a>(doc: &'a mut Value, pointer: &str) -> Result<(&'a mut Value, String), String> {
    let (head, last) = pointer.rsplit_once('/').ok_or(format!("not a path: {pointer:?}"))?;
    let holder = at(doc, head).ok_or(format!("no such place: {head:?}"))?;
    Ok((holder, unescape(last)))
}

fn index(token: &str, len: usize) -> Option<usize> {
    let strict = token == "0" || !token.starts_with(['0', '+']);
    token.parse().ok().filter(|i| strict && *i <= len)
}

fn add(doc: &mut Value, pointer: &str, value: Value) -> Result<(), String> {
    if pointer.is_empty() {
        *doc = value;
        return Ok(());
    }
    match parent(doc, pointer)? {
        (Value::Object(map), key) => {
            map.insert(key, value);
        }
        (Value::Array(list), key) if key == "-" => list.push(value),
        (Value::Array(list), key) => {
            let i = index(&key, list.len()).ok_or(format!("no such place: {pointer:?}"))?;
            list.insert(i, value);
        }
        _ => return Err(format!("nothing can be added at {pointer:?}")),
    }
    Ok(())
}

fn remove(doc: &mut Value, pointer: &str) -> Result<Value, String> {
    let gone = match parent(doc, pointer)? {
        (Value::Object(map), key) => map.shift_remove(&key),
        (Value::Array(list), key) => {
            index(&key, list.len()).filter(|i| *i < list.len()).map(|i| list.remove(i))
        }
        _ => None,
    };
    gone.ok_or(format!("no such place: {pointer:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_follows_the_examples_of_the_standard() {
        for (mut target, patch, want) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            merge(&mut target, &patch);
            assert_eq!(target, want);
        }
    }

    #[test]
    fn operations() {
        let mut v = json!({"a":{"b":[1,2,3]},"x/y":1});
        let patch = json!([
            {"op":"test","path":"/a/b/1","value":2},
            {"op":"add","path":"/a/b/1","value":9},
            {"op":"add","path":"/a/b/-","value":4},
            {"op":"remove","path":"/a/b/0"},
            {"op":"replace","path":"/x~1y","value":"z"},
            {"op":"copy","from":"/a/b/0","path":"/c"},
            {"op":"move","from":"/a/b","path":"/d"},
        ]);
        apply(&mut v, &patch).unwrap();
        assert_eq!(v, json!({"a":{},"x/y":"z","c":9,"d":[9,2,3,4]}));
    }

    #[test]
    fn failures_change_nothing() {
        let before = json!({"a":[1]});
        for bad in [
            json!({"op":"add"}),
            json!([{"op":"add","path":"/b","value":1},{"op":"test","path":"/a/0","value":2}]),
            json!([{"op":"remove","path":"/a/1"}]),
            json!([{"op":"add","path":"/a/2","value":1}]),
            json!([{"op":"add","path":"/a/01","value":1}]),
            json!([{"op":"add","path":"/a/0/x","value":1}]),
            json!([{"op":"add","path":"nope","value":1}]),
            json!([{"op":"replace","path":"/z","value":1}]),
            json!([{"op":"move","from":"/a","path":"/a/b"}]),
            json!([{"op":"add","path":"/a/0"}]),
            json!([{"op":"jump","path":"/a/0"}]),
            json!([7]),
        ] {
            let mut v = before.clone();
            assert!(apply(&mut v, &bad).is_err(), "{bad}");
            assert_eq!(v, before);
        }
        let e = apply(&mut before.clone(), &json!([{"op":"remove","path":"/q"}])).unwrap_err();
        assert_eq!(e.to_string(), "operation 0: no such place: \"/q\"");
    }
}
