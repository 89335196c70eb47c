use super::*;

fn artifact(name: &str, more: &str) -> String {
    format!("name: {name}\n{more}sources:\n- query:\n    SELECT a FROM scope()\n")
}

#[test]
fn built_in_definitions_are_valid_and_complete() {
    let r = Repository::built_in().unwrap();
    for a in r.all() {
        validate(&a).unwrap();
        assert!(a.built_in && a.compiled_in, "{}", a.name);
        assert!(!a.description.trim().is_empty(), "{} lacks a description", a.name);
        let file = BUILT_IN.iter().find(|(_, text)| *text == a.raw).unwrap().0;
        assert!(a.is_alias || file == format!("{}.yaml", a.name), "{file} holds {}", a.name);
    }
}

#[test]
fn built_in_names_are_not_for_people() {
    let r = Repository::empty();
    r.add(&artifact("A.B", ""), Origin::Folder).unwrap();
    assert_eq!(r.set(&artifact("A.B", "")), Err(ArtifactError::BuiltIn("A.B".into())));
    assert_eq!(r.remove("A.B"), Err(ArtifactError::BuiltIn("A.B".into())));
    r.set(&artifact("Custom.A.B", "description: mine\n")).unwrap();
    assert_eq!(r.resolve("A.B", true).unwrap().name, "Custom.A.B");
    assert_eq!(r.resolve("A.B", false).unwrap().name, "A.B");
    r.remove("Custom.A.B").unwrap();
    assert_eq!(r.resolve("A.B", true).unwrap().name, "A.B");
}

#[test]
fn aliases_follow_their_definition() {
    let r = Repository::empty();
    r.set(&artifact("Custom.A", "aliases: [Old.A, Older.A]\n")).unwrap();
    let alias = r.get("Old.A").unwrap();
    assert!(alias.is_alias && alias.sources.len() == 1);
    let e = r.set(&artifact("Custom.B", "aliases: [Old.A]\n")).unwrap_err();
    assert!(e.to_string().contains("taken"), "{e}");
    r.set(&artifact("Custom.A", "aliases: [Old.A]\n")).unwrap();
    assert!(r.get("Older.A").is_none() && r.get("Old.A").is_some());
    r.remove("Custom.A").unwrap();
    assert!(r.names().is_empty());
}

#[test]
fn organisations_inherit() {
    let root = Arc::new(Repository::empty());
    root.add(&artifact("A.B", "type: server_event\n"), Origin::Compiled).unwrap();
    let org = Repository::child_of(root.clone());
    org.set(&artifact("Custom.C", "")).unwrap();
    assert!(org.get("A.B").unwrap().is_inherited && !root.get("A.B").unwrap().is_inherited);
    assert_eq!(org.all().len(), 2);
    assert!(root.get("Custom.C").is_none());
    assert_eq!(org.kind_of("A.B/Source"), Some(Kind::ServerEvent));
    let before = org.version();
    root.set(&artifact("Custom.D", "")).unwrap();
    assert_ne!(org.version(), before);
}
