use super::*;
use crate::services::repository::Origin;
use vql::{ArgType, Signature, Value};

fn judge(texts: &[&str]) -> Vec<Report> {
    let repository = Repository::empty();
    for text in texts {
        let _ = repository.add(text, Origin::Folder);
    }
    let mut registry = Registry::standard();
    registry
        .function_sync(Signature::new("upload", "").required("file", ArgType::Path, ""), |_, _| {
            Ok(Value::Null)
        });
    let accessors = BTreeSet::from(["file".to_owned()]);
    let judge = Judge {
        repository: &repository,
        agent: &registry,
        server: &registry,
        accessors: &accessors,
    };
    texts.iter().enumerate().map(|(i, t)| judge.file(&format!("{i}.yaml"), t)).collect()
}

fn shown(report: &Report) -> Vec<String> {
    let one = |p: &Problem| {
        let first = p.message.lines().next().unwrap_or_default();
        format!("{}:{} {:?} {first}", p.line, p.column, p.fault)
    };
    report.problems.iter().map(one).collect()
}

#[test]
fn faults_are_named_with_their_place() {
    let text = "name: Custom.A\nparameters:\n  - name: P\n    type: bool\nsources:\n  - query: |\n      \
                LET own(x) = x\n      SELECT own(x=1), nosuch(a=1), hash(paht=P)\n      \
                FROM glob(globs='/*', accessor='nothing')\n  - query:\n        \
                SELECT * FROM Artifact.Custom.B(p=1, Q=2)\n";
    let b =
        "name: Custom.B\nparameters:\n- name: Q\nsources:\n- query: SELECT 1 AS A FROM scope()\n";
    let reports = judge(&[text, b]);
    assert_eq!(
        shown(&reports[0]),
        [
            "8:24 Name unknown function nosuch",
            "8:37 Argument function hash needs the argument path",
            "8:42 Argument function hash has no argument paht",
            "9:29 Name unknown accessor nothing",
            "11:41 Argument artifact Custom.B has no parameter p",
        ]
    );
    assert!(shown(&reports[1]).is_empty());
    let total = sum(&reports);
    assert_eq!((total.known.of, total.compile.of, total.parse.of), (1, 2, 2));
}

#[test]
fn texts_that_do_not_parse() {
    let reports = judge(&[
        "name: Custom.A\nsources:\n- query: |\n    SELECT a\n    FRM b()\n",
        "name: Custom.A\ncolour: red\n",
        "name: Custom.A\nsources:\n- query: SELECT * FROM Artifact.Custom.Nowhere()\n",
    ]);
    assert!(shown(&reports[0])[0].starts_with("5:5 Compile query: unexpected"), "{reports:?}");
    assert!(shown(&reports[1])[0].starts_with("2:"), "{reports:?}");
    assert!(shown(&reports[2]).iter().any(|p| p.contains("Name unknown artifact")), "{reports:?}");
    let total = sum(&reports);
    assert_eq!((total.parse.of, total.compile.of, total.known.of), (2, 0, 0));
}

#[test]
fn what_is_not_here_is_told_through_calls_imports_and_conversions() {
    let a = "name: Custom.A\nimports: [Custom.C]\nparameters:\n- name: T\n  type: csv\nsources:\n\
             - query: SELECT upload(file=a, name=b) FROM Artifact.Custom.B()\n\
             - precondition: SELECT OS FROM info() WHERE OS = 'windows'\n  query: SELECT * FROM wmi(query=1)\n";
    let b =
        "name: Custom.B\nsources:\n- query: SELECT stat(filename=1, accessor='zip') FROM scope()\n";
    let c = "name: Custom.C\nexport: LET f = magic(path=1)\nsources:\n- query: SELECT * FROM sqlite(file=1, query=2)\n";
    let reports = judge(&[a, b, c]);
    let missing: Vec<_> = reports[0].missing.iter().map(String::as_str).collect();
    let expected = [
        "accessor data",
        "accessor zip",
        "function magic",
        "function stat",
        "function upload(name)",
        "plugin info",
    ];
    assert_eq!(missing, expected);
    assert!(reports[0].linux && !reports[0].server);
    let total = sum(&reports);
    assert_eq!(total.implemented_linux, Share { of: 0, all: 3 });
    assert_eq!(total.missing[0].1, 2);
}
