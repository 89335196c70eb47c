//! range, scope, items, parse_json_array: small sources of rows.

use crate::error::Error;
use crate::functions::{parse_json, scope_value};
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::stream::from_rows;
use crate::value::{Dict, Value};
use futures::StreamExt;
use std::sync::Arc;

pub(super) fn register(registry: &mut Registry) {
    let range = Signature::new("range", "Numbers from start up to, not including, end.")
        .arg("start", ArgType::Int, "First number.")
        .required("end", ArgType::Int, "Number after the last.")
        .arg("step", ArgType::Int, "Distance between numbers, above zero.");
    registry.plugin_stream(range, |_, args| {
        let (start, end) = (args.int("start")?, args.int("end")?);
        let step = args.opt_int("step")?.filter(|s| *s > 0).unwrap_or(1);
        let next = move |n: &i64| n.checked_add(step);
        let numbers = std::iter::successors(Some(start), next).take_while(move |n| *n < end);
        Ok(from_rows(numbers.map(|n| Dict::new().with("_value", n).into())))
    });

    let scope = Signature::new("scope", "One row: the scope itself.");
    registry.plugin_stream(scope, |scope, _| Ok(from_rows([scope_value(scope)])));

    let items = Signature::new("items", "A row per member of a dictionary or element of a list.");
    registry.plugin_async(
        items.required("item", ArgType::Any, "The value."),
        |_, args, emitter| async move {
            let pair = |key: Value, value: &Value| {
                Dict::new().with("_key", key).with("_value", value.clone())
            };
            match args.any("item") {
                Value::Dict(dict) => {
                    for (key, value) in dict.iter() {
                        emitter.send(pair(key.into(), value)).await?;
                    }
                }
                Value::Object(object) => {
                    for key in object.members() {
                        let value = object.member(&key).unwrap_or_default();
                        emitter.send(pair((&key).into(), &value)).await?;
                    }
                }
                Value::List(list) => {
                    for (index, value) in list.iter().enumerate() {
                        emitter.send(pair(index.into(), value)).await?;
                    }
                }
                Value::Query(_) => {
                    let mut rows = args.rows("item").enumerate();
                    while let Some((index, row)) = rows.next().await {
                        emitter.send(pair(index.into(), &row)).await?;
                    }
                }
                _ => {}
            }
            Ok(())
        },
    );

    let array = Signature::new("parse_json_array", "A row per element of a JSON array.")
        .required("data", ArgType::String, "JSON text.")
        .arg("schema", ArgType::Strings, "Accepted and not checked.");
    registry.plugin_stream(array, |_, args| match parse_json(args.bytes("data")?.as_bytes())? {
        Value::List(items) => Ok(from_rows(Arc::unwrap_or_clone(items))),
        _ => Err(Error::failed("the text is not a JSON array")),
    });
}
