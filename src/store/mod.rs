//! Journal, path specs, objects, result sets, uploads. Knows files, not flows.

pub mod client_path;
pub mod escape;
#[cfg(test)]
pub(crate) mod faulty;
pub mod journal;
pub mod mounts;
pub mod objects;
pub mod ops;
pub mod path;
pub mod path_type;
pub mod paths;
pub mod probe;
pub mod resultset;
#[cfg(test)]
mod sample_tests;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
pub mod uploads;
pub mod walk;
pub mod wary;
pub mod zip;

pub use objects::{Child, StoreError, Tree};
pub use path::{DirPath, FilePath, ObjectPath, Org, PathSpec, PathType, StoreKind, StoreRoot};
