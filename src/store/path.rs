//! Where things are: components, a type and a store become an absolute path.
//! Pure; the typed constructors are in [`paths`](super::paths).

use std::marker::PhantomData;

use super::escape::{self, Stored};
use super::path_type::PathType::*;
pub use super::path_type::{PathType, StoreKind};

/// Why a path has no place on disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No component is left once empty ones are dropped.
    #[error("empty path")]
    Empty,
    /// A verbatim component would leave its directory.
    #[error("path leaves its directory: {0:?}")]
    Traversal(String),
}

/// The organisation every path belongs to; the root organisation lives at the
/// top level of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Org(String);

impl Org {
    /// The organisation with that id; `""` and `"root"` are the root.
    pub fn new(id: impl Into<String>) -> Org {
        let id = id.into();
        Org(if id == "root" { String::new() } else { id })
    }

    /// The root organisation.
    pub fn root() -> Org {
        Org::default()
    }

    /// Whether this is the root organisation.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The id; empty for the root.
    pub fn id(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Org {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_root() { "root" } else { &self.0 })
    }
}

/// Components, a type and an organisation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathSpec {
    /// Whose tree.
    pub org: Org,
    /// Raw (unescaped) components.
    pub components: Vec<String>,
    /// What it is.
    pub kind: PathType,
    /// Whether components are stored verbatim instead of escaped.
    pub safe: bool,
}

impl PathSpec {
    /// A path whose components are escaped.
    pub fn escaped(org: &Org, kind: PathType, components: &[&str]) -> PathSpec {
        PathSpec { org: org.clone(), components: owned(components), kind, safe: false }
    }

    /// A path whose components are stored as they are.
    pub fn verbatim(org: &Org, kind: PathType, components: &[&str]) -> PathSpec {
        PathSpec { safe: true, ..PathSpec::escaped(org, kind, components) }
    }

    /// The same with more components, escaped or not as before.
    pub fn child(mut self, more: &[&str]) -> PathSpec {
        self.components.extend(more.iter().map(|&c| c.to_owned()));
        self
    }

    /// The same with more components; the whole path is escaped from now on.
    pub fn escaped_child(self, more: &[&str]) -> PathSpec {
        PathSpec { safe: false, ..self.child(more) }
    }

    /// The same path with another type.
    pub fn typed(mut self, kind: PathType) -> PathSpec {
        self.kind = kind;
        self
    }

    /// The path below the root of its tree, without leading slash.
    pub fn relative(&self) -> Result<String, PathError> {
        let mut out = String::new();
        if !self.org.is_root() {
            out.push_str("orgs/");
            out.push_str(self.org.id());
        }
        let mut any = false;
        for c in self.components.iter().filter(|c| !c.is_empty()) {
            any = true;
            if !out.is_empty() {
                out.push('/');
            }
            if self.safe {
                out.push_str(c);
            } else {
                match escape::stored(c.as_bytes()) {
                    Stored::Name(n) => out.push_str(&n),
                    Stored::Hash(h) => {
                        out.push('#');
                        out.push_str(&h);
                    }
                }
            }
        }
        if !any && self.kind.extension() != "" {
            return Err(PathError::Empty);
        }
        out.push_str(self.kind.extension());
        if out.contains('\0') || out.split('/').any(|s| s == ".." || s == ".") {
            return Err(PathError::Traversal(out));
        }
        Ok(out)
    }

    /// Raw components that are stored under a hash and need a record.
    pub fn long_names(&self) -> impl Iterator<Item = &str> {
        let escaped = !self.safe;
        self.components
            .iter()
            .map(String::as_str)
            .filter(move |c| escaped && matches!(escape::stored(c.as_bytes()), Stored::Hash(_)))
    }

    /// Reads a component list of unknown type, as the API and VQL name files:
    /// the extension tells the type, except in untyped areas.
    pub fn from_components(org: &Org, components: &[String]) -> PathSpec {
        let mut p =
            PathSpec { org: org.clone(), components: components.to_vec(), kind: Any, safe: false };
        if !is_untyped(components)
            && let Some(last) = p.components.last_mut()
        {
            let (stem, kind) = PathType::of_file_name(last);
            (*last, p.kind) = (stem.to_owned(), kind);
        }
        p
    }

    /// Components with the extension back on the last one.
    pub fn named_components(&self) -> Vec<String> {
        let mut c = self.components.clone();
        if let Some(last) = c.last_mut() {
            last.push_str(self.kind.extension());
        }
        c
    }
}

fn owned(components: &[&str]) -> Vec<String> {
    components.iter().map(|&c| c.to_owned()).collect()
}

/// Areas whose files are never typed; `""` matches any component.
const UNTYPED: [&[&str]; 11] = [
    &["public"],
    &["backups"],
    &["temp"],
    &["clients", "", "collections", "", "uploads"],
    &["notebooks", "", "attach"],
    &["notebooks", "", "", "uploads"],
    &["clients", "", "collections", "", "notebook", "", "attach"],
    &["clients", "", "collections", "", "notebook", "", "", "uploads"],
    &["clients", "", "monitoring_notebooks", "", "attach"],
    &["clients", "", "monitoring_notebooks", "", "", "uploads"],
    &["hunts", "", "notebook", "", "attach"],
];
const UNTYPED_CELL: &[&str] = &["hunts", "", "notebook", "", "", "uploads"];

/// Whether names below these components keep their extension.
pub fn is_untyped(components: &[String]) -> bool {
    UNTYPED.iter().chain([&UNTYPED_CELL]).any(|area| {
        components.len() >= area.len()
            && area.iter().zip(components).all(|(a, c)| a.is_empty() || a == c)
    })
}

/// A file of the file store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(pub PathSpec);

impl FilePath {
    /// The same name with another type; this replaces the extension.
    pub fn typed(&self, kind: PathType) -> FilePath {
        FilePath(self.0.clone().typed(kind))
    }

    /// The row index of a result set.
    pub fn index(&self) -> FilePath {
        self.typed(JsonIndex)
    }

    /// The time index of a timed result set.
    pub fn time_index(&self) -> FilePath {
        self.typed(JsonTimeIndex)
    }

    /// The chunk index of a compressed file.
    pub fn chunk(&self) -> FilePath {
        self.typed(ChunkIndex)
    }

    /// The sparse map of an upload.
    pub fn sparse_index(&self) -> FilePath {
        self.typed(SparseIndex)
    }
}

/// An object of the object store holding a message `M`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectPath<M> {
    /// Where.
    pub path: PathSpec,
    message: PhantomData<fn() -> M>,
}

impl<M> Clone for ObjectPath<M> {
    fn clone(&self) -> Self {
        ObjectPath::new(self.path.clone())
    }
}

impl<M> ObjectPath<M> {
    /// Says that the object at `path` is an `M`.
    pub fn new(path: PathSpec) -> ObjectPath<M> {
        ObjectPath { path, message: PhantomData }
    }
}

/// An object whose message is not modelled: only raw access.
#[derive(Clone, Copy, Debug)]
pub struct Opaque;

/// A directory of either tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirPath(pub PathSpec);

impl DirPath {
    /// A directory of the object tree.
    pub fn objects(path: PathSpec) -> DirPath {
        DirPath(path.typed(ObjectDir))
    }

    /// A directory of the file tree.
    pub fn files(path: PathSpec) -> DirPath {
        DirPath(path.typed(Any))
    }
}

/// The two directories of a datastore, absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRoot {
    /// `Datastore.location`, without trailing slash.
    pub ds: String,
    /// `Datastore.filestore_directory`, without trailing slash.
    pub fs: String,
}

impl StoreRoot {
    /// Both trees in one directory, as nearly everywhere.
    pub fn single(dir: &str) -> StoreRoot {
        StoreRoot::new(dir, dir)
    }

    /// Trailing slashes are dropped.
    pub fn new(ds: &str, fs: &str) -> StoreRoot {
        let trim = |s: &str| s.trim_end_matches('/').to_owned();
        StoreRoot { ds: trim(ds), fs: trim(fs) }
    }

    /// The directory of a tree.
    pub fn base(&self, store: StoreKind) -> &str {
        match store {
            StoreKind::Objects => &self.ds,
            StoreKind::Files => &self.fs,
        }
    }

    /// The absolute path of a spec.
    pub fn resolve(&self, p: &PathSpec) -> Result<String, PathError> {
        let relative = p.relative()?;
        let base = self.base(p.kind.store());
        Ok(if relative.is_empty() { base.to_owned() } else { format!("{base}/{relative}") })
    }

    /// The absolute path of a file.
    pub fn file(&self, p: &FilePath) -> Result<String, PathError> {
        self.resolve(&p.0)
    }

    /// The absolute path of an object.
    pub fn object<M>(&self, p: &ObjectPath<M>) -> Result<String, PathError> {
        self.resolve(&p.path)
    }

    /// The absolute path of a directory.
    pub fn dir(&self, p: &DirPath) -> Result<String, PathError> {
        self.resolve(&p.0)
    }

    /// A scratch name on the same mount as the tree; `unique` must be fresh.
    pub fn temp(&self, store: StoreKind, unique: &str) -> String {
        format!("{}/temp/{unique}", self.base(store))
    }
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
