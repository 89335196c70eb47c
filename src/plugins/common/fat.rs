//! The accessor `fat`: files of a FAT file system (12, 16 or 32 bits) in an image, also those
//! whose entries are only marked as deleted. Reads only.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::civil;
use vql::{Dict, Scope, Str};

use super::accessor::{Accessor, Accessors, FileInfo, ReadSeek, UNKNOWN, sought};
use super::fields::{Fields, wide};
use super::last::Last;
use super::path::{Kind, OsPath};

/// Bytes of an entry of a directory.
const ENTRY: usize = 32;
/// Largest directory, in bytes: as many entries as the format allows.
const LARGEST: u64 = 65_536 * ENTRY as u64;
/// Bits of an entry's attributes.
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
/// Letters of attributes by their bits.
const LETTERS: [(u8, char); 5] = [(1, 'R'), (2, 'H'), (4, 'S'), (DIRECTORY, 'D'), (0x20, 'A')];

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// See the module.
pub struct FatFiles {
    /// What images are read with.
    below: Accessors,
    /// The volume used last.
    last: Last<Arc<Volume>>,
}

impl FatFiles {
    /// Images are read with `below`.
    pub fn new(below: Accessors) -> FatFiles {
        FatFiles { below, last: Last::default() }
    }

    fn volume(&self, path: &OsPath) -> io::Result<Arc<Volume>> {
        let of = path.delegate.as_deref();
        let of = of.ok_or_else(|| io::Error::other("a path in no image"))?;
        self.last.or_open(of, || Ok(Arc::new(Volume::open(self.below.open_outer(path)?)?)))
    }

    /// The entry at a path; `None` is the root.
    fn find(&self, volume: &Volume, path: &OsPath) -> io::Result<Option<Entry>> {
        let mut found: Option<Entry> = None;
        for part in &path.components {
            let part = part.to_text().to_lowercase();
            let same = |e: &Entry| {
                e.short.to_lowercase() == part || e.name.to_text().to_lowercase() == part
            };
            let entry = volume.entries(found.as_ref())?.into_iter().find(same);
            found = Some(entry.ok_or(io::ErrorKind::NotFound)?);
        }
        Ok(found)
    }
}

/// An entry of a directory.
#[derive(Clone, Debug)]
struct Entry {
    name: Str,
    short: String,
    attributes: u8,
    deleted: bool,
    cluster: u32,
    size: u64,
    /// Modified, accessed, born, in nanoseconds.
    times: [i64; 3],
}

impl Entry {
    fn is_dir(&self) -> bool {
        self.attributes & DIRECTORY != 0
    }

    fn info(&self, path: OsPath) -> FileInfo {
        let mut info = FileInfo::plain(path, self.size);
        info.mode = if self.is_dir() { 0o040_755 } else { 0o100_755 };
        info.times = [self.times[0], self.times[1], self.times[2], self.times[2]];
        let letters = LETTERS.iter().filter(|(bit, _)| self.attributes & bit != 0);
        info.data = Dict::new()
            .with("first_cluster", self.cluster)
            .with("attr", letters.map(|(_, letter)| *letter).collect::<String>())
            .with("short_name", self.short.as_str());
        if self.deleted {
            info.data.set("deleted", true);
        }
        info
    }
}

/// A volume, by its boot sector. Places are in bytes.
struct Volume {
    disk: Mutex<Box<dyn ReadSeek>>,
    /// Bits of an entry of the table.
    bits: u64,
    table: u64,
    table_size: u64,
    /// Where the root is, and its size; before 32 bits it is in no cluster.
    root: (u64, u64),
    root_cluster: u32,
    /// Where cluster 2 is.
    data: u64,
    cluster: u64,
    clusters: u64,
}

impl Volume {
    fn open(mut disk: Box<dyn ReadSeek>) -> io::Result<Volume> {
        let mut b = Vec::new();
        disk.seek(SeekFrom::Start(0))?;
        (&mut disk).take(512).read_to_end(&mut b)?;
        let short = |at| b.u16(at).map_or(0, u64::from);
        let long = |at| b.u32(at).map_or(0, u64::from);
        let signed = |at: usize| matches!(b.get(at), Some(0x28 | 0x29));
        let wide = !signed(38);
        if b.len() < 512 || (wide && !signed(66)) {
            return Err(bad("this is no FAT file system"));
        }
        let (sector, per_cluster) = (short(11), u64::from(b[13]));
        let cluster = sector * per_cluster;
        if sector < 128 || !sector.is_power_of_two() || cluster == 0 {
            return Err(bad("the boot sector of the file system is damaged"));
        }
        let table_size = if wide { long(36) } else { short(22) } * sector;
        let table = short(14) * sector;
        let root = table + u64::from(b[16]) * table_size;
        let root_size = if wide { 0 } else { short(17) * ENTRY as u64 };
        let data = root + root_size.next_multiple_of(sector);
        let sectors = if short(19) > 0 { short(19) } else { long(32) };
        let clusters = (sectors * sector).saturating_sub(data) / cluster;
        let bits = match clusters {
            _ if wide => 32,
            0..4085 => 12,
            _ => 16,
        };
        Ok(Volume {
            disk: Mutex::new(disk),
            bits,
            table,
            table_size,
            root: (root, root_size),
            root_cluster: if wide { b.u32(44).unwrap_or(0) } else { 0 },
            data,
            cluster,
            // What the table has no entries for is not there.
            clusters: clusters.min(table_size.saturating_mul(8) / bits),
        })
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.seek(SeekFrom::Start(at))?;
        disk.read_exact(into)
    }

    /// The clusters of a file from its first on, as many as `bytes` need.
    fn chain(&self, first: u32, bytes: u64) -> io::Result<Vec<u32>> {
        let most = bytes.div_ceil(self.cluster).min(self.clusters);
        let (mut out, mut next) = (Vec::new(), u64::from(first));
        while (out.len() as u64) < most && next >= 2 && next < self.clusters + 2 {
            out.push(next as u32);
            next = self.next(next)?;
        }
        Ok(out)
    }

    /// What the table says of a cluster.
    fn next(&self, cluster: u64) -> io::Result<u64> {
        let (at, mut b) = (cluster * self.bits / 8, [0; 4]);
        let size = if self.bits == 32 { 4 } else { 2 };
        if at + size as u64 > self.table_size {
            return Ok(0);
        }
        self.read_at(self.table + at, &mut b[..size])?;
        let n = u64::from(u32::from_le_bytes(b));
        Ok(match self.bits {
            12 if cluster % 2 == 1 => n >> 4,
            12 => n & 0xfff,
            16 => n,
            _ => n & 0x0fff_ffff,
        })
    }

    /// The content of a directory; `None` is the root.
    fn directory(&self, of: Option<&Entry>) -> io::Result<Vec<u8>> {
        let first = match of {
            Some(entry) if !entry.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
            // The way up to the root is written as no cluster.
            Some(entry) if entry.cluster != 0 => entry.cluster,
            _ if self.bits < 32 => {
                let mut out = vec![0; self.root.1.min(LARGEST) as usize];
                self.read_at(self.root.0, &mut out)?;
                return Ok(out);
            }
            _ => self.root_cluster,
        };
        let clusters = self.chain(first, LARGEST)?;
        let mut out = Vec::new();
        for cluster in clusters {
            let start = out.len();
            out.resize(start + self.cluster as usize, 0);
            self.read_at(self.place(cluster), &mut out[start..])?;
        }
        Ok(out)
    }

    fn place(&self, cluster: u32) -> u64 {
        self.data + (u64::from(cluster) - 2) * self.cluster
    }

    fn entries(&self, of: Option<&Entry>) -> io::Result<Vec<Entry>> {
        let data = self.directory(of)?;
        let (mut out, mut parts) = (Vec::new(), Vec::new());
        for b in data.chunks_exact(ENTRY) {
            if b[0] == 0 {
                break;
            }
            if b[11] & LONG_NAME == LONG_NAME {
                parts.push((b[0], [&b[1..11], &b[14..26], &b[28..32]].concat()));
                continue;
            }
            out.push(entry(b, std::mem::take(&mut parts)));
        }
        Ok(out)
    }
}

/// An entry with the parts of its long name, which stand before it from last to first.
fn entry(b: &[u8], mut parts: Vec<(u8, Vec<u8>)>) -> Entry {
    // Deletion overwrites the numbers of the parts; their order stays.
    parts.reverse();
    parts.sort_by_key(|(number, _)| *number);
    let long = wide(&parts.into_iter().flat_map(|(_, text)| text).collect::<Vec<u8>>());
    let long = long.split('\0').next().unwrap_or_default();
    let trimmed = |part: &[u8]| {
        let end = part.iter().rposition(|b| !matches!(b, b' ' | 0)).map_or(0, |at| at + 1);
        part[..end].to_vec()
    };
    let (mut short, extension) = (trimmed(&b[..8]), trimmed(&b[8..11]));
    if !extension.is_empty() {
        short.push(b'.');
        short.extend(extension);
    }
    let name = if long.is_empty() { Str::from(short.as_slice()) } else { Str::from(long) };
    let deleted = b[0] == 0xe5;
    if deleted {
        short[0] = b'_';
    }
    let n = |at| b.u16(at).unwrap_or(0);
    Entry {
        name,
        short: vql::lossy(&short).into_owned(),
        attributes: b[11],
        deleted,
        cluster: u32::from(n(20)) << 16 | u32::from(n(26)),
        size: b.u32(28).unwrap_or(0).into(),
        times: [time(n(24), n(22), 0), time(n(18), 0, 0), time(n(16), n(14), b[13])],
    }
}

/// A time in nanoseconds of its parts; months and days out of range count on.
fn time(date: u16, clock: u16, hundredths: u8) -> i64 {
    let (year, month, day) = (1980 + (date >> 9) as i16, (date >> 5 & 15) as i16, date & 31);
    let (year, month) = match month {
        0 => (year - 1, 12),
        13.. => (year + 1, month - 12),
        _ => (year, month),
    };
    let first = civil::Date::new(year, month as i8, 1).unwrap_or_default();
    let days = first.duration_since(civil::date(1970, 1, 1)).as_secs() / 86_400;
    let days = days + i64::from(day) - 1;
    let [hour, minute, second] = [clock >> 11, clock >> 5 & 63, (clock & 31) * 2].map(i64::from);
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    seconds * 1_000_000_000 + i64::from(hundredths) * 10_000_000
}

/// A file that is open.
struct Open {
    volume: Arc<Volume>,
    clusters: Vec<u32>,
    size: u64,
    at: u64,
}

impl Read for Open {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.size.saturating_sub(self.at);
        let (cluster, inside) = (self.at / self.volume.cluster, self.at % self.volume.cluster);
        let cluster = usize::try_from(cluster).ok().and_then(|n| self.clusters.get(n));
        let Some(cluster) = cluster.filter(|_| left > 0) else { return Ok(0) };
        let length = left.min(self.volume.cluster - inside).min(into.len() as u64) as usize;
        self.volume.read_at(self.volume.place(*cluster) + inside, &mut into[..length])?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Open {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = sought(to, self.size, self.at)?;
        Ok(self.at)
    }
}

impl Accessor for FatFiles {
    fn kind(&self) -> Kind {
        Kind::Ntfs
    }

    fn parse_pattern(&self, _scope: &Scope, text: &Str) -> OsPath {
        OsPath::of_kind(Kind::Windows, text.as_bytes())
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let volume = self.volume(path)?;
        let entry = self.find(&volume, &path.clone().as_kind(Kind::Ntfs))?;
        let entry = match entry {
            // What directories hold are their entries, as they are on the disk.
            of if of.as_ref().is_none_or(Entry::is_dir) => {
                return Ok(Box::new(io::Cursor::new(volume.directory(of.as_ref())?)));
            }
            Some(entry) => entry,
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        let clusters = volume.chain(entry.cluster, entry.size)?;
        Ok(Box::new(Open { volume, clusters, size: entry.size, at: 0 }))
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let volume = self.volume(path)?;
        let Some(entry) = self.find(&volume, &path.clone().as_kind(Kind::Ntfs))? else {
            let mut info = FileInfo::plain(path.clone(), 0);
            info.mode = 0o040_755;
            info.times = [UNKNOWN; 4];
            info.data =
                Dict::new().with("first_cluster", 0).with("attr", "").with("short_name", "");
            return Ok(info);
        };
        Ok(entry.info(path.clone()))
    }

    fn read_dir(&self, path: &OsPath) -> io::Result<Vec<FileInfo>> {
        let path = path.clone().as_kind(Kind::Ntfs);
        let volume = self.volume(&path)?;
        let found = self.find(&volume, &path)?;
        let mut entries = volume.entries(found.as_ref())?;
        entries.retain(|e| !matches!(e.name.as_bytes(), b"." | b".."));
        Ok(entries.iter().map(|e| e.info(path.join(e.name.clone()))).collect())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use vql::Value;

    fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
        data[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// An entry: written 2021-05-06 07:08:10, born a second and a half later, read that day.
    fn dir_entry(short: &[u8; 11], attributes: u8, cluster: u16, size: u32) -> Vec<u8> {
        let mut b = vec![0; ENTRY];
        put(&mut b, 0, short);
        b[11] = attributes;
        b[13] = 150;
        let (date, clock) = (41u16 << 9 | 5 << 5 | 6, 7u16 << 11 | 8 << 5 | 5);
        for at in [14, 22] {
            put(&mut b, at, &clock.to_le_bytes());
        }
        for at in [16, 18, 24] {
            put(&mut b, at, &date.to_le_bytes());
        }
        put(&mut b, 26, &cluster.to_le_bytes());
        put(&mut b, 28, &size.to_le_bytes());
        b
    }

    fn long_name(number: u8, text: &str) -> Vec<u8> {
        let mut units: Vec<u16> = text.encode_utf16().chain([0]).collect();
        units.resize(13, 0xffff);
        let bytes: Vec<u8> = units.iter().flat_map(|n| n.to_le_bytes()).collect();
        let mut b = vec![0; ENTRY];
        b[0] = number;
        b[11] = LONG_NAME;
        put(&mut b, 1, &bytes[..10]);
        put(&mut b, 14, &bytes[10..22]);
        put(&mut b, 28, &bytes[22..]);
        b
    }

    /// Clusters of 512 bytes. A folder in cluster 2; in it a file of clusters 3 and 5, whose
    /// content is `a` and `b`, and one that was deleted.
    fn image(bits: u32) -> Vec<u8> {
        let (clusters, wide) = (if bits == 16 { 5000usize } else { 20 }, bits == 32);
        let table = (clusters + 2) * bits as usize / 8 / 512 + 1;
        let root = if wide { 0 } else { 1 };
        let sectors = 1 + table + root + clusters;
        let mut out = vec![0; sectors * 512];
        for (at, n) in [(11, 512), (14, 1), (19, sectors), (22, if wide { 0 } else { table })] {
            put(&mut out, at, &(n as u16).to_le_bytes());
        }
        (out[13], out[16], out[17]) = (1, 1, if wide { 0 } else { 16 });
        out[if wide { 66 } else { 38 }] = 0x29;
        put(&mut out, 36, &(if wide { table as u32 } else { 0x29_00_00 }).to_le_bytes());
        if wide {
            put(&mut out, 44, &7u32.to_le_bytes());
        }
        for (cluster, next) in [(2u32, 0xfff_ffffu32), (3, 5), (5, 0xfff_ffff), (7, 0xfff_ffff)] {
            let at = 512 + (cluster * bits / 8) as usize;
            let old = u32::from_le_bytes(out[at..at + 4].try_into().unwrap());
            let (mask, shift) = match bits {
                12 => (0xfff, if cluster % 2 == 1 { 4 } else { 0 }),
                16 => (0xffff, 0),
                _ => (0xffff_ffff, 0),
            };
            let new = old & !(mask << shift) | (next & mask) << shift;
            put(&mut out, at, &new.to_le_bytes());
        }
        let data = (1 + table + root) * 512;
        let top = [
            long_name(0x42, "tail"),
            long_name(1, "A folder with"),
            dir_entry(b"AFOLDE~1   ", DIRECTORY, 2, 0),
        ];
        put(&mut out, if wide { data + 5 * 512 } else { data - 512 }, &top.concat());
        let mut gone = dir_entry(b"GONE    BIN", 0x21, 0, 0);
        gone[0] = 0xe5;
        let folder = [
            dir_entry(b".          ", DIRECTORY, 2, 0),
            dir_entry(b"..         ", DIRECTORY, 0, 0),
            dir_entry(b"FILE    TXT", 0x20, 3, 515),
            gone,
        ];
        put(&mut out, data, &folder.concat());
        out[data + 512..data + 1024].fill(b'a');
        put(&mut out, data + 3 * 512, b"bcde");
        out
    }

    #[tokio::test]
    async fn files_of_all_widths() {
        for bits in [12, 16, 32] {
            let dir = tempfile::tempdir().unwrap();
            let at = dir.path().join("disk");
            std::fs::write(&at, image(bits)).unwrap();
            let mut registry = vql::Registry::standard();
            super::super::register(&mut registry);
            let env = Arc::new(crate::env::real::env());
            let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
            scope.set("Image", at.to_str().unwrap());
            let query =
                async |text: &str| Value::from(vql::run(text, &scope).await.unwrap()).to_json();
            let text = "LET R = pathspec(DelegatePath=Image, Path='/') \
                SELECT OSPath.Path AS P, Size, Mode.String AS M, Data, Mtime, Atime, Btime \
                FROM glob(globs='/**', accessor='fat', root=R) LIMIT 3";
            let times = r#""Mtime":"2021-05-06T07:08:10Z","Atime":"2021-05-06T00:00:00Z","Btime":"2021-05-06T07:08:11.5Z""#;
            let folder = "A folder withtail";
            let expected = format!(
                "[{{\"P\":\"{folder}\",\"Size\":0,\"M\":\"drwxr-xr-x\",\"Data\":{{\"first_cluster\":2,\"attr\":\"D\",\"short_name\":\"AFOLDE~1\"}},{times}}},\
                 {{\"P\":\"{folder}\\\\FILE.TXT\",\"Size\":515,\"M\":\"-rwxr-xr-x\",\"Data\":{{\"first_cluster\":3,\"attr\":\"A\",\"short_name\":\"FILE.TXT\"}},{times}}},\
                 {{\"P\":\"{folder}\\\\\\ufffdONE.BIN\",\"Size\":0,\"M\":\"-rwxr-xr-x\",\"Data\":{{\"first_cluster\":0,\"attr\":\"RA\",\"short_name\":\"_ONE.BIN\",\"deleted\":true}},{times}}}]"
            );
            assert_eq!(query(text).await, expected, "{bits}");
            let text = "LET R(P, O, L) = read_file(accessor='fat', offset=O, length=L, filename=\
                pathspec(DelegatePath=Image, Path=P)) \
                SELECT R(P='afolde~1/file.txt', O=510, L=9) AS A, R(P='afolde~1', O=0, L=9) AS B, \
                R(P='afolde~1/none', O=0, L=9) AS C, R(P='a folder withtail/FILE.TXT', O=600, L=9) AS D \
                FROM scope()";
            assert_eq!(
                query(text).await,
                r#"[{"A":"aabcd","B":".        ","C":"","D":""}]"#,
                "{bits}"
            );
        }
    }

    #[test]
    fn dates() {
        // No date at all is the last day of November of the year before the first.
        assert_eq!(time(0, 0, 0), 312_768_000_000_000_000);
        assert_eq!(time(14 << 5 | 1, 0, 0), time(1 << 9 | 2 << 5 | 1, 0, 0));
    }

    #[test]
    fn images_that_lie() {
        let look = |data: Vec<u8>| {
            let Ok(volume) = Volume::open(Box::new(io::Cursor::new(data))) else { return };
            let volume = Arc::new(volume);
            let Ok(top) = volume.entries(None) else { return };
            for entry in top.iter().take(9) {
                let _ = volume.entries(Some(entry));
                let _ = volume.chain(entry.cluster, entry.size);
            }
        };
        for bits in [12, 32] {
            let good = image(bits);
            for at in 0..(512 * 6).min(good.len()) {
                for change in [0xff, 0x01, 0x80] {
                    let mut bad = good.clone();
                    bad[at] ^= change;
                    look(bad);
                }
            }
        }
    }
}
