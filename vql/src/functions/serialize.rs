//! serialize(): values to text.

use crate::codec::base64_encode;
use crate::csv::{csv_cell, csv_line};
use crate::error::Error;
use crate::eval::materialize;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::{Dict, Value};

pub(super) fn register(registry: &mut Registry) {
    let serialize = Signature::new("serialize", "The text of a value.")
        .required("item", ArgType::Any, "The value.")
        .arg("format", ArgType::String, "json, jsonl, csv, yaml, hex, base64 or string.");
    registry.function_async(serialize, |scope, args| async move {
        let item = crate::zone::shown(materialize(args.any("item"), &scope).await, &scope);
        let format = args.opt_string("format")?.unwrap_or_else(|| "json".into());
        Ok(match format.as_str() {
            "json" => item.to_json_indented().into(),
            "jsonl" => jsonl(&item).into(),
            "csv" if !matches!(item, Value::List(_)) => Value::Null,
            "csv" => csv(&item).into(),
            "yaml" => super::yaml::document(&item).into(),
            "base64" | "hex" if !matches!(item, Value::Str(_) | Value::Bytes(_)) => {
                let kind = item.type_name();
                return Err(Error::failed(format!("{kind} is no text, which {format} needs")));
            }
            // Without what fills the last group up.
            "base64" => base64_encode(item.to_str().as_bytes()).trim_end_matches('=').into(),
            "hex" => {
                let bytes = item.to_str();
                bytes.as_bytes().iter().map(|b| format!("{b:02x}")).collect::<String>().into()
            }
            "string" => item.to_str().into(),
            other => return Err(Error::failed(format!("unknown format {other}"))),
        })
    });
}

fn items(value: &Value) -> Vec<Value> {
    match value {
        Value::List(items) => items.to_vec(),
        Value::Null => Vec::new(),
        other => vec![other.clone()],
    }
}

fn jsonl(value: &Value) -> String {
    let mut out = String::new();
    for item in items(value) {
        item.write_json(&mut out);
        out.push('\n');
    }
    out
}

/// Rows as CSV; the columns of the first row are the header.
fn csv(value: &Value) -> String {
    let rows: Vec<Dict> = items(value).into_iter().map(Value::into_row).collect();
    let Some(first) = rows.first() else { return String::new() };
    let columns: Vec<_> = first.keys().cloned().collect();
    let mut out = String::new();
    out += &csv_line(columns.iter().map(|c| c.as_str()));
    for row in &rows {
        let cells: Vec<String> =
            columns.iter().map(|c| row.get(c).map_or(String::new(), csv_cell)).collect();
        out += &csv_line(cells.iter().map(String::as_str));
    }
    out
}
