//! Zip archives: stored and deflated members, sizes over 4 GiB. Reading blocks;
//! writing ([`write`]) and locking with a password ([`lock`]) are bytes in, bytes
//! out. Knows nothing of what is inside.

use std::io::{self, Read, Seek, SeekFrom};

pub mod lock;
pub mod write;

/// Bytes at the end searched for the directory: its record and the longest comment.
const TAIL: u64 = 22 + 65_535;
/// Most members of an archive.
const MAX_MEMBERS: u64 = 1 << 20;
/// Largest directory read, in bytes.
const MAX_DIRECTORY: u64 = 256 << 20;

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name with `/`; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Bytes of the content.
    pub size: u64,
    /// Unix seconds of its last change; as if its clock were UTC where only a local time is told.
    pub modified: i64,
    /// Bytes as stored.
    pub compressed: u64,
    method: u16,
    pub(crate) encrypted: bool,
    crc: u32,
    header: u64,
}

impl Member {
    /// How it is stored.
    pub fn method_name(&self) -> &'static str {
        match self.method {
            0 => "stored",
            8 => "zlib",
            // Others know no further method.
            _ => "stored",
        }
    }

    /// Whether it stands for a directory.
    pub fn is_dir(&self) -> bool {
        self.name.ends_with('/')
    }
}

/// An open archive.
#[derive(Debug)]
pub struct Archive<R> {
    file: R,
    members: Vec<Member>,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a zip archive: {what}"))
}

fn u16_at(data: &[u8], at: usize) -> io::Result<u16> {
    let bytes = data.get(at..at + 2).and_then(|b| b.try_into().ok());
    bytes.map(u16::from_le_bytes).ok_or_else(|| bad("it is cut short"))
}

fn u32_at(data: &[u8], at: usize) -> io::Result<u32> {
    let bytes = data.get(at..at + 4).and_then(|b| b.try_into().ok());
    bytes.map(u32::from_le_bytes).ok_or_else(|| bad("it is cut short"))
}

fn u64_at(data: &[u8], at: usize) -> io::Result<u64> {
    let bytes = data.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map(u64::from_le_bytes).ok_or_else(|| bad("it is cut short"))
}

fn read_at<R: Read + Seek>(file: &mut R, at: u64, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut data = Vec::new();
    file.take(length).read_to_end(&mut data)?;
    Ok(data)
}

impl<R: Read + Seek> Archive<R> {
    /// Reads the directory.
    pub fn open(mut file: R) -> io::Result<Archive<R>> {
        let length = file.seek(SeekFrom::End(0))?;
        let start = length.saturating_sub(TAIL);
        let tail = read_at(&mut file, start, TAIL)?;
        let end = (0..tail.len().saturating_sub(21))
            .rev()
            .find(|i| tail[*i..].starts_with(b"PK\x05\x06"));
        let end = end.ok_or_else(|| bad("it has no directory"))?;
        let mut count = u64::from(u16_at(&tail, end + 10)?);
        let mut size = u64::from(u32_at(&tail, end + 12)?);
        let mut offset = u64::from(u32_at(&tail, end + 16)?);
        let full = count == 0xffff || size == 0xffff_ffff || offset == 0xffff_ffff;
        if let (true, Some(locator)) = (full, end.checked_sub(20))
            && tail[locator..].starts_with(b"PK\x06\x07")
        {
            let record = read_at(&mut file, u64_at(&tail, locator + 8)?, 56)?;
            if !record.starts_with(b"PK\x06\x06") {
                return Err(bad("its long directory is not where it should be"));
            }
            count = u64_at(&record, 32)?;
            size = u64_at(&record, 40)?;
            offset = u64_at(&record, 48)?;
        }
        if count > MAX_MEMBERS || size > MAX_DIRECTORY {
            return Err(bad("it claims too many members"));
        }
        let directory = read_at(&mut file, offset, size)?;
        let mut members = Vec::new();
        let mut at = 0;
        for _ in 0..count {
            let (member, next) = member(&directory, at)?;
            members.push(member);
            at = next;
        }
        Ok(Archive { file, members })
    }

    /// The members in the order of the directory.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The content of a member of this archive, checked. More than `limit`
    /// bytes is an error.
    pub fn read(&mut self, member: &Member, limit: u64) -> io::Result<Vec<u8>> {
        if member.encrypted {
            return Err(io::Error::other(format!("{} is encrypted", member.name)));
        }
        if member.size > limit {
            return Err(io::Error::other(format!("{} is larger than {limit} bytes", member.name)));
        }
        let header = read_at(&mut self.file, member.header, 30)?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(bad("a member is not where the directory says"));
        }
        let skip = u64::from(u16_at(&header, 26)?) + u64::from(u16_at(&header, 28)?);
        self.file.seek(SeekFrom::Start(member.header + 30 + skip))?;
        let stored = (&mut self.file).take(member.compressed);
        let mut data = Vec::new();
        // One byte more than promised shows that the promise is broken.
        match member.method {
            0 => stored.take(limit + 1).read_to_end(&mut data)?,
            8 => {
                flate2::read::DeflateDecoder::new(stored).take(limit + 1).read_to_end(&mut data)?
            }
            other => {
                let text = format!("{}: compression {other} is not known", member.name);
                return Err(io::Error::other(text));
            }
        };
        if data.len() as u64 != member.size || crc32fast::hash(&data) != member.crc {
            return Err(bad(&format!("{} is damaged", member.name)));
        }
        Ok(data)
    }
}

/// Reads one entry of the directory; gives where the next begins.
fn member(d: &[u8], at: usize) -> io::Result<(Member, usize)> {
    if !d.get(at..).is_some_and(|r| r.starts_with(b"PK\x01\x02")) {
        return Err(bad("its directory is damaged"));
    }
    let names = usize::from(u16_at(d, at + 28)?);
    let extras = usize::from(u16_at(d, at + 30)?);
    let comment = usize::from(u16_at(d, at + 32)?);
    let name = d.get(at + 46..at + 46 + names).ok_or_else(|| bad("it is cut short"))?;
    let extra_at = at + 46 + names;
    let extra = d.get(extra_at..extra_at + extras).ok_or_else(|| bad("it is cut short"))?;
    let mut compressed = u64::from(u32_at(d, at + 20)?);
    let mut size = u64::from(u32_at(d, at + 24)?);
    let mut header = u64::from(u32_at(d, at + 42)?);
    let mut modified = dos_time(u16_at(d, at + 14)?, u16_at(d, at + 12)?);
    let mut rest = extra;
    while rest.len() >= 4 {
        let (id, length) = (u16_at(rest, 0)?, usize::from(u16_at(rest, 2)?));
        let body = rest.get(4..4 + length).unwrap_or_default();
        if id == 1 {
            // Only what did not fit, in this order.
            let mut next = 0;
            for value in [&mut size, &mut compressed, &mut header] {
                if *value == 0xffff_ffff {
                    *value = u64_at(body, next)?;
                    next += 8;
                }
            }
        }
        modified = told_time(id, body).unwrap_or(modified);
        rest = rest.get(4 + length..).unwrap_or_default();
    }
    let member = Member {
        name: String::from_utf8_lossy(name).replace('\\', "/"),
        size,
        modified,
        compressed,
        method: u16_at(d, at + 10)?,
        encrypted: u16_at(d, at + 8)? & 1 != 0,
        crc: u32_at(d, at + 16)?,
        header,
    };
    Ok((member, extra_at + extras + comment))
}

/// Unix seconds of the last change that a further field tells: `UT` and its forerunner `UX` of
/// Info-ZIP, or that of NTFS (times of 100 ns since 1601).
fn told_time(id: u16, body: &[u8]) -> Option<i64> {
    const SINCE_1601: i64 = 11_644_473_600;
    let seconds = |at: usize| u32_at(body, at).ok().map(|n| i64::from(n.cast_signed()));
    match id {
        0x5455 if body.first()? & 1 != 0 => seconds(1),
        0x5855 => seconds(4),
        0x000a if u16_at(body, 4).ok()? == 1 => {
            let ticks = i64::try_from(u64_at(body, 8).ok()?).ok()?;
            Some(ticks / 10_000_000 - SINCE_1601)
        }
        _ => None,
    }
}

/// Unix seconds of a date and time; months and days out of range count on, so that what has no date
/// is the last day of November of the year before the first.
fn dos_time(date: u16, time: u16) -> i64 {
    let (year, month, day) = (1980 + (date >> 9) as i16, (date >> 5 & 15) as i16, date & 31);
    let (year, month) = match month {
        0 => (year - 1, 12),
        13.. => (year + 1, month - 12),
        _ => (year, month),
    };
    let first = jiff::civil::Date::new(year, month as i8, 1).unwrap_or_default();
    let days = first.duration_since(jiff::civil::date(1970, 1, 1)).as_secs() / 86_400;
    let days = days + i64::from(day) - 1;
    let [hour, minute, second] = [time >> 11, time >> 5 & 63, (time & 31) * 2].map(i64::from);
    ((days * 24 + hour) * 60 + minute) * 60 + second
}

/// Date and time of Unix seconds, as if the clock were UTC; what cannot be told is
/// the beginning of time.
fn to_dos_time(seconds: i64) -> (u16, u16) {
    let at = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    if !(1980..2108).contains(&at.year()) {
        return (0, 0x21);
    }
    let part = |n: i8| n.unsigned_abs().into();
    let (month, day): (u16, u16) = (part(at.month()), part(at.day()));
    let (hour, minute, second): (u16, u16, u16) =
        (part(at.hour()), part(at.minute()), part(at.second()));
    let date = at.year().unsigned_abs().saturating_sub(1980) << 9 | month << 5 | day;
    ((hour << 11) | (minute << 5) | (second / 2), date)
}

/// An archive of `(name, content)`: for tests here and elsewhere.
#[cfg(test)]
pub(crate) fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::Write;
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (i, (name, content)) in members.iter().enumerate() {
        let mut packed = content.to_vec();
        let method: u16 = if i % 2 == 0 { 8 } else { 0 };
        if method == 8 {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), Default::default());
            encoder.write_all(content).unwrap();
            packed = encoder.finish().unwrap();
        }
        let mut common = Vec::new();
        common.extend([20, 0, 0, 0]);
        common.extend(method.to_le_bytes());
        common.extend([0x00, 0x60, 0x21, 0x58]);
        common.extend(crc32fast::hash(content).to_le_bytes());
        common.extend((packed.len() as u32).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        let offset = out.len() as u32;
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(packed);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let at = out.len() as u32;
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend((members.len() as u16).to_le_bytes());
    out.extend((members.len() as u16).to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0, 0]);
    out
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn dates_out_of_range_count_on() {
        assert_eq!(dos_time(0, 0), 312_768_000);
        assert_eq!(dos_time(14 << 5 | 1, 0), dos_time(1 << 9 | 2 << 5 | 1, 0));
        assert_eq!(dos_time(0x5821, 0x6000), 1_704_110_400);
    }

    #[test]
    fn times_of_further_fields() {
        let time = 1_630_844_217_u32.to_le_bytes();
        assert_eq!(told_time(0x5455, &[&[1][..], &time].concat()), Some(1_630_844_217));
        assert_eq!(told_time(0x5455, &[&[2][..], &time].concat()), None);
        assert_eq!(told_time(0x5855, &[[0; 4], time].concat()), Some(1_630_844_217));
        let ticks = (132_753_178_170_000_000_u64).to_le_bytes();
        let ntfs = [&[0, 0, 0, 0, 1, 0, 24, 0][..], &ticks, &[0; 16]].concat();
        assert_eq!(told_time(0x000a, &ntfs), Some(1_630_844_217));
        assert_eq!(told_time(0x5455, &[]), None);
        assert_eq!(told_time(1, &time), None);
    }

    #[test]
    fn members_come_back() {
        let bytes = archive(&[("a/b.yaml", b"name: A\n"), ("c", b"stored"), ("d/", b"")]);
        let mut archive = Archive::open(Cursor::new(bytes.clone())).unwrap();
        let members = archive.members().to_vec();
        let names: Vec<_> = members.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["a/b.yaml", "c", "d/"]);
        assert_eq!(members[0].modified, 1_704_110_400);
        assert!(members[2].is_dir());
        assert_eq!(archive.read(&members[0], 100).unwrap(), b"name: A\n");
        assert_eq!(archive.read(&members[1], 100).unwrap(), b"stored");
        assert!(archive.read(&members[1], 5).is_err());
        // Damage is found, wherever it is; nothing panics.
        for i in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[i] ^= 0xff;
            if let Ok(mut a) = Archive::open(Cursor::new(damaged)) {
                for m in a.members().to_vec() {
                    let _ = a.read(&m, 1000);
                }
            }
            let _ = Archive::open(Cursor::new(bytes[..i].to_vec()));
        }
        let at = bytes.windows(6).position(|w| w == b"stored").unwrap();
        let mut damaged = bytes.clone();
        damaged[at] = b'S';
        let mut a = Archive::open(Cursor::new(damaged)).unwrap();
        assert!(a.read(&members[1], 100).unwrap_err().to_string().contains("damaged"));
    }
}
