//! A typed constructor for every path of the datastore, grouped by what owns
//! it. Pure; the escaping rules per root are stated here and nowhere else.

use super::path::PathType::*;
use super::path::{DirPath, FilePath, ObjectPath, Org, PathSpec, PathType};
use velociraptor_proto::proto;

mod client;
mod events;
mod flow;
mod hunt;
mod notebook;
mod server;
mod user;

pub use client::{Client, client_snapshot, clients_dir, legacy_client};
pub use events::{EventKind, Events};
pub use flow::{Flow, split_artifact};
pub use hunt::{Hunt, hunt_index, hunts_dir};
pub use notebook::{Cell, Notebook, notebooks_dir};
pub use server::*;
pub use user::{User, acl_dir, users_dir};

/// Artifacts whose results belong to the server use this client id.
pub const SERVER_CLIENT: &str = "server";

/// The record that gives a hashed long name back (`hash` is 40 hex digits).
pub fn long_name(org: &Org, hash: &str) -> ObjectPath<proto::DsPathSpec> {
    let part = |a: usize, b: usize| hash.get(a..b.min(hash.len())).unwrap_or_default();
    ObjectPath::new(PathSpec::verbatim(
        org,
        ObjectJson,
        &["lfn_hashes", part(0, 3), part(3, 12), part(12, 40)],
    ))
}

#[cfg(test)]
mod tests;
