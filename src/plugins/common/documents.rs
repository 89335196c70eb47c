//! Documents of other formats: `parse_yaml`, `parse_xml`, `parse_jsonl`, and
//! rows into files: `write_csv`, `write_jsonl`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // writes to the real host

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use futures::StreamExt;
use serde::Deserialize;
use vql::{ArgType, Args, Dict, Emitter, Error, Level, Registry, Row, Scope, Signature, Value};

use super::accessor::{accessor, path_of};
use super::file::named;
use super::{blocking, host, xml};

/// Largest document read, in bytes; it is held in memory.
const LIMIT: u64 = 64 << 20;
/// Rows written at a time.
const BATCH: usize = 1000;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let yaml = Signature::new("parse_yaml", "A YAML document as a value.")
        .required("filename", ArgType::Path, "The file.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("schema", ArgType::Strings, "Accepted and not checked.")
        .version(2);
    registry.function_async(yaml, |scope, args| async move {
        let text = document(&scope, &args, "filename").await?;
        // The first document of the file; one that is empty has no members.
        let json = match yaml_serde::Deserializer::from_slice(&text).next() {
            Some(first) => serde_json::Value::deserialize(first).map_err(Error::failed)?,
            None => serde_json::Value::Null,
        };
        Ok(if json.is_null() { Dict::new().into() } else { Value::from_json(json) })
    });

    let parse_xml = Signature::new("parse_xml", "An XML document as a dict.")
        .required("file", ArgType::Path, "The file.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .version(2);
    registry.function_async(parse_xml, |scope, args| async move {
        let text = document(&scope, &args, "file").await?;
        xml::parse(&vql::lossy(&text)).map_err(Error::failed)
    });

    let jsonl = Signature::new("parse_jsonl", "A row for each line of JSON.")
        .required("filename", ArgType::Path, "The file.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .version(2);
    registry.plugin_async(jsonl, |scope, args, emitter| async move {
        parse_jsonl(&scope, &args, &emitter).await
    });

    let write = |name, doc| {
        Signature::new(name, doc)
            .required("filename", ArgType::Path, "The file.")
            .arg("accessor", ArgType::String, "Only the host's own files can be written.")
            .required("query", ArgType::Query, "The rows.")
    };
    registry.plugin_async(write("write_csv", "Writes rows to a file as CSV; gives them on."), {
        |scope, args, emitter| async move { write_rows(&scope, &args, &emitter, true).await }
    });
    let jsonl = write("write_jsonl", "Writes rows to a file as lines of JSON; gives them on.")
        .arg("buffer_size", ArgType::Int, "Accepted; rows are written in batches.")
        .arg("max_time", ArgType::Int, "Accepted; rows are written in batches.")
        .arg("append", ArgType::Bool, "Add to what is there.")
        .version(2);
    registry.plugin_async(jsonl, |scope, args, emitter| async move {
        write_rows(&scope, &args, &emitter, false).await
    });
}

/// The whole content of a file.
async fn document(scope: &Scope, args: &Args, arg: &str) -> Result<Vec<u8>, Error> {
    let (accessor, path) = named(scope, args, arg)?;
    let shown = path.to_text();
    let read = move || -> std::io::Result<Vec<u8>> {
        let mut data = Vec::new();
        accessor.open(&path)?.take(LIMIT + 1).read_to_end(&mut data)?;
        Ok(data)
    };
    let data = blocking(scope, read).await?.map_err(|e| Error::failed(format!("{shown}: {e}")))?;
    if data.len() as u64 > LIMIT {
        return Err(Error::failed(format!("{shown}: larger than {LIMIT} bytes")));
    }
    Ok(data)
}

async fn parse_jsonl(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let accessor = accessor(scope, &args.string("accessor")?)?;
    let path = path_of(scope, &*accessor, &args.any("filename"));
    let shown = path.to_text();
    let opened = blocking(scope, move || accessor.open(&path)).await?;
    let mut reader = match opened {
        Ok(file) => BufReader::new(file),
        Err(e) => {
            scope.log(Level::Default, format!("parse_jsonl: {shown}: {e}"));
            return Ok(());
        }
    };
    loop {
        let read = move || {
            let mut lines = Vec::new();
            while lines.len() < 500 {
                let mut line = Vec::new();
                match (&mut reader).take(LIMIT).read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => lines.push(line),
                }
            }
            (lines, reader)
        };
        let lines;
        (lines, reader) = blocking(scope, read).await?;
        if lines.is_empty() {
            return Ok(());
        }
        for line in lines.iter().filter(|l| !l.trim_ascii().is_empty()) {
            scope.charge_op().await;
            match serde_json::from_slice(line) {
                Ok(json @ serde_json::Value::Object(_)) => {
                    emitter.send(Value::from_json(json)).await?;
                }
                Ok(other) => {
                    emitter.send(vql::Dict::new().with("_value", Value::from_json(other))).await?;
                }
                Err(e) => scope.log(Level::Default, format!("parse_jsonl: {shown}: {e}")),
            }
        }
    }
}

async fn write_rows(scope: &Scope, args: &Args, emitter: &Emitter, csv: bool) -> Result<(), Error> {
    let kind = args.string("accessor")?;
    if !["", "auto", "file"].contains(&kind.as_str()) {
        return Err(Error::failed(format!("the accessor {kind} cannot write")));
    }
    let path = super::OsPath::of(&args.any("filename"));
    let text = path.to_text();
    let temporary = std::path::Path::new(&text).starts_with(std::env::temp_dir());
    let native = if temporary { text.clone().into() } else { path.native(&host(scope).root) };
    let append = args.bool("append")?;
    let open = move || {
        let mut open = std::fs::OpenOptions::new();
        open.create(true).mode(0o600).append(append).write(true).truncate(!append).open(native)
    };
    let mut file =
        blocking(scope, open).await?.map_err(|e| Error::failed(format!("{text}: {e}")))?;
    let mut rows = args.rows("query");
    let mut columns: Option<Vec<String>> = None;
    let mut out = Vec::new();
    let mut count = 0;
    loop {
        let row = rows.next().await;
        let end = row.is_none();
        if let Some(row) = row {
            scope.charge_op().await;
            let row = row.into_row();
            match csv {
                true => csv_row(&mut out, &mut columns, &row),
                false => {
                    let mut line = row.to_json();
                    line.push('\n');
                    out.extend(line.into_bytes());
                }
            }
            count += 1;
            emitter.send(row).await?;
        }
        if end || count % BATCH == 0 {
            let data = std::mem::take(&mut out);
            let write = move || {
                let done = file.write_all(&data);
                (done, file)
            };
            let done;
            (done, file) = blocking(scope, write).await?;
            done.map_err(|e| Error::failed(format!("{text}: {e}")))?;
        }
        if end {
            return Ok(());
        }
    }
}

/// A line of CSV; the first row decides the columns and puts their names first.
fn csv_row(out: &mut Vec<u8>, columns: &mut Option<Vec<String>>, row: &Row) {
    let names = columns.get_or_insert_with(|| {
        let names: Vec<String> = row.keys().map(|k| k.to_string()).collect();
        out.extend(vql::csv_line(names.iter().map(String::as_str)).into_bytes());
        names
    });
    let cells: Vec<String> =
        names.iter().map(|n| row.get(n).map_or(String::new(), vql::csv_cell)).collect();
    out.extend(vql::csv_line(cells.iter().map(String::as_str)).into_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    async fn query(text: &str) -> String {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        Value::from(vql::run(text, &scope).await.unwrap()).to_json()
    }

    #[tokio::test]
    async fn documents_become_values() {
        let yaml = "SELECT parse_yaml(filename='a: [1, x]\\nb: {c: 2.5}', accessor='data') AS Y FROM scope()";
        assert_eq!(query(yaml).await, r#"[{"Y":{"a":[1,"x"],"b":{"c":2.5}}}]"#);
        let yaml = "SELECT parse_yaml(filename='', accessor='data') AS A, \
            parse_yaml(filename='a: 1\\n---\\nb: 2', accessor='data') AS B, \
            parse_yaml(filename='- 1', accessor='data') AS C FROM scope()";
        assert_eq!(query(yaml).await, r#"[{"A":{},"B":{"a":1},"C":[1]}]"#);
        let xml = "SELECT parse_xml(file='<a x=\"1\"><b>t</b><b/></a>', accessor='data') AS X FROM scope()";
        assert_eq!(query(xml).await, r#"[{"X":{"a":{"Attrx":"1","b":["t",""]}}}]"#);
        let jsonl =
            "SELECT a FROM parse_jsonl(filename='{\"a\":1}\\n\\nno\\n{\"a\":2}', accessor='data')";
        assert_eq!(query(jsonl).await, r#"[{"a":1},{"a":2}]"#);
    }

    #[tokio::test]
    async fn rows_go_into_files() {
        let text = "LET f <= tempfile() LET g <= tempfile() \
            LET rows = SELECT * FROM parse_jsonl(filename='{\"a\":1,\"b\":\"x, y\"}\\n{\"b\":null,\"a\":[2]}', accessor='data') \
            LET c <= SELECT * FROM write_csv(filename=f, query=rows) \
            LET j <= SELECT * FROM write_jsonl(filename=g, query=rows) \
            LET k <= SELECT * FROM write_jsonl(filename=g, query={ SELECT 3 AS Z FROM scope() }, append=TRUE) \
            SELECT read_file(filename=f) AS C, read_file(filename=g) AS J, len(list=c) AS N FROM scope()";
        let expected = r#"[{"C":"a,b\n1,\"x, y\"\n\"[\n 2\n]\",\n","J":"{\"a\":1,\"b\":\"x, y\"}\n{\"b\":null,\"a\":[2]}\n{\"Z\":3}\n","N":2}]"#;
        assert_eq!(query(text).await, expected);
    }
}
