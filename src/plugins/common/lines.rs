//! Text files as rows: `parse_lines` and `split_records`.

use std::io::{BufRead, BufReader};
use std::sync::Arc;

use regex::bytes::Regex;
use tokio_util::sync::{CancellationToken, DropGuard};
use vql::{ArgType, Args, Dict, Emitter, Error, Level, Registry, Scope, Signature, Value};

use super::accessor::{Accessor, accessor, path_of};
use super::blocking;
use super::path::OsPath;

/// Longest line, and the window records are searched in, in bytes.
const BUFFER: usize = 64 << 10;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let lines = Signature::new("parse_lines", "The lines of a file.")
        .required("filename", ArgType::Paths, "The files.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("buffer_size", ArgType::Int, "Longest line in bytes.");
    registry.plugin_async(lines, |scope, args, emitter| async move {
        parse_lines(&scope, &args, &emitter).await
    });
    let split = Signature::new("split_records", "The lines of a file, split into columns.")
        .required("filenames", ArgType::Paths, "The files.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("regex", ArgType::String, "What separates columns (white space).")
        .arg("columns", ArgType::Strings, "Names of the columns.")
        .arg("first_row_is_headers", ArgType::Bool, "Names are in the first line.")
        .arg("count", ArgType::Int, "Most columns.")
        .arg("record_regex", ArgType::String, "What separates records (newline).")
        .arg("buffer_size", ArgType::Int, "Longest record in bytes.");
    registry.plugin_async(split, |scope, args, emitter| async move {
        split_records(&scope, &args, &emitter).await
    });
}

/// Hands out a file in pieces of whole lines, a few hundred at a time, so that
/// huge files need little memory.
struct Lines {
    reader: Option<Box<dyn BufRead + Send>>,
    longest: usize,
    /// A line that is too long ends the file; otherwise it is cut.
    strict: bool,
    /// A `\r` before the end of a line belongs to the line.
    keep_return: bool,
    /// Told when nobody wants lines any more: a line may be as long as its file.
    stop: CancellationToken,
    _stop_with_us: DropGuard,
}

impl Lines {
    async fn open(
        scope: &Scope,
        a: &Arc<dyn Accessor>,
        path: &OsPath,
        longest: usize,
    ) -> Result<Option<Lines>, Error> {
        let (a, p) = (a.clone(), path.clone());
        match blocking(scope, move || a.open(&p)).await? {
            Ok(file) => {
                let stop = CancellationToken::new();
                let reader: Box<dyn BufRead + Send> = Box::new(BufReader::new(file));
                let _stop_with_us = stop.clone().drop_guard();
                let reader = Some(reader);
                let (strict, keep_return) = (false, false);
                Ok(Some(Lines { reader, longest, strict, keep_return, stop, _stop_with_us }))
            }
            Err(e) => {
                scope.log(Level::Default, format!("{}: {e}", path.to_text()));
                Ok(None)
            }
        }
    }

    /// Reads on unpacked, if what comes is packed by gzip.
    async fn unpack(&mut self, scope: &Scope) -> Result<(), Error> {
        let Some(mut reader) = self.reader.take() else { return Ok(()) };
        let unpack = move || -> Box<dyn BufRead + Send> {
            match reader.fill_buf() {
                Ok([0x1f, 0x8b, ..]) => {
                    Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(reader)))
                }
                _ => reader,
            }
        };
        self.reader = Some(blocking(scope, unpack).await?);
        Ok(())
    }

    async fn next(&mut self, scope: &Scope) -> Result<Vec<Vec<u8>>, Error> {
        let Some(mut reader) = self.reader.take() else { return Ok(Vec::new()) };
        let (longest, strict, stop) = (self.longest, self.strict, self.stop.clone());
        let keep_return = self.keep_return;
        let read = move || {
            let (mut out, mut too_long) = (Vec::new(), false);
            while out.len() < 500 && !too_long {
                match line(&mut *reader, longest, keep_return, &stop) {
                    Ok(Some((_, true))) if strict => too_long = true,
                    Ok(Some((l, _))) => out.push(l),
                    Ok(None) | Err(_) => break,
                }
            }
            (out, too_long, reader)
        };
        let (lines, too_long, reader) = blocking(scope, read).await?;
        self.reader = (!lines.is_empty() && !too_long).then_some(reader);
        if too_long {
            let text = format!("parse_lines: a line has {longest} bytes or more, see buffer_size");
            scope.log(Level::Default, text);
        }
        Ok(lines)
    }
}

/// One line without its end, cut to `longest`, and whether it is that long.
fn line(
    reader: &mut dyn BufRead,
    longest: usize,
    keep_return: bool,
    stop: &CancellationToken,
) -> std::io::Result<Option<(Vec<u8>, bool)>> {
    let mut out = Vec::new();
    let mut any = false;
    loop {
        if stop.is_cancelled() {
            return Ok(None);
        }
        let data = reader.fill_buf()?;
        if data.is_empty() {
            break;
        }
        any = true;
        let end = data.iter().position(|b| *b == b'\n');
        let n = end.unwrap_or(data.len());
        let room = longest.saturating_sub(out.len());
        out.extend_from_slice(&data[..n.min(room)]);
        reader.consume(n + usize::from(end.is_some()));
        if end.is_some() {
            break;
        }
    }
    let full = out.len() >= longest;
    if out.last() == Some(&b'\r') && !keep_return {
        out.pop();
    }
    Ok(any.then_some((out, full)))
}

/// Bytes of a line, or searched at a time.
pub(super) fn buffer_size(args: &Args) -> Result<usize, Error> {
    let n = usize::try_from(args.int("buffer_size")?).ok().filter(|n| *n > 0);
    Ok(n.unwrap_or(BUFFER))
}

async fn parse_lines(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let accessor = accessor(scope, &args.string("accessor")?)?;
    for file in args.list("filename") {
        let path = path_of(scope, &*accessor, &file);
        let opened = Lines::open(scope, &accessor, &path, buffer_size(args)?).await?;
        let Some(mut lines) = opened else { continue };
        lines.strict = true;
        lines.unpack(scope).await?;
        loop {
            let some = lines.next(scope).await?;
            if some.is_empty() {
                break;
            }
            for l in some {
                scope.charge_op().await;
                emitter.send(Dict::new().with("Line", l)).await?;
            }
        }
    }
    Ok(())
}

async fn split_records(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let accessor = accessor(scope, &args.string("accessor")?)?;
    let pattern = args.opt_string("regex")?.unwrap_or_else(|| r"\s+".into());
    let separator = Regex::new(&pattern).map_err(Error::failed)?;
    let record = args.opt_string("record_regex")?.filter(|r| r != "\n" && r != r"\n");
    let record = record.map(|r| Regex::new(&r)).transpose().map_err(Error::failed)?;
    let most = usize::try_from(args.int("count")?).ok().filter(|n| *n > 0);
    let headers = args.bool("first_row_is_headers")?;
    for file in args.list("filenames") {
        let path = path_of(scope, &*accessor, &file);
        let opened = Lines::open(scope, &accessor, &path, buffer_size(args)?).await?;
        let Some(mut lines) = opened else { continue };
        lines.keep_return = true;
        let mut columns = args.strings("columns")?;
        let mut first = headers;
        let mut pending: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut some = lines.next(scope).await?;
            if let Some(re) = &record {
                // Records of another shape are cut out of the whole text.
                if !some.is_empty() {
                    pending.append(&mut some);
                    continue;
                }
                let text = std::mem::take(&mut pending).join(&b'\n');
                some = re.split(&text).filter(|r| !r.is_empty()).map(<[u8]>::to_vec).collect();
            }
            if some.is_empty() {
                break;
            }
            for l in some {
                scope.charge_op().await;
                let fields: Vec<&[u8]> = match most {
                    Some(n) => separator.splitn(&l, n).collect(),
                    None => separator.split(&l).collect(),
                };
                if std::mem::take(&mut first) {
                    columns = column_names(&fields);
                    continue;
                }
                if columns.is_empty() {
                    columns = (0..fields.len()).map(|i| format!("Column{i}")).collect();
                }
                let mut row = Dict::with_capacity(columns.len());
                for (i, name) in columns.iter().enumerate() {
                    row.update(name.clone(), fields.get(i).map_or(Value::Null, |f| (*f).into()));
                }
                emitter.send(row).await?;
            }
            if record.is_some() {
                break;
            }
        }
    }
    Ok(())
}

/// Names of columns from a line: what is no letter or digit becomes `_`, and one that is there
/// already gets a number.
fn column_names(fields: &[&[u8]]) -> Vec<String> {
    let (mut names, mut again) = (Vec::new(), 0);
    for field in fields {
        let mut name = vql::lossy(field).into_owned();
        if names.contains(&name) {
            again += 1;
            name += &again.to_string();
        }
        names.push(name.replace(|c: char| !c.is_ascii_alphanumeric(), "_"));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn packed_lines_are_unpacked() {
        use std::io::Write;
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let scope = vql::ScopeBuilder::new(Arc::new(registry))
            .extension(Arc::new(crate::env::real::env()))
            .build();
        let mut packed = Vec::new();
        for text in ["one\ntwo", "three\n"] {
            let mut packer = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
            packer.write_all(text.as_bytes()).unwrap();
            packed = packer.finish().unwrap();
        }
        scope.set("Packed", Value::Str(packed.as_slice().into()));
        scope.set("Cut", Value::Str(packed[..12].into()));
        let query = async |text: &str| Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let all = "SELECT Line FROM parse_lines(accessor='data', filename=Packed)";
        assert_eq!(query(all).await, r#"[{"Line":"one"},{"Line":"twothree"}]"#);
        let cut = "SELECT Line FROM parse_lines(accessor='data', filename=Cut)";
        assert_eq!(query(cut).await, "[]");
        let split = "SELECT len(list=A) > 9 AS N FROM split_records(accessor='data', \
                     filenames=Packed, regex='~~', columns='A') LIMIT 1";
        assert_eq!(query(split).await, r#"[{"N":true}]"#);
        let named = "SELECT * FROM split_records(accessor='data', regex=':', \
                     first_row_is_headers=TRUE, filenames='a-b:c:c\nd:e:f:g\nh\n')";
        let expected = r#"[{"a_b":"d","c":"e","c1":"f"},{"a_b":"h","c":null,"c1":null}]"#;
        assert_eq!(query(named).await, expected);
        let ended = "SELECT * FROM split_records(accessor='data', filenames='a,b\\r\\n', regex=',', \
                    columns=('A', 'B'))";
        assert_eq!(query(ended).await, r#"[{"A":"a","B":"b\r"}]"#);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_ends_the_file() {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let logged = Arc::new(Mutex::new(Vec::new()));
        let log = logged.clone();
        let scope = vql::ScopeBuilder::new(Arc::new(registry))
            .extension(Arc::new(crate::env::real::env()))
            .log(move |_: Level, text: &str| log.lock().unwrap().push(text.to_owned()))
            .build();
        let query = "SELECT Line FROM parse_lines(accessor='data', buffer_size=4, \
                     filename='abc\nabcd\nx')";
        let rows = vql::run(query, &scope).await.unwrap();
        assert_eq!(Value::from(rows).to_json(), r#"[{"Line":"abc"}]"#);
        let logged = logged.lock().unwrap();
        assert!(logged.iter().any(|l| l.contains("parse_lines: a line has 4 bytes")), "{logged:?}");
    }
}
