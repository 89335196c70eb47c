//! The memory of a process in pieces.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // reads the real host

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use boreal::memory::{FragmentedMemory, MemoryParams, Region, RegionDescription};

use crate::plugins::common::process_memory::stretches;

/// Bytes searched at a time.
const PIECE: usize = 8 << 20;

/// Up to `length` bytes at an address; `None` when nothing can be read there.
pub(super) fn read_at(memory: &File, at: usize, length: usize) -> Option<Vec<u8>> {
    let mut data = vec![0; length];
    let read = memory.read_at(&mut data, at as u64).ok().filter(|n| *n > 0)?;
    data.truncate(read);
    Some(data)
}

/// The memory of one process.
#[derive(Debug)]
pub(super) struct Regions {
    path: PathBuf,
    memory: File,
    /// Pieces of at most [`PIECE`] bytes.
    pieces: Vec<(usize, usize)>,
    next: usize,
    held: Vec<u8>,
}

impl Regions {
    /// Opens it: needs to be its owner or root.
    pub(super) fn open(proc: &Path, pid: i64) -> io::Result<Regions> {
        let path = proc.join(pid.to_string()).join("mem");
        let memory = File::open(&path)?;
        let mut pieces = Vec::new();
        for (start, length) in stretches(proc, pid)? {
            let (Ok(mut start), Ok(mut left)) = (usize::try_from(start), usize::try_from(length))
            else {
                continue;
            };
            while left > 0 {
                let piece = left.min(PIECE);
                pieces.push((start, piece));
                (start, left) = (start + piece, left - piece);
            }
        }
        Ok(Regions { path, memory, pieces, next: 0, held: Vec::new() })
    }

    /// Another handle on the same memory.
    pub(super) fn reader(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

impl FragmentedMemory for Regions {
    fn next(&mut self, _params: &MemoryParams) -> Option<RegionDescription> {
        let (start, length) = *self.pieces.get(self.next)?;
        self.next += 1;
        Some(RegionDescription { start, length })
    }

    fn fetch(&mut self, _params: &MemoryParams) -> Option<Region<'_>> {
        let (start, length) = *self.pieces.get(self.next.checked_sub(1)?)?;
        self.held = read_at(&self.memory, start, length)?;
        Some(Region { start, mem: &self.held })
    }

    fn reset(&mut self) {
        self.next = 0;
    }
}
