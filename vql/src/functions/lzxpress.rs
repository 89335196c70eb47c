//! lzxpress_decompress(): LZ77 with Huffman codes as Windows packs prefetch files (MS-XCA 2.1).

use crate::error::Error;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::Value;

/// Symbols of a code, and bytes of the table of their lengths.
const SYMBOLS: usize = 512;
const TABLE: usize = SYMBOLS / 2;
/// Longest code, in bits.
const LONGEST: u32 = 15;
/// Bytes that share a code.
const CHUNK: usize = 1 << 16;
/// Most bytes unpacked.
const LIMIT: usize = 256 << 20;

pub(super) fn register(registry: &mut Registry) {
    let doc = "Unpacks what Windows packed by LZXPRESS with Huffman codes.";
    let signature = Signature::new("lzxpress_decompress", doc);
    let signature = signature.required("data", ArgType::String, "What is packed.");
    registry.function_sync(signature, |_, args| {
        let data = args.bytes("data")?;
        // Less than a table of codes is nothing that was packed.
        let out = decompress(data.as_bytes()).filter(|_| data.as_bytes().len() > TABLE);
        let out = out.ok_or_else(|| Error::failed("damaged data"))?;
        Ok(Value::Bytes(out.into()))
    });
}

/// What was packed, as far as it goes; `None` when the data are damaged.
pub fn decompress(input: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut at) = (Vec::new(), 0);
    while input.len() >= at + TABLE && out.len() < LIMIT {
        let codes = Codes::read(&input[at..at + TABLE])?;
        let mut bits = Bits::new(input, at + TABLE);
        if chunk(&codes, &mut bits, &mut out)? {
            break;
        }
        at = bits.at;
    }
    Some(out)
}

/// Unpacks one chunk; true when nothing follows.
fn chunk(codes: &Codes, bits: &mut Bits<'_>, out: &mut Vec<u8>) -> Option<bool> {
    let end = out.len() + CHUNK;
    while out.len() < end {
        let symbol = codes.symbols[(bits.next >> (32 - LONGEST)) as usize];
        bits.skip(u32::from(codes.lengths[usize::from(symbol)]));
        if bits.over() || (symbol == 256 && bits.at >= bits.input.len()) {
            return Some(true);
        }
        let Some(copy) = symbol.checked_sub(256) else {
            out.push(symbol as u8);
            continue;
        };
        let mut length = usize::from(copy & 15);
        let width = u32::from(copy >> 4);
        if length == 15 {
            length += usize::from(bits.byte());
            if length == 15 + 255 {
                length = usize::from(bits.word());
            }
        }
        let distance = match width {
            0 => 1,
            width => (1 << width) + (bits.next >> (32 - width)) as usize,
        };
        bits.skip(width);
        let from = out.len().checked_sub(distance)?;
        // It may reach into what it writes itself.
        for at in from..from + length + 3 {
            out.push(out[at]);
        }
    }
    Some(false)
}

struct Codes {
    lengths: Vec<u8>,
    /// The symbol whose code begins these bits.
    symbols: Vec<u16>,
}

impl Codes {
    fn read(table: &[u8]) -> Option<Codes> {
        let lengths: Vec<u8> = table.iter().flat_map(|b| [b & 15, b >> 4]).collect();
        let mut symbols = vec![0; 1 << LONGEST];
        let mut at = 0;
        for length in 1..=LONGEST {
            for (symbol, _) in lengths.iter().enumerate().filter(|(_, l)| u32::from(**l) == length)
            {
                let many = 1 << (LONGEST - length);
                symbols.get_mut(at..at + many)?.fill(symbol as u16);
                at += many;
            }
        }
        // A code that leaves bits without a meaning is none.
        (at == symbols.len()).then_some(Codes { lengths, symbols })
    }
}

/// Bits in words of 16, which lengths written as bytes come between.
struct Bits<'a> {
    input: &'a [u8],
    at: usize,
    next: u32,
    /// Bits there are in `next` beyond the 16 there must be.
    spare: i32,
}

impl<'a> Bits<'a> {
    fn new(input: &'a [u8], at: usize) -> Bits<'a> {
        let mut bits = Bits { input, at, next: 0, spare: 16 };
        bits.next = u32::from(bits.word()) << 16 | u32::from(bits.word());
        bits
    }

    fn byte(&mut self) -> u8 {
        let byte = self.input.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn skip(&mut self, n: u32) {
        self.next = self.next.checked_shl(n).unwrap_or(0);
        self.spare -= n as i32;
        if self.spare < 0 {
            self.next |= u32::from(self.word()) << self.spare.unsigned_abs();
            self.spare += 16;
        }
    }

    /// Whether more was taken than there is, but for what is read ahead.
    fn over(&self) -> bool {
        self.at > self.input.len() + 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_table_is_nothing_packed() {
        let registry = Registry::standard();
        let scope = crate::ScopeBuilder::new(std::sync::Arc::new(registry)).build();
        let text = "SELECT lzxpress_decompress(data='bad') AS A, lzxpress_decompress(data='') AS B \
            FROM scope()";
        let rows = crate::run(text, &scope).await.unwrap();
        assert_eq!(crate::Value::from(rows).to_json(), r#"[{"A":null,"B":null}]"#);
    }

    /// Lengths of the codes: five bits for `a` to `v`, four for `w` to `z` and the end.
    fn table() -> Vec<u8> {
        let mut lengths = [0_u8; SYMBOLS];
        lengths[97..119].fill(5);
        lengths[119..123].fill(4);
        lengths[256] = 4;
        lengths.chunks(2).map(|l| l[0] | l[1] << 4).collect()
    }

    /// Packs symbols of [`table`].
    fn pack(symbols: &[u16]) -> Vec<u8> {
        let code = |s: u16| match s {
            119..=122 => (u32::from(s) - 119, 4),
            256 => (4, 4),
            s => (10 + u32::from(s) - 97, 5),
        };
        let mut bits: Vec<bool> = Vec::new();
        for (code, length) in symbols.iter().map(|s| code(*s)) {
            bits.extend((0..length).rev().map(|i| code >> i & 1 == 1));
        }
        bits.resize(bits.len().div_ceil(16) * 16, false);
        let mut out = table();
        for word in bits.chunks(16) {
            let word = word.iter().fold(0_u16, |all, bit| all << 1 | u16::from(*bit));
            out.extend(word.to_le_bytes());
        }
        out
    }

    #[test]
    fn letters_and_copies() {
        let mut symbols: Vec<u16> = (97..=122).collect();
        symbols.push(256);
        let out = decompress(&pack(&symbols)).unwrap();
        assert!(out.starts_with(b"abcdefghijklmnopqrstuvwxyz"), "{:?}", vql_text(&out));
        // In the middle the symbol of the end copies three bytes from just before.
        let symbols = [&[97, 98, 256][..], &[99; 40]].concat();
        let out = decompress(&pack(&symbols)).unwrap();
        assert!(out.starts_with(b"abbbbccccc"), "{:?}", vql_text(&out));
    }

    fn vql_text(bytes: &[u8]) -> String {
        crate::value::lossy(bytes).into_owned()
    }

    #[test]
    fn damaged_data() {
        assert_eq!(decompress(&[]), Some(Vec::new()));
        assert_eq!(decompress(&[0; 300]), None);
        // Nothing to copy yet.
        assert_eq!(decompress(&pack(&[256, 97, 98, 99, 100, 101, 102, 103, 104, 105])), None);
    }
}
