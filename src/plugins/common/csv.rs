//! `parse_csv`: separated values as rows.

use std::io::Read;

use vql::{ArgType, Args, Dict, Emitter, Error, Level, Registry, Scope, Signature, Value};

use super::accessor::{accessor, path_of};
use super::blocking;

/// Largest file read, in bytes; it is held in memory.
const LIMIT: u64 = 256 << 20;

/// Adds `parse_csv`.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("parse_csv", "The records of files of separated values.")
        .required("filename", ArgType::Paths, "The files.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("auto_headers", ArgType::Bool, "The first line has no names.")
        .arg("separator", ArgType::String, "What separates values (comma).")
        .arg("comment", ArgType::String, "Lines beginning with this are left out.")
        .arg("columns", ArgType::Strings, "Names of the columns.");
    registry.plugin_async(signature, |scope, args, emitter| async move {
        run(&scope, &args, &emitter).await
    });
}

async fn run(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let accessor = accessor(scope, &args.string("accessor")?)?;
    let byte = |s: Option<String>| s.and_then(|s| s.bytes().next());
    let separator = byte(args.opt_string("separator")?).unwrap_or(b',');
    let comment = byte(args.opt_string("comment")?);
    let auto = args.bool("auto_headers")?;
    for file in args.list("filename") {
        let path = path_of(scope, &*accessor, &file);
        let (a, p) = (accessor.clone(), path.clone());
        let read = move || {
            let mut data = Vec::new();
            a.open(&p)?.take(LIMIT).read_to_end(&mut data)?;
            Ok::<_, std::io::Error>(data)
        };
        let data = match blocking(scope, read).await? {
            Ok(d) => d,
            Err(e) => {
                scope.log(Level::Default, format!("parse_csv: {}: {e}", path.to_text()));
                continue;
            }
        };
        let mut columns = args.strings("columns")?;
        let mut rest: &[u8] = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&data);
        while let Some((record, after)) = record(rest, separator) {
            rest = after;
            let first = record.first().map(Vec::as_slice).unwrap_or_default();
            let blank = record.len() == 1 && first.is_empty();
            if blank || comment.is_some_and(|c| first.first() == Some(&c)) {
                continue;
            }
            if columns.is_empty() && !auto {
                columns = record.iter().map(|f| vql::lossy(f).into_owned()).collect();
                continue;
            }
            scope.charge_op().await;
            let mut row = Dict::with_capacity(record.len());
            for (i, field) in record.iter().enumerate() {
                let name = columns.get(i).cloned().unwrap_or_else(|| format!("Col{i}"));
                row.update(name, value(field));
            }
            for name in columns.iter().skip(record.len()) {
                row.update(name.clone(), Value::Null);
            }
            emitter.send(row).await?;
        }
    }
    Ok(())
}

/// Numbers become numbers.
fn value(field: &[u8]) -> Value {
    let text = std::str::from_utf8(field).unwrap_or_default();
    let numeric = text.bytes().next().is_some_and(|b| b.is_ascii_digit() || b == b'-');
    if numeric && let Ok(i) = text.parse::<i64>() {
        return i.into();
    }
    if numeric && let Ok(f) = text.parse::<f64>() {
        return f.into();
    }
    field.into()
}

/// The first record and what follows it; `None` at the end.
fn record(data: &[u8], separator: u8) -> Option<(Vec<Vec<u8>>, &[u8])> {
    if data.is_empty() {
        return None;
    }
    let (mut fields, mut field) = (Vec::new(), Vec::new());
    let (mut i, mut quoted) = (0, false);
    while i < data.len() {
        let b = data[i];
        i += 1;
        match b {
            b'"' if quoted && data.get(i) == Some(&b'"') => {
                field.push(b'"');
                i += 1;
            }
            b'"' if quoted => quoted = false,
            b'"' if field.is_empty() => quoted = true,
            _ if quoted => field.push(b),
            b'\n' => {
                if field.last() == Some(&b'\r') {
                    field.pop();
                }
                fields.push(field);
                return Some((fields, &data[i..]));
            }
            b if b == separator => fields.push(std::mem::take(&mut field)),
            b => field.push(b),
        }
    }
    if field.last() == Some(&b'\r') {
        field.pop();
    }
    fields.push(field);
    Some((fields, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let mut rest: &[u8] = b"a,\"b \"\"q\"\"\nc\",\r\n\nx";
        let mut all = Vec::new();
        while let Some((r, after)) = record(rest, b',') {
            all.push(r.iter().map(|f| String::from_utf8(f.clone()).unwrap()).collect::<Vec<_>>());
            rest = after;
        }
        let want: [&[&str]; 3] = [&["a", "b \"q\"\nc", ""], &[""], &["x"]];
        assert_eq!(all, want);
        assert!(matches!(value(b"12"), Value::Int(12)));
        assert!(matches!(value(b"-1.5"), Value::Float(_)));
        assert!(matches!(value(b"1x"), Value::Str(_)));
    }
}
