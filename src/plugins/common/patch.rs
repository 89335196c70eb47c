//! `patch`: JSON patches (RFC 6902) and merge patches (RFC 7386) of values.

use serde_json::Value as Json;
use vql::{ArgType, Args, Error, Registry, Signature, Value};

/// Adds `patch`.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("patch", "A value with changes.")
        .required("item", ArgType::Any, "The value.")
        .arg("patch", ArgType::Any, "What to do, as RFC 6902 has it: one operation or a list.")
        .arg("merge", ArgType::Any, "What to put over it, as RFC 7386 has it.");
    registry.function_sync(signature, |_, args| patch(&args));
}

/// A value as JSON; text is JSON already.
fn json(value: &Value) -> Result<Json, Error> {
    let text = match value {
        Value::Str(text) => text.to_text().into_owned(),
        other => other.to_json(),
    };
    serde_json::from_str(&text).map_err(|e| Error::failed(format!("no JSON: {e}")))
}

fn patch(args: &Args) -> Result<Value, Error> {
    let mut item = json(&args.any("item"))?;
    let (operations, over) = (args.any("patch"), args.any("merge"));
    if operations.is_null() == over.is_null() {
        return Err(Error::Arg("either patch or merge should be given".into()));
    }
    if !over.is_null() {
        merge(&mut item, &json(&over)?);
    }
    if !operations.is_null() {
        match json(&operations)? {
            Json::Array(all) => all.iter().try_for_each(|one| operate(&mut item, one))?,
            one => operate(&mut item, &one)?,
        }
    }
    Ok(Value::from_json(item))
}

fn merge(into: &mut Json, over: &Json) {
    let Json::Object(over) = over else {
        over.clone_into(into);
        return;
    };
    if !into.is_object() {
        *into = Json::Object(serde_json::Map::new());
    }
    let Some(map) = into.as_object_mut() else { return };
    for (key, value) in over {
        match value {
            Json::Null => drop(map.shift_remove(key)),
            value => merge(map.entry(key.clone()).or_insert(Json::Null), value),
        }
    }
}

/// A pointer taken apart: where the last part is looked up, and that part.
fn parent(pointer: &str) -> Result<(&str, String), Error> {
    let (above, last) = pointer
        .rsplit_once('/')
        .ok_or_else(|| Error::failed(format!("`{pointer}` is no JSON pointer")))?;
    Ok((above, last.replace("~1", "/").replace("~0", "~")))
}

fn missing(pointer: &str) -> Error {
    Error::failed(format!("there is nothing at `{pointer}`"))
}

/// A place in a list; the end, too, if something may be put there.
fn place(key: &str, len: usize, pointer: &str) -> Result<usize, Error> {
    match key.parse::<usize>() {
        Ok(at) if at < len => Ok(at),
        _ => Err(missing(pointer)),
    }
}

fn add(item: &mut Json, pointer: &str, value: Json) -> Result<(), Error> {
    if pointer.is_empty() {
        *item = value;
        return Ok(());
    }
    let (above, key) = parent(pointer)?;
    match item.pointer_mut(above) {
        Some(Json::Object(map)) => drop(map.insert(key, value)),
        Some(Json::Array(list)) => {
            let at = if key == "-" { list.len() } else { place(&key, list.len() + 1, pointer)? };
            list.insert(at, value);
        }
        _ => return Err(missing(above)),
    }
    Ok(())
}

fn remove(item: &mut Json, pointer: &str) -> Result<Json, Error> {
    let (above, key) = parent(pointer)?;
    match item.pointer_mut(above) {
        Some(Json::Object(map)) => map.shift_remove(&key).ok_or_else(|| missing(pointer)),
        Some(Json::Array(list)) => Ok(list.remove(place(&key, list.len(), pointer)?)),
        _ => Err(missing(above)),
    }
}

fn operate(item: &mut Json, operation: &Json) -> Result<(), Error> {
    let text = |name: &str| {
        let text = operation.get(name).and_then(Json::as_str);
        text.ok_or_else(|| Error::failed(format!("an operation without {name}: {operation}")))
    };
    let value = || {
        let value = operation.get("value").cloned();
        value.ok_or_else(|| Error::failed(format!("an operation without value: {operation}")))
    };
    let path = text("path")?;
    match text("op")? {
        "add" => add(item, path, value()?),
        "remove" => remove(item, path).map(drop),
        "replace" => {
            let value = value()?;
            *item.pointer_mut(path).ok_or_else(|| missing(path))? = value;
            Ok(())
        }
        "move" => {
            let from = text("from")?;
            if path.starts_with(&format!("{from}/")) {
                return Err(Error::failed(format!("`{from}` cannot be moved into itself")));
            }
            let value = remove(item, from)?;
            add(item, path, value)
        }
        "copy" => {
            let from = text("from")?;
            let value = item.pointer(from).cloned().ok_or_else(|| missing(from))?;
            add(item, path, value)
        }
        "test" if item.pointer(path) == Some(&value()?) => Ok(()),
        "test" => Err(Error::failed(format!("`{path}` is not what is tested for"))),
        other => Err(Error::failed(format!("{other} is no operation"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn values_are_changed() {
        let mut registry = Registry::standard();
        register(&mut registry);
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).build();
        let check = async |args: &str| {
            let text = format!("SELECT patch({args}) AS P FROM scope()");
            Value::from(vql::run(&text, &scope).await.unwrap()).to_json()
        };
        for (args, want) in [
            (
                "item=dict(a=1, b=dict(c=2)), merge=dict(b=dict(d=3), a=NULL)",
                r#"{"b":{"c":2,"d":3}}"#,
            ),
            ("item=dict(a=1), merge='{\"x\": 1}'", r#"{"a":1,"x":1}"#),
            ("item=dict(a=[1]), merge=dict(a=dict(x=1))", r#"{"a":{"x":1}}"#),
            ("item=dict(a=1), patch=dict(op='replace', path='/a', value=5)", r#"{"a":5}"#),
            (
                "item=dict(a=1), patch=[dict(op='add', path='/z', value=4), dict(op='remove', path='/a')]",
                r#"{"z":4}"#,
            ),
            (
                "item=dict(l=[1,2]), patch=[dict(op='add', path='/l/-', value=3), \
                 dict(op='add', path='/l/0', value=0), dict(op='remove', path='/l/1')]",
                r#"{"l":[0,2,3]}"#,
            ),
            (
                "item=dict(`a/b`=1, c=2), patch=[dict(op='move', from='/a~1b', path='/d'), \
                 dict(op='copy', from='/d', path='/e'), dict(op='test', path='/e', value=1)]",
                r#"{"c":2,"d":1,"e":1}"#,
            ),
            ("item=dict(a=1), patch=dict(op='remove', path='/b')", "null"),
            ("item=dict(a=1), patch=dict(op='test', path='/a', value=2)", "null"),
            ("item=dict(a=[1]), patch=dict(op='add', path='/a/2', value=2)", "null"),
            ("item=dict(a=1)", "null"),
        ] {
            assert_eq!(check(args).await, format!(r#"[{{"P":{want}}}]"#), "{args}");
        }
    }
}
