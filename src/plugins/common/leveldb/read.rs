//! What a database holds: its manifest says which tables live, the log has what
//! is in no table yet, and of each key the newest counts.

use std::collections::BTreeMap;
use std::io;

use super::table::{broken, entries, prefixed, records, varint};

/// Bytes of keys and values held.
const LIMIT: usize = 512 << 20;

/// The files of a database.
pub(super) trait Files {
    /// The content of one.
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>>;
    /// The names of all.
    fn names(&mut self) -> io::Result<Vec<String>>;
}

/// Number of the change, and the value; `None` when it was deleted.
type Newest = BTreeMap<Vec<u8>, (u64, Option<Vec<u8>>)>;

/// Keys and values in the order of keys.
pub(super) fn all(files: &mut dyn Files) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut newest = Newest::new();
    let mut held = 0;
    let live = live(files)?;
    for name in files.names()? {
        let Some((number, kind)) = name.split_once('.') else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        match kind {
            "ldb" | "sst" if live.tables.contains(&number) => {
                for (key, value) in entries(&files.read(&name)?)? {
                    add_internal(&mut newest, &mut held, &key, value)?;
                }
            }
            "log" if number >= live.log => {
                for record in records(&files.read(&name)?) {
                    batch(&mut newest, &mut held, &record)?;
                }
            }
            _ => {}
        }
    }
    Ok(newest.into_iter().filter_map(|(key, (_, value))| Some((key, value?))).collect())
}

#[derive(Default)]
struct Live {
    tables: std::collections::BTreeSet<u64>,
    /// Logs before this one are in tables.
    log: u64,
}

fn live(files: &mut dyn Files) -> io::Result<Live> {
    let current = files.read("CURRENT").map_err(|_| broken("is no LevelDB directory"))?;
    let manifest = String::from_utf8_lossy(&current).trim().to_owned();
    if !manifest.starts_with("MANIFEST-") || manifest.contains('/') {
        return Err(broken("CURRENT names no manifest"));
    }
    let mut live = Live::default();
    for record in records(&files.read(&manifest)?) {
        edit(&mut live, &record).ok_or_else(|| broken("the manifest is damaged"))?;
    }
    Ok(live)
}

/// Applies one change of the manifest.
fn edit(live: &mut Live, mut record: &[u8]) -> Option<()> {
    let from = &mut record;
    while !from.is_empty() {
        match varint(from)? {
            // The comparator.
            1 => drop(prefixed(from)?),
            2 => live.log = varint(from)?,
            // The next file, the last change, the log before.
            3 | 4 | 9 => drop(varint(from)?),
            // Where a compaction stands.
            5 => {
                varint(from)?;
                prefixed(from)?;
            }
            6 => {
                varint(from)?;
                live.tables.remove(&varint(from)?);
            }
            7 => {
                varint(from)?;
                let number = varint(from)?;
                varint(from)?;
                prefixed(from)?;
                prefixed(from)?;
                live.tables.insert(number);
            }
            _ => return None,
        }
    }
    Some(())
}

/// A key of a table ends in the number of the change and its kind.
fn add_internal(
    newest: &mut Newest,
    held: &mut usize,
    key: &[u8],
    value: Vec<u8>,
) -> io::Result<()> {
    let Some((user, tail)) = key.len().checked_sub(8).map(|at| key.split_at(at)) else {
        return Ok(());
    };
    let tail = u64::from_le_bytes(tail.try_into().unwrap_or_default());
    add(newest, held, user, tail >> 8, (tail & 0xff == 1).then_some(value))
}

fn add(
    newest: &mut Newest,
    held: &mut usize,
    key: &[u8],
    number: u64,
    value: Option<Vec<u8>>,
) -> io::Result<()> {
    *held += key.len() + value.as_ref().map_or(0, Vec::len);
    if *held > LIMIT {
        return Err(broken(&format!("holds more than {LIMIT} bytes")));
    }
    let slot = newest.entry(key.to_vec()).or_insert((0, None));
    if number >= slot.0 {
        *slot = (number, value);
    }
    Ok(())
}

/// The changes of one record of a log. A damaged one is passed over.
fn batch(newest: &mut Newest, held: &mut usize, record: &[u8]) -> io::Result<()> {
    let Some((head, mut rest)) = record.split_at_checked(12) else { return Ok(()) };
    let first = u64::from_le_bytes(head[..8].try_into().unwrap_or_default());
    let mut number = first;
    while let Some((kind, behind)) = rest.split_first() {
        rest = behind;
        let Some(key) = prefixed(&mut rest) else { break };
        let value = match kind {
            1 => match prefixed(&mut rest) {
                Some(value) => Some(value.to_vec()),
                None => break,
            },
            _ => None,
        };
        add(newest, held, key, number, value)?;
        number += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Files for BTreeMap<String, Vec<u8>> {
        fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
            self.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
        }
        fn names(&mut self) -> io::Result<Vec<String>> {
            Ok(self.keys().cloned().collect())
        }
    }

    fn record(data: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.extend((data.len() as u16).to_le_bytes());
        out.push(1);
        out.extend(data);
        out
    }

    fn text(t: &str) -> Vec<u8> {
        let mut out = vec![t.len() as u8];
        out.extend(t.bytes());
        out
    }

    /// A table of one block, keys with their number.
    fn table(items: &[(&str, u64, &str)]) -> Vec<u8> {
        let block = |items: Vec<(Vec<u8>, Vec<u8>)>| {
            let mut out = Vec::new();
            for (key, value) in items {
                out.extend([0, key.len() as u8, value.len() as u8]);
                out.extend(key);
                out.extend(value);
            }
            out.extend([0, 0, 0, 0, 1, 0, 0, 0]);
            out
        };
        let items = items.iter().map(|(k, n, v)| {
            let key = [k.as_bytes(), &(n << 8 | 1).to_le_bytes()].concat();
            (key, v.as_bytes().to_vec())
        });
        let data = block(items.collect());
        let mut out = data.clone();
        out.extend([0; 5]);
        let index = block(vec![(b"z".to_vec(), vec![0, data.len() as u8])]);
        let at = out.len() as u8;
        out.extend(&index);
        out.extend([0; 5]);
        let mut footer = vec![0, 0, at, index.len() as u8];
        footer.resize(40, 0);
        footer.extend(0xdb47_7524_8b80_fb57u64.to_le_bytes());
        out.extend(footer);
        out
    }

    fn database() -> BTreeMap<String, Vec<u8>> {
        let mut edit = vec![1];
        edit.extend(text("cmp"));
        edit.extend([2, 6, 7, 0, 5, 50]);
        edit.extend(text("a"));
        edit.extend(text("c"));
        let mut batch = 10u64.to_le_bytes().to_vec();
        batch.extend([3, 0, 0, 0]);
        batch.push(1);
        batch.extend(text("b"));
        batch.extend(text("new"));
        batch.push(0);
        batch.extend(text("c"));
        batch.push(1);
        batch.extend(text("d"));
        batch.extend(text("four"));
        [
            ("CURRENT", b"MANIFEST-000002\n".to_vec()),
            ("MANIFEST-000002", record(&edit)),
            ("000005.ldb", table(&[("a", 1, "one"), ("b", 2, "old"), ("c", 3, "three")])),
            ("000004.ldb", table(&[("x", 9, "of a table that is gone")])),
            ("000006.log", record(&batch)),
            ("000001.log", record(b"damaged")),
        ]
        .map(|(name, data)| (name.to_owned(), data))
        .into()
    }

    #[test]
    fn the_newest_of_each_key() {
        let found = all(&mut database()).unwrap();
        let shown: Vec<String> = found
            .iter()
            .map(|(k, v)| format!("{}={}", String::from_utf8_lossy(k), String::from_utf8_lossy(v)))
            .collect();
        assert_eq!(shown, ["a=one", "b=new", "d=four"]);
    }

    #[test]
    fn damage_is_told_and_ends() {
        assert!(all(&mut BTreeMap::new()).unwrap_err().to_string().contains("LevelDB"));
        let whole = database();
        for (name, data) in &whole {
            for at in 0..data.len() {
                let mut damaged = whole.clone();
                let mut bytes = data.clone();
                bytes[at] ^= 0xff;
                damaged.insert(name.clone(), bytes);
                let _ = all(&mut damaged);
                let cut = data[..at].to_vec();
                damaged.insert(name.clone(), cut);
                let _ = all(&mut damaged);
            }
        }
    }
}
