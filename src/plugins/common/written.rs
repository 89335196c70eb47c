//! Files of this host that queries write: `write_file` and `compress`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // writes to the real host

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use vql::{ArgType, Args, Error, Level, Registry, Scope, Signature, Value};

use super::blocking;
use super::temp::native;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let write = Signature::new("write_file", "Writes text to a file of this host; gives its name.")
        .required("data", ArgType::String, "What to write.")
        .arg("dest", ArgType::String, "Where to.")
        .arg("permissions", ArgType::String, "x makes it executable.")
        .arg("append", ArgType::Bool, "Add to what is there.")
        .arg("create_directories", ArgType::Bool, "Make directories that are missing.");
    registry.function_async(write, |scope, args| async move { write_file(&scope, &args).await });

    let compress = Signature::new("compress", "Packs a file of this host by gzip; gives its name.")
        .required("path", ArgType::String, "The file.")
        .required("output", ArgType::String, "Where to.");
    registry.function_async(compress, |scope, args| async move { pack(&scope, &args).await });
}

/// The name when it was done, a log line and nothing when it was not.
fn told(scope: &Scope, what: &str, name: String, done: io::Result<()>) -> Value {
    match done {
        Ok(()) => name.into(),
        Err(e) => {
            scope.log(Level::Default, format!("{what}: {name}: {e}"));
            Value::Null
        }
    }
}

async fn write_file(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let (data, dest) = (args.bytes("data")?, args.string("dest")?);
    if dest.is_empty() {
        return Err(Error::Arg("dest is required: the file to write".into()));
    }
    let to = native(scope, &dest);
    let (append, parents) = (args.bool("append")?, args.bool("create_directories")?);
    let mode = if args.string("permissions")?.contains('x') { 0o700 } else { 0o600 };
    let work = move || -> io::Result<()> {
        if let Some(parent) = to.parent().filter(|_| parents) {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let mut open = OpenOptions::new();
        open.create(true).mode(mode).append(append).write(true).truncate(!append);
        open.open(to)?.write_all(data.as_bytes())
    };
    let done = blocking(scope, work).await?;
    Ok(told(scope, "write_file", dest, done))
}

fn gzip(from: PathBuf, to: PathBuf) -> io::Result<()> {
    let mut from = File::open(from)?;
    let mut open = OpenOptions::new();
    let to = open.create(true).mode(0o600).write(true).truncate(true).open(to)?;
    let mut packer = flate2::write::GzEncoder::new(to, flate2::Compression::default());
    io::copy(&mut from, &mut packer)?;
    packer.finish()?.flush()
}

async fn pack(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let (path, output) = (args.string("path")?, args.string("output")?);
    let (from, to) = (native(scope, &path), native(scope, &output));
    if from == to {
        return Err(Error::Arg("output should be another file than path".into()));
    }
    let done = blocking(scope, move || gzip(from, to)).await?;
    Ok(told(scope, "compress", output, done))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn files_are_written_and_packed() {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        let text = "LET d <= tempdir() LET f = d + '/s/t' \
            SELECT write_file(data='ab', dest=f, create_directories=TRUE) = f AS A, \
                write_file(data='cd', dest=f, append=TRUE) = f AS B, \
                read_file(filename=f) AS R, \
                write_file(data='x', dest=d + '/no/t') AS N, \
                compress(path=f, output=d + '/z') = d + '/z' AS Z, \
                { SELECT Line FROM parse_lines(filename=d + '/z') } AS L, \
                write_file(data='e', dest=f) = f AS C, read_file(filename=f) AS S, \
                compress(path=d + '/no', output=d + '/y') AS NZ \
            FROM scope()";
        let rows = Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let want = r#"[{"A":true,"B":true,"R":"abcd","N":null,"Z":true,"L":"abcd","C":true,"S":"e","NZ":null}]"#;
        assert_eq!(rows, want);
        scope.close();
    }
}
