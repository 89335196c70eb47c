//! The functions a template may call: Go's own, those a query adds, and the
//! common ones of the sprig library.

use super::run::shown;
use crate::eval::{equal, member, plain_truth};
use crate::functions::go_format::sprintf;
use crate::scope::Scope;
use crate::value::Value;
use std::cmp::Ordering;

pub(super) fn call(name: &str, args: &[Value], scope: &Scope) -> Result<Value, String> {
    let arg = |i: usize| args.get(i).ok_or_else(|| format!("{name}: an argument is missing"));
    let text = |i: usize| Ok::<_, String>(plain(arg(i)?));
    Ok(match name {
        "Scope" => scope.resolve(&text(0)?).unwrap_or_default(),
        "Get" => {
            let path = text(1)?;
            let mut parts = path.split('.').filter(|p| !p.is_empty());
            let found = parts.try_fold(arg(0)?.clone(), |value, part| member(&value, part));
            // Nothing is shown for what is not there.
            found.unwrap_or_else(|| "".into())
        }
        "str" | "toString" => plain(arg(0)?).into(),
        "bool" => plain_truth(arg(0)?).into(),
        "not" => (!plain_truth(arg(0)?)).into(),
        "and" => first(args, |v| !plain_truth(v)),
        "or" => first(args, plain_truth),
        "eq" => {
            let one = arg(0)?;
            arg(1)?;
            args[1..].iter().any(|other| equal(one, other)).into()
        }
        "ne" => (!equal(arg(0)?, arg(1)?)).into(),
        "lt" => (order(arg(0)?, arg(1)?) == Some(Ordering::Less)).into(),
        "le" => matches!(order(arg(0)?, arg(1)?), Some(Ordering::Less | Ordering::Equal)).into(),
        "gt" => (order(arg(0)?, arg(1)?) == Some(Ordering::Greater)).into(),
        "ge" => matches!(order(arg(0)?, arg(1)?), Some(Ordering::Greater | Ordering::Equal)).into(),
        "len" => match arg(0)? {
            Value::List(l) => l.len().into(),
            Value::Dict(d) => d.len().into(),
            Value::Str(s) => s.len().into(),
            other => return Err(format!("len of {}", other.type_name())),
        },
        "index" => index(args)?,
        "print" => args.iter().flat_map(shown).collect::<Vec<u8>>().into(),
        "println" => {
            [args.iter().map(shown).collect::<Vec<_>>().join(&b' '), b"\n".to_vec()].concat().into()
        }
        "printf" => sprintf(text(0)?.as_bytes(), &args[1..]).into(),
        "html" | "urlquery" => text(0)?.into(),
        "js" | "toJson" => arg(0)?.to_json().into(),
        "quote" => args.iter().map(quoted).collect::<Vec<_>>().join(" ").into(),
        "squote" => {
            args.iter().map(|v| format!("'{}'", plain(v))).collect::<Vec<_>>().join(" ").into()
        }
        "upper" => text(0)?.to_uppercase().into(),
        "lower" => text(0)?.to_lowercase().into(),
        "trim" => text(0)?.trim().into(),
        "trimPrefix" => text(1)?.strip_prefix(text(0)?.as_str()).unwrap_or(&text(1)?).into(),
        "trimSuffix" => text(1)?.strip_suffix(text(0)?.as_str()).unwrap_or(&text(1)?).into(),
        "replace" => text(2)?.replace(text(0)?.as_str(), &text(1)?).into(),
        "contains" => text(1)?.contains(text(0)?.as_str()).into(),
        "hasPrefix" => text(1)?.starts_with(text(0)?.as_str()).into(),
        "hasSuffix" => text(1)?.ends_with(text(0)?.as_str()).into(),
        "default" => match args {
            [default, value] if !plain_truth(value) => default.clone(),
            _ => arg(1).or_else(|_| arg(0))?.clone(),
        },
        "join" => match arg(1)? {
            Value::List(items) => {
                items.iter().map(plain).collect::<Vec<_>>().join(&text(0)?).into()
            }
            other => plain(other).into(),
        },
        "list" => Value::list(args.to_vec()),
        other => return Err(format!("the template calls {other}, which is not known")),
    })
}

/// The first argument that settles it, or the last.
fn first(args: &[Value], settles: impl Fn(&Value) -> bool) -> Value {
    args.iter().find(|v| settles(v)).or(args.last()).cloned().unwrap_or_default()
}

fn plain(value: &Value) -> String {
    String::from_utf8_lossy(&shown(value)).into_owned()
}

/// Go's `%q` of a text.
fn quoted(value: &Value) -> String {
    String::from_utf8_lossy(&sprintf(b"%q", &[Value::from(plain(value))])).into_owned()
}

fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Time(a), Value::Time(b)) => Some(a.cmp(b)),
        _ => a.as_number()?.partial_cmp(&b.as_number()?),
    }
}

fn index(args: &[Value]) -> Result<Value, String> {
    let (base, keys) = args.split_first().ok_or("index: an argument is missing")?;
    keys.iter().try_fold(base.clone(), |value, key| match (&value, key) {
        (Value::List(items), Value::Int(i)) => {
            let found = usize::try_from(*i).ok().and_then(|i| items.get(i));
            found.cloned().ok_or_else(|| format!("index: there is no element {i}"))
        }
        (Value::Dict(d), key) => Ok(d.get(&plain(key)).cloned().unwrap_or_default()),
        (other, key) => Err(format!("index: {} has no {}", other.type_name(), plain(key))),
    })
}
