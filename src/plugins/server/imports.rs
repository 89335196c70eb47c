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
mod tests {
    use crate::plugins::server::tests::{CLIENT, run_as, server};
    use crate::services::housekeeping::Settle;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_archive_of_a_collection_is_one_again() {
        let dir = tempfile::tempdir().unwrap();
        let s = server(&dir).await;
        let definition = "name: Custom.Two\ntype: SERVER\nsources:\n- name: S\n  query: |\n    \
            SELECT _value AS A, upload(accessor='data', file='content', name='dir/f.txt').Size AS Z \
            FROM range(end=2)\n";
        s.set_artifact(&s.root(), "mike", definition).await.unwrap();
        let start = "SELECT collect_client(client_id='server', artifacts='Custom.Two').flow_id AS F \
                     FROM scope()";
        let (rows, log) = run_as(&s, "administrator", start).await;
        let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
        let flow = rows[0]["F"].as_str().unwrap_or_else(|| panic!("{log}")).to_owned();
        let over = format!("SELECT state FROM flows(client_id='server', flow_id='{flow}')");
        for _ in 0..200 {
            if run_as(&s, "reader", &over).await.0.contains("FINISHED") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        s.settle(Settle::All).await;
        let import = format!(
            "LET Z <= create_flow_download(client_id='server', flow_id='{flow}', wait=TRUE) \
             LET I <= import_collection(filename=Z, accessor='fs', client_id='auto', hostname='away') \
             LET J <= import_collection(filename=Z, accessor='fs', client_id='{CLIENT}') \
             SELECT I.client_id AS C, I.session_id AS F, J.client_id AS J, \
               {{ SELECT A, Z FROM source(client_id=I.client_id, flow_id=I.session_id, \
                    artifact='Custom.Two/S') }} AS Rows, \
               {{ SELECT count() AS N FROM parallelize(client_id=I.client_id, \
                    flow_id=I.session_id, artifact='Custom.Two', batch=1, \
                    query={{ SELECT A FROM source() }}) GROUP BY 1 }} AS N, \
               {{ SELECT A FROM parallelize(client_id=I.client_id, flow_id=I.session_id, \
                    artifact='Custom.Two/S', batch=1, \
                    query={{ SELECT sum(item=A) + 10 AS A FROM source() GROUP BY 1 }}) \
                  ORDER BY A }} AS Parts, \
               {{ SELECT os_info.hostname AS H FROM clients(client_id=I.client_id) }} AS H, \
               {{ SELECT read_file(accessor='fs', filename=vfs_path) AS D \
                  FROM uploads(client_id=I.client_id, flow_id=I.session_id) LIMIT 1 }} AS U, \
               {{ SELECT total_collected_rows AS N, state, request.client_id = client_id AS Own \
                  FROM flows(client_id=I.client_id) }} AS Flow \
             FROM scope()"
        );
        let (rows, log) = run_as(&s, "administrator", &import).await;
        let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
        let row = &rows[0];
        assert!(row["C"].as_str().is_some_and(|c| c.starts_with("C.")), "{row} {log}");
        assert!(row["F"].as_str().is_some_and(|f| f.starts_with("F.") && f != flow), "{row}");
        assert_eq!(row["J"], CLIENT);
        assert_eq!(row["Rows"].to_string(), r#"[{"A":0,"Z":7},{"A":1,"Z":7}]"#, "{log}");
        assert_eq!(row["N"], 2);
        assert_eq!(row["Parts"].to_string(), r#"[{"A":10},{"A":11}]"#, "{log}");
        assert_eq!(row["H"], "away");
        assert_eq!(row["U"], "content", "{log}");
        assert_eq!(row["Flow"].to_string(), r#"{"N":2,"state":"FINISHED","Own":true}"#);
        let bad = "SELECT import_collection(filename='nothing', accessor='data') AS I FROM scope()";
        let (rows, log) = run_as(&s, "administrator", bad).await;
        assert!(rows == r#"[{"I":null}]"# && log.contains("zip"), "{rows} {log}");
        let (_, log) = run_as(&s, "investigator", bad).await;
        assert!(log.contains("COLLECT_SERVER"), "{log}");
    }
}
