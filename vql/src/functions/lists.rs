//! array, len, join, filter, slice: working on lists.

use super::logic::Condition;
use crate::error::Error;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::Value;

pub(super) fn register(registry: &mut Registry) {
    let array = Signature::new("array", "A list of all arguments.");
    registry
        .function_sync(array.any_args(), |_, args| Ok(args.to_dict().values().cloned().collect()));

    let len = Signature::new("len", "The number of elements, bytes or members.");
    registry.function_sync(len.required("list", ArgType::Any, "A value."), |_, args| {
        Ok(match args.any("list") {
            Value::List(items) => items.len().into(),
            Value::Str(s) => s.len().into(),
            Value::Bytes(b) => b.len().into(),
            Value::Dict(d) => d.len().into(),
            Value::Object(o) => o.rows().map_or(0, |rows| rows.len()).into(),
            _ => Value::Int(0),
        })
    });

    let join = Signature::new("join", "Joins texts with a separator.")
        .required("array", ArgType::Strings, "The texts.")
        .arg("sep", ArgType::String, "The separator.");
    registry.function_sync(join, |_, args| {
        let texts: Vec<_> = args.list("array").iter().map(Value::text_or_null).collect();
        let separator = args.bytes("sep")?;
        let parts: Vec<&[u8]> = texts.iter().map(|t| t.as_bytes()).collect();
        Ok(parts.join(separator.as_bytes()).into())
    });

    let filter = Signature::new("filter", "The elements which match.")
        .required("list", ArgType::List, "The list.")
        .arg("regex", ArgType::Strings, "Keeps elements matching any of these.")
        .arg("condition", ArgType::Lambda, "Keeps elements for which this is true.");
    registry.function_async(filter, |scope, args| async move {
        let condition = Condition::new(&args, "condition")?;
        let items = match args.any("list") {
            Value::List(items) => items.to_vec(),
            Value::Null => return Ok(Value::list(Vec::new())),
            other => vec![other],
        };
        let mut kept = Vec::new();
        for item in items {
            if condition.holds(&item, &scope).await {
                kept.push(item);
            }
        }
        Ok(Value::list(kept))
    });

    let slice = Signature::new("slice", "The elements from start up to, not including, end.")
        .required("list", ArgType::List, "The list.")
        .required("start", ArgType::Int, "First index.")
        .required("end", ArgType::Int, "Index after the last.");
    registry.function_sync(slice, |_, args| {
        let Value::List(items) = args.any("list") else {
            return Err(Error::failed("not a list"));
        };
        // Both are unsigned: a negative index is beyond the end.
        let clamp = |i: i64| usize::try_from(i).unwrap_or(usize::MAX).min(items.len());
        let (from, to) = (clamp(args.int("start")?), clamp(args.int("end")?));
        Ok(items[from..to.max(from)].iter().cloned().collect())
    });
}
