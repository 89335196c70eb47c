//! The configuration of a simulated deployment, made by the production
//! generator from fixed keys, and what every client knows of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;
use velociraptor::config::generate::{self, Choices, Keys};
use velociraptor::config::{Document, document, patch};
use velociraptor::crypto::certs::Authority;
use velociraptor::crypto::{ClientId, NodeIdentity, NodeName, PrivateKey};

use super::Cluster;
use crate::client::{Deployment, Setup};
use crate::net::{EPOCH, SimEntropy};

/// Keys of clients and nodes: ids derive from keys, so they are the same in every run.
const CLIENT_KEYS: &str = include_str!("../../data/clients.pem");
/// The last line of each.
const END: &str = "-----END RSA PRIVATE KEY-----\n";

/// Where the configuration lies on every frontend.
pub const PATH: &str = "/etc/server.config.yaml";
/// Settings of our own, beside it.
pub const SETTINGS: &str = "/etc/velociraptor-fleet.yaml";
/// Where everything is stored.
pub const STORE: &str = "/store";
/// Long polls and client back-off, seconds (stock: 60).
pub const MAX_POLL: u64 = 2;

/// Files of the frontends, and the deployment as clients see it.
pub struct Made {
    /// By frontend: path and content.
    pub files: BTreeMap<String, Vec<(String, String)>>,
    /// For clients.
    pub deployment: Arc<Deployment>,
}

fn key(pem: &str) -> Result<PrivateKey, String> {
    PrivateKey::from_pem(pem).map_err(|e| e.to_string())
}

/// Clients that hunts recruit in a second: few enough to show.
pub const HUNT_RATE: u64 = 6;

/// The name of a frontend as a node.
pub fn node_name(frontend: &str) -> String {
    format!("{frontend}-8000")
}

/// Makes the configuration.
pub fn make(c: &Cluster) -> Result<Made, String> {
    let keys = Keys {
        ca: key(include_str!("../../data/ca.pem"))?,
        frontend: key(include_str!("../../data/frontend.pem"))?,
        gateway: key(include_str!("../../data/gateway.pem"))?,
    };
    let choices =
        Choices { hostname: "server".into(), datastore: STORE.into(), ..Choices::default() };
    let before = UNIX_EPOCH + EPOCH - Duration::from_secs(3600);
    let entropy = SimEntropy::new(c.seed);
    let text = |e: &dyn std::fmt::Display| format!("configuration: {e}");
    let mut value =
        generate::server_with(&entropy, before, &choices, &keys).map_err(|e| text(&e))?;
    let mut own = json!({
        "API": { "bind_address": "0.0.0.0", "hostname": "server" },
        "Frontend": {
            "default_client_monitoring_artifacts": null,
            "resources": {
                "connections_per_second": 1000,
                "notifications_per_second": HUNT_RATE,
            },
        },
        "Client": { "max_poll": MAX_POLL, "ws_ping_wait_sec": 10 },
    });
    let minions: Vec<_> = c.frontends().into_iter().skip(1).collect();
    if !minions.is_empty() {
        let entry = |m: &String| json!({ "hostname": m, "bind_port": 8000 });
        own["ExtraFrontends"] = minions.iter().map(entry).collect();
        let url = |f: &String| json!(format!("https://{f}:8000/"));
        own["Client"]["server_urls"] = c.frontends().iter().map(url).collect();
    }
    patch::merge(&mut value, &own);
    let doc = Document::from_value(value, "the simulated configuration").map_err(|e| text(&e))?;
    let get = |path: &str| doc.get(path).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let deployment = Deployment {
        ca: get("Client.ca_certificate"),
        nonce: get("Client.nonce"),
        pinned: get("Client.pinned_server_name"),
    };
    let ca = Authority::from_pem(&deployment.ca, &get("CA.private_key")).map_err(|e| text(&e))?;
    let mut files = BTreeMap::new();
    for (i, name) in c.frontends().into_iter().enumerate() {
        let mut settings = json!({
            "journal": {
                "file_bytes": c.journal_bytes,
                "keep_bytes": c.keep_bytes,
                "spill_bytes": 64 << 10,
            },
        });
        if c.minions > 0 {
            // Keys from the far end of those for clients.
            let all: Vec<&str> = CLIENT_KEYS.split_inclusive(END).collect();
            let pem = all.iter().rev().nth(i).copied().unwrap_or_default();
            let node = NodeName::parse(&node_name(&name)).map_err(|e| text(&e))?;
            let id = NodeIdentity::issue_for(&ca, &entropy, before, 365, &node, &key(pem)?)
                .map_err(|e| text(&e))?;
            settings["node"] = json!({
                "name": node.to_string(),
                "role": if i == 0 { "master" } else { "minion" },
                "certificate": id.certificate_pem,
                "private_key": id.private_key_pem.to_string(),
            });
        }
        let all = vec![
            (PATH.to_owned(), document::to_yaml(&doc.value)),
            (SETTINGS.to_owned(), document::to_yaml(&settings)),
        ];
        files.insert(name, all);
    }
    Ok(Made { files, deployment: Arc::new(deployment) })
}

/// The clients of a run.
pub fn clients(c: &Cluster, deployment: &Arc<Deployment>) -> Result<Vec<Setup>, String> {
    let keys: Vec<&str> = CLIENT_KEYS.split_inclusive(END).collect();
    if c.clients + c.minions + 1 > keys.len() {
        return Err(format!("there are keys for {} clients, not {}", keys.len(), c.clients));
    }
    let mut out = Vec::new();
    for (i, pem) in keys.into_iter().take(c.clients).enumerate() {
        let scheme = if i < c.sockets { "wss" } else { "https" };
        let urls = c.frontends().iter().map(|f| format!("{scheme}://{f}:8000/")).collect();
        let old = i >= c.clients.saturating_sub(c.old);
        out.push(Setup {
            book: i,
            id: ClientId::of(key(pem)?.public()).to_string(),
            key: pem.to_owned(),
            deployment: deployment.clone(),
            urls,
            balanced: c.balanced,
            compress: i % 3 != 0,
            max_poll: Duration::from_secs(MAX_POLL),
            version: if old { "0.72.1" } else { "0.77.2" },
            eager: i < c.eager,
            max_post: 256 << 10,
            steady: c.steady,
            events: c.events,
        });
    }
    for i in 0..c.clones.min(c.clients) {
        let twin = Setup { book: c.clients + i, urls: out[i].urls.clone(), ..out[i].clone() };
        out.push(twin);
    }
    Ok(out)
}
