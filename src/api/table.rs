//! Result sets as tables: pages of rows, filtered and sorted.

use std::cmp::Ordering;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};
use tonic::Status;
use velociraptor_proto::json::to_sparse_row;
use velociraptor_proto::proto::artifact_collector_context::State;
use velociraptor_proto::proto::{
    ArtifactCollectorContext, ColumnType, GetTableRequest, GetTableResponse, Row as ProtoRow,
};

use super::status::status;
use super::{Api, Caller};
use crate::services::acl::Permission;
use crate::services::flows::Rows;
use crate::services::tables::{Filter, HuntRows, Of, Set, View};

/// Rows of a page when the request does not say.
const PAGE: u64 = 2000;

/// A row: names to values in order.
type TableRow = Map<String, Value>;

impl Api {
    pub(super) async fn table(
        &self,
        caller: &Caller,
        r: GetTableRequest,
    ) -> Result<GetTableResponse, Status> {
        caller.require(Permission::ReadResults)?;
        if !r.hunt_id.is_empty() && matches!(r.r#type.as_str(), "" | "HUNT_RESULTS") {
            let set = self.hunt_set(caller, &r.hunt_id, &r.artifact).await?;
            return self.view_of(&set, &r).await;
        }
        if matches!(
            r.r#type.as_str(),
            "CLIENT_EVENT" | "SERVER_EVENT" | "CLIENT_EVENT_LOGS" | "SERVER_EVENT_LOGS"
        ) {
            return self.event_table(caller, &r).await;
        }
        if r.r#type == "NOTEBOOKS" {
            return self.notebook_table(caller, &r).await;
        }
        if !r.notebook_id.is_empty() && !r.cell_id.is_empty() {
            let table = match r.r#type.as_str() {
                "logs" => None,
                _ => Some(u32::try_from(r.table_id.max(1)).unwrap_or(u32::MAX)),
            };
            let cell = (r.cell_id.as_str(), r.cell_version.as_str());
            let set = self.cell_set(caller, &r.notebook_id, cell, table).await?;
            return self.view_of(&set, &r).await;
        }
        if r.client_id.is_empty() || (r.flow_id.is_empty() && r.r#type != "CLIENT_FLOWS") {
            let text = "this server answers for tables of a client's collections only";
            return Err(Status::unimplemented(text));
        }
        let which = match r.r#type.as_str() {
            "CLIENT_FLOWS" => return self.client_flows(caller, r).await,
            "" if !r.artifact.is_empty() => Some(Rows::Results(r.artifact.clone())),
            "log" => Some(Rows::Logs),
            "upload_transactions" => Some(Rows::Transactions),
            "uploads" => None,
            other => {
                return Err(Status::unimplemented(format!(
                    "tables of type `{other}` are not here"
                )));
            }
        };
        let (start, count) = page(&r);
        let Some(which) = which else {
            let found = self.server.upload_rows(&caller.org, &r.client_id, &r.flow_id).await;
            let all = found.map_err(|e| status(&e))?;
            let total = all.len() as u64;
            let whole = needs_all(&r);
            let all = all.into_iter().filter_map(|row| match row {
                Value::Object(row) => Some(row),
                _ => None,
            });
            let rows = match whole {
                true => all.collect(),
                false => all.skip(start as usize).take(count as usize).collect(),
            };
            return finish(rows, total, &r, whole);
        };
        let set = self.set(caller, &r.client_id, &r.flow_id, which);
        self.view_of(&set, &r).await
    }

    /// A page of a set as a stock request wants it: one filter, one order.
    pub(super) async fn view_of(
        &self,
        set: &Set,
        r: &GetTableRequest,
    ) -> Result<GetTableResponse, Status> {
        let (start, count) = page(r);
        let mut view = View::default();
        if !r.filter_regex.is_empty() {
            let filter = Filter::new(&r.filter_column, &r.filter_regex);
            view.filters.push(filter.map_err(|e| status(&e))?);
        }
        if !r.sort_column.is_empty() {
            // The flag named ascending by clients means descending.
            view.sort = Some((r.sort_column.clone(), r.sort_direction));
        }
        let page = self.views.page(set, &view, start, count).await.map_err(|e| status(&e))?;
        let rows = page.rows.iter().filter_map(|(_, l)| serde_json::from_slice(l).ok()).collect();
        Ok(align(rows, page.matched))
    }

    /// A result set for somebody who may read it.
    pub(super) fn set(&self, caller: &Caller, client: &str, flow: &str, which: Rows) -> Set {
        let (server, org) = (self.server.clone(), caller.org.clone());
        let of = Of::Flow { client: client.to_owned(), flow: flow.to_owned(), which };
        Set { server, org, of }
    }

    /// What all clients of a hunt have in one result set, for somebody who may read it;
    /// with no name the first that has a source.
    pub(super) async fn hunt_set(
        &self,
        caller: &Caller,
        hunt: &str,
        name: &str,
    ) -> Result<Set, Status> {
        let (server, org) = (self.server.clone(), caller.org.clone());
        let rows = HuntRows::find(&server, &org, hunt, name, &self.views.counted).await;
        let rows = rows.map_err(|e| status(&e))?;
        Ok(Set { server, org, of: Of::Hunt(rows.into()) })
    }

    pub(super) async fn client_flows(
        &self,
        caller: &Caller,
        r: GetTableRequest,
    ) -> Result<GetTableResponse, Status> {
        caller.require(Permission::ReadResults)?;
        let ids = self.server.flow_ids(&caller.org, &r.client_id).await.map_err(|e| status(&e))?;
        let mut r = r;
        if r.sort_column.is_empty() {
            (r.sort_column, r.sort_direction) = ("FlowId".into(), true);
        }
        // Ids are in the default order already: read only the page.
        let plain = r.filter_regex.is_empty() && r.sort_column == "FlowId" && r.sort_direction;
        let (start, count) = page(&r);
        let total = ids.len() as u64;
        let chosen: Vec<_> = match plain {
            true => ids.into_iter().skip(start as usize).take(count as usize).collect(),
            false => ids,
        };
        let mut rows = Vec::new();
        for id in chosen {
            let found = self.server.flow(&caller.org, &r.client_id, &id).await;
            if let Some(context) = found.map_err(|e| status(&e))? {
                rows.push(flow_row(context)?);
            }
        }
        let mut table = finish(rows, total, &r, !plain)?;
        table.column_types = column_types(&FLOW_TYPES);
        Ok(table)
    }
}

/// How stock pages show columns of the table of flows.
const FLOW_TYPES: [(&str, &str); 4] =
    [("Created", "timestamp"), ("Last Active", "timestamp"), ("Mb", "mb"), ("Rows", "number")];

/// Columns and what they hold.
pub(super) fn column_types(of: &[(&str, &str)]) -> Vec<ColumnType> {
    of.iter()
        .map(|(name, kind)| ColumnType {
            name: (*name).to_owned(),
            r#type: (*kind).to_owned(),
            ..ColumnType::default()
        })
        .collect()
}

pub(super) fn page(r: &GetTableRequest) -> (u64, u64) {
    (r.start_row, if r.rows == 0 { PAGE } else { r.rows })
}

pub(super) fn needs_all(r: &GetTableRequest) -> bool {
    !r.filter_regex.is_empty() || !r.sort_column.is_empty()
}

fn flow_row(mut context: ArtifactCollectorContext) -> Result<TableRow, Status> {
    let state = match context.state() {
        State::Unset => "UNSET",
        State::Running => "RUNNING",
        State::Waiting => "WAITING",
        State::InProgress => "IN_PROGRESS",
        State::Unresponsive => "UNRESPONSIVE",
        State::Finished => "FINISHED",
        State::Error => "ERROR",
    };
    context.previous_flows.clear();
    if let Some(request) = &mut context.request {
        request.compiled_collector_args.clear();
    }
    let flow = to_sparse_row(&context).map_err(|e| Status::unavailable(e.to_string()))?;
    let request = context.request.unwrap_or_default();
    let row = json!({
        "State": state,
        "FlowId": context.session_id,
        "Artifacts": request.artifacts,
        "Created": context.create_time,
        "Last Active": context.active_time,
        "Creator": request.creator,
        "Mb": context.total_uploaded_bytes,
        "Rows": context.total_collected_rows,
        "_Flow": flow,
        "_Urgent": request.urgent,
        "_ArtifactsWithResults": context.artifacts_with_results,
    });
    match row {
        Value::Object(row) => Ok(row),
        _ => Ok(TableRow::new()),
    }
}

/// Filters, sorts and cuts; `whole` says that `rows` is not just the page.
pub(super) fn finish(
    mut rows: Vec<TableRow>,
    mut total: u64,
    r: &GetTableRequest,
    whole: bool,
) -> Result<GetTableResponse, Status> {
    if !r.filter_regex.is_empty() {
        filter(&mut rows, &r.filter_column, &r.filter_regex)?;
        total = rows.len() as u64;
    }
    if whole {
        if !r.sort_column.is_empty() {
            // The flag named ascending by clients means descending.
            rows.sort_by(|a, b| compare(a.get(&r.sort_column), b.get(&r.sort_column)));
            if r.sort_direction {
                rows.reverse();
            }
        }
        let (start, count) = page(r);
        rows = rows.into_iter().skip(start as usize).take(count as usize).collect();
    }
    Ok(align(rows, total))
}

fn filter(rows: &mut Vec<TableRow>, column: &str, pattern: &str) -> Result<(), Status> {
    let (exclude, pattern) = match pattern.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let regex: Regex = RegexBuilder::new(pattern)
        .case_insensitive(true)
        .build()
        .map_err(|e| Status::invalid_argument(format!("filter: {e}")))?;
    rows.retain(|row| {
        let text = match row.get(column) {
            Some(Value::String(s)) => s.clone(),
            Some(v) => v.to_string(),
            None => String::new(),
        };
        regex.is_match(&text) != exclude
    });
    Ok(())
}

fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    let rank = |v: Option<&Value>| match v {
        None | Some(Value::Null) => 0,
        Some(Value::Bool(_)) => 1,
        Some(Value::Number(_)) => 2,
        Some(Value::String(_)) => 3,
        Some(_) => 4,
    };
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            let (a, b) = (a.as_f64(), b.as_f64());
            a.partial_cmp(&b).unwrap_or(Ordering::Equal)
        }
        (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => a.cmp(b),
        (Some(x), Some(y)) if rank(a) == rank(b) => x.to_string().cmp(&y.to_string()),
        _ => rank(a).cmp(&rank(b)),
    }
}

/// Rows as arrays; columns grow as new names appear.
pub(super) fn align(rows: Vec<TableRow>, total: u64) -> GetTableResponse {
    let mut columns: Vec<String> = Vec::new();
    let mut out = Vec::with_capacity(rows.len());
    for mut row in rows {
        for name in row.keys() {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        let cells: Vec<_> = columns.iter().map(|c| row.remove(c).unwrap_or(Value::Null)).collect();
        out.push(ProtoRow { json: Value::from(cells).to_string() });
    }
    GetTableResponse { columns, rows: out, total_rows: total as i64, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(texts: &[&str]) -> Vec<TableRow> {
        texts.iter().map(|t| serde_json::from_str(t).unwrap()).collect()
    }

    fn cells(t: &GetTableResponse) -> Vec<&str> {
        t.rows.iter().map(|r| r.json.as_str()).collect()
    }

    #[test]
    fn columns_grow() {
        let t = align(rows(&[r#"{"b":1,"a":2}"#, r#"{"a":3,"c":4}"#]), 2);
        assert_eq!(t.columns, ["b", "a", "c"]);
        assert_eq!(cells(&t), ["[1,2]", "[null,3,4]"]);
    }

    #[test]
    fn filters_then_sorts_then_cuts() {
        let all = [r#"{"n":2,"s":"Foo"}"#, r#"{"n":10,"s":"fool"}"#, r#"{"n":1,"s":"bar"}"#];
        let mut r = GetTableRequest {
            filter_column: "s".into(),
            filter_regex: "FOO".into(),
            sort_column: "n".into(),
            sort_direction: true,
            rows: 1,
            ..Default::default()
        };
        let t = finish(rows(&all), 3, &r, true).unwrap();
        assert_eq!((cells(&t), t.total_rows), (vec![r#"[10,"fool"]"#], 2));
        r.filter_regex = "!foo".into();
        assert_eq!(cells(&finish(rows(&all), 3, &r, true).unwrap()), [r#"[1,"bar"]"#]);
        r.filter_regex = "(".into();
        assert_eq!(
            finish(rows(&all), 3, &r, true).unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
    }
}
