//! `upload_directory`: copies a file into a directory of this host.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // writes to the real host

use std::fs::{DirBuilder, FileTimes, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use md5::Md5;
use sha2::{Digest, Sha256};
use vql::{ArgType, Args, Error, Level, Registry, Scope, Signature, Time, Value};

use super::accessor::ReadSeek;
use super::file::named;
use super::upload::UploadResult;
use super::{OsPath, blocking};
use crate::store::zip::write::member_name;

/// Bytes copied at once.
const BLOCK: usize = 256 << 10;

/// Adds the function.
pub fn register(registry: &mut Registry) {
    let mut sig = Signature::new("upload_directory", "Copies a file into a directory.")
        .required("file", ArgType::Path, "The file.")
        .required("output", ArgType::String, "The directory.")
        .arg("name", ArgType::Path, "The name to store it under.")
        .arg("accessor", ArgType::String, "An accessor to use.");
    for time in ["mtime", "atime", "ctime", "btime"] {
        let doc = match time {
            "mtime" | "atime" => "The time the copy gets.",
            _ => "Accepted; the copy has the time it was made.",
        };
        sig = sig.arg(time, ArgType::Any, doc);
    }
    registry.function_async(sig, |scope, args| async move { run(&scope, &args).await });
}

async fn run(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let (accessor, path) = named(scope, args, "file")?;
    let output = args.string("output")?;
    if output.is_empty() {
        return Err(Error::Arg("output should name a directory".into()));
    }
    let store_as = match args.any("name") {
        Value::Null => path.clone(),
        name => OsPath::of(&name),
    };
    // Names are made harmless: nothing is written outside of the directory.
    let relative = member_name(&store_as.texts());
    let to = PathBuf::from(&output).join(&relative);
    let mut times = FileTimes::new();
    if let Some(time) = args.time("mtime")?.and_then(system_time) {
        times = times.set_modified(time);
    }
    if let Some(time) = args.time("atime")?.and_then(system_time) {
        times = times.set_accessed(time);
    }
    let from = path.clone();
    let copied = blocking(scope, move || {
        let mut file = accessor.open(&from)?;
        copy(&mut *file, &to, times)
    });
    match copied.await? {
        Ok(mut result) => {
            result.path = path.to_text();
            result.components = store_as.texts();
            result.stored_name = format!("{}/{relative}", output.trim_end_matches('/'));
            result.accessor = args.string("accessor")?;
            Ok(result.row().into())
        }
        Err(e) => {
            scope.log(Level::Default, format!("upload_directory: {}: {e}", path.to_text()));
            Ok(Value::Null)
        }
    }
}

/// A time as the system has it; `None` before 1970.
fn system_time(time: Time) -> Option<SystemTime> {
    let since = Duration::from_nanos(u64::try_from(time.as_nanosecond()).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// The copy is there under its name only when it is whole.
fn copy(from: &mut dyn ReadSeek, to: &Path, times: FileTimes) -> io::Result<UploadResult> {
    let dir = to.parent().ok_or_else(|| io::Error::other("no directory"))?;
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut unfinished = to.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let copied = (|| {
        let mut options = OpenOptions::new();
        let mut out =
            options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        let (mut sha, mut md5) = (Sha256::new(), Md5::new());
        let (mut block, mut size) = (vec![0; BLOCK], 0u64);
        loop {
            let n = from.read(&mut block)?;
            if n == 0 {
                break;
            }
            out.write_all(&block[..n])?;
            sha.update(&block[..n]);
            md5.update(&block[..n]);
            size += n as u64;
        }
        // Not every file system keeps every time.
        let _ = out.set_times(times);
        out.sync_all()?;
        std::fs::rename(&unfinished, to)?;
        Ok(UploadResult {
            size,
            stored_size: size,
            sha256: hex::encode(sha.finalize()),
            md5: hex::encode(md5.finalize()),
            ..UploadResult::default()
        })
    })();
    if copied.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    copied
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_copy_stays_below_its_directory() {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env: Arc<Env> = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        let dir = tempfile::tempdir().unwrap();
        scope.set("Out", dir.path().join("out").to_str().unwrap());
        let text = "SELECT upload_directory(output=Out, accessor='data', file='hello', \
                    name='../../a/b:c', mtime=5) AS U FROM scope()";
        let rows = Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let at = dir.path().join("out/a/b%3Ac");
        assert_eq!(std::fs::read(&at).unwrap(), b"hello", "{rows}");
        let modified = std::fs::metadata(&at).unwrap().modified().unwrap();
        assert_eq!(modified, SystemTime::UNIX_EPOCH + Duration::from_secs(5));
        let sha = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert!(rows.contains(sha) && rows.contains(r#""Size":5"#), "{rows}");
        let missing = "SELECT upload_directory(output=Out, file='/no/such') AS U FROM scope()";
        let rows = Value::from(vql::run(missing, &scope).await.unwrap()).to_json();
        assert_eq!(rows, r#"[{"U":null}]"#);
    }
}
