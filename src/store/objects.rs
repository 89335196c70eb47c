//! Small objects, one message a file: get, set, delete, list.
//!
//! A write is a whole new file renamed over the old one, so that readers see
//! either. What the object means, and who may change it, is not known here.

use std::io;
use std::sync::Arc;

use prost::{Message, Name};
use velociraptor_proto::{json, proto};

use super::escape;
use super::journal::{Space, is_full};
use super::path::PathType;
use super::path::{DirPath, FilePath, ObjectPath, Org, PathError, PathSpec, StoreKind, StoreRoot};
use super::paths;
use crate::env::fs::{create_synced, parent, replace};
use crate::env::{Entropy, Env, FileSystem, Mutant, Open, Sabotage};

/// Largest object read, in bytes.
pub const MAX_READ: usize = 50 << 20;
/// Largest object written unless configured (`max_object_size`), in bytes.
pub const MAX_WRITE: usize = 4 << 20;

/// What can go wrong with a stored file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused; a timed-out write may still have happened.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The path cannot exist.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The file is there but is not what it should be.
    #[error("{path}: {reason}")]
    Corrupt {
        /// Absolute path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The object exceeds the configured size.
    #[error("{path}: {size} bytes exceed the limit of {limit}")]
    TooLarge {
        /// Absolute path.
        path: String,
        /// Bytes to be written.
        size: usize,
        /// The limit.
        limit: usize,
    },
}

impl StoreError {
    /// Whether the file was replaced while it was read: worth reading again.
    pub fn is_stale(&self) -> bool {
        matches!(self, StoreError::Io(e) if is_stale(e))
    }

    pub(crate) fn corrupt(path: &str, reason: impl std::fmt::Display) -> StoreError {
        StoreError::Corrupt { path: path.to_owned(), reason: reason.to_string() }
    }
}

/// The datastore as this process sees it. Cheap to clone.
#[derive(Clone)]
pub struct Tree {
    /// File operations.
    pub fs: Arc<dyn FileSystem>,
    /// Where scratch names come from.
    pub entropy: Arc<dyn Entropy>,
    /// Where the two trees are.
    pub root: StoreRoot,
    /// Largest object written, in bytes.
    pub max_object: usize,
    /// Given up when an object has no room: for what people decide.
    reserve: Option<Arc<Space>>,
    sabotage: Sabotage,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("root", &self.root).finish_non_exhaustive()
    }
}

/// One name found by a listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Child {
    /// The component, decoded, without extension.
    pub name: String,
    /// What its extension says; directories have the directory type.
    pub kind: PathType,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The name on disk.
    pub disk: String,
}

/// Whether the file was replaced under us: worth opening once more.
pub(crate) fn is_stale(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::StaleNetworkFileHandle
}

/// Makes the name of a stale file mean what the server has there now. An NFS 4
/// client that believes a name opens the file it knew by it, which may be stale
/// again and again as long as anybody on this host has the old file open
/// (measured); asking about the name makes it look.
async fn ask_again(fs: &dyn FileSystem, path: &str) {
    // Only its effect on the client's cache is wanted; what follows tells of errors.
    let _ = fs.stat(path).await;
}

/// Reads a whole file; `None` when there is none. A file replaced between open
/// and read is opened once more.
pub async fn read_whole(
    fs: &dyn FileSystem,
    path: &str,
    limit: usize,
) -> io::Result<Option<Vec<u8>>> {
    let once = || crate::env::fs::read_limited(fs, path, limit);
    let first = match once().await {
        Err(e) if is_stale(&e) => {
            ask_again(fs, path).await;
            once().await
        }
        r => r,
    };
    match first {
        Ok(data) => Ok(Some(data)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Decodes an object: JSON when the first byte is `{`, binary otherwise.
pub fn decode_object<M: Message + Name + Default>(data: &[u8]) -> Result<M, String> {
    match data.first() {
        Some(b'{') => json::from_json(data).map_err(|e| e.to_string()),
        _ => M::decode(data).map_err(|e| e.to_string()),
    }
}

/// Encodes an object the way its path type wants it.
pub fn encode_object<M: Message + Name>(kind: PathType, m: &M) -> Result<Vec<u8>, String> {
    match kind {
        PathType::ObjectJson => {
            json::to_object(m).map(String::into_bytes).map_err(|e| e.to_string())
        }
        _ => Ok(m.encode_to_vec()),
    }
}

impl Tree {
    /// The datastore at `root`, reached through `env`.
    pub fn new(env: &Env, root: StoreRoot) -> Tree {
        Tree {
            fs: env.fs.clone(),
            entropy: env.entropy.clone(),
            root,
            max_object: MAX_WRITE,
            reserve: None,
            sabotage: env.sabotage,
        }
    }

    /// The same tree for objects that people decide about: on a full store they get
    /// the room that was kept for decisions.
    pub fn for_decisions(&self, space: Arc<Space>) -> Tree {
        Tree { reserve: Some(space), ..self.clone() }
    }

    /// Does `work`, once more if there was no room and the reserve makes some.
    async fn with_room<F>(&self, work: impl Fn() -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        match (work().await, &self.reserve) {
            (Err(StoreError::Io(e)), Some(space)) if is_full(&e) && space.met_full().await => {
                work().await
            }
            (done, _) => done,
        }
    }

    /// A fresh scratch name on the mount of a tree; listed by nobody.
    pub fn temp(&self, store: StoreKind) -> String {
        let unique = format!("{:016x}{:016x}", self.entropy.next_u64(), self.entropy.next_u64());
        self.root.temp(store, &unique)
    }

    /// The bytes of an object. `None` when it does not exist; an empty JSON
    /// object file is the remains of a torn write and counts as absent, an
    /// empty binary one is an empty message. `.json.db` falls back to `.db`.
    pub async fn get_raw<M>(&self, at: &ObjectPath<M>) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.root.object(at)?;
        match read_whole(&*self.fs, &path, MAX_READ).await? {
            Some(data) if data.is_empty() && at.path.kind == PathType::ObjectJson => {
                tracing::warn!(path, "empty object taken as absent");
                Ok(None)
            }
            Some(data) => Ok(Some(data)),
            None if at.path.kind == PathType::ObjectJson => {
                let old = self.root.resolve(&at.path.clone().typed(PathType::ObjectProto))?;
                Ok(read_whole(&*self.fs, &old, MAX_READ).await?)
            }
            None => Ok(None),
        }
    }

    /// The message of an object, under the rules of [`Tree::get_raw`].
    pub async fn get<M>(&self, at: &ObjectPath<M>) -> Result<Option<M>, StoreError>
    where
        M: Message + Name + Default,
    {
        let Some(data) = self.get_raw(at).await? else { return Ok(None) };
        match decode_object(&data) {
            Ok(m) => Ok(Some(m)),
            Err(e) => Err(StoreError::corrupt(&self.root.object(at)?, e)),
        }
    }

    /// Replaces an object; durable when this returns.
    pub async fn set<M: Message + Name>(
        &self,
        at: &ObjectPath<M>,
        message: &M,
    ) -> Result<(), StoreError> {
        let data = encode_object(at.path.kind, message)
            .map_err(|e| StoreError::corrupt(&self.root.object(at).unwrap_or_default(), e))?;
        self.set_raw(at, &data).await
    }

    /// Replaces an object by bytes that are already encoded.
    pub async fn set_raw<M>(&self, at: &ObjectPath<M>, data: &[u8]) -> Result<(), StoreError> {
        let path = self.root.object(at)?;
        if data.len() > self.max_object {
            return Err(StoreError::TooLarge { path, size: data.len(), limit: self.max_object });
        }
        self.with_room(|| async {
            self.record_long_names(&at.path).await?;
            self.replace(StoreKind::Objects, &path, data).await
        })
        .await
    }

    /// Creates an object that must not exist yet; `false` when it does. Exactly
    /// one of several creators succeeds, and nobody sees it half written.
    pub async fn create<M: Message + Name>(
        &self,
        at: &ObjectPath<M>,
        message: &M,
    ) -> Result<bool, StoreError> {
        let path = self.root.object(at)?;
        let data =
            encode_object(at.path.kind, message).map_err(|e| StoreError::corrupt(&path, e))?;
        self.record_long_names(&at.path).await?;
        self.link_new(StoreKind::Objects, &path, &data).await
    }

    /// Deletes an object, in both encodings; a missing one is success.
    pub async fn delete<M>(&self, at: &ObjectPath<M>) -> Result<(), StoreError> {
        self.remove(&self.root.object(at)?).await?;
        if at.path.kind == PathType::ObjectJson {
            let old = at.path.clone().typed(PathType::ObjectProto);
            self.remove(&self.root.resolve(&old)?).await?;
        }
        Ok(())
    }

    /// Replaces a small file of the file tree; durable when this returns.
    pub async fn set_file(&self, at: &FilePath, data: &[u8]) -> Result<(), StoreError> {
        let path = self.root.file(at)?;
        self.with_room(|| async {
            self.record_long_names(&at.0).await?;
            self.replace(StoreKind::Files, &path, data).await
        })
        .await
    }

    /// Reads a small file of the file tree.
    pub async fn get_file(
        &self,
        at: &FilePath,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(read_whole(&*self.fs, &self.root.file(at)?, limit).await?)
    }

    /// Deletes a file; a missing one is success.
    pub async fn delete_file(&self, at: &FilePath) -> Result<(), StoreError> {
        self.remove(&self.root.file(at)?).await
    }

    async fn remove(&self, path: &str) -> Result<(), StoreError> {
        match self.fs.remove(path).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    async fn replace(&self, store: StoreKind, path: &str, data: &[u8]) -> Result<(), StoreError> {
        if self.sabotage.is(Mutant::WriteInPlace) {
            let _ = self.fs.remove(path).await;
            return Ok(create_synced(&*self.fs, path, data).await?);
        }
        let tmp = self.temp(store);
        let done = replace(&*self.fs, &tmp, path, data).await;
        if done.is_err() {
            let _ = self.fs.remove(&tmp).await;
        }
        Ok(done?)
    }

    async fn link_new(
        &self,
        store: StoreKind,
        path: &str,
        data: &[u8],
    ) -> Result<bool, StoreError> {
        let tmp = self.temp(store);
        create_synced(&*self.fs, &tmp, data).await?;
        let linked = self.fs.link(&tmp, path).await;
        // The reply to a link can be lost and the retry refused: one file?
        let mine = match linked {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let (a, b) = (self.fs.stat(&tmp).await?, self.fs.stat(path).await?);
                a.inode == b.inode
            }
            Err(e) => {
                let _ = self.fs.remove(&tmp).await;
                return Err(e.into());
            }
        };
        if mine {
            self.fs.sync_dir(parent(path)).await?;
        }
        let _ = self.fs.remove(&tmp).await;
        Ok(mine)
    }

    /// Writes the records that give hashed long names of `path` back. Writers
    /// of a path call it before they create the file.
    pub async fn record_long_names(&self, path: &PathSpec) -> Result<(), StoreError> {
        for raw in path.long_names() {
            let at = paths::long_name(&path.org, &escape::long_hash(raw.as_bytes()));
            let record =
                proto::DsPathSpec { components: vec![raw.to_owned()], ..Default::default() };
            let file = self.root.object(&at)?;
            let data =
                encode_object(at.path.kind, &record).map_err(|e| StoreError::corrupt(&file, e))?;
            // The content is a function of the name: whoever is first is right.
            self.link_new(StoreKind::Objects, &file, &data).await?;
        }
        Ok(())
    }

    /// Objects and directories below `dir`, by name. An object stored in both
    /// encodings appears once, as JSON.
    pub async fn children(&self, dir: &DirPath) -> Result<Vec<Child>, StoreError> {
        let mut out: Vec<Child> = Vec::new();
        for e in self.fs.list(&self.root.dir(dir)?).await? {
            let (stem, kind) = if e.is_dir {
                (e.name.as_str(), PathType::ObjectDir)
            } else {
                PathType::of_object_name(&e.name)
            };
            if kind == PathType::ObjectUnknown {
                continue;
            }
            let name = self.component(&dir.0.org, stem).await?;
            out.push(Child { name, kind, is_dir: e.is_dir, disk: e.name });
        }
        out.sort();
        out.dedup_by(|b, a| a.name == b.name && a.is_dir == b.is_dir);
        Ok(out)
    }

    /// Files and directories below `dir`, by name; objects are hidden. In an
    /// untyped area the extension stays part of the name.
    pub async fn files(&self, dir: &DirPath) -> Result<Vec<Child>, StoreError> {
        let untyped = super::path::is_untyped(&dir.0.components);
        let mut out = Vec::new();
        for e in self.fs.list(&self.root.dir(dir)?).await? {
            if !e.is_dir && e.name.ends_with(".db") {
                continue;
            }
            let (stem, kind) = if e.is_dir || untyped {
                (e.name.as_str(), PathType::Any)
            } else {
                PathType::of_file_name(&e.name)
            };
            let name = self.component(&dir.0.org, stem).await?;
            out.push(Child { name, kind, is_dir: e.is_dir, disk: e.name });
        }
        out.sort();
        Ok(out)
    }

    /// The component a stem on disk stands for; a hash without a record is
    /// shown as it is.
    async fn component(&self, org: &Org, stem: &str) -> Result<String, StoreError> {
        let Some(hash) = stem.strip_prefix('#') else { return Ok(escape::decode_text(stem)) };
        if hash.len() != 40 || !hash.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Ok(stem.to_owned());
        }
        let record = self.get(&paths::long_name(org, hash)).await.unwrap_or_else(|e| {
            tracing::warn!(%e, "long name record not readable");
            None
        });
        Ok(record.and_then(|r| r.components.into_iter().next()).unwrap_or_else(|| stem.to_owned()))
    }

    /// Whether a name exists now. Never ask before it may exist: a file system
    /// can remember the absence for seconds.
    pub async fn exists(&self, path: &PathSpec) -> Result<bool, StoreError> {
        match self.fs.stat(&self.root.resolve(path)?).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Opens a file for reading; `None` when there is none. Its length is asked
    /// for, since a file that was replaced can be opened and be stale.
    pub(crate) async fn open_read(
        &self,
        path: &str,
    ) -> Result<Option<Box<dyn crate::env::File>>, StoreError> {
        let once = || async {
            let f = self.fs.open(path, Open::Read).await?;
            f.size().await?;
            Ok(f)
        };
        let first = match once().await {
            Err(e) if is_stale(&e) => {
                ask_again(&*self.fs, path).await;
                once().await
            }
            r => r,
        };
        match first {
            Ok(f) => Ok(Some(f)),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                Ok(None)
            }
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
