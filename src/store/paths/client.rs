//! One client's own files.

use super::*;

/// A client of an organisation (its id as on disk: with `-<OrgId>` in
/// sub-organisations).
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its organisation.
    pub org: &'a Org,
    /// Its id, or `server`.
    pub id: &'a str,
}

/// The client database: one row per client.
pub fn client_snapshot(org: &Org) -> FilePath {
    FilePath(PathSpec::escaped(org, Json, &["client_info", "snapshot"]))
}

/// Where every client has a directory.
pub fn clients_dir(org: &Org) -> DirPath {
    DirPath::objects(PathSpec::escaped(org, ObjectDir, &["clients"]))
}

/// The record of servers from before the snapshot; read, never written.
pub fn legacy_client(org: &Org, id: &str) -> ObjectPath<proto::ClientInfo> {
    ObjectPath::new(PathSpec::escaped(org, ObjectProto, &["clients", id]))
}

impl Client<'_> {
    fn at(&self, kind: PathType, more: &[&str]) -> PathSpec {
        PathSpec::escaped(self.org, kind, &["clients", self.id]).child(more)
    }

    /// Its directory.
    pub fn dir(&self) -> DirPath {
        DirPath::objects(self.at(ObjectDir, &[]))
    }

    /// Its public key, written at enrolment.
    pub fn key(&self) -> ObjectPath<proto::PublicKey> {
        ObjectPath::new(self.at(ObjectProto, &["key"]))
    }

    /// Last contact, from old servers.
    pub fn ping(&self) -> ObjectPath<proto::ClientInfo> {
        ObjectPath::new(self.at(ObjectJson, &["ping"]))
    }

    /// Labels, from old servers.
    pub fn labels(&self) -> ObjectPath<proto::ClientLabels> {
        ObjectPath::new(self.at(ObjectJson, &["labels"]))
    }

    /// Metadata set by people.
    pub fn metadata(&self) -> ObjectPath<proto::ClientMetadata> {
        ObjectPath::new(self.at(ObjectJson, &["metadata"]))
    }

    /// The queue.
    pub fn tasks(&self) -> DirPath {
        DirPath::objects(self.at(ObjectDir, &["tasks"]))
    }

    /// One queued message.
    pub fn task(&self, id: u64) -> ObjectPath<proto::VeloMessage> {
        ObjectPath::new(self.at(ObjectProto, &["tasks", &id.to_string()]))
    }

    /// The table of its flows.
    pub fn flow_index(&self) -> FilePath {
        FilePath(self.at(Json, &["flow_index"]))
    }

    /// Where its flows are.
    pub fn collections(&self) -> DirPath {
        DirPath::objects(self.at(ObjectDir, &["collections"]))
    }

    /// Where its collected results are, one directory per artifact.
    pub fn artifacts(&self) -> DirPath {
        DirPath::files(self.at(Any, &["artifacts"]))
    }

    /// Results of all flows of one artifact.
    pub fn artifact_dir(&self, artifact: &str) -> DirPath {
        DirPath::files(self.at(Any, &["artifacts", artifact]))
    }

    /// Where exports of its flows are.
    pub fn downloads(&self) -> DirPath {
        DirPath::files(PathSpec::escaped(self.org, Any, &["downloads", self.id]))
    }

    /// Where its event rows are, one directory per artifact.
    pub fn monitoring(&self) -> DirPath {
        DirPath::files(self.at(Any, &["monitoring"]))
    }

    /// Where the logs of its event queries are.
    pub fn monitoring_logs(&self) -> DirPath {
        DirPath::files(self.at(Any, &["monitoring_logs"]))
    }

    /// The listing of one directory of its file system; components start with
    /// the accessor.
    pub fn vfs(&self, components: &[String]) -> ObjectPath<proto::VfsListResponse> {
        ObjectPath::new(self.below(ObjectJson, "vfs", components))
    }

    /// What was downloaded from one directory.
    pub fn vfs_files(&self, directory: &[String]) -> FilePath {
        FilePath(self.below(Json, "vfs_files", directory))
    }

    /// What was downloaded as one file (older style).
    pub fn vfs_file(&self, file: &[String]) -> ObjectPath<proto::VfsDownloadInfo> {
        ObjectPath::new(self.below(ObjectJson, "vfs_files", file))
    }

    fn below(&self, kind: PathType, area: &str, components: &[String]) -> PathSpec {
        let mut p = self.at(kind, &[area]);
        p.components.extend_from_slice(components);
        p
    }

    /// One of its flows.
    pub fn flow<'b>(&'b self, id: &'b str) -> Flow<'b> {
        Flow { org: self.org, client: self.id, id }
    }
}
