//! Rows of a flow's table of uploads. Pure.

use serde::{Deserialize, Serialize};

use crate::store::client_path;
use crate::store::path::{FilePath, Org, PathSpec, PathType};

/// Whether a row describes a file or its sparse map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UploadKind {
    /// The file.
    #[default]
    Data,
    /// Its sparse map.
    Map,
}

/// One row of `uploads.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadRow {
    /// When it was complete, Unix seconds.
    pub timestamp: i64,
    /// The same as text, see [`go_time`].
    pub started: String,
    /// The client's name of the file.
    pub vfs_path: String,
    /// File or map.
    pub kind: UploadKind,
    /// Where it is in the file store, from `clients` on.
    pub components: Vec<String>,
    /// Size on the client in bytes.
    pub file_size: u64,
    /// Accessor; old rows have none.
    pub accessor: Option<String>,
    /// The client's components; old rows have none.
    pub client_components: Option<Vec<String>>,
    /// Bytes stored.
    pub uploaded_size: u64,
}

/// A row in the order stock servers give its keys; the order of map rows
/// differs.
#[derive(Serialize)]
struct DataRow<'a> {
    #[serde(rename = "Timestamp")]
    timestamp: i64,
    started: &'a str,
    vfs_path: &'a str,
    #[serde(rename = "Type")]
    kind: &'a str,
    #[serde(rename = "_Components")]
    components: &'a [String],
    file_size: u64,
    _accessor: &'a str,
    _client_components: &'a Option<Vec<String>>,
    uploaded_size: u64,
}

#[derive(Serialize)]
struct MapRow<'a> {
    #[serde(rename = "Timestamp")]
    timestamp: i64,
    started: &'a str,
    vfs_path: &'a str,
    #[serde(rename = "Type")]
    kind: &'a str,
    #[serde(rename = "_Components")]
    components: &'a [String],
    _accessor: &'a str,
    _client_components: &'a Option<Vec<String>>,
    file_size: u64,
    uploaded_size: u64,
}

#[derive(Deserialize)]
struct AnyRow {
    #[serde(rename = "Timestamp", default)]
    timestamp: i64,
    #[serde(default)]
    started: String,
    #[serde(default)]
    vfs_path: String,
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(rename = "_Components", default)]
    components: Option<Vec<String>>,
    #[serde(default)]
    file_size: u64,
    #[serde(default)]
    expected_size: u64,
    #[serde(default)]
    _accessor: Option<String>,
    #[serde(default)]
    _client_components: Option<Vec<String>>,
    #[serde(default)]
    uploaded_size: u64,
}

impl UploadRow {
    /// The row of a file that is complete at `nanos` (Unix time).
    pub fn data(nanos: i64, vfs_path: &str, stored: &FilePath, sizes: (u64, u64)) -> UploadRow {
        UploadRow {
            timestamp: nanos.div_euclid(1_000_000_000),
            started: go_time(nanos),
            vfs_path: vfs_path.to_owned(),
            kind: UploadKind::Data,
            components: stored.0.components.clone(),
            file_size: sizes.0,
            uploaded_size: sizes.1,
            ..UploadRow::default()
        }
    }

    /// The row of this file's sparse map.
    pub fn map(&self) -> UploadRow {
        UploadRow {
            vfs_path: format!("{}.idx", self.vfs_path),
            kind: UploadKind::Map,
            ..self.clone()
        }
    }

    /// The row as stored, without newline.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let accessor = self.accessor.as_deref().unwrap_or_default();
        match self.kind {
            UploadKind::Data => serde_json::to_vec(&DataRow {
                timestamp: self.timestamp,
                started: &self.started,
                vfs_path: &self.vfs_path,
                kind: "",
                components: &self.components,
                file_size: self.file_size,
                _accessor: accessor,
                _client_components: &self.client_components,
                uploaded_size: self.uploaded_size,
            }),
            UploadKind::Map => serde_json::to_vec(&MapRow {
                timestamp: self.timestamp,
                started: &self.started,
                vfs_path: &self.vfs_path,
                kind: "idx",
                components: &self.components,
                _accessor: accessor,
                _client_components: &self.client_components,
                file_size: self.file_size,
                uploaded_size: self.uploaded_size,
            }),
        }
    }

    /// Reads a row of any age. Oldest rows have no components: their `vfs_path`
    /// says where the file is.
    pub fn decode(row: &[u8]) -> Result<UploadRow, serde_json::Error> {
        let r: AnyRow = serde_json::from_slice(row)?;
        let components = match r.components {
            Some(c) if !c.is_empty() => c,
            _ if r.vfs_path.starts_with("/clients/") => client_path::split(&r.vfs_path),
            _ => Vec::new(),
        };
        Ok(UploadRow {
            timestamp: r.timestamp,
            started: r.started,
            vfs_path: r.vfs_path,
            kind: if r.kind == "idx" { UploadKind::Map } else { UploadKind::Data },
            components,
            file_size: r.file_size.max(r.expected_size),
            accessor: r._accessor,
            client_components: r._client_components,
            uploaded_size: r.uploaded_size,
        })
    }

    /// Where the file is; `None` when the row does not say.
    pub fn file(&self, org: &Org) -> Option<FilePath> {
        (self.components.len() > 4 && self.components[0] == "clients").then(|| {
            FilePath(PathSpec {
                org: org.clone(),
                components: self.components.clone(),
                kind: PathType::Any,
                safe: false,
            })
        })
    }
}

/// Unix nanoseconds as Go prints a UTC time: fraction without trailing zeros.
pub fn go_time(nanos: i64) -> String {
    let Ok(t) = jiff::Timestamp::from_nanosecond(i128::from(nanos)) else { return String::new() };
    let fraction = nanos.rem_euclid(1_000_000_000);
    let fraction = match fraction {
        0 => String::new(),
        f => format!(".{}", format!("{f:09}").trim_end_matches('0')),
    };
    format!("{}{fraction} +0000 UTC", t.strftime("%Y-%m-%d %H:%M:%S"))
}
