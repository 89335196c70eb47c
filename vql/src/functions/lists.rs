//! array, len, join, filter, slice: working on lists.

use crate::eval::{call_lambda, matches, materialize, truth};
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::Value;
use std::sync::Arc;

pub(super) fn register(registry: &mut Registry) {
    let array = Signature::new("array", "A list of all arguments.")
        .arg("_", ArgType::List, "Its first elements.")
        .any_args();
    registry.function_async(array, |scope, args| async move {
        let mut all = args.to_dict();
        let mut items = Vec::with_capacity(all.len());
        match all.remove("_") {
            None => {}
            Some(Value::List(first)) => items.extend(first.iter().cloned()),
            Some(other) => items.push(other),
        }
        items.extend(all.values().cloned());
        Ok(materialize(Value::list(items), &scope).await)
    });

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
        .refused(false)
        .required("array", ArgType::Strings, "The texts.")
        .arg("sep", ArgType::String, "The separator.");
    registry.function_sync(join, |_, args| {
        // Unlike elsewhere a row of one column is not its value here, and NULL is a word.
        let texts: Vec<_> = match args.any("array") {
            Value::List(items) => items.iter().map(Value::text_or_null).collect(),
            other => vec![other.text_or_null()],
        };
        let separator = args.bytes("sep")?;
        let parts: Vec<&[u8]> = texts.iter().map(|t| t.as_bytes()).collect();
        Ok(parts.join(separator.as_bytes()).into())
    });

    let filter = Signature::new("filter", "The elements which match.")
        .required("list", ArgType::Any, "The list, or rows.")
        .arg("regex", ArgType::String, "Keeps elements matching this.")
        .arg("condition", ArgType::Lambda, "Keeps elements for which this is true.");
    registry.function_async(filter, |scope, args| async move {
        let condition = args.lambda("condition")?;
        if condition.is_some() && args.has("regex") {
            scope.error("filter: condition is used, regex is not");
        }
        let regex = Value::from(args.bytes("regex")?);
        let mut kept = Vec::new();
        // Rows stay rows, of one column too: a condition asks for the column by name.
        let items = match materialize(args.any("list"), &scope).await {
            Value::List(items) => Arc::unwrap_or_clone(items),
            Value::Null => Vec::new(),
            other => vec![other],
        };
        for item in items {
            let keep = match &condition {
                Some(lambda) => {
                    let value = call_lambda(lambda, &scope, vec![item.clone()]).await;
                    truth(&value, &scope).await
                }
                None => matches(&item, &regex, &scope),
            };
            if keep {
                kept.push(item);
            }
        }
        Ok(Value::list(kept))
    });

    let slice = Signature::new("slice", "The elements from start up to, not including, end.")
        .required("list", ArgType::List, "A list, the bytes of a text or the keys of a dictionary.")
        .required("start", ArgType::Int, "First index.")
        .required("end", ArgType::Int, "Index after the last.");
    registry.function_sync(slice, |_, args| {
        let items: Vec<Value> = match args.any("list") {
            Value::List(items) => items.to_vec(),
            Value::Str(text) => text.as_bytes().iter().map(|b| Value::from(*b)).collect(),
            Value::Bytes(bytes) => bytes.iter().map(|b| Value::from(*b)).collect(),
            Value::Dict(dict) => dict.keys().map(Value::from).collect(),
            _ => Vec::new(),
        };
        // Both are unsigned: a negative index is beyond the end.
        let clamp = |i: i64| usize::try_from(i).unwrap_or(usize::MAX).min(items.len());
        let (from, to) = (clamp(args.int("start")?), clamp(args.int("end")?));
        Ok(Value::list(items.get(from..to).unwrap_or_default().to_vec()))
    });
}

#[cfg(test)]
mod tests {
    use crate::tests::value;

    #[test]
    fn elements_that_match() {
        assert_eq!(value("filter(list=('a', 'b', 1), regex='A|1')"), r#"["a",1]"#);
        // A list of patterns is their text, here a class of characters.
        assert_eq!(value("filter(list=('a', 'b', 'c'), regex=('b', 'c'))"), r#"["b","c"]"#);
        assert_eq!(value("filter(list=(1, 2), condition='x=>x > 1', regex='1')"), "[2]");
        let rows = "filter(list={ SELECT * FROM range(end=3) }, condition='x=>x._value = 1')";
        assert_eq!(value(rows), r#"[{"_value":1}]"#);
        let rows = "filter(list=(dict(a=1), dict(a=2)), condition='x=>x.a = 2')";
        assert_eq!(value(rows), r#"[{"a":2}]"#);
    }

    #[test]
    fn joined_texts() {
        assert_eq!(value("join(array=('a', 1, NULL, 2.5), sep=',')"), r#""a,1,Null,2.5""#);
        assert_eq!(value("join(array=NULL)"), r#""Null""#);
        assert_eq!(value("join(array=dict(a=1))"), r#""{\"a\":1}""#);
    }

    #[test]
    fn parts_and_beginnings() {
        assert_eq!(value("slice(list='hello', start=1, end=2)"), "[101]");
        assert_eq!(value("slice(list=dict(a=1, b=2), start=1, end=9)"), r#"["b"]"#);
        assert_eq!(value("slice(list=(1, 2), start=0, end=-1)"), "[1,2]");
        assert_eq!(value("slice(list=(1, 2), start=2, end=1)"), "[]");
        assert_eq!(
            value("array(_=(1, 2), a=3, b={ SELECT 1 AS A FROM scope() })"),
            r#"[1,2,3,[{"A":1}]]"#
        );
    }
}
