//! `pathspec`: a path from its parts, perhaps inside of another file.

use vql::{ArgType, Args, Error, Registry, Scope, Signature, Value};

use super::accessor::accessor;
use super::path::{Kind, OsPath};
use super::remap::Remapped;

/// Adds `pathspec`.
pub fn register(registry: &mut Registry) {
    let mut signature =
        Signature::new("pathspec", "A path from its parts.").refused(false).version(2);
    for (name, doc) in [
        ("DelegateAccessor", "How to read what the path is inside of."),
        ("DelegatePath", "What the path is inside of."),
    ] {
        signature = signature.arg(name, ArgType::String, doc);
    }
    let signature = signature
        .arg("Delegate", ArgType::Lazy, "What the path is inside of, itself a path in something.")
        .arg("Path", ArgType::Any, "The path.")
        .arg("parse", ArgType::String, "A text to read as a path.")
        .arg("path_type", ArgType::String, "linux, windows, registry, ntfs, generic or zip.")
        .arg("accessor", ArgType::String, "Read the text as this accessor does.");
    registry.function_async(signature, |scope, args| async move { run(&scope, &args).await });
}

async fn run(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let mut kind = args.string("path_type")?;
    // Texts are paths of the system that is looked at.
    let windows = || Remapped::persona(scope).is_some_and(|p| p.os == "windows");
    if kind.is_empty() && args.has("parse") && windows() {
        kind = "windows".into();
    }
    let read = |text: &[u8]| match OsPath::from_spec(text).or_else(|| OsPath::parse_as(&kind, text))
    {
        Some(path) => Ok(path),
        None => Err(Error::failed(format!("unknown path type {kind}"))),
    };
    if args.has("parse") {
        let text = args.bytes("parse")?;
        if let Some(name) = args.opt_string("accessor")? {
            // An accessor that is not here may still be one of another system.
            return match accessor(scope, &name) {
                Ok(a) => Ok(Value::object(a.parse(scope, &text))),
                Err(e) => OsPath::parse_as(&name, text.as_bytes()).map(Value::object).ok_or(e),
            };
        }
        return Ok(Value::object(read(text.as_bytes())?));
    }
    let path = match args.any("Path") {
        // A path of nothing is not the root of a file system.
        Value::Null => OsPath::of_kind(Kind::Generic, b""),
        Value::Str(text) => match kind.as_str() {
            "" if text.is_empty() => OsPath::of_kind(Kind::Generic, b""),
            // Which text a member has is for its accessor to say: lists of ranges, numbers.
            "" if text.as_bytes().starts_with(b"[") => OsPath::raw(text.as_bytes()),
            _ => read(text.as_bytes())?,
        },
        Value::Dict(dict) if dict.contains("jsonl") || dict.contains("index") => {
            OsPath::raw(Value::Dict(dict).to_json().as_bytes())
        }
        list @ Value::List(_) if is_ranges(&list) => OsPath::raw(list.to_json().as_bytes()),
        // A number is a place in a file; it stays as it is written.
        number @ (Value::Int(_) | Value::UInt(_)) => OsPath::raw(number.to_text().as_bytes()),
        other => OsPath::of(&other),
    };
    let accessor = args.string("DelegateAccessor")?;
    if !args.has("Delegate") {
        return Ok(Value::object(path.inside(&accessor, &args.string("DelegatePath")?)));
    }
    let delegate = match args.lazy("Delegate").eval().await {
        Value::Null => String::new(),
        dict @ Value::Dict(_) => OsPath::of(&dict).to_text(),
        other => other.to_text(),
    };
    Ok(Value::object(path.inside_of(&accessor, &delegate)))
}

/// A list of dicts is the content of a sparse path.
fn is_ranges(list: &Value) -> bool {
    list.as_list().is_some_and(|l| l.iter().any(|v| matches!(v, Value::Dict(_))))
}
