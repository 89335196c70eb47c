//! The accessors `raw_ntfs` and `mft`: files of an NTFS volume in an image, also those that
//! its system hides. `raw_ntfs` finds them by name, further streams as `file:stream`; `mft`
//! by number, as `46` or `46-128-5`: record, type and id of an attribute. Reads only; what
//! the file system compressed is unpacked, what it encrypted is not.

mod attribute;
mod index;
mod links;
mod packed;
mod ranges;
mod records;
mod stream;
mod usn;
mod volume;

use std::io;
use std::sync::Arc;

use vql::{Dict, Scope, Str, Time, Value};

use super::accessor::{Accessor, Accessors, FileInfo, Range, ReadSeek};
use super::fields::Fields;
use super::last::Last;
use super::path::{Kind, OsPath};
use attribute::{Attribute, DATA, FILE_NAME, INDEX_ALLOCATION, INDEX_ROOT, STANDARD_INFORMATION};
use index::FileName;
use volume::Volume;

/// Adds the callables that read volumes: `parse_ntfs` and others.
pub fn register(registry: &mut vql::Registry) {
    records::register(registry);
    ranges::register(registry);
    usn::register(registry);
}

/// The record of the root directory.
const ROOT: u64 = 5;
/// Largest attribute that is read for what it says of a file.
const FACTS: u64 = 64 << 10;

/// See the module.
pub struct NtfsFiles {
    /// What images are read with.
    below: Accessors,
    /// The volume used last.
    last: Last<Arc<Volume>>,
}

/// A file that was found.
struct File {
    record: u64,
    /// Its name, as the volume has it.
    name: String,
    attributes: Vec<Attribute>,
    /// The stream that was asked for; empty for the content.
    stream: String,
}

impl NtfsFiles {
    /// Images are read with `below`.
    pub fn new(below: Accessors) -> NtfsFiles {
        NtfsFiles { below, last: Last::default() }
    }

    fn volume(&self, path: &OsPath) -> io::Result<Arc<Volume>> {
        let of = path.delegate.as_deref();
        let of = of.ok_or_else(|| io::Error::other("a path in no image"))?;
        self.last.or_open(of, || Volume::open(self.below.open_outer(path)?))
    }

    fn find(&self, volume: &Volume, path: &OsPath) -> io::Result<File> {
        let (mut record, mut name, mut stream) = (ROOT, String::new(), String::new());
        for (i, part) in path.components.iter().enumerate() {
            let entries = index::entries(volume, &volume.attributes(record)?)?;
            let named = |name: &str| {
                let name = name.to_lowercase();
                entries.iter().find(|e| e.name.name.to_lowercase() == name)
            };
            let part = part.to_text();
            let entry = match (named(&part), part.split_once(':')) {
                (Some(entry), _) => entry,
                (None, Some((file, rest))) if i + 1 == path.components.len() => {
                    stream = rest.to_owned();
                    named(file).ok_or(io::ErrorKind::NotFound)?
                }
                _ => return Err(io::ErrorKind::NotFound.into()),
            };
            record = entry.record;
            name = entry.name.name.clone();
        }
        Ok(File { record, name, attributes: volume.attributes(record)?, stream })
    }
}

impl File {
    fn data(&self) -> Option<&Attribute> {
        let same = |a: &&Attribute| a.kind == DATA && a.name.eq_ignore_ascii_case(&self.stream);
        self.attributes.iter().find(same)
    }

    /// What reading it gives: without a stream in the path the unnamed one, or else the first
    /// there is, as of `$Secure`.
    fn content(&self) -> Option<&Attribute> {
        let any = || self.attributes.iter().find(|a| a.kind == DATA && self.stream.is_empty());
        self.data().or_else(any)
    }

    fn is_dir(&self) -> bool {
        let index = |a: &Attribute| a.kind == INDEX_ROOT && a.name == "$I30";
        self.stream.is_empty() && self.attributes.iter().any(index)
    }

    fn info(&self, volume: &Volume, path: OsPath) -> FileInfo {
        let facts = |kind: u32| {
            let all = self.attributes.iter().filter(move |a| a.kind == kind);
            all.filter_map(|a| volume.content(a, FACTS).ok()).collect::<Vec<_>>()
        };
        let mut info = FileInfo::plain(path, self.data().map_or(0, |d| d.size));
        info.mode = if self.is_dir() { 0o040_755 } else { 0o100_755 };
        if let Some(b) = facts(STANDARD_INFORMATION).first() {
            info.times = [8, 24, 16, 0].map(|at| b.u64(at).map_or(0, nanoseconds));
        }
        let tree = |a: &&Attribute| matches!(a.kind, INDEX_ROOT | INDEX_ALLOCATION);
        let main = self.data().or_else(|| self.attributes.iter().rfind(tree));
        if let Some(a) = main {
            info.data.set("mft", format!("{}-{}-{}", self.record, a.kind, a.id));
        }
        let names: Vec<FileName> =
            facts(FILE_NAME).iter().filter_map(|b| FileName::read(b)).collect();
        let last = info.path.components.last().map(|c| c.to_text().into_owned());
        let same = |n: &&FileName| last.as_deref().is_some_and(|l| l.starts_with(&n.name));
        let long = || names.iter().find(|n| n.space != 2);
        if let Some(name) = names.iter().filter(|n| n.space != 2).find(same).or_else(long) {
            let [born, modified] = name.times.map(time);
            info.data.set("name_type", name.space_name());
            info.data.set("fn_btime", born);
            info.data.set("fn_mtime", modified);
        }
        info
    }
}

/// Nanoseconds since 1970 of a time on the disk.
pub fn nanoseconds(ticks: u64) -> i64 {
    let since_1970 = (i128::from(ticks) - 116_444_736_000_000_000) * 100;
    i64::try_from(since_1970).unwrap_or(0)
}

fn time(ticks: u64) -> Value {
    let since_1970 = (i128::from(ticks) - 116_444_736_000_000_000) * 100;
    Time::from_nanosecond(since_1970).map_or(Value::Null, Value::Time)
}

impl Accessor for NtfsFiles {
    fn kind(&self) -> Kind {
        Kind::Ntfs
    }

    fn parse_pattern(&self, _scope: &Scope, text: &Str) -> OsPath {
        OsPath::of_kind(Kind::Windows, text.as_bytes())
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let volume = self.volume(path)?;
        let file = self.find(&volume, &path.clone().as_kind(Kind::Ntfs))?;
        match file.content() {
            Some(data) => Ok(Box::new(volume.stream(data.clone()))),
            // What reads directories as empty files must not take this for one.
            None if file.is_dir() => Err(io::Error::other("a directory has no content")),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "there is no such stream")),
        }
    }

    fn device(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        self.below.open_outer(path)
    }

    fn ranges(&self, path: &OsPath) -> io::Result<Option<Vec<Range>>> {
        let volume = self.volume(path)?;
        let file = self.find(&volume, &path.clone().as_kind(Kind::Ntfs))?;
        Ok(file.content().and_then(ranges))
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let volume = self.volume(path)?;
        let file = self.find(&volume, &path.clone().as_kind(Kind::Ntfs))?;
        if !file.stream.is_empty() && file.data().is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        // The path as it was asked for, with the name as it is.
        let mut shown = path.clone();
        if let Some(last) = shown.components.last_mut() {
            *last = match file.stream.as_str() {
                "" => file.name.as_str().into(),
                stream => format!("{}:{stream}", file.name).into(),
            };
        }
        Ok(file.info(&volume, shown))
    }

    fn read_dir(&self, path: &OsPath) -> io::Result<Vec<FileInfo>> {
        let path = path.clone().as_kind(Kind::Ntfs);
        let volume = self.volume(&path)?;
        let mut out = Vec::new();
        for entry in index::entries(&volume, &self.find(&volume, &path)?.attributes)? {
            let name = entry.name.name;
            if name == "." {
                continue;
            }
            let below = path.join(name.as_str());
            let attributes = match volume.attributes(entry.record) {
                Ok(attributes) => attributes,
                Err(e) => {
                    // The name is there, whatever has become of the file.
                    let mut info = FileInfo::plain(below, 0);
                    info.data = Dict::new().with("error", e.to_string());
                    out.push(info);
                    continue;
                }
            };
            let streams = attributes.iter().filter(|a| a.kind == DATA && !a.name.is_empty());
            let streams: Vec<String> = streams.map(|a| a.name.clone()).collect();
            let stream = String::new();
            let mut file = File { record: entry.record, name, attributes, stream };
            out.push(file.info(&volume, below));
            for stream in streams {
                let below = path.join(format!("{}:{stream}", file.name).as_str());
                file.stream = stream;
                out.push(file.info(&volume, below));
            }
        }
        out.sort_by(|a, b| a.path.components.last().cmp(&b.path.components.last()));
        Ok(out)
    }
}

/// Stored stretches and holes of a stream; `None` where it has no holes.
fn ranges(data: &Attribute) -> Option<Vec<Range>> {
    let mut out: Vec<Range> = Vec::new();
    for (offset, at, length) in data.runs() {
        let (hole, length) = (at.is_none(), length.min(data.size.saturating_sub(offset)));
        match out.last_mut().filter(|r| r.hole == hole && r.offset + r.length == offset) {
            Some(last) => last.length += length,
            None if length > 0 => out.push(Range { offset, length, hole }),
            None => {}
        }
    }
    out.iter().any(|r| r.hole).then_some(out)
}

/// See the module.
pub struct RecordFiles(pub NtfsFiles);

impl RecordFiles {
    /// The volume, the record and the attribute of a path's last component.
    fn find(&self, path: &OsPath) -> io::Result<(Arc<Volume>, File, Option<Attribute>)> {
        let volume = self.0.volume(path)?;
        let last = path.components.last().map(|c| c.to_text().into_owned()).unwrap_or_default();
        let wanted: Result<Vec<u64>, _> = last.split('-').map(str::parse).collect();
        let Ok([record, more @ ..]) = wanted.as_deref() else {
            return Err(io::Error::other(format!("{last} is no number of a file record")));
        };
        let attributes = volume.attributes(*record)?;
        let wanted = |a: &&Attribute| match more {
            [] => a.kind == DATA && a.name.is_empty(),
            [kind] => u64::from(a.kind) == *kind,
            [kind, id, ..] => u64::from(a.kind) == *kind && u64::from(a.id) == *id,
        };
        let found = attributes.iter().find(wanted).cloned();
        let (name, stream) = (String::new(), String::new());
        Ok((volume, File { record: *record, name, attributes, stream }, found))
    }
}

impl Accessor for RecordFiles {
    fn kind(&self) -> Kind {
        Kind::Ntfs
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let (volume, _, found) = self.find(path)?;
        Ok(Box::new(volume.stream(found.ok_or(io::ErrorKind::NotFound)?)))
    }

    fn ranges(&self, path: &OsPath) -> io::Result<Option<Vec<Range>>> {
        Ok(self.find(path)?.2.as_ref().and_then(ranges))
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let (volume, file, found) = self.find(path)?;
        let mut info = file.info(&volume, path.clone());
        info.size = found.map_or(info.size, |a| a.size);
        Ok(info)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests;
