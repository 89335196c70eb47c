//! GROUP BY: one bin per key, in the order keys are first seen.
//!
//! When the bins do not fit into memory, rows of further keys are put aside and
//! grouped in another pass over them: their keys were all first seen later.

use super::Aggregates;
use super::argument::list_value;
use super::compare::less;
use super::lazy_row::LazyRow;
use super::rows::later;
use super::select::Survivors;
use super::sorter::Sorter;
use crate::log::Level;
use crate::scope::{Layer, Scope};
use crate::spill::{self, Spill, Spilled, Writer};
use crate::stream::{RowStream, from_rows};
use crate::syntax::ast::{List, Select};
use crate::value::{Dict, Str, Value};
use futures::StreamExt;
use indexmap::IndexMap;
use std::sync::Arc;

/// Above this many bins rows come out sorted by key, as from a sort-based pass.
const MAX_BINS_IN_ORDER: usize = 30_000;
/// What a bin takes besides its key and row, in bytes, roughly.
const BIN: usize = 400;

struct Bin {
    aggregates: Arc<Aggregates>,
    last: Dict,
}

/// The bins of one pass.
struct Pass {
    select: Arc<Select>,
    key: Arc<List>,
    scope: Scope,
    spill: Option<Arc<Spill>>,
    bins: IndexMap<Str, Bin>,
    weight: usize,
    /// Rows for the next pass.
    aside: Option<Writer>,
}

impl Pass {
    async fn add(&mut self, row: Arc<LazyRow>) {
        let inner = row.scope().with_layer(Layer::Lazy(row.clone()));
        let key = list_value(&self.key, &inner).await.to_str();
        if !self.bins.contains_key(&key) {
            if let Some(spill) = self.spill.clone().filter(|s| self.weight > s.limit)
                && self.put_aside(&spill, row.raw()).await
            {
                return;
            }
            self.weight += BIN + key.as_bytes().len() + spill::weight(row.raw());
        }
        let raw = row.raw().clone();
        let bin = self
            .bins
            .entry(key)
            .or_insert_with(|| Bin { aggregates: Arc::default(), last: Dict::new() });
        let scope = row.scope().with_aggregates(bin.aggregates.clone());
        bin.last = LazyRow::new(&self.select, raw, scope).row().await;
    }

    /// Whether the row is kept for the next pass; else it stays in memory.
    async fn put_aside(&mut self, spill: &Spill, raw: &Value) -> bool {
        if self.aside.is_none() {
            match Writer::new(spill).await {
                Ok(writer) => self.aside = Some(writer),
                Err(e) => {
                    self.scope.log(Level::Warn, format!("Grouping goes on in memory: {e}"));
                    self.spill = None;
                }
            }
        }
        match &mut self.aside {
            Some(writer) => {
                writer.push(raw).await;
                true
            }
            None => false,
        }
    }
}

/// Bins that are whole.
enum Part {
    Memory(Vec<(Str, Dict)>),
    File(Spilled),
}

/// The last row of every bin.
pub(super) fn grouped(mut survivors: Survivors, key: Arc<List>) -> RowStream {
    later(async move {
        let (select, scope) = (survivors.select.clone(), survivors.scope.clone());
        let begin = || Pass {
            select: select.clone(),
            key: key.clone(),
            scope: scope.clone(),
            spill: scope.extension::<Spill>(),
            bins: IndexMap::new(),
            weight: 0,
            aside: None,
        };
        let mut pass = begin();
        while let Some(row) = survivors.next().await {
            pass.add(row).await;
        }
        let (mut parts, mut count) = (Vec::new(), 0);
        loop {
            count += pass.bins.len();
            let aside = pass.aside.take();
            parts.push(part(&mut pass, aside.is_some()).await);
            let Some(rows) = aside.map(|writer| writer.finish(&scope)) else { break };
            pass = begin();
            let mut rows = rows.stream(&scope, "GROUP BY");
            while let Some(raw) = rows.next().await {
                scope.charge_op().await;
                let base = scope.with_row(raw.clone());
                pass.add(LazyRow::new(&select, raw, base)).await;
            }
        }
        match (count > MAX_BINS_IN_ORDER, parts.len()) {
            (true, _) => by_key(parts, &scope).await,
            (false, 1) => match parts.pop() {
                Some(Part::Memory(bins)) => from_rows(bins.into_iter().map(|(_, row)| row.into())),
                Some(Part::File(_)) | None => from_rows([]),
            },
            (false, _) => in_order(parts, scope),
        }
    })
}

/// What a pass gave, out of memory when others follow.
async fn part(pass: &mut Pass, more: bool) -> Part {
    let bins = std::mem::take(&mut pass.bins).into_iter().map(|(key, bin)| (key, bin.last));
    let bins: Vec<(Str, Dict)> = bins.collect();
    let spill = pass.scope.extension::<Spill>().filter(|_| more);
    let Some(spill) = spill else { return Part::Memory(bins) };
    let write = async {
        let mut writer = Writer::new(&spill).await?;
        for (key, row) in &bins {
            let pair = vec![Value::Str(key.clone()), row.clone().into()];
            writer.push(&Value::list(pair)).await;
        }
        Ok::<_, String>(writer.finish(&pass.scope))
    };
    match write.await {
        Ok(file) => Part::File(file),
        Err(e) => {
            pass.scope.log(Level::Warn, format!("Groups stay in memory: {e}"));
            Part::Memory(bins)
        }
    }
}

/// Keys and rows of a part.
fn pairs(part: Part, scope: &Scope) -> RowStream {
    match part {
        Part::Memory(bins) => from_rows(
            bins.into_iter().map(|(key, row)| Value::list(vec![Value::Str(key), row.into()])),
        ),
        Part::File(rows) => rows.stream(scope, "GROUP BY"),
    }
}

fn split(pair: Value) -> Option<(Value, Value)> {
    let Value::List(pair) = pair else { return None };
    let mut pair = Arc::unwrap_or_clone(pair).into_iter();
    Some((pair.next()?, pair.next()?))
}

async fn by_key(parts: Vec<Part>, scope: &Scope) -> RowStream {
    let mut sorter = Sorter::new(scope, less);
    for part in parts {
        let mut rows = pairs(part, scope);
        while let Some(pair) = rows.next().await {
            if let Some((key, row)) = split(pair) {
                sorter.push((Some(key), row)).await;
            }
        }
    }
    sorter.finish().await
}

fn in_order(parts: Vec<Part>, scope: Scope) -> RowStream {
    let parts = futures::stream::iter(parts);
    let rows = parts.flat_map(move |part| pairs(part, &scope));
    Box::pin(rows.filter_map(|pair| async move { split(pair).map(|(_, row)| row) }))
}
