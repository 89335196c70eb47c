//! parse_json, parse_json_array, parse_jsonl: JSON text to values.

use crate::error::Error;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::Value;

pub(super) fn register(registry: &mut Registry) {
    let parser = |name, doc| {
        Signature::new(name, doc).required("data", ArgType::String, "JSON text.").arg(
            "schema",
            ArgType::Strings,
            "Accepted and not checked.",
        )
    };
    registry.function_sync(parser("parse_json", "Parses a JSON object."), |_, args| {
        let data = args.bytes("data")?;
        if !data.as_bytes().starts_with(b"{") {
            return Err(Error::failed("the text is not a JSON object"));
        }
        parse(data.as_bytes())
    });
    registry.function_sync(parser("parse_json_array", "Parses a JSON array."), |_, args| {
        let data = args.bytes("data")?;
        if data.is_empty() {
            return Ok(Value::list(Vec::new()));
        }
        match parse(data.as_bytes())? {
            value @ Value::List(_) => Ok(value),
            _ => Err(Error::failed("the text is not a JSON array")),
        }
    });
    registry.function_sync(parser("parse_jsonl", "Parses lines of JSON objects."), |_, args| {
        let data = args.bytes("data")?;
        let lines = data.as_bytes().split(|b| *b == b'\n');
        let filled = lines.filter(|line| !line.trim_ascii().is_empty());
        Ok(Value::list(filled.map(parse).collect::<Result<Vec<_>, _>>()?))
    });
}

/// Parses JSON text; times are recognised.
pub(crate) fn parse(data: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(data).map(Value::from_json).map_err(Error::failed)
}
