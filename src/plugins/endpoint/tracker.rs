//! The process tracker's callables, answered from the processes of this moment:
//! processes that have ended are not remembered.

use std::collections::BTreeMap;

use vql::{ArgType, Dict, Error, Registry, Scope, Signature, Time, Value};

use super::pslist::processes;
use crate::plugins::common::{blocking, host};

/// Longest chain of parents.
const CHAIN: usize = 10;

/// Most nodes of a tree.
const TREE: usize = 10_000;
/// Deepest tree.
const DEPTH: usize = 200;

/// The first second of the year 1, in seconds since 1970.
const BEFORE_ALL: i64 = -62_135_596_800;

type Table = BTreeMap<String, Dict>;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let list = Signature::new("process_tracker_pslist", "The processes of the host.");
    registry.plugin_async(list, |scope, _args, emitter| async move {
        let host = host(&scope);
        for row in blocking(&scope, move || processes(&host, None)).await? {
            scope.charge_op().await;
            emitter.send(tracked(row)).await?;
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
    let tree = Signature::new("process_tracker_tree", "The tree of processes below one.")
        .arg("id", ArgType::Any, "The process id; without one all trees.")
        .arg("data_callback", ArgType::Lambda, "What each node tells of its process.")
        .arg("max_items", ArgType::Int, "Most nodes.")
        .version(2);
    registry.function_async(tree, |scope, args| async move {
        let all = table(&scope).await?;
        let lambda = args.lambda("data_callback")?;
        let mut data = BTreeMap::new();
        for (id, row) in &all {
            let told = match &lambda {
                Some(l) => vql::call_lambda(l, &scope, vec![entry(id, row, &all).into()]).await,
                None => row.clone().into(),
            };
            data.insert(id.clone(), told);
        }
        let most = usize::try_from(args.int("max_items")?).ok().filter(|n| *n > 0);
        let mut left = most.unwrap_or(TREE);
        let id = args.any("id").to_text();
        if args.has("id") && all.contains_key(&id) {
            return Ok(node(&id, &all, &data, &mut left, 0));
        }
        let roots = all.iter().filter(|(_, row)| !all.contains_key(&text(row, "Ppid")));
        let roots: Vec<_> = roots.map(|(id, _)| node(id, &all, &data, &mut left, 0)).collect();
        Ok(Dict::new().with("id", "").with("name", "").with("children", roots).into())
    });
}

/// A process and those below it.
fn node(
    id: &str,
    all: &Table,
    data: &BTreeMap<String, Value>,
    left: &mut usize,
    depth: usize,
) -> Value {
    *left = left.saturating_sub(1);
    let row = all.get(id).cloned().unwrap_or_default();
    let mut out = Dict::new()
        .with("name", text(&row, "Name"))
        .with("id", id)
        .with("start_time", row.get("CreateTime").cloned().unwrap_or_default())
        .with("end_time", Value::Null)
        .with("data", data.get(id).cloned().unwrap_or_default());
    let below = all.iter().filter(|(other, r)| text(r, "Ppid") == id && other.as_str() != id);
    let mut children = Vec::new();
    for (child, _) in below {
        if *left == 0 || depth >= DEPTH {
            break;
        }
        children.push(node(child, all, data, left, depth + 1));
    }
    if !children.is_empty() {
        out.set("children", children);
    }
    out.into()
}

async fn table(scope: &Scope) -> Result<Table, Error> {
    let host = host(scope);
    let rows = blocking(scope, move || processes(&host, None)).await?;
    Ok(rows.into_iter().map(|row| (text(&row, "Pid"), tracked(row))).collect())
}

/// A tracker knows processes by ids, which are texts, and when they began and ended.
fn tracked(mut row: Dict) -> Dict {
    for name in ["Pid", "Ppid"] {
        let id = text(&row, name);
        row.update(name, id);
    }
    let start = row.get("CreateTime").cloned().unwrap_or_default();
    row.with("StartTime", start).with("EndTime", not_yet())
}

/// The end of what still runs: the time that other programs have for none.
fn not_yet() -> Value {
    Time::from_second(BEFORE_ALL).map_or(Value::Null, Value::Time)
}

fn text(row: &Dict, name: &str) -> String {
    row.get(name).map(Value::to_text).unwrap_or_default()
}

fn entry(id: &str, row: &Dict, all: &Table) -> Dict {
    let children = all.iter().filter(|(_, r)| text(r, "Ppid") == id);
    Dict::new()
        .with("Id", id)
        .with("ParentId", text(row, "Ppid"))
        .with("StartTime", row.get("CreateTime").cloned().unwrap_or_default())
        .with("EndTime", not_yet())
        .with("Data", row.clone())
        .with("Children", children.map(|(id, _)| id.as_str()).collect::<Value>())
}
