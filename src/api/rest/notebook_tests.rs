use axum::http::StatusCode;
use serde_json::{Value, json};

use super::tests::{Lab, lab};
use crate::plugins::server::tests::CLIENT;
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
