use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::*;
use crate::config::generate::{self, Choices};
use crate::config::patch;
use crate::crypto::certs::Authority;
use crate::env::real;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

/// A master at `m:8000` with a minion `b-8000` and one at port 8100 of the master's host.
static FLEET: LazyLock<Value> = LazyLock::new(|| {
    let choices = Choices { hostname: "m".into(), ..Choices::default() };
    let mut v = generate::server(&*real::env().entropy, now(), &choices).unwrap();
    let extra = json!({
        "API": {"hostname": "api.m", "bind_address": "0.0.0.0", "bind_port": 8009},
        "ExtraFrontends": [{"hostname": "b", "bind_port": 8000}, {"bind_port": 8100}],
    });
    patch::merge(&mut v, &extra);
    v
});

static CA: LazyLock<Authority> = LazyLock::new(|| {
    let (_, c) = files(json!({}));
    Authority::from_pem(&c.client.ca_certificate, &c.ca.private_key).unwrap()
});

static B: LazyLock<NodeIdentity> = LazyLock::new(|| issued("b-8000", 10));

fn issued(name: &str, days: u32) -> NodeIdentity {
    let name = NodeName::parse(name).unwrap();
    NodeIdentity::issue(&CA, &*real::env().entropy, now(), days, &name).unwrap()
}

fn files(change: Value) -> (Document, Config) {
    let mut v = FLEET.clone();
    patch::merge(&mut v, &change);
    let doc = Document::from_value(v, "f").unwrap();
    assert_eq!(doc.problems(), []);
    let config = check::model(&doc).unwrap();
    (doc, config)
}

fn settings(id: &NodeIdentity) -> Settings {
    let mut s = Settings::default();
    s.node.certificate = id.certificate_pem.clone();
    s.node.private_key = id.private_key_pem.to_string();
    s
}

fn plan(change: Value, settings: &Settings, flags: &str) -> Result<NodePlan> {
    let (doc, config) = files(change);
    let mut words = flags.split_whitespace();
    let mut out = Flags::default();
    while let Some(word) = words.next() {
        match word {
            "--minion" => out.minion = true,
            _ => out.node = words.next().map(str::to_owned),
        }
    }
    resolve(&doc, &config, settings, &out, now())
}

fn refused(change: Value, settings: &Settings, flags: &str, path: &str, part: &str) -> Place {
    let e = plan(change, settings, flags).unwrap_err();
    assert!(e.path == path && e.message.contains(part), "{flags}: {e}");
    e.place
}

fn master_of(p: &NodePlan) -> String {
    match &p.role {
        NodeRole::Minion { master, .. } => master.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn alone_master_or_minion() {
    let none = Settings::default();
    let p = plan(json!({"ExtraFrontends": null}), &none, "").unwrap();
    assert!(matches!(p.role, NodeRole::Single));
    assert_eq!((p.name.as_str(), p.role_name()), ("m-8000", "single"));
    // Stock's files name no role: with minions in it, plain `frontend` is the master.
    for flags in ["", "--node m-8000", "--node "] {
        let p = plan(json!({}), &none, flags).unwrap();
        let NodeRole::Master { minions, revoked, identity: None } = &p.role else {
            panic!("{:?}", p.role)
        };
        let all: Vec<_> = minions.iter().map(|m| (m.name.as_str(), &*m.hostname, m.port)).collect();
        assert_eq!(all, [("b-8000", "b", 8000), ("m-8100", "m", 8100)]);
        assert!(revoked.is_empty());
        assert_eq!(p.document.value, files(json!({})).0.value);
    }
    let p = plan(json!({}), &settings(&B), "--minion --node b-8000").unwrap();
    assert_eq!((p.name.as_str(), p.role_name()), ("b-8000", "minion"));
    assert_eq!(p.config.frontend.node_name(), "b-8000");
    assert_eq!(master_of(&p), "api.m:8009");
    assert_eq!(p.identity().unwrap().serial, B.serial);
    assert_eq!(&p.ca.to_pem(), &CA.certificate().to_pem());
}

/// What of an entry of `ExtraFrontends` lies over `Frontend`, key by key.
#[test]
fn a_minion_merges_its_entry_field_by_field() {
    let entry = json!({
        "hostname": "b", "bind_address": "10.0.0.2", "bind_port": 8000, "base_path": "/x",
        "use_plain_http": true, "proxy_header": "X-Real", "tls_certificate_filename": "/c",
        "tls_private_key_filename": "/k", "run_as_user": "u", "collection_error_regex": "E",
        "resources": {"concurrency": 7, "expected_clients": 0},
        "default_client_monitoring_artifacts": ["B"],
    });
    let front = json!({
        "proxy_header": "X-Master", "do_not_compress_artifacts": true,
        "resources": {"concurrency": 3, "expected_clients": 99, "connections_per_second": 55},
        "default_client_monitoring_artifacts": ["A"],
    });
    let change = json!({"Frontend": front, "ExtraFrontends": [{"hostname": "a"}, entry]});
    let (_, master) = files(change.clone());
    let p = plan(change, &settings(&B), "--minion --node b-8000").unwrap();
    let f = &p.config.frontend;
    assert_eq!((f.hostname(), f.bind_address(), f.bind_port()), ("b", "10.0.0.2", 8000));
    assert_eq!((f.base_path.as_str(), f.proxy_header.as_str()), ("/x", "X-Real"));
    assert_eq!((f.run_as_user.as_str(), f.collection_error_regex.as_str()), ("u", "E"));
    let files = (f.tls_certificate_filename.as_str(), f.tls_private_key_filename.as_str());
    assert_eq!(files, ("/c", "/k"));
    // Set on either side: set. Absent, zero or empty in the entry: the master's.
    assert!(f.use_plain_http && f.do_not_compress_artifacts);
    let limits = f.limits();
    assert_eq!((limits.concurrency, limits.expected_clients), (Some(7), 99));
    assert_eq!(limits.connections_per_second, Some(55));
    assert_eq!(f.default_client_monitoring_artifacts, ["A", "B"]);
    // The key agents encrypt to is one.
    assert_eq!(f.private_key, master.frontend.private_key);
    assert_eq!(p.document.get("Frontend.is_minion"), Some(&Value::Bool(true)));
}

#[test]
fn the_name_of_a_minion() {
    let mut s = settings(&B);
    refused(json!({}), &s, "--minion", "--node", "missing");
    refused(json!({}), &s, "--minion --node c-8000", "ExtraFrontends", "m-8000, b-8000, m-8100");
    s.node.name = "b-8000".into();
    let p = plan(json!({}), &s, "--minion").unwrap();
    assert_eq!((p.name.as_str(), p.config.frontend.hostname()), ("b-8000", "b"));
    refused(json!({}), &s, "--minion --node m-8100", "node.name", "b-8000");
    // The older spelling.
    s.cluster.node = std::mem::take(&mut s.node.name);
    assert_eq!(plan(json!({}), &s, "--minion").unwrap().name.as_str(), "b-8000");
    // A file in which Frontend is the minion's already.
    let own = json!({"Frontend": {"hostname": "b"}, "ExtraFrontends": null});
    let p = plan(own, &s, "--minion --node b-8000").unwrap();
    assert_eq!(p.config.frontend.node_name(), "b-8000");
}

#[test]
fn a_role_in_the_settings_is_kept() {
    let mut s = settings(&B);
    s.node.name = "b-8000".into();
    s.node.role = Some(NodeKind::Minion);
    let place = refused(json!({}), &s, "", "node.role", "second master");
    assert_eq!(place, Place::Settings);
    s.node.role = Some(NodeKind::Master);
    refused(json!({}), &s, "--minion --node b-8000", "node.role", "--minion was given");
    let mut s = Settings::default();
    s.node.role = Some(NodeKind::Master);
    let p = plan(json!({"ExtraFrontends": null}), &s, "").unwrap();
    assert!(matches!(p.role, NodeRole::Master { ref minions, .. } if minions.is_empty()));
    let none = Settings::default();
    refused(json!({}), &none, "--node b-8000", "--node", "give --minion");
    refused(json!({}), &none, "--node z-1", "--node", "this is m-8000");
}

#[test]
fn the_masters_address() {
    let s = settings(&B);
    let at =
        |api: Value| plan(json!({"API": api}), &s, "--minion --node b-8000").map(|p| master_of(&p));
    assert_eq!(at(json!({"hostname": "h", "bind_port": null})).unwrap(), "h:8001");
    // Stock resolves to the minion itself here.
    assert_eq!(at(json!({"hostname": null})).unwrap(), "m:8009");
    assert_eq!(at(json!({"hostname": "fe80::1"})).unwrap(), "[fe80::1]:8009");
    for address in ["127.0.0.1", "::1"] {
        let e = at(json!({"hostname": null, "bind_address": address})).unwrap_err();
        assert_eq!((e.place, e.path.as_str()), (Place::Config, "API.hostname"));
    }
    let e = at(json!({"bind_scheme": "unix"})).unwrap_err();
    assert_eq!(e.path, "API.bind_scheme");
    let e = at(json!({"hostname": "a b"})).unwrap_err();
    assert_eq!(e.path, "API.hostname");
    // Frontend is the minion's own: it cannot stand for the master.
    let own =
        json!({"Frontend": {"hostname": "b"}, "ExtraFrontends": null, "API": {"hostname": null}});
    refused(own, &s, "--minion --node b-8000", "API.hostname", "missing");
    let mut s = settings(&B);
    s.cluster.master_address = "elsewhere:1".into();
    let p = plan(json!({"API": {"bind_scheme": "unix"}}), &s, "--minion --node b-8000").unwrap();
    assert_eq!(master_of(&p), "elsewhere:1");
    for bad in ["host", ":1", "h:0", "h:70000", "a:b:1", "[x]:1", "h:", "u@h:1", " :1"] {
        s.cluster.master_address = bad.into();
        let path = "cluster.master_address";
        refused(json!({}), &s, "--minion --node b-8000", path, "host:port");
    }
}

#[test]
fn an_identity_must_be_the_nodes_own() {
    let flags = "--minion --node b-8000";
    refused(json!({}), &Settings::default(), flags, "node.certificate", "missing");
    let mut half = settings(&B);
    half.node.private_key.clear();
    refused(json!({}), &half, flags, "node.private_key", "missing");
    refused(json!({}), &settings(&issued("m-8100", 10)), flags, "node.certificate", "m-8100");
    let mut mixed = settings(&B);
    mixed.node.private_key = issued("b-8000", 10).private_key_pem.to_string();
    refused(json!({}), &mixed, flags, "node.certificate", "does not belong");
    let (doc, config) = files(json!({}));
    let late = now() + Duration::from_secs(11 * 86_400);
    let asked = Flags { minion: true, node: Some("b-8000".into()) };
    let e = resolve(&doc, &config, &settings(&B), &asked, late).unwrap_err();
    assert!(e.message.contains("--reissue"), "{e}");
    // Another deployment's.
    let ca = Authority::generate(&*real::env().entropy, now()).unwrap();
    let foreign = NodeIdentity::issue(&ca, &*real::env().entropy, now(), 10, &B.name).unwrap();
    refused(json!({}), &settings(&foreign), flags, "node.certificate", "not signed");
    // The frontend's certificate proves no node.
    let mut s = Settings::default();
    s.node.certificate = config.frontend.certificate.clone();
    s.node.private_key = config.frontend.private_key.clone();
    refused(json!({}), &s, flags, "node.certificate", "not a node's");
    // A master may have one, and then it must be right too.
    let p = plan(json!({}), &settings(&issued("m-8000", 10)), "").unwrap();
    assert_eq!(p.identity().unwrap().name.as_str(), "m-8000");
    refused(json!({}), &settings(&B), "", "node.certificate", "not m-8000");
}

#[test]
fn revocations_reach_the_plan() {
    let mut s = Settings::default();
    s.cluster.revoked_nodes = vec!["b-8000".into()];
    let p = plan(json!({}), &s, "").unwrap();
    let NodeRole::Master { revoked, .. } = &p.role else { panic!() };
    let cert = Certificate::from_pem(&B.certificate_pem).unwrap();
    let r = crate::crypto::verify_node(&[cert.der()], &p.ca, now(), revoked);
    assert!(matches!(r, Err(NodeError::Revoked { .. })), "{r:?}");
    s.cluster.revoked_nodes.push(String::new());
    refused(json!({}), &s, "", "cluster.revoked_nodes", "empty");
}

proptest::proptest! {
    #[test]
    fn addresses_are_read_as_written(text in "[a-z0-9.:\\[\\]@/ -]{0,24}") {
        if let Ok(a) = text.parse::<Address>() {
            proptest::prop_assert_eq!(a.to_string().parse::<Address>(), Ok(a.clone()));
            proptest::prop_assert!(a.port > 0 && !a.host.is_empty());
        }
    }
}
