//! Hunts. Their ids are stored as they are.

use super::*;

/// A hunt of an organisation.
#[derive(Clone, Copy, Debug)]
pub struct Hunt<'a> {
    /// Organisation.
    pub org: &'a Org,
    /// `H.` and 13 characters.
    pub id: &'a str,
}

/// Where hunts are.
pub fn hunts_dir(org: &Org) -> DirPath {
    DirPath::objects(PathSpec::verbatim(org, ObjectDir, &["hunts"]))
}

/// The table of all hunts.
pub fn hunt_index(org: &Org) -> FilePath {
    FilePath(PathSpec::verbatim(org, Json, &["hunts", "index"]))
}

impl Hunt<'_> {
    fn at(&self, kind: PathType, more: &[&str]) -> PathSpec {
        PathSpec::verbatim(self.org, kind, &["hunts", self.id]).child(more)
    }

    /// The hunt with its request summarised.
    pub fn object(&self) -> ObjectPath<proto::Hunt> {
        ObjectPath::new(self.at(ObjectJson, &[]))
    }

    /// The full request.
    pub fn request(&self) -> ObjectPath<proto::Hunt> {
        ObjectPath::new(self.at(ObjectJson, &["request"]))
    }

    /// Its directory.
    pub fn dir(&self) -> DirPath {
        DirPath::files(self.at(Any, &[]))
    }

    /// One row per client scheduled.
    pub fn clients(&self) -> FilePath {
        FilePath(self.at(Json, &[]))
    }

    /// One row per completion, good or bad.
    pub fn errors(&self) -> FilePath {
        FilePath(PathSpec::verbatim(self.org, Json, &["hunts", &format!("{}_errors", self.id)]))
    }

    /// Derived cache of the client table.
    pub fn enriched(&self) -> FilePath {
        FilePath(self.at(Json, &["enriched"]))
    }

    /// Markers of clients that ran it.
    pub fn participation_dir(&self) -> DirPath {
        DirPath::objects(PathSpec::verbatim(
            self.org,
            ObjectDir,
            &["hunt_index", &self.id.to_lowercase()],
        ))
    }

    /// The marker of one client: exists when it ran this hunt; empty.
    pub fn participation(&self, client: &str) -> ObjectPath<()> {
        ObjectPath::new(PathSpec::verbatim(
            self.org,
            ObjectProto,
            &["hunt_index", &self.id.to_lowercase(), client],
        ))
    }

    /// Where its exports are.
    pub fn downloads(&self) -> DirPath {
        DirPath::files(PathSpec::escaped(self.org, Any, &["downloads", "hunts", self.id]))
    }

    /// An exported zip.
    pub fn download(&self, base: &str, summary: bool, locked: bool) -> FilePath {
        let name = format!(
            "{base}{}{}{}",
            self.id,
            if summary { "-summary" } else { "" },
            if locked { "_locked" } else { "" }
        );
        FilePath(PathSpec::escaped(self.org, Zip, &["downloads", "hunts", self.id, &name]))
    }

    /// Its notebook.
    pub fn notebook(&self) -> Notebook {
        Notebook::new(self.org, &format!("N.{}", self.id))
    }
}
