//! Reading event rows: all day files of a directory as one stream in time.
//!
//! Stock servers keep one file per day; ours keep one per day, node and process
//! start. Either way the set is the union of every `*.json` whose name carries
//! one date.

use bytes::Bytes;
use serde_json::Value;

use super::data::DataFile;
use super::lines::{Line, Lines, judge};
use super::tidx::{self, TimeEntry};
use crate::store::objects::{StoreError, Tree, read_whole};
use crate::store::path::DirPath;

/// Nanoseconds of a day.
pub const DAY_NANOS: i64 = 86_400 * 1_000_000_000;
/// Largest time index read, in bytes: eleven million rows a day and writer.
const MAX_TIME_INDEX: usize = 256 << 20;

/// One file of a timed set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DayFile {
    /// Start of its day (UTC), Unix nanoseconds.
    pub start: i64,
    /// Its name without extension.
    pub name: String,
    /// Absolute path of the data file.
    pub path: String,
}

impl DayFile {
    /// `YYYY-MM-DD`.
    pub fn day(&self) -> String {
        date_in(&self.name).map(|d| d.to_string()).unwrap_or_default()
    }

    /// Its rows and what lies beside them.
    pub fn parts(&self) -> [String; 4] {
        [".json", ".chunk", ".json.tidx", ".json.index"].map(|e| self.sibling(e))
    }

    fn sibling(&self, extension: &str) -> String {
        let stem = self.path.strip_suffix(".json").unwrap_or(&self.path);
        format!("{stem}{extension}")
    }
}

/// A row and when it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedRow {
    /// Unix time in nanoseconds, from the time index; from `_ts` (seconds)
    /// when there is none.
    pub nanos: i64,
    /// The JSON object as stored.
    pub row: Bytes,
}

impl TimedRow {
    /// The row as readers present it: `_ts` replaced by the index time in
    /// milliseconds (the stored `_ts` is in seconds).
    pub fn shown(&self) -> Bytes {
        with_ts(&self.row, self.nanos.div_euclid(1_000_000))
    }
}

/// Sets `_ts` of a row as its last member, keeping the order of the others; what is not a JSON
/// object stays as it is.
pub fn with_ts(row: &Bytes, ts: i64) -> Bytes {
    let Ok(Value::Object(mut map)) = serde_json::from_slice(row) else { return row.clone() };
    // Last, wherever the client had one.
    map.shift_remove("_ts");
    map.insert("_ts".into(), ts.into());
    serde_json::to_vec(&Value::Object(map)).map_or_else(|_| row.clone(), Bytes::from)
}

/// The date in a file name, when there is exactly one.
pub fn date_in(name: &str) -> Option<jiff::civil::Date> {
    let b = name.as_bytes();
    let is_date = |w: &[u8]| {
        w.iter().enumerate().all(|(i, c)| match i {
            4 | 7 => *c == b'-',
            _ => c.is_ascii_digit(),
        })
    };
    let mut found = None;
    let mut i = 0;
    while i + 10 <= b.len() {
        if is_date(&b[i..i + 10]) {
            if found.replace(i).is_some() {
                return None;
            }
            i += 10;
        } else {
            i += 1;
        }
    }
    let at = found?;
    let text = name.get(at..at + 10)?;
    let (y, m, d) = (text[..4].parse().ok()?, text[5..7].parse().ok()?, text[8..].parse().ok()?);
    jiff::civil::Date::new(y, m, d).ok()
}

fn day_start(date: jiff::civil::Date) -> i64 {
    let epoch = jiff::civil::date(1970, 1, 1);
    let days = epoch.until(date).map_or(0, |s| i64::from(s.get_days()));
    days.saturating_mul(DAY_NANOS)
}

/// The `YYYY-MM-DD` a moment belongs to (UTC).
pub fn day_of(nanos: i64) -> String {
    let days = nanos.div_euclid(DAY_NANOS);
    let span = jiff::Span::new().days(days);
    jiff::civil::date(1970, 1, 1).checked_add(span).map(|d| d.to_string()).unwrap_or_default()
}

/// The day files of one artifact source.
#[derive(Clone, Debug)]
pub struct TimedSet {
    tree: Tree,
    files: Vec<DayFile>,
}

impl TimedSet {
    /// Lists the files in `dir`.
    pub async fn open(tree: &Tree, dir: &DirPath) -> Result<TimedSet, StoreError> {
        let base = tree.root.dir(dir)?;
        let mut files = Vec::new();
        for e in tree.fs.list(&base).await? {
            let Some(name) = e.name.strip_suffix(".json") else { continue };
            let (false, Some(date)) = (e.is_dir, date_in(name)) else { continue };
            let path = format!("{base}/{}", e.name);
            files.push(DayFile { start: day_start(date), name: name.to_owned(), path });
        }
        files.sort();
        Ok(TimedSet { tree: tree.clone(), files })
    }

    /// Leaves out the files with these names, without extension.
    pub fn leave_out(&mut self, these: impl Fn(&str) -> bool) {
        self.files.retain(|f| !these(&f.name));
    }

    /// All files, by day and name.
    pub fn files(&self) -> &[DayFile] {
        &self.files
    }

    /// Rows in `from..to` (Unix nanoseconds), in time order across the files of
    /// a day; rows of equal time by file name, then in file order.
    pub fn rows(&self, from: i64, to: i64) -> TimedRows {
        let wanted = |f: &&DayFile| f.start < to && f.start.saturating_add(DAY_NANOS) > from;
        let mut files: Vec<DayFile> = self.files.iter().filter(wanted).cloned().collect();
        files.reverse();
        TimedRows { tree: self.tree.clone(), files, open: Vec::new(), from, to }
    }

    /// All rows.
    pub fn all(&self) -> TimedRows {
        self.rows(i64::MIN, i64::MAX)
    }

    /// Rows per day, counted by reading.
    pub async fn count_by_day(
        &self,
    ) -> Result<std::collections::BTreeMap<String, u64>, StoreError> {
        let mut out = std::collections::BTreeMap::new();
        for f in &self.files {
            let n: &mut u64 = out.entry(f.day()).or_default();
            if let Some(mut r) = OneFile::open(&self.tree, f, i64::MIN, i64::MAX).await? {
                while r.next().await?.is_some() {
                    *n += 1;
                }
            }
        }
        Ok(out)
    }
}

/// Rows of several files merged by time.
#[derive(Debug)]
pub struct TimedRows {
    tree: Tree,
    /// Files still to open, the earliest last.
    files: Vec<DayFile>,
    /// Open files of one day with their next row.
    open: Vec<(OneFile, TimedRow)>,
    from: i64,
    to: i64,
}

impl TimedRows {
    /// The next row.
    pub async fn next(&mut self) -> Result<Option<TimedRow>, StoreError> {
        while self.open.is_empty() {
            let Some(day) = self.files.last().map(|f| f.start) else { return Ok(None) };
            while self.files.last().is_some_and(|f| f.start == day) {
                let Some(f) = self.files.pop() else { break };
                let Some(mut one) = OneFile::open(&self.tree, &f, self.from, self.to).await? else {
                    continue;
                };
                if let Some(row) = one.next().await? {
                    self.open.push((one, row));
                }
            }
        }
        let Some(i) = (0..self.open.len()).min_by_key(|&i| self.open[i].1.nanos) else {
            return Ok(None);
        };
        Ok(Some(match self.open[i].0.next().await? {
            Some(next) => std::mem::replace(&mut self.open[i].1, next),
            None => self.open.remove(i).1,
        }))
    }
}

/// Rows of one file with their times.
#[derive(Debug)]
struct OneFile {
    data: std::sync::Arc<DataFile>,
    entries: Vec<TimeEntry>,
    next_entry: usize,
    state: super::lines::LineState,
    from: i64,
    to: i64,
}

impl OneFile {
    async fn open(
        tree: &Tree,
        f: &DayFile,
        from: i64,
        to: i64,
    ) -> Result<Option<OneFile>, StoreError> {
        let Some(data) = DataFile::open_paths(tree, &f.path, &f.sibling(".chunk")).await? else {
            return Ok(None);
        };
        let raw = read_whole(&*tree.fs, &f.sibling(".json.tidx"), MAX_TIME_INDEX).await?;
        let entries = tidx::parse(&raw.unwrap_or_default());
        // Everything before the first entry in range can be passed over, when
        // there are entries at all; without, times come from the rows.
        let first = entries.iter().position(|e| e.nanos >= from).unwrap_or(entries.len());
        let start = match entries.get(first) {
            Some(e) => e.offset,
            // Rows behind the last entry may still be in range.
            None => entries.last().map_or(0, |e| e.offset),
        };
        Ok(Some(OneFile {
            data: std::sync::Arc::new(data),
            next_entry: 0,
            entries,
            state: super::lines::LineState::at(start),
            from,
            to,
        }))
    }

    async fn next(&mut self) -> Result<Option<TimedRow>, StoreError> {
        loop {
            let mut lines = Lines::resume(&self.data, std::mem::take(&mut self.state));
            let line = lines.next().await;
            self.state = lines.into_state();
            let Some((at, line)) = line? else { return Ok(None) };
            let entry = self.entry_of(at);
            let Line::Row(row) = judge(&line) else { continue };
            let Some(nanos) = entry.or_else(|| row_time(&row)) else { continue };
            if nanos >= self.from && nanos < self.to {
                return Ok(Some(TimedRow { nanos, row }));
            }
        }
    }

    fn entry_of(&mut self, line: u64) -> Option<i64> {
        while self.entries.get(self.next_entry).is_some_and(|e| e.offset + 1 < line) {
            self.next_entry += 1;
        }
        // An entry one byte early and one that is exact: the exact one counts.
        let here = self.entries.get(self.next_entry)?;
        let exact = self.entries.get(self.next_entry + 1).filter(|e| e.offset == line);
        Some(exact.unwrap_or(here)).filter(|e| tidx::points_at(e, line)).map(|e| e.nanos)
    }
}

/// The time a row states itself: `_ts` in seconds.
fn row_time(row: &Bytes) -> Option<i64> {
    #[derive(serde::Deserialize)]
    struct Stamped {
        #[serde(rename = "_ts")]
        ts: serde_json::Number,
    }
    let s: Stamped = serde_json::from_slice(row).ok()?;
    match s.ts.as_i64() {
        Some(t) => t.checked_mul(1_000_000_000),
        None => s.ts.as_f64().map(|t| (t * 1e9) as i64),
    }
}

#[cfg(test)]
#[path = "timed_tests.rs"]
mod tests;
