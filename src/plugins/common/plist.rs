//! `plist`: property lists of Apple's systems, binary or XML. Data is given as base64.

use std::collections::BTreeMap;
use std::io::Read;

use vql::{ArgType, Args, Dict, Error, Key, Level, Registry, Scope, Signature, Time, Value};

use super::accessor::{accessor, path_of};

/// Largest file, in bytes.
const LIMIT: u64 = 100 << 20;
/// Lists and dicts in each other.
const DEPTH: usize = 64;
/// Most values of one file: one may be referred to from many places.
const MOST: usize = 1 << 20;
/// Seconds from 1970 to the beginning of Apple's time, 2001.
const APPLE: i64 = 978_307_200;

/// Adds `plist`, as function and as plugin.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("plist", "The content of property lists.")
        .required("file", ArgType::Paths, "The files.")
        .arg("accessor", ArgType::String, "An accessor to use.");
    registry.function_async(signature.clone(), |scope, args| async move {
        let file = args.list("file").into_iter().next().unwrap_or_default();
        read(&scope, &args, &file).await
    });
    registry.plugin_async(signature, |scope, args, emitter| async move {
        for file in args.list("file") {
            match read(&scope, &args, &file).await {
                Ok(row) => emitter.send(row).await?,
                Err(Error::Stopped) => return Err(Error::Stopped),
                Err(e) => scope.log(Level::Default, format!("plist: {}: {e}", file.to_text())),
            }
        }
        Ok(())
    });
}

async fn read(scope: &Scope, args: &Args, file: &Value) -> Result<Value, Error> {
    let accessor = accessor(scope, &args.string("accessor")?)?;
    let path = path_of(scope, &*accessor, file);
    let read = move || -> std::io::Result<Vec<u8>> {
        let mut data = Vec::new();
        accessor.open(&path)?.take(LIMIT).read_to_end(&mut data)?;
        Ok(data)
    };
    let data = super::blocking(scope, read).await?.map_err(Error::failed)?;
    parse(&data).map_err(Error::failed)
}

/// The value of a property list.
pub fn parse(data: &[u8]) -> Result<Value, String> {
    if data.starts_with(b"bplist0") {
        return Binary::open(data)
            .and_then(|mut b| b.value(b.top, 0))
            .ok_or_else(|| "the binary property list is damaged".into());
    }
    let text = vql::lossy(data);
    let Some(start) = text.find("<plist") else {
        // Lists hold further ones as data, which is given as base64.
        let inner = vql::base64_decode(text.trim().as_bytes());
        let inner = inner.filter(|i| i.starts_with(b"bplist0") || i.starts_with(b"<"));
        return parse(&inner.ok_or("this is no property list")?);
    };
    let mut reader = Xml { rest: &text[start..] };
    reader.tag()?;
    reader.value(0)?.ok_or_else(|| "the property list is empty".into())
}

/// Dicts are given in order of their names.
fn dict(members: BTreeMap<String, Value>) -> Value {
    let mut out = Dict::with_capacity(members.len());
    for (name, value) in members {
        out.set(Key::new(&name), value);
    }
    out.into()
}

struct Binary<'a> {
    data: &'a [u8],
    /// Bytes of an entry of the table, and of a reference.
    sizes: (usize, usize),
    count: u64,
    top: u64,
    table: usize,
    left: usize,
}

impl Binary<'_> {
    fn open(data: &[u8]) -> Option<Binary<'_>> {
        let tail = data.get(data.len().checked_sub(32)?..)?;
        let number = |at: usize| big(tail.get(at..at + 8)?);
        Some(Binary {
            data,
            sizes: (tail[6].into(), tail[7].into()),
            count: number(8)?,
            top: number(16)?,
            table: usize::try_from(number(24)?).ok()?,
            left: MOST,
        })
    }

    fn bytes(&self, at: usize, length: usize) -> Option<&[u8]> {
        self.data.get(at..at.checked_add(length)?)
    }

    fn value(&mut self, index: u64, depth: usize) -> Option<Value> {
        if index >= self.count || depth > DEPTH {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let entry = usize::try_from(index).ok()?.checked_mul(self.sizes.0)?;
        let at = big(self.bytes(self.table.checked_add(entry)?, self.sizes.0)?)?;
        let at = usize::try_from(at).ok()?;
        let (kind, low) = (self.data.get(at)? >> 4, self.data.get(at)? & 15);
        if kind < 4 && kind != 3 || kind == 8 {
            return self.number(kind, low, at + 1);
        }
        if kind == 3 {
            let seconds = f64::from_bits(big(self.bytes(at + 1, 8)?)?);
            return Some(time(seconds));
        }
        // What has parts says how many; a number follows when four bits are not enough.
        let (count, from) = match low {
            15 => {
                let size = 1usize << (self.data.get(at + 1)? & 15).min(4);
                (usize::try_from(big(self.bytes(at + 2, size)?)?).ok()?, at + 2 + size)
            }
            n => (usize::from(n), at + 1),
        };
        let width = self.sizes.1;
        let reference = |i: usize| -> Option<u64> {
            big(self.bytes(from.checked_add(i.checked_mul(width)?)?, width)?)
        };
        match kind {
            4 => Some(vql::base64_encode(self.bytes(from, count)?).into()),
            5 | 7 => Some(vql::lossy(self.bytes(from, count)?).into_owned().into()),
            6 => {
                let bytes = self.bytes(from, count.checked_mul(2)?)?;
                let units = bytes.chunks_exact(2).map(|p| u16::from_be_bytes([p[0], p[1]]));
                let text = char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}'));
                Some(text.collect::<String>().into())
            }
            10..=12 => {
                let all: Option<Vec<u64>> =
                    (0..count.min(self.data.len())).map(reference).collect();
                let values: Option<Vec<Value>> =
                    all?.into_iter().map(|i| self.value(i, depth + 1)).collect();
                Some(Value::list(values?))
            }
            13 => {
                let most = count.min(self.data.len());
                let pairs: Option<Vec<(u64, u64)>> =
                    (0..most).map(|i| Some((reference(i)?, reference(count + i)?))).collect();
                let mut members = BTreeMap::new();
                for (key, value) in pairs? {
                    let key = self.value(key, depth + 1)?.to_text();
                    members.insert(key, self.value(value, depth + 1)?);
                }
                Some(dict(members))
            }
            _ => None,
        }
    }

    fn number(&self, kind: u8, low: u8, at: usize) -> Option<Value> {
        match (kind, low) {
            (0, 0) => Some(Value::Null),
            (0, 8) => Some(false.into()),
            (0, 9) => Some(true.into()),
            (1, 4) => {
                // Sixteen bytes are for what does not fit into a signed eight.
                Some(big(self.bytes(at + 8, 8)?)?.into())
            }
            (1, 3) => Some((big(self.bytes(at, 8)?)? as i64).into()),
            (1, 0..=2) => Some(big(self.bytes(at, 1 << low)?)?.into()),
            (2, 2) => {
                let bits = u32::try_from(big(self.bytes(at, 4)?)?).ok()?;
                Some(Value::Float(f32::from_bits(bits).into()))
            }
            (2, 3) => Some(Value::Float(f64::from_bits(big(self.bytes(at, 8)?)?))),
            (8, _) => Some(big(self.bytes(at, usize::from(low) + 1)?)?.into()),
            _ => None,
        }
    }
}

fn big(bytes: &[u8]) -> Option<u64> {
    (bytes.len() <= 8).then(|| bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
}

fn time(seconds: f64) -> Value {
    let whole = seconds.floor();
    let nanos = ((seconds - whole) * 1e9) as i32;
    Time::new((whole as i64).saturating_add(APPLE), nanos).map_or(Value::Null, Value::Time)
}

struct Xml<'a> {
    rest: &'a str,
}

impl<'a> Xml<'a> {
    /// The next tag, without brackets; comments are passed over.
    fn tag(&mut self) -> Result<&'a str, String> {
        loop {
            let open = self.rest.find('<').ok_or("the property list ends early")?;
            self.rest = &self.rest[open + 1..];
            let (end, skipped) = match self.rest.starts_with("!--") {
                true => ("-->", true),
                false => (">", false),
            };
            let close = self.rest.find(end).ok_or("a tag is not closed")?;
            let tag = self.rest[..close].trim();
            self.rest = &self.rest[close + end.len()..];
            if !skipped {
                return Ok(tag);
            }
        }
    }

    /// The text up to the closing tag.
    fn text(&mut self) -> Result<String, String> {
        let end = self.rest.find('<').ok_or("the property list ends early")?;
        let text = super::xml::unescape(&self.rest[..end]);
        self.rest = &self.rest[end..];
        self.tag()?;
        Ok(text)
    }

    /// The next value; `None` at the end of what it is in.
    fn value(&mut self, depth: usize) -> Result<Option<Value>, String> {
        if depth > DEPTH {
            return Err("the property list is nested too deeply".into());
        }
        let tag = self.tag()?;
        let empty = tag.ends_with('/');
        let name = tag.trim_end_matches('/').split_whitespace().next().unwrap_or_default();
        let bad = |text: &str| format!("{text} is no {name}");
        Ok(Some(match name {
            _ if tag.starts_with('/') => return Ok(None),
            "true" => true.into(),
            "false" => false.into(),
            "dict" if empty => Dict::new().into(),
            "array" if empty => Value::list(Vec::new()),
            "string" | "key" if empty => "".into(),
            "data" if empty => "".into(),
            "dict" => {
                let mut members = BTreeMap::new();
                while let Some(key) = self.value(depth + 1)? {
                    let value = self.value(depth + 1)?.ok_or("a key has no value")?;
                    members.insert(key.to_text(), value);
                }
                dict(members)
            }
            "array" => {
                let mut items = Vec::new();
                while let Some(item) = self.value(depth + 1)? {
                    items.push(item);
                }
                Value::list(items)
            }
            "string" | "key" => self.text()?.into(),
            "integer" => {
                let text = self.text()?;
                let t = text.trim();
                let hex = t.strip_prefix("0x").and_then(|h| i64::from_str_radix(h, 16).ok());
                let number = t.parse().ok().or(hex).map(Value::Int);
                let large = || t.parse().ok().map(Value::UInt);
                number.or_else(large).ok_or_else(|| bad(t))?
            }
            "real" => {
                let text = self.text()?;
                Value::Float(text.trim().parse().map_err(|_| bad(&text))?)
            }
            "date" => {
                let text = self.text()?;
                Value::Time(text.trim().parse().map_err(|_| bad(&text))?)
            }
            "data" => {
                let text: String = self.text()?.split_whitespace().collect();
                let bytes = vql::base64_decode(text.as_bytes()).ok_or_else(|| bad("this"))?;
                vql::base64_encode(&bytes).into()
            }
            other => return Err(format!("{other} is no part of a property list")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = r#"<?xml version="1.0"?><!DOCTYPE plist><plist version="1.0"><dict>
        <!-- <key>no</key> --><key>n</key><integer>-7</integer><key>b</key><true/>
        <key>when</key><date>2021-05-06T07:08:09Z</date><key>d</key><data> AQ
        I= </data><key>list</key><array><string>a &lt; b</string><real>2.5</real><dict/></array>
        <key>big</key><integer>18446744073709551615</integer></dict></plist>"#;

    #[test]
    fn xml() {
        let expected = r#"{"b":true,"big":18446744073709551615,"d":"AQI=","list":["a \u003c b",2.5,{}],"n":-7,"when":"2021-05-06T07:08:09Z"}"#;
        assert_eq!(parse(XML.as_bytes()).unwrap().to_json(), expected);
        let coded = vql::base64_encode(XML.as_bytes());
        assert_eq!(parse(coded.as_bytes()).unwrap().to_json(), expected);
        for bad in [
            "",
            "PCE=",
            "bm8=",
            "<plist><dict><key>a</key></dict>",
            "<plist><what/></plist>",
            "<plist><integer>x</integer>",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(format!("<plist>{}", "<array>".repeat(500)).as_bytes()).is_err());
    }

    /// A binary list of given objects; the first is the top.
    fn binary(objects: &[&[u8]]) -> Vec<u8> {
        let mut data = b"bplist00".to_vec();
        let mut places = Vec::new();
        for o in objects {
            places.push(data.len() as u8);
            data.extend(*o);
        }
        let table = data.len() as u64;
        data.extend(places);
        data.extend([0, 0, 0, 0, 0, 0, 1, 1]);
        for n in [objects.len() as u64, 0, table] {
            data.extend(n.to_be_bytes());
        }
        data
    }

    #[test]
    fn binary_lists() {
        let date = [&[0x33][..], &86_400.5f64.to_be_bytes()].concat();
        let data = binary(&[
            &[0xd3, 1, 2, 3, 4, 5, 6],
            b"\x51k",
            b"\x52at",
            b"\x61\0\xe9",
            &[0xa4, 7, 8, 9, 10],
            &date,
            &[0x42, 1, 2],
            &[0x11, 1, 0],
            &[0x13, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe],
            &[0x09],
            &[0x22, 0x3f, 0, 0, 0],
        ]);
        let expected = r#"{"at":"2001-01-02T00:00:00.5Z","k":[256,-2,true,0.5],"é":"AQI="}"#;
        assert_eq!(parse(&data).unwrap().to_json(), expected);
        // One that holds itself, and every damage of a byte.
        assert!(parse(&binary(&[&[0xa1, 0]])).is_err());
        for at in 0..data.len() {
            for bits in [0xff, 0x0f, 0x80] {
                let mut bad = data.clone();
                bad[at] ^= bits;
                let _ = parse(&bad);
            }
        }
    }
}
