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

use std::io::{self, Cursor};
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
        match file.data() {
            Some(data) => Ok(Box::new(volume.stream(data.clone()))),
            // What reads directories as empty files must not take this for one.
            None if file.is_dir() => Err(io::Error::other("a directory has no content")),
            None if file.stream.is_empty() => Ok(Box::new(Cursor::new(Vec::new()))),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn device(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        self.below.open_outer(path)
    }

    fn ranges(&self, path: &OsPath) -> io::Result<Option<Vec<Range>>> {
        let volume = self.volume(path)?;
        let file = self.find(&volume, &path.clone().as_kind(Kind::Ntfs))?;
        Ok(file.data().and_then(ranges))
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
mod tests {
    use super::*;
    use std::io::{Read, Seek, SeekFrom};

    const CLUSTER: usize = 512;

    fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
        data[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    fn attribute(kind: u32, id: u16, name: &str, rest: &[u8], resident: bool) -> Vec<u8> {
        let name = utf16(name);
        let head = if resident { 24 } else { 64 };
        let content = (head + name.len()).next_multiple_of(8);
        let mut out = vec![0; (content + rest.len()).next_multiple_of(8)];
        let length = out.len() as u32;
        put(&mut out, 0, &kind.to_le_bytes());
        put(&mut out, 4, &length.to_le_bytes());
        out[8] = u8::from(!resident);
        out[9] = (name.len() / 2) as u8;
        out[10] = head as u8;
        put(&mut out, 14, &id.to_le_bytes());
        put(&mut out, head, &name);
        if resident {
            put(&mut out, 16, &(rest.len() as u32).to_le_bytes());
            put(&mut out, 20, &(content as u16).to_le_bytes());
        } else {
            put(&mut out, 32, &(content as u16).to_le_bytes());
        }
        put(&mut out, content, rest);
        out
    }

    fn on_disk(kind: u32, id: u16, name: &str, sizes: [u64; 2], runs: &[u8]) -> Vec<u8> {
        let mut out = attribute(kind, id, name, runs, false);
        put(&mut out, 48, &sizes[0].to_le_bytes());
        put(&mut out, 56, &sizes[1].to_le_bytes());
        out
    }

    fn file_name(name: &str, space: u8) -> Vec<u8> {
        let mut out = vec![0; 66];
        put(&mut out, 8, &132_444_736_000_000_000u64.to_le_bytes());
        put(&mut out, 16, &132_444_736_010_000_000u64.to_le_bytes());
        out[64] = name.encode_utf16().count() as u8;
        out[65] = space;
        out.extend(utf16(name));
        out
    }

    fn entry(record: u64, name: &str, space: u8, below: Option<u64>) -> Vec<u8> {
        let key = if name.is_empty() { Vec::new() } else { file_name(name, space) };
        let mut out = vec![0; (16 + key.len()).next_multiple_of(8)];
        put(&mut out, 16, &key);
        out.extend(below.iter().flat_map(|b| b.to_le_bytes()));
        let length = out.len() as u16;
        put(&mut out, 0, &record.to_le_bytes());
        put(&mut out, 8, &length.to_le_bytes());
        out[12] = u8::from(below.is_some()) | if name.is_empty() { 2 } else { 0 };
        out
    }

    fn node(entries: &[Vec<u8>]) -> Vec<u8> {
        let all = entries.concat();
        let mut out = vec![0; 16];
        put(&mut out, 0, &16u32.to_le_bytes());
        put(&mut out, 4, &(16 + all.len() as u32).to_le_bytes());
        out.extend(all);
        out
    }

    fn sealed(magic: &[u8; 4], head: usize, content: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 1024];
        put(&mut out, 0, magic);
        put(&mut out, 4, &[0x30, 0, 3, 0]);
        put(&mut out, head, content);
        let ends = [out[510], out[511], out[1022], out[1023]];
        put(&mut out, 0x32, &ends);
        for end in [510, 1022] {
            put(&mut out, end, &[9, 9]);
        }
        put(&mut out, 0x30, &[9, 9]);
        out
    }

    fn record(attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut content = attributes.concat();
        content.extend(u32::MAX.to_le_bytes());
        let mut out = sealed(b"FILE", 0x38, &content);
        (out[16], out[18], out[20], out[22]) = (3, 1, 0x38, 1);
        put(&mut out, 24, &(0x38 + content.len() as u32 + 4).to_le_bytes());
        out
    }

    /// A volume of small clusters: the table of records from cluster 4, an index record at
    /// cluster 40, content at cluster 50.
    fn image() -> Vec<u8> {
        let mut data = vec![0; 60 * CLUSTER];
        put(&mut data, 3, b"NTFS    ");
        put(&mut data, 11, &(CLUSTER as u16).to_le_bytes());
        data[13] = 1;
        data[48] = 4;
        data[64] = 2;
        data[68] = 2;
        let mut times = vec![0; 48];
        for (at, second) in [(0, 1u64), (8, 2), (16, 3), (24, 4)] {
            let ticks = 132_444_736_000_000_000 + second * 10_000_000;
            put(&mut times, at, &ticks.to_le_bytes());
        }
        let times = || attribute(0x10, 0, "", &times, true);
        let mut root = vec![0; 16];
        root.extend(node(&[entry(6, "b.txt", 0, Some(0)), entry(0, "", 0, None)]));
        let block = sealed(b"INDX", 24, &{
            // The list of sector ends stands behind the head of the node.
            let mut inner = node(&[
                entry(7, "A dir", 1, None),
                entry(7, "ADIR~1", 2, None),
                entry(0, "", 0, None),
            ]);
            let entries = inner.split_off(16);
            put(&mut inner, 0, &40u32.to_le_bytes());
            put(&mut inner, 4, &(40 + entries.len() as u32).to_le_bytes());
            inner.resize(40, 0);
            inner.extend(entries);
            inner
        });
        let mut inner = vec![0; 16];
        inner.extend(node(&[
            entry(8, "\u{e9}", 0, None),
            entry(99, "lost", 0, None),
            entry(0, "", 0, None),
        ]));
        let records = [
            (0, record(&[on_disk(0x80, 1, "", [20 << 10, 20 << 10], &[0x11, 36, 4, 0])])),
            (
                5,
                record(&[
                    times(),
                    attribute(0x90, 1, "$I30", &root, true),
                    on_disk(0xa0, 2, "$I30", [1024, 1024], &[0x11, 2, 40, 0]),
                ]),
            ),
            (
                6,
                record(&[
                    times(),
                    attribute(0x30, 3, "", &file_name("b.txt", 0), true),
                    attribute(0x80, 1, "", b"hello", true),
                    // A cluster, two that are not there, and content that was never written.
                    on_disk(0x80, 2, "more", [2000, 1100], &[0x11, 1, 50, 0x01, 3, 0]),
                ]),
            ),
            (7, record(&[times(), attribute(0x90, 1, "$I30", &inner, true)])),
            (8, record(&[times(), attribute(0x80, 1, "", b"", true)])),
        ];
        for (number, mut record) in records {
            record[44] = number as u8;
            put(&mut data, 4 * CLUSTER + number * 1024, &record);
        }
        put(&mut data, 40 * CLUSTER, &block);
        data[50 * CLUSTER..51 * CLUSTER].fill(b'x');
        data
    }

    #[test]
    fn packed_content() {
        let mut data = image();
        data.resize(76 * CLUSTER, b'r');
        put(&mut data, 51 * CLUSTER, &[5, 0xb0, 8, b'a', b'b', b'c', 9, 0x20]);
        // Units of 16 clusters: one packed in one, one as it is, one that was never written.
        let list = [0x11, 1, 51, 0x01, 15, 0x11, 16, 9, 0x01, 16, 0];
        let size = 32 * CLUSTER as u64 + 9;
        let mut content = on_disk(0x80, 1, "", [size; 2], &list);
        (content[12], content[34]) = (1, 4);
        put(&mut data, 4 * CLUSTER + 8 * 1024, &record(&[content]));
        let volume = Volume::open(Box::new(Cursor::new(data))).unwrap();
        let content = volume.attributes(8).unwrap().pop().unwrap();
        let mut out = Vec::new();
        volume.stream(content.clone()).read_to_end(&mut out).unwrap();
        assert_eq!(out.len() as u64, size);
        let (first, rest) = out.split_at(16 * CLUSTER);
        assert_eq!(&first[..17], b"abcabcabcabcabc\0\0");
        assert!(rest[..16 * CLUSTER].iter().all(|b| *b == b'r'));
        assert_eq!(rest[16 * CLUSTER..], [0; 9]);
        let mut part = [0; 4];
        let mut file = volume.stream(content);
        file.seek(SeekFrom::Start(2)).unwrap();
        file.read_exact(&mut part).unwrap();
        assert_eq!(&part, b"cabc");
    }

    #[tokio::test]
    async fn files_of_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("disk");
        std::fs::write(&at, image()).unwrap();
        let mut registry = vql::Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        scope.set("Disk", at.to_str().unwrap());
        let query = async |text: &str| Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let walk = "SELECT OSPath.Path AS P, Size, IsDir, Data.mft AS I, Data.error != NULL AS E FROM glob(\
            globs='/**', accessor='raw_ntfs', root=pathspec(DelegatePath=Disk))";
        let expected = [
            r#"{"P":"A dir","Size":0,"IsDir":true,"I":"7-144-1","E":false}"#,
            r#"{"P":"b.txt","Size":5,"IsDir":false,"I":"6-128-1","E":false}"#,
            r#"{"P":"b.txt:more","Size":2000,"IsDir":false,"I":"6-128-2","E":false}"#,
            r#"{"P":"A dir\\lost","Size":0,"IsDir":false,"I":null,"E":true}"#,
            r#"{"P":"A dir\\é","Size":0,"IsDir":false,"I":"8-128-1","E":false}"#,
        ];
        assert_eq!(query(walk).await, format!("[{}]", expected.join(",")));
        let facts = "SELECT Mtime, Atime, Ctime, Btime, Mode.String AS M, Data FROM stat(accessor='raw_ntfs', \
            filename=pathspec(DelegatePath=Disk, Path='B.TXT'))";
        let named = "LET S(P) = stat(accessor='raw_ntfs', filename=pathspec(DelegatePath=Disk, Path=P)).OSPath.Path \
            SELECT S(P='/B.TXT') AS A, S(P='a DIR/\u{c9}') AS B, S(P='b.txt:MORE') AS C, \
            hash(accessor='raw_ntfs', path=pathspec(DelegatePath=Disk, Path='A dir')) AS D FROM scope()";
        let expected = r#"[{"A":"/b.txt","B":"/a DIR/é","C":"/b.txt:MORE","D":null}]"#;
        assert_eq!(query(named).await, expected);
        let expected = concat!(
            r#"[{"Mtime":"2020-09-13T12:26:42Z","Atime":"2020-09-13T12:26:44Z","Ctime":"2020-09-13T12:26:43Z","#,
            r#""Btime":"2020-09-13T12:26:41Z","M":"-rwxr-xr-x","Data":{"mft":"6-128-1","name_type":"POSIX","#,
            r#""fn_btime":"2020-09-13T12:26:40Z","fn_mtime":"2020-09-13T12:26:41Z"}}]"#
        );
        assert_eq!(query(facts).await, expected);
        let read = "LET R(P) = read_file(accessor='raw_ntfs', filename=pathspec(DelegatePath=Disk, Path=P)) \
            SELECT R(P='b.txt') AS A, len(list=R(P='b.txt:more')) AS L, R(P='b.txt:more')[510:514] =~ 'xx' AS X, \
            R(P='b.txt:none') AS N, R(P='A dir') AS D, R(P='a dir/é') AS E FROM scope()";
        let expected = r#"[{"A":"hello","L":2000,"X":true,"N":"","D":"","E":""}]"#;
        assert_eq!(query(read).await, expected);
        let read = "LET R(P) = read_file(accessor='mft', filename=pathspec(DelegatePath=Disk, Path=P)) \
            SELECT R(P='6') AS A, len(list=R(P='6-128-2')) AS L, R(P='6-128-9') AS N, R(P='x') AS X, \
            stat(accessor='mft', filename=pathspec(DelegatePath=Disk, Path='C:/6')).Size AS S, \
            stat(accessor='mft', filename=pathspec(DelegatePath=Disk, Path='6-128-9')).Size AS T FROM scope()";
        assert_eq!(query(read).await, r#"[{"A":"hello","L":2000,"N":"","X":"","S":5,"T":5}]"#);
    }

    async fn on_disk_of(disk: &[u8], journal: &[u8], text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let (at, beside) = (dir.path().join("disk"), dir.path().join("journal"));
        std::fs::write(&at, disk).unwrap();
        std::fs::write(&beside, journal).unwrap();
        let mut registry = vql::Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        scope.set("Disk", at.to_str().unwrap());
        scope.set("Journal", beside.to_str().unwrap());
        Value::from(vql::run(text, &scope).await.unwrap()).to_json()
    }

    #[tokio::test]
    async fn records_of_files() {
        let text = "SELECT * FROM foreach(row=parse_ntfs(filename=Disk, inode='6-128-2'))";
        let expected = concat!(
            r#"[{"FullPath":"/b.txt","MFTID":6,"SequenceNumber":3,"Size":5,"Allocated":true,"IsDir":false,"#,
            r#""SI_Times":{"CreateTime":"2020-09-13T12:26:41Z","FileModifiedTime":"2020-09-13T12:26:42Z","#,
            r#""MFTModifiedTime":"2020-09-13T12:26:43Z","AccessedTime":"2020-09-13T12:26:44Z"},"#,
            r#""Filenames":[{"Times":{"CreateTime":"2020-09-13T12:26:40Z","FileModifiedTime":"2020-09-13T12:26:41Z","#,
            r#""MFTModifiedTime":"1601-01-01T00:00:00Z","AccessedTime":"1601-01-01T00:00:00Z"},"#,
            r#""Type":"POSIX","Name":"b.txt","ParentEntryNumber":0,"ParentSequenceNumber":0}],"#,
            r#""Attributes":[{"Type":"$STANDARD_INFORMATION","TypeId":16,"Id":0,"Inode":"6-16-0","Size":48,"Name":"","Resident":true},"#,
            r#"{"Type":"$FILE_NAME","TypeId":48,"Id":3,"Inode":"6-48-3","Size":76,"Name":"","Resident":true},"#,
            r#"{"Type":"$DATA","TypeId":128,"Id":1,"Inode":"6-128-1","Size":5,"Name":"","Resident":true},"#,
            r#"{"Type":"$DATA","TypeId":128,"Id":2,"Inode":"6-128-2","Size":2000,"Name":"more","Resident":false}],"#,
            r#""Hardlinks":["b.txt"]"#
        );
        let rows = on_disk_of(&image(), &[], text).await;
        assert!(rows.starts_with(expected), "{rows}");
        let text = "SELECT parse_ntfs(filename=Disk, mft=99) AS A, parse_ntfs(filename=Disk, inode='x') AS B, \
            parse_ntfs(mft=6) AS C, parse_ntfs(filename=Disk, mft=6).OSPath.Path AS D FROM scope()";
        let expected = r#"[{"A":null,"B":null,"C":null,"D":"b.txt"}]"#;
        assert_eq!(on_disk_of(&image(), &[], text).await, expected);
        let text = "SELECT EntryNumber AS E, Inode AS I, OSPath.Components AS P, FullPath AS F, FileNames AS N, Components[1] AS O, \
            FileSize AS S, HasADS AS H, SIFlags AS G, USecZeros AS U, Created0x10 AS C, LastModified0x30 AS M \
            FROM parse_mft(accessor='mft', filename=pathspec(DelegatePath=Disk, Path='0'), prefix='C:')";
        let expected = concat!(
            r#"[{"E":6,"I":"6","P":["\\\\.\\C:","b.txt"],"F":"\\\\.\\C:\\b.txt","N":["b.txt"],"O":"b.txt","S":5,"H":true,"G":"0 ()","U":true,"#,
            r#""C":"2020-09-13T12:26:41Z","M":"2020-09-13T12:26:41Z"},"#,
            r#"{"E":6,"I":"6:more","P":["\\\\.\\C:","b.txt:more"],"F":"\\\\.\\C:\\b.txt:more","N":["b.txt:more"],"O":"b.txt:more","S":64,"H":true,"#,
            r#""G":"0 ()","U":true,"C":"2020-09-13T12:26:41Z","M":"2020-09-13T12:26:41Z"}]"#
        );
        assert_eq!(on_disk_of(&image(), &[], text).await, expected);
    }

    #[tokio::test]
    async fn where_content_lies() {
        let text = "SELECT Level AS L, FromOffset AS F, ToOffset AS T, Length AS N, CompressedLength AS C, \
            IsSparse AS S, ClusterSize AS U, Reader AS R, String =~ 'FileOffset' AS Told \
            FROM parse_ntfs_ranges(filename=Disk, inode=";
        let of = async |inode: &str| on_disk_of(&image(), &[], &format!("{text}'{inode}')")).await;
        let expected =
            r#"[{"L":0,"F":0,"T":0,"N":5,"C":0,"S":false,"U":1,"R":"*bytes.Reader","Told":true}]"#;
        assert_eq!(of("6-128-1").await, expected);
        let expected = [
            r#"{"L":0,"F":0,"T":0,"N":1100,"C":0,"S":false,"U":1,"R":"*parser.RangeReader","Told":true}"#,
            r#"{"L":1,"F":0,"T":50,"N":1,"C":0,"S":false,"U":512,"R":"*readers.AccessorReader","Told":true}"#,
            r#"{"L":1,"F":1,"T":0,"N":3,"C":0,"S":false,"U":512,"R":"*readers.AccessorReader","Told":true}"#,
            r#"{"L":0,"F":1100,"T":0,"N":900,"C":0,"S":true,"U":1,"R":"*parser.NullReader","Told":true}"#,
        ];
        assert_eq!(of("6-128-2").await, format!("[{}]", expected.join(",")));
        assert_eq!(of("6-128-9").await, "[]");
        assert_eq!(of("x").await, "[]");
    }

    #[tokio::test]
    async fn entries_of_directories() {
        let text = "SELECT MFTId AS R, Name AS N, NameType AS T, IsSlack AS S \
            FROM parse_ntfs_i30(filename=Disk, mft=7)";
        let expected = r#"[{"R":"8","N":"é","T":"POSIX","S":false},{"R":"99","N":"lost","T":"POSIX","S":false}]"#;
        assert_eq!(on_disk_of(&image(), &[], text).await, expected);
    }

    /// A change of a file in a directory, each with a use of its record.
    fn change(usn: u64, file: (u64, u16), parent: (u64, u16), name: &str) -> Vec<u8> {
        let mut out = vec![0; (60 + name.len() * 2).next_multiple_of(8)];
        let length = out.len() as u32;
        put(&mut out, 0, &length.to_le_bytes());
        out[4] = 2;
        for (at, (record, sequence)) in [(8, file), (16, parent)] {
            put(&mut out, at, &(record | u64::from(sequence) << 48).to_le_bytes());
        }
        put(&mut out, 24, &usn.to_le_bytes());
        put(&mut out, 32, &132_444_736_000_000_000u64.to_le_bytes());
        put(&mut out, 40, &0x8000_0100u32.to_le_bytes());
        put(&mut out, 52, &0x20u32.to_le_bytes());
        put(&mut out, 56, &[(name.len() * 2) as u8, 0, 60, 0]);
        put(&mut out, 60, &utf16(name));
        out
    }

    #[tokio::test]
    async fn journals_of_changes() {
        let parts = [
            vec![0; 64],
            change(64, (20, 1), (6, 3), "new"),
            vec![0; 4096],
            vec![0xee; 40],
            // A directory that is gone, and what was in it.
            change(72, (20, 2), (8, 1), "child"),
            change(80, (8, 1), (6, 3), "gone"),
            change(88, (21, 1), (6, 9), "lost"),
        ];
        let journal = parts.concat();
        let text = "SELECT * FROM parse_usn(usn_filename=Journal, image_filename=Disk) LIMIT 1";
        let expected = concat!(
            r#"[{"Usn":64,"Timestamp":"2020-09-13T12:26:40Z","Filename":"new","_Links":["b.txt\\new"],"#,
            r#""OSPath":"b.txt\\new","FileAttributes":["ARCHIVE"],"Reason":["FILE_CREATE","CLOSE"],"#,
            r#""SourceInfo":[],"_FileMFTID":20,"_FileMFTSequence":1,"_ParentMFTID":6,"_ParentMFTSequence":3}]"#
        );
        assert_eq!(on_disk_of(&image(), &journal, text).await, expected);
        let text = "SELECT OSPath AS P FROM parse_usn(usn_filename=Journal, image_filename=Disk, start_offset=72)";
        let expected = r#"[{"P":"b.txt\\gone\\child"},{"P":"b.txt\\gone"},{"P":"\u003cErr\u003e\\\u003cParent 6-3 need 9\u003e\\lost"}]"#;
        assert_eq!(on_disk_of(&image(), &journal, text).await, expected);
        let text = "SELECT OSPath AS P FROM parse_usn(usn_filename=Journal)";
        let expected = r#"[{"P":"new"},{"P":"child"},{"P":"gone"},{"P":"lost"}]"#;
        assert_eq!(on_disk_of(&image(), &journal, text).await, expected);
        // There is none in the image.
        assert_eq!(
            on_disk_of(&image(), &[], "SELECT * FROM parse_usn(image_filename=Disk)").await,
            "[]"
        );
    }

    #[test]
    fn volumes_that_lie() {
        let good = image();
        let look = |data: Vec<u8>| {
            let Ok(volume) = Volume::open(Box::new(Cursor::new(data))) else { return };
            let options = links::Options::of(
                &vql::ScopeBuilder::new(Arc::new(vql::Registry::standard())).build(),
            );
            let mut links = links::Links::new(volume.clone(), options);
            for record in 0..10 {
                let Ok(attributes) = volume.attributes(record) else { continue };
                let _ = index::entries(&volume, &attributes);
                index::every_entry(&volume, &attributes);
                links.paths(record, 3, 0);
                for a in attributes {
                    let _ = volume.content(&a, 1 << 16);
                }
            }
        };
        let places = (0..100).chain(4 * CLUSTER..22 * CLUSTER).chain(40 * CLUSTER..41 * CLUSTER);
        for at in places.filter(|at| good[*at] != 0) {
            for bits in [0xff, 0x01, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= bits;
                look(bad);
            }
        }
        for length in (0..good.len()).step_by(300) {
            look(good[..length].to_vec());
        }
    }
}
