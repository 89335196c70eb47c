//! Files beside a notebook: what people attach to it, and what the queries of its
//! cells left. Who may open the notebook may fetch them.

use serde_json::json;
use velociraptor_proto::proto::{
    AvailableDownloadFile, AvailableDownloads, ContainerStats, NotebookMetadata,
};

use super::{At, Notebooks, is_cell};
use crate::services::audit::audit;
use crate::services::ids::new_attachment_id;
use crate::services::server::ServiceError;
use crate::store::{DirPath, FilePath, StoreError};

/// Files of a notebook, and those that are listed.
const MAX_FILES: usize = 1000;
/// Folders inside of a cell's files that are followed.
const MAX_DEPTH: usize = 8;
/// Longest name, bytes.
const MAX_NAME: usize = 250;

/// A file of a notebook.
struct Beside {
    at: FilePath,
    /// Below the folder it was found in.
    name: String,
    bytes: u64,
    date: String,
}

impl At<'_> {
    /// What people attached, then what the current versions of its cells left.
    pub async fn files(&self, n: &NotebookMetadata) -> Result<AvailableDownloads, ServiceError> {
        let file = |f: Beside| {
            let components = f.at.0.named_components();
            let ending = f.name.rsplit_once('.').map_or("", |(_, e)| e).to_owned();
            let stats =
                ContainerStats { components, vfs_path: f.name.clone(), ..Default::default() };
            AvailableDownloadFile {
                name: f.name,
                complete: true,
                size: f.bytes,
                date: f.date,
                r#type: ending,
                stats: Some(stats),
                ..Default::default()
            }
        };
        let found = self.beside(n).await?;
        Ok(AvailableDownloads { files: found.into_iter().map(file).collect() })
    }

    async fn beside(&self, n: &NotebookMetadata) -> Result<Vec<Beside>, ServiceError> {
        let mut open = vec![(self.path().attachments().0, String::new(), 0)];
        for c in n.cell_metadata.iter().filter(|c| is_cell(&c.cell_id, &c.current_version)) {
            let of = self.path().cell(&c.cell_id, &c.current_version);
            open.push((of.uploads().0, String::new(), 0));
        }
        open.reverse();
        let (tree, mut out) = (&self.server.tree, Vec::new());
        while let Some((dir, below, depth)) = open.pop() {
            for child in tree.files(&DirPath::files(dir.clone())).await? {
                let one = dir.clone().escaped_child(&[&child.name]);
                if child.is_dir {
                    if depth < MAX_DEPTH {
                        open.push((one, format!("{below}{}/", child.name), depth + 1));
                    }
                    continue;
                }
                let at = FilePath(one.typed(child.kind));
                let path = tree.root.file(&at).map_err(StoreError::from)?;
                let Ok(meta) = self.server.env.fs.stat(&path).await else { continue };
                let date = vql::Time::try_from(meta.modified).map(|t| t.to_string());
                let last = at.0.named_components().pop().unwrap_or_default();
                out.push(Beside {
                    at,
                    name: format!("{below}{last}"),
                    bytes: meta.len,
                    date: date.unwrap_or_default(),
                });
                if out.len() == MAX_FILES {
                    return Ok(out);
                }
            }
        }
        Ok(out)
    }
}

/// The last part of a name that a browser gave.
fn plain_name(given: &str) -> Result<String, ServiceError> {
    let name = given.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    if name.is_empty() || name == "." || name == ".." || name.len() > MAX_NAME {
        let text = format!("a file needs a name of 1 to {MAX_NAME} bytes, not `{given}`");
        return Err(ServiceError::Invalid(text));
    }
    Ok(name.to_owned())
}

impl Notebooks {
    /// Attaches a file. With `unique` its name gets a number of its own and holds no
    /// character that an address would write otherwise; without, it replaces the file
    /// that has this name.
    pub async fn attach(
        &self,
        at: At<'_>,
        user: &str,
        (name, unique): (&str, bool),
        data: &[u8],
    ) -> Result<FilePath, ServiceError> {
        let _one = self.one().await;
        let n = at.open(user).await?;
        let mut name = plain_name(name)?;
        if unique {
            let safe =
                |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' };
            let id = new_attachment_id(&at.server.env);
            name = format!("{id}-{}", name.chars().map(safe).collect::<String>());
        }
        if at.beside(&n).await?.len() >= MAX_FILES {
            return Err(ServiceError::Invalid(format!("a notebook has at most {MAX_FILES} files")));
        }
        let file = at.path().attachment(&name);
        at.server.tree.set_file(&file, data).await?;
        let details = json!({ "notebook_id": at.id, "name": name, "bytes": data.len() });
        audit(at.server, at.org, user, "AttachToNotebook", details).await;
        Ok(file)
    }

    /// Removes one of a notebook's files: nothing but what is listed.
    pub async fn detach(
        &self,
        at: At<'_>,
        user: &str,
        components: &[String],
    ) -> Result<(), ServiceError> {
        let _one = self.one().await;
        let n = at.open(user).await?;
        let found = at.beside(&n).await?;
        let found = found.into_iter().find(|f| f.at.0.named_components() == components);
        let found = found.ok_or_else(|| {
            ServiceError::NotFound(format!("{} of {}", components.join("/"), at.id))
        })?;
        at.server.tree.delete_file(&found.at).await?;
        let details = json!({ "notebook_id": at.id, "name": found.name });
        audit(at.server, at.org, user, "RemoveNotebookAttachment", details).await;
        Ok(())
    }
}
