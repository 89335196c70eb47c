use axum::http::StatusCode;
use serde_json::{Value, json};

use super::tests::{Lab, lab};
use crate::plugins::server::tests::{CLIENT, run_as};
use crate::services::flows::Rows;

impl Lab {
    async fn done(&self, user: &str, path: &str, body: Value) -> Value {
        let (status, text) = self.post(user, path, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// A cell once it is worked out.
    async fn cell(&self, user: &str, id: &str, cell: &Value) -> Value {
        let cell = cell.as_str().unwrap();
        let at = format!("/v1/GetNotebookCell?notebook_id={id}&cell_id={cell}");
        loop {
            let (status, text) = self.get(user, &at).await;
            assert_eq!(status, StatusCode::OK, "{text}");
            let now: Value = serde_json::from_str(&text).unwrap();
            if now.get("calculating").is_none() {
                return now;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

const CELL: &str = "/* # Two <b>tables</b> */ LET X = SELECT _value AS N FROM range(end=120)\n\
                    SELECT * FROM X /* and */ SELECT NotebookId AS Id FROM scope()";

#[tokio::test]
async fn a_notebook_as_stock_pages_work_it() {
    let lab = lab().await;
    let made =
        lab.done("ann", "/v1/NewNotebook", json!({ "name": "Case <i>1</i>", "public": true }));
    let made = made.await;
    let id = made["notebook_id"].as_str().unwrap().to_owned();
    assert_eq!(
        (&made["creator"], made["cell_metadata"].as_array().unwrap().len()),
        (&json!("ann"), 1)
    );
    let ask = json!({ "notebook_id": id, "type": "VQL", "input": CELL });
    let now = lab.done("ann", "/v1/NewNotebookCell", ask).await;
    let cell = now["latest_cell_id"].as_str().unwrap().to_owned();
    let at = format!("notebook_id={id}&cell_id={cell}");
    let shown = lab.cell("inv", &id, &now["latest_cell_id"]).await;
    assert_eq!(shown.get("error"), None, "{shown}");
    let output = shown["output"].as_str().unwrap();
    assert!(output.contains("<h1>Two &lt;b&gt;tables&lt;/b&gt;</h1>"), "{output}");
    assert_eq!(output.matches("<velo-csv-viewer").count(), 2, "{output}");
    let now = lab.json(&format!("/v1/GetNotebooks?notebook_id={id}")).await;
    assert_eq!(now["items"][0]["cell_metadata"][1]["summary"], "Two <b>tables</b>");
    // Its rows, as the mark in the page asks for them, and as our own pages do.
    let version = shown["current_version"].as_str().unwrap();
    let table =
        format!("/v1/GetTable?{at}&cell_version={version}&table_id=1&rows=10&start_row=115");
    let rows = lab.json(&table).await;
    assert_eq!((&rows["total_rows"], &rows["rows"][4]["json"]), (&json!("120"), &json!("[119]")));
    let own = lab.json(&format!("/fleet/table?{at}&cell_version={version}&table_id=2")).await;
    assert_eq!(own["rows"][0]["row"], json!({ "Id": id }));
    let drawn = lab.json(&format!("/fleet/notebook_cell?{at}")).await;
    assert_eq!(
        (&drawn["parts"][1], &drawn["parts"][3]),
        (&json!({ "rows": 1 }), &json!({ "rows": 2 }))
    );
    let title = json!({ "text": [{ "heading": [1, [{ "text": "Two <b>tables</b>" }]] }] });
    assert_eq!(drawn["parts"][0], title);
    let (_, csv) =
        lab.get("inv", &format!("/v1/DownloadTable?{at}&table_id=2&download_format=csv")).await;
    assert_eq!(csv, format!("Id\r\n{id}\r\n"));
    let listed = lab.json("/v1/GetTable?type=NOTEBOOKS&rows=10").await;
    assert_eq!(listed["columns"][0], "NotebookId");
    assert!(listed["rows"][0]["json"].as_str().unwrap().contains("Case <i>1</i>"));
    // Another version, and back.
    let ask = json!({ "notebook_id": id, "cell_id": cell, "input": "SELECT * FROM nowhere(", "sync": true });
    let wrong = lab.done("ann", "/v1/UpdateNotebookCell", ask).await;
    assert!(wrong["error"].as_str().unwrap().starts_with("VQL: "), "{wrong}");
    let ask = json!({ "notebook_id": id, "cell_id": cell, "version": version });
    let back = lab.done("ann", "/v1/RevertNotebookCell", ask).await;
    assert_eq!(back["input"], CELL);
    lab.done("ann", "/v1/DeleteNotebook", json!({ "notebook_id": id })).await;
    assert_eq!(lab.json(&format!("/v1/GetNotebooks?notebook_id={id}")).await, json!({}));
    let (status, _) = lab.get("inv", &table).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_cell_holds_the_rights_of_whoever_runs_it() {
    let lab = lab().await;
    let made = lab.done("ann", "/v1/NewNotebook", json!({ "name": "x", "public": true })).await;
    let id = made["notebook_id"].as_str().unwrap();
    let input = "SELECT * FROM execve(argv=['/bin/echo', 'x'])";
    let ask = json!({ "notebook_id": id, "type": "vql", "input": input });
    // Readers write nothing, and see what is shared.
    let (status, _) = lab.post("rob", "/v1/NewNotebookCell", ask.clone()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, _) = lab.get("rob", &format!("/v1/GetNotebooks?notebook_id={id}")).await;
    assert_eq!(status, StatusCode::OK);
    let made = lab.done("inv", "/v1/NewNotebookCell", ask.clone()).await;
    let cell = lab.cell("inv", id, &made["latest_cell_id"]).await;
    assert!(cell["messages"].to_string().contains("EXECVE"), "{cell}");
    let private = lab.done("ann", "/v1/NewNotebook", json!({ "name": "y" })).await;
    let id = private["notebook_id"].as_str().unwrap();
    for path in [
        format!("/v1/GetNotebooks?notebook_id={id}"),
        format!("/fleet/notebook_cell?notebook_id={id}&cell_id=NC.X"),
        format!("/v1/GetTable?notebook_id={id}&cell_id=NC.X&table_id=1"),
    ] {
        assert_eq!(lab.get("inv", &path).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(lab.json("/fleet/notebooks").await["items"].as_array().unwrap().len(), 1);
    for bad in ["x", "N.", "N.a%2Fb", "N.E...%2Fx-server"] {
        let (status, _) = lab.get("ann", &format!("/v1/GetNotebooks?notebook_id={bad}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn the_notebook_of_a_collection_begins_with_its_rows() {
    let lab = lab().await;
    lab.rows(Rows::Results("Linux.Sys.Pslist".into()), "{\"Pid\":1}\n{\"Pid\":2}\n").await;
    let ask = json!({ "client_id": CLIENT, "artifacts": ["Linux.Sys.Pslist"] });
    let started = lab.done("ann", "/v1/CollectArtifact", ask).await;
    let id = format!("N.{}-{CLIENT}", started["flow_id"].as_str().unwrap());
    assert_eq!(lab.json(&format!("/v1/GetNotebooks?notebook_id={id}")).await, json!({}));
    let asked = json!({ "notebook_id": id, "public": true });
    let made = lab.done("ann", "/v1/NewNotebook", asked.clone()).await;
    assert_eq!((&made["notebook_id"], &made["context"]["type"]), (&json!(id), &json!("Flow")));
    let cell = lab.cell("inv", &id, &made["cell_metadata"][0]["cell_id"]).await;
    assert!(
        cell["input"].as_str().unwrap().contains("source(artifact=\"Linux.Sys.Pslist\")"),
        "{cell}"
    );
    // Asked for again, it is the same.
    let again = lab.done("inv", "/v1/NewNotebook", asked).await;
    assert_eq!(again["cell_metadata"].as_array().unwrap().len(), 1);
    // Where stock has it.
    let path = lab
        .server
        .tree
        .root
        .dir(&crate::store::paths::Notebook::new(&lab.server.root().id, &id).dir());
    let flow = started["flow_id"].as_str().unwrap();
    let wanted = format!("/clients/{CLIENT}/collections/{flow}/notebook/{id}");
    assert!(path.unwrap().ends_with(&wanted));
}

#[tokio::test]
async fn cells_are_stopped() {
    let lab = lab().await;
    let made = lab.done("ann", "/v1/NewNotebook", json!({ "name": "x" })).await;
    let id = made["notebook_id"].as_str().unwrap().to_owned();
    let input = "SELECT _value AS N FROM range(end=3) WHERE true SELECT * FROM clock(period=600)";
    let ask = json!({ "notebook_id": id, "type": "vql", "input": input });
    let now = lab.done("ann", "/v1/NewNotebookCell", ask).await;
    let cell = now["latest_cell_id"].as_str().unwrap();
    assert_eq!(now["cell_metadata"][1]["calculating"], true);
    let table = format!("/fleet/table?notebook_id={id}&cell_id={cell}&table_id=1");
    let total = async || {
        let (_, text) = lab.get("ann", &table).await;
        serde_json::from_str::<Value>(&text).unwrap()["total"].clone()
    };
    while total().await != 3 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let which = json!({ "notebook_id": id, "cell_id": cell });
    lab.done("ann", "/v1/CancelNotebookCell", which).await;
    let over = lab.cell("ann", &id, &now["latest_cell_id"]).await;
    assert_eq!(over["error"], "Cancelled.");
    assert_eq!(total().await, 3);
}

/// The first bytes of a picture, and some more.
const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\n0123456789";

impl Lab {
    /// Attaches a picture; answers where it is and what the answer says.
    async fn attach(&self, user: &str, id: &str, name: &str, keep: bool) -> (Vec<Value>, Value) {
        use base64::Engine as _;
        let data = base64::engine::general_purpose::STANDARD.encode(PICTURE);
        let ask = json!({
            "notebook_id": id, "filename": name, "data": data, "size": PICTURE.len(),
            "disable_attachment_id": keep,
        });
        let made = self.done(user, "/v1/UploadNotebookAttachment", ask).await;
        let at = format!("/v1/GetNotebooks?notebook_id={id}&include_uploads=true");
        let (_, text) = self.get(user, &at).await;
        let now: Value = serde_json::from_str(&text).unwrap();
        let files = now["items"][0]["available_uploads"]["files"].as_array().unwrap();
        let one = files.iter().find(|f| f["name"] == made["filename"]).unwrap();
        assert_eq!(one["size"], PICTURE.len().to_string());
        (one["stats"]["components"].as_array().unwrap().clone(), made)
    }
}

#[tokio::test]
async fn files_are_attached_shown_fetched_and_removed() {
    let lab = lab().await;
    let made = lab.done("ann", "/v1/NewNotebook", json!({ "name": "x" })).await;
    let id = made["notebook_id"].as_str().unwrap().to_owned();
    let (_, pasted) = lab.attach("ann", &id, "C:\\a <b>.png", false).await;
    let (kept, named) = lab.attach("ann", &id, "r\u{e4}port #1.png", true).await;
    assert_eq!(named["filename"], "r\u{e4}port #1.png");
    let name = pasted["filename"].as_str().unwrap();
    assert!(name.starts_with("NA.") && name.ends_with("-a__b_.png"), "{name}");
    assert_eq!(pasted["mime_type"], "image/png");
    // As stock pages put it into a cell, and what they and ours show.
    let url = pasted["url"].as_str().unwrap();
    let input = format!("\n<img src=\"{url}\" alt=\"a.png\"/>\n");
    let ask = json!({ "notebook_id": id, "type": "markdown", "input": input });
    let now = lab.done("ann", "/v1/NewNotebookCell", ask).await;
    let cell = lab.cell("ann", &id, &now["latest_cell_id"]).await;
    let shown = cell["output"].as_str().unwrap();
    assert!(shown.contains("<img src=\"/vr/api/v1/DownloadVFSFile?"), "{shown}");
    let at = format!(
        "/fleet/notebook_cell?notebook_id={id}&cell_id={}",
        cell["cell_id"].as_str().unwrap()
    );
    let (_, drawn) = lab.get("ann", &at).await;
    let drawn: Value = serde_json::from_str(&drawn).unwrap();
    assert_eq!(drawn["parts"][0]["text"][0]["para"][0]["image"][0], url);
    // Fetched by those who may open the notebook, whatever its place in the datastore.
    let own = url.strip_prefix("/vr/api").unwrap();
    let fetch = async |user: &str, path: &str| {
        let request = axum::http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        let answer = lab.ask(user, request).await;
        let status = answer.status();
        (status, axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap())
    };
    let (status, data) = fetch("ann", own).await;
    assert_eq!((status, &data[..]), (StatusCode::OK, PICTURE));
    assert_eq!(fetch("inv", own).await.0, StatusCode::FORBIDDEN);
    let row = format!(
        "/v1/DownloadVFSFile?fs_components=&fs_components=notebooks&fs_components={id}&fs_components=x.json"
    );
    assert_eq!(fetch("inv", &row).await.0, StatusCode::FORBIDDEN);
    assert_eq!(fetch("ann", &row).await.0, StatusCode::NOT_FOUND);
    // Nothing is written or removed by those who may not open it, or beside it.
    let ask = json!({ "notebook_id": id, "filename": "x", "data": "QQ==" });
    for (user, want) in [("inv", StatusCode::FORBIDDEN), ("rob", StatusCode::FORBIDDEN)] {
        let (status, _) = lab.post(user, "/v1/UploadNotebookAttachment", ask.clone()).await;
        assert_eq!(status, want, "{user}");
    }
    for bad in
        [json!({ "filename": "..", "data": "QQ==" }), json!({ "filename": "x", "data": "%" })]
    {
        let mut ask = bad.clone();
        ask["notebook_id"] = id.clone().into();
        let (status, _) = lab.post("ann", "/v1/UploadNotebookAttachment", ask).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
    let ask = json!({ "notebook_id": id, "components": kept });
    let (status, _) = lab.post("inv", "/v1/RemoveNotebookAttachment", ask.clone()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let record = json!({ "notebook_id": id, "components": ["notebooks", format!("{id}.json.db")] });
    let (status, _) = lab.post("ann", "/v1/RemoveNotebookAttachment", record).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    lab.done("ann", "/v1/RemoveNotebookAttachment", ask.clone()).await;
    let (status, _) = lab.post("ann", "/v1/RemoveNotebookAttachment", ask).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(fetch("ann", own).await.0, StatusCode::OK);
}

#[tokio::test]
async fn notebooks_are_exported() {
    let lab = lab().await;
    let made = lab.done("ann", "/v1/NewNotebook", json!({ "name": "Case <1>" })).await;
    let id = made["notebook_id"].as_str().unwrap().to_owned();
    let (_, pasted) = lab.attach("ann", &id, "p.png", false).await;
    let text = format!("![a picture]({})\n<script>x</script>", pasted["url"].as_str().unwrap());
    for (kind, input) in [("markdown", text.as_str()), ("vql", CELL)] {
        let ask = json!({ "notebook_id": id, "type": kind, "input": input });
        let now = lab.done("ann", "/v1/NewNotebookCell", ask).await;
        lab.cell("ann", &id, &now["latest_cell_id"]).await;
    }
    let ask = |kind: &str| json!({ "notebook_id": id, "type": kind });
    for (user, want) in [("inv", StatusCode::FORBIDDEN), ("rob", StatusCode::FORBIDDEN)] {
        let (status, _) = lab.post(user, "/v1/CreateNotebookDownloadFile", ask("zip")).await;
        assert_eq!(status, want, "{user}");
    }
    let mut fetched = Vec::new();
    for kind in ["html", "zip"] {
        // Both in one second would have one name.
        while lab.post("ann", "/v1/CreateNotebookDownloadFile", ask(kind)).await.0 != StatusCode::OK
        {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let at = format!("/v1/GetNotebooks?notebook_id={id}&include_uploads=true");
        let file = loop {
            let (_, text) = lab.get("ann", &at).await;
            let now: Value = serde_json::from_str(&text).unwrap();
            let files = now["items"][0]["available_downloads"]["files"].as_array().cloned();
            let done = |f: &Value| f["type"] == kind && f["complete"] == true;
            if let Some(file) = files.unwrap_or_default().into_iter().find(done) {
                break file;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        let parts = file["stats"]["components"].as_array().unwrap().iter();
        let query: String =
            parts.map(|c| format!("fs_components[]={}&", c.as_str().unwrap())).collect();
        let path = format!("/v1/DownloadVFSFile?{query}");
        assert_eq!(lab.get("inv", &path).await.0, StatusCode::FORBIDDEN);
        let request = axum::http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        let answer = lab.ask("ann", request).await;
        assert_eq!(answer.status(), StatusCode::OK);
        fetched.push(axum::body::to_bytes(answer.into_body(), 4 << 20).await.unwrap());
    }
    let page = String::from_utf8(fetched[0].to_vec()).unwrap();
    for part in [
        "<h1>Case &lt;1&gt;</h1>",
        "&lt;script&gt;x&lt;/script&gt;",
        "<img src=\"data:image/png;base64,",
        "<td>119</td>",
        "<small>120 rows</small>",
        "Two &lt;b&gt;tables",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    assert!(!page.contains("<script"));
    let mut zip = crate::store::zip::Archive::open(std::io::Cursor::new(&fetched[1])).unwrap();
    let names: Vec<String> = zip.members().iter().map(|m| m.name.clone()).collect();
    let record = zip.members().iter().find(|m| m.name == "Notebook.yaml").unwrap().clone();
    let record = String::from_utf8(zip.read(&record, 1 << 20).unwrap()).unwrap();
    assert!(record.contains("name: Case <1>") && record.contains("range(end=120)"), "{record}");
    let attached = format!("{id}/attach/{}", pasted["filename"].as_str().unwrap());
    assert!(names.contains(&attached), "{names:?}");
    assert!(
        names.iter().any(|n| n.starts_with(&format!("{id}/NC.")) && n.ends_with("/query_1.json"))
    );
    // With the notebook they go.
    lab.done("ann", "/v1/DeleteNotebook", json!({ "notebook_id": id })).await;
    let dir = crate::store::paths::notebook_downloads(&lab.server.root().id, &id);
    assert_eq!(lab.server.tree.files(&dir).await.unwrap(), []);
}

#[tokio::test]
async fn stock_pages_delete_notebooks_by_a_collection() {
    let lab = lab().await;
    let flow = format!("N.F.1-{CLIENT}");
    let event = "N.E.Linux.Sys.Pslist-server".to_owned();
    let source = format!("N.E.Generic.Client.Stats/Source-{CLIENT}");
    for id in [&flow, &event, &source] {
        lab.done("ann", "/v1/NewNotebook", json!({ "notebook_id": id, "public": true })).await;
        lab.attach("ann", id, "a.zip", false).await;
        let env =
            json!([{ "key": "NotebookId", "value": id }, { "key": "ReallyDoIt", "value": "Y" }]);
        let ask = json!({
            "client_id": "server", "artifacts": ["Server.Utils.DeleteNotebook"],
            "specs": [{ "artifact": "Server.Utils.DeleteNotebook", "parameters": { "env": env } }],
        });
        // Whoever collects on the server has to be an administrator for this.
        let (status, _) = lab.post("inv", "/v1/CollectArtifact", ask.clone()).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        let definition = lab.json("/v1/GetArtifacts?names=Server.Utils.DeleteNotebook").await;
        let query = definition["items"][0]["sources"][0]["query"].as_str().unwrap();
        let script = format!("LET NotebookId = '{id}' LET ReallyDoIt = TRUE {query}");
        let (rows, log) = run_as(&lab.server, "administrator", &script).await;
        let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
        assert!(!rows.is_empty(), "{log}");
        assert!(rows.iter().any(|r| r["VFSPath"].as_str().unwrap().ends_with("a.zip")), "{rows:?}");
        assert!(rows.iter().all(|r| r["NotebookId"] == id.as_str() && r["Error"] == ""));
        assert_eq!(
            lab.json(&format!("/v1/GetNotebooks?notebook_id={id}")).await,
            json!({}),
            "{id}"
        );
    }
}
