//! Values as bytes and back, exactly: what was put aside is what comes back.

use super::SpillFiles;
use crate::value::{Dict, Key, Time, Value};
use std::sync::Arc;

/// What a value is.
const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const UINT: u8 = 4;
const FLOAT: u8 = 5;
const STR: u8 = 6;
const BYTES: u8 = 7;
const TIME: u8 = 8;
const LIST: u8 = 9;
const NIL: u8 = 10;
const DICT: u8 = 11;
/// A value kept in memory, by its number.
const KEPT: u8 = 12;
const OBJECT: u8 = 13;

/// Members whose lookup ignores case; members with a default.
const CASE: u8 = 1;
const DEFAULT: u8 = 2;

/// Appends a value. What has no bytes of its own (queries, most host values) is
/// added to `kept`.
pub(super) fn encode(
    value: &Value,
    files: &dyn SpillFiles,
    kept: &mut Vec<Value>,
    out: &mut Vec<u8>,
) {
    match value {
        Value::Null => out.push(NULL),
        Value::Bool(b) => out.push(if *b { TRUE } else { FALSE }),
        Value::Int(i) => fixed(out, INT, i.to_le_bytes()),
        Value::UInt(u) => fixed(out, UINT, u.to_le_bytes()),
        Value::Float(f) => fixed(out, FLOAT, f.to_bits().to_le_bytes()),
        Value::Str(s) => sized(out, STR, s.as_bytes()),
        Value::Bytes(b) => sized(out, BYTES, b),
        Value::Time(t) => {
            out.push(TIME);
            out.extend(t.as_nanosecond().to_le_bytes());
        }
        Value::List(_) if value.is_nil_list() => out.push(NIL),
        Value::List(items) => {
            fixed(out, LIST, (items.len() as u64).to_le_bytes());
            for item in items.iter() {
                encode(item, files, kept, out);
            }
        }
        Value::Dict(dict) => {
            fixed(out, DICT, (dict.len() as u64).to_le_bytes());
            let default = dict.default_value();
            let case = if dict.is_case_insensitive() { CASE } else { 0 };
            out.push(case | if default.is_some() { DEFAULT } else { 0 });
            for (key, item) in dict.iter() {
                out.extend((key.as_str().len() as u32).to_le_bytes());
                out.extend(key.as_str().as_bytes());
                encode(item, files, kept, out);
            }
            if let Some(default) = default {
                encode(default, files, kept, out);
            }
        }
        Value::Object(object) => match files.encode(object) {
            Some(bytes) => sized(out, OBJECT, &bytes),
            None => keep(value, kept, out),
        },
        Value::Query(_) | Value::Expr(_) | Value::Lambda(_) => keep(value, kept, out),
    }
}

fn keep(value: &Value, kept: &mut Vec<Value>, out: &mut Vec<u8>) {
    fixed(out, KEPT, (kept.len() as u64).to_le_bytes());
    kept.push(value.clone());
}

fn fixed(out: &mut Vec<u8>, tag: u8, bytes: [u8; 8]) {
    out.push(tag);
    out.extend(bytes);
}

fn sized(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    fixed(out, tag, (bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Takes one value off the front; `None` when the bytes are no value.
pub(super) fn decode(from: &mut &[u8], files: &dyn SpillFiles, kept: &[Value]) -> Option<Value> {
    let (tag, rest) = from.split_first()?;
    *from = rest;
    Some(match *tag {
        NULL => Value::Null,
        FALSE => Value::Bool(false),
        TRUE => Value::Bool(true),
        INT => Value::Int(number(from)? as i64),
        UINT => Value::UInt(number(from)?),
        FLOAT => Value::Float(f64::from_bits(number(from)?)),
        STR => Value::Str(take_sized(from)?.into()),
        BYTES => Value::Bytes(take_sized(from)?.into()),
        TIME => {
            let ns = i128::from_le_bytes(take(from, 16)?.try_into().ok()?);
            Value::Time(Time::from_nanosecond(ns).ok()?)
        }
        LIST => {
            let length = number(from)?;
            let mut items = Vec::new();
            for _ in 0..length {
                items.push(decode(from, files, kept)?);
            }
            Value::List(Arc::new(items))
        }
        NIL => Value::nil_list(),
        DICT => {
            let length = number(from)?;
            let flags = *take(from, 1)?.first()?;
            let mut dict = match flags & CASE {
                0 => Dict::with_capacity(usize::try_from(length).unwrap_or(0).min(1024)),
                _ => Dict::case_insensitive(),
            };
            for _ in 0..length {
                let size = u32::from_le_bytes(take(from, 4)?.try_into().ok()?);
                let name = std::str::from_utf8(take(from, size as usize)?).ok()?;
                let key = Key::new(name);
                let value = decode(from, files, kept)?;
                dict.update(key, value);
            }
            if flags & DEFAULT != 0 {
                dict.set_default(decode(from, files, kept)?);
            }
            dict.into()
        }
        KEPT => kept.get(usize::try_from(number(from)?).ok()?)?.clone(),
        OBJECT => files.decode(take_sized(from)?)?,
        _ => return None,
    })
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(taken)
}

fn take_sized<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(from)?).ok()?;
    take(from, length)
}

fn number(from: &mut &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(take(from, 8)?.try_into().ok()?))
}
