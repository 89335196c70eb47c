//! Sparse maps: which stretches of a file were stored. Pure.

use bytes::Bytes;
use serde::Deserialize;
use velociraptor_proto::proto::Range;

use crate::store::resultset::lines::split;

/// A sparse map as stored: indented by one space, zero fields left out.
pub fn map_bytes(ranges: &[Range]) -> Vec<u8> {
    let mut out = String::from("{");
    for (i, r) in ranges.iter().enumerate() {
        out.push_str(if i == 0 { "\n \"ranges\": [\n  {" } else { ",\n  {" });
        let fields = [
            ("file_offset", r.file_offset),
            ("original_offset", r.original_offset),
            ("file_length", r.file_length),
            ("length", r.length),
        ];
        let mut sep = "\n   ";
        for (name, v) in fields.into_iter().filter(|f| f.1 != 0) {
            out.push_str(&format!("{sep}\"{name}\": {v}"));
            sep = ",\n   ";
        }
        out.push_str(if sep.starts_with(',') { "\n  }" } else { "}" });
    }
    out.push_str(if ranges.is_empty() { "}" } else { "\n ]\n}" });
    out.into_bytes()
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct StoredRange {
    file_offset: i64,
    original_offset: i64,
    file_length: i64,
    length: i64,
}

#[derive(Deserialize)]
struct StoredMap {
    #[serde(default)]
    ranges: Vec<StoredRange>,
}

/// Reads a sparse map: one object with `ranges`, or one range a line.
pub fn parse_map(bytes: &[u8]) -> Result<Vec<Range>, String> {
    let one = |r: StoredRange| Range {
        file_offset: r.file_offset,
        original_offset: r.original_offset,
        file_length: r.file_length,
        length: r.length,
    };
    if let Ok(lines) = parse_lines(bytes) {
        return Ok(lines.into_iter().map(one).collect());
    }
    let m: StoredMap = serde_json::from_slice(bytes).map_err(|e| format!("sparse map: {e}"))?;
    Ok(m.ranges.into_iter().map(one).collect())
}

/// One range a line: every line is an object that says its length.
fn parse_lines(bytes: &[u8]) -> Result<Vec<StoredRange>, String> {
    let (mut lines, rest) = split(&Bytes::copy_from_slice(bytes));
    lines.push((0, rest));
    let mut out = Vec::new();
    for (_, l) in lines.iter().filter(|l| !l.1.trim_ascii().is_empty()) {
        let v: serde_json::Value = serde_json::from_slice(l).map_err(|e| e.to_string())?;
        if v.get("length").is_none() {
            return Err("no length".into());
        }
        out.push(serde_json::from_value(v).map_err(|e| e.to_string())?);
    }
    if out.is_empty() { Err("no lines".into()) } else { Ok(out) }
}

/// A stretch of the file as readers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub start: u64,
    pub end: u64,
    /// Where its bytes are in the data file; `None` for a hole.
    pub source: Option<u64>,
}

/// Stretches of a padded file, in order and without gaps.
pub(super) fn stretches(ranges: &[Range]) -> Result<Vec<Stretch>, String> {
    let mut sorted = Vec::new();
    for r in ranges {
        let all = [r.original_offset, r.file_offset, r.file_length, r.length];
        if all.iter().any(|v| *v < 0 || *v > 1 << 50) {
            return Err(format!("sparse map: impossible range {r:?}"));
        }
        sorted.push(*r);
    }
    sorted.sort_by_key(|r| r.original_offset);
    let mut out: Vec<Stretch> = Vec::new();
    let mut at = 0;
    let mut push = |start: u64, end: u64, source: Option<u64>| {
        if end > start {
            out.push(Stretch { start, end, source });
        }
    };
    for r in sorted {
        let (start, end) = (r.original_offset as u64, (r.original_offset + r.length) as u64);
        if start < at && end > at {
            return Err("sparse map: ranges overlap".into());
        }
        if end <= at {
            continue;
        }
        push(at, start, None);
        let data_end = start + r.file_length.min(r.length) as u64;
        push(start, data_end, Some(r.file_offset as u64));
        push(data_end, end, None);
        at = end;
    }
    Ok(out)
}
