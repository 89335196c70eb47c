//! serialize(): values to text.

use crate::codec::base64_encode;
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
        let item = materialize(args.any("item"), &scope).await;
        let format = args.opt_string("format")?.unwrap_or_else(|| "json".into());
        Ok(match format.as_str() {
            "json" => item.to_json_indented().into(),
            "jsonl" => jsonl(&item).into(),
            "csv" => csv(&item).into(),
            "yaml" => super::yaml::document(&item).into(),
            "base64" => base64_encode(item.to_str().as_bytes()).into(),
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
    let mut line = |cells: Vec<String>| {
        out.push_str(&cells.join(","));
        out.push('\n');
    };
    line(columns.iter().map(|c| cell(c)).collect());
    for row in &rows {
        let values = columns.iter().map(|c| row.get(c).map_or(String::new(), csv_text));
        line(values.map(|text| cell(&text)).collect());
    }
    out
}

fn csv_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::List(_) | Value::Dict(_) => value.to_json(),
        other => other.to_text(),
    }
}

fn cell(text: &str) -> String {
    let quote = text.contains(['"', ',', '\n', '\r']) || text.starts_with(' ');
    if quote { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into() }
}
