//! The values of records by their types.

use vql::Value;

use super::binxml::trimmed;
use crate::plugins::common::fields::Fields;

/// 100 ns from 1601 to 1970.
const SINCE_1601: f64 = 116_444_736_000_000_000.0;

/// Text of two bytes a character; an odd number of bytes is text of one each.
pub fn text(bytes: &[u8]) -> String {
    if bytes.len().is_multiple_of(2) { trimmed(bytes) } else { vql::lossy(bytes).into_owned() }
}

/// The value of a type; null for what is too short for its type.
pub fn value(kind: u16, b: &[u8]) -> Value {
    let number = |n: Option<u64>| n.map_or(Value::Null, Value::from);
    let words = |size: usize| b.chunks_exact(size);
    match kind {
        0x00 => Value::Null,
        0x01 => match b.len().is_multiple_of(2) {
            true => trimmed(b).into(),
            false => b.into(),
        },
        0x04 => number(b.first().map(|n| u64::from(*n))),
        0x06 => number(b.u16(0).map(u64::from)),
        0x07 => b.u32(0).map_or(Value::Null, |n| i64::from(n as i32).into()),
        // Numbers that are meant to be shown in hexadecimal are numbers.
        0x08 | 0x14 => number(b.u32(0).map(u64::from)),
        0x09 => b.u64(0).map_or(Value::Null, |n| (n as i64).into()),
        0x0a | 0x15 => number(b.u64(0)),
        0x0b => b.u32(0).map_or(Value::Null, |n| f64::from(f32::from_bits(n)).into()),
        0x0c => b.u64(0).map_or(Value::Null, |n| f64::from_bits(n).into()),
        0x0d => b.iter().any(|b| *b != 0).into(),
        0x0e => Value::Bytes(b.into()),
        0x0f => guid(b).map_or(Value::Null, Value::from),
        0x11 => b.u64(0).map_or(Value::Null, |n| ((n as f64 - SINCE_1601) / 1e7).into()),
        0x12 => calendar(b).map_or(Value::Null, Value::from),
        0x13 => sid(b).map_or(Value::Null, Value::from),
        0x27 | 0x28 => b.into(),
        0x81 => trimmed(b).split('\0').map(Value::from).collect(),
        0x86 => words(2).map(|w| w.u16(0).map_or(Value::Null, Value::from)).collect(),
        0x8a => words(8).map(|w| number(w.u64(0))).collect(),
        0x95 => words(8).map(|w| format!("{:#x}", w.u64(0).unwrap_or(0))).collect(),
        _ => {
            let end = b.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
            b[..end].into()
        }
    }
}

fn guid(b: &[u8]) -> Option<String> {
    let last: &[u8; 8] = b.get(8..16)?.try_into().ok()?;
    let hex = |part: &[u8]| hex::encode_upper(part);
    let (a, c, d) = (b.u32(0)?, b.u16(4)?, b.u16(6)?);
    Some(format!("{a:08X}-{c:04X}-{d:04X}-{}-{}", hex(&last[..2]), hex(&last[2..])))
}

/// An identity of Windows: `S-1-5-18`.
pub fn sid(b: &[u8]) -> Option<String> {
    let authority = b.get(2..8)?.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let mut out = format!("S-{}-{authority}", b[0]);
    for part in b[8..].chunks_exact(4) {
        out.push_str(&format!("-{}", part.u32(0)?));
    }
    Some(out)
}

/// A time by its parts. Its last part counts thousandths, and stock agents show them as
/// billionths.
fn calendar(b: &[u8]) -> Option<String> {
    let part = |i: usize| b.u16(i * 2).map(|n| i16::try_from(n).unwrap_or(0));
    let [year, month, day] = [part(0)?, part(1)?, part(3)?];
    let [hour, minute, second, rest] = [part(4)?, part(5)?, part(6)?, part(7)?];
    let small = |n: i16| i8::try_from(n).ok();
    let date = jiff::civil::DateTime::new(
        year,
        small(month)?,
        small(day)?,
        small(hour)?,
        small(minute)?,
        small(second)?,
        rest.into(),
    );
    let time = date.ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(vql::go_time(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(kind: u16, bytes: &[u8]) -> String {
        value(kind, bytes).to_json()
    }

    #[test]
    fn values_of_all_types() {
        assert_eq!(shown(0x01, b"h\0i\0\0\0"), "\"hi\"");
        assert_eq!(shown(0x01, b"odd"), "\"odd\"");
        assert_eq!((shown(0x04, &[200]), shown(0x06, &[1, 2])), ("200".into(), "513".into()));
        assert_eq!(
            (shown(0x07, &[255; 4]), shown(0x08, &[255; 4])),
            ("-1".into(), "4294967295".into())
        );
        assert_eq!(
            (shown(0x09, &[255; 8]), shown(0x15, &[255; 8])),
            ("-1".into(), u64::MAX.to_string())
        );
        assert_eq!(shown(0x0d, &[1, 0, 0, 0]), "true");
        assert_eq!(shown(0x0e, &[1, 2, 3]), "\"AQID\"");
        let guid: Vec<u8> = (1..17).collect();
        assert_eq!(shown(0x0f, &guid), "\"04030201-0605-0807-090A-0B0C0D0E0F10\"");
        assert_eq!(shown(0x11, &132_444_736_005_000_000u64.to_le_bytes()), "1600000000.5");
        assert_eq!(shown(0x13, &[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]), "\"S-1-5-18\"");
        let parts: Vec<u8> =
            [2020u16, 5, 0, 24, 1, 13, 54, 120].iter().flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(shown(0x12, &parts), "\"2020-05-24 01:13:54.00000012 +0000 UTC\"");
        assert_eq!(shown(0x81, b"a\0\0\0b\0\0\0"), r#"["a","b"]"#);
        assert_eq!(shown(0x86, &[1, 0, 2, 0]), "[1,2]");
        assert_eq!(shown(0x95, &[16, 0, 0, 0, 0, 0, 0, 0]), r#"["0x10"]"#);
        assert_eq!(shown(0x02, b"ansi\0\0"), "\"ansi\"");
        for kind in 0..256 {
            for length in 0..20 {
                value(kind, &vec![0xff; length]);
            }
        }
    }
}
