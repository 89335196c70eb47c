//! The queue on disk: numbered segment files, written at the end of the last,
//! read from the start of the first. Survives restarts of the process; after a
//! power failure what was written since the last [`Disk::sync`] may be missing.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::segment::{self, FRAME, HEADER, Reader};
use crate::env::{File, FileSystem, Open, fs::parent};

/// A segment is left for the next one beyond this many bytes.
const SEGMENT: u64 = 8 << 20;

struct Segment {
    path: String,
    file: Option<Box<dyn File>>,
    /// Where the next record goes, or where readable records end.
    end: u64,
}

/// Position of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Number of segments since the start.
    segment: u64,
    offset: u64,
}

/// See the module.
pub struct Disk {
    fs: Arc<dyn FileSystem>,
    base: String,
    segment_size: u64,
    /// Number of the first segment in `segments`, counted in this process.
    first: u64,
    segments: VecDeque<Segment>,
    /// Number for the next file name.
    next: u64,
    /// Whether the last segment was made by this process.
    writable: bool,
    head: Position,
    turn: bool,
    reader: Reader,
    /// The segment `reader` has read ahead in.
    reading: u64,
    /// Payload bytes not consumed.
    pub bytes: u64,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("base", &self.base).field("bytes", &self.bytes).finish()
    }
}

impl Disk {
    /// Opens the queue whose files are `<base>.<16 hex digits>`.
    pub async fn open(fs: Arc<dyn FileSystem>, base: &str) -> io::Result<Disk> {
        Disk::open_sized(fs, base, SEGMENT).await
    }

    pub(super) async fn open_sized(
        fs: Arc<dyn FileSystem>,
        base: &str,
        segment_size: u64,
    ) -> io::Result<Disk> {
        let dir = parent(base).to_owned();
        let stem = format!("{}.", base.rsplit('/').next().unwrap_or(base));
        let mut disk = Disk {
            fs,
            base: base.into(),
            segment_size,
            first: 0,
            segments: VecDeque::new(),
            next: 0,
            writable: false,
            head: Position { segment: 0, offset: HEADER },
            turn: false,
            reader: Reader::default(),
            reading: 0,
            bytes: 0,
        };
        // Sorted by name, which is by number.
        for entry in disk.fs.list(&dir).await? {
            let Some(n) = entry.name.strip_prefix(&stem) else { continue };
            let Some(n) = (n.len() == 16).then(|| u64::from_str_radix(n, 16).ok()).flatten() else {
                continue;
            };
            disk.next = disk.next.max(n.saturating_add(1));
            let path = format!("{}/{}", dir.trim_end_matches('/'), entry.name);
            disk.adopt(path).await?;
        }
        Ok(disk)
    }

    /// Takes over a segment of an earlier process.
    async fn adopt(&mut self, path: String) -> io::Result<()> {
        let file = self.fs.open(&path, Open::Write).await?;
        let mut reader = Reader::default();
        let Some(start) = segment::read_consumed(&*file).await? else {
            // Shorter than a header: a crash right after creation.
            tracing::warn!("{path}: not a buffer segment, removed");
            return self.fs.remove(&path).await;
        };
        let mut end = start;
        while let Some(data) = reader.record(&*file, end).await? {
            end += FRAME + data.len() as u64;
            self.bytes += data.len() as u64;
        }
        let size = file.size().await?;
        if size > end {
            tracing::warn!("{path}: {} bytes at the end are torn or damaged, ignored", size - end);
        }
        file.close().await?;
        if end == start {
            return self.fs.remove(&path).await;
        }
        // Only the first segment is ever partly consumed: the others are read
        // from their start, which repeats at worst.
        if self.segments.is_empty() {
            self.head.offset = start;
        }
        self.segments.push_back(Segment { path, file: None, end });
        Ok(())
    }

    async fn roll(&mut self) -> io::Result<()> {
        if self.writable
            && let Some(last) = self.segments.back_mut()
            && let Some(file) = &last.file
        {
            file.sync().await?;
        }
        let path = format!("{}.{:016x}", self.base, self.next);
        self.next += 1;
        let file = self.fs.open(&path, Open::CreateNew).await?;
        file.write_at(0, segment::header()).await?;
        if self.segments.is_empty() {
            self.head = Position { segment: self.first, offset: HEADER };
        }
        self.segments.push_back(Segment { path, file: Some(file), end: HEADER });
        self.writable = true;
        Ok(())
    }

    /// Appends a record. After an error nothing more may be written here.
    pub async fn push(&mut self, payload: &[u8]) -> io::Result<()> {
        let full = self.segments.back().is_none_or(|s| s.end >= self.segment_size);
        if !self.writable || full {
            self.roll().await?;
        }
        let Some(last) = self.segments.back_mut() else {
            return Err(io::Error::other("no segment"));
        };
        let end = last.end;
        let file = opened(&*self.fs, last).await?;
        let data = segment::frame(payload);
        let len = data.len() as u64;
        file.write_at(end, data).await?;
        last.end += len;
        self.bytes += payload.len() as u64;
        Ok(())
    }

    /// Where unconsumed records begin.
    pub fn head(&self) -> Position {
        self.head
    }

    /// The record at `at` and the position behind it; `None` at the end.
    pub async fn read(&mut self, mut at: Position) -> io::Result<Option<(Bytes, Position)>> {
        loop {
            let Some(index) = at.segment.checked_sub(self.first) else { return Ok(None) };
            let Some(seg) = self.segments.get_mut(index as usize) else { return Ok(None) };
            if at.offset < seg.end {
                let file = opened(&*self.fs, seg).await?;
                if self.reading != at.segment {
                    self.reader.reset();
                    self.reading = at.segment;
                }
                if let Some(data) = self.reader.record(file, at.offset).await? {
                    let offset = at.offset + FRAME + data.len() as u64;
                    return Ok(Some((data, Position { offset, ..at })));
                }
                let lost = seg.end - at.offset;
                tracing::error!("{}: {lost} bytes are damaged and lost", seg.path);
                seg.end = at.offset;
                self.bytes = self.bytes.saturating_sub(lost);
            }
            at = Position { segment: at.segment + 1, offset: HEADER };
        }
    }

    /// Forgets everything before `to`, of which `bytes` were payload.
    pub async fn consume(&mut self, to: Position, bytes: u64) -> io::Result<()> {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.head = to;
        while self.first < to.segment {
            let Some(seg) = self.segments.pop_front() else { break };
            self.first += 1;
            if self.segments.is_empty() {
                self.writable = false;
            }
            drop(seg.file);
            self.fs.remove(&seg.path).await?;
        }
        if let Some(seg) = self.segments.front_mut() {
            let file = opened(&*self.fs, seg).await?;
            segment::write_consumed(file, self.turn, to.offset).await?;
            self.turn = !self.turn;
        }
        Ok(())
    }

    /// Puts what was written on stable storage.
    pub async fn sync(&mut self) -> io::Result<()> {
        match self.segments.back() {
            Some(Segment { file: Some(file), .. }) => file.sync().await,
            _ => Ok(()),
        }
    }
}

async fn opened<'a>(fs: &dyn FileSystem, seg: &'a mut Segment) -> io::Result<&'a dyn File> {
    let file = match seg.file.take() {
        Some(f) => f,
        None => fs.open(&seg.path, Open::Write).await?,
    };
    Ok(&**seg.file.insert(file))
}
