//! Configuration objects, organisations, artifact definitions and shared files.

use sha2::{Digest, Sha256};

use super::super::path::Opaque;
use super::*;

fn config<M>(org: &Org, name: &str) -> ObjectPath<M> {
    ObjectPath::new(PathSpec::verbatim(org, ObjectJson, &["config", name]))
}

/// Version of the data, drives upgrades.
pub fn server_state(org: &Org) -> ObjectPath<proto::ServerState> {
    config(org, "server_state")
}

/// When the server was installed.
pub fn install_time(org: &Org) -> ObjectPath<proto::ServerInstallRecord> {
    config(org, "install_time")
}

/// The server event table.
pub fn server_monitoring(org: &Org) -> ObjectPath<proto::ArtifactCollectorArgs> {
    config(org, "server_monitoring")
}

/// The client event table.
pub fn client_monitoring(org: &Org) -> ObjectPath<proto::ClientEventTable> {
    config(org, "client_monitoring")
}

/// Tools known to the server.
pub fn inventory(org: &Org) -> ObjectPath<proto::ThirdParty> {
    config(org, "inventory")
}

/// Flags people set on artifacts.
pub fn repository_metadata(org: &Org) -> ObjectPath<proto::ArtifactMetadataStorage> {
    config(org, "repository_metadata")
}

/// One secret.
pub fn secret(org: &Org, kind: &str, name: &str) -> ObjectPath<Opaque> {
    ObjectPath::new(PathSpec::escaped(org, ObjectJson, &["config", "secrets", kind, name]))
}

/// Secrets of one type.
pub fn secrets_dir(org: &Org, kind: &str) -> DirPath {
    DirPath::objects(PathSpec::escaped(org, ObjectDir, &["config", "secrets", kind]))
}

/// Where organisations are recorded (root tree).
pub fn orgs_dir() -> DirPath {
    DirPath::objects(PathSpec::verbatim(&Org::root(), ObjectDir, &["orgs"]))
}

/// One organisation's record (root tree).
pub fn org_record(id: &str) -> ObjectPath<proto::OrgRecord> {
    ObjectPath::new(PathSpec::verbatim(&Org::root(), ObjectJson, &["orgs", id]))
}

/// Where custom artifacts are.
pub fn artifact_definitions_dir(org: &Org) -> DirPath {
    DirPath::files(PathSpec::verbatim(org, Any, &["artifact_definitions"]))
}

/// One custom artifact: a directory per dot in its name.
pub fn artifact_definition(org: &Org, name: &str) -> FilePath {
    let parts: Vec<&str> = name.split('.').collect();
    FilePath(PathSpec::verbatim(org, Yaml, &["artifact_definitions"]).escaped_child(&parts))
}

/// Names in `public/` are unguessable: hex SHA-256 over the organisation's
/// nonce, the name (`name:version` for tools) and its id (`root` for the root).
pub fn public_name(nonce: &str, name: &str, org: &Org) -> String {
    hex::encode(Sha256::digest(format!("{nonce}{name}{org}")))
}

/// A file served without authentication, always in the root organisation.
pub fn public_file(stored_name: &str) -> FilePath {
    FilePath(PathSpec::escaped(&Org::root(), Any, &["public", stored_name]))
}

/// Where files uploaded through forms are.
pub fn form_uploads() -> DirPath {
    DirPath::files(PathSpec::verbatim(&Org::root(), Any, &["public", "temp"]))
}

/// A file uploaded through a form.
pub fn form_upload(hash: &str, file_name: &str) -> FilePath {
    FilePath(PathSpec::escaped(&Org::root(), Any, &["public", "temp", hash, file_name]))
}

/// Exports of a notebook; `stamp` is `YYYYMMDDhhmmssZ`.
pub fn notebook_download(org: &Org, id: &str, stamp: &str, html: bool) -> FilePath {
    notebook_download_named(org, id, &format!("{id}-{stamp}"), html)
}

/// An export of a notebook with a name of its own.
pub fn notebook_download_named(org: &Org, id: &str, name: &str, html: bool) -> FilePath {
    let (kind, ending) = if html { (Report, ".html") } else { (Zip, ".zip") };
    let name = name.strip_suffix(ending).unwrap_or(name);
    FilePath(PathSpec::escaped(org, kind, &["downloads", "notebooks", id, name]))
}

/// Where exports of a notebook are.
pub fn notebook_downloads(org: &Org, id: &str) -> DirPath {
    DirPath::files(PathSpec::escaped(org, Any, &["downloads", "notebooks", id]))
}

/// The progress record of an export, beside it in the object tree.
pub fn download_stats(export: &FilePath) -> ObjectPath<proto::ContainerStats> {
    ObjectPath::new(export.0.clone().typed(ObjectJson))
}

/// Removals from flow tables that are pending.
pub fn flows_journal(org: &Org) -> FilePath {
    FilePath(PathSpec::verbatim(org, Json, &["flows_journal"]))
}

/// Where daily backups are.
pub fn backups_dir() -> DirPath {
    DirPath::files(PathSpec::verbatim(&Org::root(), Any, &["backups"]))
}

/// A backup; `stamp` is RFC 3339 in which `:` becomes `_`.
pub fn backup(stamp: &str) -> FilePath {
    let name = format!("backup_{}.zip", stamp.replace(':', "_"));
    FilePath(PathSpec::verbatim(&Org::root(), Any, &["backups", &name]))
}

/// Where server event artifacts have their rows.
pub fn server_events_dir(org: &Org) -> DirPath {
    DirPath::files(PathSpec::verbatim(org, Any, &["server_artifacts"]))
}

/// Where server event artifacts have their logs.
pub fn server_event_logs_dir(org: &Org) -> DirPath {
    DirPath::files(PathSpec::verbatim(org, Any, &["server_artifact_logs"]))
}
