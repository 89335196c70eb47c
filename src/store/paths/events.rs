//! Event rows and logs, one file per day (and node).

use super::*;

/// Rows or the query's logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// What the query returned.
    Rows,
    /// What it logged.
    Logs,
}

/// The event rows or logs of one artifact source.
#[derive(Clone, Copy, Debug)]
pub struct Events<'a> {
    /// Organisation.
    pub org: &'a Org,
    /// The client, or `None` for server events.
    pub client: Option<&'a str>,
    /// Artifact name.
    pub artifact: &'a str,
    /// Source name, when the source is named.
    pub source: Option<&'a str>,
    /// Rows or logs.
    pub kind: EventKind,
}

impl<'a> Events<'a> {
    /// A client's event rows by `Artifact/Source` name.
    pub fn client(org: &'a Org, client: &'a str, full: &'a str, kind: EventKind) -> Events<'a> {
        let (artifact, source) = split_artifact(full);
        Events { org, client: Some(client), artifact, source, kind }
    }

    /// A server event artifact's rows by `Artifact/Source` name.
    pub fn server(org: &'a Org, full: &'a str, kind: EventKind) -> Events<'a> {
        let (artifact, source) = split_artifact(full);
        Events { org, client: None, artifact, source, kind }
    }

    fn at(&self, kind: PathType) -> PathSpec {
        // An event without a client is stored under "nobody", as stock does.
        let base = match (self.client, self.kind) {
            (Some(""), _) => PathSpec::escaped(self.org, kind, &["clients", "nobody"]),
            (Some(c), EventKind::Rows) => {
                PathSpec::escaped(self.org, kind, &["clients", c, "monitoring"])
            }
            (Some(c), EventKind::Logs) => {
                PathSpec::escaped(self.org, kind, &["clients", c, "monitoring_logs"])
            }
            (None, EventKind::Rows) => PathSpec::verbatim(self.org, kind, &["server_artifacts"]),
            (None, EventKind::Logs) => {
                PathSpec::verbatim(self.org, kind, &["server_artifact_logs"])
            }
        };
        base.child(&[self.artifact]).child(self.source.as_slice())
    }

    /// Where the day files are.
    pub fn dir(&self) -> DirPath {
        DirPath::files(self.at(Any))
    }

    /// The plain file of a day (`YYYY-MM-DD`), for a one-node deployment.
    pub fn day(&self, day: &str) -> FilePath {
        FilePath(self.at(Json).child(&[day]))
    }

    /// The file of a day written by one process of one node; neither part may
    /// hold a date.
    pub fn day_of(&self, day: &str, node: &str, epoch: &str) -> FilePath {
        self.day(&format!("{day}.{node}.{epoch}"))
    }
}
