//! Rows that lie side by side, read with one read and told apart by the row index, for
//! those who look at every row. What is not as plain as that is left to the reader.

use bytes::Bytes;

use super::index::RowPos;

/// Some rows as they lie in a plain data file.
#[derive(Clone, Debug)]
pub struct Span {
    /// Index entries of its rows, and the bytes from `at` to the end of the last of them.
    entries: Vec<RowPos>,
    at: u64,
    bytes: Bytes,
}

/// How many of these rows to read at once, and where they end: as many as have room in
/// `most` bytes, and whole blobs only. `entries` may be one more than are wanted; `end` is
/// that of the file. `None` where the entries do not say.
pub(super) fn extent(entries: &[RowPos], more: bool, end: u64, most: u64) -> Option<(usize, u64)> {
    let from = entries.first()?.offset;
    let fits = |to: u64| to > from && to <= end && to - from <= most;
    if !more && fits(end) {
        return Some((entries.len(), end));
    }
    // A row of which the entry says where it begins ends what is before it.
    let last = entries.iter().rposition(|e| e.skip == 0 && fits(e.offset))?;
    (last > 0).then(|| (last, entries[last].offset))
}

impl Span {
    pub(super) fn new(entries: Vec<RowPos>, bytes: Bytes) -> Self {
        let at = entries.first().map_or(0, |e| e.offset);
        Self { entries, at, bytes }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The line of each row; what is in it is not looked at. `None` where the entries go
    /// another way than the lines, or a row was moved.
    pub fn lines(&self) -> Option<Vec<&[u8]>> {
        let mut out: Vec<&[u8]> = Vec::with_capacity(self.entries.len());
        // Where the line after the last one begins.
        let mut next = 0;
        let mut last = None::<RowPos>;
        for (i, e) in self.entries.iter().enumerate() {
            let goes_on = last.is_some_and(|l| e.offset == l.offset && e.skip == l.skip + 1);
            if !goes_on {
                let at = usize::try_from(e.offset.checked_sub(self.at)?).ok()?;
                // Lines between rows belong to no row, and none is read twice.
                if at < next {
                    return None;
                }
                next = at;
                for _ in 0..e.skip {
                    next += self.line(next)?.len() + 1;
                }
            }
            // Most lines end where the next row begins.
            let known = self.entries.get(i + 1).filter(|n| n.skip == 0 && n.offset > e.offset);
            let known = known.and_then(|n| usize::try_from(n.offset - self.at).ok());
            let line = match known.filter(|_| e.skip == 0) {
                Some(to) => {
                    let line = self.bytes.get(next..to)?;
                    let line = line.strip_suffix(b"\n").unwrap_or(line);
                    if line.contains(&b'\n') { self.line(next)? } else { line }
                }
                None => self.line(next)?,
            };
            if line.trim_ascii_start().first() == Some(&b'@') {
                return None;
            }
            next += line.len() + 1;
            out.push(line);
            last = Some(*e);
        }
        Some(out)
    }

    /// The line that begins there, without its newline.
    fn line(&self, at: usize) -> Option<&[u8]> {
        let rest = self.bytes.get(at..).filter(|r| !r.is_empty())?;
        let end = rest.iter().position(|c| *c == b'\n').unwrap_or(rest.len());
        rest.get(..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: &'static str, entries: &[(u64, u32)]) -> Span {
        let entries = entries.iter().map(|&(offset, skip)| RowPos { offset, skip }).collect();
        Span::new(entries, Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn lines_are_those_of_their_entries() {
        let s = span("{1}\n{2}\n{3}\n{4}", &[(8, 0), (12, 0), (16, 0), (16, 1)]);
        assert_eq!(s.lines().unwrap(), [b"{1}", b"{2}", b"{3}", b"{4}"]);
        // Blank lines, and one that no entry knows.
        let s = span("{1}\n\n{2}\nbroken\n{3}\n", &[(0, 0), (5, 0), (16, 0)]);
        assert_eq!(s.lines().unwrap(), [b"{1}", b"{2}", b"{3}"]);
        // Into the middle of a blob.
        let s = span("{1}\n{2}\n{3}\n", &[(0, 1), (0, 2)]);
        assert_eq!(s.lines().unwrap(), [b"{2}", b"{3}"]);
        // A row that was moved, entries that go back, and one behind the end.
        assert!(span("@40\n{2}\n", &[(0, 0), (4, 0)]).lines().is_none());
        assert!(span("{1}\n{2}\n", &[(0, 0), (4, 0), (0, 0)]).lines().is_none());
        assert!(span("{1}\n", &[(0, 0), (9, 0)]).lines().is_none());
    }

    #[test]
    fn as_many_rows_as_have_room() {
        let e = |list: &[(u64, u32)]| -> Vec<RowPos> {
            list.iter().map(|&(offset, skip)| RowPos { offset, skip }).collect()
        };
        let rows = e(&[(0, 0), (10, 0), (20, 0), (30, 0)]);
        assert_eq!(extent(&rows, false, 40, 100), Some((4, 40)));
        assert_eq!(extent(&rows, true, 40, 100), Some((3, 30)));
        assert_eq!(extent(&rows, false, 40, 25), Some((2, 20)));
        // A row larger than all of it, one blob, and an end that is not there.
        assert_eq!(extent(&rows, false, 40, 5), None);
        assert_eq!(extent(&e(&[(0, 0), (0, 1), (0, 2)]), true, 40, 100), None);
        assert_eq!(extent(&e(&[(50, 0)]), false, 40, 100), None);
        assert_eq!(extent(&[], false, 0, 100), None);
    }
}
