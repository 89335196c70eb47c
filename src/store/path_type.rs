//! Types of paths, their extensions and numbers. Pure.

/// Type of a path: decides the extension and the store. The numbers are the
/// ones that travel in `DSPathSpec.path_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum PathType {
    ObjectJson = 0,
    ObjectProto = 1,
    ObjectDir = 2,
    ObjectUnknown = 3,
    Json = 4,
    JsonIndex = 5,
    JsonTimeIndex = 6,
    SparseIndex = 7,
    Zip = 8,
    Report = 9,
    ChunkIndex = 10,
    Tmp = 11,
    Csv = 12,
    Yaml = 13,
    RawProto = 14,
    RawJsonObject = 15,
    Any = 16,
}

use PathType::*;

/// Which of the two trees a path lives in; they usually share a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// Small objects, `Datastore.location`.
    Objects,
    /// Bulk files, `Datastore.filestore_directory`.
    Files,
}

pub(super) const ALL: [PathType; 17] = [
    ObjectJson,
    ObjectProto,
    ObjectDir,
    ObjectUnknown,
    Json,
    JsonIndex,
    JsonTimeIndex,
    SparseIndex,
    Zip,
    Report,
    ChunkIndex,
    Tmp,
    Csv,
    Yaml,
    RawProto,
    RawJsonObject,
    Any,
];

impl PathType {
    /// The extension, with its dot.
    pub fn extension(self) -> &'static str {
        match self {
            ObjectJson | RawJsonObject => ".json.db",
            ObjectProto | ObjectUnknown | RawProto => ".db",
            ObjectDir | Any => "",
            Json => ".json",
            JsonIndex => ".json.index",
            JsonTimeIndex => ".json.tidx",
            SparseIndex => ".idx",
            Zip => ".zip",
            Report => ".html",
            ChunkIndex => ".chunk",
            Tmp => ".tmp",
            Csv => ".csv",
            Yaml => ".yaml",
        }
    }

    /// The number used on the wire.
    pub fn number(self) -> i64 {
        self as i64
    }

    /// The type with that number.
    pub fn from_number(n: i64) -> Option<PathType> {
        ALL.get(usize::try_from(n).ok()?).copied()
    }

    /// Which tree holds paths of this type.
    pub fn store(self) -> StoreKind {
        match self {
            ObjectJson | ObjectProto | ObjectDir | ObjectUnknown => StoreKind::Objects,
            _ => StoreKind::Files,
        }
    }

    /// Splits a name in the object tree into its stem and type.
    pub fn of_object_name(name: &str) -> (&str, PathType) {
        split_ext(name, &[ObjectJson, ObjectProto]).unwrap_or((name, ObjectUnknown))
    }

    /// Splits a name in the file tree into its stem and type.
    pub fn of_file_name(name: &str) -> (&str, PathType) {
        const ORDER: [PathType; 12] = [
            Json,
            JsonIndex,
            JsonTimeIndex,
            RawJsonObject,
            SparseIndex,
            Zip,
            ChunkIndex,
            Report,
            Tmp,
            Csv,
            RawProto,
            Yaml,
        ];
        split_ext(name, &ORDER).unwrap_or((name, Any))
    }
}

fn split_ext<'a>(name: &'a str, types: &[PathType]) -> Option<(&'a str, PathType)> {
    types.iter().find_map(|&t| Some((name.strip_suffix(t.extension())?, t)))
}
