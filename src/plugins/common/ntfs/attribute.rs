//! Attributes of a file, and where their content lies.

use std::io;

use crate::plugins::common::fields::{Fields, wide};

/// Types of attributes.
pub const STANDARD_INFORMATION: u32 = 0x10;
/// Where attributes are that found no room.
pub const ATTRIBUTE_LIST: u32 = 0x20;
/// A name of the file.
pub const FILE_NAME: u32 = 0x30;
/// Content.
pub const DATA: u32 = 0x80;
/// The beginning of a directory.
pub const INDEX_ROOT: u32 = 0x90;
/// The rest of a directory.
pub const INDEX_ALLOCATION: u32 = 0xa0;

/// Largest cluster, file record and index record, in bytes.
pub(super) const LARGEST: u64 = 2 << 20;
/// Most runs of one attribute, attributes of a file, and records of one.
pub(super) const MOST: usize = 1 << 16;

/// Something on the disk that cannot be.
pub(super) fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// `length` characters of two bytes.
pub fn wide_at(b: &[u8], at: usize, length: usize) -> Option<String> {
    Some(wide(b.get(at..at.checked_add(length * 2)?)?))
}

/// Clusters that follow each other; `None` where there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First byte of the content it holds, and how many.
    pub(super) start: u64,
    pub(super) length: u64,
    /// Where on the disk.
    pub(super) at: Option<u64>,
}

/// An attribute of a file.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Its type.
    pub kind: u32,
    /// Its number in the file.
    pub id: u16,
    /// Its name; empty for most.
    pub name: String,
    /// Size of its content in bytes.
    pub size: u64,
    /// Which byte of the content it begins with: a file may have several of one stream.
    pub start: u64,
    pub(super) place: Place,
}

/// Where content is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Record(Vec<u8>),
    /// Bytes behind `written` are zero.
    Disk {
        runs: Vec<Run>,
        written: u64,
        /// Bytes that are packed together; 0 where the content is as it is.
        unit: u64,
        /// It says that clusters may be missing.
        sparse: bool,
    },
}

impl Attribute {
    /// The attribute in its bytes, on a volume with such clusters.
    pub(super) fn read(b: &[u8], cluster: u64) -> Option<Attribute> {
        let name = wide_at(b, b.u16(10)?.into(), b[9].into())?;
        let (kind, id) = (b.u32(0)?, b.u16(14)?);
        if b[8] == 0 {
            let (size, from) = (b.u32(16)? as usize, usize::from(b.u16(20)?));
            let content = b.get(from..from.checked_add(size)?)?.to_vec();
            let place = Place::Record(content);
            return Some(Attribute { kind, id, name, size: size as u64, start: 0, place });
        }
        let first = b.u64(16)?.checked_mul(cluster)?;
        let runs = runs(b.get(usize::from(b.u16(32)?)..)?, first, cluster)?;
        // Only the first part of a long list of clusters tells sizes.
        let (size, written) = if first == 0 { (b.u64(48)?, b.u64(56)?) } else { (0, 0) };
        let unit = match b.u16(12)? & 0xff {
            0 => 0,
            // Later parts of a long list do not tell; nearly always it is 16.
            _ => cluster << if (1..=8).contains(&b[34]) { b[34] } else { 4 },
        };
        if unit > LARGEST * 8 {
            return None;
        }
        let sparse = b.u16(12)? & 0x8000 != 0;
        let place = Place::Disk { runs, written, unit, sparse };
        Some(Attribute { kind, id, name, size, start: first, place })
    }

    /// Whether its content is in the record.
    pub fn resident(&self) -> bool {
        matches!(self.place, Place::Record(_))
    }

    /// Its runs: where each begins in the content and on the disk, and its length; `None`
    /// on the disk where nothing is stored.
    pub fn runs(&self) -> Vec<(u64, Option<u64>, u64)> {
        match &self.place {
            Place::Record(_) => Vec::new(),
            Place::Disk { runs, .. } => runs.iter().map(|r| (r.start, r.at, r.length)).collect(),
        }
    }

    /// Goes on with what another record has of it.
    pub(super) fn extend(&mut self, more: Attribute) {
        if let (Place::Disk { runs, written, .. }, Place::Disk { runs: behind, written: w, .. }) =
            (&mut self.place, more.place)
        {
            runs.extend(behind);
            self.size = self.size.max(more.size);
            *written = (*written).max(w);
        }
    }
}

/// The runs of a list, which begins with what follows `start` bytes of content.
fn runs(list: &[u8], mut start: u64, cluster: u64) -> Option<Vec<Run>> {
    let (mut out, mut at, mut place) = (Vec::new(), 0, 0i64);
    while let Some(head) = list.get(at).filter(|h| **h != 0 && out.len() < MOST) {
        let (counts, places) = (usize::from(head & 15), usize::from(head >> 4));
        let count = list.get(at + 1..at + 1 + counts).filter(|_| counts <= 8)?;
        let count = count.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let step = list.get(at + 1 + counts..at + 1 + counts + places).filter(|_| places <= 8)?;
        let negative = step.last().is_some_and(|b| b & 0x80 != 0);
        let step = step
            .iter()
            .rev()
            .fold(if negative { -1 } else { 0 }, |n: i64, b| n << 8 | i64::from(*b));
        place = place.checked_add(step)?;
        let length = count.checked_mul(cluster)?;
        let disk = match places {
            0 => None,
            _ => Some(u64::try_from(place).ok()?.checked_mul(cluster)?),
        };
        out.push(Run { start, length, at: disk });
        start = start.checked_add(length)?;
        at += 1 + counts + places;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_runs() {
        let list = [0x21, 2, 0x34, 0x12, 0x01, 3, 0x11, 1, 0xff, 0];
        let run = |start, length, at| Run { start, length, at };
        let expected =
            [run(100, 20, Some(0x1234 * 10)), run(120, 30, None), run(150, 10, Some(0x1233 * 10))];
        assert_eq!(runs(&list, 100, 10).unwrap(), expected);
        assert_eq!(runs(&[0x11, 1, 0x80], 0, 1), None);
        assert_eq!(runs(&[0x9f, 1], 0, 1), None);
    }
}
