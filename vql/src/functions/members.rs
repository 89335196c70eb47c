//! dict, to_dict, get, set: members of dictionaries and other values.

use super::lru::Lru;
use crate::args::Args;
use crate::error::Error;
use crate::eval::{dereference, element, materialize, variable};
use crate::registry::{Function, Registry};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::signature::{ArgType, Signature};
use crate::value::{Dict, Key, Value};
use futures::StreamExt;
use std::sync::Arc;

pub(super) fn register(registry: &mut Registry) {
    let dict = Signature::new("dict", "A dictionary of all arguments.").any_args();
    registry.add_function(Arc::new(MakeDict(dict)));

    let lazy = Signature::new("lazy_dict", "A dictionary of all arguments; queries do not run.");
    registry.function_sync(lazy.any_args(), |_, args| Ok(args.to_dict().into()));

    let to_dict = Signature::new("to_dict", "A dictionary from rows with _key and _value.").arg(
        "item",
        ArgType::Query,
        "The rows.",
    );
    registry.function_async(to_dict, |_, args| async move {
        let mut out = Dict::new();
        if let Value::Dict(dict) = args.any("item") {
            return Ok(Value::Dict(dict));
        }
        let mut rows = args.rows("item");
        while let Some(row) = rows.next().await {
            let Value::Dict(row) = row else { continue };
            let key = row.get("_key").filter(|key| !key.is_null()).map(Value::to_str);
            let Some(key) = key.filter(|key| !key.is_empty()) else { continue };
            out.set(Key::from(&key), row.get("_value").cloned().unwrap_or_default());
        }
        Ok(out.into())
    });

    let get = Signature::new("get", "A member of a value or a variable.")
        .arg("item", ArgType::Any, "The value; the scope when not given.")
        .arg("member", ArgType::String, "A dotted path of names.")
        .arg("field", ArgType::Any, "One name or index.")
        .arg("default", ArgType::Any, "The value when there is none.");
    registry.function_async(get, |scope, args| async move { get_member(&scope, &args).await });

    let set = Signature::new("set", "Sets a member and returns the changed value.")
        .required("item", ArgType::Any, "The dictionary.")
        .required("field", ArgType::Any, "The name.")
        .required("value", ArgType::Any, "The new value.");
    registry.function_sync(set, |scope, args| {
        if let Value::Object(object) = args.any("item")
            && let Some(store) = object.as_any().downcast_ref::<Lru>()
        {
            store.set(&args.any("field").to_text(), args.any("value"));
            return Ok(Value::Object(object));
        }
        let Value::Dict(old) = args.any("item") else {
            return Err(Error::failed("only dictionaries can be changed"));
        };
        let mut changed = Dict::clone(&old);
        // What is set last comes last.
        changed.set(Key::from(&args.any("field").to_str()), args.any("value"));
        let changed = Value::from(changed);
        scope.replace(&old, &changed);
        Ok(changed)
    });
}

/// dict(): queries in it run while their variables are there.
struct MakeDict(Signature);

impl Function for MakeDict {
    fn signature(&self) -> &Signature {
        &self.0
    }
    fn call(&self, scope: &Scope, args: Args) -> Reply<Result<Value, Error>> {
        materialize(args.to_dict().into(), scope).map(Ok)
    }
}

async fn get_member(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let default = args.any("default");
    let path: Vec<Value> = match args.opt_string("member")? {
        Some(member) => member.split('.').map(Value::from).collect(),
        None if args.has("field") => vec![args.any("field")],
        None => return Err(Error::Arg("one of member or field is needed".into())),
    };
    let mut path = path.into_iter();
    let mut value = match args.has("item") {
        true => args.any("item"),
        false => {
            let name = path.next().unwrap_or_default().to_text();
            match variable(&name, scope).await {
                Some(value) => value,
                None => return Ok(default),
            }
        }
    };
    for step in path {
        if let Value::Object(object) = &value
            && object.fetches()
        {
            match object.fetch(&step.to_text()).await {
                Some(found) => value = found,
                None => return Ok(default),
            }
            continue;
        }
        if !has_member(&value, &step) {
            return Ok(default);
        }
        value = match (&value, &step) {
            (Value::List(items), index) => match index_of(index) {
                Some(index) => element(items, index),
                None => match dereference(value, &step.to_text(), scope).await {
                    // None of the elements has it.
                    Value::List(found) if found.is_empty() => Value::Null,
                    found => found,
                },
            },
            (Value::Str(text), Value::Int(index)) => {
                let at = usize::try_from(*index).ok();
                at.and_then(|at| text.as_bytes().get(at)).map_or(Value::Null, |b| (*b).into())
            }
            (Value::Object(o), Value::Int(index)) => o.index(*index).unwrap_or_default(),
            _ => dereference(value, &step.to_text(), scope).await,
        };
    }
    Ok(value)
}

fn index_of(step: &Value) -> Option<i64> {
    match step {
        Value::Int(index) => Some(*index),
        other => other.to_text().parse().ok(),
    }
}

fn has_member(value: &Value, step: &Value) -> bool {
    match value {
        // NULL has any member, and it is NULL.
        Value::Null => true,
        Value::Dict(dict) => dict.contains(&step.to_text()),
        Value::Object(o) => match step {
            Value::Int(_) => true,
            name => o.member(&name.to_text()).is_some(),
        },
        Value::List(items) => !items.is_empty(),
        Value::Str(text) => match step {
            Value::Int(index) => usize::try_from(*index).is_ok_and(|at| at < text.len()),
            _ => false,
        },
        Value::Bool(_) | Value::Int(_) | Value::UInt(_) | Value::Float(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::value;

    #[test]
    fn what_has_no_members_gives_the_default() {
        assert_eq!(value("get(item=5, member='x', default='q')"), r#""q""#);
        assert_eq!(value("get(item=dict(a=1), member='a.b.c', default='q')"), r#""q""#);
        assert_eq!(value("get(item='abc', field=1, default='q')"), "98");
        assert_eq!(value("get(item='abc', field=7, default='q')"), r#""q""#);
        assert_eq!(value("get(item=(1, 2), member='x', default='q')"), "null");
        assert_eq!(value("get(item=array(), field=0, default='q')"), r#""q""#);
    }
}
