//! Files of the datastore: the accessor `fs`, and functions that name or delete
//! them. Parts of it that are nobody's to read are refused.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use serde_json::json;
use tokio::runtime::Handle;
use vql::{ArgType, Error, Registry, Scope, Signature, Str};

use super::session::{Session, failed};
use super::store_path::StorePath;
use crate::plugins::common::accessor::{ReadSeek, sought};
use crate::plugins::common::path::Kind;
use crate::plugins::common::{Accessor, Accessors, FileInfo, OsPath, host};
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::{Org, Server};
use crate::store::path::PathSpec;
use crate::store::uploads::{Holes, Upload};
use crate::store::{DirPath, FilePath, StoreError, StoreRoot, Tree};

/// Bytes read at once.
const BLOCK: usize = 256 << 10;
/// Our own files, which hold everything that is not settled yet.
const FLEET: &str = "fleet";

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("file_store", "Names of files of the datastore on the server's host.")
        .required("path", ArgType::Any, "One of them, or a list.");
    r.function_sync(sig, |scope, args| {
        let session = Session::with(scope, Permission::ReadResults)?;
        let one = |value: &vql::Value| {
            let at = place(&session.server, &session.org, &StorePath::of(value).0)?;
            let path = session.server.tree.root.file(&at).map_err(Error::failed)?;
            Ok::<vql::Value, Error>(path.into())
        };
        match args.any("path") {
            vql::Value::List(all) if !all.iter().all(|v| v.as_str().is_some_and(plain)) => {
                Ok(all.iter().map(one).collect::<Result<Vec<_>, _>>()?.into_iter().collect())
            }
            value => one(&value),
        }
    });

    let sig = Signature::new("file_store_delete", "Deletes a file of the datastore.").required(
        "path",
        ArgType::Any,
        "The file.",
    );
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::ServerAdmin)?;
        let given = args.any("path");
        let path = StorePath::of(&given);
        let at = place(&session.server, &session.org, &path.0)?;
        let details = json!({ "vfs": path.0 });
        let (server, org) = (&session.server, &session.org);
        audit(server, org, &session.principal, "file_store_delete", details).await;
        let gone = server.tree.delete_file(&at).await;
        gone.map_err(|e| failed(e.into()))?;
        Ok(given)
    });
}

/// Whether text is one component, and so a list of such is one path.
fn plain(text: &Str) -> bool {
    !text.to_text().contains('/')
}

/// Where these components are; an error for parts that are nobody's to read.
fn place(server: &Server, org: &Org, components: &[String]) -> Result<FilePath, Error> {
    let first = components.first().map(|c| c.to_ascii_lowercase());
    let hidden = first.is_some_and(|f| f == FLEET || server.options.denied_prefixes.contains(&f));
    if hidden || components.is_empty() {
        return Err(Error::failed(format!("PermissionDenied: /{}", components.join("/"))));
    }
    Ok(FilePath(PathSpec::from_components(&org.id, components)))
}

/// The accessors of a query on the server: the host's, and `fs`.
pub fn accessors(session: &Arc<Session>, scope_host: &crate::plugins::common::Host) -> Accessors {
    let mut all = Accessors::endpoint(scope_host);
    if let Ok(runtime) = Handle::try_current() {
        let (server, org) = (session.server.clone(), session.org.clone());
        all.add("fs", Arc::new(StoreFiles { server, org, runtime }));
    }
    all
}

/// Those of a scope that is being built for `session` on this host.
pub fn of_host(session: &Arc<Session>) -> Accessors {
    accessors(session, &crate::plugins::common::Host::default())
}

/// Names of accessors on a server.
pub fn accessor_names(scope: &Scope) -> std::collections::BTreeSet<String> {
    let mut names = Accessors::endpoint(&host(scope)).names();
    names.insert("fs".into());
    names
}

/// Reads the file store. Its calls block, on threads where that is fine.
struct StoreFiles {
    server: Arc<Server>,
    org: Arc<Org>,
    runtime: Handle,
}

/// The same tree with the records where its files are, so that a record is a file.
fn records(server: &Server) -> Tree {
    let ds = &server.tree.root.ds;
    Tree::new(&server.env, StoreRoot::new(ds, ds))
}

fn io_error(e: impl std::fmt::Display) -> io::Error {
    io::Error::other(e.to_string())
}

impl StoreFiles {
    fn tree(&self, path: &OsPath) -> Tree {
        match path.kind {
            Kind::Records => records(&self.server),
            _ => self.server.tree.clone(),
        }
    }

    fn at(&self, path: &OsPath) -> io::Result<FilePath> {
        let components = StorePath::of_components(path.texts());
        place(&self.server, &self.org, &components.0).map_err(io_error)
    }

    fn open_upload(&self, path: &OsPath) -> io::Result<Upload> {
        let at = self.at(path)?;
        let tree = self.tree(path);
        let opened = self.runtime.block_on(Upload::open(&tree, &at));
        opened.map_err(io_error)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn stat_path(&self, path: &OsPath, on_disk: &str) -> io::Result<FileInfo> {
        let meta = self.runtime.block_on(self.server.env.fs.stat(on_disk))?;
        let nanos = meta.modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let mut info = FileInfo::plain(path.clone(), meta.len);
        info.times = [i64::try_from(nanos.as_nanos()).unwrap_or(0); 4];
        info.identity = (0, meta.inode);
        if meta.is_dir {
            info.mode = 0o040_555;
        }
        Ok(info)
    }

    fn dir(&self, path: &OsPath) -> io::Result<DirPath> {
        let components = StorePath::of_components(path.texts());
        if !components.0.is_empty() {
            place(&self.server, &self.org, &components.0).map_err(io_error)?;
        }
        let parts: Vec<&str> = components.0.iter().map(String::as_str).collect();
        let kind = crate::store::PathType::Any;
        Ok(DirPath::files(PathSpec::escaped(&self.org.id, kind, &parts)))
    }
}

impl Accessor for StoreFiles {
    fn parse(&self, _scope: &Scope, text: &Str) -> OsPath {
        self.read(text.as_bytes())
    }

    fn kind(&self) -> Kind {
        Kind::Store
    }

    fn read(&self, text: &[u8]) -> OsPath {
        let kind = if text.starts_with(b"ds:") { Kind::Records } else { Kind::Store };
        OsPath::of_kind(kind, text)
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let upload = self.open_upload(path)?;
        let size = upload.stored_size();
        let runtime = self.runtime.clone();
        Ok(Box::new(StoreFile { upload, runtime, size, at: 0, block: Vec::new(), from: 0 }))
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let resolve = |e: crate::store::path::PathError| io_error(e);
        let root = &self.tree(path).root;
        if let Ok(at) = self.at(path)
            && let Ok(found) = self.stat_path(path, &root.file(&at).map_err(resolve)?)
        {
            return Ok(found);
        }
        let dir = root.dir(&self.dir(path)?).map_err(resolve)?;
        self.stat_path(path, &dir)
    }

    fn read_dir(&self, path: &OsPath) -> io::Result<Vec<FileInfo>> {
        let dir = self.dir(path)?;
        let tree = self.tree(path);
        let children = self.runtime.block_on(tree.files(&dir)).map_err(io_error)?;
        let on_disk = tree.root.dir(&dir).map_err(io_error)?;
        let mut out = Vec::new();
        for child in children {
            let name = match child.is_dir {
                true => child.name.clone(),
                false => format!("{}{}", child.name, child.kind.extension()),
            };
            let below = path.join(name.as_str());
            // What may not be read is not shown either.
            let parts = StorePath::of_components(below.texts());
            if place(&self.server, &self.org, &parts.0).is_err() {
                continue;
            }
            // What vanished meanwhile is not there.
            out.extend(self.stat_path(&below, &format!("{on_disk}/{}", child.disk)).ok());
        }
        Ok(out)
    }
}

/// An open file of the file store.
struct StoreFile {
    upload: Upload,
    runtime: Handle,
    size: u64,
    at: u64,
    /// Bytes at hand, from there on.
    block: Vec<u8>,
    from: u64,
}

impl Read for StoreFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let end = self.from + self.block.len() as u64;
        if self.at < self.from || self.at >= end {
            let read = self.upload.read(Holes::Skipped, self.at, BLOCK);
            self.block = self.runtime.block_on(read).map_err(|e: StoreError| io_error(e))?;
            self.from = self.at;
        }
        let skip = usize::try_from(self.at - self.from).unwrap_or(usize::MAX);
        let rest = self.block.get(skip..).unwrap_or_default();
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for StoreFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = sought(to, self.size, self.at)?;
        Ok(self.at)
    }
}
