//! The content of an attribute as a file that is open.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use super::attribute::{Attribute, Place};
use super::volume::Volume;
use crate::plugins::common::accessor::sought;

/// See [`Volume::stream`].
pub struct Stream {
    volume: Arc<Volume>,
    attribute: Attribute,
    at: u64,
    /// The unit of packed content that was read last, and where it begins.
    unpacked: Option<(u64, Vec<u8>)>,
}

impl Stream {
    /// The content of an attribute from its beginning.
    pub(super) fn new(volume: Arc<Volume>, attribute: Attribute) -> Stream {
        Stream { volume, attribute, at: 0, unpacked: None }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.attribute.size.saturating_sub(self.at);
        let length = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        let done = match &self.attribute.place {
            Place::Record(content) => {
                let from = usize::try_from(self.at).unwrap_or(usize::MAX);
                let rest = content.get(from..).unwrap_or_default();
                let length = length.min(rest.len());
                into[..length].copy_from_slice(&rest[..length]);
                length
            }
            Place::Disk { written, .. } if self.at >= *written => {
                into[..length].fill(0);
                length
            }
            Place::Disk { runs, written, unit: unit @ 1.., .. } => {
                let length = length.min(usize::try_from(*written - self.at).unwrap_or(usize::MAX));
                let start = self.at - self.at % unit;
                let kept = self.unpacked.take().filter(|(of, _)| *of == start);
                let content = match kept {
                    Some((_, content)) => content,
                    None => self.volume.unit(runs, start, *unit)?,
                };
                let rest = &content[(self.at - start) as usize..];
                let length = length.min(rest.len());
                into[..length].copy_from_slice(&rest[..length]);
                self.unpacked = Some((start, content));
                length
            }
            Place::Disk { runs, written, .. } => {
                let length = length.min(usize::try_from(*written - self.at).unwrap_or(usize::MAX));
                self.volume.read_runs(runs, self.at, &mut into[..length])?
            }
        };
        self.at += done as u64;
        Ok(done)
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = sought(to, self.attribute.size, self.at)?;
        Ok(self.at)
    }
}
