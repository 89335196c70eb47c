//! flatten(): one row per combination of the elements of list columns.

use crate::args::plain_list;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::{Dict, Value};
use futures::StreamExt;

pub(super) fn register(registry: &mut Registry) {
    let flatten = Signature::new("flatten", "Expands list columns, the last one outermost.")
        .required("query", ArgType::Query, "The rows.");
    registry.plugin_async(flatten, |scope, args, emitter| async move {
        let mut rows = args.rows("query");
        while let Some(row) = rows.next().await {
            let row = row.into_row();
            let row: Dict = row.iter().map(|(k, v)| (k, plain_list(v))).collect();
            let mut wheel = Wheel::new(&row);
            loop {
                scope.charge_op().await;
                emitter.send(wheel.row(&row)).await?;
                if !wheel.advance() {
                    break;
                }
            }
        }
        Ok(())
    });
}

/// Counts through all combinations; the first column turns fastest.
struct Wheel {
    positions: Vec<(usize, usize)>,
}

impl Wheel {
    fn new(row: &Dict) -> Wheel {
        let len = |v: &Value| v.as_list().map_or(1, |items| items.len().max(1));
        Wheel { positions: row.values().map(|v| (0, len(v))).collect() }
    }

    fn row(&self, row: &Dict) -> Dict {
        let columns = row.iter().zip(&self.positions);
        let cells = columns.map(|((key, value), (at, _))| {
            let element = value.as_list().and_then(|items| items.get(*at));
            (key, element.unwrap_or(value).clone())
        });
        cells.collect()
    }

    fn advance(&mut self) -> bool {
        for (at, len) in &mut self.positions {
            *at += 1;
            if at < len {
                return true;
            }
            *at = 0;
        }
        false
    }
}
