//! `geoip`: the record of an address in a MaxMind database.
#![allow(clippy::disallowed_methods)] // reads the real host

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use vql::{ArgType, Dict, Error, Key, Registry, Signature, Value};

use super::{OsPath, blocking, host};

/// Largest database, in bytes; it is held in memory while queries use it.
const LIMIT: u64 = 512 << 20;
/// Values in values.
const DEPTH: usize = 64;
/// Where the description of a database begins.
const MARK: &[u8] = b"\xab\xcd\xefMaxMind.com";

type Kept = Arc<Mutex<Option<(PathBuf, std::time::SystemTime, Arc<Database>)>>>;

/// Adds `geoip`.
pub fn register(registry: &mut Registry) {
    let sig = Signature::new("geoip", "What a MaxMind database says of an address.")
        .required("ip", ArgType::String, "The address.")
        .required("db", ArgType::String, "The database file.")
        .version(1);
    let kept = Kept::default();
    registry.function_async(sig, move |scope, args| {
        let kept = kept.clone();
        async move {
            let path = OsPath::linux(args.string("db")?.as_bytes()).native(&host(&scope).root);
            let Ok(ip) = args.string("ip")?.trim().parse::<IpAddr>() else {
                return Ok(Value::Null);
            };
            let found = blocking(&scope, move || open(&kept, path)?.find(ip)).await?;
            found.map(Option::unwrap_or_default).map_err(Error::failed)
        }
    });
}

/// The database, read again when its file has changed.
fn open(kept: &Kept, path: PathBuf) -> Result<Arc<Database>, String> {
    let fault = |e: std::io::Error| format!("{}: {e}", path.display());
    let meta = std::fs::metadata(&path).map_err(fault)?;
    let changed = meta.modified().map_err(fault)?;
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((p, at, database)) = &*kept
        && *p == path
        && *at == changed
    {
        return Ok(database.clone());
    }
    if meta.len() > LIMIT {
        return Err(format!("{}: larger than {LIMIT} bytes", path.display()));
    }
    let data = std::fs::read(&path).map_err(fault)?;
    let database =
        Database::new(data).ok_or_else(|| format!("{}: no MaxMind database", path.display()))?;
    let database = Arc::new(database);
    *kept = Some((path, changed, database.clone()));
    Ok(database)
}

/// An open database: a tree of address bits, then values.
struct Database {
    data: Vec<u8>,
    nodes: usize,
    /// Bits of one of the two halves of a node.
    bits: usize,
    version: u64,
}

impl Database {
    fn new(data: Vec<u8>) -> Option<Database> {
        let at = data.windows(MARK.len()).rposition(|w| w == MARK)? + MARK.len();
        let (about, _) = Values { data: &data, base: at }.read(at, 0)?;
        let about = about.as_dict()?.clone();
        let number = |name: &str| {
            about.get(name).and_then(Value::as_int).and_then(|n| u64::try_from(n).ok())
        };
        let nodes = usize::try_from(number("node_count")?).ok()?;
        let bits = usize::try_from(number("record_size")?).ok()?;
        let version = number("ip_version")?;
        let tree = nodes.checked_mul(bits)?.checked_div(4)?;
        let fits = matches!(bits, 24 | 28 | 32) && tree.checked_add(16)? <= data.len();
        fits.then_some(Database { data, nodes, bits, version })
    }

    fn half(&self, node: usize, right: bool) -> Option<usize> {
        let size = self.bits / 4;
        let n = self.data.get(node * size..(node + 1) * size)?;
        let be = |bytes: &[u8]| bytes.iter().fold(0usize, |v, b| v << 8 | usize::from(*b));
        Some(match (self.bits, right) {
            (28, false) => usize::from(n[3] >> 4) << 24 | be(&n[..3]),
            (28, true) => usize::from(n[3] & 15) << 24 | be(&n[4..]),
            (_, false) => be(&n[..size / 2]),
            (_, true) => be(&n[size / 2..]),
        })
    }

    fn find(&self, ip: IpAddr) -> Result<Option<Value>, String> {
        let address: Vec<u8> = match (ip, self.version) {
            (IpAddr::V4(ip), 4) => ip.octets().to_vec(),
            (IpAddr::V4(ip), _) => [&[0; 12][..], &ip.octets()].concat(),
            (IpAddr::V6(_), 4) => return Ok(None),
            (IpAddr::V6(ip), _) => ip.octets().to_vec(),
        };
        let damaged = || "the database is damaged".to_owned();
        let mut node = 0;
        for bit in 0..address.len() * 8 {
            let right = address[bit / 8] >> (7 - bit % 8) & 1 == 1;
            node = self.half(node, right).ok_or_else(damaged)?;
            if node >= self.nodes {
                break;
            }
        }
        if node <= self.nodes {
            return Ok(None);
        }
        // Values begin 16 bytes behind the tree.
        let base = self.nodes * self.bits / 4 + 16;
        let at = base + (node - self.nodes).checked_sub(16).ok_or_else(damaged)?;
        let read = Values { data: &self.data, base }.read(at, 0);
        Ok(Some(read.ok_or_else(damaged)?.0))
    }
}

/// Reads values; pointers count from `base`.
struct Values<'a> {
    data: &'a [u8],
    base: usize,
}

impl Values<'_> {
    /// The value at a place and where the next one begins.
    fn read(&self, at: usize, depth: usize) -> Option<(Value, usize)> {
        if depth > DEPTH {
            return None;
        }
        let control = *self.data.get(at)?;
        let mut at = at + 1;
        let mut kind = control >> 5;
        if kind == 1 {
            let size = usize::from(control >> 3 & 3) + 1;
            let bytes = self.data.get(at..at + size)?;
            let low = usize::from(control & 7);
            let first = if size == 4 { 0 } else { low };
            let value = bytes.iter().fold(first, |v, b| v << 8 | usize::from(*b));
            let value = value + [0, 2048, 526_336, 0][size - 1];
            let (found, _) = self.read(self.base.checked_add(value)?, depth + 1)?;
            return Some((found, at + size));
        }
        if kind == 0 {
            kind = self.data.get(at)?.checked_add(7)?;
            at += 1;
        }
        let mut size = usize::from(control & 31);
        if size >= 29 {
            let more = size - 28;
            let bytes = self.data.get(at..at + more)?;
            let value = bytes.iter().fold(0usize, |v, b| v << 8 | usize::from(*b));
            size = value + [29, 285, 65_821][more - 1];
            at += more;
        }
        match kind {
            7 => {
                let mut dict = Dict::new();
                for _ in 0..size {
                    let (key, next) = self.read(at, depth + 1)?;
                    let (value, next) = self.read(next, depth + 1)?;
                    dict.set(Key::new(&key.to_text()), value);
                    at = next;
                }
                Some((dict.into(), at))
            }
            11 => {
                let mut list = Vec::new();
                for _ in 0..size {
                    let (value, next) = self.read(at, depth + 1)?;
                    list.push(value);
                    at = next;
                }
                Some((Value::list(list), at))
            }
            14 => Some(((size != 0).into(), at)),
            _ => {
                let bytes = self.data.get(at..at.checked_add(size)?)?;
                let unsigned = || {
                    let tail = &bytes[bytes.len().saturating_sub(8)..];
                    tail.iter().fold(0u64, |v, b| v << 8 | u64::from(*b))
                };
                let value = match kind {
                    2 | 4 => bytes.into(),
                    3 => Value::Float(f64::from_be_bytes(bytes.try_into().ok()?)),
                    15 => Value::Float(f32::from_be_bytes(bytes.try_into().ok()?).into()),
                    5 | 6 | 9 | 10 => unsigned().into(),
                    8 => Value::from(unsigned() as u32 as i32),
                    _ => return None,
                };
                Some((value, at + size))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> Vec<u8> {
        [&[0x40 | s.len() as u8][..], s.as_bytes()].concat()
    }

    fn number(n: u16) -> Vec<u8> {
        [&[0xa2][..], &n.to_be_bytes()].concat()
    }

    /// A database of version 4 with one node: addresses whose first bit is set
    /// have a record.
    fn database() -> Vec<u8> {
        let mut data = vec![0, 0, 1, 0, 0, 17];
        data.extend([0; 16]);
        data.extend(b"\xe2");
        let base = data.len() - 1;
        data.extend([text("country"), vec![0xe1], text("iso"), text("XX")].concat());
        data.extend(text("again"));
        data.extend([0x20, 1]);
        assert_eq!(data[base + 1] & 0x1f, 7);
        data.extend(MARK);
        data.push(0xe3);
        for (name, value) in [("node_count", 1), ("record_size", 24), ("ip_version", 4)] {
            data.extend([text(name), number(value)].concat());
        }
        data
    }

    #[test]
    fn records_are_found() {
        let d = Database::new(database()).unwrap();
        let found = d.find("200.1.1.1".parse().unwrap()).unwrap().unwrap();
        assert_eq!(found.to_json(), r#"{"country":{"iso":"XX"},"again":"country"}"#);
        assert!(d.find("1.1.1.1".parse().unwrap()).unwrap().is_none());
        assert!(d.find("2001::1".parse().unwrap()).unwrap().is_none());
    }

    #[test]
    fn damage_is_no_panic() {
        let good = database();
        for i in 0..good.len() {
            for value in [0u8, 0xff, 0x20, 0x3f, 0xe0] {
                let mut bad = good.clone();
                bad[i] = value;
                if let Some(d) = Database::new(bad) {
                    let _ = d.find("200.1.1.1".parse().unwrap());
                }
            }
            if let Some(d) = Database::new(good[..i].to_vec()) {
                let _ = d.find("200.1.1.1".parse().unwrap());
            }
        }
    }
}
