//! `parse_usn`: the journal of changes that an NTFS volume keeps in `$Extend\$UsnJrnl:$J`.

use std::io::{self, Read, SeekFrom};
use std::sync::Arc;

use vql::{ArgType, Args, Dict, Emitter, Error, Level, Registry, Scope, Signature, Value};

use super::attribute::DATA;
use super::links::{Links, Name, Options};
use super::records::{open, open_device};
use super::volume::Volume;
use super::{ROOT, index, ranges, time};
use crate::plugins::common::accessor::{Range, ReadSeek, accessor, path_of};
use crate::plugins::common::blocking;
use crate::plugins::common::fields::{Fields, wide};
use crate::plugins::common::path::{Kind, OsPath};

/// Bytes read at a time.
const PAGE: usize = 1 << 20;
/// Bytes of a record without its name, and of the largest.
const SMALLEST: usize = 60;
const LARGEST: usize = 1024;
/// Records between two chances to give way.
const BATCH: usize = 512;

/// Reasons of a record by their bits.
const REASONS: [(u32, &str); 21] = [
    (0, "DATA_OVERWRITE"),
    (1, "DATA_EXTEND"),
    (2, "DATA_TRUNCATION"),
    (4, "NAMED_DATA_OVERWRITE"),
    (5, "NAMED_DATA_EXTEND"),
    (6, "NAMED_DATA_TRUNCATION"),
    (8, "FILE_CREATE"),
    (9, "FILE_DELETE"),
    (10, "EA_CHANGE"),
    (11, "SECURITY_CHANGE"),
    (12, "RENAME_OLD_NAME"),
    (13, "RENAME_NEW_NAME"),
    (14, "INDEXABLE_CHANGE"),
    (15, "BASIC_INFO_CHANGE"),
    (16, "HARD_LINK_CHANGE"),
    (17, "COMPRESSION_CHANGE"),
    (18, "ENCRYPTION_CHANGE"),
    (19, "OBJECT_ID_CHANGE"),
    (20, "REPARSE_POINT_CHANGE"),
    (21, "STREAM_CHANGE"),
    (31, "CLOSE"),
];
/// Where a change came from, by bits.
const SOURCES: [(u32, &str); 3] =
    [(0, "DATA_MANAGEMENT"), (1, "AUXILIARY_DATA"), (2, "REPLICATION_MANAGEMENT")];
/// Attributes of a file by their bits.
const ATTRIBUTES: [(u32, &str); 17] = [
    (0, "READONLY"),
    (1, "HIDDEN"),
    (2, "SYSTEM"),
    (4, "DIRECTORY"),
    (5, "ARCHIVE"),
    (6, "DEVICE"),
    (7, "NORMAL"),
    (8, "TEMPORARY"),
    (9, "SPARSE_FILE"),
    (10, "REPARSE_POINT"),
    (11, "COMPRESSED"),
    (12, "OFFLINE"),
    (13, "NOT_CONTENT_INDEXED"),
    (14, "ENCRYPTED"),
    (15, "INTEGRITY_STREAM"),
    (16, "VIRTUAL"),
    (17, "NO_SCRUB_DATA"),
];

/// Adds `parse_usn`.
pub fn register(registry: &mut Registry) {
    let usn = Signature::new("parse_usn", "The journal of changes of an NTFS volume.")
        .arg("device", ArgType::Path, "A device, for the accessor ntfs.")
        .arg("image_filename", ArgType::Path, "An image of a volume.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("mft_filename", ArgType::Path, "A $MFT by itself, for paths.")
        .arg("usn_filename", ArgType::Path, "A journal by itself.")
        .arg("start_offset", ArgType::Int, "Where in the journal to begin.")
        .arg("fast_paths", ArgType::Bool, "Do not use the journal itself for paths.")
        .version(2);
    registry.plugin_async(
        usn,
        |scope, args, emitter| async move { run(&scope, &args, &emitter).await },
    );
}

/// A change.
#[derive(Clone, Debug)]
struct Change {
    usn: u64,
    /// Records of the file and its directory, and which use of them.
    file: (u64, u16),
    parent: (u64, u16),
    ticks: u64,
    reason: u32,
    source: u32,
    attributes: u32,
    name: String,
}

impl Change {
    fn read(b: &[u8]) -> Option<Change> {
        let reference = |at| Some((b.u64(at)? & 0xffff_ffff_ffff, b.u16(at + 6)?));
        // Of other versions the fields are elsewhere.
        if (b.u16(4)?, b.u16(6)?) != (2, 0) {
            return None;
        }
        let (length, at) = (usize::from(b.u16(56)?), usize::from(b.u16(58)?));
        let name = b.get(at..).unwrap_or_default();
        Some(Change {
            usn: b.u64(24).filter(|usn| *usn > 0 && b.u32(0) != Some(0))?,
            file: reference(8)?,
            parent: reference(16)?,
            ticks: b.u64(32)?,
            reason: b.u32(40)?,
            source: b.u32(44)?,
            attributes: b.u32(52)?,
            name: wide(&name[..length.min(name.len())]),
        })
    }

    fn row(&self, links: &mut Links) -> Dict {
        let paths = self.paths(links);
        let set = |names: &[(u32, &'static str)], bits: u32| -> Value {
            names.iter().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, n)| *n).collect()
        };
        Dict::new()
            .with("Usn", self.usn)
            .with("Timestamp", time(self.ticks))
            .with("Filename", self.name.as_str())
            .with("_Links", paths.iter().collect::<Value>())
            .with("OSPath", paths.first().map_or("", String::as_str))
            .with("FileAttributes", set(&ATTRIBUTES, self.attributes))
            .with("Reason", set(&REASONS, self.reason))
            .with("SourceInfo", set(&SOURCES, self.source))
            .with("_FileMFTID", self.file.0)
            .with("_FileMFTSequence", self.file.1)
            .with("_ParentMFTID", self.parent.0)
            .with("_ParentMFTSequence", self.parent.1)
    }

    /// The file itself may be gone, so its directory's paths are asked for.
    fn paths(&self, links: &mut Links) -> Vec<String> {
        if links.names_only() {
            return vec![self.name.clone()];
        }
        let (parent, sequence) = self.parent;
        if let Err(other) = links.in_use(parent, sequence) {
            let text = match other {
                Some(other) => format!("<Parent {parent}-{other} need {sequence}>"),
                None => format!("<Parent {parent} is no record>"),
            };
            return vec![format!("<Err>\\{text}\\{}", self.name)];
        }
        let paths = links.paths(parent, sequence, 0).into_iter();
        paths.map(|p| format!("{}\\{}", p.join("\\"), self.name)).collect()
    }
}

/// A journal that is read from its beginning.
struct Journal {
    file: Box<dyn ReadSeek>,
    /// Stretches in which anything is stored.
    stored: std::vec::IntoIter<Range>,
    /// Where in the present stretch, and its end.
    at: u64,
    end: u64,
    page: (u64, Vec<u8>),
}

impl Journal {
    fn new(file: Box<dyn ReadSeek>, ranges: Vec<Range>, from: u64) -> Journal {
        let mut stored = ranges;
        stored.retain(|r| !r.hole && r.offset.saturating_add(r.length) > from);
        for range in &mut stored {
            let behind = range.offset.max(from) - range.offset;
            (range.offset, range.length) = (range.offset + behind, range.length - behind);
        }
        let stored = stored.into_iter();
        Journal { file, stored, at: 0, end: 0, page: (0, Vec::new()) }
    }

    /// Up to `length` bytes at a place.
    fn bytes(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
        let length = length.min(usize::try_from(self.end.saturating_sub(at)).unwrap_or(length));
        let (start, page) = &self.page;
        let inside = at.checked_sub(*start).and_then(|n| usize::try_from(n).ok());
        let whole = inside.is_some_and(|n| n + length <= page.len());
        if !whole {
            self.file.seek(SeekFrom::Start(at))?;
            let mut page = std::mem::take(&mut self.page.1);
            page.clear();
            let most = (self.end - at).min(PAGE as u64);
            (&mut self.file).take(most).read_to_end(&mut page)?;
            self.page = (at, page);
        }
        let inside = if whole { inside.unwrap_or(0) } else { 0 };
        let rest = self.page.1.get(inside..).unwrap_or_default();
        Ok(&rest[..length.min(rest.len())])
    }

    /// The next change; `None` at the end.
    fn next(&mut self) -> io::Result<Option<Change>> {
        loop {
            while self.at + SMALLEST as u64 <= self.end {
                let at = self.at;
                let b = self.bytes(at, LARGEST)?;
                if b.len() < SMALLEST {
                    break;
                }
                let length = b.u32(0).unwrap_or(0) as usize;
                let change = Change::read(b).filter(|_| (SMALLEST..LARGEST).contains(&length));
                // Records begin at eights; between them may be zeros, and pages that were
                // not written whole.
                self.at = match &change {
                    Some(_) => at + (length as u64).next_multiple_of(8),
                    None => {
                        let zeros = b.iter().take_while(|b| **b == 0).count() & !7;
                        at + (zeros as u64).max(8)
                    }
                };
                if change.is_some() {
                    return Ok(change);
                }
            }
            let Some(range) = self.stored.next() else { return Ok(None) };
            (self.at, self.end) = (range.offset, range.offset.saturating_add(range.length));
        }
    }
}

/// Where the journal comes from and what paths are asked of.
struct Source {
    volume: Option<Arc<Volume>>,
    /// A journal by itself.
    journal: Option<(Arc<dyn crate::plugins::common::Accessor>, OsPath)>,
}

impl Source {
    fn open(&self, from: u64) -> io::Result<Journal> {
        if let Some((accessor, path)) = &self.journal {
            let length = accessor.lstat(path)?.size;
            let all = vec![Range { offset: 0, length, hole: false }];
            let ranges = accessor.ranges(path)?.unwrap_or(all);
            return Ok(Journal::new(accessor.open(path)?, ranges, from));
        }
        let missing = || io::Error::other("neither a journal nor a volume with one is given");
        let volume = self.volume.as_ref().ok_or_else(missing)?;
        let below = |record: u64, name: &str| -> io::Result<u64> {
            let all = index::entries(volume, &volume.attributes(record)?)?;
            let found = all.into_iter().find(|e| e.name.name.eq_ignore_ascii_case(name));
            Ok(found.ok_or_else(|| io::Error::other("the volume has no journal"))?.record)
        };
        let attributes = volume.attributes(below(below(ROOT, "$Extend")?, "$UsnJrnl")?)?;
        let data = attributes.into_iter().find(|a| a.kind == DATA && a.name == "$J");
        let data = data.ok_or_else(|| io::Error::other("the volume has no journal"))?;
        let all = vec![Range { offset: 0, length: data.size, hole: false }];
        let stored = ranges(&data).unwrap_or(all);
        Ok(Journal::new(Box::new(volume.stream(data)), stored, from))
    }
}

async fn run(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let through = accessor(scope, &args.string("accessor")?)?;
    let named = |name: &str| {
        let path = args.has(name).then(|| path_of(scope, &*through, &args.any(name)));
        path.filter(|p| !p.components.is_empty() || p.delegate.is_some())
    };
    let mut options = Options::of(scope);
    let device = args.has("device").then(|| {
        let text = args.any("device").to_str();
        OsPath::of_kind(Kind::Ntfs, text.as_bytes())
    });
    let volume = match (&device, named("image_filename"), named("mft_filename")) {
        (Some(device), _, _) => {
            options.prefix = device.texts();
            Some(open_device(scope, device.clone()).await)
        }
        (None, Some(image), _) => Some(open(scope, through.clone(), image, false).await),
        (None, None, Some(table)) => Some(open(scope, through.clone(), table, true).await),
        (None, None, None) => None,
    };
    let volume = match volume {
        Some(Ok(volume)) => Some(volume),
        other => {
            let why = other.and_then(Result::err).map(|e| format!(" ({e})")).unwrap_or_default();
            let text = format!("parse_usn: no table of files{why}; only names are given");
            scope.log(Level::Default, text);
            options.names_only = true;
            None
        }
    };
    let journal = named("usn_filename").map(|path| (through.clone(), path));
    let source = Arc::new(Source { volume, journal });
    let none = || Volume::of_table(Box::new(io::empty())).map_err(Error::failed);
    let volume = source.volume.clone().map_or_else(none, Ok)?;
    let mut links = Links::new(volume, options);
    let from = u64::try_from(args.int("start_offset")?).unwrap_or(0);
    // What the journal says of files that are gone is known before their children are met.
    let passes = if args.bool("fast_paths")? || links.names_only() { 1 } else { 2 };
    for pass in 1..=passes {
        let opened = source.clone();
        let journal = blocking(scope, move || opened.open(from)).await?;
        let mut journal = journal.map_err(|e| Error::failed(format!("parse_usn: {e}")))?;
        loop {
            let some = move || {
                let mut found = Vec::new();
                while found.len() < BATCH {
                    match journal.next() {
                        Ok(Some(change)) if pass == passes => found.push(change.row(&mut links)),
                        Ok(Some(c)) => {
                            let Change { file, parent, name, .. } = c;
                            links.tell(file.0, file.1, || Name { name, short: false, parent });
                            found.push(Dict::new());
                        }
                        Ok(None) => return (found, Ok(false), journal, links),
                        Err(e) => return (found, Err(e), journal, links),
                    }
                }
                (found, Ok(true), journal, links)
            };
            let (found, more);
            (found, more, journal, links) = blocking(scope, some).await?;
            scope.charge_op().await;
            if pass == passes {
                for row in found {
                    emitter.send(row).await?;
                }
            }
            if !more.map_err(|e| Error::failed(format!("parse_usn: {e}")))? {
                break;
            }
        }
    }
    Ok(())
}
