//! Files a query makes for itself: `tempfile`, `tempdir`, `rm`, `copy`. What is
//! temporary goes when the query ends.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // writes to the real host

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use vql::{ArgType, Args, Error, Level, Registry, Scope, Signature, Value};

use super::file::named;
use super::{blocking, host};
use crate::env::Env;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let tempfile = Signature::new("tempfile", "Makes a file that goes when the query ends.")
        .arg("data", ArgType::Strings, "What it holds.")
        .arg("extension", ArgType::String, "How its name ends.")
        .arg("permissions", ArgType::String, "x makes it executable.")
        .arg("remove_last", ArgType::Bool, "Accepted; files go newest first.");
    registry.function_async(tempfile, |scope, args| async move {
        let executable = args.string("permissions")?.contains('x');
        let file = TempFile::make(&scope, &args.string("extension")?, executable).await?;
        let data: Vec<u8> =
            args.list("data").iter().flat_map(|d| d.to_str().as_bytes().to_vec()).collect();
        Ok(file.append(&scope, data.into()).await?.path().into())
    });

    let tempdir = Signature::new("tempdir", "Makes a directory that goes when the query ends.")
        .arg("remove_last", ArgType::Bool, "Accepted; directories go newest first.");
    registry.function_async(tempdir, |scope, _| async move {
        let path = fresh(&scope, "")?;
        let made = path.clone();
        let make = move || DirBuilder::new().mode(0o700).create(&made);
        blocking(&scope, make).await?.map_err(Error::failed)?;
        let gone = path.clone();
        scope.on_close(move || drop(std::fs::remove_dir_all(gone)));
        Ok(path.to_string_lossy().into_owned().into())
    });

    let rm = Signature::new("rm", "Removes a file; says whether it did.");
    registry.function_async(
        rm.required("filename", ArgType::String, "The file."),
        |scope, args| async move {
            let path = native(&scope, &args.string("filename")?);
            let shown = path.display().to_string();
            let removed = blocking(&scope, move || std::fs::remove_file(path)).await?;
            if let Err(e) = &removed {
                scope.log(Level::Default, format!("rm: {shown}: {e}"));
            }
            Ok(removed.is_ok().into())
        },
    );

    let copy = Signature::new("copy", "Copies a file to one of this host; gives its name.")
        .required("filename", ArgType::Path, "The file.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .required("dest", ArgType::String, "Where to.")
        .arg("permissions", ArgType::String, "x makes it executable.")
        .arg("dir_permissions", ArgType::String, "Accepted; made directories are private.")
        .arg("append", ArgType::Bool, "Add to what is there.")
        .arg("create_directories", ArgType::Bool, "Make directories that are missing.")
        .version(3);
    registry.function_async(copy, |scope, args| async move { copy_file(&scope, &args).await });
}

/// A temporary file that is being written.
#[derive(Debug)]
pub struct TempFile {
    path: PathBuf,
    file: std::fs::File,
}

impl TempFile {
    /// Makes one, removed when the query ends.
    pub async fn create(scope: &Scope, extension: &str) -> Result<TempFile, Error> {
        TempFile::make(scope, extension, false).await
    }

    async fn make(scope: &Scope, extension: &str, executable: bool) -> Result<TempFile, Error> {
        let path = fresh(scope, extension)?;
        let at = path.clone();
        let mode = if executable { 0o700 } else { 0o600 };
        let open = move || OpenOptions::new().write(true).create_new(true).mode(mode).open(at);
        let file = blocking(scope, open).await?.map_err(Error::failed)?;
        let gone = path.clone();
        scope.on_close(move || drop(std::fs::remove_file(gone)));
        Ok(TempFile { path, file })
    }

    /// Writes at its end.
    pub async fn append(self, scope: &Scope, data: Bytes) -> Result<TempFile, Error> {
        let mut this = self;
        let write = move || {
            let done = this.file.write_all(&data);
            (done, this)
        };
        let (done, this) = blocking(scope, write).await?;
        done.map_err(Error::failed)?;
        Ok(this)
    }

    /// Where it is.
    pub fn path(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }
}

/// A name in the temporary directory that nobody has.
fn fresh(scope: &Scope, extension: &str) -> Result<PathBuf, Error> {
    if extension.contains(['/', '\0']) {
        return Err(Error::failed("an extension is no path"));
    }
    let env = scope.extension::<Env>();
    let env = env.ok_or_else(|| Error::failed("no environment in this scope"))?;
    let mut random = [0; 8];
    env.entropy.fill(&mut random);
    Ok(std::env::temp_dir().join(format!("tmp{}{extension}", hex::encode(random))))
}

pub(super) fn native(scope: &Scope, path: &str) -> PathBuf {
    let temporary = std::env::temp_dir();
    // What the query made itself is not below the root of another machine's image.
    if Path::new(path).starts_with(&temporary) {
        return path.into();
    }
    super::OsPath::linux(path.as_bytes()).native(&host(scope).root)
}

async fn copy_file(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let (accessor, from) = named(scope, args, "filename")?;
    let dest = args.string("dest")?;
    let to = native(scope, &dest);
    let append = args.bool("append")?;
    let parents = args.bool("create_directories")?;
    let mode = if args.string("permissions")?.contains('x') { 0o700 } else { 0o600 };
    let shown = from.to_text();
    let work = move || -> io::Result<()> {
        if let Some(parent) = to.parent().filter(|_| parents) {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let mut source = accessor.open(&from)?;
        let mut open = OpenOptions::new();
        open.create(true).mode(mode).append(append).write(true).truncate(!append);
        io::copy(&mut source, &mut open.open(to)?).map(drop)
    };
    match blocking(scope, work).await? {
        Ok(()) => Ok(dest.into()),
        Err(e) => {
            scope.log(Level::Default, format!("copy: {shown} to {dest}: {e}"));
            Ok(Value::Null)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn files_are_made_and_go() {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        let rows = vql::run(
            "LET f <= tempfile(data=['a', 'b'], extension='.x') LET d <= tempdir() \
             LET c <= copy(filename='new', accessor='data', dest=d + '/s/c', create_directories=TRUE) \
             LET more <= copy(filename='er', accessor='data', dest=c, append=TRUE) \
             SELECT f, d, read_file(filename=f) AS F, read_file(filename=c) AS C, \
             rm(filename=c) AS R, rm(filename=c) AS R2 FROM scope()",
            &scope,
        )
        .await
        .unwrap();
        let text = |n: &str| rows[0].get(n).unwrap().to_text();
        assert_eq!((text("F"), text("C")), ("ab".into(), "newer".into()));
        assert_eq!((text("R"), text("R2")), ("true".into(), "false".into()));
        let (file, dir) = (PathBuf::from(text("f")), PathBuf::from(text("d")));
        assert!(file.exists() && dir.exists() && text("f").ends_with(".x"));
        scope.close();
        assert!(!file.exists() && !dir.exists());
    }
}
