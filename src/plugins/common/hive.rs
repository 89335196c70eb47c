//! The format of registry files: cells in bins, keys with lists of keys and
//! values. Knows bytes only; every offset in a file may be wrong.

use vql::{Str, Value};

use super::fields::{Fields, wide};

/// Where the bins begin; offsets in the file count from here.
const BINS: usize = 0x1000;
/// Lists in lists of one key.
const DEPTH: usize = 8;
/// Most keys or values read of one key.
const MOST: usize = 1 << 20;
/// Bytes of each piece of a value that is stored in pieces.
const PIECE: usize = 16_344;

/// A registry file.
pub struct Hive {
    data: Vec<u8>,
}

/// A key.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// Last change, nanoseconds since 1970.
    pub modified: i64,
    keys: (u32, u32),
    values: (u32, u32),
}

/// A value with its name.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its name; `@` is the default value.
    pub name: String,
    /// Its content as stored.
    pub data: Vec<u8>,
    kind: u32,
}

impl Named {
    /// The type as Windows names it.
    pub fn type_name(&self) -> String {
        let name = match self.kind {
            0 => "REG_NONE",
            1 => "REG_SZ",
            2 => "REG_EXPAND_SZ",
            3 => "REG_BINARY",
            4 => "REG_DWORD",
            5 => "REG_DWORD_BIG_ENDIAN",
            6 => "REG_LINK",
            7 => "REG_MULTI_SZ",
            8 => "REG_RESOURCE_LIST",
            9 => "REG_FULL_RESOURCE_DESCRIPTOR",
            10 => "REG_RESOURCE_REQUIREMENTS_LIST",
            11 => "REG_QWORD",
            _ => "REG_UNKNOWN",
        };
        name.to_owned()
    }

    /// The content as its type says.
    pub fn decoded(&self) -> Value {
        let number = |n: usize| {
            let bytes = self.data.get(..n)?;
            Some(bytes.iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b)))
        };
        match self.kind {
            1 | 2 => wide(&self.data).trim_end_matches('\0').into(),
            4 => number(4).map_or(Value::Null, Value::from),
            5 => match self.data.get(..4) {
                Some(b) => b.iter().fold(0u64, |v, b| v << 8 | u64::from(*b)).into(),
                None => Value::Null,
            },
            7 => {
                let text = wide(&self.data);
                text.split('\0').filter(|t| !t.is_empty()).map(Value::from).collect()
            }
            11 => number(8).map_or(Value::Null, Value::from),
            _ => Value::Bytes(self.data.as_slice().into()),
        }
    }
}

impl Hive {
    /// A file, if it is one.
    pub fn new(data: Vec<u8>) -> Result<Hive, String> {
        match data.starts_with(b"regf") && data.len() > BINS {
            true => Ok(Hive { data }),
            false => Err("this is no registry file".into()),
        }
    }

    /// Where the content of a cell begins, and its bytes.
    fn cell(&self, offset: u32) -> Option<(usize, usize)> {
        let at = BINS.checked_add(usize::try_from(offset).ok()?)?;
        let size = self.data.u32(at)? as i32;
        let size = usize::try_from(size.unsigned_abs()).ok()?.checked_sub(4)?;
        let end = (at + 4).checked_add(size)?;
        (end <= self.data.len()).then_some((at + 4, size))
    }

    /// A text of a key or value: one or two bytes a character.
    fn name(&self, at: usize, length: u16, narrow: bool) -> Option<String> {
        let bytes = self.data.get(at..at.checked_add(length.into())?)?;
        Some(match narrow {
            true => bytes.iter().map(|b| char::from(*b)).collect(),
            false => wide(bytes),
        })
    }

    /// The key all others are in.
    pub fn root(&self) -> Result<Key, String> {
        let key = self.data.u32(0x24).and_then(|offset| self.key(offset));
        key.ok_or_else(|| "the registry file has no root key".into())
    }

    fn key(&self, offset: u32) -> Option<Key> {
        let (at, size) = self.cell(offset)?;
        if size < 0x4c || self.data.get(at..at + 2)? != b"nk" {
            return None;
        }
        let low = u64::from(self.data.u32(at + 4)?);
        let time = u64::from(self.data.u32(at + 8)?) << 32 | low;
        let since_1970 = i128::from(time) - 116_444_736_000_000_000;
        Some(Key {
            name: self.name(
                at + 0x4c,
                self.data.u16(at + 0x48)?,
                self.data.u16(at + 2)? & 0x20 != 0,
            )?,
            // Whole seconds, as other readers of these files give.
            modified: i64::try_from(since_1970 / 10_000_000 * 1_000_000_000).unwrap_or(0),
            keys: (self.data.u32(at + 0x14)?, self.data.u32(at + 0x1c)?),
            values: (self.data.u32(at + 0x24)?, self.data.u32(at + 0x28)?),
        })
    }

    /// Offsets of the keys a list names, also through lists of lists.
    fn listed(&self, offset: u32, depth: usize, out: &mut Vec<u32>) -> Option<()> {
        let (at, size) = self.cell(offset)?;
        let count = usize::from(self.data.u16(at + 2)?);
        let (step, lists) = match self.data.get(at..at + 2)? {
            b"lf" | b"lh" => (8, false),
            b"li" => (4, false),
            b"ri" => (4, true),
            _ => return None,
        };
        for i in 0..count.min(size / step) {
            let one = self.data.u32(at + 4 + i * step)?;
            if lists && depth > 0 {
                self.listed(one, depth - 1, out);
            } else if !lists && out.len() < MOST {
                out.push(one);
            }
        }
        Some(())
    }

    /// The keys in a key, in the order of the file.
    pub fn subkeys(&self, key: &Key) -> Vec<Key> {
        let mut offsets = Vec::new();
        if key.keys.0 > 0 {
            self.listed(key.keys.1, DEPTH, &mut offsets);
        }
        offsets.into_iter().filter_map(|o| self.key(o)).collect()
    }

    /// The key of that name, without regard to case.
    pub fn subkey(&self, key: &Key, name: &[u8]) -> Option<Key> {
        let name = Str::from(name).to_text().to_lowercase();
        self.subkeys(key).into_iter().find(|k| k.name.to_lowercase() == name)
    }

    /// The values of a key.
    pub fn values(&self, key: &Key) -> Vec<Named> {
        let Some((at, size)) = self.cell(key.values.1) else { return Vec::new() };
        let count = (key.values.0 as usize).min(size / 4).min(MOST);
        (0..count).filter_map(|i| self.named(self.data.u32(at + i * 4)?)).collect()
    }

    /// The value of that name, without regard to case.
    pub fn value(&self, key: &Key, name: &[u8]) -> Option<Named> {
        let name = Str::from(name).to_text().to_lowercase();
        self.values(key).into_iter().find(|v| v.name.to_lowercase() == name)
    }

    fn named(&self, offset: u32) -> Option<Named> {
        let (at, size) = self.cell(offset)?;
        if size < 0x14 || self.data.get(at..at + 2)? != b"vk" {
            return None;
        }
        let name =
            self.name(at + 0x14, self.data.u16(at + 2)?, self.data.u16(at + 0x10)? & 1 != 0)?;
        let length = self.data.u32(at + 4)?;
        let short = length & 0x8000_0000 != 0;
        let length = (length & 0x7fff_ffff) as usize;
        let data = match short {
            // Short content stands where the place would be: all four bytes are given, as
            // others give them.
            true => self.data.get(at + 8..at + 12)?.to_vec(),
            false => self.content(self.data.u32(at + 8)?, length).unwrap_or_default(),
        };
        let name = if name.is_empty() { "@".to_owned() } else { name };
        Some(Named { name, data, kind: self.data.u32(at + 0xc)? })
    }

    fn content(&self, offset: u32, length: usize) -> Option<Vec<u8>> {
        let (at, size) = self.cell(offset)?;
        if length <= size || length <= PIECE || self.data.get(at..at + 2)? != b"db" {
            return Some(self.data.get(at..at + length.min(size))?.to_vec());
        }
        let (list, _) = self.cell(self.data.u32(at + 4)?)?;
        let mut out = Vec::new();
        for i in 0..usize::from(self.data.u16(at + 2)?) {
            let (at, size) = self.cell(self.data.u32(list + i * 4)?)?;
            let take = size.min(PIECE).min(length - out.len());
            out.extend_from_slice(self.data.get(at..at + take)?);
        }
        Some(out)
    }
}

/// A small file, for tests: `HKEY/Run` with values of some types.
#[cfg(test)]
pub fn example() -> Vec<u8> {
    let mut data = vec![0; BINS];
    data[..4].copy_from_slice(b"regf");
    let mut cell = |content: &[u8]| {
        let at = (data.len() - BINS) as u32;
        let size = (content.len() + 4).next_multiple_of(8);
        data.extend((-(size as i32)).to_le_bytes());
        data.extend(content);
        data.resize(BINS + at as usize + size, 0);
        at
    };
    let key = |name: &str, keys: (u32, u32), values: (u32, u32)| {
        let mut out = vec![0; 0x4c];
        out[..4].copy_from_slice(b"nk\x20\0");
        out[4..12].copy_from_slice(&132_444_736_001_234_567u64.to_le_bytes());
        for (at, n) in [(0x14, keys.0), (0x1c, keys.1), (0x24, values.0), (0x28, values.1)] {
            out[at..at + 4].copy_from_slice(&n.to_le_bytes());
        }
        out[0x48..0x4a].copy_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend(name.bytes());
        out
    };
    let text: Vec<u8> = "C:\\a\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let text_at = cell(&text);
    let value = |name: &str, kind: u32, length: u32, place: u32| {
        let mut out = b"vk".to_vec();
        out.extend((name.len() as u16).to_le_bytes());
        for n in [length, place, kind, 1] {
            out.extend(n.to_le_bytes());
        }
        out.extend(name.bytes());
        out
    };
    let values = [
        cell(&value("Path", 1, text.len() as u32, text_at)),
        cell(&value("Count", 4, 0x8000_0004, 77)),
        cell(&value("", 3, 0x8000_0002, 0x0201)),
        cell(&value("Lost", 1, 10, 0xffff_0000)),
    ];
    let list: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let list = cell(&list);
    let run = cell(&key("Run", (0, u32::MAX), (4, list)));
    let mut keys = b"lf\x01\0".to_vec();
    keys.extend(run.to_le_bytes());
    keys.extend([0; 4]);
    let keys = cell(&keys);
    let root = cell(&key("ROOT", (1, keys), (0, u32::MAX)));
    data[0x24..0x28].copy_from_slice(&root.to_le_bytes());
    data
}

/// Facts of a value as a row, for tests.
#[cfg(test)]
fn shown(v: &Named) -> String {
    Value::from(vql::Dict::new().with("n", &v.name).with("t", v.type_name()).with("v", v.decoded()))
        .to_json()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values() {
        let hive = Hive::new(example()).unwrap();
        let root = hive.root().unwrap();
        assert_eq!((root.name.as_str(), root.modified), ("ROOT", 1_600_000_000_000_000_000));
        let run = hive.subkey(&root, b"rUN").unwrap();
        let values: Vec<String> = hive.values(&run).iter().map(shown).collect();
        let expected = [
            r#"{"n":"Path","t":"REG_SZ","v":"C:\\a"}"#,
            r#"{"n":"Count","t":"REG_DWORD","v":77}"#,
            r#"{"n":"@","t":"REG_BINARY","v":"AQIAAA=="}"#,
            r#"{"n":"Lost","t":"REG_SZ","v":""}"#,
        ];
        assert_eq!(values, expected);
        assert!(hive.subkeys(&run).is_empty() && hive.value(&run, b"none").is_none());
    }

    #[test]
    fn files_that_lie() {
        assert!(Hive::new(b"regf".to_vec()).is_err());
        let good = example();
        for at in 0..good.len() - BINS {
            for bits in [0xff, 0x80, 0x01] {
                let mut bad = good.clone();
                bad[BINS + at] ^= bits;
                let Ok(root) = Hive::new(bad).map(|h| (h.root(), h)) else { continue };
                let (Ok(key), hive) = root else { continue };
                for k in hive.subkeys(&key) {
                    hive.values(&k);
                }
            }
        }
    }
}
