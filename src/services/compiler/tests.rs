use super::*;
use crate::services::acl::Policy;
use crate::services::repository::Origin;
use velociraptor_proto::proto::{ApiClientAcl, ArtifactMetadata, ArtifactParameters};

fn repository(texts: &[&str]) -> Repository {
    let r = Repository::empty();
    for text in texts {
        r.add(text, Origin::Folder).unwrap();
    }
    r
}

fn collect(names: &[&str]) -> ArtifactCollectorArgs {
    let artifacts = names.iter().map(|n| n.to_string()).collect();
    ArtifactCollectorArgs { artifacts, ..Default::default() }
}

fn with_env(name: &str, env: &[(&str, &str)]) -> ArtifactSpec {
    let env = env
        .iter()
        .map(|(k, v)| VqlEnv { key: k.to_string(), value: v.to_string(), ..Default::default() })
        .collect();
    let parameters = Some(ArtifactParameters { env });
    ArtifactSpec { artifact: name.into(), parameters, ..Default::default() }
}

const SERIAL: &str = "
name: Test.Serial
precondition: SELECT OS FROM info() WHERE OS = 'linux'
parameters:
- name: N
  type: int
  default: 010
- name: Secret
  type: redacted
export: |
  LET helper(x) = x + 1
sources:
- name: One
  query: |
    -- a comment
    LET a = 0x10   SELECT a, N from scope()
- name: Two
  query: SELECT a FROM scope()
- name: Blank
";

#[test]
fn one_request_shares_a_scope() {
    let r = repository(&[SERIAL]);
    let mut request = collect(&["Test.Serial"]);
    request.specs.push(with_env("Test.Serial", &[("Secret", "x"), ("Extra", "y")]));
    let c = compile(&r, &request, &CompileOptions::default()).unwrap();
    assert_eq!(c.requests.len(), 1);
    let one = &c.requests[0];
    let queries: Vec<_> = one.query.iter().map(|q| (q.name.as_str(), q.vql.as_str())).collect();
    assert_eq!(
        queries,
        [
            ("", "LET N <= int(int=N)"),
            ("", "LET helper(x) = x + 1"),
            ("", "LET a = 16"),
            ("Test.Serial/One", "SELECT a, N FROM scope()"),
            ("Test.Serial/Two", "SELECT a FROM scope()"),
        ]
    );
    let env: Vec<_> = one.env.iter().map(|e| (e.key.as_str(), e.value.as_str())).collect();
    assert_eq!(env, [("N", "010"), ("Secret", "x"), ("Extra", "y")]);
    assert_eq!(one.precondition, "LET N <= int(int=N)\n\nSELECT OS FROM info() WHERE OS = 'linux'");
    assert_eq!((one.query_id, one.total_queries, one.max_row), (1, 1, 1000));
    let mut shown = one.clone();
    redact(&mut shown);
    assert_eq!(shown.env[1].value, "XXXXX");
    assert_eq!(c, compile(&r, &request, &CompileOptions::default()).unwrap());
}

#[test]
fn sources_with_preconditions_run_alone() {
    let r = repository(&["
name: Test.Parallel
sources:
- name: A
  precondition: SELECT OS FROM info()
  query: SELECT a FROM scope()
- name: B
  query: SELECT b FROM scope()
"]);
    let c = compile(&r, &collect(&["Test.Parallel"]), &CompileOptions::default()).unwrap();
    let ids: Vec<_> = c.requests.iter().map(|r| (r.query_id, r.total_queries)).collect();
    assert_eq!(ids, [(1, 2), (2, 2)]);
    assert_eq!(c.requests[0].precondition, "SELECT OS FROM info()");
    assert_eq!(c.requests[1].precondition, "");
}

#[test]
fn names_are_hidden_on_request() {
    let r = repository(&[SERIAL]);
    let hide = |name: &str| format!("${}", name.len());
    let options = CompileOptions { obfuscate: Some(&hide), ..Default::default() };
    let c = compile(&r, &collect(&["Test.Serial"]), &options).unwrap();
    assert_eq!(c.requests[0].query[3].name, "$15");
}

#[test]
fn called_artifacts_travel_along() {
    let r = repository(&[
        "name: A\nimports: [Lib]\nsources:\n- query: SELECT * FROM Artifact.B(x=1)\n",
        "name: B\nparameters:\n- name: x\n  description: long\n  default: 5\nsources:\n- name: S\n  \
         query: |\n    -- gone\n    SELECT * FROM Artifact.C.D()\n",
        "name: C.D\nimports: [Lib2]\nsources:\n- query: SELECT * FROM Artifact.B()\n",
        "name: Lib\nexport: LET lib = 1\n",
        "name: Lib2\nexport: LET lib2 = SELECT * FROM Artifact.E()\n",
        "name: E\nprecondition: SELECT OS FROM info()\nsources:\n- query: SELECT e FROM scope()\n",
        "name: F\nsources:\n- query: SELECT * FROM Artifact.Gone()\n",
    ]);
    let c = compile(&r, &collect(&["A"]), &CompileOptions::default()).unwrap();
    let names: Vec<_> = c.requests[0].artifacts.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["B", "C.D", "E", "Lib2"]);
    let b = &c.requests[0].artifacts[0];
    assert_eq!(b.sources[0].queries, ["SELECT * FROM Artifact.C.D()"]);
    assert_eq!((b.parameters[0].default.as_str(), b.parameters[0].description.as_str()), ("5", ""));
    assert!(b.raw.is_empty());
    let queries: Vec<_> = c.requests[0].query.iter().map(|q| q.vql.as_str()).collect();
    assert_eq!(queries, ["LET lib = 1", "SELECT * FROM Artifact.B(x=1)"]);
    let e = compile(&r, &collect(&["F"]), &CompileOptions::default()).unwrap_err();
    assert_eq!(e, CompileError::UnknownReference { caller: "F".into(), name: "Gone".into() });
}

#[test]
fn limits_come_from_the_request_then_the_artifact() {
    let r = repository(&["
name: A
resources:
  timeout: 100
  max_rows: 7
  cpu_limit: 30
  max_batch_rows: 2000
  max_upload_bytes: 5
sources:
- query: SELECT a FROM scope()
"]);
    let options = CompileOptions { max_row: 1500, max_wait: 9, ..Default::default() };
    let c = compile(&r, &collect(&["A"]), &options).unwrap();
    let one = &c.requests[0];
    assert_eq!((one.timeout, one.cpu_limit, one.max_row, one.max_wait), (100, 30.0, 2000, 9));
    let l = &c.limits;
    assert_eq!((l.timeout, l.max_rows, l.max_upload_bytes), (100, 7, 5));
    let mut request = ArtifactCollectorArgs { timeout: 3, max_rows: 4, ..collect(&["A"]) };
    request.specs.push(ArtifactSpec { max_batch_rows: 8, timeout: 50, ..with_env("A", &[]) });
    let c = compile(&r, &request, &options).unwrap();
    assert_eq!((c.requests[0].timeout, c.requests[0].max_row, c.limits.max_rows), (3, 8, 4));
    let f = flow_request(&request, &c, DEFAULT_LOG_BATCH_MS, "", true);
    assert_eq!((f.log_batch_time, f.max_rows, f.compression), (2000, 4, 1));
}

#[test]
fn kinds_stay_where_they_belong() {
    let r = repository(&[
        "name: Ev\ntype: client_event\nparameters:\n- name: p\n  default: d\nsources:\n- name: S\n  \
         query: SELECT a FROM clock()\n- name: T\n  query: SELECT b FROM clock()\n",
        "name: Cl\nsources:\n- query: SELECT a FROM scope()\n",
        "name: Queue\ntype: client\n",
    ]);
    let none = CompileOptions::default();
    let wrong =
        |c: Result<Compiled, CompileError>| matches!(c, Err(CompileError::WrongKind { .. }));
    assert!(wrong(compile(&r, &collect(&["Ev"]), &none)));
    assert_eq!(compile(&r, &collect(&["Queue"]), &none), Err(CompileError::Empty));
    let specs = [with_env("Ev", &[("p", "q")]), with_env("Gone", &[]), with_env("Ev", &[])];
    let (events, missing) =
        event_requests(&r, &specs, "C.1", EventDefaults::default(), &none).unwrap();
    assert_eq!(missing, [CompileError::NotFound("Gone".into())]);
    assert_eq!(events.len(), 2);
    assert_eq!(events[1].query[0].name, "Ev/T");
    assert_eq!(events[0].env[0].value, "q");
    assert!((120..140).contains(&events[0].max_wait));
    let again = event_requests(&r, &specs, "C.1", EventDefaults::default(), &none).unwrap().0;
    assert_eq!(events, again);
    assert!(
        event_requests(&r, &[with_env("Cl", &[])], "", EventDefaults::default(), &none).is_err()
    );
}

#[test]
fn launching_needs_the_place_and_what_the_artifact_requires() {
    let policy = |role: &str| {
        Policy::of(&ApiClientAcl { roles: vec![role.into()], ..Default::default() }, true)
    };
    let artifact = |permissions: &[&str], basic| Artifact {
        name: "A".into(),
        r#type: "client".into(),
        required_permissions: permissions.iter().map(|p| p.to_string()).collect(),
        metadata: Some(ArtifactMetadata { basic, ..Default::default() }),
        ..Default::default()
    };
    assert!(check_launch(&policy("investigator"), &artifact(&[], false), false).is_ok());
    let e = check_launch(&policy("investigator"), &artifact(&["EXECVE"], false), false);
    assert_eq!(e.unwrap_err().permission, "EXECVE");
    let e = check_launch(&policy("investigator"), &artifact(&[], false), true);
    assert_eq!(e.unwrap_err().permission, "COLLECT_SERVER");
    assert!(check_launch(&policy("administrator"), &artifact(&["EXECVE"], false), true).is_ok());
    let mut basic = ApiClientAcl::default();
    crate::services::acl::set(&mut basic, crate::services::acl::Permission::CollectBasic, true);
    assert!(check_launch(&Policy::of(&basic, true), &artifact(&[], true), false).is_ok());
    assert!(check_launch(&Policy::of(&basic, true), &artifact(&[], false), false).is_err());
}
