//! `stat`, `read_file` and `hash`.

use std::collections::BTreeMap;
use std::io::{self, Read, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use md5::Digest;
use tokio_util::sync::CancellationToken;
use vql::{ArgType, Args, Dict, Error, Level, Registry, Scope, Signature, Value};

use super::accessor::{Accessor, ReadSeek, accessor, path_of};
use super::blocking;
use super::path::OsPath;

/// Bytes `read_file` reads when no length is given.
const DEFAULT_LENGTH: u64 = 4 << 20;
/// Largest file hashed when nothing else is said.
const MAX_HASHED: u64 = 100 << 20;
/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let doc = "Get file information. Unlike glob() this does not support wildcards.";
    let stat = Signature::new("stat", doc).required("filename", ArgType::Path, "The file.").arg(
        "accessor",
        ArgType::String,
        "An accessor to use.",
    );
    registry.plugin_async(stat.clone(), |scope, args, emitter| async move {
        // What is not there gives no row.
        if let Ok(row) = stat_row(&scope, &args).await? {
            emitter.send(row).await?;
        }
        Ok(())
    });
    registry.function_async(stat, |scope, args| async move {
        Ok(stat_row(&scope, &args).await?.unwrap_or_default())
    });

    let read = Signature::new("read_file", "Read a file into a string.")
        .refused("")
        .required("filename", ArgType::Path, "The file.")
        .arg("length", ArgType::Int, "Most bytes to read.")
        .arg("offset", ArgType::Int, "Where to begin.")
        .arg("accessor", ArgType::String, "An accessor to use.");
    registry.function_async(read, |scope, args| async move { read_function(scope, args).await });

    let chunks = Signature::new("read_file", "Read files in chunks.")
        .required("filenames", ArgType::Paths, "The files.")
        .arg("chunk", ArgType::Int, "Bytes in a row.")
        .arg("max_length", ArgType::Int, "Most bytes of a file.")
        .arg("accessor", ArgType::String, "An accessor to use.");
    registry.plugin_async(chunks, |scope, args, emitter| async move {
        read_rows(scope, args, emitter).await
    });

    let hash = Signature::new("hash", "Calculate the hash of a file.")
        .required("path", ArgType::Path, "The file.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("hashselect", ArgType::Strings, "Only these: MD5, SHA1, SHA256.")
        .arg("max_size", ArgType::Int, "Larger files are not hashed.");
    registry.function_async(hash, |scope, args| async move { hash_function(scope, args).await });
}

/// The file an argument names.
pub fn named(scope: &Scope, args: &Args, arg: &str) -> Result<(Arc<dyn Accessor>, OsPath), Error> {
    let accessor = accessor(scope, &args.string("accessor")?)?;
    let path = path_of(scope, &*accessor, &args.any(arg));
    Ok((accessor, path))
}

async fn stat_row(scope: &Scope, args: &Args) -> Result<io::Result<Value>, Error> {
    if matches!(args.any("filename"), Value::Null) {
        return Ok(Err(io::ErrorKind::NotFound.into()));
    }
    let (accessor, path) = named(scope, args, "filename")?;
    let info = blocking(scope, move || accessor.lstat(&path)).await?;
    Ok(info.map(|i| i.row(None)))
}

/// Up to `length` bytes from `offset`.
fn read_some(a: &dyn Accessor, path: &OsPath, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut file = a.open(path)?;
    if offset > 0 {
        file.seek(SeekFrom::Start(offset))?;
    }
    let mut out = Vec::new();
    file.take(length).read_to_end(&mut out)?;
    Ok(out)
}

/// The next `length` bytes of a file, which is opened when it is not open yet.
fn read_on(
    accessor: &dyn Accessor,
    path: &OsPath,
    file: Option<Box<dyn ReadSeek>>,
    length: u64,
) -> io::Result<(Box<dyn ReadSeek>, Vec<u8>)> {
    let file = match file {
        Some(file) => file,
        None => accessor.open(path)?,
    };
    let (mut out, mut part) = (Vec::new(), file.take(length));
    part.read_to_end(&mut out)?;
    Ok((part.into_inner(), out))
}

async fn read_function(scope: Scope, args: Args) -> Result<Value, Error> {
    let (accessor, path) = match named(&scope, &args, "filename") {
        Ok(named) => named,
        Err(e) => {
            scope.log(Level::Default, format!("read_file: {e}"));
            return Ok("".into());
        }
    };
    let length = args.opt_int("length")?.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
    let offset = u64::try_from(args.int("offset")?).unwrap_or(0);
    let length = length.unwrap_or(DEFAULT_LENGTH);
    let read = move || (read_some(&*accessor, &path, offset, length), path);
    match blocking(&scope, read).await? {
        (Ok(data), _) => Ok(data.into()),
        (Err(e), path) => {
            scope.log(Level::Default, format!("read_file: {}: {e}", path.to_text()));
            Ok("".into())
        }
    }
}

async fn read_rows(scope: Scope, args: Args, emitter: vql::Emitter) -> Result<(), Error> {
    let accessor = accessor(&scope, &args.string("accessor")?)?;
    let positive = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    let chunk = positive(args.int("chunk")?).unwrap_or(CHUNK as u64);
    let most = positive(args.int("max_length")?).unwrap_or(u64::MAX);
    for file in args.list("filenames") {
        let path = path_of(&scope, &*accessor, &file);
        let mut offset = 0;
        // Opened once: what cannot be sought in, such as a pipe, is read on.
        let mut open = None;
        while offset < most {
            scope.charge_op().await;
            let want = chunk.min(most - offset);
            let (a, p, file) = (accessor.clone(), path.clone(), open.take());
            let data = match blocking(&scope, move || read_on(&*a, &p, file, want)).await? {
                Ok((file, data)) => {
                    open = Some(file);
                    data
                }
                Err(e) => {
                    scope.log(Level::Default, format!("read_file: {}: {e}", path.to_text()));
                    break;
                }
            };
            if data.is_empty() {
                break;
            }
            let len = data.len() as u64;
            let row = Dict::new()
                .with("Data", data)
                .with("Offset", offset)
                .with("Filename", Value::object(path.clone()));
            emitter.send(row).await?;
            offset += len;
        }
    }
    Ok(())
}

/// What `hashselect` knows.
const HASHES: [&str; 3] = ["MD5", "SHA1", "SHA256"];

struct Wanted {
    md5: bool,
    sha1: bool,
    sha256: bool,
    /// Ends the reading of a large file.
    stop: CancellationToken,
}

async fn hash_function(scope: Scope, args: Args) -> Result<Value, Error> {
    // Of nothing there is no hash; an empty path is the top directory.
    if matches!(args.any("path"), Value::Null) {
        return Ok(Value::Null);
    }
    let (accessor, path) = named(&scope, &args, "path")?;
    let select = args.strings("hashselect")?;
    if let Some(odd) = select.iter().find(|s| !HASHES.iter().any(|h| s.eq_ignore_ascii_case(h))) {
        return Err(Error::failed(format!("no such hash: {odd}")));
    }
    let wants = |n: &str| select.is_empty() || select.iter().any(|s| s.eq_ignore_ascii_case(n));
    let wanted = Wanted {
        md5: wants("MD5"),
        sha1: wants("SHA1"),
        sha256: wants("SHA256"),
        stop: scope.cancellation().clone(),
    };
    let configured = scope.resolve("HASH_MAX_SIZE").and_then(|v| v.as_int());
    let limit = args.opt_int("max_size")?.filter(|n| *n > 0).or(configured);
    let limit = limit.and_then(|n| u64::try_from(n).ok()).unwrap_or(MAX_HASHED);
    let text = path.to_text();
    let known = scope.session_value::<Hashed>();
    match blocking(&scope, move || known.hash(&*accessor, &path, limit, &wanted)).await? {
        Ok(dict) => Ok(dict.into()),
        Err(e) => {
            scope.log(Level::Default, format!("hash: {text}: {e}"));
            Ok(Value::Null)
        }
    }
}

/// Hashes of a query's files: many processes have one program. A file that was
/// written since is another one.
#[derive(Default)]
struct Hashed(Mutex<BTreeMap<Hashable, Dict>>);

/// Device, inode, size, times of modification and change, and what is wanted.
type Hashable = (u64, u64, u64, i64, i64, [bool; 3]);

/// Hashes kept for one query.
const HASHES_KEPT: usize = 4096;

impl Hashed {
    fn hash(&self, a: &dyn Accessor, path: &OsPath, limit: u64, w: &Wanted) -> io::Result<Dict> {
        let info = a.stat(path).ok().filter(|i| i.identity != (0, 0) && i.size <= limit);
        let key = info.map(|i| {
            let wanted = [w.md5, w.sha1, w.sha256];
            (i.identity.0, i.identity.1, i.size, i.times[0], i.times[2], wanted)
        });
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = key.as_ref().and_then(|k| lock().get(k).cloned()) {
            return Ok(found);
        }
        let made = hash_file(a, path, limit, w)?;
        if let Some(key) = key {
            let mut all = lock();
            if all.len() >= HASHES_KEPT {
                all.clear();
            }
            all.insert(key, made.clone());
        }
        Ok(made)
    }
}

fn hash_file(a: &dyn Accessor, path: &OsPath, limit: u64, w: &Wanted) -> io::Result<Dict> {
    let mut file: Box<dyn super::accessor::ReadSeek> = match a.open(path) {
        // A directory has no content.
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => Box::new(io::empty()),
        other => other?,
    };
    let mut md5 = w.md5.then(md5::Md5::new);
    let mut sha1 = w.sha1.then(|| Context::new(&SHA1_FOR_LEGACY_USE_ONLY));
    let mut sha256 = w.sha256.then(|| Context::new(&SHA256));
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if w.stop.is_cancelled() {
            return Err(io::Error::other("the query was cancelled"));
        }
        total += n as u64;
        if total > limit {
            return Err(io::Error::other(format!("larger than {limit} bytes")));
        }
        let data = &buffer[..n];
        if let Some(h) = &mut md5 {
            h.update(data);
        }
        for h in [&mut sha1, &mut sha256].into_iter().flatten() {
            h.update(data);
        }
    }
    let mut out = Dict::new();
    // All three are columns; what was not asked for is empty.
    out.set("MD5", md5.map_or(String::new(), |h| hex::encode(h.finalize())));
    out.set("SHA1", sha1.map_or(String::new(), |h| hex::encode(h.finish())));
    out.set("SHA256", sha256.map_or(String::new(), |h| hex::encode(h.finish())));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_no_path() {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        let text = "SELECT hash(path=NULL) AS A, stat(filename=NULL) AS B, \
            stat(filename='').OSPath AS C, hash(path='x', accessor='data').MD5 AS D, \
            magic(path=NULL) AS E FROM scope()";
        let expected =
            r#"[{"A":null,"B":null,"C":"/","D":"9dd4e461268c8034f5c8564e155c67a6","E":null}]"#;
        let rows = vql::run(text, &scope).await.unwrap();
        assert_eq!(Value::from(rows).to_json(), expected);
    }
}
