//! Which event queries a client must get: what it claims to have, against what it should have.

use velociraptor_proto::proto::{ArtifactCollectorArgs, ClientEventTable, LabelEvents};

use super::tests::{World, server};
use crate::services::server::{Org, Server};

fn of(name: &str) -> Option<ArtifactCollectorArgs> {
    Some(ArtifactCollectorArgs { artifacts: vec![name.into()], ..Default::default() })
}

async fn define(s: &Server, org: &Org, name: &str, query: &str) {
    let text = format!("name: {name}\ntype: CLIENT_EVENT\nsources:\n  - query: {query}\n");
    s.set_artifact(org, "me", &text).await.unwrap();
}

/// The version a client is to have that claims this one; `None` if it has what it should.
/// Asked twice: what was found out once is remembered.
async fn due(s: &Server, org: &Org, claim: u64) -> Option<(u64, usize)> {
    let mut answers = Vec::new();
    for _ in 0..2 {
        let table = s.event_table(org, "C.1", claim).await.unwrap();
        let table = table.and_then(|m| m.update_event_table);
        answers.push(table.map(|t| (t.version, t.event.len())));
    }
    assert_eq!(answers[0], answers[1]);
    answers[0]
}

#[tokio::test]
async fn a_client_is_sent_its_table_when_anything_that_makes_it_changes() {
    let w = World::new();
    let c = w.start().await;
    let (s, org) = server(&c);
    let (s, org) = (&s, &*org);
    define(s, org, "Custom.All", "SELECT 1 FROM clock()").await;
    define(s, org, "Custom.Some", "SELECT 2 FROM clock()").await;
    let table = ClientEventTable {
        artifacts: of("Custom.All"),
        label_events: vec![LabelEvents { label: "Some".into(), artifacts: of("Custom.Some") }],
        ..Default::default()
    };
    s.set_monitoring(org, table.clone()).await.unwrap();

    let (first, queries) = due(s, org, 0).await.expect("a client without a table");
    assert_eq!(queries, 1);
    assert_eq!(due(s, org, first).await, None);

    // A definition.
    define(s, org, "Custom.All", "SELECT 3 FROM clock()").await;
    let (second, _) = due(s, org, first).await.expect("the query is another");
    assert!(second > first);
    assert_eq!(due(s, org, second).await, None);
    assert!(due(s, org, first).await.is_some());

    // A label.
    org.state().clients.entry("C.1").info.labels.push("some".into());
    let (third, queries) = due(s, org, second).await.expect("there is one query more");
    assert!(third > second);
    assert_eq!(queries, 2);
    assert_eq!(due(s, org, third).await, None);
    org.state().clients.entry("C.1").info.labels.clear();
    let (fourth, queries) = due(s, org, third).await.expect("there is one less");
    assert!(fourth > third, "a client takes no smaller one");
    assert_eq!(queries, 1);

    // The table.
    s.set_monitoring(org, ClientEventTable { artifacts: None, ..table }).await.unwrap();
    let (fifth, queries) = due(s, org, fourth).await.expect("nothing is left");
    assert_eq!(queries, 0);
    assert_eq!(due(s, org, fifth).await, None);
    assert_eq!(due(s, org, 0).await, None, "without a table it has what it should");

    // An artifact that the table names and nobody has defined yet.
    let named = ClientEventTable { artifacts: of("Custom.Later"), ..Default::default() };
    s.set_monitoring(org, named).await.unwrap();
    assert_eq!(due(s, org, fifth).await, None);
    define(s, org, "Custom.Later", "SELECT 4 FROM clock()").await;
    assert_eq!(due(s, org, fifth).await.map(|t| t.1), Some(1));
}
