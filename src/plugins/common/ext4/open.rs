//! A file that is open.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use super::blocks::Run;
use super::volume::Volume;
use crate::plugins::common::accessor::sought;

/// A file that is open.
pub(super) struct Open {
    pub(super) volume: Arc<Volume>,
    pub(super) runs: Vec<Run>,
    pub(super) size: u64,
    pub(super) at: u64,
}

impl Read for Open {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let block = self.volume.block;
        let mut length = self.size.saturating_sub(self.at).min(into.len() as u64);
        if length == 0 {
            return Ok(0);
        }
        let (now, inside) = (self.at / block, self.at % block);
        let next = self.runs.partition_point(|r| r.start.saturating_add(r.length) <= now);
        let run = self.runs.get(next);
        let here = run.filter(|r| r.start <= now);
        // Blocks between runs were never written.
        let end = match (here, run) {
            (Some(r), _) => r.start + r.length,
            (None, Some(r)) => r.start,
            (None, None) => u64::MAX,
        };
        // In a damaged tree runs may overlap.
        length = length.min(end.saturating_sub(now).max(1).saturating_mul(block) - inside);
        let into = &mut into[..length as usize];
        match here.and_then(|r| r.at.map(|at| at + (now - r.start))) {
            Some(at) => {
                let at = self.volume.place(at)?.saturating_add(inside);
                self.volume.read_into(at, into)?;
            }
            None => into.fill(0),
        }
        self.at += length;
        Ok(length as usize)
    }
}

impl Seek for Open {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = sought(to, self.size, self.at)?;
        Ok(self.at)
    }
}
