//! The process tracker's callables, answered from the processes of this moment:
//! processes that have ended are not remembered.

use std::collections::BTreeMap;

use vql::{ArgType, Dict, Error, Registry, Scope, Signature, Value};

use super::pslist::processes;
use crate::plugins::common::{blocking, host};

/// Longest chain of parents.
const CHAIN: usize = 10;

type Table = BTreeMap<String, Dict>;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let list = Signature::new("process_tracker_pslist", "The processes of the host.");
    registry.plugin_async(list, |scope, _args, emitter| async move {
        let host = host(&scope);
        for row in blocking(&scope, move || processes(&host, None)).await? {
            scope.charge_op().await;
            emitter.send(row.with("EndTime", Value::Null)).await?;
        }
        Ok(())
    });
    let by_id = |name, doc| {
        Signature::new(name, doc).required("id", ArgType::Any, "The process id.").arg(
            "max_items",
            ArgType::Int,
            "Most items.",
        )
    };
    registry.function_async(
        by_id("process_tracker_get", "A process by its id."),
        |scope, args| async move {
            let all = table(&scope).await?;
            let id = args.any("id").to_text();
            Ok(all.get(&id).map_or(Value::Null, |row| entry(&id, row, &all).into()))
        },
    );
    registry.function_async(
        by_id("process_tracker_callchain", "A process and its parents."),
        |scope, args| async move {
            let all = table(&scope).await?;
            let most = usize::try_from(args.int("max_items")?).ok().filter(|n| *n > 0);
            let mut out = Vec::new();
            let mut id = args.any("id").to_text();
            while let Some(row) = all.get(&id).filter(|_| out.len() < most.unwrap_or(CHAIN)) {
                out.push(Value::from(entry(&id, row, &all)));
                id = text(row, "Ppid");
            }
            Ok(Value::list(out))
        },
    );
    registry.function_async(
        by_id("process_tracker_children", "The processes a process has started."),
        |scope, args| async move {
            let all = table(&scope).await?;
            let id = args.any("id").to_text();
            let children = all.iter().filter(|(_, row)| text(row, "Ppid") == id);
            Ok(children.map(|(id, row)| Value::from(entry(id, row, &all))).collect())
        },
    );
}

async fn table(scope: &Scope) -> Result<Table, Error> {
    let host = host(scope);
    let rows = blocking(scope, move || processes(&host, None)).await?;
    Ok(rows.into_iter().map(|row| (text(&row, "Pid"), row)).collect())
}

fn text(row: &Dict, name: &str) -> String {
    row.get(name).map(Value::to_text).unwrap_or_default()
}

fn entry(id: &str, row: &Dict, all: &Table) -> Dict {
    let children = all.iter().filter(|(_, r)| text(r, "Ppid") == id);
    Dict::new()
        .with("Id", id)
        .with("ParentId", text(row, "Ppid"))
        .with("RealId", "")
        .with("StartTime", row.get("CreateTime").cloned().unwrap_or_default())
        .with("EndTime", Value::Null)
        .with("Data", row.clone())
        .with("Children", children.map(|(id, _)| id.as_str()).collect::<Value>())
}
