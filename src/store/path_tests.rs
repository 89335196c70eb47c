use super::*;
use crate::store::path_type::ALL;

fn v(c: &[&str]) -> Vec<String> {
    owned(c)
}

#[test]
fn numbers_and_extensions() {
    for (n, t) in ALL.iter().enumerate() {
        assert_eq!(t.number(), n as i64);
        assert_eq!(PathType::from_number(n as i64), Some(*t));
    }
    assert_eq!(PathType::from_number(17), None);
    assert_eq!(PathType::from_number(-1), None);
    assert_eq!(PathType::of_object_name("a.json.db"), ("a", ObjectJson));
    assert_eq!(PathType::of_object_name("a.db"), ("a", ObjectProto));
    assert_eq!(PathType::of_object_name("a.json"), ("a.json", ObjectUnknown));
    assert_eq!(PathType::of_file_name("a.json"), ("a", Json));
    assert_eq!(PathType::of_file_name("a.json.index"), ("a", JsonIndex));
    assert_eq!(PathType::of_file_name("a.json.tidx"), ("a", JsonTimeIndex));
    assert_eq!(PathType::of_file_name("a.txt.idx"), ("a.txt", SparseIndex));
    assert_eq!(PathType::of_file_name("a.json.db"), ("a", RawJsonObject));
    assert_eq!(PathType::of_file_name("a.db"), ("a", RawProto));
    assert_eq!(PathType::of_file_name("a.exe"), ("a.exe", Any));
}

#[test]
fn resolves() {
    let root = StoreRoot::new("/ds/", "/fs");
    let org = Org::new("O123");
    let p = PathSpec::escaped(&org, ObjectProto, &["users", "mic@x.org"]);
    assert_eq!(root.resolve(&p).unwrap(), "/ds/orgs/O123/users/mic%40x.org.db");
    let p = PathSpec::verbatim(&Org::new("root"), Json, &["server_artifacts", "A (b)"]);
    assert_eq!(root.resolve(&p).unwrap(), "/fs/server_artifacts/A (b).json");
    let p = p.escaped_child(&["q:1"]);
    assert_eq!(root.resolve(&p).unwrap(), "/fs/server_artifacts/A %28b%29/q%3A1.json");
    let p = PathSpec::escaped(&Org::root(), Any, &["a", "", "b"]);
    assert_eq!(root.resolve(&p).unwrap(), "/fs/a/b");
    assert_eq!(root.resolve(&PathSpec::escaped(&Org::root(), Any, &[])).unwrap(), "/fs");
    assert_eq!(root.temp(StoreKind::Objects, "u"), "/ds/temp/u");
}

#[test]
fn nothing_leaves_its_directory() {
    let org = Org::root();
    let bad = PathSpec::verbatim(&org, ObjectJson, &["hunts", "..", "x"]);
    assert!(matches!(bad.relative(), Err(PathError::Traversal(_))));
    let bad = PathSpec::verbatim(&org, ObjectJson, &["hunts", "a/../../x"]);
    assert!(matches!(bad.relative(), Err(PathError::Traversal(_))));
    let bad = PathSpec::verbatim(&Org::new("../x"), ObjectJson, &["hunts", "a"]);
    assert!(matches!(bad.relative(), Err(PathError::Traversal(_))));
    let bad = PathSpec::verbatim(&org, ObjectJson, &["hunts", "a\0b"]);
    assert!(matches!(bad.relative(), Err(PathError::Traversal(_))));
    assert_eq!(PathSpec::verbatim(&org, ObjectJson, &[""]).relative(), Err(PathError::Empty));
    let ok = PathSpec::escaped(&org, Any, &["temp", "..", "/etc"]);
    assert_eq!(ok.relative().unwrap(), "temp/%2E%2E/%2Fetc");
}

#[test]
fn long_components_need_a_record() {
    let org = Org::root();
    let long = "x".repeat(300);
    let p = PathSpec::escaped(&org, Json, &["clients", "C.1", &long]);
    let hash = escape::long_hash(long.as_bytes());
    assert_eq!(p.relative().unwrap(), format!("clients/C.1/#{hash}.json"));
    assert_eq!(p.long_names().collect::<Vec<_>>(), [long.as_str()]);
    assert_eq!(PathSpec::verbatim(&org, Json, &[&long]).long_names().count(), 0);
}

#[test]
fn untyped_areas() {
    let org = Org::root();
    let typed = |c: &[&str]| {
        let p = PathSpec::from_components(&org, &v(c));
        (p.components.last().cloned().unwrap_or_default(), p.kind)
    };
    assert_eq!(
        typed(&["clients", "C.1", "collections", "F.1", "logs.json"]),
        ("logs".into(), Json)
    );
    let up = ["clients", "C.1", "collections", "F.1", "uploads", "file", "x.json"];
    assert_eq!(typed(&up), ("x.json".into(), Any));
    assert_eq!(typed(&["public", "a.zip"]), ("a.zip".into(), Any));
    assert_eq!(typed(&["downloads", "a.zip"]), ("a".into(), Zip));
    let cell = ["hunts", "H.1", "notebook", "N.1", "NC.1", "uploads", "t.csv"];
    assert_eq!(typed(&cell), ("t.csv".into(), Any));
    assert_eq!(typed(&["notebooks", "N.1", "NC.1", "query_1.json"]), ("query_1".into(), Json));
    let p = PathSpec::from_components(&org, &v(&["a", "b.json.index"]));
    assert_eq!(p.named_components(), v(&["a", "b.json.index"]));
}
