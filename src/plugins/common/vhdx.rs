//! The accessor `vhdx`: the disk in an image of that format. Its log is not replayed, and
//! images that hold only what differs from another are refused.

use std::io::{self, Read, Seek, SeekFrom};

use super::accessor::{Accessor, Accessors, ReadSeek, sought};
use super::fields::Fields;
use super::path::OsPath;

/// Where the two tables of regions are, and their size, in bytes.
const REGIONS: [u64; 2] = [192 << 10, 256 << 10];
const TABLE: usize = 64 << 10;
/// Ids as they are written: the table of blocks, facts of the disk, and four of those.
const BLOCKS: [u8; 16] = *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08";
const FACTS: [u8; 16] = *b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e";
const PARAMETERS: [u8; 16] = *b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b";
const DISK_SIZE: [u8; 16] = *b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8";
const SECTOR_SIZE: [u8; 16] = *b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f";
/// Sizes of a block that the format allows, in bytes.
const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 1 << 20..=256 << 20;

/// See the module.
pub struct Vhdx(pub Accessors);

impl Accessor for Vhdx {
    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        Ok(Box::new(Image::open(self.0.open_outer(path)?)?))
    }
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// An image, whose table is asked at each read: it may be large.
struct Image {
    file: Box<dyn ReadSeek>,
    /// Where the table of blocks is, and its size.
    table: (u64, u64),
    block: u64,
    /// After so many blocks an entry of the table is for something else.
    together: u64,
    size: u64,
    at: u64,
}

fn read_at(file: &mut dyn ReadSeek, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; length];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut out)?;
    Ok(out)
}

impl Image {
    fn open(mut file: Box<dyn ReadSeek>) -> io::Result<Image> {
        if read_at(&mut *file, 0, 8)? != b"vhdxfile" {
            return Err(bad("this is no VHDX image"));
        }
        let mut regions = Vec::new();
        for at in REGIONS {
            regions = read_at(&mut *file, at, TABLE)?;
            if regions.starts_with(b"regi") {
                break;
            }
        }
        let region = |id: &[u8; 16]| {
            let count = regions.u32(8).unwrap_or(0).min(2047) as usize;
            let entries = regions.get(16..16 + count * 32)?.chunks_exact(32);
            let entry = entries.into_iter().find(|e| e.starts_with(id))?;
            Some((entry.u64(16)?, u64::from(entry.u32(24)?)))
        };
        let table = region(&BLOCKS).ok_or_else(|| bad("the image has no table of blocks"))?;
        let facts = region(&FACTS).ok_or_else(|| bad("the image says nothing of its disk"))?.0;
        let head = read_at(&mut *file, facts, TABLE)?;
        let count = usize::from(head.u16(10).unwrap_or(0)).min(2047);
        let mut fact = |id: &[u8; 16]| -> io::Result<Vec<u8>> {
            let entries = head.get(32..32 + count * 32).unwrap_or_default().chunks_exact(32);
            let entry = entries.into_iter().find(|e| e.starts_with(id));
            let place = entry.filter(|_| head.starts_with(b"metadata")).and_then(|e| e.u32(16));
            let place = place.ok_or_else(|| bad("the image does not describe its disk"))?;
            read_at(&mut *file, facts.saturating_add(place.into()), 8)
        };
        let parameters = fact(&PARAMETERS)?;
        let (block, flags) = (u64::from(parameters.u32(0).unwrap_or(0)), parameters.u32(4));
        let size = fact(&DISK_SIZE)?.u64(0).unwrap_or(0);
        let sector = u64::from(fact(&SECTOR_SIZE)?.u32(0).unwrap_or(0));
        if flags.is_some_and(|f| f & 2 != 0) {
            return Err(bad("the image holds only what differs from another one"));
        }
        if !BLOCK_SIZES.contains(&block) || !matches!(sector, 512 | 4096) {
            return Err(bad("blocks or sectors of the image have an impossible size"));
        }
        let together = (sector << 23) / block;
        Ok(Image { file, table, block, together: together.max(1), size, at: 0 })
    }

    /// Where a block is in the image; `None` where it is empty.
    fn place(&mut self, block: u64) -> io::Result<Option<u64>> {
        let entry = (block + block / self.together) * 8;
        if entry + 8 > self.table.1 {
            return Err(bad("a block is missing in the table of the image"));
        }
        let at = self.table.0.saturating_add(entry);
        let entry = read_at(&mut *self.file, at, 8)?.u64(0).unwrap_or(0);
        // What is stored wholly or in part has a place, counted in mebibytes.
        Ok(matches!(entry & 7, 6 | 7).then_some(entry & !0xf_ffff))
    }
}

impl Read for Image {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.size.saturating_sub(self.at);
        let (block, inside) = (self.at / self.block, self.at % self.block);
        let length = left.min(self.block - inside).min(into.len() as u64) as usize;
        if length == 0 {
            return Ok(0);
        }
        match self.place(block)? {
            Some(place) => {
                self.file.seek(SeekFrom::Start(place.saturating_add(inside)))?;
                self.file.read_exact(&mut into[..length])?;
            }
            None => into[..length].fill(0),
        }
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Image {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = sought(to, self.size, self.at)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 1 << 20;

    /// A disk of three blocks, of which the first and the last are stored.
    fn image() -> Vec<u8> {
        let mut out = vec![0; 6 * BLOCK];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"vhdxfile");
        // The first table of regions is damaged.
        put(192 << 10, b"gone");
        let regions = 256 << 10;
        put(regions, b"regi\0\0\0\0\x02");
        for (i, (id, at)) in [(BLOCKS, 2 * BLOCK), (FACTS, BLOCK)].into_iter().enumerate() {
            let entry = regions + 16 + i * 32;
            put(entry, &id);
            put(entry + 16, &(at as u64).to_le_bytes());
            put(entry + 24, &(1u32 << 20).to_le_bytes());
        }
        put(BLOCK, b"metadata\0\0\x03");
        let facts = [
            (PARAMETERS, (BLOCK as u64).to_le_bytes()),
            (DISK_SIZE, (3 * BLOCK as u64 - 512).to_le_bytes()),
            (SECTOR_SIZE, 512u64.to_le_bytes()),
        ];
        for (i, (id, value)) in facts.into_iter().enumerate() {
            let (entry, at) = (BLOCK + 32 + i * 32, (64 << 10) + i * 8);
            put(entry, &id);
            put(entry + 16, &(at as u32).to_le_bytes());
            put(BLOCK + at, &value);
        }
        put(2 * BLOCK, &((5 * BLOCK as u64) | 6).to_le_bytes());
        put(2 * BLOCK + 16, &((4 * BLOCK as u64) | 6).to_le_bytes());
        put(5 * BLOCK, b"first");
        put(6 * BLOCK - 2, b"xy");
        put(4 * BLOCK, b"last");
        out
    }

    #[test]
    fn blocks_stored_and_not() {
        let mut image = Image::open(Box::new(io::Cursor::new(image()))).unwrap();
        let mut read = |at: u64, length: usize| {
            let mut out = vec![9; length];
            image.seek(SeekFrom::Start(at)).unwrap();
            image.read_exact(&mut out).map(|()| out)
        };
        assert_eq!(read(0, 5).unwrap(), b"first");
        assert_eq!(read(BLOCK as u64 - 2, 4).unwrap(), b"xy\0\0");
        assert_eq!(read(2 * BLOCK as u64 - 1, 5).unwrap(), b"\0last");
        assert!(read(3 * BLOCK as u64 - 513, 2).is_err());
        assert_eq!(image.seek(SeekFrom::End(0)).unwrap(), 3 * BLOCK as u64 - 512);
    }

    #[test]
    fn images_that_lie() {
        let good = image();
        let look = |data: &[u8]| {
            let data = data[..2 * BLOCK + 64].to_vec();
            if let Ok(mut image) = Image::open(Box::new(io::Cursor::new(data))) {
                let _ = io::copy(&mut (&mut image).take(4096), &mut io::sink());
                let _ = image.seek(SeekFrom::Start(1 << 40));
                let _ = image.read(&mut [0; 9]);
            }
        };
        let mut changing = good.clone();
        let places = [0..8, (256 << 10)..(256 << 10) + 80, BLOCK..BLOCK + 128]
            .into_iter()
            .chain([BLOCK + (64 << 10)..BLOCK + (64 << 10) + 24, 2 * BLOCK..2 * BLOCK + 8]);
        for at in places.flatten() {
            for bits in [0xff, 0x01, 0x80] {
                changing[at] ^= bits;
                look(&changing);
                changing[at] ^= bits;
            }
        }
        let mut child = good;
        child[BLOCK + (64 << 10) + 4] = 2;
        assert!(Image::open(Box::new(io::Cursor::new(child))).is_err());
    }
}
