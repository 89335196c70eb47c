//! What queries do to files of the datastore, timelines and what users have.
#![allow(clippy::disallowed_methods)] // looks at files of the test's own

use std::sync::Arc;

use super::tests::{run_as, server};
use crate::services::Server;
use crate::store::FilePath;
use crate::store::path::PathSpec;

async fn file(server: &Arc<Server>, parts: &[&str], data: &[u8]) {
    let parts: Vec<String> = parts.iter().map(|p| (*p).to_owned()).collect();
    let at = FilePath(PathSpec::from_components(&server.root().id, &parts));
    server.tree.set_file(&at, data).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_datastore_are_read_named_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    file(&server, &["downloads", "C.1", "a b.zip"], b"archive").await;
    file(&server, &["clients", "C.1", "monitoring", "A.B", "2026-01-02.json"], b"{}\n").await;
    file(&server, &["config", "secret"], b"nobody's").await;
    let glob = "SELECT OSPath.Path AS P, Size FROM glob(globs='/*/C.1/**', accessor='fs') \
                WHERE NOT IsDir";
    let (rows, log) = run_as(&server, "administrator", glob).await;
    let want = r#"[{"P":"clients/C.1/monitoring/A.B/2026-01-02.json","Size":3},{"P":"downloads/C.1/a b.zip","Size":7}]"#;
    assert_eq!(rows, want, "{log}");
    let (rows, _) = run_as(&server, "reader", glob).await;
    assert_eq!(rows, "[]");
    let read = "SELECT read_file(accessor='fs', filename='fs:/downloads/C.1/a b.zip') AS D, \
                read_file(accessor='fs', filename='/config/secret') AS S FROM scope()";
    let (rows, log) = run_as(&server, "administrator", read).await;
    assert!(rows.contains(r#""D":"archive""#) && !rows.contains("nobody's"), "{rows} {log}");
    assert!(log.contains("PermissionDenied: /config/secret"), "{log}");
    let (rows, log) =
        run_as(&server, "administrator", "SELECT * FROM glob(globs='/config/*', accessor='fs')")
            .await;
    assert_eq!(rows, "[]", "{log}");
    let name = "SELECT file_store(path='fs:/downloads/C.1/a b.zip') AS F FROM scope()";
    let (rows, log) = run_as(&server, "administrator", name).await;
    let on_disk = dir.path().join("downloads/C.1/a b.zip");
    assert!(rows.contains(on_disk.to_str().unwrap()), "{rows} {log}");
    let gone = "SELECT file_store_delete(path='/downloads/C.1/a b.zip') AS F, \
                file_store_delete(path='/users/mike.db') AS U FROM scope()";
    let (_, log) = run_as(&server, "investigator", gone).await;
    assert!(log.contains("SERVER_ADMIN") && on_disk.exists(), "{log}");
    let (rows, log) = run_as(&server, "administrator", gone).await;
    assert_eq!(rows, r#"[{"F":"/downloads/C.1/a b.zip","U":null}]"#, "{log}");
    assert!(!on_disk.exists());
}

#[tokio::test]
async fn a_timeline_is_read_in_the_order_of_its_parts_times() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let add = "LET NotebookId <= 'N.1' \
        SELECT timeline_add(timeline='Case', name='b', key='At', query={ \
            SELECT * FROM parse_json_array(data='[{\"At\":30,\"Message\":\"c\"},{\"At\":10,\"Message\":\"a\",\"X\":1}]') \
        }).timelines.id AS A, \
        timeline_add(timeline='Case', name='a', key='T', message_column='M', ts_desc_column='D', query={ \
            SELECT timestamp(epoch=20) AS T, 'm' AS M, 'why' AS D, 5 AS Y FROM scope() \
        }).timelines.id AS B FROM scope()";
    let (rows, log) = run_as(&server, "reader", add).await;
    assert_eq!(rows, r#"[{"A":["b"],"B":["b","a"]}]"#, "{log}");
    let read = "SELECT Timestamp.Unix AS At, Message, Description, X, Y, _Source \
                FROM timeline(timeline='Case', notebook_id='N.1')";
    let (rows, log) = run_as(&server, "reader", read).await;
    let want = concat!(
        r#"[{"At":10,"Message":"a","Description":"","X":1,"Y":null,"_Source":"b"},"#,
        r#"{"At":20,"Message":"m","Description":"why","X":null,"Y":5,"_Source":"a"},"#,
        r#"{"At":30,"Message":"c","Description":"","X":null,"Y":null,"_Source":"b"}]"#
    );
    assert_eq!(rows, want, "{log}");
    let some =
        "SELECT Message FROM timeline(timeline='Case', notebook_id='N.1', skip='a', start=11)";
    assert_eq!(run_as(&server, "reader", some).await.0, r#"[{"Message":"c"}]"#);
    let delete =
        "SELECT timeline_delete(timeline='Case', notebook_id='N.1', name='b') AS D FROM scope()";
    let (_, log) = run_as(&server, "reader", delete).await;
    assert!(log.contains("NOTEBOOK_EDITOR"), "{log}");
    let (rows, log) = run_as(&server, "analyst", delete).await;
    assert_eq!(rows, r#"[{"D":true}]"#, "{log}");
    let all = "SELECT name, timelines.id AS Parts FROM timelines(notebook_id='N.1')";
    assert_eq!(run_as(&server, "reader", all).await.0, r#"[{"name":"Case","Parts":["a"]}]"#);
    let stored = std::fs::read_to_string(dir.path().join("notebooks/N.1/timelines/Case.json.db"));
    let want = concat!(
        r#"{"name":"Case","timelines":[{"startTime":"20000000000","endTime":"20000000000","#,
        r#""id":"a","timestampColumn":"T","messageColumn":"M","timestampDescriptionColumn":"D"}]}"#
    );
    assert_eq!(stored.unwrap(), want);
    // A notebook goes with its timelines, when that is really wanted.
    let gone = |really: &str| {
        format!(
            "SELECT type AS Type FROM notebook_delete(notebook_id='N.1', really_do_it={really})"
        )
    };
    let (rows, log) = run_as(&server, "administrator", &gone("FALSE")).await;
    assert_eq!(rows.matches("Type").count(), 3, "{rows} {log}");
    assert!(dir.path().join("notebooks/N.1/timelines/Case.json.db").exists());
    run_as(&server, "administrator", &gone("TRUE")).await;
    assert!(!dir.path().join("notebooks/N.1").exists());
    let (_, log) =
        run_as(&server, "administrator", "SELECT * FROM notebook_delete(notebook_id='N./../x')")
            .await;
    assert!(log.contains("no notebook"), "{log}");
}

#[tokio::test]
async fn what_users_have_is_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    for name in ["mike", "other"] {
        server.users.create(name).await.unwrap();
    }
    let set = "SELECT user_options(user='mike', theme='dark', default_password='pw').theme AS T, \
               user_options(user=whoami()).default_password AS P FROM scope()";
    let (rows, log) = run_as(&server, "reader", set).await;
    assert_eq!(rows, r#"[{"T":"dark","P":"pw"}]"#, "{log}");
    let foreign = "SELECT user_options(user='other').theme AS T FROM scope()";
    let (rows, log) = run_as(&server, "reader", foreign).await;
    assert!(rows == r#"[{"T":null}]"# && log.contains("SERVER_ADMIN"), "{rows} {log}");
    let send = "SELECT user_message(user='mike', message=dict(a=1)) AS A, \
                user_message(user='mike', b='two') AS B, \
                user_message(user='nobody', b=1) AS C FROM scope()";
    let (rows, log) = run_as(&server, "reader", send).await;
    assert_eq!(rows, r#"[{"A":"mike","B":"mike","C":null}]"#, "{log}");
    let when = "SELECT Timestamp.Unix > 0 AS T FROM user_messages(user='mike') LIMIT 1";
    assert_eq!(run_as(&server, "reader", when).await.0, r#"[{"T":true}]"#);
    let clear = "SELECT `From`, Message FROM user_messages(clear=TRUE)";
    let (rows, log) = run_as(&server, "reader", clear).await;
    let want = r#"[{"From":"mike","Message":{"a":1}},{"From":"mike","Message":{"b":"two"}}]"#;
    assert_eq!(rows, want, "{log}");
    assert_eq!(run_as(&server, "reader", clear).await.0, "[]", "they are gone");
    let again = "SELECT user_message(user='mike', c=3) AS A FROM scope()";
    run_as(&server, "reader", again).await;
    assert_eq!(run_as(&server, "reader", clear).await.0.matches("From").count(), 1);
    let save = "SELECT favorites_save(name='F', type='CLIENT', description='d', specs=[dict( \
                artifact='A', parameters=dict(env=[dict(key='k', value='v'), dict(key='l')]))] \
                ).spec.artifact AS S FROM scope()";
    let (rows, log) = run_as(&server, "reader", save).await;
    assert_eq!(rows, r#"[{"S":["A"]}]"#, "{log}");
    let list = "SELECT name, type, spec[0].parameters.env[0].value AS V FROM favorites_list()";
    let (rows, log) = run_as(&server, "reader", list).await;
    assert_eq!(rows, r#"[{"name":"F","type":"CLIENT","V":"v"}]"#, "{log}");
    run_as(&server, "reader", "SELECT favorites_delete(name='F', type='CLIENT') FROM scope()")
        .await;
    assert_eq!(run_as(&server, "reader", list).await.0, "[]");
}

#[tokio::test]
async fn tables_of_events_are_changed_one_artifact_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let org = server.root();
    for (name, kind) in [("Custom.S", "SERVER_EVENT"), ("Custom.C", "CLIENT_EVENT")] {
        let text = format!(
            "name: {name}\ntype: {kind}\nparameters:\n- name: P\nsources:\n- query: SELECT 1 FROM scope()\n"
        );
        server.set_artifact(&org, "mike", &text).await.unwrap();
    }
    let add = "SELECT add_server_monitoring(artifact='Custom.S', parameters=dict(P='x')).artifacts AS A, \
               add_server_monitoring(artifact='Custom.C').artifacts AS B, \
               get_server_monitoring().specs[0].parameters.env[0].value AS P FROM scope()";
    let (rows, log) = run_as(&server, "investigator", add).await;
    assert!(rows.contains(r#""A":null"#) && log.contains("COLLECT_SERVER"), "{rows} {log}");
    let (rows, log) = run_as(&server, "administrator", add).await;
    assert_eq!(rows, r#"[{"A":["Custom.S"],"B":null,"P":"x"}]"#, "{log}");
    let remove = "SELECT rm_server_monitoring(artifact='Custom.S').artifacts AS A FROM scope()";
    assert_eq!(run_as(&server, "administrator", remove).await.0, r#"[{"A":[]}]"#);
    let label = "SELECT add_client_monitoring(artifact='Custom.C', label='L').label_events[0].label AS L, \
                 rm_client_monitoring(artifact='Custom.C', label='L').label_events AS N FROM scope()";
    let (rows, log) = run_as(&server, "administrator", label).await;
    assert_eq!(rows, r#"[{"L":"L","N":[]}]"#, "{log}");
}
