//! The accessor `bzip2`: the content of a file that bzip2 packed. Files are blocks of sorted
//! text, each a list of Huffman codes; several may follow each other in one file.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use super::accessor::{Accessor, Accessors, FileInfo, ReadSeek};
use super::path::OsPath;

/// Largest content that is unpacked, in bytes; it is held in memory. Also the largest file.
const LIMIT: usize = 512 << 20;
/// What a block begins with, and what stands after the last.
const BLOCK: u64 = 0x3141_5926_5359;
const END: u64 = 0x1772_4538_5090;
/// Longest code in bits.
const LONGEST: u32 = 20;
/// Codes that one table is used for.
const GROUP: usize = 50;

/// See the module.
pub struct Bzip2(pub Accessors);

impl Accessor for Bzip2 {
    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let mut packed = Vec::new();
        self.0.open_outer(path)?.take(LIMIT as u64).read_to_end(&mut packed)?;
        let (out, done) = unpack(&packed);
        match done {
            // What there is before a damaged place can be read.
            Err(e) if out.is_empty() => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
            _ => Ok(Box::new(Cursor::new(out))),
        }
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let mut file = self.open(path)?;
        let packed = self.0.stat_outer(path)?;
        let mut info = FileInfo::plain(path.clone(), file.seek(SeekFrom::End(0))?);
        (info.mode, info.times) = (packed.mode, packed.times);
        Ok(info)
    }
}

/// What was packed as far as it goes, and why it does not go further.
fn unpack(packed: &[u8]) -> (Vec<u8>, Result<(), &'static str>) {
    let (mut out, mut bits) = (Vec::new(), Bits { input: packed, at: 0 });
    loop {
        // Bytes behind the last file are nothing of ours.
        if bits.rest().is_empty() || !out.is_empty() && !bits.rest().starts_with(b"BZh") {
            return (out, Ok(()));
        }
        if let Err(why) = file(&mut bits, &mut out) {
            return (out, Err(why));
        }
    }
}

/// Unpacks one file.
fn file(bits: &mut Bits<'_>, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let level = match bits.rest() {
        [b'B', b'Z', b'h', level @ b'1'..=b'9', ..] => usize::from(level - b'0'),
        _ => return Err("nothing that bzip2 packed"),
    };
    bits.at += 32;
    loop {
        let short = "the file is cut";
        match bits.take(24).zip(bits.take(24)).ok_or(short)? {
            (a, b) if u64::from(a) << 24 | u64::from(b) == BLOCK => {
                let sum = bits.take(32).ok_or(short)?;
                let start = out.len();
                let sorted = block(bits, level * 100_000).ok_or("a block is damaged")?;
                expand(&sorted, out);
                if crc(&out[start..]) != sum {
                    out.truncate(start);
                    return Err("a block is not what was packed");
                }
                if out.len() > LIMIT {
                    return Err("the content is too large");
                }
            }
            (a, b) if u64::from(a) << 24 | u64::from(b) == END => {
                bits.take(32).ok_or(short)?;
                bits.at = bits.at.next_multiple_of(8);
                return Ok(());
            }
            _ => return Err("a block is damaged"),
        }
    }
}

/// Bits from the highest of a byte on.
struct Bits<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    /// Bytes not begun.
    fn rest(&self) -> &'a [u8] {
        self.input.get(self.at.div_ceil(8)..).unwrap_or_default()
    }

    fn take(&mut self, count: u32) -> Option<u32> {
        let mut out = 0;
        for _ in 0..count {
            let byte = *self.input.get(self.at / 8)?;
            out = out << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(out)
    }
}

/// A table of codes: of each length the first code, and where its symbols stand.
struct Codes {
    /// By length: first code, how many, and the place of the first symbol.
    lengths: [(u32, u32, usize); LONGEST as usize + 1],
    symbols: Vec<u16>,
}

impl Codes {
    fn read(bits: &mut Bits<'_>, count: usize) -> Option<Codes> {
        let (mut all, mut length) = (Vec::with_capacity(count), bits.take(5)?);
        for _ in 0..count {
            loop {
                if !(1..=LONGEST).contains(&length) {
                    return None;
                }
                match (bits.take(1)?, length) {
                    (0, _) => break,
                    _ if bits.take(1)? == 0 => length += 1,
                    _ => length -= 1,
                }
            }
            all.push(length);
        }
        let mut codes = Codes {
            lengths: [(0, 0, 0); LONGEST as usize + 1],
            symbols: Vec::with_capacity(count),
        };
        let mut code = 0u32;
        for length in 1..=LONGEST {
            code <<= 1;
            let first = codes.symbols.len();
            let of = (0u16..).zip(&all).filter(|(_, l)| **l == length).map(|(symbol, _)| symbol);
            codes.symbols.extend(of);
            let number = (codes.symbols.len() - first) as u32;
            codes.lengths[length as usize] = (code, number, first);
            code += number;
        }
        Some(codes)
    }

    fn next(&self, bits: &mut Bits<'_>) -> Option<u16> {
        let mut code = 0;
        for (first, number, place) in &self.lengths[1..] {
            code = code << 1 | bits.take(1)?;
            if let Some(n) = code.checked_sub(*first).filter(|n| n < number) {
                return self.symbols.get(place + n as usize).copied();
            }
        }
        None
    }
}

/// The content of a block as it was before it was sorted.
fn block(bits: &mut Bits<'_>, most: usize) -> Option<Vec<u8>> {
    // Blocks that were made random are of programs of the last century.
    if bits.take(1)? != 0 {
        return None;
    }
    let origin = bits.take(24)? as usize;
    let (rows, mut recent) = (bits.take(16)?, Vec::new());
    for row in (0..16u8).filter(|row| rows & 0x8000 >> row != 0) {
        let columns = bits.take(16)?;
        recent.extend((0..16).filter(|c| columns & 0x8000 >> c != 0).map(|c| row << 4 | c));
    }
    let (tables, selectors) = (bits.take(3)? as usize, bits.take(15)? as usize);
    if recent.is_empty() || !(2..=6).contains(&tables) || selectors == 0 {
        return None;
    }
    let mut order: Vec<usize> = (0..tables).collect();
    let mut chosen = Vec::with_capacity(selectors);
    for _ in 0..selectors {
        let mut place = 0;
        while bits.take(1)? == 1 {
            place += 1;
        }
        let table = *order.get(place)?;
        order[..=place].rotate_right(1);
        chosen.push(table);
    }
    let end = recent.len() as u16 + 1;
    let codes: Vec<Codes> =
        (0..tables).map(|_| Codes::read(bits, recent.len() + 2)).collect::<Option<_>>()?;
    let (mut data, mut run, mut digit) = (Vec::new(), 0usize, 0u32);
    for table in chosen {
        for _ in 0..GROUP {
            match codes[table].next(bits)? {
                // How often the most recent byte comes, in digits of one and two.
                symbol @ (0 | 1) => {
                    run = run.checked_add((usize::from(symbol) + 1).checked_shl(digit)?)?;
                    digit += 1;
                    if run > most {
                        return None;
                    }
                    continue;
                }
                symbol => {
                    data.resize(data.len() + std::mem::take(&mut run), recent[0]);
                    digit = 0;
                    if data.len() > most {
                        return None;
                    }
                    if symbol == end {
                        return unsorted(&data, origin);
                    }
                    let place = usize::from(symbol) - 1;
                    data.push(*recent.get(place)?);
                    recent[..=place].rotate_right(1);
                }
            }
        }
    }
    None
}

/// The text whose rotations, sorted, end in these bytes; it is the one at `origin`.
fn unsorted(last: &[u8], origin: usize) -> Option<Vec<u8>> {
    let mut places = [0u32; 256];
    last.iter().for_each(|b| places[usize::from(*b)] += 1);
    let mut sum = 0;
    for place in &mut places {
        sum += std::mem::replace(place, sum);
    }
    let mut next = vec![0u32; last.len()];
    for (i, b) in (0u32..).zip(last) {
        let place = &mut places[usize::from(*b)];
        next[*place as usize] = i;
        *place += 1;
    }
    let mut at = *next.get(origin)? as usize;
    let mut out = Vec::with_capacity(last.len());
    for _ in 0..last.len() {
        out.push(last[at]);
        at = next[at] as usize;
    }
    Some(out)
}

/// Four equal bytes are followed by how often more the byte comes.
fn expand(data: &[u8], out: &mut Vec<u8>) {
    let (mut same, mut before) = (0, None);
    for b in data {
        if same == 4 {
            out.resize(out.len() + usize::from(*b), before.unwrap_or_default());
            (same, before) = (0, None);
            continue;
        }
        same = if before == Some(*b) { same + 1 } else { 1 };
        before = Some(*b);
        out.push(*b);
    }
}

/// The checksum of a block: CRC-32 from the highest bit on.
fn crc(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let (mut sum, mut bit) = ((i as u32) << 24, 0);
            while bit < 8 {
                sum = if sum >> 31 == 1 { sum << 1 ^ 0x04c1_1db7 } else { sum << 1 };
                bit += 1;
            }
            table[i] = sum;
            i += 1;
        }
        table
    };
    !data.iter().fold(u32::MAX, |sum, b| sum << 8 ^ TABLE[(sum >> 24) as usize ^ usize::from(*b)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKED: &str = "425a68313141592653591c02b94b000007c10002103e012000310c081151b29a758f10b0c1\
        c18d436efc5dc914e14240700ae52c";

    fn packed() -> Vec<u8> {
        hex::decode(PACKED).unwrap()
    }

    #[test]
    fn files_are_unpacked() {
        let text = format!("{}end", "aaaaaaaaabcabcabc\n".repeat(3));
        let (out, done) = unpack(&packed());
        assert_eq!((String::from_utf8(out).unwrap(), done), (text.clone(), Ok(())));
        // One after another, and something else behind them.
        let (out, done) = unpack(&[packed(), packed(), b"rest".to_vec()].concat());
        assert_eq!((out, done), (text.repeat(2).into_bytes(), Ok(())));
        assert_eq!(unpack(b"text").1, Err("nothing that bzip2 packed"));
    }

    #[test]
    fn damage_is_found() {
        let good = packed();
        let text = unpack(&good).0;
        for at in 4..good.len() {
            assert!(unpack(&good[..at]).1.is_err() || at >= good.len() - 1, "cut at {at}");
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                let (out, done) = unpack(&bad);
                // Not every bit tells something; what is unpacked is what was packed.
                assert!(done.is_err() || out == text, "{at} {bit} {out:?}");
            }
        }
    }
}
