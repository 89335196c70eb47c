//! Result sets for our own pages: several filters, row numbers, counted values.
//! Rows are passed on as they are stored.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use serde::de::IgnoredAny;
use serde_json::Value;
use tonic::Status;

use super::{Rest, failed, json, parameters};
use crate::api::Caller;
use crate::api::status::status;
use crate::services::acl::Permission;
use crate::services::events::EventKey;
use crate::services::flows::Rows;
use crate::services::tables::{Filter, Of, Set, View, columns, sets_of};

/// Rows of a page at most.
const MAX_PAGE: u64 = 1000;
/// Filters of a view at most.
const MAX_FILTERS: usize = 20;
/// Counted values that are given at most.
const MAX_VALUES: usize = 200;

/// What the address of a table says.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub client: String,
    pub flow: String,
    pub hunt: String,
    pub kind: String,
    /// Notebook, cell, version and number of a query; 0 is its log.
    pub cell: Option<(String, String, String, u32)>,
    /// Rows of the set before and after which there are none.
    pub section: Option<(u64, u64)>,
    pub name: String,
    pub day: String,
    pub start: u64,
    pub rows: u64,
    pub sort: String,
    pub filters: Vec<(String, String)>,
    pub column: String,
}

impl Asked {
    /// `f` is `column:pattern`, with `%` codes for `%` and `:` in the column.
    pub(super) fn read(request: &Request) -> Result<Self, Status> {
        let mut a = Self { rows: 100, ..Self::default() };
        let number = |k: &str, v: &str| {
            let bad = |_| Status::invalid_argument(format!("{k}: `{v}` is no number"));
            v.parse::<u64>().map_err(bad)
        };
        for (k, v) in parameters(request) {
            match k.as_str() {
                "client_id" => a.client = v,
                "flow_id" => a.flow = v,
                "hunt_id" => a.hunt = v,
                "kind" => a.kind = v,
                "notebook_id" => a.cell.get_or_insert_default().0 = v,
                "cell_id" => a.cell.get_or_insert_default().1 = v,
                "cell_version" => a.cell.get_or_insert_default().2 = v,
                "table_id" => {
                    let n = u32::try_from(number(&k, &v)?).unwrap_or(u32::MAX);
                    a.cell.get_or_insert_default().3 = n;
                }
                "name" => a.name = v,
                "day" => a.day = v,
                "column" => a.column = v,
                "sort" => a.sort = v,
                "section" => {
                    let (from, to) = v.split_once('-').unwrap_or((v.as_str(), ""));
                    a.section = Some((number(&k, from)?, number(&k, to)?));
                }
                "start" => a.start = number(&k, &v)?,
                "rows" => a.rows = number(&k, &v)?.min(MAX_PAGE),
                "f" => {
                    let (column, text) = v.split_once(':').ok_or_else(|| {
                        Status::invalid_argument(format!("f: `{v}` is not column:pattern"))
                    })?;
                    let column = column.replace("%3A", ":").replace("%25", "%");
                    a.filters.push((column, text.to_owned()));
                }
                _ => {}
            }
        }
        if a.filters.len() > MAX_FILTERS {
            let text = format!("more than {MAX_FILTERS} filters");
            return Err(Status::invalid_argument(text));
        }
        Ok(a)
    }

    pub(super) fn view(&self) -> Result<View, Status> {
        let filters = self.filters.iter().filter(|(_, t)| !t.is_empty() && t != "!");
        let filters = filters.map(|(c, t)| Filter::new(c, t)).collect::<Result<_, _>>();
        let sort = match self.sort.strip_prefix('-') {
            _ if self.sort.is_empty() => None,
            Some(column) => Some((column.to_owned(), true)),
            None => Some((self.sort.clone(), false)),
        };
        Ok(View { filters: filters.map_err(|e| status(&e))?, sort })
    }
}

pub(super) fn routes(rest: &Rest) -> Router {
    let (page, count, sets) = (rest.clone(), rest.clone(), rest.clone());
    Router::new()
        .route(
            "/fleet/hunt_sets",
            get(move |r: Request| async move {
                sets.hunt_sets(r).await.map_or_else(|e| failed(&e), json)
            }),
        )
        .route(
            "/fleet/table",
            get(move |r: Request| async move { page.page(r).await.map_or_else(|e| failed(&e), json) }),
        )
        .route(
            "/fleet/count",
            get(move |r: Request| async move { count.count(r).await.map_or_else(|e| failed(&e), json) }),
        )
}

impl Rest {
    /// The set that is asked for, if the caller may read results.
    pub(super) async fn asked_set(&self, caller: &Caller, a: &Asked) -> Result<Set, Status> {
        caller.require(Permission::ReadResults)?;
        if !a.hunt.is_empty() && matches!(a.kind.as_str(), "" | "results") {
            return self.api.hunt_set(caller, &a.hunt, &a.name).await;
        }
        if let Some((notebook, cell, version, table)) = &a.cell {
            let table = (*table > 0).then_some(*table);
            return self.api.cell_set(caller, notebook, (cell, version), table).await;
        }
        if matches!(a.kind.as_str(), "events" | "event_logs") {
            let key = EventKey {
                client: a.client.clone(),
                artifact: a.name.clone(),
                day: a.day.clone(),
                logs: a.kind == "event_logs",
            };
            let day = self.api.views.day(&self.api.server, &caller.org, &key).await;
            return day.map_err(|e| status(&e));
        }
        let which = match a.kind.as_str() {
            "" | "results" if !a.name.is_empty() => Rows::Results(a.name.clone()),
            "log" => Rows::Logs,
            "" | "results" => return Err(Status::invalid_argument("no result set is named")),
            other => return Err(Status::invalid_argument(format!("kind: `{other}` is not known"))),
        };
        let mut set = self.api.set(caller, &a.client, &a.flow, which);
        if let (Some((from, to)), Of::Flow { client, flow, which }) = (a.section, set.of.clone()) {
            set.of = Of::Section { client, flow, which, from, to };
        }
        Ok(set)
    }

    /// The result sets of a hunt, with their rows.
    async fn hunt_sets(&self, request: Request) -> Result<String, Status> {
        let caller = self.caller(&request).await?;
        caller.require(Permission::ReadResults)?;
        let asked = Asked::read(&request)?;
        let hunt = self.api.server.hunt(&caller.org, &asked.hunt, false);
        let hunt = hunt.ok_or_else(|| Status::not_found("Not Found"))?;
        let mut items = Vec::new();
        for name in sets_of(&caller.org, &hunt.artifacts) {
            let set = self.api.hunt_set(&caller, &asked.hunt, &name).await?;
            let rows = set.total().await.map_err(|e| status(&e))?;
            items.push(serde_json::json!({ "name": name, "rows": rows }));
        }
        Ok(serde_json::json!({ "items": items }).to_string())
    }

    async fn page(&self, request: Request) -> Result<String, Status> {
        let caller = self.caller(&request).await?;
        let asked = Asked::read(&request)?;
        let (set, view) = (self.asked_set(&caller, &asked).await?, asked.view()?);
        let began = tokio::time::Instant::now();
        let page = self.api.views.page(&set, &view, asked.start, asked.rows).await;
        let page = page.map_err(|e| status(&e))?;
        let mut names: Vec<String> = Vec::new();
        let mut rows = String::new();
        for (n, row) in &page.rows {
            for name in columns(row) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            // What is not JSON would break the whole answer.
            let whole = serde_json::from_slice::<IgnoredAny>(row).is_ok();
            let text = String::from_utf8_lossy(row);
            let text = match whole {
                true => text,
                false => Value::from(text).to_string().into(),
            };
            let comma = if rows.is_empty() { "" } else { "," };
            let _ = write!(rows, "{comma}{{\"n\":{n},\"row\":{text}}}");
        }
        Ok(format!(
            "{{\"columns\":{},\"rows\":[{rows}],\"total\":{},\"matched\":{},\"cut\":{},\"micros\":{}}}",
            Value::from(names),
            page.total,
            page.matched,
            matches!(&set.of, Of::Held(held) if held.cut),
            began.elapsed().as_micros()
        ))
    }

    async fn count(&self, request: Request) -> Result<String, Status> {
        let caller = self.caller(&request).await?;
        let asked = Asked::read(&request)?;
        let (set, view) = (self.asked_set(&caller, &asked).await?, asked.view()?);
        let counts = self.api.views.count(&set, &view, &asked.column, MAX_VALUES).await;
        let counts = counts.map_err(|e| status(&e))?;
        let values: Vec<Value> = (counts.values.into_iter())
            .map(|(value, rows)| serde_json::json!({ "value": value, "rows": rows }))
            .collect();
        let answer = serde_json::json!({
            "values": values,
            "distinct": counts.distinct,
            "rows": counts.rows,
            "uncounted": counts.uncounted,
        });
        Ok(answer.to_string())
    }
}
