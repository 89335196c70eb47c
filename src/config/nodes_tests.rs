use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::config::generate::{self, Choices};
use crate::config::role::{Flags, NodePlan, NodeRole};
use crate::config::{Level, Role, patch};
use crate::crypto::certs::Certificate;
use crate::crypto::{Revocations, verify_node};
use crate::env::real;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

/// A single server at `m.example.org:8000`, its CA's key in it.
static ALONE: LazyLock<Value> = LazyLock::new(|| {
    let choices = Choices {
        hostname: "m.example.org".into(),
        datastore: "/srv/velociraptor".into(),
        users: vec![("ann".into(), "secret".into())],
        ..Choices::default()
    };
    let mut v = generate::server(&*real::env().entropy, now(), &choices).unwrap();
    let secrets = json!({
        "Mail": {"auth_password": "post"},
        "Frontend": {"dyn_dns": {"ddns_password": "dns"}},
        "api_config": {"client_private_key": "api"},
        "GUI": {"authenticator": {"oauth_client_secret": "oauth"}},
    });
    patch::merge(&mut v, &secrets);
    v
});

static CA: LazyLock<Authority> = LazyLock::new(|| {
    let c = check::model(&alone()).unwrap();
    Authority::from_pem(&c.client.ca_certificate, &c.ca.private_key).unwrap()
});

fn alone() -> Document {
    Document::from_value(ALONE.clone(), "f").unwrap()
}

fn add(names: &[(&str, u16)]) -> Change {
    let new = |(h, p): &(&str, u16)| NewMinion {
        hostname: (*h).into(),
        port: (*p > 0).then_some(*p),
        bind_address: "0.0.0.0".into(),
    };
    Change { add: names.iter().map(new).collect(), ..Change::default() }
}

/// The files of a run by name; `before` is what an earlier run left.
fn made(
    doc: &Document,
    settings: &Settings,
    before: &BTreeMap<String, String>,
    reissue: &[&str],
) -> Result<(BTreeMap<String, String>, Vec<String>), ConfigError> {
    let reissue = Reissue::new(reissue.iter().map(|s| (*s).to_owned()).collect());
    let env = real::env();
    let issuing = Issuing {
        authority: Some(&CA),
        entropy: &*env.entropy,
        now: now(),
        days: 20,
        reissue: &reissue,
    };
    let made = files(doc, settings, &issuing, before)?;
    Ok((made.files.into_iter().map(|f| (f.name, f.text.to_string())).collect(), made.notes))
}

fn document(files: &BTreeMap<String, String>, name: &str) -> Document {
    let doc = Document::parse(&files[name], name).unwrap();
    assert_eq!(doc.problems(), []);
    doc
}

fn settings(files: &BTreeMap<String, String>, name: &str) -> Settings {
    Settings::parse(&files[name]).unwrap()
}

/// What a node starts with, from its two files.
fn start(files: &BTreeMap<String, String>, stem: &str, flags: &Flags) -> NodePlan {
    let doc = document(files, &format!("{stem}.config.yaml"));
    let settings = settings(files, &format!("{stem}.fleet.yaml"));
    let role = if flags.minion { Role::Minion } else { Role::Server };
    let all = check::check(&doc, &settings, role, now());
    assert!(all.iter().all(|f| f.level < Level::Warning), "{all:?}");
    role::resolve(&doc, &check::model(&doc).unwrap(), &settings, flags, now()).unwrap()
}

fn minion(files: &BTreeMap<String, String>, name: &str) -> NodePlan {
    let flags = Flags { minion: true, node: Some(name.into()) };
    start(files, &format!("minion.{name}"), &flags)
}

#[test]
fn two_minions_from_a_single_server() {
    let mut doc = alone();
    let notes = extend(&mut doc, &add(&[("b.example.org", 0), ("m.example.org", 8100)])).unwrap();
    assert!(notes.iter().any(|n| n.contains("0.0.0.0 port 8001")), "{notes:?}");
    let (files, notes) = made(&doc, &Settings::default(), &BTreeMap::new(), &[]).unwrap();
    assert_eq!(notes, [""; 0]);
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "client.config.yaml",
            "minion.b.example.org-8000.config.yaml",
            "minion.b.example.org-8000.fleet.yaml",
            "minion.m.example.org-8100.config.yaml",
            "minion.m.example.org-8100.fleet.yaml",
            "server.config.yaml",
            "server.fleet.yaml",
        ]
    );
    // What stock's own command sets.
    let server = document(&files, MASTER_FILE);
    let entry = json!({"hostname": "b.example.org", "bind_address": "0.0.0.0", "bind_port": 8000});
    assert_eq!(server.get("ExtraFrontends").unwrap()[0], entry);
    assert_eq!(server.text("API.hostname"), Some("m.example.org"));
    assert_eq!(server.text("API.bind_address"), Some("0.0.0.0"));
    assert_eq!(server.text("Datastore.master_implementation"), Some("MemcacheFileDataStore"));
    assert_eq!(server.text("Datastore.minion_implementation"), Some("RemoteFileDataStore"));
    assert_eq!(server.get("Datastore.implementation"), None);
    let urls = json!([
        "https://m.example.org:8000/",
        "https://b.example.org:8000/",
        "https://m.example.org:8100/"
    ]);
    assert_eq!(server.get("Client.server_urls"), Some(&urls));
    let client = document(&files, CLIENT_FILE);
    assert_eq!(client.get("Client"), server.get("Client"));
    // And what each starts as.
    let plan = start(&files, "server", &Flags::default());
    let NodeRole::Master { minions, identity: Some(_), .. } = &plan.role else { panic!() };
    assert_eq!(minions.len(), 2);
    let b = minion(&files, "b.example.org-8000");
    let NodeRole::Minion { master, identity } = &b.role else { panic!() };
    assert_eq!(master.to_string(), "m.example.org:8001");
    assert_eq!(identity.not_after, 1_780_000_000 + 20 * 86_400);
    assert_eq!(b.config.frontend.node_name(), "b.example.org-8000");
    // Nodes of one host listen for metrics on ports of their own.
    assert_eq!(b.config.monitoring.bind_port(), 8003);
    let second = minion(&files, "m.example.org-8100");
    assert_eq!(second.config.monitoring.bind_port(), 8004);
    // A minion cannot be started as a second master, nor as another.
    let doc = document(&files, "minion.b.example.org-8000.config.yaml");
    let own = settings(&files, "minion.b.example.org-8000.fleet.yaml");
    let config = check::model(&doc).unwrap();
    assert!(role::resolve(&doc, &config, &own, &Flags::default(), now()).is_err());
    let flags = Flags { minion: true, node: None };
    let plan = role::resolve(&doc, &config, &own, &flags, now()).unwrap();
    assert_eq!(plan.name.as_str(), "b.example.org-8000");
}

/// Every secret is where it must be, and nowhere else.
#[test]
fn secrets_stay_where_they_belong() {
    let mut doc = alone();
    extend(&mut doc, &add(&[("b", 0), ("c", 0)])).unwrap();
    let (files, _) = made(&doc, &Settings::default(), &BTreeMap::new(), &[]).unwrap();
    // PEM stands indented in YAML: compare what cannot be folded away.
    let flat = |s: &str| s.split_whitespace().collect::<String>();
    let texts: BTreeMap<&str, String> = files.iter().map(|(k, v)| (k.as_str(), flat(v))).collect();
    let holders = |secret: &str| -> Vec<&str> {
        let secret = flat(secret);
        assert!(secret.len() > 2);
        texts.iter().filter(|(_, t)| t.contains(&secret)).map(|(k, _)| *k).collect()
    };
    let masters = alone();
    let text = |path: &str| masters.text(path).unwrap();
    assert_eq!(holders(text("CA.private_key")), [""; 0]);
    assert_eq!(holders(text("GUI.gw_private_key")), [MASTER_FILE]);
    let hash = masters.get("GUI.initial_users").unwrap()[0]["password_hash"].as_str().unwrap();
    for secret in [hash, "auth_password:post", "ddns_password:dns", "oauth_client_secret:oauth"] {
        assert_eq!(holders(secret), [MASTER_FILE], "{secret}");
    }
    assert_eq!(holders("client_private_key:api"), [MASTER_FILE]);
    let configs = ["minion.b-8000.config.yaml", "minion.c-8000.config.yaml", MASTER_FILE];
    assert_eq!(holders(text("Frontend.private_key")), configs);
    for node in ["b-8000", "c-8000"] {
        let own = settings(&files, &format!("minion.{node}.fleet.yaml"));
        let pair = [format!("minion.{node}.config.yaml"), format!("minion.{node}.fleet.yaml")];
        assert_eq!(holders(&own.node.private_key), pair);
    }
    let own = settings(&files, MASTER_SETTINGS_FILE);
    assert_eq!(holders(&own.node.private_key), [MASTER_SETTINGS_FILE]);
    let b = document(&files, "minion.b-8000.config.yaml");
    assert_eq!(b.get("ExtraFrontends").unwrap().as_array().unwrap().len(), 1);
}

#[test]
fn another_node_later() {
    let mut doc = alone();
    extend(&mut doc, &add(&[("b", 0)])).unwrap();
    let (first, _) = made(&doc, &Settings::default(), &BTreeMap::new(), &[]).unwrap();
    let tuned = settings(&first, MASTER_SETTINGS_FILE);
    let mut doc = document(&first, MASTER_FILE);
    extend(&mut doc, &add(&[("c", 0)])).unwrap();
    let (second, notes) = made(&doc, &tuned, &first, &[]).unwrap();
    assert_eq!(notes, [""; 0]);
    // What was issued stays; the configurations know the new node.
    assert_eq!(second["minion.b-8000.fleet.yaml"], first["minion.b-8000.fleet.yaml"]);
    let b = minion(&second, "b-8000");
    assert_eq!(b.config.client.server_urls.len(), 3);
    minion(&second, "c-8000");
    let master = settings(&second, MASTER_SETTINGS_FILE);
    let issued: Vec<_> = master.cluster.issued.iter().map(|i| i.node.as_str()).collect();
    assert_eq!(issued, ["b-8000", "m.example.org-8000", "c-8000"]);
    assert_eq!(master.node, tuned.node);
    // Taken to its node and gone from here: not issued again.
    let mut gone = second.clone();
    gone.remove("minion.b-8000.fleet.yaml");
    let (third, notes) = made(&doc, &master, &gone, &[]).unwrap();
    assert!(!third.contains_key("minion.b-8000.fleet.yaml"));
    assert!(notes[0].contains("minion.b-8000.fleet.yaml") && notes[0].contains("--reissue"));
    assert_eq!(settings(&third, MASTER_SETTINGS_FILE), master);
    // Unless asked for.
    let (fourth, _) = made(&doc, &master, &gone, &["b-8000"]).unwrap();
    let serial = |files: &BTreeMap<String, String>, n: &str| {
        minion(files, n).identity().unwrap().serial.clone()
    };
    assert_ne!(serial(&fourth, "b-8000"), serial(&second, "b-8000"));
    assert_eq!(serial(&fourth, "c-8000"), serial(&second, "c-8000"));
    let (fifth, _) = made(&doc, &master, &second, &["all"]).unwrap();
    for n in ["b-8000", "c-8000"] {
        assert_ne!(serial(&fifth, n), serial(&second, n));
    }
    assert_ne!(settings(&fifth, MASTER_SETTINGS_FILE).node, master.node);
    let e = made(&doc, &master, &second, &["z-1"]).unwrap_err().to_string();
    assert!(e.contains("z-1") && e.contains("b-8000"), "{e}");
}

/// Settings a node was given by hand outlive a run; the keys of rotations reach all.
#[test]
fn settings_of_a_node_are_kept() {
    let mut doc = alone();
    extend(&mut doc, &add(&[("b", 0)])).unwrap();
    let mut masters = Settings::default();
    masters.limits.connections = 7;
    masters.rotation.old_private_keys = vec!["one\n".into()];
    let (mut files, _) = made(&doc, &masters, &BTreeMap::new(), &[]).unwrap();
    let file = "minion.b-8000.fleet.yaml";
    let mut own = settings(&files, file);
    assert_eq!((own.limits.connections, own.rotation.clone()), (7, masters.rotation.clone()));
    assert!(own.cluster.issued.is_empty());
    own.limits.connections = 9;
    files.insert(file.into(), own.to_yaml());
    let mut masters = settings(&files, MASTER_SETTINGS_FILE);
    masters.rotation.old_private_keys.insert(0, "two\n".into());
    for reissue in [&[][..], &["b-8000"]] {
        let (again, _) = made(&doc, &masters, &files, reissue).unwrap();
        let now = settings(&again, file);
        assert_eq!((now.limits.connections, &now.rotation), (9, &masters.rotation));
        assert_eq!(now.node == own.node, reissue.is_empty());
    }
    files.insert(file.into(), "jurnal: 1\n".into());
    let e = made(&doc, &masters, &files, &[]).unwrap_err().to_string();
    assert!(e.contains(file) && e.contains("jurnal"), "{e}");
}

#[test]
fn urls_follow_the_first() {
    let with = |urls: Value, change: &Change| -> Result<Vec<String>, ConfigError> {
        let mut doc = alone();
        doc.set("Client.server_urls", urls);
        extend(&mut doc, change)?;
        Ok(check::model(&doc)?.client.server_urls)
    };
    let b = add(&[("b", 0)]);
    let wss = json!(["wss://M.example.org:8000/base/"]);
    assert_eq!(
        with(wss.clone(), &b).unwrap(),
        ["wss://m.example.org:8000/base/", "wss://b:8000/base/"]
    );
    let without = Change { master_url: MasterUrl::Remove, ..b.clone() };
    assert_eq!(with(wss, &without).unwrap(), ["wss://b:8000/base/"]);
    let keep = Change { master_url: MasterUrl::Keep, ..b.clone() };
    assert_eq!(
        with(json!(["https://b:8000/"]), &keep).unwrap(),
        ["https://b:8000/", "https://m.example.org:8000/"]
    );
    let lb = json!(["https://lb/"]);
    let kept = Change { keep_urls: true, ..b.clone() };
    assert_eq!(with(lb.clone(), &kept).unwrap(), ["https://lb/"]);
    assert_eq!(with(lb, &b).unwrap(), ["https://lb/", "https://b:8000/"]);
    let ports = add(&[("b", 443), ("fe80::2", 8000)]);
    assert_eq!(
        with(json!(["https://m.example.org:8000/"]), &ports).unwrap()[1..],
        ["https://b/", "https://[fe80::2]:8000/"]
    );
    assert!(with(json!(["nothing"]), &b).is_err() && with(json!([]), &b).is_err());
}

#[test]
fn impossible_changes_are_refused() {
    for (change, part) in [
        (add(&[]), "--hostname"),
        (add(&[("b", 1), ("b", 1)]), "b-1"),
        (add(&[("m.example.org", 8000)]), "m.example.org-8000"),
        (add(&[("a b", 8000)]), "a space"),
        (add(&[("a|b", 8000)]), "URL"),
    ] {
        let mut doc = alone();
        let e = extend(&mut doc, &change).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    }
    // A key that is not there is only missed if something is to be issued.
    let mut doc = alone();
    extend(&mut doc, &add(&[("b", 0)])).unwrap();
    let (first, _) = made(&doc, &Settings::default(), &BTreeMap::new(), &[]).unwrap();
    let env = real::env();
    let none = Issuing {
        authority: None,
        entropy: &*env.entropy,
        now: now(),
        days: 20,
        reissue: &Reissue::default(),
    };
    let e = files(&doc, &Settings::default(), &none, &BTreeMap::new()).err().unwrap().to_string();
    assert!(e.contains("--ca_key"), "{e}");
    let again = files(&doc, &settings(&first, MASTER_SETTINGS_FILE), &none, &first).unwrap();
    assert_eq!(again.files.len(), 5);
}

#[test]
fn an_api_behind_loopback_is_opened() {
    let run = |api: Value, change: &Change| {
        let mut v = ALONE.clone();
        patch::merge(&mut v, &json!({"API": api}));
        let mut doc = Document::from_value(v, "f").unwrap();
        let notes = extend(&mut doc, change).unwrap();
        (doc.text("API.bind_address").unwrap().to_owned(), doc, notes)
    };
    let b = add(&[("b", 0)]);
    assert_eq!(run(json!({"bind_address": "::1"}), &b).0, "0.0.0.0");
    assert_eq!(run(json!({"bind_address": "10.0.0.1"}), &b).0, "10.0.0.1");
    let (address, doc, _) = run(json!({"bind_scheme": "unix", "bind_address": "/run/v"}), &b);
    assert_eq!((address.as_str(), doc.text("API.bind_scheme")), ("0.0.0.0", Some("tcp")));
    let change = Change {
        api_hostname: Some("127.0.0.1".into()),
        api_bind_address: Some("10.0.0.9".into()),
        ..b
    };
    let (address, doc, notes) = run(json!({"hostname": "x"}), &change);
    assert_eq!((address.as_str(), doc.text("API.hostname")), ("10.0.0.9", Some("127.0.0.1")));
    assert!(notes[0].contains("will not find"), "{notes:?}");
}

#[test]
fn a_revoked_node_comes_back_under_another_number() {
    let mut doc = alone();
    extend(&mut doc, &add(&[("b", 0)])).unwrap();
    let (first, _) = made(&doc, &Settings::default(), &BTreeMap::new(), &[]).unwrap();
    let config = check::model(&doc).unwrap();
    let mut masters = settings(&first, MASTER_SETTINGS_FILE);
    let old = settings(&first, "minion.b-8000.fleet.yaml").node.certificate;
    let believed = |s: &Settings, pem: &str| {
        let cert = Certificate::from_pem(pem).unwrap();
        let list = Revocations::parse(&s.cluster.revoked_nodes).unwrap();
        verify_node(&[cert.der()], CA.certificate(), now(), &list).is_ok()
    };
    assert!(believed(&masters, &old));
    for (name, part) in [("b", "b-8000"), ("m.example.org-8000", "master"), ("", "no such")] {
        let e = revoke(&mut masters, &config, name).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    }
    assert!(revoke(&mut masters, &config, "b-8000").unwrap());
    assert!(!revoke(&mut masters, &config, "b-8000").unwrap());
    assert!(!believed(&masters, &old));
    let (second, _) = made(&doc, &masters, &first, &["b-8000"]).unwrap();
    let after = settings(&second, MASTER_SETTINGS_FILE);
    let new = settings(&second, "minion.b-8000.fleet.yaml").node.certificate;
    assert!(believed(&after, &new) && !believed(&after, &old));
    // Old numbers that nobody knows cannot stay revoked by number.
    masters.cluster.issued.clear();
    let e = made(&doc, &masters, &first, &["b-8000"]).unwrap_err().to_string();
    assert!(e.contains("not known"), "{e}");
    // One that only the settings remember can be revoked too.
    let alone = check::model(&alone()).unwrap();
    let mut s = settings(&first, MASTER_SETTINGS_FILE);
    assert!(revoke(&mut s, &alone, "b-8000").unwrap());
}
