//! `import_collection`: what was collected elsewhere becomes a flow of a client.

use serde_json::json;
use velociraptor_proto::json::to_row;
use vql::{ArgType, Args, Error, Registry, Scope, Signature, Value};

use super::session::{Session, failed};
use crate::plugins::common::blocking;
use crate::plugins::common::file::named;
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::imports::Into;
use crate::store::zip::Archive;

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("import_collection", "Makes a collection of an archive of one.")
        .arg("client_id", ArgType::String, "The client; auto (default) makes a new one.")
        .arg("hostname", ArgType::String, "The name of a client that is made.")
        .required("filename", ArgType::Path, "The archive.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("import_type", ArgType::String, "collection; archives of hunts are not taken.")
        .version(2);
    r.function_async(sig, |scope, args| async move { import(&scope, &args).await });
}

async fn import(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::with(scope, Permission::CollectServer)?;
    session.require(Permission::FilesystemRead)?;
    let kind = args.string("import_type")?;
    if !matches!(kind.as_str(), "" | "collection") {
        return Err(Error::Arg(format!("import_type should be collection, not {kind}")));
    }
    let (accessor, path) = named(scope, args, "filename")?;
    let shown = path.to_text();
    let open = move || accessor.open(&path).and_then(Archive::open);
    let archive = blocking(scope, open).await?;
    let archive = archive.map_err(|e| Error::failed(format!("{shown}: {e}")))?;
    let client = args.string("client_id")?;
    let client = if client == "auto" { String::new() } else { client };
    let into = Into { client, hostname: args.string("hostname")? };
    let (server, org, who) = (&session.server, &session.org, &session.principal);
    let made = server.import_flow(org, who, archive, into).await.map_err(failed)?;
    let details =
        json!({ "client_id": made.client_id, "flow_id": made.session_id, "archive": shown });
    audit(server, org, who, "import_collection", details).await;
    Ok(Value::from_json_plain(to_row(&made).map_err(Error::failed)?))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // writes an archive of the test's own
mod tests {
    use crate::plugins::server::tests::{CLIENT, run_as, server};
    use crate::store::zip::write::{Method, Writer, member_name};

    /// An archive as exports make them.
    fn archive(members: &[(&[&str], &str, &str)]) -> Vec<u8> {
        let mut zip = Writer::default();
        for (name, ending, text) in members {
            let name = format!("{}{ending}", member_name(name));
            zip.begin(&name, Method::Deflated, 0).unwrap();
            zip.write(text.as_bytes()).unwrap();
            zip.end().unwrap();
        }
        zip.finish().unwrap();
        zip.take()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_archive_of_a_collection_is_one_again() {
        let dir = tempfile::tempdir().unwrap();
        let s = server(&dir).await;
        let context = r#"{"client_id":"C.f","session_id":"F.OLD","state":2,"total_collected_rows":2,
            "artifacts_with_results":["Custom.Two/S"],
            "request":{"client_id":"C.f","artifacts":["Custom.Two"]}}"#;
        let uploads = r#"{"Timestamp":1,"started":"","vfs_path":"/dir/f.txt","_Components":["uploads","data","dir","f.txt"],"file_size":7,"uploaded_size":7,"_accessor":"data","_client_components":["dir","f.txt"],"Type":""}"#;
        let whole: [(&[&str], &str, &str); 6] = [
            (&["client_info"], ".json", r#"{"client_id":"C.f","hostname":"h","system":"linux"}"#),
            (&["collection_context"], ".json", context),
            (&["results", "Custom.Two/S"], ".json", "{\"A\":0,\"Z\":7}\n{\"A\":1,\"Z\":7}\n"),
            (&["log"], ".json", "{\"message\":\"said\"}\n"),
            (&["uploads"], ".json", uploads),
            (&["uploads", "data", "dir", "f.txt"], "", "content"),
        ];
        let at = tempfile::tempdir().unwrap();
        let zip = at.path().join("c.zip");
        std::fs::write(&zip, archive(&whole)).unwrap();
        let zip = zip.display();
        let import = format!(
            "LET I <= import_collection(filename='{zip}', client_id='auto', hostname='away') \
             LET J <= import_collection(filename='{zip}', client_id='{CLIENT}') \
             SELECT I.client_id AS C, I.session_id AS F, J.client_id AS J, \
               {{ SELECT A, Z FROM source(client_id=I.client_id, flow_id=I.session_id, \
                    artifact='Custom.Two/S') }} AS Rows, \
               {{ SELECT sum(item=1) AS N FROM parallelize(client_id=I.client_id, \
                    flow_id=I.session_id, artifact='Custom.Two', batch=1, \
                    query={{ SELECT A FROM source() }}) GROUP BY 1 }} AS N, \
               {{ SELECT A FROM parallelize(client_id=I.client_id, flow_id=I.session_id, \
                    artifact='Custom.Two/S', batch=1, workers=2, \
                    query={{ SELECT sum(item=A) + 10 AS A FROM source() GROUP BY 1 }}) \
                  ORDER BY A }} AS Parts, \
               {{ SELECT os_info.hostname AS H FROM clients(client_id=I.client_id) }} AS H, \
               {{ SELECT message FROM flow_logs(client_id=I.client_id, flow_id=I.session_id) }} AS L, \
               {{ SELECT read_file(accessor='fs', filename=vfs_path) AS D \
                  FROM uploads(client_id=I.client_id, flow_id=I.session_id) LIMIT 1 }} AS U, \
               {{ SELECT total_collected_rows AS N, state, request.client_id = client_id AS Own \
                  FROM flows(client_id=I.client_id) }} AS Flow \
             FROM scope()"
        );
        let (rows, log) = run_as(&s, "administrator", &import).await;
        let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
        let row = &rows[0];
        assert!(
            row["C"].as_str().is_some_and(|c| c.starts_with("C.") && c != "C.f"),
            "{row} {log}"
        );
        assert!(row["F"].as_str().is_some_and(|f| f.starts_with("F.") && f != "F.OLD"), "{row}");
        assert_eq!(row["J"], CLIENT);
        assert_eq!(row["Rows"].to_string(), r#"[{"A":0,"Z":7},{"A":1,"Z":7}]"#, "{log}");
        assert_eq!(row["N"], 2);
        assert_eq!(row["Parts"].to_string(), "[10,11]", "{log}");
        assert_eq!((&row["H"], &row["L"]), (&"away".into(), &"said".into()));
        assert_eq!(row["U"], "content", "{log}");
        assert_eq!(row["Flow"].to_string(), r#"{"N":2,"state":"FINISHED","Own":true}"#);
        let away = uploads.replace("\"dir\",\"f.txt\"],\"file_size", "\"..\",\"x\"],\"file_size");
        std::fs::write(
            at.path().join("a.zip"),
            archive(&[whole[1], (&["uploads"], ".json", &away)]),
        )
        .unwrap();
        for (file, why) in [("a.zip", "not below"), ("none", "No such file")] {
            let bad = format!(
                "SELECT import_collection(filename='{}/{file}') AS I FROM scope()",
                at.path().display()
            );
            let (rows, log) = run_as(&s, "administrator", &bad).await;
            assert!(rows == r#"[{"I":null}]"# && log.contains(why), "{rows} {log}");
            let (_, log) = run_as(&s, "investigator", &bad).await;
            assert!(log.contains("COLLECT_SERVER"), "{log}");
        }
    }
}
