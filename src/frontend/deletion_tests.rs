//! A client is deleted while it is connected and sends; it enrols again.

use bytes::Bytes;
use velociraptor_proto::proto::VeloMessage;

use super::tests::{NONCE, TestClient, World, done, enrol, interrogated, poll, post, rows, server};
use super::*;
use crate::comms::server::Answer;
use crate::services::housekeeping::Settle;

fn ok(a: &Answer) -> bool {
    *a == Answer::Reply(Bytes::new())
}

async fn files(s: &Server, client: &str) -> Vec<String> {
    let all = s.files_of_client(&s.root(), client).await.unwrap();
    all.into_iter().map(|f| f.path).filter(|p| !p.ends_with("/key.db")).collect()
}

#[tokio::test]
async fn a_client_deleted_while_it_sends_is_refused_and_may_enrol_again() {
    let w = World::new();
    let c = w.start().await;
    let client = TestClient::new(&w, NONCE);
    let first = interrogated(&c, &w, &client).await;
    let (s, org) = server(&c);
    assert!(ok(&post(&c, client.body(&[rows("F.OLD", "Custom.A", 0, 3)])).await));
    s.label(&org, &client.id, "me", &["old".into()], &[]).await.unwrap();
    s.settle(Settle::All).await;
    s.snapshot_clients().await;
    let before = files(s, &client.id).await;
    assert!(before.iter().any(|p| p.contains(&first)), "{before:?}");

    let removed = s.delete_client(&org, &client.id, "me").await.unwrap();
    assert!(removed.len() > before.len() && removed.iter().all(|r| r.error.is_empty()));
    assert!(removed.last().unwrap().path.ends_with("/key.db"), "the key goes last");
    assert_eq!(files(s, &client.id).await, Vec::<String>::new());
    // Its session is not believed any more, and its data is not acknowledged.
    let more = || client.body(&[rows("F.OLD", "Custom.A", 3, 3)]);
    assert!(matches!(post(&c, more()).await, Answer::Status(500, _)));
    // Then nobody knows it: what it sends is kept for after its enrolment.
    assert!(matches!(post(&c, more()).await, Answer::Status(406, _)));
    assert!(org.state().clients.get(&client.id).is_none());
    enrol(&c, &client).await;
    let info = org.state().clients.get(&client.id).unwrap().info.clone();
    assert!(info.labels.is_empty() && info.hostname.is_empty(), "a new client: {info:?}");
    // Of its former life nothing comes back, whenever it is sent.
    assert!(ok(&post(&c, more()).await));
    assert!(ok(&post(&c, client.body(&[done("F.OLD", 6)])).await));
    assert!(s.flow(&org, &client.id, "F.OLD").await.unwrap().is_none());
    let tasks: Vec<VeloMessage> = poll(&c, &w, &client, 0).await;
    let again = tasks.iter().find(|t| t.flow_request.is_some()).expect("interrogated again");
    let flow = again.session_id.clone();
    assert_ne!(flow, first);
    let jobs = [rows(&flow, "Custom.A", 0, 2), done(&flow, 2)];
    assert!(ok(&post(&c, client.body(&jobs)).await));
    let check = async |c: &Clients, removes: bool| {
        let (s, org) = server(c);
        s.settle(Settle::All).await;
        s.bury_again().await;
        s.snapshot_clients().await;
        assert!(s.flow(&org, &client.id, "F.OLD").await.unwrap().is_none());
        assert!(s.flow(&org, &client.id, &first).await.unwrap().is_none());
        let kept = s.flow(&org, &client.id, &flow).await.unwrap().unwrap();
        assert_eq!(kept.total_collected_rows, 2);
        let left = files(s, &client.id).await;
        assert!(left.iter().all(|p| !p.contains("F.OLD") && !p.contains(&first)), "{left:?}");
        assert!(left.iter().any(|p| p.contains(&flow)));
        if removes {
            s.collect_garbage().await;
        }
    };
    check(&c, false).await;
    // After a crash, and once more when the journals that say it are gone.
    drop(c);
    let c = w.start().await;
    check(&c, true).await;
    drop(c);
    let c = w.start().await;
    check(&c, true).await;
    assert!(ok(&post(&c, client.body(&[rows("F.OLD", "Custom.A", 6, 3)])).await));
    check(&c, true).await;
}
