//! Accessors turn a path into a file: `auto` and `file` are the host's own
//! files, `data` is its own content, `scope` the content of a variable.
//! All calls block; run them through [`super::blocking`].
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // reads the real host

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use vql::{Dict, Error, Key, Object, Scope, Str, Time, Value};

use super::bzip2::Bzip2;
use super::content::Content;
use super::ewf::Ewf;
use super::ext4::Ext4Images;
use super::fat::FatFiles;
use super::inside::{Gzip, Offset};
use super::ntfs::{NtfsFiles, RecordFiles};
use super::path::{Kind, OsPath};
use super::pipe::Pipes;
use super::process_memory::ProcessMemory;
use super::raw_file::RawFiles;
use super::raw_reg::RegistryFiles;
use super::remap::Remapped;
use super::sparse::{Ranged, Sparse};
use super::vhdx::Vhdx;
use super::zip::ZipFiles;
use super::{Host, host};

/// An open file.
pub trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

/// A stretch of a file; holes read as zeros and are not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Nothing is stored for it.
    pub hole: bool,
}

/// The first second of the year 1, in seconds since 1970.
const BEFORE_ALL: i64 = -62_135_596_800;

/// A time that is not known.
pub const UNKNOWN: i64 = i64::MIN;

/// What is known of a file without opening it.
#[derive(Clone, Debug)]
pub struct FileInfo {
    /// Its path.
    pub path: OsPath,
    /// Size in bytes.
    pub size: u64,
    /// Unix type and permission bits.
    pub mode: u32,
    /// Times in nanoseconds since 1970: modified, accessed, changed, born.
    pub times: [i64; 4],
    /// Device and inode; tells whether two names are one file.
    pub identity: (u64, u64),
    /// Further facts.
    pub data: Dict,
    /// The system's own record of it.
    pub system: Dict,
}

impl FileInfo {
    /// Facts about something that is no real file.
    pub fn plain(path: OsPath, size: u64) -> FileInfo {
        FileInfo {
            path,
            size,
            mode: 0o100_444,
            times: [0; 4],
            identity: (0, 0),
            data: Dict::new(),
            system: Dict::new(),
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    /// Whether it is a symbolic link.
    pub fn is_link(&self) -> bool {
        self.mode & 0o170_000 == 0o120_000
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.mode & 0o170_000 == 0o100_000
    }

    /// The row `glob` and `stat` give.
    pub fn row(&self, globs: Option<&[String]>) -> Value {
        Value::object(FileRow { info: self.clone(), globs: globs.map(<[String]>::to_vec) })
    }
}

/// [`FileInfo`] as a row. Mode and the system's own record have members too.
#[derive(Clone, Debug)]
struct FileRow {
    info: FileInfo,
    globs: Option<Vec<String>>,
}

const COLUMNS: [&str; 11] = [
    "Name", "OSPath", "Mtime", "Atime", "Ctime", "Btime", "Size", "Mode", "IsDir", "IsLink", "Data",
];

impl Object for FileRow {
    fn type_name(&self) -> &'static str {
        "*file.OSFileInfo"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn members(&self) -> Vec<Key> {
        match self.globs {
            // What has an older name too is a column once.
            Some(_) => {
                let once = COLUMNS.into_iter().filter(|c| !["ModTime", "FullPath"].contains(c));
                once.chain(["Globs"]).map(Key::from).collect()
            }
            None => COLUMNS.into_iter().map(Key::from).collect(),
        }
    }

    fn to_plain(&self) -> Value {
        if self.globs.is_some() {
            let pairs = self.members().into_iter().map(|name| {
                let value = self.member(&name).unwrap_or_default();
                (name, value)
            });
            return pairs.collect::<Dict>().into();
        }
        let names =
            ["FullPath", "Size", "Mode", "ModeStr", "ModTime", "Data", "Mtime", "Ctime", "Atime"];
        let pairs = names.into_iter().filter_map(|name| Some((name, self.member(name)?)));
        pairs.collect::<Dict>().into()
    }

    fn member(&self, name: &str) -> Option<Value> {
        let i = &self.info;
        Some(match name {
            "Name" => i.path.name().cloned().map_or("".into(), Value::Str),
            // Not a column, but there for queries of old.
            "FullPath" => Value::Str(i.path.bytes().into()),
            "OSPath" => Value::object(i.path.clone()),
            "ModTime" | "Mtime" => time(i.times[0]),
            "Atime" => time(i.times[1]),
            "Ctime" => time(i.times[2]),
            "Btime" => time(i.times[3]),
            "Size" => i.size.into(),
            "Mode" => Value::object(Mode(i.mode)),
            "ModeStr" => mode_text(i.mode).into(),
            "IsDir" => i.is_dir().into(),
            "IsLink" => i.is_link().into(),
            "Data" => i.data.clone().into(),
            "Globs" => self.globs.as_ref()?.iter().collect(),
            // Not a column, but there for queries that name it.
            "Sys" => i.system.clone().into(),
            _ => return None,
        })
    }

    fn truth(&self) -> bool {
        true
    }
}

/// Type and permissions of a file.
#[derive(Clone, Debug)]
struct Mode(u32);

impl Object for Mode {
    fn type_name(&self) -> &'static str {
        "fs.FileMode"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn member(&self, name: &str) -> Option<Value> {
        Some(match name {
            "String" => mode_text(self.0).into(),
            "IsDir" => (self.0 & 0o170_000 == 0o040_000).into(),
            "IsRegular" => (self.0 & 0o170_000 == 0o100_000).into(),
            "Perm" => Value::object(Mode(0o100_000 | (self.0 & 0o777))),
            _ => return None,
        })
    }

    fn text(&self) -> Option<String> {
        Some(mode_text(self.0))
    }

    fn to_plain(&self) -> Value {
        go_mode(self.0).into()
    }

    fn truth(&self) -> bool {
        self.0 != 0
    }
}

/// A time as a value. Unknown ones are the zero time of others, the first second of the year 1.
pub fn time(ns: i64) -> Value {
    let time = match ns {
        UNKNOWN => Time::from_second(BEFORE_ALL),
        ns => Time::from_nanosecond(i128::from(ns)),
    };
    time.map_or(Value::Null, Value::Time)
}

/// The number Go has for a mode: its own bits for types, the usual ones below.
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let set = special.into_iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go);
    set.fold(kind | mode & 0o777, |all, bit| all | bit)
}

/// The mode as Go prints it: `drwxr-xr-x`, `Lrwxrwxrwx`, `-rw-r--r--`.
pub fn mode_text(mode: u32) -> String {
    let mut out = String::new();
    match mode & 0o170_000 {
        0o040_000 => out.push('d'),
        0o120_000 => out.push('L'),
        0o060_000 => out.push('D'),
        0o020_000 => out.push_str("Dc"),
        0o010_000 => out.push('p'),
        0o140_000 => out.push('S'),
        _ => {}
    }
    for (bit, c) in [(0o4000, 'u'), (0o2000, 'g'), (0o1000, 't')] {
        if mode & bit != 0 {
            out.push(c);
        }
    }
    if out.is_empty() {
        out.push('-');
    }
    for i in (0..9).rev() {
        let set = mode & (1 << i) != 0;
        out.push(if set { ['x', 'w', 'r'][i % 3] } else { '-' });
    }
    out
}

/// See the module.
pub trait Accessor: Send + Sync {
    /// Reads the text of a path.
    fn parse(&self, scope: &Scope, text: &Str) -> OsPath {
        let _ = scope;
        self.read(text.as_bytes())
    }
    /// How paths are written.
    fn kind(&self) -> Kind {
        Kind::Linux
    }
    /// Reads the text of a path that no query knows.
    fn read(&self, text: &[u8]) -> OsPath {
        match OsPath::from_spec(text) {
            Some(path) => path.as_kind(self.kind()),
            None => OsPath::of_kind(self.kind(), text),
        }
    }
    /// Reads the text of a pattern of paths below a root.
    fn parse_pattern(&self, scope: &Scope, text: &Str) -> OsPath {
        self.parse(scope, text)
    }
    /// Opens for reading.
    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>>;
    /// Facts about the name itself; links are not followed. Where there are files alone,
    /// what can be opened is one, and its size all that is known.
    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let mut file = self.open(path)?;
        Ok(FileInfo::plain(path.clone(), file.seek(SeekFrom::End(0))?))
    }
    /// Facts about what the name leads to.
    fn stat(&self, path: &OsPath) -> io::Result<FileInfo> {
        self.lstat(path)
    }
    /// What is in a directory, in the order of names: nothing where there are files alone.
    fn read_dir(&self, path: &OsPath) -> io::Result<Vec<FileInfo>> {
        let _ = path;
        Ok(Vec::new())
    }
    /// Opens the device a path is on: of a tree that is read out of a file that file.
    fn device(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        self.open(path)
    }
    /// Stored stretches and holes in order; `None` when it cannot tell.
    fn ranges(&self, path: &OsPath) -> io::Result<Option<Vec<Range>>> {
        let _ = path;
        Ok(None)
    }
}

/// Where a reader of `size` bytes that stands `at` some place is after a seek.
pub fn sought(to: SeekFrom, size: u64, at: u64) -> io::Result<u64> {
    let to = match to {
        SeekFrom::Start(n) => Some(n),
        SeekFrom::End(n) => size.checked_add_signed(n),
        SeekFrom::Current(n) => at.checked_add_signed(n),
    };
    to.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "before the beginning"))
}

/// Files in files in files.
const LAYERS: usize = 4;

/// Accessors by name.
#[derive(Clone)]
pub struct Accessors(BTreeMap<String, Arc<dyn Accessor>>);

impl std::fmt::Debug for Accessors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Accessors {
    /// Those of an endpoint.
    pub fn endpoint(host: &Host) -> Accessors {
        let file: Arc<dyn Accessor> = Arc::new(NativeFiles::new(host.root.clone()));
        let mut map: BTreeMap<String, Arc<dyn Accessor>> = BTreeMap::new();
        for name in ["", "auto", "file", "file_links", "file_nocase"] {
            map.insert(name.into(), file.clone());
        }
        map.insert("ext4".into(), Arc::new(Ext4Files(NativeFiles::new(host.root.clone()))));
        map.insert("process".into(), Arc::new(ProcessMemory { proc: host.proc.clone() }));
        map.insert("raw_file".into(), Arc::new(RawFiles { root: host.root.clone() }));
        map.insert("data".into(), Arc::new(Content::Literal));
        map.insert("scope".into(), Arc::new(Content::Variable));
        Accessors::over(map)
    }

    /// Names of accessors that look into files.
    pub const LAYERED: &[&str] = &[
        "bzip2",
        "collector",
        "ewf",
        "fat",
        "gzip",
        "mft",
        "offset",
        "ranged",
        "raw_ext4",
        "raw_ntfs",
        "raw_reg",
        "sparse",
        "vhdx",
        "zip",
        "zip_nocase",
    ];

    /// `base`, and accessors that look into the files these give.
    pub fn over(base: BTreeMap<String, Arc<dyn Accessor>>) -> Accessors {
        let mut all = Accessors(base.clone());
        for _ in 0..LAYERS {
            let below = all;
            let mut map = base.clone();
            // What is there by that name stays.
            let mut add = |name: &str, accessor: Arc<dyn Accessor>| {
                debug_assert!(Accessors::LAYERED.contains(&name));
                map.entry(name.to_owned()).or_insert(accessor);
            };
            add("bzip2", Arc::new(Bzip2(below.clone())));
            add("collector", Arc::new(ZipFiles::collector(below.clone())));
            add("ewf", Arc::new(Ewf(below.clone())));
            add("fat", Arc::new(FatFiles::new(below.clone())));
            add("gzip", Arc::new(Gzip(below.clone())));
            add("mft", Arc::new(RecordFiles(NtfsFiles::new(below.clone()))));
            add("offset", Arc::new(Offset(below.clone())));
            add("ranged", Arc::new(Ranged(below.clone())));
            add("sparse", Arc::new(Sparse(below.clone())));
            add("raw_ext4", Arc::new(Ext4Images::new(below.clone())));
            add("raw_ntfs", Arc::new(NtfsFiles::new(below.clone())));
            add("raw_reg", Arc::new(RegistryFiles::new(below.clone())));
            add("vhdx", Arc::new(Vhdx(below.clone())));
            add("zip", Arc::new(ZipFiles::new(below.clone())));
            add("zip_nocase", Arc::new(ZipFiles::any_case(below)));
            all = Accessors(map);
        }
        all
    }

    /// None at all.
    pub fn none() -> Accessors {
        Accessors(BTreeMap::new())
    }

    /// Them all by name.
    pub fn map(&self) -> &BTreeMap<String, Arc<dyn Accessor>> {
        &self.0
    }

    /// Those that look into no files.
    pub fn outer(&self) -> BTreeMap<String, Arc<dyn Accessor>> {
        let mut all = self.0.clone();
        all.retain(|name, _| !Accessors::LAYERED.contains(&name.as_str()));
        all
    }

    /// Only those of which the name will do.
    pub fn keep(&mut self, will_do: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| will_do(name));
    }

    /// Opens what a path is inside of; a path by itself is that file.
    pub fn open_outer(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let (accessor, path) = self.outer_of(path)?;
        accessor.open(&path)
    }

    /// Facts about what a path is inside of.
    pub fn stat_outer(&self, path: &OsPath) -> io::Result<FileInfo> {
        let (accessor, path) = self.outer_of(path)?;
        accessor.stat(&path)
    }

    fn outer_of(&self, path: &OsPath) -> io::Result<(Arc<dyn Accessor>, OsPath)> {
        let (name, text) = match &path.delegate {
            Some(d) => (d.accessor.as_str(), d.path.as_bytes().to_vec()),
            None => ("", path.inner_bytes()),
        };
        let accessor = self
            .get(name)
            .ok_or_else(|| io::Error::other(format!("Unknown filesystem accessor {name}")))?;
        let path = accessor.read(&text);
        Ok((accessor, path))
    }

    /// Their names; the empty one stands for `auto`.
    pub fn names(&self) -> std::collections::BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    /// The accessor of that name.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Accessor>> {
        self.0.get(name).cloned()
    }

    /// Adds one; one of the same name is replaced.
    pub fn add(&mut self, name: &str, accessor: Arc<dyn Accessor>) {
        self.0.insert(name.into(), accessor);
    }
}

/// The accessor of that name; empty is `auto`.
pub fn accessor(scope: &Scope, name: &str) -> Result<Arc<dyn Accessor>, Error> {
    let all = Remapped::accessors(scope)
        .or_else(|| scope.extension::<Accessors>())
        .unwrap_or_else(|| Arc::new(Accessors::endpoint(&host(scope))));
    // This one is of variables of the query, so every query has its own.
    if name == "pipe" && !all.0.is_empty() {
        return Ok(Arc::new(Pipes::of(scope)));
    }
    let found = all.0.get(name).cloned();
    found.ok_or_else(|| Error::failed(format!("Unknown filesystem accessor {name}")))
}

/// The path of an argument: paths as they are, text as the accessor reads it.
pub fn path_of(scope: &Scope, accessor: &dyn Accessor, value: &Value) -> OsPath {
    match value {
        Value::Str(text) => accessor.parse(scope, text),
        Value::Bytes(_) => accessor.parse(scope, &value.to_str()),
        Value::List(items) if items.len() == 1 => path_of(scope, accessor, &items[0]),
        other => OsPath::of(other),
    }
}

struct NativeFiles {
    root: PathBuf,
    /// Types of file systems by their device.
    types: Mutex<BTreeMap<u64, &'static str>>,
}

/// Names of types of file systems by the number the kernel has for them.
const FILE_SYSTEMS: [(i64, &str); 24] = [
    (0xef53, "ext2"),
    (0x0102_1994, "tmpfs"),
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x794c_7630, "overlayfs"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x6969, "nfs"),
    (0x1cd1, "devpts"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x7371_7368, "squashfs"),
    (0x6462_6720, "debugfs"),
    (0x4d44, "msdos"),
    (0x2011_bab0, "exfat"),
    (0x5346_544e, "ntfs"),
    (0x6573_5546, "fuse"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0xf2f5_2010, "f2fs"),
    (0x9660, "isofs"),
    (0x9584_58f6, "hugetlbfs"),
    (0x1980_0202, "mqueue"),
    (0x7363_6673, "securityfs"),
];

impl NativeFiles {
    fn new(root: PathBuf) -> NativeFiles {
        NativeFiles { root, types: Mutex::default() }
    }

    /// The type of the file system of a device that holds this file.
    fn file_system(&self, device: u64, native: &std::path::Path) -> &'static str {
        let lock = || self.types.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&device).copied();
        if let Some(known) = known {
            return known;
        }
        let kind = rustix::fs::statfs(native).map_or(0, |s| s.f_type);
        let name =
            FILE_SYSTEMS.iter().find(|(n, _)| *n == kind).map_or("unknown", |(_, name)| name);
        lock().insert(device, name);
        name
    }

    fn info(&self, path: &OsPath, m: &std::fs::Metadata) -> FileInfo {
        let ns = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
        let born = m.created().ok().and_then(|t| {
            let d = t.duration_since(std::time::UNIX_EPOCH).ok()?;
            i64::try_from(d.as_nanos()).ok()
        });
        let mut data = Dict::new();
        if m.file_type().is_symlink()
            && let Ok(target) = std::fs::read_link(path.native(&self.root))
        {
            data.set("Link", target.to_string_lossy().into_owned());
        }
        data.set("DevMajor", rustix::fs::major(m.dev()));
        data.set("DevMinor", rustix::fs::minor(m.dev()));
        FileInfo {
            path: path.clone(),
            size: m.size(),
            mode: m.mode(),
            times: [
                ns(m.mtime(), m.mtime_nsec()),
                ns(m.atime(), m.atime_nsec()),
                ns(m.ctime(), m.ctime_nsec()),
                born.unwrap_or(UNKNOWN),
            ],
            identity: (m.dev(), m.ino()),
            data,
            system: Dict::new()
                .with("Dev", m.dev())
                .with("Ino", m.ino())
                .with("Nlink", m.nlink())
                .with("Mode", m.mode())
                .with("Uid", m.uid())
                .with("Gid", m.gid())
                .with("Rdev", m.rdev())
                .with("Size", m.size())
                .with("Blksize", m.blksize())
                .with("Blocks", m.blocks()),
        }
    }
}

impl Accessor for NativeFiles {
    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let native = path.native(&self.root);
        // A pipe or a device could block for ever; those are not read.
        let kind = std::fs::metadata(&native)?.file_type();
        if kind.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
        }
        if !kind.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(Box::new(std::fs::File::open(&native)?))
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        Ok(self.info(path, &std::fs::symlink_metadata(path.native(&self.root))?))
    }

    fn stat(&self, path: &OsPath) -> io::Result<FileInfo> {
        Ok(self.info(path, &std::fs::metadata(path.native(&self.root))?))
    }

    fn read_dir(&self, path: &OsPath) -> io::Result<Vec<FileInfo>> {
        use std::os::unix::ffi::OsStrExt;
        let mut out = Vec::new();
        for entry in std::fs::read_dir(path.native(&self.root))? {
            let entry = entry?;
            // What vanished meanwhile is not there.
            if let Ok(m) = entry.metadata() {
                let mut info = self.info(&path.join(entry.file_name().as_bytes()), &m);
                info.data.set("FSType", self.file_system(m.dev(), &entry.path()));
                out.push(info);
            }
        }
        out.sort_by(|a, b| a.path.components.last().cmp(&b.path.components.last()));
        Ok(out)
    }

    fn ranges(&self, path: &OsPath) -> io::Result<Option<Vec<Range>>> {
        let file = std::fs::File::open(path.native(&self.root))?;
        let meta = file.metadata()?;
        // Fewer blocks than bytes is how a hole shows; others need no index.
        if !meta.is_file() || meta.blocks().saturating_mul(512) >= meta.len() {
            return Ok(None);
        }
        ranges(&file, meta.len())
    }
}

/// Asks the file system for holes.
fn ranges(file: &std::fs::File, size: u64) -> io::Result<Option<Vec<Range>>> {
    use rustix::fs::{SeekFrom, seek};
    let mut out = Vec::new();
    let mut at = 0;
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(n) => n,
            Err(rustix::io::Errno::NXIO) => size,
            Err(rustix::io::Errno::INVAL) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if data > at {
            out.push(Range { offset: at, length: data - at, hole: true });
        }
        if data >= size {
            break;
        }
        let hole = seek(file, SeekFrom::Hole(data)).map_err(io::Error::from)?.min(size);
        out.push(Range { offset: data, length: hole - data, hole: false });
        at = hole;
    }
    Ok(out.iter().any(|r| r.hole).then_some(out))
}

/// Files with the flags that `lsattr` shows. They are asked of the mounted file
/// system, not read from its device.
struct Ext4Files(NativeFiles);

/// Flags of an inode by their bit.
const INODE_FLAGS: [(u32, &str); 15] = [
    (0x1, "SECRM"),
    (0x2, "UNRM"),
    (0x4, "COMPR"),
    (0x8, "SYNC"),
    (0x10, "IMMUTABLE"),
    (0x20, "APPEND"),
    (0x40, "NODUMP"),
    (0x80, "NOATIME"),
    (0x800, "ENCRYPT"),
    (0x1000, "INDEX"),
    (0x4000, "JOURNAL_DATA"),
    (0x8000, "NOTAIL"),
    (0x10000, "DIRSYNC"),
    (0x20000, "TOPDIR"),
    (0x80000, "EXTENTS"),
];

impl Ext4Files {
    fn with_flags(&self, mut info: FileInfo) -> FileInfo {
        // Only these have flags, and opening others may do something.
        if info.is_file() || info.is_dir() {
            use rustix::fs::{Mode, OFlags};
            let native = info.path.native(&self.0.root);
            let how = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let flags = rustix::fs::open(native, how, Mode::empty())
                .and_then(rustix::fs::ioctl_getflags)
                .map_or(0, |flags| flags.bits());
            let names: Vec<&str> =
                INODE_FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, n)| *n).collect();
            info.data.set("Flags", names.join(","));
        }
        info.data.set("Inode", info.identity.1);
        info.system.set("mft", info.identity.1);
        info
    }
}

impl Accessor for Ext4Files {
    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        self.0.open(path)
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        self.0.lstat(path).map(|info| self.with_flags(info))
    }

    fn stat(&self, path: &OsPath) -> io::Result<FileInfo> {
        self.0.stat(path).map(|info| self.with_flags(info))
    }

    fn read_dir(&self, path: &OsPath) -> io::Result<Vec<FileInfo>> {
        Ok(self.0.read_dir(path)?.into_iter().map(|info| self.with_flags(info)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(mode_text(0o100_644), "-rw-r--r--");
        assert_eq!(mode_text(0o040_755), "drwxr-xr-x");
        assert_eq!(mode_text(0o120_777), "Lrwxrwxrwx");
        assert_eq!(mode_text(0o041_777), "dtrwxrwxrwx");
        assert_eq!(mode_text(0o104_755), "urwxr-xr-x");
        assert_eq!((go_mode(0o100_644), go_mode(0o040_755)), (420, 2_147_484_141));
        assert_eq!((go_mode(0o120_777), go_mode(0o104_755)), (134_218_239, 8_389_101));
    }

    #[test]
    fn holes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let f = std::fs::File::create(&path).unwrap();
        f.set_len(1 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&f, &[7; 4096], 512 << 10).unwrap();
        f.sync_all().unwrap();
        let a = NativeFiles::new(PathBuf::new());
        let p = OsPath::linux(path.to_str().unwrap().as_bytes());
        // File systems without holes give no ranges, which is right as well.
        if let Some(ranges) = a.ranges(&p).unwrap() {
            let total: u64 = ranges.iter().map(|r| r.length).sum();
            assert_eq!(total, 1 << 20);
            let at = 512 << 10;
            let has = |r: &&Range| !r.hole && r.offset <= at && r.offset + r.length >= at + 4096;
            assert_eq!(ranges.iter().filter(has).count(), 1);
            assert!(ranges[0].hole);
        }
    }
}
