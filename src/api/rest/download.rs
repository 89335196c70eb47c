//! Files to take away: result sets as CSV or JSON lines, and uploaded files.

use std::collections::BTreeSet;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::stream;
use serde_json::{Map, Value, json};
use tonic::Status;
use velociraptor_proto::proto::GetTableRequest;

use super::table::Asked;
use super::{Rest, attachment, failed, parameters};
use crate::api::Caller;
use crate::api::status::{status, store};
use crate::services::audit::audit;
use crate::services::tables::{Set, columns};
use crate::store::uploads::{Holes, Upload};

/// Rows read at once.
const CHUNK: u64 = 4096;

pub(super) fn routes(rest: &Rest) -> Router {
    let (table, stock, file) = (rest.clone(), rest.clone(), rest.clone());
    Router::new()
        .route(
            "/fleet/export",
            get(move |r: Request| async move {
                table.export(r).await.unwrap_or_else(|e| failed(&e))
            }),
        )
        .route(
            "/v1/DownloadTable",
            get(move |r: Request| async move {
                stock.stock_export(r).await.unwrap_or_else(|e| failed(&e))
            }),
        )
        .route(
            "/v1/DownloadVFSFile",
            get(move |r: Request| async move { file.file(r).await.unwrap_or_else(|e| failed(&e)) }),
        )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Jsonl,
}

impl Format {
    fn of(text: &str) -> Result<Self, Status> {
        match text {
            "csv" => Ok(Self::Csv),
            "json" | "jsonl" | "" => Ok(Self::Jsonl),
            other => Err(Status::invalid_argument(format!("download_format: `{other}`"))),
        }
    }
}

/// Rows still to be sent: those of these numbers, or all.
struct Export {
    set: Set,
    numbers: Option<std::sync::Arc<crate::services::tables::Order>>,
    at: u64,
    total: u64,
    columns: Option<Vec<String>>,
    head: bool,
}

impl Rest {
    async fn export(&self, request: Request) -> Result<Response, Status> {
        let caller = self.caller(&request).await?;
        let asked = Asked::read(&request)?;
        let format = parameters(&request).into_iter().find(|(k, _)| k == "download_format");
        let format = Format::of(&format.map(|f| f.1).unwrap_or_default())?;
        self.send(&caller, &asked, format, String::new()).await
    }

    /// As stock pages ask: one filter.
    async fn stock_export(&self, request: Request) -> Result<Response, Status> {
        let caller = self.caller(&request).await?;
        let pairs = parameters(&request);
        let pairs = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let r: GetTableRequest = velociraptor_proto::gateway::from_query(pairs)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let mut asked = Asked {
            client: r.client_id,
            flow: r.flow_id,
            hunt: r.hunt_id,
            kind: r.r#type,
            name: r.artifact,
            cell: (!r.notebook_id.is_empty()).then(|| {
                let number = u32::try_from(r.table_id.max(0)).unwrap_or(u32::MAX);
                (r.notebook_id, r.cell_id, r.cell_version, number)
            }),
            ..Asked::default()
        };
        if !r.filter_regex.is_empty() {
            asked.filters.push((r.filter_column, r.filter_regex));
        }
        if !r.sort_column.is_empty() {
            let sign = if r.sort_direction { "-" } else { "" };
            asked.sort = format!("{sign}{}", r.sort_column);
        }
        let format = Format::of(&r.download_format)?;
        self.send(&caller, &asked, format, r.download_filename).await
    }

    async fn send(
        &self,
        caller: &Caller,
        asked: &Asked,
        format: Format,
        name: String,
    ) -> Result<Response, Status> {
        let (set, view) = (self.asked_set(caller, asked).await?, asked.view()?);
        let total = set.total().await.map_err(|e| status(&e))?;
        let mut numbers = None;
        if !view.is_plain() {
            // A sorted view is kept only as far as it is shown: ask for all.
            let order = self.api.views.order(&set, &view, total).await;
            numbers = Some(order.map_err(|e| status(&e))?);
        }
        let details = json!({
            "client_id": asked.client, "flow_id": asked.flow, "hunt_id": asked.hunt,
            "name": asked.name, "kind": asked.kind,
        });
        audit(&self.api.server, &caller.org, &caller.name, "ExportTable", details).await;
        let ending = if format == Format::Csv { "csv" } else { "jsonl" };
        let kind = if asked.name.is_empty() { &asked.kind } else { &asked.name };
        let name = match name.as_str() {
            "" if !asked.hunt.is_empty() => format!("{}-{kind}.{ending}", asked.hunt),
            "" => format!("{}-{}-{kind}.{ending}", asked.client, asked.flow),
            given => given.to_owned(),
        };
        let total = numbers.as_ref().map_or(total, |n| n.rows.len() as u64);
        let mut rest = Export { set, numbers, at: 0, total, columns: None, head: false };
        if format == Format::Csv {
            rest.columns = Some(rest.all_columns().await?);
            rest.head = true;
        }
        let body = Body::from_stream(stream::try_unfold(rest, |mut rest| async move {
            let piece = rest.next().await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(piece.map(|p| (p, rest)))
        }));
        let kind = match format {
            Format::Csv => "text/csv; charset=utf-8",
            Format::Jsonl => "application/jsonl; charset=utf-8",
        };
        Ok((attachment(&name), [(header::CONTENT_TYPE, kind)], body).into_response())
    }

    async fn file(&self, request: Request) -> Result<Response, Status> {
        let caller = self.caller(&request).await?;
        let (mut client, mut components, mut vfs_path) = (String::new(), Vec::new(), String::new());
        let (mut offset, mut length, mut padded) = (0u64, 0u64, true);
        for (k, v) in parameters(&request) {
            let number =
                || v.parse().map_err(|_| Status::invalid_argument(format!("{k}: no number")));
            match k.trim_end_matches("[]") {
                "client_id" => client = v,
                "fs_components" => components.push(v),
                "vfs_path" => vfs_path = v,
                "offset" => offset = number()?,
                "length" => length = number()?,
                "padding" => padded = v != "false",
                _ => {}
            }
        }
        if components.is_empty() {
            components = vfs_path.split('/').map(str::to_owned).collect();
        }
        // Components of an upload say whose it is.
        if components.iter().find(|c| !c.is_empty()).is_some_and(|c| c == "clients") {
            client.clear();
        }
        let file = self.api.open_file(&caller, (&client, &components)).await?;
        let holes = if padded { Holes::Padded } else { Holes::Skipped };
        let size = file.size(holes).map_err(store)?;
        if length == 0 && offset == 0 {
            let details = json!({ "components": components });
            audit(&self.api.server, &caller.org, &caller.name, "DownloadFile", details).await;
        }
        let end = if length == 0 { size } else { offset.saturating_add(length).min(size) };
        let last = components.last().map_or("file", String::as_str);
        let mut name = last.rsplit(['/', '\\']).next().unwrap_or("file").to_owned();
        if let Some((_, v)) = parameters(&request).into_iter().find(|(k, _)| k == "name") {
            name = v.rsplit(['/', '\\']).next().unwrap_or("file").to_owned();
        }
        let mut headers = attachment(&name);
        headers.insert("x-file-size", size.into());
        headers.insert(header::CONTENT_LENGTH, end.saturating_sub(offset).into());
        // Never a type that a browser would open.
        let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
        let body =
            Body::from_stream(stream::try_unfold((file, offset), move |(file, at)| async move {
                piece(&file, holes, at, end).await.map(|p| p.map(|(d, to)| (d, (file, to))))
            }));
        Ok((headers, kind, body).into_response())
    }
}

async fn piece(
    file: &Upload,
    holes: Holes,
    at: u64,
    end: u64,
) -> Result<Option<(Bytes, u64)>, std::io::Error> {
    if at >= end {
        return Ok(None);
    }
    let Some(data) = file.piece(holes, at).await.map_err(std::io::Error::other)? else {
        return Ok(None);
    };
    let left = usize::try_from(end - at).unwrap_or(usize::MAX);
    let data = data.slice(..data.len().min(left));
    let to = at + data.len() as u64;
    Ok(Some((data, to)))
}

impl Export {
    async fn rows(&self, at: u64) -> Result<Vec<Bytes>, Status> {
        let count = CHUNK.min(self.total.saturating_sub(at));
        let rows = match &self.numbers {
            None => self.set.rows(at, count).await,
            Some(order) => self.set.chosen(&order.rows[at as usize..(at + count) as usize]).await,
        };
        rows.map_err(|e| status(&e))
    }

    /// Every column that occurs: a table has one head.
    async fn all_columns(&self) -> Result<Vec<String>, Status> {
        let (mut out, mut seen) = (Vec::new(), BTreeSet::new());
        let mut at = 0;
        while at < self.total {
            let rows = self.rows(at).await?;
            if rows.is_empty() {
                break;
            }
            at += rows.len() as u64;
            for name in rows.iter().flat_map(|r| columns(r)) {
                if seen.insert(name.clone()) {
                    out.push(name);
                }
            }
        }
        Ok(out)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let mut out = Vec::new();
        if let Some(columns) = self.columns.as_ref().filter(|_| self.head) {
            csv_line(&mut out, columns.iter().map(|c| guarded(c)));
        }
        self.head = false;
        let rows = self.rows(self.at).await?;
        self.at += rows.len() as u64;
        for row in &rows {
            match &self.columns {
                None => {
                    out.extend_from_slice(row);
                    out.push(b'\n');
                }
                Some(columns) => {
                    let row: Map<String, Value> = serde_json::from_slice(row).unwrap_or_default();
                    csv_line(&mut out, columns.iter().map(|c| csv_cell(row.get(c))));
                }
            }
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }
}

fn csv_cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(s)) => guarded(s),
        Some(v) => v.to_string(),
    }
}

/// Spreadsheets take text that begins like this for a formula and run it.
fn guarded(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if formula { format!("'{text}") } else { text.to_owned() }
}

fn csv_line(out: &mut Vec<u8>, cells: impl Iterator<Item = String>) {
    for (i, cell) in cells.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        if cell.contains(['"', ',', '\n', '\r']) {
            out.push(b'"');
            out.extend(cell.replace('"', "\"\"").into_bytes());
            out.push(b'"');
        } else {
            out.extend(cell.into_bytes());
        }
    }
    out.extend(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_text_in_csv() {
        let mut out = Vec::new();
        let cells = [json!("=1+1"), json!("@x"), json!(-5), json!("a\"b,c"), json!({"a": 1})];
        csv_line(&mut out, cells.iter().map(|c| csv_cell(Some(c))));
        let want = "'=1+1,'@x,-5,\"a\"\"b,c\",\"{\"\"a\"\":1}\"\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}
