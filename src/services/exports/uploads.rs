//! Uploaded files into an archive, and the table that says where they are in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::Format;
use super::container::Container;
use super::csv::Columns;
use crate::services::server::{Org, Server, ServiceError};
use crate::store::FilePath;
use crate::store::uploads::{Holes, MAX_EXPAND, Upload, UploadKind, UploadRow};
use crate::store::zip::write::member_name;

/// Largest map of a sparse file.
const MAX_MAP: usize = 64 << 20;
/// High bits of each entry of an index inside of an archive.
const ENTRY: u64 = 1 << 40;

/// Where an uploaded file is inside of the archive.
fn inside(row: &UploadRow) -> Vec<String> {
    match &row.client_components {
        Some(given) => {
            let accessor = row.accessor.as_deref().filter(|a| !a.is_empty()).unwrap_or("auto");
            let head = ["uploads".to_owned(), accessor.to_owned()];
            head.into_iter().chain(given.iter().cloned()).collect()
        }
        // From `uploads` on.
        None if row.components.len() > 4 && row.components[0] == "clients" => {
            row.components[4..].to_vec()
        }
        None => row.components.clone(),
    }
}

/// Writes a flow's uploads below `prefix`, and `uploads.json` last.
pub(super) async fn write(
    (server, org): (&Arc<Server>, &Arc<Org>),
    container: &mut Container,
    prefix: &[String],
    (client, flow): (&str, &str),
    (format, expand): (Format, bool),
) -> Result<(), ServiceError> {
    let mut rows: Vec<Value> = Vec::new();
    let mut taken = BTreeSet::new();
    for mut row in server.upload_rows(org, client, flow).await? {
        let known = UploadRow::decode(row.to_string().as_bytes());
        let Ok(known) = known else { continue };
        let Some(at) = known.file(&org.id) else { continue };
        let place = inside(&known);
        let all: Vec<&String> = prefix.iter().chain(&place).collect();
        let mut name = member_name(&all);
        if known.kind == UploadKind::Map {
            name.push_str(".idx");
        }
        let copied = match taken.insert(name.clone()) {
            // The same file twice: it is there.
            false => Ok(true),
            true => copy(server, container, &known, &at, (&name, expand)).await,
        };
        if let Some(row) = row.as_object_mut() {
            row.insert("_Components".into(), json!(place));
        }
        match copied {
            Ok(true) => rows.push(row),
            Ok(false) => {}
            Err(e) => {
                tracing::warn!(client, flow, name, error = %e, "upload not in the archive");
                rows.push(row.clone());
                if let Some(row) = row.as_object_mut() {
                    row.insert("Error".into(), e.to_string().into());
                }
                rows.push(row);
            }
        }
    }
    table(container, prefix, &rows, format).await
}

/// Copies one; false when it has no place in the archive.
async fn copy(
    server: &Server,
    container: &mut Container,
    row: &UploadRow,
    at: &FilePath,
    (name, expand): (&str, bool),
) -> Result<bool, ServiceError> {
    let missing = || ServiceError::NotFound(format!("the file of {}", row.vfs_path));
    let upload = Upload::open(&server.tree, at).await?;
    let whole = |u: &Upload| {
        let worth = expand && u.is_sparse();
        Ok::<bool, ServiceError>(worth && u.worth_expanding(MAX_EXPAND)?)
    };
    if row.kind == UploadKind::Map {
        if let Some(u) = &upload
            && whole(u)?
        {
            return Ok(false);
        }
        let map = server.tree.get_file(&at.sparse_index(), MAX_MAP).await?;
        container.member(name, &map.ok_or_else(missing)?).await?;
        return Ok(true);
    }
    let upload = upload.ok_or_else(missing)?;
    let holes = if whole(&upload)? { Holes::Padded } else { Holes::Skipped };
    container.begin(name).await?;
    let mut offset = 0;
    while let Some(piece) = upload.piece(holes, offset).await? {
        container.write(&piece).await?;
        offset += piece.len() as u64;
    }
    container.stats.total_uploaded_files += 1;
    container.stats.total_uploaded_bytes += offset;
    Ok(true)
}

async fn table(
    container: &mut Container,
    prefix: &[String],
    rows: &[Value],
    format: Format,
) -> Result<(), ServiceError> {
    let all: Vec<&str> = prefix.iter().map(String::as_str).chain(["uploads"]).collect();
    let name = member_name(&all);
    let rows: Vec<Bytes> = rows.iter().map(|r| Bytes::from(r.to_string())).collect();
    if format.json() {
        let (mut text, mut index) = (Vec::new(), Vec::new());
        for row in &rows {
            index.extend((text.len() as u64 | ENTRY).to_le_bytes());
            text.extend_from_slice(row);
            text.push(b'\n');
        }
        container.member(&format!("{name}.json"), &text).await?;
        container.member(&format!("{name}.json.index"), &index).await?;
    }
    if format.csv() {
        let mut columns = Columns::default();
        rows.iter().for_each(|r| columns.see(r));
        let text = [columns.head(), columns.lines(&rows)].concat();
        container.member(&format!("{name}.csv"), &text).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_an_archive() {
        let new = UploadRow {
            accessor: Some("ntfs".into()),
            client_components: Some(vec!["\\\\.\\C:".into(), "$MFT".into()]),
            ..UploadRow::default()
        };
        assert_eq!(member_name(&inside(&new)), "uploads/ntfs/%5C%5C.%5CC%3A/$MFT");
        let parts = ["clients", "C.1", "collections", "F.1", "uploads", "auto", "etc", "x"];
        let old =
            UploadRow { components: parts.map(str::to_owned).to_vec(), ..UploadRow::default() };
        assert_eq!(member_name(&inside(&old)), "uploads/auto/etc/x");
    }
}
