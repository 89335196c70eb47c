use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::config::generate::{self, Choices};
use crate::config::{
    Document, Finding, Flags, Level, Role, Settings, api_client, check, document, load, load_node,
    patch, rotate, split,
};
use crate::crypto::certs::{Certificate, Usage};
use crate::env::real;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

fn fresh() -> Document {
    let env = real::env();
    let v = generate::server(&*env.entropy, now(), &Choices::default()).unwrap();
    Document::from_value(v, "new.yaml").unwrap()
}

fn with(doc: &Document, change: Value) -> Document {
    let mut v = doc.value.clone();
    patch::merge(&mut v, &change);
    Document::from_value(v, "f").unwrap()
}

fn errors(doc: &Document, role: Role) -> Vec<Finding> {
    let all = check::check(doc, &Settings::default(), role, now());
    all.into_iter().filter(|f| f.level == Level::Error).collect()
}

fn paths(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|f| f.path.as_str()).collect()
}

#[test]
fn a_generated_file_serves_every_role() {
    let doc = fresh();
    assert_eq!(doc.problems(), []);
    let all = check::check(&doc, &Settings::default(), Role::Server, now());
    assert_eq!(all, []);
    assert_eq!(errors(&doc, Role::Agent), []);
    let agent = Document::from_value(split::client(&doc, None).unwrap(), "a").unwrap();
    assert_eq!(check::check(&agent, &Settings::default(), Role::Agent, now()), []);
    assert!(!agent.to_yaml().contains("PRIVATE"), "an agent's file holds a private key");
    assert!(!errors(&agent, Role::Server).is_empty());
    // Sections stand where stock puts them.
    let text = doc.to_yaml();
    assert!(text.starts_with("version:\n  name: velociraptor\n"), "{}", &text[..60]);
    assert!(text.contains("ca_certificate: |\n    -----BEGIN CERTIFICATE-----\n"));
}

#[test]
fn stock_defaults_are_in_force() {
    let c = check::model(&Document::parse("Client: {nonce: a}\n", "f").unwrap()).unwrap();
    assert_eq!(c.client.max_poll().as_secs(), 60);
    assert_eq!(c.client.min_poll().as_secs(), 1);
    assert_eq!(c.client.max_poll_std().as_secs(), 30);
    assert_eq!(c.client.ws_ping_wait().as_secs(), 60);
    assert_eq!(c.client.pinned_server_name(), "VelociraptorServer");
    assert_eq!(c.client.in_flight(), 4);
    assert_eq!(c.client.client_info_update().map(|d| d.as_secs()), Some(86_400));
    assert_eq!((c.api.bind_address(), c.api.bind_port()), ("127.0.0.1", 8001));
    assert_eq!(c.frontend.node_name(), "localhost-8000");
    assert_eq!(c.certificate_validity_days(), 365);
    assert_eq!(c.defaults.unauthenticated_timeout().map(|d| d.as_secs()), Some(10));
    let l = c.frontend.limits();
    assert_eq!((l.connections_per_second, l.enrollments_per_second), (None, 100));
    assert_eq!((l.concurrency, l.max_body), (None, 64 << 20));
    // sha256 of the empty key's text.
    assert!(c.obfuscation_nonce().starts_with("e3b0c44298fc1c14"));

    let text = "Client: {client_info_update_time: -1, concurrency: 5}\n\
        Frontend: {max_upload_size: 10, private_key: x, resources: {connections_per_second: 5000,\
        enrollments_per_second: -1}}\ndefaults: {certificate_validity_days: 7,\
        unauthenticated_lru_timeout_sec: -3}\nDatastore: {filestore_directory: /d/}\n";
    let c = check::model(&Document::parse(text, "f").unwrap()).unwrap();
    assert_eq!(c.client.client_info_update(), None);
    assert_eq!(c.client.in_flight(), 7);
    let l = c.frontend.limits();
    let rates = (l.connections_per_second, l.enrollments_per_second);
    assert_eq!((rates, l.max_body), ((Some(1000), 100), 20));
    assert_eq!(c.certificate_validity_days(), 7);
    assert_eq!(c.defaults.unauthenticated_timeout(), None);
    assert_eq!((c.datastore.location(), c.datastore.filestore_directory()), ("/d", "/d"));
    assert!(c.obfuscation_nonce().starts_with("2d711642b726b044"));
}

#[test]
fn restrictions_stop_a_server_by_name() {
    let doc = fresh();
    for (change, path) in [
        (json!({"lockdown": true}), "lockdown"),
        (json!({"security": {"denied_plugins": ["execve"]}}), "security.denied_plugins"),
        (json!({"defaults": {"allowed_plugins": ["info"]}}), "defaults.allowed_plugins"),
        (
            json!({"GUI": {"authenticator": {"claims": {"override_acls": true}}}}),
            "GUI.authenticator.claims.override_acls",
        ),
        (json!({"GUI": {"authenticator": {"type": "SAML"}}}), "GUI.authenticator.type"),
        (
            json!({"GUI": {"authenticator": {"type": "multi",
            "sub_authenticators": [{"type": "Basic"}]}}}),
            "GUI.authenticator.sub_authenticators[0].type",
        ),
        (
            json!({"Frontend": {"require_client_certificates": true}}),
            "Frontend.require_client_certificates",
        ),
        (
            json!({"ExtraFrontends": [{"hostname": "b", "require_client_certificates": true}]}),
            "ExtraFrontends[0].require_client_certificates",
        ),
        (json!({"autocert_cert_cache": "/c"}), "autocert_cert_cache"),
        (json!({"Datastore": {"implementation": "MySQL"}}), "Datastore.implementation"),
    ] {
        let d = with(&doc, change);
        let e = errors(&d, Role::Server);
        assert!(paths(&e).contains(&path), "{path}: {e:?}");
        let line = e.iter().find(|f| f.path == path).unwrap().line;
        let name = path.rsplit('.').next().unwrap();
        let text = d.to_yaml();
        assert!(text.lines().nth(line - 1).unwrap().contains(name), "{path} at {line}");
        assert_eq!(errors(&d, Role::Tool), [], "{path}");
    }
    // The same keys without effect are no reason to stop.
    let idle = json!({"lockdown": false, "GUI": {"allowed_cidr": [], "authenticator":
        {"type": "basic"}}, "security": {"denied_plugins": [], "secrets_dek": ""}, "services": {}});
    assert_eq!(errors(&with(&doc, idle), Role::Server), []);
    let agent = with(&doc, json!({"Client": {"prevent_execve": true}}));
    assert_eq!(errors(&agent, Role::Server), []);
    assert_eq!(paths(&errors(&agent, Role::Agent)), ["Client.prevent_execve"]);
    let note = with(&doc, json!({"GUI": {"artifact_search_filter": "m"}}));
    let all = check::check(&note, &Settings::default(), Role::Server, now());
    assert_eq!(
        (all.len(), all[0].level, all[0].path.as_str()),
        (1, Level::Note, "GUI.artifact_search_filter")
    );
}

#[test]
fn bad_values_are_named() {
    let doc = fresh();
    let other = fresh();
    let other_cert = other.text("Frontend.certificate").unwrap();
    for (change, path, part) in [
        (
            json!({"Client": {"server_urls": ["https://a/", "https://b"]}}),
            "Client.server_urls[1]",
            "must end in /",
        ),
        (json!({"Client": {"server_urls": ["ftp://a/"]}}), "Client.server_urls[0]", "ftp"),
        (json!({"Client": {"server_urls": []}}), "Client.server_urls", "missing"),
        (
            json!({"Client": {"pinned_server_name": "My-Server"}}),
            "Client.pinned_server_name",
            "dash",
        ),
        (json!({"Client": {"nonce": null}}), "Client.nonce", "missing"),
        (json!({"Client": {"ca_certificate": "x"}}), "Client.ca_certificate", "PEM"),
        (
            json!({"Client": {"Crypto": {"certificate_verification_mode": "NONE"}}}),
            "Client.Crypto.certificate_verification_mode",
            "PKI",
        ),
        (json!({"Frontend": {"certificate": other_cert}}), "Frontend.private_key", "belong"),
        (
            json!({"Frontend": {"certificate": other_cert,
            "private_key": other.text("Frontend.private_key")}}),
            "Frontend.certificate",
            "not signed",
        ),
        (
            json!({"Frontend": {"private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE \
            KEY-----\n"}}),
            "Frontend.private_key",
            "RSA PRIVATE KEY",
        ),
        (json!({"Client": {"pinned_server_name": "Other"}}), "Frontend.certificate", "Other"),
        (json!({"CA": {"private_key": other.text("CA.private_key")}}), "CA.private_key", "belong"),
        (json!({"Frontend": {"bind_port": 70000}}), "Frontend.bind_port", "port"),
        (json!({"Frontend": {"base_path": "foo/"}}), "Frontend.base_path", "slash"),
        (
            json!({"Frontend": {"collection_error_regex": "("}}),
            "Frontend.collection_error_regex",
            "regular",
        ),
        (json!({"Datastore": {"location": "rel"}}), "Datastore.location", "absolute"),
        (
            json!({"ExtraFrontends": [{"hostname": "b", "bind_port": 70000}]}),
            "ExtraFrontends[0].bind_port",
            "port",
        ),
        (json!({"API": {"pinned_gw_name": "node:x"}}), "API.pinned_gw_name", "nodes"),
        (json!({"GUI": null}), "GUI", "missing"),
        (
            json!({"ExtraFrontends": [{"hostname": "localhost"}]}),
            "ExtraFrontends",
            "localhost-8000",
        ),
    ] {
        let d = with(&doc, change);
        let e = errors(&d, Role::Server);
        assert!(e.iter().any(|f| f.path == path && f.message.contains(part)), "{path}: {e:?}");
    }
    let late = now() + Duration::from_secs(340 * 86_400);
    let all = check::check(&doc, &Settings::default(), Role::Server, late);
    assert!(all.iter().all(|f| f.level == Level::Warning) && all.len() == 2, "{all:?}");
    let over = now() + Duration::from_secs(366 * 86_400);
    let all = check::check(&doc, &Settings::default(), Role::Server, over);
    assert!(paths(&all).contains(&"Frontend.certificate") && all[0].level == Level::Error);
}

#[test]
fn rotation_keeps_old_keys_and_everything_else() {
    let env = real::env();
    let mut doc = with(&fresh(), json!({"obfuscation_nonce": null, "Mail": {"server": "m"}}));
    let mut settings = Settings::default();
    let before = check::model(&doc).unwrap();
    let hidden = before.obfuscation_nonce();
    rotate::rotate_keys(&mut doc, &before, &mut settings, &*env.entropy, now(), 10).unwrap();
    let after = check::model(&doc).unwrap();
    assert_ne!(after.frontend.private_key, before.frontend.private_key);
    assert_ne!(after.gui.gw_private_key, before.gui.gw_private_key);
    assert_eq!(after.obfuscation_nonce(), hidden);
    assert_eq!(after.client.ca_certificate, before.client.ca_certificate);
    assert_eq!(doc.text("Mail.server"), Some("m"));
    assert_eq!(settings.rotation.old_private_keys.join("|"), before.frontend.private_key);
    // The settings survive their file, and the identity opens for both keys.
    let text = yaml_serde::to_string(&settings).unwrap();
    let settings2 = Settings::parse(&text).unwrap();
    assert_eq!(settings2, settings);
    let id = crate::config::ServerIdentity::of(&after, &settings2).unwrap();
    assert_eq!(id.keys.len(), 2);
    assert_eq!(*id.keys[1].to_pem(), before.frontend.private_key);
    assert_eq!(id.source(), "VelociraptorServer");
    let all = check::check(&doc, &settings, Role::Server, now());
    assert!(all.iter().all(|f| f.level < Level::Error), "{all:?}");

    let keys = (after.frontend.private_key.clone(), after.gui.gw_private_key.clone());
    rotate::reissue_certs(&mut doc, &after, &*env.entropy, now(), 500).unwrap();
    let again = check::model(&doc).unwrap();
    assert_eq!((again.frontend.private_key, again.gui.gw_private_key), keys);
    let cert = Certificate::from_pem(&again.frontend.certificate).unwrap();
    assert_eq!(cert.validity().1 - cert.validity().0, 500 * 86_400);
    let all = check::check(&doc, &settings, Role::Server, now());
    assert!(all.iter().all(|f| f.level < Level::Warning), "{all:?}");

    let mut offline = with(&doc, json!({"CA": null}));
    let config = check::model(&offline).unwrap();
    assert_eq!(errors(&offline, Role::Server), []);
    let e = rotate::reissue_certs(&mut offline, &config, &*env.entropy, now(), 1).unwrap_err();
    assert!(e.to_string().contains("CA.private_key"), "{e}");
}

#[test]
fn an_api_client_gets_a_working_file() {
    let env = real::env();
    let doc = fresh();
    let config = check::model(&doc).unwrap();
    let settings = Settings::default();
    let file = api_client::issue(&config, &settings, &*env.entropy, now(), "bob").unwrap();
    let text = document::to_yaml(&file);
    let d = Document::parse_api_client(&text, "api.yaml").unwrap();
    assert_eq!(check::check(&d, &settings, Role::ApiClient, now()), []);
    let api = check::model(&d).unwrap().api_config;
    assert_eq!((api.name.as_str(), api.api_connection_string.as_str()), ("bob", "127.0.0.1:8001"));
    let cert = Certificate::from_pem(&api.client_cert).unwrap();
    let ca = Certificate::from_pem(&api.ca_certificate).unwrap();
    cert.verify(&ca, now(), Usage::Client).unwrap();
    assert_eq!(cert.name(), Some("bob"));
    for bad in ["", "VelociraptorServer", "GRPC_GW", "a b", "../x", "j\u{fc}rgen"] {
        let r = api_client::issue(&config, &settings, &*env.entropy, now(), bad);
        assert!(r.is_err(), "{bad}");
    }
    // Lines are those of the bare file.
    let broken = text.replace("client_private_key: |", "client_private_keys: |");
    let d = Document::parse_api_client(&broken, "api.yaml").unwrap();
    let all = check::check(&d, &settings, Role::ApiClient, now());
    let line = broken.lines().position(|l| l.starts_with("client_private_keys")).unwrap() + 1;
    assert!(all.iter().any(|f| f.line == line && f.message.contains("unknown")), "{all:?}");
}

#[tokio::test]
async fn loading_reads_settings_beside_the_file() {
    let env = real::env();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_str().unwrap();
    let path = format!("{root}/server.config.yaml");
    let v = generate::server(&*env.entropy, env.clock.now(), &Choices::default()).unwrap();
    let put = |p: String, t: String| async move {
        crate::env::fs::create_synced(&*real::env().fs, &p, t.as_bytes()).await.unwrap()
    };
    put(path.clone(), document::to_yaml(&v)).await;
    let loaded = load::load(&env, &path, None, Role::Server).await.unwrap();
    assert_eq!(loaded.settings, Settings::default());
    assert_eq!(loaded.identity().unwrap().keys.len(), 1);
    let mut user = loaded.config.clone();
    load::check_user(&env, &user).await.unwrap();
    user.frontend.run_as_user = "no such user".into();
    let e = load::check_user(&env, &user).await.unwrap_err();
    assert!(e.to_string().contains("run_as_user"), "{e}");
    put(format!("{root}/velociraptor-fleet.yaml"), "journal:\n  group_bytes: 77\n".into()).await;
    let loaded = load::load(&env, &path, None, Role::Server).await.unwrap();
    assert_eq!(loaded.settings.journal.group_bytes, 77);
    // The configuration's own file comes first, and a node's before that.
    put(format!("{root}/server.fleet.yaml"), "journal: {group_bytes: 78}\n".into()).await;
    put(format!("{root}/minion.b-1.fleet.yaml"), "journal: {group_bytes: 79}\n".into()).await;
    let loaded = load::load(&env, &path, None, Role::Server).await.unwrap();
    assert_eq!(loaded.settings.journal.group_bytes, 78);
    let said: Vec<_> = loaded.findings.iter().map(ToString::to_string).collect();
    assert!(said[0].contains("velociraptor-fleet.yaml:1: is not read"), "{said:?}");
    let node = |name: &str| Flags { minion: true, node: Some(name.into()) };
    let e = load_node(&env, &path, None, &node("b-1")).await.unwrap_err().to_string();
    assert!(e.starts_with(&path) && e.contains("ExtraFrontends: no frontend is called b-1"), "{e}");
    put(format!("{root}/minion.localhost-8000.fleet.yaml"), "node: {name: x-1}\n".into()).await;
    let e = load_node(&env, &path, None, &node("localhost-8000")).await.unwrap_err().to_string();
    let wanted = format!("{root}/minion.localhost-8000.fleet.yaml: node.name: is x-1");
    assert!(e.starts_with(&wanted), "{e}");
    let (alone, plan) = load_node(&env, &path, None, &Flags::default()).await.unwrap();
    assert_eq!((alone.document.value, plan.role_name()), (loaded.document.value, "single"));
    put(format!("{root}/bad.yaml"), "jurnal: 1\n".into()).await;
    let bad = format!("{root}/bad.yaml");
    let e = load::load(&env, &path, Some(&bad), Role::Server).await.unwrap_err();
    assert!(e.to_string().contains("bad.yaml") && e.to_string().contains("jurnal"), "{e}");
    let gone = format!("{root}/gone.yaml");
    assert!(load::load(&env, &path, Some(&gone), Role::Server).await.is_err());
    assert!(load::load(&env, &gone, None, Role::Server).await.is_err());
    put(gone.clone(), "Client:\n  nonse: x\nlockdown: true\n".into()).await;
    let e = load::load(&env, &gone, None, Role::Server).await.unwrap_err().to_string();
    assert!(e.contains("gone.yaml:2: Client.nonse: unknown key"), "{e}");
    assert!(e.contains("gone.yaml:3: lockdown: restricts"), "{e}");
}

/// Keys that only old files have are read, and do not stop a server unless they restrict.
#[test]
fn old_files_are_read() {
    let doc = fresh();
    let old = json!({
        "version": {"name": "velociraptor", "version": "0.6.0", "install_time": 1_600_000_000},
        "Client": {
            "version": {"name": "velociraptor", "version": "0.6.0"},
            "local_buffer": {"filename": "/tmp/buffer"},
        },
        "GUI": {"internal_cidr": [], "saml_certificate": ""},
        "Frontend": {
            "public_path": "/var/public", "is_master": true, "dns_name": "old.example.org",
            "dyn_dns": {"hostname": "x"}, "resources": null, "concurrency": 6,
            "expected_clients": 500, "do_not_redirect": true,
        },
        "Datastore": {"memcache_expiration_sec": 3, "compression": null},
        "Writeback": {}, "server_type": "linux", "api_config": {},
        "obfuscation_nonce": null, "defaults": null,
    });
    let doc = with(&doc, old);
    assert_eq!(doc.problems(), []);
    assert_eq!(errors(&doc, Role::Server), []);
    assert_eq!(errors(&doc, Role::Agent), []);
    let config = check::model(&doc).unwrap();
    assert_eq!(config.frontend.limits().concurrency, Some(6));
    assert_eq!(config.frontend.limits().expected_clients, 500);
    assert_eq!(config.obfuscation_nonce().len(), 64);
    assert_eq!(config.defaults.hunt_expiry().as_secs(), 168 * 3600);
    let restricted = with(&doc, json!({"GUI": {"vpn_cidr": ["10.0.0.0/8"]}}));
    assert_eq!(paths(&errors(&restricted, Role::Server)), ["GUI.vpn_cidr"]);
}

#[test]
fn given_keys_make_the_same_file_again() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../tests/data/wire-vectors.json")).unwrap();
    let key =
        |name: &str| crate::crypto::PrivateKey::from_pem(vectors[name].as_str().unwrap()).unwrap();
    let keys = generate::Keys {
        ca: key("server_key"),
        frontend: key("client_key"),
        gateway: key("client_key"),
    };
    struct Ones;
    impl crate::env::Entropy for Ones {
        fn fill(&self, buf: &mut [u8]) {
            buf.fill(1);
        }
    }
    let make = || generate::server_with(&Ones, now(), &Choices::default(), &keys).unwrap();
    let one = make();
    assert_eq!(one, make());
    let doc = Document::from_value(one, "f").unwrap();
    assert_eq!(check::check(&doc, &Settings::default(), Role::Server, now()), []);
}
