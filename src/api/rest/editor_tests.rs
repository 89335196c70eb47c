use axum::http::StatusCode;
use serde_json::{Value, json};

use super::tests::lab;
use crate::plugins::server::tests::CLIENT;
use crate::services::ids::OrgId;
use crate::store::FilePath;
use crate::store::path::PathSpec;

#[tokio::test]
async fn queries_are_laid_out_and_files_searched() {
    let lab = lab().await;
    let (status, text) =
        lab.post("rob", "/v1/ReformatVQL", json!({"vql": "SELECT  *  FROM info()"})).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, r#"{"vql":"SELECT * FROM info()\n"}"#));
    let definition = "name: A\nsources:\n- query: |\n    SELECT  1 FROM scope()\n";
    let (_, text) = lab.post("rob", "/v1/ReformatVQL", json!({"artifact": definition})).await;
    let laid: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(laid["artifact"], "name: A\nsources:\n- query: |\n    SELECT 1 FROM scope()\n");
    let (status, text) = lab.post("rob", "/v1/ReformatVQL", json!({"vql": "SELECT FROM"})).await;
    assert!(status == StatusCode::BAD_REQUEST && text.contains("query: 1:"), "{text}");
    // Matches on both sides of a window's end.
    let at = FilePath(PathSpec::from_components(
        &OrgId::root(),
        &["clients", CLIENT, "collections", "F.1", "uploads", "auto", "x"].map(str::to_owned),
    ));
    let mut data = vec![b'.'; 3 << 20];
    for place in [10, (1 << 20) - 2, (2 << 20) + 5] {
        data[place..place + 6].copy_from_slice(b"needle");
    }
    let path = lab.server.tree.root.file(&at).unwrap();
    crate::env::fs::create_synced(&*lab.server.tree.fs, &path, &data).await.unwrap();
    let components = ["", "clients", CLIENT, "collections", "F.1", "uploads", "auto", "x"];
    let find = |term: &str, kind: &str, offset: u64, forward: bool| {
        let ask = json!({"vfs_components": components, "term": term, "type": kind,
            "offset": offset, "forward": forward});
        let lab = &lab;
        async move {
            let (status, text) = lab.post("rob", "/v1/SearchFile", ask).await;
            assert_eq!(status, StatusCode::OK, "{text}");
            let found: Value = serde_json::from_str(&text).unwrap();
            found["hit"].as_str().map(|h| h.parse::<u64>().unwrap())
        }
    };
    assert_eq!(find("needle", "string", 0, true).await, Some(10));
    assert_eq!(find("NEED.E", "regex", 11, true).await, Some((1 << 20) - 2));
    assert_eq!(find("6e 65 65", "hex", 1 << 20, true).await, Some((2 << 20) + 5));
    assert_eq!(find("needle", "string", 3 << 20, true).await, None);
    assert_eq!(find("needle", "string", (2 << 20) + 5, false).await, Some((1 << 20) - 2));
    assert_eq!(find("needle", "string", 10, false).await, None);
    let hidden = json!({"vfs_components": ["users", "admin"], "term": "x"});
    assert_eq!(lab.post("rob", "/v1/SearchFile", hidden).await.0, StatusCode::FORBIDDEN);
}
