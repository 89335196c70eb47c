//! format(): Go's formatting verbs.

use super::go_format::sprintf;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::Value;

pub(super) fn register(registry: &mut Registry) {
    let format = Signature::new("format", "Formats values with verbs such as %v, %d or %x.")
        .refused(false)
        .required("format", ArgType::String, "The format.")
        .arg("args", ArgType::Any, "The values; anything but a list is one value.");
    registry.function_sync(format, |_, args| {
        let format = args.bytes("format")?;
        Ok(sprintf(format.as_bytes(), &values(args.any("args"), args.has("args"))).into())
    });
}

/// The values to format: the elements of a list or the one value.
pub(super) fn values(args: Value, given: bool) -> Vec<Value> {
    match args {
        Value::List(items) => items.to_vec(),
        _ if !given => Vec::new(),
        other => vec![other],
    }
}
