//! regex_replace, regex_transform, parse_string_with_regex and split.

use crate::error::Error;
use crate::eval::call_lambda;
use crate::go_regex::compile;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::{Dict, Key, Value};

pub(super) fn register(registry: &mut Registry) {
    let replace = Signature::new("regex_replace", "Replaces all matches.")
        .required("source", ArgType::String, "The text.")
        .arg("replace", ArgType::String, "The replacement with $1 or ${name}.")
        .arg("replace_lambda", ArgType::Lambda, "Makes the replacement from the match.")
        .required("re", ArgType::String, "The pattern, ignoring case.");
    registry.function_async(replace, |scope, args| async move {
        let (source, regex) = (args.bytes("source")?, args.regex("re")?);
        let Some(lambda) = args.lambda("replace_lambda")? else {
            let template = args.bytes("replace")?;
            return Ok(regex.replace_all(source.as_bytes(), template.as_bytes()).into());
        };
        let bytes = source.as_bytes();
        let (mut out, mut end) = (Vec::new(), 0);
        let hits: Vec<_> = regex.on(bytes).find_iter(bytes).map(|m| m.range()).collect();
        for hit in hits {
            out.extend_from_slice(&bytes[end..hit.start]);
            let matched = Value::from(&bytes[hit.clone()]);
            let new = call_lambda(&lambda, &scope, vec![matched]).await;
            out.extend_from_slice(new.to_str().as_bytes());
            end = hit.end;
        }
        out.extend_from_slice(&bytes[end..]);
        Ok(out.into())
    });

    let transform = Signature::new("regex_transform", "Replaces matches of several patterns.")
        .required("source", ArgType::String, "The text.")
        .required("map", ArgType::Dict, "Patterns and their replacements.")
        .arg("key", ArgType::String, "Accepted and ignored: a name for caching.");
    registry.function_sync(transform, |_, args| {
        let mut text = args.bytes("source")?.as_bytes().to_vec();
        for (pattern, template) in args.dict("map")?.iter() {
            let regex = compile(pattern, true).map_err(Error::failed)?;
            text = regex.replace_all(&text, template.to_str().as_bytes());
        }
        Ok(text.into())
    });

    let parse = Signature::new("parse_string_with_regex", "A dictionary of capture groups.")
        .required("string", ArgType::String, "The text.")
        .required("regex", ArgType::Strings, "The patterns, ignoring case.");
    registry.function_sync(parse, |_, args| {
        let text = args.bytes("string")?;
        let mut out = Dict::new();
        for pattern in args.strings("regex")? {
            let regex = compile(&pattern, true).map_err(Error::failed)?;
            captures(regex.on(text.as_bytes()), text.as_bytes(), &mut out);
        }
        Ok(out.into())
    });

    let split = Signature::new("split", "Splits text at a separator.")
        .required("string", ArgType::String, "The text.")
        .arg("sep", ArgType::String, "A pattern, minding case.")
        .arg("sep_string", ArgType::String, "A literal separator.");
    registry.function_sync(split, |scope, args| {
        let text = args.bytes("string")?;
        if let Some(separator) = args.opt_string("sep_string")? {
            return Ok(split_literal(text.as_bytes(), separator.as_bytes()));
        }
        let Some(pattern) = args.opt_string("sep")? else {
            return Err(Error::failed("requires either sep or sep_string"));
        };
        let cache = &scope.session().caches.exact_regexes;
        let (regex, _) = cache.get(pattern.as_bytes(), || compile(&pattern, false));
        let regex = regex.map_err(|e| Error::failed(format!("Compile regexp: {e}")))?;
        let parts = regex.on(text.as_bytes()).split(text.as_bytes());
        Ok(parts.collect())
    });
}

fn captures(regex: &regex::bytes::Regex, text: &[u8], out: &mut Dict) {
    let names: Vec<Key> = regex
        .capture_names()
        .enumerate()
        .skip(1)
        .map(|(i, name)| name.map_or_else(|| Key::from(format!("g{i}")), Key::new))
        .collect();
    for hit in regex.captures_iter(text) {
        for (i, name) in names.iter().enumerate() {
            out.update(name, hit.get(i + 1).map_or(&[][..], |group| group.as_bytes()));
        }
    }
}

fn split_literal(text: &[u8], separator: &[u8]) -> Value {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = crate::eval::find(rest, separator) {
        parts.push(Value::from(&rest[..at]));
        rest = &rest[at + separator.len()..];
    }
    parts.push(Value::from(rest));
    Value::list(parts)
}
