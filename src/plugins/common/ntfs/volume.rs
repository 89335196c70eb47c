//! The structures of a volume: boot sector, file records and what they hold. Every number in
//! it may be wrong.

use std::io::{self, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use super::attribute::{ATTRIBUTE_LIST, Attribute, DATA, LARGEST, MOST, Place, Run, bad};
use super::packed;
use super::stream::Stream;
use crate::plugins::common::accessor::ReadSeek;
use crate::plugins::common::fields::Fields;

/// Largest list of attributes, in bytes.
const LIST: u64 = 1 << 20;
/// Bytes after which the last two of a sector stand in a record's head.
const SECTOR: usize = 512;

/// The head of a file record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its number.
    pub number: u32,
    /// How often it was used.
    pub sequence: u16,
    /// Names of the file.
    pub links: u16,
    /// Bit 0: in use; bit 1: a directory.
    pub flags: u16,
    /// The place in the log of its last change.
    pub log: u64,
}

/// A volume.
pub struct Volume {
    disk: Mutex<Box<dyn ReadSeek>>,
    cluster: u64,
    record: usize,
    /// Bytes of a record of a directory.
    pub index: usize,
    table: Vec<Run>,
    /// There is no disk, only the table.
    alone: bool,
}

impl Volume {
    /// The volume that begins at the start of `disk`.
    pub fn open(disk: Box<dyn ReadSeek>) -> io::Result<Arc<Volume>> {
        let mut volume = Volume {
            disk: Mutex::new(disk),
            cluster: 0,
            record: 0,
            index: 0,
            table: Vec::new(),
            alone: false,
        };
        let mut boot = vec![0; SECTOR];
        volume.read_at(0, &mut boot)?;
        if boot.get(3..7) != Some(b"NTFS") {
            return Err(bad("this is no NTFS volume"));
        }
        let sector = u64::from(boot.u16(11).unwrap_or(0));
        volume.cluster = sector * counted(boot[13], 1).unwrap_or(0);
        let size = |byte: u8| counted(byte, volume.cluster).filter(|n| *n <= LARGEST);
        let (record, index) = (size(boot[64]).unwrap_or(0), size(boot[68]).unwrap_or(0));
        if !(256..=LARGEST).contains(&volume.cluster) || record < 512 || index < 512 {
            return Err(bad("the boot sector is damaged"));
        }
        (volume.record, volume.index) = (record as usize, index as usize);
        let first = boot.u64(48).and_then(|n| n.checked_mul(volume.cluster));
        let first = first.ok_or_else(|| bad("the boot sector is damaged"))?;
        // The table of all records is a file of its own, the first of them.
        volume.table = vec![Run { start: 0, length: record, at: Some(first) }];
        for whole in [false, true] {
            let attributes = match whole {
                false => volume.attributes_of(&volume.record(0)?),
                true => volume.attributes(0)?,
            };
            let data = attributes.into_iter().find(|a| a.kind == DATA && a.name.is_empty());
            if let Some(Attribute { place: Place::Disk { runs, .. }, .. }) = data {
                volume.table = runs;
            }
        }
        Ok(Arc::new(volume))
    }

    /// A table of file records by itself, without the disk it describes: content outside of
    /// the records cannot be read.
    pub fn of_table(mut table: Box<dyn ReadSeek>) -> io::Result<Arc<Volume>> {
        let length = table.seek(SeekFrom::End(0))?;
        Ok(Arc::new(Volume {
            disk: Mutex::new(table),
            cluster: 4096,
            record: 1024,
            index: 4096,
            table: vec![Run { start: 0, length, at: Some(0) }],
            alone: true,
        }))
    }

    /// How many records the table has room for.
    pub fn records(&self) -> u64 {
        let bytes: u64 = self.table.iter().map(|r| r.length).fold(0, u64::saturating_add);
        bytes / self.record as u64
    }

    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// A record's head and all attributes of its file, one by one: where a list names
    /// further records, what they hold stands before the list.
    pub fn parts(&self, number: u64) -> io::Result<(Head, Vec<Attribute>)> {
        let record = self.record(number)?;
        let head = Head {
            number: record.u32(44).unwrap_or(0),
            sequence: record.u16(16).unwrap_or(0),
            links: record.u16(18).unwrap_or(0),
            flags: record.u16(22).unwrap_or(0),
            log: record.u64(8).unwrap_or(0),
        };
        let mut out = Vec::new();
        for attribute in self.attributes_of(&record) {
            if attribute.kind == ATTRIBUTE_LIST {
                self.listed(number, &attribute, &mut out);
            }
            out.push(attribute);
        }
        Ok((head, out))
    }

    /// The attributes that a list finds in further records.
    fn listed(&self, number: u64, list: &Attribute, out: &mut Vec<Attribute>) {
        let list = self.content(list, LIST).unwrap_or_default();
        let (mut at, mut known) = (0, std::collections::BTreeMap::new());
        while let (Some(kind), Some(length), Some(record), Some(id)) =
            (list.u32(at), list.u16(at + 4), list.u64(at + 16), list.u16(at + 24))
        {
            let record = record & 0xffff_ffff_ffff;
            if record != number && known.len() < 1024 && out.len() < MOST {
                let attributes = known.entry(record).or_insert_with(|| {
                    self.record(record).map(|r| self.attributes_of(&r)).unwrap_or_default()
                });
                out.extend(attributes.iter().find(|a| a.kind == kind && a.id == id).cloned());
            }
            at += usize::from(length.max(1));
        }
    }

    /// The unit by which records of directories are numbered, in bytes.
    pub fn index_unit(&self) -> usize {
        match usize::try_from(self.cluster) {
            Ok(cluster) if cluster <= self.index => cluster,
            _ => SECTOR,
        }
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.seek(SeekFrom::Start(at))?;
        disk.read_exact(into)
    }

    /// Content at a place; zeros where no clusters are.
    pub(super) fn read_runs(&self, runs: &[Run], at: u64, into: &mut [u8]) -> io::Result<usize> {
        let holds = |r: &&Run| r.start <= at && at - r.start < r.length;
        let run = runs.iter().find(holds).ok_or_else(|| bad("content is missing"))?;
        let inside = at - run.start;
        let length = into.len().min(usize::try_from(run.length - inside).unwrap_or(usize::MAX));
        match run.at {
            Some(disk) => self.read_at(disk.saturating_add(inside), &mut into[..length])?,
            None => into[..length].fill(0),
        }
        Ok(length)
    }

    /// A unit of packed content. One without a hole is stored as it is, one that is a hole is
    /// zero; of others what is stored is packed.
    pub(super) fn unit(&self, runs: &[Run], start: u64, unit: u64) -> io::Result<Vec<u8>> {
        let end = start.saturating_add(unit);
        let hole = |r: &&Run| r.at.is_none() && r.start < end && r.start + r.length > start;
        let stored = runs.iter().find(hole).map_or(unit, |r| r.start.saturating_sub(start));
        let mut data = vec![0; stored as usize];
        let mut done = 0;
        while done < data.len() {
            match self.read_runs(runs, start + done as u64, &mut data[done..]) {
                Ok(read) => done += read,
                // The last unit need not be whole.
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        match stored == unit {
            true => Ok(data),
            false => Ok(packed::unpack(&data, unit as usize)),
        }
    }

    /// A file record as it was written.
    fn record(&self, number: u64) -> io::Result<Vec<u8>> {
        let mut data = vec![0; self.record];
        let at = number.checked_mul(self.record as u64).ok_or_else(|| bad("no such record"))?;
        let mut done = 0;
        while done < data.len() {
            done += self.read_runs(&self.table, at + done as u64, &mut data[done..])?;
        }
        mended(data, b"FILE")
    }

    /// The attributes in a record.
    fn attributes_of(&self, record: &[u8]) -> Vec<Attribute> {
        let mut out = Vec::new();
        let mut at = record.u16(20).map_or(0, usize::from);
        // What is behind the used part is of files that had the record before.
        let record = &record[..record.len().min(record.u32(24).unwrap_or(0) as usize)];
        while let Some(length) = record.u32(at + 4).map(|n| n as usize) {
            let Some(bytes) = record.get(at..at + length).filter(|b| b.len() >= 24) else { break };
            if let Some(attribute) = Attribute::read(bytes, self.cluster) {
                out.push(attribute);
            }
            at += length;
            if out.len() >= MOST {
                break;
            }
        }
        out
    }

    /// All attributes of a file, also those in further records.
    pub fn attributes(&self, number: u64) -> io::Result<Vec<Attribute>> {
        let mut all = self.attributes_of(&self.record(number)?);
        let Some(list) = all.iter().find(|a| a.kind == ATTRIBUTE_LIST).cloned() else {
            return Ok(all);
        };
        let (list, mut at, mut more) = (self.content(&list, LIST)?, 0, Vec::new());
        while let (Some(length), Some(record)) = (list.u16(at + 4), list.u64(at + 16)) {
            let record = record & 0xffff_ffff_ffff;
            if record != number && !more.contains(&record) && more.len() < 1024 {
                more.push(record);
            }
            at += usize::from(length.max(1));
        }
        for record in more {
            // A part that cannot be read does not hide the others.
            let Ok(record) = self.record(record) else { continue };
            for attribute in self.attributes_of(&record) {
                // Of names a file has several; content goes on where another part ends.
                let same = |a: &&mut Attribute| {
                    let on_disk = matches!(attribute.place, Place::Disk { .. });
                    on_disk && a.kind == attribute.kind && a.name == attribute.name
                };
                match all.iter_mut().find(same) {
                    Some(known) => known.extend(attribute),
                    None => all.push(attribute),
                }
            }
        }
        Ok(all)
    }

    /// The content of an attribute, not more than `limit` bytes.
    pub fn content(&self, attribute: &Attribute, limit: u64) -> io::Result<Vec<u8>> {
        let (runs, written) = match &attribute.place {
            Place::Record(content) => return Ok(content.clone()),
            Place::Disk { runs, written, .. } => (runs, *written),
        };
        if self.alone {
            return Err(bad("the content is not in the table of files"));
        }
        let mut out = vec![0; usize::try_from(attribute.size.min(limit)).unwrap_or(0)];
        let end = out.len().min(usize::try_from(written).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < end {
            done += self.read_runs(runs, done as u64, &mut out[done..end])?;
        }
        Ok(out)
    }

    /// The content of an attribute as a file.
    pub fn stream(self: &Arc<Volume>, attribute: Attribute) -> Stream {
        Stream::new(self.clone(), attribute)
    }
}

/// A number of units; from 0x80 on a power of two of bytes.
fn counted(byte: u8, unit: u64) -> Option<u64> {
    match byte {
        0..0x80 => Some(u64::from(byte) * unit),
        _ => 1u64.checked_shl(u32::from(byte.wrapping_neg())),
    }
}

/// A record whose sectors end as they were before it was written.
pub fn mended(mut record: Vec<u8>, magic: &[u8; 4]) -> io::Result<Vec<u8>> {
    if !record.starts_with(magic) {
        return Err(bad("the record is not used"));
    }
    let (list, count) = (record.u16(4), record.u16(6));
    let list = usize::from(list.unwrap_or(0));
    for i in 1..usize::from(count.unwrap_or(0)) {
        let end = i * SECTOR;
        let kept = [record.get(list), record.get(list + 1)].map(|b| b.copied());
        let real = [record.get(list + i * 2), record.get(list + i * 2 + 1)].map(|b| b.copied());
        let (Some(place), [Some(a), Some(b)]) = (record.get_mut(end - 2..end), real) else {
            return Err(bad("the record is damaged"));
        };
        if [Some(place[0]), Some(place[1])] != kept {
            return Err(bad("the record was written in part only"));
        }
        place.copy_from_slice(&[a, b]);
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_units() {
        assert_eq!(
            (counted(8, 512), counted(0xf6, 9), counted(0x80, 1)),
            (Some(4096), Some(1024), None)
        );
    }

    #[test]
    fn sectors_of_records() {
        let mut record = vec![0u8; 1024];
        record[..8].copy_from_slice(b"INDX\x28\0\x03\0");
        record[0x28..0x2e].copy_from_slice(&[7, 0, 1, 2, 3, 4]);
        record[510] = 7;
        record[1022] = 7;
        let good = mended(record.clone(), b"INDX").unwrap();
        assert_eq!((&good[510..512], &good[1022..]), (&[1u8, 2][..], &[3u8, 4][..]));
        record[510] = 8;
        assert!(mended(record.clone(), b"INDX").is_err() && mended(record, b"FILE").is_err());
    }
}
