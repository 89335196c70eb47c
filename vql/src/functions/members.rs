//! dict, to_dict, get, set: members of dictionaries and other values.

use super::memoize::Memo;
use crate::args::{Args, Thunk, ThunkKind};
use crate::error::Error;
use crate::eval::{dereference, element, variable};
use crate::registry::Registry;
use crate::scope::Scope;
use crate::signature::{ArgType, Signature};
use crate::syntax::ast::{ArgValue, Expr};
use crate::value::{Dict, Key, Value};
use futures::StreamExt;
use std::sync::Arc;

pub(super) fn register(registry: &mut Registry) {
    let dict = Signature::new("dict", "A dictionary of all arguments.").any_args();
    registry.function_sync(dict, |_, args| Ok(args.to_dict().into()));

    let to_dict = Signature::new("to_dict", "A dictionary from rows with _key and _value.")
        .required("item", ArgType::Query, "The rows.");
    registry.function_async(to_dict, |_, args| async move {
        let mut out = Dict::new();
        if let Value::Dict(dict) = args.any("item") {
            return Ok(Value::Dict(dict));
        }
        let mut rows = args.rows("item");
        while let Some(row) = rows.next().await {
            let Value::Dict(row) = row else { continue };
            if let (Some(key), Some(value)) = (row.get("_key"), row.get("_value")) {
                out.set(Key::from(&key.to_str()), value.clone());
            }
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
        .required("item", ArgType::Lazy, "The dictionary.")
        .required("field", ArgType::Any, "The name.")
        .required("value", ArgType::Any, "The new value.");
    registry.function_async(set, |scope, args| async move {
        let item = args.lazy("item");
        let (field, value) = (args.any("field"), args.any("value"));
        let name = variable_of(&item);
        let old = item.eval().await;
        let changed = changed(old, &field, value)?;
        if let Some(name) = name {
            scope.replace(&name, &changed);
        }
        Ok(changed)
    });
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
        if let Some(memo) = value.downcast::<Memo>() {
            match memo.get(&step.to_text()).await {
                Some(row) => value = row,
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
                None => dereference(value, &step.to_text(), scope).await,
            },
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
        Value::Null => false,
        Value::Dict(dict) => dict.contains(&step.to_text()),
        Value::Object(o) => match step {
            Value::Int(_) => true,
            name => o.member(&name.to_text()).is_some(),
        },
        _ => true,
    }
}

/// The variable an argument names, if it is nothing but a name.
fn variable_of(item: &Thunk) -> Option<String> {
    match &item.kind {
        ThunkKind::Syntax(ArgValue::Expr(expr)) => match &**expr {
            Expr::Symbol(symbol) if symbol.args.is_none() && symbol.path.len() == 1 => {
                Some(symbol.full_name.to_string())
            }
            _ => None,
        },
        _ => None,
    }
}

fn changed(item: Value, field: &Value, value: Value) -> Result<Value, Error> {
    match item {
        Value::Dict(dict) => {
            let mut dict = Arc::unwrap_or_clone(dict);
            dict.update(Key::from(&field.to_str()), value);
            Ok(dict.into())
        }
        other => Err(Error::failed(format!("can not set a member of {}", other.type_name()))),
    }
}
