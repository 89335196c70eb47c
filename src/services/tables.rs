//! Result sets as people look at them: filtered, sorted, counted, a page at a time.
//!
//! A plain page is read through the row index. A filter or an order needs one look
//! at every row; what it finds, row numbers, is kept for the pages that follow. It
//! knows nothing of who asks or how rows are shown.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use regex::{Regex, RegexBuilder};

use super::events::EventKey;
use super::flows::Rows;
use super::server::{Org, Server, ServiceError};
use crate::store::FilePath;
use crate::store::resultset::{ResultSet, read_rows, row_count};

mod cells;
mod hunt;
mod look;
mod walk;

use cells::Key;
pub use cells::{cell_text, columns};
pub use hunt::{Counted, HuntRows, sets_of};
use look::{Looker, Take, Taken};
use walk::each_piece;

/// Rows read and looked at together, and the most bytes of them where they are large.
const CHUNK: u64 = 8192;
const CHUNK_BYTES: u64 = 4 << 20;
/// Pieces that are looked at while the next ones are read.
const AT_ONCE: usize = 4;
/// Longest filter, in bytes, and largest compiled one.
const MAX_PATTERN: usize = 4096;
const MAX_PROGRAM: usize = 4 << 20;
/// Days of events held at most.
const MAX_DAYS: usize = 8;
/// Different values that are counted at most.
const MAX_VALUES: usize = 100_000;

/// Limits of looking at whole sets.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows looked at for one filter, order or count.
    pub scan_rows: u64,
    /// Rows put in order: those that come first.
    pub sort_rows: u64,
    /// Row numbers kept for further pages, over all views.
    pub kept_rows: usize,
    /// Rows of one day of events.
    pub event_rows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            scan_rows: 50_000_000,
            sort_rows: 1_000_000,
            kept_rows: 16_000_000,
            event_rows: 200_000,
        }
    }
}

/// A condition on one column, or on the whole row where `column` is empty.
#[derive(Clone, Debug)]
pub struct Filter {
    column: String,
    pattern: Regex,
    exclude: bool,
    /// A row of plain ASCII without this does not pass.
    needs: Option<regex::bytes::Regex>,
}

impl Filter {
    /// `text` is a regular expression, case ignored; with a leading `!` it
    /// excludes.
    pub fn new(column: &str, text: &str) -> Result<Self, ServiceError> {
        let (exclude, pattern) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let invalid = |e: String| ServiceError::Invalid(format!("filter of {column}: {e}"));
        if pattern.len() > MAX_PATTERN {
            return Err(invalid(format!("longer than {MAX_PATTERN} bytes")));
        }
        let pattern = RegexBuilder::new(pattern)
            .case_insensitive(true)
            .size_limit(MAX_PROGRAM)
            .build()
            .map_err(|e| invalid(e.to_string()))?;
        let needs = (!exclude).then(|| look::literal(pattern.as_str())).flatten();
        Ok(Self { column: column.to_owned(), pattern, exclude, needs })
    }
}

/// How a set is looked at.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// All must hold.
    pub filters: Vec<Filter>,
    /// Column, and whether largest first.
    pub sort: Option<(String, bool)>,
}

impl View {
    /// Whether rows are shown as they lie.
    pub fn is_plain(&self) -> bool {
        self.filters.is_empty() && self.sort.is_none()
    }

    fn name(&self) -> String {
        let mut out = String::new();
        for f in &self.filters {
            let _ = write!(out, "{:?} {} {:?};", f.column, f.exclude, f.pattern.as_str());
        }
        let _ = write!(out, "{:?}", self.sort);
        out
    }
}

/// A set of rows.
#[derive(Clone)]
pub struct Set {
    /// Whose.
    pub server: Arc<Server>,
    /// Organisation.
    pub org: Arc<Org>,
    /// Which rows.
    pub of: Of,
}

/// Which rows a set has.
#[derive(Clone, Debug)]
pub enum Of {
    /// One of the sets of a flow.
    Flow {
        /// Client id.
        client: String,
        /// Flow id.
        flow: String,
        /// Which of its sets.
        which: Rows,
    },
    /// Some rows of such a set, in a row.
    Section {
        /// Client id.
        client: String,
        /// Flow id.
        flow: String,
        /// Which of its sets.
        which: Rows,
        /// The first.
        from: u64,
        /// The one after the last.
        to: u64,
    },
    /// What all clients of a hunt have, one after the other.
    Hunt(Arc<HuntRows>),
    /// Rows in memory.
    Held(Arc<Held>),
    /// A set that was written whole.
    File(FilePath),
}

/// Rows in memory, with a name that changes when they do.
pub struct Held {
    /// Whose rows they are, for views that are kept.
    pub name: String,
    /// JSON objects.
    pub rows: Vec<Bytes>,
    /// There are more than are held.
    pub cut: bool,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl std::fmt::Debug for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.of.fmt(f)
    }
}

impl Set {
    /// Rows in all.
    pub async fn total(&self) -> Result<u64, ServiceError> {
        match &self.of {
            Of::Flow { client, flow, which } => {
                self.server.row_count(&self.org, client, flow, which).await
            }
            Of::Section { client, flow, which, from, to } => {
                // The collection may have been deleted since.
                let all = self.server.row_count(&self.org, client, flow, which).await?;
                Ok(all.min(*to).saturating_sub(*from))
            }
            Of::Hunt(hunt) => Ok(hunt.total()),
            Of::Held(held) => Ok(held.rows.len() as u64),
            Of::File(at) => Ok(row_count(&self.server.tree, at).await?),
        }
    }

    /// Rows as they lie, from `start` on.
    pub async fn rows(&self, start: u64, count: u64) -> Result<Vec<Bytes>, ServiceError> {
        match &self.of {
            Of::Flow { client, flow, which } => {
                self.server.rows(&self.org, client, flow, which, start, count).await
            }
            Of::Section { client, flow, which, from, to } => {
                let first = from.saturating_add(start);
                let count = count.min(to.saturating_sub(first));
                match count {
                    0 => Ok(Vec::new()),
                    n => self.server.rows(&self.org, client, flow, which, first, n).await,
                }
            }
            Of::Hunt(hunt) => hunt.rows(&self.server, &self.org, start, count).await,
            Of::Held(held) => {
                let rows = held.rows.iter().skip(usize::try_from(start).unwrap_or(usize::MAX));
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                Ok(rows.take(count).cloned().collect())
            }
            Of::File(at) => Ok(read_rows(&self.server.tree, at, start, count).await?),
        }
    }

    /// The file that holds all of its rows, opened, and the number of the first of them
    /// there.
    async fn stored(&self) -> Result<Option<(ResultSet, u64)>, ServiceError> {
        let server = &self.server;
        let found = match &self.of {
            Of::File(at) => Some((at.clone(), 0)),
            Of::Flow { client, flow, which } => {
                server.settled(&self.org, client, flow, which).map(|at| (at, 0))
            }
            Of::Section { client, flow, which, from, .. } => {
                server.settled(&self.org, client, flow, which).map(|at| (at, *from))
            }
            Of::Hunt(_) | Of::Held(_) => None,
        };
        match found {
            None => Ok(None),
            Some((at, from)) => Ok(Some((ResultSet::open(&server.tree, &at).await?, from))),
        }
    }

    /// The rows of these numbers.
    pub async fn chosen(&self, numbers: &[u32]) -> Result<Vec<Bytes>, ServiceError> {
        let mut out = Vec::with_capacity(numbers.len());
        let mut rest = numbers;
        let stored = self.stored().await?;
        if stored.is_none() && numbers.len() > 1 {
            // Rows in journals are read a part at a time: near ones together.
            let first = numbers.iter().copied().min().unwrap_or(0);
            let last = numbers.iter().copied().max().unwrap_or(0);
            let many = u64::from(last - first) + 1;
            if many <= CHUNK {
                let near = self.rows(u64::from(first), many).await?;
                let found = numbers.iter().map(|n| near.get((n - first) as usize).cloned());
                return found.collect::<Option<Vec<_>>>().ok_or_else(replaced);
            }
        }
        while let Some(first) = rest.first() {
            let run = rest.iter().zip(*first..).take_while(|(a, b)| *a == b).count();
            let rows = match &stored {
                // Opened once: rows in another order lie all over the file.
                Some((file, from)) => match file.page(from + u64::from(*first), run).await {
                    // Replaced meanwhile: opened again.
                    Err(e) if e.is_stale() => self.rows(u64::from(*first), run as u64).await?,
                    rows => rows?,
                },
                None => self.rows(u64::from(*first), run as u64).await?,
            };
            if rows.len() < run {
                return Err(replaced());
            }
            out.extend(rows);
            rest = &rest[run..];
        }
        Ok(out)
    }
}

/// One page.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Its rows, JSON objects, with their numbers in the set.
    pub rows: Vec<(u64, Bytes)>,
    /// Rows of the set.
    pub total: u64,
    /// Rows that pass the filters.
    pub matched: u64,
}

/// Row numbers in the order of a view.
#[derive(Debug)]
pub struct Order {
    /// The first ones; all of them unless sorted.
    pub rows: Vec<u32>,
    /// How many pass the filters.
    pub matched: u64,
}

/// How often each value of a column occurs.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Value and number of rows, most frequent first.
    pub values: Vec<(String, u64)>,
    /// Different values seen.
    pub distinct: u64,
    /// Rows counted.
    pub rows: u64,
    /// Rows whose value came after the limit of different ones.
    pub uncounted: u64,
}

/// Views that were made, for the pages that follow.
#[derive(Debug, Default)]
pub struct Views {
    limits: Limits,
    kept: Mutex<VecDeque<(String, Arc<Order>)>>,
    /// Rows that clients of hunts have.
    pub counted: Counted,
    held: Mutex<VecDeque<Arc<Held>>>,
}

impl Views {
    /// With these limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// What happened on one day, as a set.
    pub async fn day(
        &self,
        server: &Arc<Server>,
        org: &Arc<Org>,
        key: &EventKey,
    ) -> Result<Set, ServiceError> {
        let name = server.event_stamp(org, key).await?;
        let found = {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.iter().find(|h| h.name == name).cloned()
        };
        let held = match found {
            Some(held) => held,
            None => {
                let day = server.event_day(org, key, self.limits.event_rows).await?;
                let held = Arc::new(Held { name, rows: day.rows, cut: day.cut });
                let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                all.push_front(held.clone());
                all.truncate(MAX_DAYS);
                held
            }
        };
        Ok(Set { server: server.clone(), org: org.clone(), of: Of::Held(held) })
    }

    /// Rows `start` and following of a view.
    pub async fn page(
        &self,
        set: &Set,
        view: &View,
        start: u64,
        count: u64,
    ) -> Result<Page, ServiceError> {
        let total = set.total().await?;
        if view.is_plain() {
            let rows = set.rows(start, count).await?;
            let rows = rows.into_iter().zip(start..).map(|(r, n)| (n, r)).collect();
            return Ok(Page { rows, total, matched: total });
        }
        let order = self.order(set, view, start.saturating_add(count)).await?;
        let from = usize::try_from(start).unwrap_or(usize::MAX).min(order.rows.len());
        let to = from.saturating_add(usize::try_from(count).unwrap_or(usize::MAX));
        let numbers = &order.rows[from..to.min(order.rows.len())];
        let rows = set.chosen(numbers).await?;
        let rows = numbers.iter().map(|n| u64::from(*n)).zip(rows).collect();
        Ok(Page { rows, total, matched: order.matched })
    }

    /// Row numbers of a view: at least the first `need`.
    pub async fn order(
        &self,
        set: &Set,
        view: &View,
        need: u64,
    ) -> Result<Arc<Order>, ServiceError> {
        let total = set.total().await?;
        if total > self.limits.scan_rows || total > u64::from(u32::MAX) {
            let limit = self.limits.scan_rows;
            let text = format!("{total} rows are too many to look at one by one (limit {limit})");
            return Err(ServiceError::Invalid(text));
        }
        let key = format!("{} {set:?} {total} {}", set.org.id, view.name());
        let enough = |o: &Order| o.rows.len() as u64 >= need.min(o.matched);
        if let Some(found) = self.kept(&key).filter(|o| enough(o)) {
            return Ok(found);
        }
        let most = if view.sort.is_some() { self.limits.sort_rows } else { u64::MAX };
        let order = Arc::new(scan(set, view, total, need.max(10_000).min(most)).await?);
        if !enough(&order) {
            let text = format!("only the first {most} rows are put in order; filter them first");
            return Err(ServiceError::Invalid(text));
        }
        self.keep(key, &order);
        Ok(order)
    }

    fn kept(&self, key: &str) -> Option<Arc<Order>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(k, _)| k == key)?;
        let entry = kept.remove(at)?;
        let found = entry.1.clone();
        kept.push_front(entry);
        Some(found)
    }

    fn keep(&self, key: String, order: &Arc<Order>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(k, _)| *k != key);
        kept.push_front((key, order.clone()));
        let mut left = self.limits.kept_rows;
        // The newest stays, whatever its size.
        let fits = kept.iter().position(|(_, o)| {
            let weight = o.rows.len() + 64;
            let full = weight > left;
            left = left.saturating_sub(weight);
            full
        });
        if let Some(n) = fits {
            kept.truncate(n.max(1));
        }
    }

    /// Counts the values of a column among the rows that pass.
    pub async fn count(
        &self,
        set: &Set,
        view: &View,
        column: &str,
        top: usize,
    ) -> Result<Counts, ServiceError> {
        let total = set.total().await?;
        if total > self.limits.scan_rows {
            let text = format!("{total} rows are too many to count one by one");
            return Err(ServiceError::Invalid(text));
        }
        let mut counts = Counts::default();
        let mut values: BTreeMap<String, u64> = BTreeMap::new();
        let looker = Looker::new(view, Take::Text(column.to_owned()));
        each_piece(set, total, looker, |found| {
            for (_, taken) in found {
                let Taken::Text(text) = taken else { continue };
                counts.rows += 1;
                if values.len() >= MAX_VALUES && !values.contains_key(&text) {
                    counts.uncounted += 1;
                } else {
                    *values.entry(text).or_default() += 1;
                }
            }
        })
        .await?;
        counts.distinct = values.len() as u64;
        counts.values = values.into_iter().collect();
        counts.values.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        counts.values.truncate(top);
        Ok(counts)
    }
}

fn replaced() -> ServiceError {
    ServiceError::Invalid("the result set was replaced; ask again".into())
}

fn stopped() -> ServiceError {
    ServiceError::Invalid("the server is stopping".into())
}

/// A row with its place in the order.
#[derive(PartialEq, Eq)]
struct Placed {
    key: Key,
    descending: bool,
    row: u32,
}

impl Ord for Placed {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_key = self.key.cmp(&other.key);
        let by_key = if self.descending { by_key.reverse() } else { by_key };
        by_key.then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Placed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Looks at every row. Of a sorted view only the first `need` are found, with
/// memory for no more.
async fn scan(set: &Set, view: &View, total: u64, need: u64) -> Result<Order, ServiceError> {
    let need = usize::try_from(need).unwrap_or(usize::MAX);
    let mut heap: BinaryHeap<Placed> = BinaryHeap::new();
    let mut rows = Vec::new();
    let mut matched = 0;
    let (take, descending) = match &view.sort {
        None => (Take::Nothing, false),
        Some((column, descending)) => (Take::Key(column.clone()), *descending),
    };
    each_piece(set, total, Looker::new(view, take), |found| {
        for (row, taken) in found {
            matched += 1;
            let Taken::Key(key) = taken else {
                rows.push(row);
                continue;
            };
            let placed = Placed { key, descending, row };
            if heap.len() < need {
                heap.push(placed);
            } else if heap.peek().is_some_and(|last| placed < *last) {
                heap.pop();
                heap.push(placed);
            }
        }
    })
    .await?;
    if view.sort.is_some() {
        rows = heap.into_sorted_vec().into_iter().map(|p| p.row).collect();
    }
    Ok(Order { rows, matched })
}

#[cfg(test)]
mod tests;
