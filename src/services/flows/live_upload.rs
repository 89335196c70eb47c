//! Uploads that are not in their stock file yet.
//!
//! The offset of a chunk is no identity: an agent starts over under the same
//! upload number when its sparse reader fails or when a transfer is resumed.
//! So chunks belong to an attempt, and a first chunk with another hash opens a
//! new one. The last complete attempt gets the stock path.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use velociraptor_proto::journal::PartUpload;
use velociraptor_proto::proto::{FileBuffer, Index};

use super::job::{Hash, Job};
use super::live_set::Placed;
use crate::services::ids::Run;
use crate::services::state::to_hash;
use crate::store::journal::{Extent, Segment};

/// What makes two chunks part of the same upload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UploadKey {
    /// Order of the run within the flow.
    pub run: Run,
    /// The agent's counter within the flow.
    pub number: i64,
    /// Accessor, `file` when the agent named none.
    pub accessor: String,
    /// Path components under which the file is stored.
    pub components: Vec<String>,
}

impl UploadKey {
    /// The key of a file buffer; `None` if it names no file.
    pub fn of(run: Run, b: &FileBuffer) -> Option<Self> {
        let p = b.pathspec.as_ref()?;
        let components = if p.components.is_empty() {
            split_path(&p.path)
        } else {
            p.components.iter().filter(|c| !c.is_empty()).cloned().collect()
        };
        if components.is_empty() {
            return None;
        }
        let accessor = if p.accessor.is_empty() { "file" } else { &p.accessor };
        Some(Self { run, number: b.upload_number, accessor: accessor.to_owned(), components })
    }
}

fn split_path(path: &str) -> Vec<String> {
    let parts = path.split(['/', '\\']);
    parts.filter(|c| !matches!(*c, "" | "." | "..")).map(str::to_owned).collect()
}

/// Where a chunk's uncompressed data is.
#[derive(Clone, Debug)]
pub enum ChunkData {
    /// Inside the journaled job.
    Job(Extent),
    /// In a private file, at the same offset as in the upload when `aligned`.
    Spill(Extent),
}

/// A piece of the stored stream.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Identity of the message that brought it.
    pub hash: Hash,
    /// Uncompressed bytes.
    pub len: u64,
    /// Where they are.
    pub data: ChunkData,
}

/// What the last packet of an upload says.
#[derive(Clone, Debug, Default)]
pub struct Eof {
    /// Logical size of the file on the endpoint.
    pub size: u64,
    /// Bytes of the stored stream.
    pub stored_size: u64,
    /// Ranges, for a sparse file.
    pub index: Option<Index>,
    /// Server time it came, microseconds.
    pub received: u64,
}

/// One try at sending a file.
#[derive(Clone, Debug)]
pub struct Attempt {
    first: Option<Hash>,
    /// Chunks by offset in the stored stream.
    pub chunks: BTreeMap<u64, Chunk>,
    /// The path as the agent gave it, for the metadata row.
    pub path: String,
    /// Present once the last packet came.
    pub eof: Option<Eof>,
    /// Server time of the first packet, microseconds.
    pub started: u64,
    /// Already in its stock file.
    pub settled: bool,
}

impl Attempt {
    /// Whether every byte up to the end is there.
    pub fn complete(&self) -> bool {
        let Some(eof) = &self.eof else { return false };
        self.covered() >= eof.stored_size
    }

    /// Bytes present from the start without a hole.
    pub fn covered(&self) -> u64 {
        let mut at = 0;
        for (off, c) in &self.chunks {
            if *off > at {
                break;
            }
            at = at.max(off + c.len);
        }
        at
    }
}

/// All tries at one file.
#[derive(Clone, Debug, Default)]
pub struct LiveUpload {
    /// Oldest first.
    pub attempts: Vec<Attempt>,
    seen: BTreeSet<Hash>,
}

impl LiveUpload {
    /// One of which a part was kept, and its key; `p.file` is the part's path.
    pub fn kept(p: &PartUpload) -> (UploadKey, Self) {
        let segment = Arc::new(Segment::of_path(p.file.as_str()));
        let chunks: BTreeMap<u64, Chunk> = (p.chunks.iter())
            .map(|c| {
                let (segment, offset, len) = (segment.clone(), c.offset, c.length);
                let data = ChunkData::Spill(Extent { segment, offset, len });
                (c.offset, Chunk { hash: to_hash(&c.hash), len, data })
            })
            .collect();
        let eof = p.end.as_ref().map(|e| Eof {
            size: e.size,
            stored_size: e.stored_size,
            index: e.index.clone(),
            received: e.received,
        });
        let first = chunks.get(&0).map(|c| c.hash);
        let seen = chunks.values().map(|c| c.hash).collect();
        let (path, started) = (p.path.clone(), p.started);
        let attempt = Attempt { first, chunks, path, eof, started, settled: false };
        let key = UploadKey {
            run: p.run,
            number: p.number,
            accessor: p.accessor.clone(),
            components: p.components.clone(),
        };
        (key, Self { attempts: vec![attempt], seen })
    }

    /// Adds a file buffer.
    pub fn add(&mut self, job: &Job, received: u64) -> Placed {
        let Some(b) = &job.message.file_buffer else { return Placed::Conflict };
        if !self.seen.insert(job.hash) {
            return Placed::Duplicate;
        }
        // Agents before 0.6.8 end a dense file with an empty packet and no flag.
        let ends = b.eof || job.bytes == 0;
        let opens = b.offset == 0;
        let last_is_fresh = self.attempts.last().is_some_and(|a| a.first.is_none());
        if self.attempts.is_empty() || (opens && !last_is_fresh) {
            self.attempts.push(Attempt {
                first: None,
                chunks: BTreeMap::new(),
                path: b.pathspec.as_ref().map(|p| p.path.clone()).unwrap_or_default(),
                eof: None,
                started: received,
                settled: false,
            });
        }
        let Some(attempt) = self.attempts.last_mut() else { return Placed::Conflict };
        if opens {
            attempt.first = Some(job.hash);
        }
        if ends {
            let said = if b.eof { b.stored_size } else { 0 };
            let stored_size = if said > 0 { said } else { b.offset + job.bytes };
            attempt.eof = Some(Eof {
                size: b.size,
                stored_size,
                index: b.index.clone().filter(|_| b.is_sparse),
                received,
            });
        }
        if job.bytes > 0 {
            let data = match &job.spill {
                Some(e) => ChunkData::Spill(e.clone()),
                None => ChunkData::Job(job.extent.clone()),
            };
            let chunk = Chunk { hash: job.hash, len: job.bytes, data };
            if attempt.chunks.contains_key(&b.offset) {
                return Placed::Conflict;
            }
            attempt.chunks.insert(b.offset, chunk);
        }
        Placed::New
    }

    /// Whether a chunk was taken before.
    pub fn has(&self, hash: &Hash) -> bool {
        self.seen.contains(hash)
    }

    /// The messages taken.
    pub fn hashes(&self) -> impl Iterator<Item = Hash> {
        self.seen.iter().copied()
    }

    /// The attempt that is to have the stock path: the last complete one.
    pub fn winner(&self) -> Option<(usize, &Attempt)> {
        self.attempts.iter().enumerate().rev().find(|(_, a)| a.complete())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use velociraptor_proto::proto::{PathSpec, VeloMessage};

    fn chunk(id: u8, offset: u64, len: u64, eof: bool) -> Job {
        let segment = Arc::new(Segment::of_path("x"));
        let b = FileBuffer {
            pathspec: Some(PathSpec { path: "/a/b".into(), ..Default::default() }),
            offset,
            eof,
            size: 100,
            stored_size: if eof { offset } else { 0 },
            ..Default::default()
        };
        Job {
            hash: [id; 16],
            message: VeloMessage { file_buffer: Some(b), ..Default::default() },
            rows: 0,
            bytes: len,
            extent: Extent { segment, offset: 0, len },
            spill: None,
            log_error: None,
        }
    }

    #[test]
    fn a_second_first_chunk_starts_over_and_a_repeated_one_does_not() {
        let mut u = LiveUpload::default();
        assert_eq!(u.add(&chunk(1, 0, 60, false), 1), Placed::New);
        assert_eq!(u.add(&chunk(2, 60, 40, false), 1), Placed::New);
        assert_eq!(u.add(&chunk(1, 0, 60, false), 1), Placed::Duplicate);
        assert!(u.winner().is_none());
        assert_eq!(u.add(&chunk(3, 100, 0, true), 1), Placed::New);
        assert_eq!(u.winner().unwrap().0, 0);
        assert_eq!(u.add(&chunk(4, 0, 50, false), 2), Placed::New);
        assert_eq!(u.winner().unwrap().0, 0, "the unfinished second try does not win");
        u.add(&chunk(5, 50, 50, false), 2);
        u.add(&chunk(6, 100, 0, true), 2);
        assert_eq!(u.winner().unwrap().0, 1);
    }

    #[test]
    fn a_hole_is_not_complete() {
        let mut u = LiveUpload::default();
        u.add(&chunk(1, 0, 40, false), 1);
        u.add(&chunk(3, 100, 0, true), 1);
        u.add(&chunk(2, 60, 40, false), 1);
        assert!(u.winner().is_none());
        assert_eq!(u.attempts[0].covered(), 40);
        u.add(&chunk(4, 40, 20, false), 1);
        assert!(u.winner().is_some());
    }

    #[test]
    fn an_empty_file_is_complete_at_once() {
        let mut u = LiveUpload::default();
        u.add(&chunk(1, 0, 0, true), 1);
        assert!(u.winner().is_some());
    }

    #[test]
    fn an_empty_packet_ends_a_file_of_an_agent_before_0_6_8() {
        let mut u = LiveUpload::default();
        u.add(&chunk(1, 0, 60, false), 1);
        u.add(&chunk(2, 60, 40, false), 1);
        assert!(u.winner().is_none());
        u.add(&chunk(3, 100, 0, false), 1);
        assert_eq!(u.winner().unwrap().1.eof.as_ref().unwrap().stored_size, 100);
        let mut empty = LiveUpload::default();
        empty.add(&chunk(4, 0, 0, false), 1);
        assert!(empty.winner().is_some());
    }

    #[test]
    fn keys_name_the_file() {
        let b = chunk(1, 0, 1, false).message.file_buffer.unwrap();
        let k = UploadKey::of(0, &b).unwrap();
        assert_eq!((k.accessor.as_str(), k.components.len()), ("file", 2));
        assert!(UploadKey::of(0, &FileBuffer::default()).is_none());
    }
}
