//! Notebooks: where they live depends on what their id says they belong to.

use super::super::path::Opaque;
use super::*;
use velociraptor_proto::proto::{NotebookCell, NotebookMetadata};

/// A notebook.
#[derive(Clone, Debug)]
pub struct Notebook {
    root: PathSpec,
    id: String,
}

/// A version of one of its cells.
#[derive(Clone, Debug)]
pub struct Cell {
    root: PathSpec,
    notebook: String,
    id: String,
}

/// Runs of dots become one, so that an id cannot leave its directory.
fn squeeze_dots(id: &str) -> String {
    let mut out = String::with_capacity(id.len());
    for c in id.chars() {
        if !(c == '.' && out.ends_with('.')) {
            out.push(c);
        }
    }
    out
}

/// `<name>-<client>`: neither flow ids nor artifact names hold a dash.
fn split_owner(text: &str) -> Option<(&str, &str)> {
    text.split_once('-').filter(|(name, client)| !name.is_empty() && !client.is_empty())
}

fn root_of(org: &Org, id: &str) -> PathSpec {
    if id.starts_with("Dashboard") {
        return PathSpec::escaped(org, ObjectJson, &["notebooks", "Dashboards"]);
    }
    if let Some(hunt) = id.strip_prefix("N.H.") {
        let hunt = format!("H.{hunt}");
        return PathSpec::verbatim(org, ObjectJson, &["hunts", &hunt, "notebook"]);
    }
    if id.starts_with("N.F.")
        && let Some((flow, client)) = split_owner(&id[2..])
    {
        let c = ["clients", client, "collections", flow, "notebook"];
        return PathSpec::escaped(org, ObjectJson, &c);
    }
    if let Some(rest) = id.strip_prefix("N.E.")
        && let Some((artifact, client)) = split_owner(rest)
    {
        let c = ["clients", client, "monitoring_notebooks", artifact];
        return PathSpec::escaped(org, ObjectJson, &c);
    }
    PathSpec::verbatim(org, ObjectJson, &["notebooks"])
}

/// Where notebooks of their own are.
pub fn notebooks_dir(org: &Org) -> DirPath {
    DirPath::objects(PathSpec::verbatim(org, ObjectDir, &["notebooks"]))
}

impl Notebook {
    /// The notebook with that id.
    pub fn new(org: &Org, id: &str) -> Notebook {
        let id = squeeze_dots(id);
        Notebook { root: root_of(org, &id), id }
    }

    fn at(&self, more: &[&str]) -> PathSpec {
        self.root.clone().child(&[&self.id]).child(more)
    }

    /// Its metadata.
    pub fn object(&self) -> ObjectPath<NotebookMetadata> {
        ObjectPath::new(self.at(&[]))
    }

    /// Its directory.
    pub fn dir(&self) -> DirPath {
        DirPath::files(self.at(&[]))
    }

    /// Where its attachments are.
    pub fn attachments(&self) -> DirPath {
        DirPath::files(self.at(&[]).escaped_child(&["attach"]))
    }

    /// One attachment.
    pub fn attachment(&self, name: &str) -> FilePath {
        FilePath(self.at(&[]).escaped_child(&["attach", name]).typed(Any))
    }

    /// A timeline made of several.
    pub fn super_timeline(&self, name: &str) -> ObjectPath<Opaque> {
        ObjectPath::new(self.at(&["timelines"]).escaped_child(&[name]))
    }

    /// One component of a super timeline.
    pub fn timeline(&self, super_timeline: &str, component: &str) -> FilePath {
        let p = self.at(&["timelines"]).escaped_child(&[super_timeline, component]);
        FilePath(p.typed(Json))
    }

    /// A cell; old cells have no version (`""`).
    pub fn cell(&self, id: &str, version: &str) -> Cell {
        let id = if version.is_empty() { id.to_owned() } else { format!("{id}-{version}") };
        Cell { root: self.root.clone(), notebook: self.id.clone(), id: squeeze_dots(&id) }
    }
}

impl Cell {
    fn at(&self, more: &[&str]) -> PathSpec {
        self.root.clone().child(&[&self.notebook, &self.id]).child(more)
    }

    /// The cell itself.
    pub fn object(&self) -> ObjectPath<NotebookCell> {
        ObjectPath::new(self.at(&[]).escaped_child(&[]))
    }

    /// Its directory.
    pub fn dir(&self) -> DirPath {
        DirPath::files(self.at(&[]))
    }

    /// Rows of its n-th query, from 1.
    pub fn query(&self, n: u32) -> FilePath {
        FilePath(self.at(&[]).escaped_child(&[&format!("query_{n}")]).typed(Json))
    }

    /// Its logs.
    pub fn logs(&self) -> FilePath {
        FilePath(self.at(&["logs"]).typed(Json))
    }

    /// Where files are that its queries uploaded.
    pub fn uploads(&self) -> DirPath {
        DirPath::files(self.at(&[]).escaped_child(&["uploads"]))
    }

    /// A file its queries uploaded.
    pub fn upload(&self, name: &str) -> FilePath {
        FilePath(self.at(&[]).escaped_child(&["uploads", name]).typed(Any))
    }
}
