//! Uploaded files: dense, compressed or sparse, read by offset; their table
//! rows and sparse maps. Which upload is which is not known here.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use velociraptor_proto::proto::Range;

use super::client_path;
use super::objects::{StoreError, Tree, read_whole};
use super::path::{FilePath, Org, PathSpec, PathType};
use super::resultset::DataFile;
use crate::store::resultset::lines::split;

/// Largest sparse map read, in bytes.
const MAX_MAP: usize = 64 << 20;
/// Bytes of a hole given at once.
const ZEROS: usize = 64 << 10;
/// Exports expand sparse files up to this many bytes regardless of the ratio.
pub const MAX_EXPAND: u64 = 100 << 20;

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

/// A sparse map as stored: indented by one space, zero fields left out.
pub fn map_bytes(ranges: &[Range]) -> Vec<u8> {
    let mut out = String::from("{");
    for (i, r) in ranges.iter().enumerate() {
        out.push_str(if i == 0 { "\n \"ranges\": [\n  {" } else { ",\n  {" });
        let fields = [
            ("file_offset", r.file_offset),
            ("original_offset", r.original_offset),
            ("file_length", r.file_length),
            ("length", r.length),
        ];
        let mut sep = "\n   ";
        for (name, v) in fields.into_iter().filter(|f| f.1 != 0) {
            out.push_str(&format!("{sep}\"{name}\": {v}"));
            sep = ",\n   ";
        }
        out.push_str(if sep.starts_with(',') { "\n  }" } else { "}" });
    }
    out.push_str(if ranges.is_empty() { "}" } else { "\n ]\n}" });
    out.into_bytes()
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct StoredRange {
    file_offset: i64,
    original_offset: i64,
    file_length: i64,
    length: i64,
}

#[derive(Deserialize)]
struct StoredMap {
    #[serde(default)]
    ranges: Vec<StoredRange>,
}

/// Reads a sparse map: one object with `ranges`, or one range a line.
pub fn parse_map(bytes: &[u8]) -> Result<Vec<Range>, String> {
    let one = |r: StoredRange| Range {
        file_offset: r.file_offset,
        original_offset: r.original_offset,
        file_length: r.file_length,
        length: r.length,
    };
    if let Ok(lines) = parse_lines(bytes) {
        return Ok(lines.into_iter().map(one).collect());
    }
    let m: StoredMap = serde_json::from_slice(bytes).map_err(|e| format!("sparse map: {e}"))?;
    Ok(m.ranges.into_iter().map(one).collect())
}

/// One range a line: every line is an object that says its length.
fn parse_lines(bytes: &[u8]) -> Result<Vec<StoredRange>, String> {
    let (mut lines, rest) = split(&Bytes::copy_from_slice(bytes));
    lines.push((0, rest));
    let mut out = Vec::new();
    for (_, l) in lines.iter().filter(|l| !l.1.trim_ascii().is_empty()) {
        let v: serde_json::Value = serde_json::from_slice(l).map_err(|e| e.to_string())?;
        if v.get("length").is_none() {
            return Err("no length".into());
        }
        out.push(serde_json::from_value(v).map_err(|e| e.to_string())?);
    }
    if out.is_empty() { Err("no lines".into()) } else { Ok(out) }
}

/// A stretch of the file as readers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    start: u64,
    end: u64,
    /// Where its bytes are in the data file; `None` for a hole.
    source: Option<u64>,
}

/// Stretches of a padded file, in order and without gaps.
fn stretches(ranges: &[Range]) -> Result<Vec<Stretch>, String> {
    let mut sorted = Vec::new();
    for r in ranges {
        let all = [r.original_offset, r.file_offset, r.file_length, r.length];
        if all.iter().any(|v| *v < 0 || *v > 1 << 50) {
            return Err(format!("sparse map: impossible range {r:?}"));
        }
        sorted.push(*r);
    }
    sorted.sort_by_key(|r| r.original_offset);
    let mut out: Vec<Stretch> = Vec::new();
    let mut at = 0;
    let mut push = |start: u64, end: u64, source: Option<u64>| {
        if end > start {
            out.push(Stretch { start, end, source });
        }
    };
    for r in sorted {
        let (start, end) = (r.original_offset as u64, (r.original_offset + r.length) as u64);
        if start < at && end > at {
            return Err("sparse map: ranges overlap".into());
        }
        if end <= at {
            continue;
        }
        push(at, start, None);
        let data_end = start + r.file_length.min(r.length) as u64;
        push(start, data_end, Some(r.file_offset as u64));
        push(data_end, end, None);
        at = end;
    }
    Ok(out)
}

/// How holes of a sparse file are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    /// As zeros: the file as it was on the client.
    Padded,
    /// Not at all: the bytes stored.
    Skipped,
}

/// An uploaded file, open for reading.
#[derive(Debug)]
pub struct Upload {
    data: DataFile,
    map: Option<Result<Vec<Stretch>, String>>,
}

impl Upload {
    /// Opens an upload with its chunk index and sparse map; `None` when there
    /// is none.
    pub async fn open(tree: &Tree, at: &FilePath) -> Result<Option<Upload>, StoreError> {
        let Some(data) = DataFile::open(tree, at).await? else { return Ok(None) };
        let path = tree.root.file(&at.sparse_index())?;
        let map = read_whole(&*tree.fs, &path, MAX_MAP)
            .await?
            .map(|raw| parse_map(&raw).and_then(|r| stretches(&r)));
        Ok(Some(Upload { data, map }))
    }

    /// Whether there is a sparse map.
    pub fn is_sparse(&self) -> bool {
        self.map.is_some()
    }

    /// Bytes stored (inflated).
    pub fn stored_size(&self) -> u64 {
        self.data.len()
    }

    /// Bytes a reader gets.
    pub fn size(&self, holes: Holes) -> Result<u64, StoreError> {
        Ok(match self.stretches(holes)? {
            Some(s) => s.last().map_or(0, |s| s.end),
            None => self.data.len(),
        })
    }

    /// Whether an export should expand it, with a limit of `max` bytes: small
    /// enough, or mostly data.
    pub fn worth_expanding(&self, max: u64) -> Result<bool, StoreError> {
        let size = self.size(Holes::Padded)?;
        Ok(size < max || size <= self.data.len().saturating_mul(2))
    }

    fn stretches(&self, holes: Holes) -> Result<Option<&[Stretch]>, StoreError> {
        match (&self.map, holes) {
            (Some(Ok(s)), Holes::Padded) => Ok(Some(s)),
            (Some(Err(e)), Holes::Padded) => Err(StoreError::corrupt(self.data.path(), e)),
            _ => Ok(None),
        }
    }

    /// The next bytes from `at` on, as many as are at hand; `None` at the end.
    /// Follow with `at` plus their length.
    pub async fn piece(&self, holes: Holes, at: u64) -> Result<Option<Bytes>, StoreError> {
        let whole = [Stretch { start: 0, end: self.data.len(), source: Some(0) }];
        let list = self.stretches(holes)?.unwrap_or(&whole);
        let Some(s) = list.get(list.partition_point(|s| s.end <= at)) else { return Ok(None) };
        let left = usize::try_from(s.end - at).unwrap_or(usize::MAX);
        let Some(source) = s.source else { return Ok(Some(zeros(left))) };
        let from = source + (at - s.start);
        match self.data.block(from).await? {
            Some((start, block)) if start == from => Ok(Some(block.slice(..block.len().min(left)))),
            // A chunk is missing: zeros keep what follows in its place.
            Some((start, _)) => {
                Ok(Some(zeros(left.min(usize::try_from(start - from).unwrap_or(left)))))
            }
            None => Err(StoreError::corrupt(self.data.path(), "data ends before its map")),
        }
    }

    /// Up to `len` bytes from `at` on; shorter only at the end.
    pub async fn read(&self, holes: Holes, at: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::new();
        while out.len() < len {
            let Some(piece) = self.piece(holes, at.saturating_add(out.len() as u64)).await? else {
                break;
            };
            out.extend_from_slice(&piece[..piece.len().min(len - out.len())]);
        }
        Ok(out)
    }

    /// Lower-case hex SHA-256 of what a reader gets.
    pub async fn sha256(&self, holes: Holes) -> Result<String, StoreError> {
        let mut hash = Sha256::new();
        let mut at = 0;
        while let Some(piece) = self.piece(holes, at).await? {
            hash.update(&piece);
            at += piece.len() as u64;
        }
        Ok(hex::encode(hash.finalize()))
    }
}

fn zeros(len: usize) -> Bytes {
    static ZERO: [u8; ZEROS] = [0; ZEROS];
    Bytes::from_static(&ZERO[..len.min(ZEROS)])
}

#[cfg(test)]
#[path = "uploads_tests.rs"]
mod tests;
