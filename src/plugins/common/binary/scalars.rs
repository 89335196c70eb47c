//! Values of a fixed size, and what is derived from them.

use serde_json::Value as Json;
use vql::{Time, Value};

/// A type of a fixed size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scalar {
    /// Bytes.
    pub(super) size: usize,
    signed: bool,
    big: bool,
    float: bool,
}

/// The scalar of that name.
pub(super) fn find(kind: &str) -> Option<Scalar> {
    let scalar = |size, signed, big, float| Some(Scalar { size, signed, big, float });
    let big = kind.ends_with('b') || kind.ends_with("be");
    let plain = kind.trim_end_matches("be").trim_end_matches("le");
    let plain = match plain {
        p if p.starts_with("uint") || p.starts_with("int") => p.trim_end_matches(['b', 'l']),
        p => p,
    };
    match plain {
        "uint8" | "byte" | "unsigned char" => scalar(1, false, big, false),
        "int8" | "char" => scalar(1, true, big, false),
        "uint16" | "unsigned short" => scalar(2, false, big, false),
        "int16" | "short" | "short int" => scalar(2, true, big, false),
        "uint32" | "unsigned int" | "unsigned long" => scalar(4, false, big, false),
        "int32" | "int" | "long" => scalar(4, true, big, false),
        "uint64" | "unsigned long long" => scalar(8, false, big, false),
        "int64" | "long long" => scalar(8, true, big, false),
        "float32" | "float" => scalar(4, false, big, true),
        "float64" | "double" => scalar(8, false, big, true),
        _ => None,
    }
}

impl Scalar {
    /// The value of exactly its bytes.
    pub(super) fn read(self, bytes: &[u8]) -> Value {
        let join = |v: u64, b: &u8| v << 8 | u64::from(*b);
        let raw = match self.big {
            true => bytes.iter().fold(0, join),
            false => bytes.iter().rev().fold(0, join),
        };
        let unused = 64 - 8 * self.size as u32;
        match (self.float, self.size) {
            (true, 4) => Value::Float(f32::from_bits(raw as u32).into()),
            (true, _) => Value::Float(f64::from_bits(raw)),
            (false, _) if self.signed => (((raw << unused) as i64) >> unused).into(),
            (false, _) => raw.into(),
        }
    }
}

/// A number of seven bits a byte, and its bytes.
pub(super) fn leb128(bytes: &[u8]) -> (u64, i64) {
    let mut value = 0u64;
    for (i, b) in bytes.iter().enumerate() {
        value |= u64::from(b & 0x7f).checked_shl(7 * i as u32).unwrap_or(0);
        if b & 0x80 == 0 {
            return (value, i as i64 + 1);
        }
    }
    (value, bytes.len() as i64)
}

/// `{xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx}`.
pub(super) fn guid(b: &[u8]) -> Value {
    let Some(b) = b.get(..16) else { return Value::Null };
    let a = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let (c, d) = (u16::from_le_bytes([b[4], b[5]]), u16::from_le_bytes([b[6], b[7]]));
    let tail = |range: &[u8]| range.iter().map(|x| format!("{x:02X}")).collect::<String>();
    format!("{{{a:08X}-{c:04X}-{d:04X}-{}-{}}}", tail(&b[8..10]), tail(&b[10..])).into()
}

/// What a number means. `bits` are first and behind the last.
pub(super) fn derive(
    kind: &str,
    raw: &Value,
    options: &Json,
    factor: Option<i64>,
    bits: (i64, i64),
) -> Value {
    let number: i128 = match raw {
        Value::UInt(u) => (*u).into(),
        other => other.as_int().unwrap_or(0).into(),
    };
    let time = |ns: i128| Time::from_nanosecond(ns).map_or(Value::Null, Value::Time);
    match kind {
        "Enumeration" => {
            let choices = options.get("choices");
            let named = choices.and_then(|c| {
                let decimal = c.get(number.to_string());
                decimal.or_else(|| c.get(format!("{number:#x}")))?.as_str()
            });
            let by_name = options.get("map").and_then(Json::as_object).and_then(|map| {
                let found = map.iter().find(|(_, v)| v.as_i64().map(i128::from) == Some(number));
                found.map(|(name, _)| name.as_str())
            });
            match named.or(by_name) {
                Some(name) => name.into(),
                None => format!("{number:#x}").into(),
            }
        }
        "Flags" => {
            let bitmap = options.get("bitmap").and_then(Json::as_object);
            let set = |bit: &Json| {
                bit.as_i64().is_some_and(|b| (0..64).contains(&b) && number >> b & 1 == 1)
            };
            let mut names: Vec<&str> = bitmap
                .into_iter()
                .flatten()
                .filter(|(_, bit)| set(bit))
                .map(|(name, _)| name.as_str())
                .collect();
            names.sort_unstable();
            names.into_iter().collect()
        }
        "BitField" => {
            let (from, to) = (bits.0.clamp(0, 64), bits.1.clamp(0, 64));
            let width = (to - from).max(0) as u32;
            let mask = (1i128 << width) - 1;
            i64::try_from((number >> from) & mask).unwrap_or(i64::MAX).into()
        }
        "WinFileTime" => {
            // Whole seconds.
            let units = number / i128::from(factor.unwrap_or(1));
            time((units / 10_000_000 - 11_644_473_600) * 1_000_000_000)
        }
        "FatTimestamp" => {
            let (date, clock) = ((number & 0xffff) as i64, (number >> 16 & 0xffff) as i64);
            let day = jiff::civil::Date::new(
                (1980 + (date >> 9 & 127)) as i16,
                (date >> 5 & 15) as i8,
                (date & 31) as i8,
            );
            let at = day.ok().and_then(|d| {
                let zoned = d.at(0, 0, 0, 0).to_zoned(jiff::tz::TimeZone::UTC).ok()?;
                let seconds = (clock >> 11) * 3600 + (clock >> 5 & 63) * 60 + (clock & 31) * 2;
                Some(zoned.timestamp().as_second() + seconds)
            });
            at.map_or(Value::Null, |s| time(i128::from(s) * 1_000_000_000))
        }
        _ => time(number * 1_000_000_000 / i128::from(factor.unwrap_or(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let read = |kind: &str, bytes: &[u8]| find(kind).unwrap().read(bytes).to_json();
        assert_eq!(read("uint16", &[1, 2]), "513");
        assert_eq!(read("uint16be", &[1, 2]), "258");
        assert_eq!(read("int16b", &[0xff, 0xfe]), "-2");
        assert_eq!(read("int8", &[0xff]), "-1");
        assert_eq!(read("uint64", &[0xff; 8]), "18446744073709551615");
        assert_eq!(read("float64be", &1.5f64.to_be_bytes()), "1.5");
        assert_eq!(read("short int", &[2, 0]), "2");
        assert!(find("String").is_none() && find("utmp").is_none());
        assert_eq!(leb128(&[0xe5, 0x8e, 0x26]), (624_485, 3));
    }

    #[test]
    fn meanings() {
        let of = |kind, raw: i64| derive(kind, &raw.into(), &Json::Null, None, (0, 8)).to_json();
        assert_eq!(of("WinFileTime", 132_444_736_007_654_321), "\"2020-09-13T12:26:40Z\"");
        assert_eq!(of("FatTimestamp", 0x6000_5821), "\"2024-01-01T12:00:00Z\"");
        assert_eq!(of("Timestamp", 1), "\"1970-01-01T00:00:01Z\"");
        assert_eq!(of("Enumeration", 7), "\"0x7\"");
        let bytes: Vec<u8> = (1..17).collect();
        assert_eq!(guid(&bytes).to_text(), "{04030201-0605-0807-090A-0B0C0D0E0F10}");
    }
}
