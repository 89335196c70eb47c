use super::cells::pick;
use super::*;
use crate::plugins::server::tests::{CLIENT, server};
use crate::services::flows::rows_path;

/// A settled set of `n` rows.
async fn set(dir: &tempfile::TempDir, n: u64) -> Set {
    let server = server(dir).await;
    let mut text = String::new();
    for i in 0..n {
        let name = if i % 3 == 0 { "svchost.exe" } else { "Sshd" };
        let _ = writeln!(text, r#"{{"Pid":{},"Name":"{name}","Deep":{{"n":{i}}}}}"#, (i * 7) % n);
    }
    let which = Rows::Results("Linux.Sys.Pslist".into());
    let at = rows_path(&server.root(), CLIENT, "F.1", &which);
    server.settle_rows(&at, 0, &Bytes::from(text)).await.unwrap();
    let of = Of::Flow { client: CLIENT.into(), flow: "F.1".into(), which };
    Set { org: server.root(), server, of }
}

fn pids(page: &Page) -> Vec<String> {
    page.rows.iter().map(|(_, r)| pick(r, ["Pid"])[0].unwrap().to_owned()).collect()
}

fn filtered(column: &str, text: &str) -> View {
    View { filters: vec![Filter::new(column, text).unwrap()], sort: None }
}

#[tokio::test]
async fn pages_of_rows_as_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    let (set, views) = (set(&dir, 100).await, Views::default());
    let page = views.page(&set, &View::default(), 98, 50).await.unwrap();
    assert_eq!((page.total, page.matched, page.rows.len()), (100, 100, 2));
    assert_eq!(page.rows[0].0, 98);
}

#[tokio::test]
async fn filters_exclude_and_combine() {
    let dir = tempfile::tempdir().unwrap();
    // More than one chunk.
    let n = CHUNK + 100;
    let (set, views) = (set(&dir, n).await, Views::default());
    let hits = n.div_ceil(3);
    let page = views.page(&set, &filtered("Name", "SVCHOST"), 0, 3).await.unwrap();
    assert_eq!((page.total, page.matched), (n, hits));
    assert_eq!(page.rows.iter().map(|r| r.0).collect::<Vec<_>>(), [0, 3, 6]);
    let page = views.page(&set, &filtered("Name", "!svchost"), 0, 2).await.unwrap();
    assert_eq!((page.matched, page.rows[0].0), (n - hits, 1));
    // The end of a view, from what was kept.
    let page = views.page(&set, &filtered("Name", "svchost"), hits - 1, 50).await.unwrap();
    assert_eq!(page.rows.len(), 1);
    let mut both = filtered("Name", "sshd");
    both.filters.push(Filter::new("Deep", r#""n":4\b"#).unwrap());
    assert_eq!(views.page(&set, &both, 0, 9).await.unwrap().matched, 1);
    // An empty column is the whole row.
    assert_eq!(views.page(&set, &filtered("", r#""n":4}"#), 0, 9).await.unwrap().matched, 1);
    assert!(Filter::new("Name", "(").unwrap_err().to_string().contains("Name"));
}

#[tokio::test]
async fn the_first_rows_in_order_need_no_memory_for_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let set = set(&dir, 1000).await;
    let views = Views::new(Limits { sort_rows: 100, ..Limits::default() });
    let view = |descending| View { sort: Some(("Pid".into(), descending)), ..View::default() };
    let page = views.page(&set, &view(false), 2, 3).await.unwrap();
    assert_eq!(pids(&page), ["2", "3", "4"]);
    let page = views.page(&set, &view(true), 0, 2).await.unwrap();
    assert_eq!((pids(&page), page.matched), (vec!["999".into(), "998".into()], 1000));
    let e = views.page(&set, &view(true), 100, 2).await.unwrap_err();
    assert!(e.to_string().contains("first 100 rows"), "{e}");
    // All of a few is not too much, however many there were before the filter.
    let few = View { filters: vec![Filter::new("Pid", "^99.$").unwrap()], ..view(true) };
    assert_eq!(views.order(&set, &few, 1000).await.unwrap().rows.len(), 10);
    let small = Views::new(Limits { scan_rows: 10, ..Limits::default() });
    assert!(small.page(&set, &view(true), 0, 2).await.is_err());
}

#[tokio::test]
async fn values_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (set, views) = (set(&dir, 10).await, Views::default());
    let c = views.count(&set, &View::default(), "Name", 1).await.unwrap();
    assert_eq!((c.values, c.distinct, c.rows), (vec![("Sshd".into(), 6)], 2, 10));
    let c = views.count(&set, &filtered("Name", "svc"), "Name", 9).await.unwrap();
    assert_eq!(c.values, [("svchost.exe".into(), 4)]);
}

#[test]
fn views_are_kept_within_their_limit() {
    let views = Views::new(Limits { kept_rows: 1000, ..Limits::default() });
    let order = |n| Arc::new(Order { rows: vec![0; n], matched: n as u64 });
    for (name, n) in [("a", 300), ("b", 300), ("c", 300), ("d", 5000)] {
        views.keep(name.into(), &order(n));
    }
    assert!(views.kept("d").is_some() && views.kept("c").is_none());
    views.keep("e".into(), &order(300));
    views.keep("f".into(), &order(300));
    assert!(views.kept("e").is_some() && views.kept("f").is_some());
}

#[allow(clippy::disallowed_methods)] // damages files of the test's own directory
#[tokio::test]
async fn every_row_is_looked_at_however_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    let whole = set(&dir, CHUNK + 500).await;
    let views = Views::default();
    let Of::Flow { client, flow, which } = whole.of.clone() else { panic!("a flow's set") };
    let at = rows_path(&whole.server.root(), &client, &flow, &which);
    let path = |p: &FilePath| whole.server.tree.root.file(p).unwrap();
    let hits = |set: Set, text: &'static str| {
        let views = &views;
        async move { views.page(&set, &filtered("Name", text), 0, 1).await.unwrap().matched }
    };
    assert_eq!(hits(whole.clone(), "^sshd$").await, (CHUNK + 500) * 2 / 3);
    // Some of its rows, a hit at either end.
    let section = Of::Section { client, flow, which, from: 1, to: CHUNK + 3 };
    let section = Set { of: section, ..whole.clone() };
    assert_eq!(hits(section.clone(), "ssh").await, (CHUNK + 2) * 2 / 3 + 1);
    let page = views.page(&section, &filtered("Pid", "^7$"), 0, 5).await.unwrap();
    assert_eq!(page.rows.iter().map(|r| r.0).collect::<Vec<_>>(), [0]);
    // A damaged row keeps its number, and is not shown.
    let mut data = std::fs::read(path(&at)).unwrap();
    let second = data.iter().position(|c| *c == b'\n').unwrap() + 1;
    data[second] = b'x';
    std::fs::write(path(&at), &data).unwrap();
    let views = Views::default();
    let page = views.page(&whole, &filtered("Name", "ssh"), 0, 2).await.unwrap();
    assert_eq!(page.rows.iter().map(|r| r.0).collect::<Vec<_>>(), [2, 4]);
    assert!(page.rows[0].1.starts_with(br#"{"Pid":14,"#), "{page:?}");
    // Without an index, rows are those that are some.
    std::fs::remove_file(path(&at.index())).unwrap();
    let views = Views::default();
    let page = views.page(&whole, &filtered("Name", "ssh"), 0, 2).await.unwrap();
    assert_eq!((page.total, page.matched), (CHUNK + 499, (CHUNK + 500) * 2 / 3 - 1));
    assert_eq!(page.rows.iter().map(|r| r.0).collect::<Vec<_>>(), [1, 3]);
}

#[tokio::test]
async fn sources_without_a_name_share_a_set() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    let root = server.root();
    let text = "name: Custom.Two\nsources:\n- query: SELECT 1 AS A FROM scope()\n\
                - query: SELECT 2 AS A FROM scope()\n- name: Own\n  query: SELECT 3 AS A FROM scope()\n";
    server.set_artifact(&root, "ann", text).await.unwrap();
    assert_eq!(sets_of(&root, &["Custom.Two".into()]), ["Custom.Two", "Custom.Two/Own"]);
}
