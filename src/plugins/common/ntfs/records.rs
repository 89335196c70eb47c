//! `parse_ntfs`, `parse_mft` and `parse_ntfs_i30`: what file records and directories of an
//! NTFS volume say, also of files that are gone.

use std::any::Any;
use std::io;
use std::sync::Arc;

use vql::{
    ArgType, Args, Dict, Emitter, Error, Key, Level, Object, Registry, Scope, Signature, Value,
};

use super::attribute::{Attribute, DATA, FILE_NAME, STANDARD_INFORMATION};
use super::index::{FileName, every_entry};
use super::links::{Links, Options};
use super::time;
use super::volume::{Head, Volume};
use crate::plugins::common::accessor::{UNKNOWN, accessor, path_of, time as time_value};
use crate::plugins::common::fields::Fields;
use crate::plugins::common::path::{Kind, OsPath};
use crate::plugins::common::{Accessor, blocking};

/// Largest attribute that is read for what it says of a file.
const FACTS: u64 = 64 << 10;
/// Records read between two chances to give way.
const BATCH: u64 = 256;
/// The size that other agents give for streams beside the content: that of the head of
/// their attribute. Rows of both are the same so.
const STREAM_SIZE: u64 = 64;

/// Names of attributes by their types.
const TYPES: [(u32, &str); 15] = [
    (16, "$STANDARD_INFORMATION"),
    (32, "$ATTRIBUTE_LIST"),
    (48, "$FILE_NAME"),
    (64, "$OBJECT_ID"),
    (80, "$SECURITY_DESCRIPTOR"),
    (96, "$VOLUME_NAME"),
    (112, "$VOLUME_INFORMATION"),
    (128, "$DATA"),
    (144, "$INDEX_ROOT"),
    (160, "$INDEX_ALLOCATION"),
    (176, "$BITMAP"),
    (192, "$REPARSE_POINT"),
    (208, "$EA_INFORMATION"),
    (224, "$EA"),
    (256, "$LOGGED_UTILITY_STREAM"),
];

/// Flags of a file by their bits, in the order of their names.
const FLAGS: [(u32, &str); 13] = [
    (0x20, "ARCHIVE"),
    (0x800, "COMPRESSED"),
    (0x40, "DEVICE"),
    (0x4000, "ENCRYPTED"),
    (0x2, "HIDDEN"),
    (0x80, "NORMAL"),
    (0x2000, "NOT_INDEXED"),
    (0x1000, "OFFLINE"),
    (0x1, "READ_ONLY"),
    (0x400, "REPARSE_POINT"),
    (0x200, "SPARSE"),
    (0x4, "SYSTEM"),
    (0x100, "TEMPORARY"),
];

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let doc = "What the record of a file on an NTFS volume says.";
    registry.function_async(signature("parse_ntfs", doc), |scope, args| async move {
        describe(&scope, &args).await
    });
    let doc = "Entries of a directory on an NTFS volume, also those left in unused space.";
    registry.plugin_async(signature("parse_ntfs_i30", doc), |scope, args, emitter| async move {
        directory(&scope, &args, &emitter).await
    });
    let scan = Signature::new("parse_mft", "All file records of an NTFS volume's $MFT.")
        .required("filename", ArgType::Path, "The $MFT.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("prefix", ArgType::Path, "Put before each path.")
        .arg("start", ArgType::Int, "The first record (0).")
        .version(3);
    registry.plugin_async(scan, |scope, args, emitter| async move {
        scan_table(&scope, &args, &emitter).await
    });
}

/// What `parse_ntfs` and its like are called with.
pub fn signature(name: &'static str, doc: &'static str) -> Signature {
    Signature::new(name, doc)
        .arg("device", ArgType::String, "A device or a path on it, for the accessor ntfs.")
        .arg("filename", ArgType::Path, "An image of a volume.")
        .arg("mft_filename", ArgType::Path, "A $MFT by itself.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("inode", ArgType::String, "The record, or an attribute as 5-144-1.")
        .arg("mft", ArgType::Int, "The number of the record.")
        .arg("mft_offset", ArgType::Int, "Where the record is, in bytes.")
        .version(2)
}

/// A volume that arguments name.
pub struct Source {
    /// The volume.
    pub volume: Arc<Volume>,
    /// The image or device; `None` for a table by itself.
    from: Option<OsPath>,
    accessor: String,
    is_device: bool,
}

/// Opens a volume, or a table by itself.
pub async fn open(
    scope: &Scope,
    accessor: Arc<dyn Accessor>,
    path: OsPath,
    table: bool,
) -> Result<Arc<Volume>, Error> {
    let shown = path.to_text();
    let open = move || -> io::Result<Arc<Volume>> {
        let file = accessor.open(&path)?;
        if table { Volume::of_table(file) } else { Volume::open(file) }
    };
    blocking(scope, open).await?.map_err(|e| Error::failed(format!("{shown}: {e}")))
}

/// Opens the volume a path of the accessor `ntfs` is on.
pub async fn open_device(scope: &Scope, path: OsPath) -> Result<Arc<Volume>, Error> {
    let (accessor, shown) = (accessor(scope, "ntfs")?, path.to_text());
    let open = move || Volume::open(accessor.device(&path)?);
    blocking(scope, open).await?.map_err(|e| Error::failed(format!("{shown}: {e}")))
}

/// Opens what the arguments name.
pub async fn source(scope: &Scope, args: &Args) -> Result<Source, Error> {
    let name = args.string("accessor")?;
    if let Some(device) = args.opt_string("device")?.filter(|d| !d.is_empty()) {
        let mut path = OsPath::of_kind(Kind::Ntfs, device.as_bytes());
        path.components.truncate(1);
        if !path.components.first().is_some_and(|c| c.as_bytes().starts_with(b"\\\\.\\")) {
            return Err(Error::failed("a device begins with \\\\.\\"));
        }
        let volume = open_device(scope, path.clone()).await?;
        return Ok(Source { volume, from: Some(path), accessor: "ntfs".into(), is_device: true });
    }
    let table = !args.has("filename");
    if table && !args.has("mft_filename") {
        return Err(Error::failed("filename, mft_filename or device is needed"));
    }
    let through = accessor(scope, &name)?;
    let arg = args.any(if table { "mft_filename" } else { "filename" });
    let path = path_of(scope, &*through, &arg);
    let volume = open(scope, through, path.clone(), table).await?;
    let from = (!table).then_some(path);
    Ok(Source { volume, from, accessor: name, is_device: false })
}

/// The record that arguments ask for.
pub fn wanted(args: &Args, volume: &Volume) -> Result<u64, Error> {
    let bad = |text: &str| Error::failed(format!("{text} is no number of a file record"));
    if let Some(inode) = args.opt_string("inode")?.filter(|i| !i.is_empty()) {
        let numbers = inode.split(':').next().unwrap_or_default();
        let parts: Result<Vec<u64>, _> = numbers.split('-').map(str::parse).collect();
        return match parts.as_deref() {
            Ok([record, rest @ ..]) if rest.len() < 3 => Ok(*record),
            _ => Err(bad(&inode)),
        };
    }
    let offset = u64::try_from(args.int("mft_offset")?).unwrap_or(0);
    if offset > 0 {
        return Ok(offset / volume.cluster());
    }
    let record = args.int("mft")?;
    u64::try_from(record).map_err(|_| bad(&record.to_string()))
}

/// Born, modified, record changed, read: ticks of a name or of the standard facts.
fn times(ticks: [u64; 4]) -> Dict {
    let names = ["CreateTime", "FileModifiedTime", "MFTModifiedTime", "AccessedTime"];
    names.into_iter().zip(ticks.map(time)).collect()
}

fn name_ticks(name: &FileName) -> [u64; 4] {
    [name.times[0], name.times[1], name.further[0], name.further[1]]
}

fn names(volume: &Volume, attributes: &[Attribute]) -> Vec<FileName> {
    let names = attributes.iter().filter(|a| a.kind == FILE_NAME);
    names.filter_map(|a| FileName::read(&volume.content(a, FACTS).ok()?)).collect()
}

/// The standard facts: four times and the flags.
fn standard(volume: &Volume, attributes: &[Attribute]) -> Option<([u64; 4], u32)> {
    let found = attributes.iter().find(|a| a.kind == STANDARD_INFORMATION)?;
    let b = volume.content(found, FACTS).ok()?;
    Some(([b.u64(0)?, b.u64(8)?, b.u64(16)?, b.u64(24)?], b.u32(32).unwrap_or(0)))
}

/// Of several attributes called the same each has the name of its stream in its number.
fn inode(head: &Head, attribute: &Attribute, seen: &mut Vec<(u32, u16)>) -> String {
    let number = format!("{}-{}-{}", head.number, attribute.kind, attribute.id);
    let key = (attribute.kind, attribute.id);
    match seen.contains(&key) {
        true if !attribute.name.is_empty() => format!("{number}:{}", attribute.name),
        true => number,
        false => {
            seen.push(key);
            number
        }
    }
}

/// What `parse_ntfs` says of a record.
fn record(
    volume: &Arc<Volume>,
    number: u64,
    options: Options,
) -> io::Result<(Dict, Vec<Vec<String>>)> {
    let (head, attributes) = volume.parts(number)?;
    let mut links = Links::new(volume.clone(), options);
    let paths = links.paths(head.number.into(), head.sequence, 0);
    let full = links.paths(head.number.into(), head.sequence, 1).into_iter().next();
    let size = attributes.iter().filter(|a| a.kind == DATA).map(|a| a.size).find(|s| *s > 0);
    let names: Vec<Value> = names(volume, &attributes)
        .iter()
        .map(|n| {
            let row = Dict::new().with("Times", times(name_ticks(n)));
            let row = row.with("Type", n.space_name()).with("Name", n.name.as_str());
            row.with("ParentEntryNumber", n.parent.0)
                .with("ParentSequenceNumber", n.parent.1)
                .into()
        })
        .collect();
    let mut seen = Vec::new();
    // Further parts of a stream are not shown.
    let shown: Vec<Value> = attributes
        .iter()
        .filter(|a| a.start == 0)
        .map(|a| {
            let kind = TYPES.iter().find(|(k, _)| *k == a.kind).map_or("Unknown", |(_, n)| n);
            Dict::new()
                .with("Type", kind)
                .with("TypeId", a.kind)
                .with("Id", a.id)
                .with("Inode", inode(&head, a, &mut seen))
                .with("Size", a.size)
                .with("Name", a.name.as_str())
                .with("Resident", a.resident())
                .into()
        })
        .collect();
    let joined: Vec<String> = paths.iter().map(|p| p.join("\\")).collect();
    let or_null = |list: Vec<Value>| if list.is_empty() { Value::Null } else { Value::list(list) };
    let row = Dict::new()
        .with("FullPath", format!("/{}", full.unwrap_or_default().join("/")))
        .with("MFTID", head.number)
        .with("SequenceNumber", head.sequence)
        .with("Size", size.unwrap_or(0))
        .with("Allocated", head.flags & 1 != 0)
        .with("IsDir", head.flags & 2 != 0)
        .with("SI_Times", standard(volume, &attributes).map(|(ticks, _)| times(ticks)))
        .with("Filenames", or_null(names))
        .with("Attributes", or_null(shown))
        .with("Hardlinks", or_null(joined.iter().map(Value::from).collect()));
    Ok((row, paths))
}

async fn describe(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let source = source(scope, args).await?;
    let number = wanted(args, &source.volume)?;
    let (volume, options) = (source.volume.clone(), Options::of(scope));
    let (row, paths) = blocking(scope, move || record(&volume, number, options))
        .await?
        .map_err(|e| Error::failed(format!("record {number}: {e}")))?;
    let path = paths.into_iter().next().map(|first| {
        let parts = first.into_iter().map(vql::Str::from);
        match &source.from {
            Some(device) if source.is_device => {
                let mut path = device.clone();
                path.components.extend(parts);
                path
            }
            from => {
                let components = parts.collect();
                let path = OsPath { components, kind: Kind::Ntfs, delegate: None };
                match from {
                    Some(image) => path.inside(&source.accessor, &image.to_text()),
                    None => path,
                }
            }
        }
    });
    let row = row.with("Device", source.from.map(Value::object));
    Ok(row.with("OSPath", path.map(Value::object)).into())
}

async fn directory(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let source = source(scope, args).await?;
    let (number, volume) = (wanted(args, &source.volume)?, source.volume);
    let list = move || -> io::Result<_> { Ok(every_entry(&volume, &volume.parts(number)?.1)) };
    let found = blocking(scope, list).await?;
    let never = time_value(UNKNOWN);
    for (entry, unused) in found.map_err(|e| Error::failed(format!("record {number}: {e}")))? {
        scope.charge_op().await;
        let [born, modified, changed, accessed] = name_ticks(&entry.name).map(time);
        let row = Dict::new()
            .with("MFTId", entry.record.to_string())
            .with("SequenceNumber", 0)
            .with("Mtime", changed)
            .with("Atime", accessed)
            .with("Ctime", born)
            .with("Btime", modified)
            .with("FNBtime", never.clone())
            .with("FNMtime", never.clone())
            .with("Name", entry.name.name.as_str())
            .with("NameType", entry.name.space_name())
            .with("ExtraNames", Value::Null)
            .with("IsDir", false)
            .with("Size", entry.name.sizes[1])
            .with("AllocatedSize", entry.name.sizes[0])
            .with("IsSlack", unused.is_some())
            .with("SlackOffset", unused.unwrap_or(0));
        emitter.send(row).await?;
    }
    Ok(())
}

/// A row of `parse_mft`. A few members are there for queries that name them.
#[derive(Clone, Debug)]
struct Row {
    shown: Dict,
    inode: String,
    path: String,
}

impl Object for Row {
    fn type_name(&self) -> &'static str {
        "*parser.MFTHighlight"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn members(&self) -> Vec<Key> {
        self.shown.keys().cloned().collect()
    }

    fn member(&self, name: &str) -> Option<Value> {
        match name {
            "Inode" => Some(self.inode.as_str().into()),
            "FullPath" => Some(self.path.as_str().into()),
            "Components" => {
                let path = self.shown.get("OSPath")?.downcast::<OsPath>()?;
                Some(path.texts().into_iter().map(Value::from).collect())
            }
            name => self.shown.get(name).cloned(),
        }
    }

    fn truth(&self) -> bool {
        true
    }
}

/// The rows of a record: one, and one more for each further stream.
fn rows(volume: &Arc<Volume>, links: &mut Links, number: u64) -> Vec<Row> {
    let Ok((head, attributes)) = volume.parts(number) else { return Vec::new() };
    let names = names(volume, &attributes);
    let (Some(first), Some((standard, flags))) = (names.first(), standard(volume, &attributes))
    else {
        return Vec::new();
    };
    let data = || attributes.iter().filter(|a| a.kind == DATA);
    let streams: Vec<&str> =
        data().map(|a| a.name.as_str()).filter(|name| !name.is_empty()).collect();
    let size = data().map(|a| a.size).find(|s| *s > 0).unwrap_or(0);
    let paths = links.paths(head.number.into(), head.sequence, 0);
    let [born, modified, ..] = standard;
    let (of_file, of_name) = (standard.map(time), name_ticks(first).map(time));
    let second = |ticks: u64| ticks.is_multiple_of(10_000_000);
    let set = FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name);
    let set = format!("{flags} ({})", set.collect::<Vec<_>>().join(","));
    let types: Vec<&str> = names.iter().map(FileName::space_name).collect();
    let row = |stream: Option<&str>| {
        let with = |name: &str| match stream {
            Some(stream) => format!("{name}:{stream}"),
            None => name.to_owned(),
        };
        let long = names.iter().find(|n| n.space != 2).or(names.last());
        let path = match (paths.first(), stream) {
            (Some(path), Some(stream)) => {
                let mut path = path.clone();
                if let Some(last) = path.last_mut() {
                    *last = format!("{last}:{stream}");
                }
                path
            }
            (path, _) => path.cloned().unwrap_or_default(),
        };
        let os_path = OsPath {
            components: path.iter().map(|p| vql::Str::from(p.as_str())).collect(),
            kind: Kind::Ntfs,
            delegate: None,
        };
        let shown = Dict::new()
            .with("EntryNumber", head.number)
            .with("OSPath", Value::object(os_path))
            .with("SequenceNumber", head.sequence)
            .with("InUse", head.flags & 1 != 0)
            .with("ParentEntryNumber", first.parent.0)
            .with("ParentSequenceNumber", first.parent.1)
            .with("FileName", long.map(|n| with(&n.name)))
            .with("FileNames", names.iter().map(|n| Value::from(with(&n.name))).collect::<Value>())
            .with("Links", paths.iter().map(|p| Value::from(p.join("\\"))).collect::<Value>())
            .with("FileNameTypes", types.join(","))
            .with("FileSize", if stream.is_some() { STREAM_SIZE } else { size })
            .with("ReferenceCount", head.links)
            .with("IsDir", stream.is_none() && head.flags & 2 != 0)
            .with("HasADS", !streams.is_empty())
            .with("SI_Lt_FN", born < first.times[0])
            .with("USecZeros", second(born) || second(modified))
            .with("Copied", born > modified)
            .with("SIFlags", set.as_str())
            .with("Created0x10", of_file[0].clone())
            .with("Created0x30", of_name[0].clone())
            .with("LastModified0x10", of_file[1].clone())
            .with("LastModified0x30", of_name[1].clone())
            .with("LastRecordChange0x10", of_file[2].clone())
            .with("LastRecordChange0x30", of_name[2].clone())
            .with("LastAccess0x10", of_file[3].clone())
            .with("LastAccess0x30", of_name[3].clone())
            .with("LogFileSeqNum", head.log);
        let inode = match stream {
            Some(stream) => format!("{}:{stream}", head.number),
            None => head.number.to_string(),
        };
        Row { shown, inode, path: path.join("\\") }
    };
    std::iter::once(None).chain(streams.iter().copied().map(Some)).map(row).collect()
}

async fn scan_table(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let accessor = accessor(scope, &args.string("accessor")?)?;
    let path = path_of(scope, &*accessor, &args.any("filename"));
    let mut options = Options::of(scope);
    if args.has("prefix") {
        options.prefix = path_of(scope, &*accessor, &args.any("prefix")).texts();
    }
    let volume = open(scope, accessor, path, true).await?;
    let end = volume.records().saturating_add(1);
    let mut links = Links::new(volume.clone(), options);
    let mut next = u64::try_from(args.int("start")?).unwrap_or(0);
    scope.log(Level::Debug, format!("parse_mft: {end} records"));
    while next < end {
        let (volume, until) = (volume.clone(), end.min(next + BATCH));
        let some = move || {
            let found: Vec<Row> =
                (next..until).flat_map(|n| rows(&volume, &mut links, n)).collect();
            (found, links)
        };
        let found;
        (found, links) = blocking(scope, some).await?;
        scope.charge_op().await;
        for row in found {
            emitter.send(Value::object(row)).await?;
        }
        next = until;
    }
    Ok(())
}
