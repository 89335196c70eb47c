//! GROUP BY: one bin per key, in the order keys are first seen.

use super::Aggregates;
use super::argument::list_value;
use super::lazy_row::LazyRow;
use super::rows::later;
use super::select::Survivors;
use crate::scope::Layer;
use crate::stream::{RowStream, from_rows};
use crate::syntax::ast::List;
use crate::value::{Dict, Str, Value};
use indexmap::IndexMap;
use std::sync::Arc;

/// Above this many bins rows come out sorted by key, as from a sort-based pass.
const MAX_BINS_IN_ORDER: usize = 30_000;

struct Bin {
    aggregates: Arc<Aggregates>,
    last: Dict,
}

/// The last row of every bin.
pub(super) fn grouped(mut survivors: Survivors, key: Arc<List>) -> RowStream {
    later(async move {
        let mut bins: IndexMap<Str, Bin> = IndexMap::new();
        while let Some(row) = survivors.next().await {
            let raw = row.raw().clone();
            let inner = row.scope().with_layer(Layer::Lazy(row.clone()));
            let key = list_value(&key, &inner).await.to_str();
            let bin = bins
                .entry(key)
                .or_insert_with(|| Bin { aggregates: Arc::default(), last: Dict::new() });
            let scope = row.scope().with_aggregates(bin.aggregates.clone());
            bin.last = LazyRow::new(&survivors.select, raw, scope).row().await;
        }
        if bins.len() > MAX_BINS_IN_ORDER {
            bins.sort_keys();
        }
        from_rows(bins.into_values().map(|bin| Value::from(bin.last)))
    })
}
