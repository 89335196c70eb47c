//! Writing an archive front to back: what is finished is taken away at once, so
//! memory holds one buffer and the directory. Sizes follow their data.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;

/// Version that knows sizes over 4 GiB, and the system whose attributes are given
/// (Unix).
const VERSION: u16 = 45;
const MADE_BY: u16 = 3 << 8 | VERSION;
/// Sizes follow the data; the name is UTF-8.
const FLAGS: u16 = 1 << 3 | 1 << 11;
const ENCRYPTED: u16 = 1;
/// How well members are packed, as stock archives are.
const LEVEL: u32 = 5;
const FULL: u64 = 0xffff_ffff;

/// How a member is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// As it is.
    Stored,
    /// Packed.
    Deflated,
    /// As bytes that [`lock`](super::lock) made of stored ones.
    Locked,
}

struct Entry {
    name: Vec<u8>,
    method: Method,
    time: (u16, u16),
    crc: u32,
    size: u64,
    packed: u64,
    at: u64,
}

enum Packer {
    Plain,
    Deflate(Box<DeflateEncoder<Vec<u8>>>),
}

struct Open {
    entry: Entry,
    crc: crc32fast::Hasher,
    packer: Packer,
}

/// An archive being written.
#[derive(Default)]
pub struct Writer {
    out: Vec<u8>,
    /// Bytes made so far, those taken away too.
    made: u64,
    done: Vec<Entry>,
    open: Option<Open>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("made", &self.made).finish_non_exhaustive()
    }
}

impl Writer {
    /// Begins a member; one that is open is ended. `modified` is Unix seconds.
    pub fn begin(&mut self, name: &str, method: Method, modified: i64) -> io::Result<()> {
        self.end()?;
        let name: Vec<u8> = name.as_bytes().iter().copied().take(usize::from(u16::MAX)).collect();
        let entry = Entry {
            name,
            method,
            time: super::to_dos_time(modified),
            crc: 0,
            size: 0,
            packed: 0,
            at: self.made,
        };
        let mut head = Vec::with_capacity(64 + entry.name.len());
        head.extend(b"PK\x03\x04");
        head.extend(VERSION.to_le_bytes());
        common(&mut head, &entry);
        head.extend([0; 12]);
        let extra = lock_extra(entry.method);
        head.extend((entry.name.len() as u16).to_le_bytes());
        head.extend((extra.len() as u16).to_le_bytes());
        head.extend(&entry.name);
        head.extend(extra);
        self.push(&head);
        let packer = match method {
            Method::Deflated => {
                Packer::Deflate(Box::new(DeflateEncoder::new(Vec::new(), Compression::new(LEVEL))))
            }
            Method::Stored | Method::Locked => Packer::Plain,
        };
        self.open = Some(Open { entry, crc: crc32fast::Hasher::new(), packer });
        Ok(())
    }

    /// Adds to the open member.
    pub fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Err(io::Error::other("no member of the archive is open"));
        };
        open.crc.update(data);
        open.entry.size += data.len() as u64;
        match &mut open.packer {
            Packer::Plain => {
                open.entry.packed += data.len() as u64;
                self.push(data);
            }
            Packer::Deflate(encoder) => {
                encoder.write_all(data)?;
                let packed = std::mem::take(encoder.get_mut());
                open.entry.packed += packed.len() as u64;
                self.push(&packed);
            }
        }
        Ok(())
    }

    /// Ends the open member, if there is one.
    pub fn end(&mut self) -> io::Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if let Packer::Deflate(encoder) = open.packer {
            let packed = encoder.finish()?;
            open.entry.packed += packed.len() as u64;
            self.push(&packed);
        }
        let mut entry = open.entry;
        // What is locked has a seal of its own instead.
        entry.crc = if entry.method == Method::Locked { 0 } else { open.crc.finalize() };
        if entry.method == Method::Locked {
            entry.size = super::lock::opened(entry.size);
        }
        let mut tail = Vec::with_capacity(24);
        tail.extend(b"PK\x07\x08");
        tail.extend(entry.crc.to_le_bytes());
        if entry.size >= FULL || entry.packed >= FULL {
            tail.extend(entry.packed.to_le_bytes());
            tail.extend(entry.size.to_le_bytes());
        } else {
            tail.extend((entry.packed as u32).to_le_bytes());
            tail.extend((entry.size as u32).to_le_bytes());
        }
        self.push(&tail);
        self.done.push(entry);
        Ok(())
    }

    /// Ends the archive: its directory.
    pub fn finish(&mut self) -> io::Result<()> {
        self.end()?;
        let at = self.made;
        let done = std::mem::take(&mut self.done);
        for entry in &done {
            let mut head = Vec::with_capacity(96 + entry.name.len());
            head.extend(b"PK\x01\x02");
            head.extend(MADE_BY.to_le_bytes());
            head.extend(VERSION.to_le_bytes());
            common(&mut head, entry);
            head.extend(entry.crc.to_le_bytes());
            let mut long = Vec::new();
            let mut short = |value: u64| {
                if value >= FULL {
                    long.extend(value.to_le_bytes());
                }
                (value.min(FULL) as u32).to_le_bytes()
            };
            // The order of what did not fit: size, packed size, place.
            let size = short(entry.size);
            let packed = short(entry.packed);
            let place = short(entry.at);
            let mut extra = Vec::new();
            if !long.is_empty() {
                extra.extend(1u16.to_le_bytes());
                extra.extend((long.len() as u16).to_le_bytes());
                extra.extend(&long);
            }
            extra.extend(lock_extra(entry.method));
            head.extend(packed);
            head.extend(size);
            head.extend((entry.name.len() as u16).to_le_bytes());
            head.extend((extra.len() as u16).to_le_bytes());
            head.extend([0; 6]);
            // A regular file that its owner may read and write.
            head.extend((0o100_600u32 << 16).to_le_bytes());
            head.extend(place);
            head.extend(&entry.name);
            head.extend(&extra);
            self.push(&head);
        }
        let (count, length) = (done.len() as u64, self.made - at);
        let mut tail = Vec::with_capacity(128);
        if count >= 0xffff || at >= FULL || length >= FULL {
            let place = self.made;
            tail.extend(b"PK\x06\x06");
            tail.extend(44u64.to_le_bytes());
            tail.extend(MADE_BY.to_le_bytes());
            tail.extend(VERSION.to_le_bytes());
            tail.extend([0; 8]);
            for value in [count, count, length, at] {
                tail.extend(value.to_le_bytes());
            }
            tail.extend(b"PK\x06\x07\0\0\0\0");
            tail.extend(place.to_le_bytes());
            tail.extend(1u32.to_le_bytes());
        }
        tail.extend(b"PK\x05\x06\0\0\0\0");
        for _ in 0..2 {
            tail.extend((count.min(0xffff) as u16).to_le_bytes());
        }
        tail.extend((length.min(FULL) as u32).to_le_bytes());
        tail.extend((at.min(FULL) as u32).to_le_bytes());
        tail.extend([0, 0]);
        self.push(&tail);
        Ok(())
    }

    /// What was made since the last time.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    fn push(&mut self, data: &[u8]) {
        self.made += data.len() as u64;
        self.out.extend_from_slice(data);
    }
}

/// Flags, method and time, which both kinds of header have.
fn common(out: &mut Vec<u8>, entry: &Entry) {
    let locked = entry.method == Method::Locked;
    out.extend((FLAGS | if locked { ENCRYPTED } else { 0 }).to_le_bytes());
    let method: u16 = match entry.method {
        Method::Stored => 0,
        Method::Deflated => 8,
        Method::Locked => 99,
    };
    out.extend(method.to_le_bytes());
    out.extend(entry.time.0.to_le_bytes());
    out.extend(entry.time.1.to_le_bytes());
}

/// How a locked member is locked: second version, AES of 256 bits, stored.
fn lock_extra(method: Method) -> &'static [u8] {
    match method {
        Method::Locked => b"\x01\x99\x07\0\x02\0AE\x03\0\0",
        Method::Stored | Method::Deflated => &[],
    }
}

/// Characters that some system does not take in a name.
const ESCAPED: &str = "?\"*:|<>%/\\";
/// Most characters of a part of a name.
const LONGEST: usize = 1024;

/// One part of a member's name, as stock archives spell it.
fn part(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    let text = match text.char_indices().nth(LONGEST) {
        Some((end, _)) => &text[..end],
        None => text,
    };
    for (at, c) in text.char_indices() {
        let edge = matches!(c, '.' | ' ') && (at == 0 || at + c.len_utf8() == text.len());
        if edge || ESCAPED.contains(c) || c.is_ascii_control() {
            let _ = write!(out, "%{:02X}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// The name of a member whose path has these parts: nothing in it leaves the
/// directory it is unpacked into.
pub fn member_name<S: AsRef<str>>(parts: &[S]) -> String {
    let parts = parts.iter().map(|p| part(p.as_ref()));
    parts.filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::super::Archive;
    use super::*;
    use std::io::Cursor;

    #[test]
    fn what_is_written_can_be_read() {
        let mut w = Writer::default();
        let mut all = Vec::new();
        let large: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        w.begin("a/b.json", Method::Deflated, 1_704_110_400).unwrap();
        for chunk in large.chunks(10_000) {
            w.write(chunk).unwrap();
            all.extend(w.take());
        }
        w.begin("stored", Method::Stored, 0).unwrap();
        w.write(b"as it is").unwrap();
        w.begin("empty", Method::Deflated, 0).unwrap();
        w.finish().unwrap();
        all.extend(w.take());
        assert!(all.len() < large.len() / 2);
        let mut archive = Archive::open(Cursor::new(all)).unwrap();
        let members = archive.members().to_vec();
        assert_eq!(
            members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(),
            ["a/b.json", "stored", "empty"]
        );
        assert_eq!(members[0].modified, 1_704_110_400);
        assert_eq!(archive.read(&members[0], 10 << 20).unwrap(), large);
        assert_eq!(archive.read(&members[1], 100).unwrap(), b"as it is");
        assert_eq!(archive.read(&members[2], 100).unwrap(), b"");
    }

    #[test]
    fn more_members_than_a_short_directory_counts() {
        let mut w = Writer::default();
        for n in 0..70_000 {
            w.begin(&n.to_string(), Method::Stored, 0).unwrap();
        }
        w.finish().unwrap();
        let archive = Archive::open(Cursor::new(w.take())).unwrap();
        assert_eq!(archive.members().len(), 70_000);
        assert_eq!(archive.members()[69_999].name, "69999");
    }

    #[test]
    fn names_stay_where_they_are_unpacked() {
        let name = |parts: &[&str]| member_name(parts);
        assert_eq!(name(&["results", "A.B/C.json"]), "results/A.B%2FC.json");
        assert_eq!(name(&["uploads", "", "C:", "a b. "]), "uploads/C%3A/a b.%20");
        assert_eq!(name(&["..", ".x", "y\\z"]), "%2E%2E/%2Ex/y%5Cz");
        assert_eq!(name(&["größe", "\n"]), "größe/%0A");
    }
}
