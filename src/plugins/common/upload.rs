//! `upload`: sends a file to wherever the scope's [`Uploader`] takes it.

use std::sync::Arc;

use futures::future::BoxFuture;
use vql::{ArgType, Args, Dict, Error, Level, Registry, Scope, Signature, Value};

use super::accessor::{Accessor, FileInfo, UNKNOWN, path_of};
use super::blocking;
use super::file::named;
use super::path::{Kind, OsPath};

/// A file to be uploaded.
pub struct UploadFile {
    /// How to read it.
    pub accessor: Arc<dyn Accessor>,
    /// The accessor's name.
    pub accessor_name: String,
    /// What is known of it; times as the query gave them.
    pub info: FileInfo,
    /// The name to store it under.
    pub store_as: OsPath,
    /// The query returns at once and the upload can be taken up again later.
    pub resumable: bool,
}

/// What `upload` gives.
#[derive(Clone, Debug, Default)]
pub struct UploadResult {
    /// The file's path; empty for content.
    pub path: String,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes sent, without holes.
    pub stored_size: u64,
    /// Hex digests of what was read.
    pub sha256: String,
    /// See `sha256`.
    pub md5: String,
    /// Stored under.
    pub stored_name: String,
    /// See `stored_name`.
    pub components: Vec<String>,
    /// The accessor's name.
    pub accessor: String,
    /// The number of the upload.
    pub id: i64,
    /// Why it failed.
    pub error: String,
}

impl UploadResult {
    /// The row; what is not known is left out.
    pub fn row(&self) -> Dict {
        let mut row = Dict::new().with("Path", &self.path).with("Size", self.size);
        if !self.error.is_empty() {
            row.set("Error", &self.error);
        }
        row.set("UploadId", self.id);
        if self.stored_size > 0 {
            row.set("StoredSize", self.stored_size);
        }
        let texts =
            [("sha256", &self.sha256), ("md5", &self.md5), ("StoredName", &self.stored_name)];
        for (name, text) in texts {
            if !text.is_empty() {
                row.set(name, text);
            }
        }
        if !self.components.is_empty() {
            row.set("Components", self.components.iter().collect::<Value>());
        }
        if !self.accessor.is_empty() {
            row.set("Accessor", &self.accessor);
        }
        row
    }
}

/// Takes uploads.
pub trait UploadSink: Send + Sync {
    /// Uploads a file, or gives the result of an earlier upload of it in this query.
    fn upload(&self, scope: &Scope, file: UploadFile)
    -> BoxFuture<'_, Result<UploadResult, Error>>;
}

/// The sink of this query, found by type in the scope.
pub struct Uploader(pub Arc<dyn UploadSink>);

impl std::fmt::Debug for Uploader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Uploader")
    }
}

/// Adds `upload`.
pub fn register(registry: &mut Registry) {
    let mut upload = Signature::new("upload", "Upload a file to the server.")
        .required("file", ArgType::Path, "The file.")
        .arg("name", ArgType::Path, "The name to store it under.")
        .arg("accessor", ArgType::String, "An accessor to use.");
    for time in ["mtime", "atime", "ctime", "btime"] {
        upload = upload.arg(time, ArgType::Any, "A time to record.");
    }
    registry.function_async(upload, |scope, args| async move { run(&scope, &args).await });
}

async fn run(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let Some(uploader) = scope.extension::<Uploader>() else {
        return Err(Error::failed("this query cannot upload files"));
    };
    let (accessor, path) = named(scope, args, "file")?;
    let (a, p) = (accessor.clone(), path.clone());
    // Links are followed: what is uploaded is what would be read.
    let mut info = match blocking(scope, move || a.stat(&p)).await? {
        Ok(i) => i,
        Err(e) => {
            let shown = path.to_text();
            scope.log(Level::Default, format!("upload: Unable to open {shown}: {e}"));
            let error = match e.kind() {
                std::io::ErrorKind::NotFound => format!("lstat {shown}: no such file or directory"),
                _ => e.to_string(),
            };
            return Ok(UploadResult { error, ..UploadResult::default() }.row().into());
        }
    };
    if info.is_dir() {
        let text = format!("upload: {}: Directories not supported", path.to_text());
        scope.log(Level::Default, text);
        return Ok(Value::Null);
    }
    info.times = info.times.map(|t| if t == UNKNOWN { 0 } else { t });
    for (i, name) in ["mtime", "atime", "ctime", "btime"].into_iter().enumerate() {
        if let Some(t) = args.time(name)? {
            info.times[i] = i64::try_from(t.as_nanosecond()).unwrap_or(0);
        }
    }
    let store_as = match args.any("name") {
        Value::Null => path.clone(),
        // A name is no variable, and nothing is split where paths are not.
        Value::Str(name) if accessor.kind() == Kind::Raw => OsPath::raw(name.as_bytes()),
        name => match path_of(scope, &*accessor, &name) {
            // Where the text of a path is what it is inside of, a name is still a name.
            inside if inside.components.is_empty() => OsPath::linux(name.to_str().as_bytes()),
            path => path,
        },
    };
    let name = args.opt_string("accessor")?.unwrap_or_else(|| "auto".into());
    let resumable = match scope.resolve("UPLOAD_IS_RESUMABLE") {
        Some(v) => {
            let kinds = ["ntfs", "file", "ext4", "auto"];
            kinds.contains(&name.as_str()) && vql::truth(&v, scope).await
        }
        None => false,
    };
    let file = UploadFile { accessor, accessor_name: name, info, store_as, resumable };
    match uploader.0.upload(scope, file).await {
        Ok(result) => Ok(result.row().into()),
        Err(Error::Stopped) => Err(Error::Stopped),
        Err(e) => {
            scope.log(Level::Default, format!("upload: {}: {e}", path.to_text()));
            let error = UploadResult {
                path: path.to_text(),
                error: e.to_string(),
                ..UploadResult::default()
            };
            Ok(error.row().into())
        }
    }
}
