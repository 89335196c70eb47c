//! The output columns of one row, evaluated when first needed.

use super::expr::evaluate;
use super::materialize::materialize;
use super::rows::{drain, query_rows};
use crate::query::Query;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::syntax::ast::{ColumnValue, Select};
use crate::value::{Dict, Key, Value};
use futures::StreamExt;
use std::sync::{Arc, OnceLock};

/// The columns of a SELECT over one source row.
pub(crate) struct LazyRow {
    select: Arc<Select>,
    raw: Value,
    scope: Scope,
    cells: Vec<OnceLock<Value>>,
}

impl LazyRow {
    /// `scope` is where the columns are evaluated; it has `raw` as a layer.
    pub(super) fn new(select: &Arc<Select>, raw: Value, scope: Scope) -> Arc<LazyRow> {
        let cells = select.columns.iter().map(|_| OnceLock::new()).collect();
        Arc::new(LazyRow { select: select.clone(), raw, scope, cells })
    }

    /// The source row.
    pub(super) fn raw(&self) -> &Value {
        &self.raw
    }

    /// Where the columns are evaluated.
    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// A named column, or the member a star shows under that name.
    pub(crate) fn find(&self, name: &str) -> Option<Result<usize, Value>> {
        let columns = self.select.columns.iter();
        let named = columns.clone().rposition(|c| *c.name == *name && c.value != ColumnValue::Star);
        if let Some(column) = named {
            return Some(Ok(column));
        }
        let star = columns.clone().any(|c| c.value == ColumnValue::Star);
        match &self.raw {
            Value::Dict(d) if star => d.get(name).cloned().map(Err),
            Value::Object(o) if star => o.member(name).map(Err),
            _ => None,
        }
    }

    /// The names of the columns.
    pub(crate) fn names(&self) -> Vec<Key> {
        self.select.columns.iter().map(|c| Key::from(c.name.clone())).collect()
    }

    /// The value of a column if it was evaluated.
    pub(crate) fn cached(&self, column: usize) -> Option<Value> {
        self.cells.get(column)?.get().cloned()
    }

    /// The value of a column.
    pub(crate) fn column(self: &Arc<Self>, column: usize) -> Reply {
        if let Some(value) = self.cached(column) {
            return Reply::Ready(value);
        }
        let this = self.clone();
        column_value(&self.select, column, &self.scope).map(move |value| {
            if let Some(cell) = this.cells.get(column) {
                let _ = cell.set(value.clone());
            }
            value
        })
    }

    /// The whole row.
    pub(super) fn row(self: &Arc<Self>) -> Reply<Dict> {
        let dict = Dict::with_capacity(self.select.columns.len());
        self.fill(dict, 0)
    }

    fn fill(self: &Arc<Self>, mut dict: Dict, mut column: usize) -> Reply<Dict> {
        while let Some(spec) = self.select.columns.get(column) {
            if spec.value == ColumnValue::Star {
                self.star(&mut dict, column == 0);
                column += 1;
                continue;
            }
            match self.column(column) {
                Reply::Ready(value) => dict.set(spec.name.clone(), value),
                Reply::Pending(future) => {
                    let this = self.clone();
                    return Reply::from_future(async move {
                        let value = future.await;
                        dict.set(this.select.columns[column].name.clone(), value);
                        this.fill(dict, column + 1).await
                    });
                }
            }
            column += 1;
        }
        Reply::Ready(dict)
    }

    /// A leading star gives all members, a later one does not override columns.
    fn star(&self, dict: &mut Dict, leading: bool) {
        if leading && let Value::Dict(raw) = &self.raw {
            *dict = Dict::clone(raw);
            return;
        }
        for (key, value) in self.raw.clone().into_row() {
            if !dict.contains(&key) {
                dict.set(key, value);
            }
        }
    }
}

fn column_value(select: &Select, column: usize, scope: &Scope) -> Reply {
    match &select.columns[column].value {
        ColumnValue::Star => Reply::Ready(Value::Null),
        ColumnValue::Expr(expr) => evaluate(expr, scope).then(scope, |scope, value| match value {
            Value::Query(_) => {
                let scope = scope.clone();
                Reply::from_future(async move { Value::list(drain(&value, &scope).await) })
            }
            other => materialize(other, scope),
        }),
        ColumnValue::Select(inner) => {
            let mut rows = query_rows(&Query::select(inner.clone()), scope);
            Reply::from_future(async move {
                let mut values = Vec::new();
                while let Some(row) = rows.next().await {
                    values.push(reduce(row));
                }
                match values.len() {
                    0 => Value::nil_list(),
                    1 => values.pop().unwrap_or_default(),
                    _ => Value::list(values),
                }
            })
        }
    }
}

/// A row of one column is that column's value.
fn reduce(row: Value) -> Value {
    match &row {
        Value::Dict(d) if d.len() == 1 => d.values().next().cloned().unwrap_or_default(),
        _ => row,
    }
}
