//! The file browser: what is known of an endpoint's folders, and which files were
//! fetched, from the collections that listed and fetched them.
//!
//! A folder's listing is a pointer into the results of the collection that saw it last;
//! what was fetched from a folder is a small table beside it. Both are stock files,
//! replaced whole by the master within a second after such a collection ended; until
//! the collection is settled, a crash means that it is done again. It knows nothing of
//! pages.

use bytes::Bytes;
use serde_json::Value;
use velociraptor_proto::proto::{
    ArtifactCollectorArgs, ArtifactCollectorContext, ArtifactParameters, ArtifactSpec,
    VfsDownloadInfo, VfsListResponse, VqlEnv,
};

use super::flows::Rows;
use super::server::{Org, Server, ServiceError};
use super::state::FlowKey;
use crate::store::paths;
use crate::store::resultset::{canonical, read_rows};

/// The artifact that lists folders.
pub const LIST: &str = "System.VFS.ListDirectory";
/// The artifact that fetches files.
pub const FETCH: &str = "System.VFS.DownloadFile";
/// Folders and files of one collection that are noted at most: each is a file to write.
const MAX_FOLDERS: u64 = 10_000;
/// Files of one folder of which downloads are remembered at most.
const MAX_FETCHED: usize = 20_000;

/// Where a folder's rows are.
pub fn listing_set(at: &VfsListResponse) -> &str {
    if at.artifact.is_empty() { LIST } else { &at.artifact }
}

fn strings(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Whether an artifact or a site's own version of it is among those named.
fn is_one(artifacts: &[String], name: &str) -> bool {
    artifacts.iter().any(|a| a.strip_prefix("Custom.").unwrap_or(a) == name)
}

/// Whether a collection finds something that the file browser is to know.
pub fn concerns(request: &ArtifactCollectorArgs) -> bool {
    is_one(&request.artifacts, LIST) || is_one(&request.artifacts, FETCH)
}

/// The parameter of an artifact in a request.
fn parameter<'a>(context: &'a ArtifactCollectorContext, name: &str) -> &'a str {
    let specs = context.request.iter().flat_map(|r| &r.specs);
    let env = specs.filter_map(|s| s.parameters.as_ref()).flat_map(|p| &p.env);
    let mut found = env.filter(|e| e.key == name);
    found.next().map_or("", |e| e.value.as_str())
}

/// A request for one artifact of the file browser.
pub fn request(
    client: &str,
    artifact: &str,
    parameters: &[(&str, String)],
) -> ArtifactCollectorArgs {
    let env = parameters
        .iter()
        .map(|(key, value)| VqlEnv {
            key: (*key).to_owned(),
            value: value.clone(),
            ..VqlEnv::default()
        })
        .collect();
    ArtifactCollectorArgs {
        client_id: client.to_owned(),
        urgent: true,
        artifacts: vec![artifact.to_owned()],
        specs: vec![ArtifactSpec {
            artifact: artifact.to_owned(),
            parameters: Some(ArtifactParameters { env }),
            ..ArtifactSpec::default()
        }],
        ..ArtifactCollectorArgs::default()
    }
}

impl Server {
    /// After a collection ended: what it says of folders and files.
    pub(super) async fn browse(&self, org: &Org, key: &FlowKey) -> Result<(), ServiceError> {
        let (client, flow) = key;
        let Some(context) = self.flow(org, client, flow).await? else { return Ok(()) };
        if let Some(f) = org.state().flows.get_mut(key) {
            f.browse_left = f.browse_left.saturating_sub(1);
        }
        let asked = context.request.as_ref().map_or(&[][..], |r| &r.artifacts);
        let _alone = org.browsing.lock().await;
        if is_one(asked, LIST) {
            self.note_folders(org, client, flow, &context).await?;
        }
        if is_one(asked, FETCH) {
            self.note_files(org, client, flow, &context).await?;
        }
        if let Some(f) = org.state().flows.get_mut(key) {
            f.browse_left = 0;
        }
        Ok(())
    }

    async fn note_folders(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
        context: &ArtifactCollectorContext,
    ) -> Result<(), ServiceError> {
        let set = Rows::Results(format!("{LIST}/Stats"));
        let rows = self.rows(org, client, flow, &set, 0, MAX_FOLDERS).await?;
        if rows.len() as u64 == MAX_FOLDERS {
            tracing::warn!(client, flow, most = MAX_FOLDERS, "folders beyond these are not noted");
        }
        let at = paths::Client { org: &org.id, id: client };
        let seen = VfsListResponse {
            timestamp: self.env.clock.unix(),
            client_id: client.to_owned(),
            flow_id: flow.to_owned(),
            artifact: format!("{LIST}/Listing"),
            ..VfsListResponse::default()
        };
        let asked: Vec<String> =
            serde_json::from_str(parameter(context, "Components")).unwrap_or_default();
        let accessor = match parameter(context, "Accessor") {
            "" => "file",
            a => a,
        };
        let asked: Vec<String> = std::iter::once(accessor.to_owned()).chain(asked).collect();
        let mut found = false;
        for row in rows {
            let Ok(row) = serde_json::from_slice::<Value>(&row) else { continue };
            let stats = &row["Stats"];
            let number = |k: &str| stats[k].as_u64().or(stats[k.to_uppercase()].as_u64());
            let (Some(from), Some(to)) = (number("start_idx"), number("end_idx")) else { continue };
            let accessor = match text(&row, "Accessor") {
                "" => "auto",
                a => a,
            };
            let mut folder = vec![accessor.to_owned()];
            folder.extend(strings(&row["Components"]));
            found |= folder == asked;
            let listing = VfsListResponse {
                total_rows: to.saturating_sub(from),
                start_idx: from,
                end_idx: to,
                ..seen.clone()
            };
            self.tree.set(&at.vfs(&folder), &listing).await?;
        }
        // An empty folder has no rows that would say so; a failure is no empty folder.
        let over_well = context.status.is_empty();
        if !found && over_well && (asked.len() > 1 || parameter(context, "Path").len() <= 1) {
            self.tree.set(&at.vfs(&asked), &seen).await?;
        }
        Ok(())
    }

    async fn note_files(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
        context: &ArtifactCollectorContext,
    ) -> Result<(), ServiceError> {
        let uploads = self.upload_rows(org, client, flow).await?;
        let rows = Rows::Results(FETCH.to_owned());
        let rows = self.rows(org, client, flow, &rows, 0, MAX_FOLDERS).await?;
        let now = self.env.clock.micros();
        let mut noted = Vec::new();
        for row in rows {
            let Ok(row) = serde_json::from_slice::<Value>(&row) else { continue };
            let (accessor, file) = (text(&row, "Accessor"), strings(&row["_Components"]));
            if file.is_empty() {
                continue;
            }
            let same = |u: &&Value| {
                text(u, "_accessor") == accessor && strings(&u["_client_components"]) == file
            };
            let stored = uploads.iter().filter(|u| text(u, "Type") != "idx").find(same);
            let sparse = uploads.iter().filter(|u| text(u, "Type") == "idx").any(|u| same(&u));
            let info = VfsDownloadInfo {
                components: stored.map(|u| strings(&u["_Components"])).unwrap_or_default(),
                size: row["Size"].as_u64().unwrap_or_default(),
                mtime: now,
                sparse,
                md5: text(&row, "Md5").to_owned(),
                sha256: text(&row, "Sha256").to_owned(),
                flow_id: flow.to_owned(),
                error: match (stored, text(&row, "Error")) {
                    (None, "") => "the file did not arrive".to_owned(),
                    (_, e) => e.to_owned(),
                },
                ..VfsDownloadInfo::default()
            };
            noted.push((accessor.to_owned(), file, info));
        }
        // What was asked for and is not among the rows is in flight no more.
        let asked: Vec<String> =
            serde_json::from_str(parameter(context, "Components")).unwrap_or_default();
        let accessor = parameter(context, "Accessor");
        let whole = parameter(context, "Recursively").to_uppercase();
        let one = !matches!(whole.as_str(), "Y" | "TRUE" | "YES" | "1") && !asked.is_empty();
        if one && !noted.iter().any(|(a, f, _)| a == accessor && *f == asked) {
            let said = match context.status.as_str() {
                "" => "the endpoint has no such file",
                s => s,
            };
            let info = VfsDownloadInfo {
                mtime: now,
                flow_id: flow.to_owned(),
                error: said.to_owned(),
                ..VfsDownloadInfo::default()
            };
            noted.push((accessor.to_owned(), asked, info));
        }
        for (accessor, file, info) in noted {
            self.note_file(org, client, &accessor, &file, info).await?;
        }
        Ok(())
    }

    /// Adds a line to what was fetched from a file's folder.
    async fn note_file(
        &self,
        org: &Org,
        client: &str,
        accessor: &str,
        file: &[String],
        info: VfsDownloadInfo,
    ) -> Result<(), ServiceError> {
        let Some((name, folder)) = file.split_last() else { return Ok(()) };
        let accessor = if accessor.is_empty() { "file" } else { accessor };
        let folder: Vec<String> =
            std::iter::once(accessor.to_owned()).chain(folder.iter().cloned()).collect();
        let info = VfsDownloadInfo { name: name.clone(), ..info };
        let at = paths::Client { org: &org.id, id: client }.vfs_files(&folder);
        let mut blob = Vec::new();
        let mut old = read_rows(&self.tree, &at, 0, u64::MAX).await?;
        let told = |r: &Bytes| velociraptor_proto::json::from_json::<VfsDownloadInfo>(r).ok();
        let again = old.iter().filter_map(told).rfind(|o| o.name == info.name);
        if again.is_some_and(|o| o.flow_id == info.flow_id && (info.in_flight || !o.in_flight)) {
            return Ok(());
        }
        if old.len() >= MAX_FETCHED {
            old.drain(..old.len() / 2);
        }
        let line = velociraptor_proto::json::to_named_object(&info)
            .map_err(|e| ServiceError::Invalid(e.to_string()))?;
        for row in old.iter().map(|r| &r[..]).chain([line.as_bytes()]) {
            blob.extend_from_slice(row.trim_ascii());
            blob.push(b'\n');
        }
        let Some((data, index)) = canonical(&Bytes::from(blob)) else { return Ok(()) };
        self.tree.record_long_names(&at.0).await?;
        self.tree.set_file(&at, &data).await?;
        Ok(self.tree.set_file(&at.index(), &index).await?)
    }

    /// A file is being fetched. If it has come already, that is what counts.
    pub async fn note_fetching(
        &self,
        org: &Org,
        client: &str,
        accessor: &str,
        file: &[String],
        flow: &str,
    ) -> Result<(), ServiceError> {
        let _alone = org.browsing.lock().await;
        let info = VfsDownloadInfo {
            mtime: self.env.clock.micros(),
            flow_id: flow.to_owned(),
            in_flight: true,
            ..VfsDownloadInfo::default()
        };
        self.note_file(org, client, accessor, file, info).await
    }

    /// Where the listing of a folder is; components begin with the accessor.
    pub async fn folder(
        &self,
        org: &Org,
        client: &str,
        folder: &[String],
    ) -> Result<VfsListResponse, ServiceError> {
        let at = paths::Client { org: &org.id, id: client }.vfs(folder);
        let mut found = self.tree.get(&at).await?.unwrap_or_default();
        found.response.clear();
        found.download_version = self.fetched_from(org, client, folder).await?.len() as u64;
        Ok(found)
    }

    /// What was fetched from a folder, the latest of a name last.
    pub async fn fetched_from(
        &self,
        org: &Org,
        client: &str,
        folder: &[String],
    ) -> Result<Vec<VfsDownloadInfo>, ServiceError> {
        let at = paths::Client { org: &org.id, id: client }.vfs_files(folder);
        let rows = read_rows(&self.tree, &at, 0, u64::MAX).await?;
        let read = |r: &Bytes| velociraptor_proto::json::from_json::<VfsDownloadInfo>(r).ok();
        Ok(rows.iter().filter_map(read).collect())
    }

    /// What is known of one fetched file.
    pub async fn fetched(
        &self,
        org: &Org,
        client: &str,
        accessor: &str,
        file: &[String],
    ) -> Result<Option<VfsDownloadInfo>, ServiceError> {
        let Some((name, folder)) = file.split_last() else { return Ok(None) };
        let folder: Vec<String> =
            std::iter::once(accessor.to_owned()).chain(folder.iter().cloned()).collect();
        let all = self.fetched_from(org, client, &folder).await?;
        if let Some(found) = all.into_iter().rfind(|f| f.name == *name) {
            return Ok(Some(found));
        }
        // As old servers kept it.
        let mut whole = folder;
        whole.push(name.clone());
        let at = paths::Client { org: &org.id, id: client }.vfs_file(&whole);
        Ok(self.tree.get(&at).await?)
    }
}
