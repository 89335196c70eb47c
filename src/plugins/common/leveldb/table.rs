//! Blocks of sorted tables, and the records of logs.

use std::io;

use super::snappy;

/// Ends every table.
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
/// Bytes of a table's end.
const FOOTER: usize = 48;
/// Largest block after decompression, in bytes.
const BLOCK: usize = 64 << 20;
/// Bytes of a block of a log.
const LOG_BLOCK: usize = 32 << 10;

/// The damage of a file, in words.
pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A number of seven bits a byte.
pub(super) fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Bytes with their length before them.
pub(super) fn prefixed<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(from)?).ok()?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

/// All keys and values of a table, internal keys as they are.
pub(super) fn entries(table: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let footer = table.len().checked_sub(FOOTER).map(|at| &table[at..]);
    let footer = footer.ok_or_else(|| broken("a table is too short"))?;
    if u64::from_le_bytes(footer[40..].try_into().unwrap_or_default()) != MAGIC {
        return Err(broken("is no table"));
    }
    let mut handles = &footer[..40];
    let handle = |from: &mut &[u8]| Some((varint(from)?, varint(from)?));
    let _meta = handle(&mut handles);
    let index = handle(&mut handles).ok_or_else(|| broken("a table has no index"))?;
    let mut out = Vec::new();
    for (_, place) in pairs(&block(table, index)?)? {
        let place = handle(&mut &place[..]).ok_or_else(|| broken("an index is damaged"))?;
        // What is damaged is lost, the rest is not.
        if let Ok(found) = block(table, place).and_then(|b| pairs(&b)) {
            out.extend(found);
        }
    }
    Ok(out)
}

fn block(table: &[u8], (offset, size): (u64, u64)) -> io::Result<Vec<u8>> {
    let place = || {
        let from = usize::try_from(offset).ok()?;
        let to = from.checked_add(usize::try_from(size).ok()?)?;
        Some((table.get(from..to)?, *table.get(to)?))
    };
    match place() {
        Some((data, 0)) => Ok(data.to_vec()),
        Some((data, 1)) => {
            snappy::decompress(data, BLOCK).ok_or_else(|| broken("a block is damaged"))
        }
        Some((_, kind)) => Err(broken(&format!("a block is compressed by method {kind}"))),
        None => Err(broken("a block is outside of its table")),
    }
}

/// Keys share beginnings with the one before; behind them is where that starts anew.
fn pairs(block: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let damaged = || broken("a block is damaged");
    let count_at = block.len().checked_sub(4).ok_or_else(damaged)?;
    let restarts = u32::from_le_bytes(block[count_at..].try_into().unwrap_or_default()) as usize;
    let end = restarts.checked_mul(4).and_then(|n| count_at.checked_sub(n)).ok_or_else(damaged)?;
    let mut rest = &block[..end];
    let (mut out, mut key) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        let mut next = || usize::try_from(varint(&mut rest)?).ok();
        let (shared, own, length) = (next(), next(), next());
        let (Some(shared), Some(own), Some(length)) = (shared, own, length) else {
            return Err(damaged());
        };
        let (new, behind) = rest.split_at_checked(own).ok_or_else(damaged)?;
        let (value, behind) = behind.split_at_checked(length).ok_or_else(damaged)?;
        if shared > key.len() {
            return Err(damaged());
        }
        key.truncate(shared);
        key.extend_from_slice(new);
        out.push((key.clone(), value.to_vec()));
        rest = behind;
    }
    Ok(out)
}

/// The whole records of a log; a torn end is left out.
pub(super) fn records(log: &[u8]) -> Vec<Vec<u8>> {
    let (mut out, mut partial) = (Vec::new(), Vec::new());
    for block in log.chunks(LOG_BLOCK) {
        let mut rest = block;
        while rest.len() >= 7 {
            let length = usize::from(u16::from_le_bytes([rest[4], rest[5]]));
            let kind = rest[6];
            let Some(data) = rest.get(7..7 + length) else { break };
            match kind {
                1 => out.push(data.to_vec()),
                2 => partial = data.to_vec(),
                3 => partial.extend_from_slice(data),
                4 => {
                    partial.extend_from_slice(data);
                    out.push(std::mem::take(&mut partial));
                }
                // Space that was not written.
                _ => break,
            }
            rest = &rest[7 + length..];
        }
    }
    out
}
