//! ORDER BY: sorting by `<`, which is not a total order.

use super::compare::less;
use super::rows::later;
use super::sorter::Sorter;
use crate::log::Level;
use crate::scope::Scope;
use crate::stream::RowStream;
use crate::syntax::ast::OrderBy;
use crate::value::Value;
use futures::StreamExt;

/// All rows, sorted.
pub(super) fn ordered(mut rows: RowStream, order: OrderBy, scope: Scope) -> RowStream {
    later(async move {
        let column = &order.column.name;
        let mut missing = false;
        let mut sorter = Sorter::new(
            &scope,
            match order.descending {
                // Rows with equal keys come out reversed.
                true => |a, b| !less(a, b),
                false => less,
            },
        );
        while let Some(row) = rows.next().await {
            let found = row.as_dict().and_then(|d| d.get(column)).cloned();
            missing |= found.is_none();
            // NULL sorts as the empty string.
            let key = found.map(|v| if v.is_null() { Value::from("") } else { v });
            sorter.push((key, row)).await;
        }
        if missing {
            let message = format!("Order by column {column} not present in row");
            scope.log(Level::Default, message);
        }
        sorter.finish().await
    })
}
