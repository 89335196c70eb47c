//! One flow's context, logs, uploads and results.

use super::*;

/// A flow of a client (`server` for server artifacts).
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    /// The client's organisation.
    pub org: &'a Org,
    /// The client's id.
    pub client: &'a str,
    /// The flow's id.
    pub id: &'a str,
}

/// Splits `Artifact/Source`; anything but exactly one slash has no source.
pub fn split_artifact(full: &str) -> (&str, Option<&str>) {
    match full.split_once('/') {
        Some((a, s)) if !s.contains('/') && !s.is_empty() => (a, Some(s)),
        _ => (full.strip_suffix('/').unwrap_or(full), None),
    }
}

impl Flow<'_> {
    fn at(&self, kind: PathType, more: &[&str]) -> PathSpec {
        PathSpec::escaped(self.org, kind, &["clients", self.client, "collections", self.id])
            .child(more)
    }

    /// Everything that belongs to this flow alone.
    pub fn dir(&self) -> DirPath {
        DirPath::files(self.at(Any, &[]))
    }

    /// The flow's context.
    pub fn context(&self) -> ObjectPath<proto::ArtifactCollectorContext> {
        ObjectPath::new(self.at(ObjectJson, &[]))
    }

    /// The full request and earlier runs.
    pub fn requests(&self) -> ObjectPath<proto::ArtifactCollectorContext> {
        ObjectPath::new(self.at(ObjectJson, &["requests"]))
    }

    /// The client's progress.
    pub fn stats(&self) -> ObjectPath<proto::ArtifactCollectorContext> {
        ObjectPath::new(self.at(ObjectJson, &["stats"]))
    }

    /// The messages sent to the client.
    pub fn task(&self) -> ObjectPath<proto::ApiFlowRequestDetails> {
        ObjectPath::new(self.at(ObjectProto, &["task"]))
    }

    /// Last activity, only from clients before 0.6.8.
    pub fn ping(&self) -> ObjectPath<proto::PingContext> {
        ObjectPath::new(self.at(ObjectJson, &["ping"]))
    }

    /// Query logs.
    pub fn logs(&self) -> FilePath {
        FilePath(self.at(Json, &["logs"]))
    }

    /// Query logs as CSV, from ancient servers.
    pub fn legacy_logs(&self) -> FilePath {
        FilePath(self.at(Any, &["logs"]))
    }

    /// The table of uploads.
    pub fn uploads(&self) -> FilePath {
        FilePath(self.at(Json, &["uploads"]))
    }

    /// Resumable uploads.
    pub fn upload_transactions(&self) -> FilePath {
        FilePath(self.at(Json, &["upload_transactions"]))
    }

    /// Where uploaded files are.
    pub fn uploads_dir(&self) -> DirPath {
        DirPath::files(self.at(Any, &["uploads"]))
    }

    /// One uploaded file. An empty accessor is `file`.
    pub fn upload(&self, accessor: &str, components: &[String]) -> FilePath {
        let accessor = if accessor.is_empty() { "file" } else { accessor };
        let mut p = self.at(Any, &["uploads", accessor]);
        p.components.extend_from_slice(components);
        FilePath(p)
    }

    /// Rows of one query; `source` is absent for artifacts with an unnamed one.
    pub fn results(&self, artifact: &str, source: Option<&str>) -> FilePath {
        let p = PathSpec::escaped(
            self.org,
            Json,
            &["clients", self.client, "artifacts", artifact, self.id],
        );
        FilePath(p.child(source.as_slice()))
    }

    /// Rows of one query by its `Artifact/Source` name.
    pub fn results_of(&self, full_name: &str) -> FilePath {
        let (artifact, source) = split_artifact(full_name);
        self.results(artifact, source)
    }

    /// The flow's notebook.
    pub fn notebook(&self) -> Notebook {
        Notebook::new(self.org, &format!("N.{}-{}", self.id, self.client))
    }

    /// Where exports of this flow are.
    pub fn downloads(&self) -> DirPath {
        DirPath::files(PathSpec::escaped(self.org, Any, &["downloads", self.client, self.id]))
    }

    /// The exported zip. `host` may be empty.
    pub fn download(&self, host: &str, locked: bool) -> FilePath {
        let lock = if locked { "_locked" } else { "" };
        self.export(Zip, &format!("{}{}-{}{lock}", dashed(host), self.client, self.id))
    }

    /// An exported zip of this name; an extension in it is not doubled.
    pub fn download_named(&self, name: &str) -> FilePath {
        self.export(Zip, name.strip_suffix(".zip").unwrap_or(name))
    }

    /// The exported report.
    pub fn report(&self, host: &str) -> FilePath {
        self.export(Report, &format!("Report {}{}-{}", dashed(host), self.client, self.id))
    }

    fn export(&self, kind: PathType, name: &str) -> FilePath {
        FilePath(PathSpec::escaped(self.org, kind, &["downloads", self.client, self.id, name]))
    }
}

fn dashed(host: &str) -> String {
    if host.is_empty() { String::new() } else { format!("{host}-") }
}
