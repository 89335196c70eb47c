//! What is in the export of a notebook: in an archive its record, the rows of its
//! cells and its files; on a page what its cells show, without script and without
//! anything from elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use velociraptor_proto::proto::{NotebookCell, NotebookMetadata};

use super::container::Container;
use super::page::Page;
use crate::services::notebooks::layout::Part;
use crate::services::notebooks::markdown::{self, Block, Inline, escape};
use crate::services::notebooks::{At, owner_of};
use crate::services::server::{Org, Server, ServiceError};
use crate::store::path::PathSpec;
use crate::store::paths::Notebook;
use crate::store::resultset::ResultSet;
use crate::store::uploads::{Holes, Upload};
use crate::store::zip::write::member_name;
use crate::store::{DirPath, FilePath};

/// Rows of one table on a page; an archive has all.
const PAGE_ROWS: u64 = 1000;
/// Largest picture inside of a page, and all of them, bytes.
const PICTURE: u64 = 8 << 20;
const PICTURES: u64 = 64 << 20;
/// Folders inside of a cell that are followed.
const MAX_DEPTH: usize = 8;

type Place<'a> = (&'a Arc<Server>, &'a Arc<Org>);

/// The record with its cells in full.
async fn whole(at: At<'_>) -> Result<NotebookMetadata, ServiceError> {
    let found = at.read().await?;
    let mut n = found.ok_or_else(|| ServiceError::NotFound(format!("notebook {}", at.id)))?;
    for cell in &mut n.cell_metadata {
        match at.cell(&cell.cell_id, &cell.current_version).await {
            Ok(full) => *cell = full,
            Err(e) => cell.error = e.to_string(),
        }
    }
    Ok(n)
}

/// Writes a notebook as stock archives have it: `Notebook.yaml`, and below its id a
/// folder for each cell and one for what is attached.
pub(super) async fn archive(
    (server, org): Place<'_>,
    container: &mut Container,
    id: &str,
) -> Result<(), ServiceError> {
    let n = whole(At { server, org, id }).await?;
    let path = Notebook::new(&org.id, id);
    for cell in &n.cell_metadata {
        let dir = path.cell(&cell.cell_id, &cell.current_version).dir();
        copy(server, container, dir.0, &[id, &cell.cell_id]).await?;
    }
    copy(server, container, path.attachments().0, &[id, "attach"]).await?;
    let invalid = |e: String| ServiceError::Invalid(format!("notebook {id}: {e}"));
    let record = velociraptor_proto::json::to_sparse_row(&n).map_err(|e| invalid(e.to_string()))?;
    let text = yaml_serde::to_string(&record).map_err(|e| invalid(e.to_string()))?;
    container.member("Notebook.yaml", text.as_bytes()).await
}

/// Copies a folder of the datastore below `to`.
async fn copy(
    server: &Server,
    container: &mut Container,
    from: PathSpec,
    to: &[&str],
) -> Result<(), ServiceError> {
    let to: Vec<String> = to.iter().map(|&t| t.to_owned()).collect();
    let mut open = vec![(from, to)];
    while let Some((dir, below)) = open.pop() {
        for child in server.tree.files(&DirPath::files(dir.clone())).await? {
            let one = dir.clone().escaped_child(&[&child.name]);
            let mut name = below.clone();
            if child.is_dir {
                name.push(child.name);
                if name.len() < MAX_DEPTH {
                    open.push((one, name));
                }
                continue;
            }
            let at = FilePath(one.typed(child.kind));
            name.extend(at.0.named_components().pop());
            let Some(file) = Upload::open(&server.tree, &at).await? else { continue };
            container.begin(&member_name(&name)).await?;
            let mut read = 0;
            while let Some(piece) = file.piece(Holes::Skipped, read).await? {
                if piece.is_empty() {
                    break;
                }
                read += piece.len() as u64;
                container.write(&piece).await?;
            }
        }
    }
    Ok(())
}

const HEAD: &str = "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
    <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
    style-src 'unsafe-inline'\">\n<meta name=\"viewport\" content=\"width=device-width, \
    initial-scale=1\">\n<style>\n\
    :root{color-scheme:light dark}\n\
    body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}\n\
    section{border-top:1px solid #8888;margin-top:1.5rem;padding-top:.5rem}\n\
    pre{overflow:auto;background:#8882;padding:.5rem}\n\
    div.rows{overflow:auto;max-height:40rem}\n\
    table{border-collapse:collapse;font-size:13px}\n\
    th,td{border:1px solid #8886;padding:.2rem .5rem;text-align:left;vertical-align:top;\
    white-space:pre-wrap;overflow-wrap:anywhere}\n\
    img{max-width:100%}\n\
    </style>\n";

/// Writes what people see of a notebook.
pub(super) async fn page(
    (server, org): Place<'_>,
    mut page: Page,
    id: &str,
) -> Result<(), ServiceError> {
    let at = At { server, org, id };
    let n = whole(at).await?;
    let name = if n.name.is_empty() { id } else { &n.name };
    let mut pictures = Pictures { at, left: PICTURES };
    page.write(HEAD).await?;
    let head = format!(
        "<title>{0}</title>\n</head>\n<body>\n<h1>{0}</h1>\n<p>{1}</p>\n<p><small>{2}, by {3}</small></p>\n",
        escape(name),
        escape(&n.description),
        escape(id),
        escape(&n.creator)
    );
    page.write(&head).await?;
    for cell in &n.cell_metadata {
        page.write("<section>\n").await?;
        if cell.r#type.eq_ignore_ascii_case("vql") && !cell.input.trim().is_empty() {
            let input = format!(
                "<details><summary>Query</summary><pre>{}</pre></details>\n",
                escape(cell.input.trim())
            );
            page.write(&input).await?;
        }
        for part in at.parts(cell).await? {
            match part {
                Part::Text(mut blocks) => {
                    pictures.put_inside(&mut blocks).await?;
                    page.write(&markdown::html(&blocks)).await?;
                }
                Part::Rows(number) => rows(at, &mut page, cell, number).await?,
            }
        }
        if !cell.error.is_empty() {
            page.write(&format!("<p><strong>{}</strong></p>\n", escape(&cell.error))).await?;
        }
        page.write("</section>\n").await?;
    }
    page.write("</body>\n</html>\n").await?;
    page.finish().await
}

async fn rows(
    at: At<'_>,
    page: &mut Page,
    cell: &NotebookCell,
    number: u32,
) -> Result<(), ServiceError> {
    let path = Notebook::new(&at.org.id, at.id).cell(&cell.cell_id, &cell.current_version);
    let set = ResultSet::open(&at.server.tree, &path.query(number)).await?;
    let total = set.count_rows().await?;
    let found = set.page(0, usize::try_from(PAGE_ROWS).unwrap_or(usize::MAX)).await?;
    let found: Vec<Map<String, Value>> =
        found.iter().map(|r| serde_json::from_slice(r).unwrap_or_default()).collect();
    let (mut columns, mut seen) = (Vec::new(), BTreeSet::new());
    for name in found.iter().flat_map(Map::keys) {
        if seen.insert(name) {
            columns.push(name);
        }
    }
    let cells = |tag: &str, all: Vec<String>| -> String {
        all.iter().map(|c| format!("<{tag}>{}</{tag}>", escape(c))).collect()
    };
    let head = cells("th", columns.iter().map(|&c| c.clone()).collect());
    page.write(&format!("<div class=\"rows\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"))
        .await?;
    for row in &found {
        let text = |name: &&String| match row.get(*name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(s)) => s.clone(),
            Some(v) => v.to_string(),
        };
        let row = cells("td", columns.iter().map(text).collect());
        page.write(&format!("<tr>{row}</tr>\n")).await?;
    }
    let more = match total > PAGE_ROWS {
        true => format!("<p>The first {PAGE_ROWS} of {total} rows; an archive has all.</p>\n"),
        false => format!("<p><small>{total} rows</small></p>\n"),
    };
    page.write(&format!("</tbody>\n</table></div>\n{more}")).await
}

/// Pictures of a page: those attached to the notebook, as data.
struct Pictures<'a> {
    at: At<'a>,
    left: u64,
}

impl Pictures<'_> {
    async fn put_inside(&mut self, blocks: &mut [Block]) -> Result<(), ServiceError> {
        let mut open: Vec<&mut Inline> = Vec::new();
        for block in blocks {
            match block {
                Block::Heading(_, p) | Block::Para(p) | Block::Quote(p) => open.extend(p),
                Block::List(_, items) => open.extend(items.iter_mut().flat_map(|(_, p)| p)),
                Block::Table(head, rows) => {
                    open.extend(head.iter_mut().flatten());
                    open.extend(rows.iter_mut().flatten().flatten());
                }
                Block::Code(..) | Block::Rule => {}
            }
        }
        while let Some(part) = open.pop() {
            match part {
                Inline::Strong(p) | Inline::Em(p) => open.extend(p),
                Inline::Image(to, words) => {
                    let data = self.data(to).await?;
                    let words = std::mem::take(words);
                    *part = match data {
                        Some(data) => Inline::Image(data, words),
                        None => Inline::Em(vec![Inline::Text(format!("[{words}]"))]),
                    };
                }
                Inline::Text(_) | Inline::Code(_) | Inline::Link(..) => {}
            }
        }
        Ok(())
    }

    /// A file of this notebook as an address that holds it.
    async fn data(&mut self, to: &str) -> Result<Option<String>, ServiceError> {
        let query = to.split_once('?').map_or("", |(_, q)| q);
        let components: Vec<String> = url::form_urlencoded::parse(query.as_bytes())
            .filter(|(k, _)| k.trim_end_matches("[]") == "fs_components")
            .map(|(_, v)| v.into_owned())
            .collect();
        if owner_of(&components) != Some(self.at.id) {
            return Ok(None);
        }
        let file = FilePath(PathSpec::from_components(&self.at.org.id, &components));
        let limit = PICTURE.min(self.left);
        let Some(file) = Upload::open(&self.at.server.tree, &file).await? else { return Ok(None) };
        let size = file.size(Holes::Skipped)?;
        if size > limit {
            return Ok(None);
        }
        self.left -= size;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let data = file.read(Holes::Skipped, 0, length).await?;
        let kind = picture_type(&data);
        Ok(kind.map(|kind| format!("data:{kind};base64,{}", STANDARD.encode(data))))
    }
}

/// What sort of picture it is; `None` for what is none.
fn picture_type(data: &[u8]) -> Option<&'static str> {
    match data {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}
