//! Lines of a data file, streamed; and what a line is. The judgement is pure.

use std::collections::VecDeque;

use base64::Engine;
use bytes::{Bytes, BytesMut};

use super::data::{BLOCK, DataFile};
use crate::store::objects::StoreError;

/// Longest line kept, in bytes; longer ones are skipped as damage.
pub const MAX_LINE: usize = 64 << 20;

/// What a line holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A row: one JSON object.
    Row(Bytes),
    /// The row was changed and lives at this logical offset.
    Moved(u64),
    /// Nothing a reader shows: blank, damaged, or the new place of a row.
    Skip,
}

/// Judges a line (without its newline).
pub fn judge(line: &Bytes) -> Line {
    let text = line.trim_ascii();
    match text.first() {
        Some(b'{') if serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok() => {
            Line::Row(line.slice_ref(text))
        }
        Some(b'@') if text.get(1).is_some_and(u8::is_ascii_digit) => {
            let digits = text[1..].iter().take_while(|c| c.is_ascii_digit()).count();
            std::str::from_utf8(&text[1..=digits])
                .ok()
                .and_then(|d| d.parse().ok())
                .map_or(Line::Skip, Line::Moved)
        }
        _ => Line::Skip,
    }
}

/// The row inside an `@{…}` line.
pub fn moved_row(line: &[u8]) -> Option<Bytes> {
    #[derive(serde::Deserialize)]
    struct Moved {
        #[serde(rename = "Data")]
        data: String,
    }
    let m: Moved = serde_json::from_slice(line.trim_ascii().strip_prefix(b"@")?).ok()?;
    let row = base64::engine::general_purpose::STANDARD.decode(m.data).ok()?;
    match judge(&Bytes::from(row)) {
        Line::Row(r) => Some(r),
        _ => None,
    }
}

/// Splits a block at newlines: whole lines (without newline, with their offset
/// in the block) and the rest.
pub fn split(block: &Bytes) -> (Vec<(usize, Bytes)>, Bytes) {
    let mut out = Vec::new();
    let mut start = 0;
    while let Some(i) = block[start..].iter().position(|&c| c == b'\n') {
        out.push((start, block.slice(start..start + i)));
        start += i + 1;
    }
    (out, block.slice(start..))
}

/// How far a reading of lines has come.
#[derive(Debug, Default)]
pub struct LineState {
    /// Offset of the next block.
    next: u64,
    /// Start of the line being put together, and its bytes so far.
    carry_at: u64,
    carry: BytesMut,
    /// Whether the line being put together grew past all bounds.
    dropping: bool,
    ready: VecDeque<(u64, Bytes)>,
    done: bool,
    /// Bytes of the next read; 0 for as many as are read at once.
    first: usize,
}

impl LineState {
    /// At the line that starts at logical offset `at`.
    pub fn at(at: u64) -> LineState {
        LineState { next: at, carry_at: at, ..LineState::default() }
    }

    /// The first read is of so many bytes: whoever wants few rows reads few.
    pub fn reading(self, first: usize) -> LineState {
        LineState { first, ..self }
    }
}

/// Lines of a file from a logical offset on.
#[derive(Debug)]
pub struct Lines<'a> {
    file: &'a DataFile,
    s: LineState,
}

impl<'a> Lines<'a> {
    /// Starts at logical offset `at`.
    pub fn new(file: &'a DataFile, at: u64) -> Lines<'a> {
        Lines::resume(file, LineState::at(at))
    }

    /// Goes on where an earlier reading of the same file stopped.
    pub fn resume(file: &'a DataFile, s: LineState) -> Lines<'a> {
        Lines { file, s }
    }

    /// Stops for now.
    pub fn into_state(self) -> LineState {
        self.s
    }

    /// The next line without its newline, and where it starts. A last line
    /// without newline is given only if it is a whole row: anything else is the
    /// torn tail of a write.
    pub async fn next(&mut self) -> Result<Option<(u64, Bytes)>, StoreError> {
        loop {
            if let Some(line) = self.s.ready.pop_front() {
                return Ok(Some(line));
            }
            if self.s.done {
                return Ok(None);
            }
            let want = match std::mem::take(&mut self.s.first) {
                0 => BLOCK,
                n => n,
            };
            match self.file.block(self.s.next, want).await? {
                Some((at, block)) => self.take(at, block),
                None => {
                    self.s.done = true;
                    let tail = std::mem::take(&mut self.s.carry).freeze();
                    if !self.s.dropping && matches!(judge(&tail), Line::Row(_)) {
                        return Ok(Some((self.s.carry_at, tail)));
                    }
                }
            }
        }
    }

    fn take(&mut self, at: u64, block: Bytes) {
        if at > self.s.next {
            // Bytes are missing: what came before cannot be continued.
            self.s.carry.clear();
            self.s.carry_at = at;
            self.s.dropping = false;
        }
        self.s.next = at + block.len() as u64;
        let (lines, rest) = split(&block);
        for (i, line) in lines {
            if self.s.dropping {
                self.s.dropping = false;
            } else if self.s.carry.is_empty() {
                self.s.ready.push_back((at + i as u64, line));
            } else {
                self.s.carry.extend_from_slice(&line);
                let whole = std::mem::take(&mut self.s.carry).freeze();
                self.s.ready.push_back((self.s.carry_at, whole));
            }
            self.s.carry.clear();
        }
        if rest.is_empty() {
            return;
        }
        if self.s.carry.is_empty() && !self.s.dropping {
            self.s.carry_at = self.s.next - rest.len() as u64;
        }
        if self.s.carry.len() + rest.len() > MAX_LINE {
            self.s.dropping = true;
            self.s.carry = BytesMut::new();
        }
        if !self.s.dropping {
            self.s.carry.extend_from_slice(&rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn b(s: &'static str) -> Bytes {
        Bytes::from_static(s.as_bytes())
    }

    #[test]
    fn judges() {
        assert_eq!(judge(&b("{\"a\":1}")), Line::Row(b("{\"a\":1}")));
        assert_eq!(judge(&b("   {\"a\":1}\r")), Line::Row(b("{\"a\":1}")));
        assert_eq!(judge(&b("{\"a\":")), Line::Skip);
        assert_eq!(judge(&b("")), Line::Skip);
        assert_eq!(judge(&b("[1]")), Line::Skip);
        assert_eq!(judge(&b("{}{}")), Line::Skip);
        assert_eq!(judge(&b("@120   ")), Line::Moved(120));
        assert_eq!(judge(&b("@99999999999999999999999")), Line::Skip);
        assert_eq!(judge(&b("@{\"OriginalIndex\":1,\"Data\":\"\"}")), Line::Skip);
        let row = moved_row(b"  @{\"OriginalIndex\":1,\"Data\":\"eyJhIjoyfQo=\"}\n");
        assert_eq!(row, Some(b("{\"a\":2}")));
        assert_eq!(moved_row(b"@{}"), None);
    }

    proptest! {
        #[test]
        fn split_loses_nothing(v in prop::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..80)) {
            let block = Bytes::from(v.clone());
            let (lines, rest) = split(&block);
            let mut back = Vec::new();
            for (at, l) in &lines {
                prop_assert_eq!(*at, back.len());
                back.extend_from_slice(l);
                back.push(b'\n');
            }
            back.extend_from_slice(&rest);
            prop_assert_eq!(back, v);
        }

        #[test]
        fn any_line_is_judged(v in prop::collection::vec(any::<u8>(), 0..60), at in any::<bool>()) {
            let mut v = v;
            if at { v.insert(0, b'@'); }
            judge(&Bytes::from(v.clone()));
            moved_row(&v);
        }
    }
}
