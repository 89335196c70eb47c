//! ORDER BY: sorting by `<`, which is not a total order.

use super::compare::less;
use super::rows::later;
use crate::log::Level;
use crate::scope::Scope;
use crate::stream::{RowStream, from_rows};
use crate::syntax::ast::OrderBy;
use crate::value::Value;
use futures::StreamExt;

/// All rows, sorted.
pub(super) fn ordered(rows: RowStream, order: OrderBy, scope: Scope) -> RowStream {
    later(async move {
        let column = &order.column.name;
        let rows: Vec<Value> = rows.collect().await;
        let mut missing = false;
        let mut keyed: Vec<Keyed> = Vec::with_capacity(rows.len());
        for row in rows {
            let found = row.as_dict().and_then(|d| d.get(column)).cloned();
            missing |= found.is_none();
            // NULL sorts as the empty string.
            let key = found.map(|v| if v.is_null() { Value::from("") } else { v });
            keyed.push((key, row));
        }
        if missing {
            let message = format!("Order by column {column} not present in row");
            scope.log(Level::Warn, message);
        }
        let keyed = match order.descending {
            // Rows with equal keys come out reversed.
            true => sort(keyed, &|a, b| !less(a, b)),
            false => sort(keyed, &|a, b| less(a, b)),
        };
        from_rows(keyed.into_iter().map(|(_, row)| row))
    })
}

/// A row and what it is sorted by; without that it stays where it is.
type Keyed = (Option<Value>, Value);

fn moves(later: &Keyed, earlier: &Keyed, before: Before<'_>) -> bool {
    matches!((&later.0, &earlier.0), (Some(a), Some(b)) if before(a, b))
}

type Before<'a> = &'a dyn Fn(&Value, &Value) -> bool;

/// Few rows are sorted by insertion, which decides what an inconsistent order
/// gives; more by merging.
fn sort(mut rows: Vec<Keyed>, before: Before<'_>) -> Vec<Keyed> {
    const FEW: usize = 12;
    if rows.len() > FEW {
        return merge_sort(rows, before);
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

/// Moves a later row before an earlier one only when `before` says so.
fn merge_sort(mut rows: Vec<Keyed>, before: Before<'_>) -> Vec<Keyed> {
    if rows.len() < 2 {
        return rows;
    }
    let right = rows.split_off(rows.len() / 2);
    let mut left = merge_sort(rows, before).into_iter().peekable();
    let mut right = merge_sort(right, before).into_iter().peekable();
    let mut out = Vec::with_capacity(left.len() + right.len());
    loop {
        let take_right = match (left.peek(), right.peek()) {
            (Some(l), Some(r)) => moves(r, l, before),
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (None, None) => return out,
        };
        out.extend(if take_right { right.next() } else { left.next() });
    }
}
