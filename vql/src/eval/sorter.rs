//! Sorting of more rows than fit into memory: what is held is sorted and put
//! aside as a run, and the runs are merged. The result is that of sorting all
//! at once, for any order that is one.

use crate::scope::Scope;
use crate::spill::{self, Reader, Spill, Spilled, Writer};
use crate::stream::{RowStream, from_rows};
use crate::value::Value;
use futures::future::BoxFuture;
use std::sync::Arc;

/// Runs merged at a time.
const FAN_IN: usize = 64;
/// Rows sorted or merged between two voluntary yields.
const YIELD_EVERY: usize = 2048;

/// A row and what it is sorted by; without that it stays where it is.
pub(super) type Keyed = (Option<Value>, Value);

/// Whether the first of two keys comes before the second.
pub(super) type Before = fn(&Value, &Value) -> bool;

fn moves(later: &Keyed, earlier: &Keyed, before: Before) -> bool {
    matches!((&later.0, &earlier.0), (Some(a), Some(b)) if before(a, b))
}

/// Takes rows and gives them back sorted.
pub(super) struct Sorter {
    scope: Scope,
    before: Before,
    spill: Option<Arc<Spill>>,
    held: Vec<Keyed>,
    weight: usize,
    runs: Vec<Spilled>,
}

impl Sorter {
    pub(super) fn new(scope: &Scope, before: Before) -> Sorter {
        let spill = scope.extension::<Spill>();
        Sorter {
            scope: scope.clone(),
            before,
            spill,
            held: Vec::new(),
            weight: 0,
            runs: Vec::new(),
        }
    }

    pub(super) async fn push(&mut self, row: Keyed) {
        if let Some(spill) = &self.spill {
            self.weight += spill::weight(&row.1);
            if self.weight > spill.limit && !self.held.is_empty() {
                self.put_aside(spill.clone()).await;
            }
        }
        self.held.push(row);
    }

    async fn put_aside(&mut self, spill: Arc<Spill>) {
        let rows = sort(std::mem::take(&mut self.held), self.before).await;
        match write(&spill, &rows, &self.scope).await {
            Ok(run) => {
                self.runs.push(run);
                self.weight = 0;
            }
            Err(e) => {
                // They stay where they are, sorted, which does no harm.
                let text = format!("Sorting goes on in memory: {e}");
                self.scope.log(crate::Level::Warn, text);
                self.held = rows;
                self.spill = None;
            }
        }
    }

    /// All rows in order.
    pub(super) async fn finish(mut self) -> RowStream {
        let held = sort(std::mem::take(&mut self.held), self.before).await;
        if self.runs.is_empty() {
            return from_rows(held.into_iter().map(|(_, row)| row));
        }
        let mut runs = std::mem::take(&mut self.runs);
        while let Some(spill) = self.spill.clone().filter(|_| runs.len() > FAN_IN) {
            let mut merged = Vec::new();
            for some in runs.chunks(FAN_IN) {
                let heads = some.iter().map(|run| Run::File(run.reader())).collect();
                let merge = Merge::new(heads, self.before, self.scope.clone());
                match merge.into_one(&spill).await {
                    Ok(run) => merged.push(run),
                    Err(e) => spill::lost(&self.scope, "ORDER BY", &e),
                }
            }
            runs = merged;
        }
        let mut all: Vec<Run> = runs.iter().map(|run| Run::File(run.reader())).collect();
        all.push(Run::Memory(held.into_iter()));
        let merge = Merge::new(all, self.before, self.scope);
        Box::pin(futures::stream::unfold(merge, |mut merge| async move {
            let (_, row) = merge.next().await?;
            Some((row, merge))
        }))
    }
}

async fn write(spill: &Spill, rows: &[Keyed], scope: &Scope) -> Result<Spilled, String> {
    let mut writer = Writer::new(spill).await?;
    for row in rows {
        writer.push(&as_value(row)).await;
    }
    Ok(writer.finish(scope))
}

/// A key and a row as one value, and back.
fn as_value((key, row): &Keyed) -> Value {
    match key {
        Some(key) => Value::list(vec![row.clone(), key.clone()]),
        None => Value::list(vec![row.clone()]),
    }
}

fn from_value(value: Value) -> Option<Keyed> {
    let Value::List(items) = value else { return None };
    let mut items = Arc::unwrap_or_clone(items).into_iter();
    let row = items.next()?;
    Some((items.next(), row))
}

enum Run {
    File(Reader),
    Memory(std::vec::IntoIter<Keyed>),
}

impl Run {
    async fn next(&mut self) -> Result<Option<Keyed>, String> {
        match self {
            Run::Memory(rows) => Ok(rows.next()),
            Run::File(reader) => Ok(reader.next().await?.and_then(from_value)),
        }
    }
}

/// Runs being merged, earlier ones first.
struct Merge {
    runs: Vec<(Option<Keyed>, Run)>,
    begun: bool,
    before: Before,
    scope: Scope,
}

impl Merge {
    fn new(runs: Vec<Run>, before: Before, scope: Scope) -> Merge {
        let runs = runs.into_iter().map(|run| (None, run)).collect();
        Merge { runs, begun: false, before, scope }
    }

    async fn advance(&mut self, run: usize) -> Option<Keyed> {
        let (head, rows) = self.runs.get_mut(run)?;
        let next = match rows.next().await {
            Ok(next) => next,
            Err(e) => {
                spill::lost(&self.scope, "ORDER BY", &e);
                None
            }
        };
        std::mem::replace(head, next)
    }

    async fn next(&mut self) -> Option<Keyed> {
        if !self.begun {
            self.begun = true;
            for run in 0..self.runs.len() {
                self.advance(run).await;
            }
        }
        let mut best: Option<(usize, &Keyed)> = None;
        for (i, (head, _)) in self.runs.iter().enumerate() {
            let Some(head) = head else { continue };
            if best.is_none_or(|(_, b)| moves(head, b, self.before)) {
                best = Some((i, head));
            }
        }
        let run = best.map(|(i, _)| i)?;
        self.advance(run).await
    }

    async fn into_one(mut self, spill: &Spill) -> Result<Spilled, String> {
        let mut writer = Writer::new(spill).await?;
        let mut count = 0usize;
        while let Some(row) = self.next().await {
            writer.push(&as_value(&row)).await;
            count += 1;
            if count.is_multiple_of(YIELD_EVERY) {
                tokio::task::yield_now().await;
            }
        }
        Ok(writer.finish(&self.scope))
    }
}

/// Few rows are sorted by insertion, which decides what an inconsistent order
/// gives; more by merging.
async fn sort(mut rows: Vec<Keyed>, before: Before) -> Vec<Keyed> {
    const FEW: usize = 12;
    if rows.len() > FEW {
        return merge_sort(rows, before).await;
    }
    for i in 1..rows.len() {
        let mut at = i;
        while at > 0 && moves(&rows[at], &rows[at - 1], before) {
            rows.swap(at, at - 1);
            at -= 1;
        }
    }
    rows
}

/// Sorts in pieces, so that others may run in between.
fn merge_sort(mut rows: Vec<Keyed>, before: Before) -> BoxFuture<'static, Vec<Keyed>> {
    Box::pin(async move {
        if rows.len() <= YIELD_EVERY {
            return merge_sort_now(rows, before);
        }
        let right = rows.split_off(rows.len() / 2);
        let left = merge_sort(rows, before).await;
        let right = merge_sort(right, before).await;
        tokio::task::yield_now().await;
        let mut out = Vec::with_capacity(left.len() + right.len());
        let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
        while let Some(row) = merged(&mut left, &mut right, before) {
            out.push(row);
            if out.len().is_multiple_of(YIELD_EVERY) {
                tokio::task::yield_now().await;
            }
        }
        out
    })
}

fn merge_sort_now(mut rows: Vec<Keyed>, before: Before) -> Vec<Keyed> {
    if rows.len() < 2 {
        return rows;
    }
    let right = rows.split_off(rows.len() / 2);
    let mut left = merge_sort_now(rows, before).into_iter().peekable();
    let mut right = merge_sort_now(right, before).into_iter().peekable();
    let mut out = Vec::with_capacity(left.len() + right.len());
    while let Some(row) = merged(&mut left, &mut right, before) {
        out.push(row);
    }
    out
}

type Rows = std::iter::Peekable<std::vec::IntoIter<Keyed>>;

/// The next of two sorted lists. A later row goes before an earlier one only
/// when `before` says so.
fn merged(left: &mut Rows, right: &mut Rows, before: Before) -> Option<Keyed> {
    match (left.peek(), right.peek()) {
        (Some(l), Some(r)) if moves(r, l, before) => right.next(),
        (Some(_), _) => left.next(),
        (None, _) => right.next(),
    }
}
