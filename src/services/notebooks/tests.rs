use super::*;
use crate::plugins::server::tests::{run_as, server};

#[test]
fn ids_say_what_a_notebook_belongs_to() {
    let of =
        |id: &str| variables(id).into_iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>();
    assert_eq!(of("N.F.CABC-C.12"), ["FlowId=F.CABC", "ClientId=C.12"]);
    assert_eq!(of("N.H.CABC"), ["HuntId=H.CABC"]);
    assert_eq!(of("N.E.A.B/C-server"), ["ArtifactName=A.B/C", "ClientId=server"]);
    assert!(of("N.CABC").is_empty());
    for good in ["N.CABC", "N.F.X-C.1-O123", "N.E.A.B/C-server"] {
        assert!(is_id(good), "{good}");
    }
    for bad in ["", "N.", "X.1", "N.a/b", "N...x", "N.E.../x-C.1", "N.a b", "N.ä"] {
        assert!(!is_id(bad), "{bad}");
    }
    assert!(is_cell("NC.A1", "") && is_cell("NC.A1", "B2"));
    assert!(!is_cell("NC.", "") && !is_cell("NC.a/b", "") && !is_cell("NC.A", "../x"));
}

async fn made(server: &Server, n: &Notebooks, user: &str, public: bool) -> NotebookMetadata {
    let asked = NotebookMetadata { name: "Case".into(), public, ..Default::default() };
    n.create(server, &server.root(), user, asked).await.unwrap().0
}

fn asked(cell: &str, input: &str) -> NotebookCellRequest {
    NotebookCellRequest {
        cell_id: cell.into(),
        input: input.into(),
        r#type: "markdown".into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn who_may_open_a_notebook_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let (org, all) = (server.root(), Notebooks::default());
    let own = made(&server, &all, "ann", false).await;
    let public = made(&server, &all, "ann", true).await;
    let ids = async |user: &str| {
        let found = all.list(&server, &org, user).await.unwrap();
        found.into_iter().map(|n| n.notebook_id).collect::<Vec<_>>()
    };
    assert_eq!(ids("bob").await, [public.notebook_id.as_str()]);
    assert_eq!(ids("ann").await.len(), 2);
    let at = At { server: &server, org: &org, id: &own.notebook_id };
    assert!(matches!(at.open("bob").await, Err(ServiceError::Denied(_))));
    assert!(matches!(all.add(at, "bob", &asked("", "x")).await, Err(ServiceError::Denied(_))));
    assert!(matches!(all.delete(at, "bob").await, Err(ServiceError::Denied(_))));
    let shared = NotebookMetadata { collaborators: vec!["bob".into()], ..own.clone() };
    all.change(at, "ann", shared).await.unwrap();
    assert_eq!(at.open("bob").await.unwrap().creator, "ann");
    // Whoever shares it does not become its author, nor does the call change its id.
    let taken = NotebookMetadata { creator: "bob".into(), ..at.open("bob").await.unwrap() };
    assert_eq!(all.change(at, "bob", taken).await.unwrap().creator, "ann");
}

#[tokio::test]
async fn versions_are_kept_gone_back_to_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let (org, all) = (server.root(), Notebooks::default());
    let n = made(&server, &all, "ann", false).await;
    let at = At { server: &server, org: &org, id: &n.notebook_id };
    let limits = Limits { versions: 3, ..Limits::default() };
    let (_, first) = all.add(at, "ann", &asked("", "# 0")).await.unwrap();
    let id = first.cell_id.clone();
    all.finish(at, NotebookCell { calculating: false, ..first.clone() }).await.unwrap();
    let mut versions = vec![first.current_version];
    for i in 1..5 {
        let (_, cell) =
            all.begin(at, "ann", &asked(&id, &format!("# {i}")), &limits).await.unwrap();
        versions.push(cell.current_version.clone());
        all.finish(at, NotebookCell { calculating: false, ..cell }).await.unwrap();
    }
    let now = at.cell(&id, "").await.unwrap();
    assert_eq!((now.input.as_str(), &now.available_versions), ("# 4", &versions[2..].to_vec()));
    assert!(matches!(at.cell(&id, &versions[1]).await, Err(ServiceError::NotFound(_))));
    let then = all.revert(at, "ann", &id, &versions[2]).await.unwrap();
    assert_eq!(
        (then.input.as_str(), at.cell(&id, "").await.unwrap().input.as_str()),
        ("# 2", "# 2")
    );
    // What was gone back from is gone once something new is written.
    let (_, cell) = all.begin(at, "ann", &asked(&id, "# new"), &limits).await.unwrap();
    assert_eq!(cell.available_versions, [versions[2].clone(), cell.current_version.clone()]);
    assert!(matches!(at.cell(&id, &versions[4]).await, Err(ServiceError::NotFound(_))));
    // What comes late of a version that is gone changes nothing.
    let late = NotebookCell {
        cell_id: id.clone(),
        current_version: versions[4].clone(),
        input: "# late".into(),
        ..Default::default()
    };
    all.finish(at, late).await.unwrap();
    assert_eq!(at.cell(&id, "").await.unwrap().input, "# new");
    let (_, second) = all.add(at, "ann", &asked(&id, "before")).await.unwrap();
    let order = |n: &NotebookMetadata| {
        n.cell_metadata.iter().map(|c| c.cell_id.clone()).collect::<Vec<_>>()
    };
    let now = at.open("ann").await.unwrap();
    assert_eq!(order(&now), [second.cell_id.clone(), id.clone()]);
    let turned = NotebookMetadata {
        cell_metadata: now.cell_metadata.iter().rev().cloned().collect(),
        ..now.clone()
    };
    assert_eq!(
        order(&all.change(at, "ann", turned).await.unwrap()),
        [id.clone(), second.cell_id.clone()]
    );
    all.delete(at, "ann").await.unwrap();
    assert!(at.read().await.unwrap().is_none());
    assert!(!dir.path().join(format!("notebooks/{}", n.notebook_id)).exists());
}

#[tokio::test]
async fn what_is_too_long_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let (org, all) = (server.root(), Notebooks::default());
    let n = made(&server, &all, "ann", false).await;
    let at = At { server: &server, org: &org, id: &n.notebook_id };
    let long = "x".repeat(MAX_INPUT + 1);
    assert!(matches!(all.add(at, "ann", &asked("", &long)).await, Err(ServiceError::Invalid(_))));
    let odd = NotebookCellRequest { r#type: "artifact".into(), ..asked("", "x") };
    assert!(matches!(all.add(at, "ann", &odd).await, Err(ServiceError::Invalid(_))));
    let named = NotebookMetadata { name: "x".repeat(MAX_NAME + 1), ..n.clone() };
    assert!(matches!(all.change(at, "ann", named).await, Err(ServiceError::Invalid(_))));
}

#[tokio::test]
async fn a_query_deletes_a_notebook_when_nobody_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let n = made(&server, &server.notebooks, "ann", false).await;
    let record = dir.path().join(format!("notebooks/{}.json.db", n.notebook_id));
    assert!(record.exists());
    let writing = server.notebooks.one().await;
    let (there, id) = (server.clone(), n.notebook_id.clone());
    let query = tokio::spawn(async move {
        let text = format!("SELECT * FROM notebook_delete(notebook_id='{id}', really_do_it=TRUE)");
        run_as(&there, "administrator", &text).await
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!query.is_finished() && record.exists());
    drop(writing);
    query.await.unwrap();
    assert!(!record.exists());
}
