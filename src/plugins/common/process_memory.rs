//! The accessor `process`: `/PID` is the memory of a process as one sparse file;
//! what is not mapped is a hole.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // reads the real host

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::accessor::{Accessor, FileInfo, Range, ReadSeek, sought};
use super::path::OsPath;

/// Readable stretches: start and length, in order.
pub(super) fn stretches(proc: &Path, pid: i64) -> io::Result<Vec<(u64, u64)>> {
    let text = std::fs::read_to_string(proc.join(pid.to_string()).join("maps"))?;
    Ok(text.lines().filter_map(stretch).collect())
}

/// A line of `maps`. Devices, and what cannot be read this way, are left out.
fn stretch(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    let name = words.nth(3).unwrap_or_default();
    let unreadable = ["[vvar]", "[vvar_vclock]", "[vsyscall]"].contains(&name);
    if !rights.starts_with('r') || name.starts_with("/dev/") || unreadable {
        return None;
    }
    let (from, to) = range.split_once('-')?;
    let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
    (to > from).then_some((from, to - from))
}

/// See the module.
pub struct ProcessMemory {
    /// Where process information is.
    pub proc: PathBuf,
}

impl ProcessMemory {
    fn pid(path: &OsPath) -> io::Result<i64> {
        let text = path.components.last().map(|c| c.to_text().into_owned()).unwrap_or_default();
        let pid = text.parse().ok().filter(|_| path.components.len() == 1);
        pid.ok_or_else(|| io::Error::other("a path of this accessor is /PID"))
    }
}

impl Accessor for ProcessMemory {
    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let pid = Self::pid(path)?;
        let stretches = stretches(&self.proc, pid)?;
        let memory = File::open(self.proc.join(pid.to_string()).join("mem"))?;
        Ok(Box::new(Memory { memory, stretches, at: 0 }))
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let all = stretches(&self.proc, Self::pid(path)?)?;
        Ok(FileInfo::plain(path.clone(), all.last().map_or(0, |(at, length)| at + length)))
    }

    fn read_dir(&self, path: &OsPath) -> io::Result<Vec<FileInfo>> {
        if !path.components.is_empty() {
            return Ok(Vec::new());
        }
        let mut pids: Vec<i64> = std::fs::read_dir(&self.proc)?
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        Ok(pids
            .iter()
            .map(|pid| FileInfo::plain(path.join(pid.to_string().as_bytes()), 0))
            .collect())
    }

    fn ranges(&self, path: &OsPath) -> io::Result<Option<Vec<Range>>> {
        let (mut out, mut at) = (Vec::new(), 0);
        for (offset, length) in stretches(&self.proc, Self::pid(path)?)? {
            if offset > at {
                out.push(Range { offset: at, length: offset - at, hole: true });
            }
            out.push(Range { offset, length, hole: false });
            at = offset + length;
        }
        Ok(Some(out))
    }
}

struct Memory {
    memory: File,
    stretches: Vec<(u64, u64)>,
    at: u64,
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let after = self.stretches.partition_point(|(start, length)| start + length <= self.at);
        // Behind the last stretch the file ends.
        let Some((start, length)) = self.stretches.get(after).copied() else { return Ok(0) };
        let inside = self.at >= start;
        let room = if inside { start + length - self.at } else { start - self.at };
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(buffer.len());
        let part = &mut buffer[..room];
        // What went away meanwhile reads as zeros, like a hole.
        let read = if inside { self.memory.read_at(part, self.at).unwrap_or(0) } else { 0 };
        let read = if read == 0 {
            part.fill(0);
            room
        } else {
            read
        };
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Memory {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let end = self.stretches.last().map_or(0, |(at, length)| at + length);
        self.at = sought(to, end, self.at)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps() {
        assert_eq!(stretch("1000-3000 r-xp 00000000 fe:00 12 /bin/x"), Some((0x1000, 0x2000)));
        assert_eq!(stretch("1000-3000 ---p 00000000 00:00 0"), None);
        assert_eq!(stretch("1000-3000 r--p 00000000 00:00 0   [vvar]"), None);
        assert_eq!(stretch("1000-3000 rw-s 00000000 00:05 9 /dev/dri/card0"), None);
        assert_eq!(stretch("what"), None);
    }

    #[test]
    fn this_process_reads_itself() {
        let secret = vec![0xa5u8; 10_000];
        let at = secret.as_ptr() as u64;
        let a = ProcessMemory { proc: "/proc".into() };
        let path = OsPath::linux(format!("/{}", std::process::id()).as_bytes());
        let mut file = a.open(&path).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        let mut read = vec![0; 10_000];
        file.read_exact(&mut read).unwrap();
        assert_eq!(read, secret);
        let ranges = a.ranges(&path).unwrap().unwrap();
        assert!(ranges.iter().any(|r| !r.hole && r.offset <= at && at < r.offset + r.length));
        assert!(ranges.windows(2).all(|w| w[0].offset + w[0].length == w[1].offset));
        // Nothing is mapped at address zero.
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_exact(&mut read).unwrap();
        assert!(read.iter().all(|b| *b == 0));
        assert!(a.open(&OsPath::linux(b"/x")).is_err() && a.lstat(&OsPath::linux(b"/")).is_err());
    }
}
