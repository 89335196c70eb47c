//! One process of the deployment, assembled: everything that listens and
//! everything that runs behind it.
//!
//! The command line starts it from a configuration file, the simulator from
//! values; both run the same code.

mod fleet;
mod forward;
mod gui;
mod memory;
mod metrics;
pub mod offline;
mod revoked;
mod server_events;
mod server_flows;
mod sockets;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vql::Registry;

use crate::api::{self, Api, ApiOptions};
use crate::cluster;
use crate::comms::server::{
    AcceptLimits, ClientEndpoint, Endpoint, HttpLimits, Metrics, Serve, Stop, WebHandler, serve,
};
use crate::comms::tls::{self, Alpn, ClientAuth, ServerOptions};
use crate::config::{Loaded, NodePlan, NodeRole, model};
use crate::env::{Env, Side};
use crate::frontend::{
    AdmissionLimits, Clients, Frontend, Identity, Limits, SteerLimits, Ways, admit,
};
use crate::services::fleet::{Role, standing, steering, term};
use crate::services::{Options, Server, ServiceError};
use crate::store::StoreRoot;
use crate::store::journal;
use crate::store::ops::CountingFs;
pub use fleet::Cluster;
use sockets::Whose;

/// Requests still under way when the process is told to stop get this long.
const GRACE: Duration = Duration::from_secs(10);

/// How long a minion that stops waits for its master to know what it gave back.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Another process has this one's place on the datastore.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Displaced(pub String);

/// A running node.
pub struct Node {
    /// The server's services.
    pub server: Arc<Server>,
    /// Where clients connect.
    pub clients: SocketAddr,
    /// Where API clients connect, on a master.
    pub api: Option<SocketAddr>,
    /// Where people connect, on a master.
    pub gui: Option<SocketAddr>,
    /// Where metrics are read.
    pub monitoring: Option<SocketAddr>,
    /// On a master: its minions.
    pub cluster: Option<Cluster>,
    web: Option<(crate::gui::Gui, Api, Arc<crate::api::rest::Uploads>)>,
    stop: CancellationToken,
    /// What must live longer than everything that ends with `stop`.
    last_stop: CancellationToken,
    frontend: Arc<Frontend>,
    fatal: tokio::sync::watch::Sender<Option<String>>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("clients", &self.clients).finish_non_exhaustive()
    }
}

/// What a node needs beyond its configuration file.
#[derive(Clone)]
pub struct Extras {
    /// Callables that queries over the API, in the GUI and of collections on the
    /// server may use.
    pub registry: Arc<Registry>,
    /// Folders of artifact definitions given on the command line.
    pub definitions: Vec<String>,
    /// Take the master role even from a master that lives.
    pub takeover: bool,
}

/// The services' options from a configuration.
pub fn options(loaded: &Loaded, definitions: &[String]) -> Options {
    let (c, s) = (&loaded.config, &loaded.settings);
    let mut dirs: Vec<String> = c.defaults.artifact_definitions_directories.clone();
    dirs.extend(definitions.iter().cloned());
    Options {
        node: s.node_name().map_or_else(|| c.frontend.node_name(), str::to_owned),
        root_nonce: c.client.nonce.clone(),
        obfuscation_nonce: c.obfuscation_nonce(),
        obfuscate: !c.frontend.do_not_compress_artifacts,
        compress: c.datastore.compression == "zlib",
        flows_in_flight: c.client.in_flight() as usize,
        collection_error_regex: Some(c.frontend.collection_error_regex.clone())
            .filter(|r| !r.is_empty()),
        journal: journal::Options {
            roll_bytes: s.journal.file_bytes,
            group_bytes: s.journal.group_bytes as usize,
            waiting_bytes: s.limits.pending_bytes as usize,
            deadline: s.journal.commit_timeout(),
            acknowledge_early: s.journal.danger_acknowledge_early,
            reserve_bytes: s.journal.reserve(),
            ..journal::Options::default()
        },
        unreplicated_bytes: match s.cluster.unreplicated_bytes {
            0 => Options::default().unreplicated_bytes,
            n => n,
        },
        standing: standing(&s.cluster),
        fleet: crate::services::fleet::Options {
            tail_every: Duration::from_secs(s.cluster.tail_seconds),
            tombstone: Duration::from_secs(s.cluster.tombstone_seconds),
            balance: steering::Balance {
                per_second: s.balance.clients_per_second,
                tolerance_percent: s.balance.tolerance_percent,
            },
            ..Default::default()
        },
        spill_bytes: s.journal.spill_bytes as usize,
        query_memory_bytes: usize::try_from(s.limits.query_memory_bytes).unwrap_or(usize::MAX),
        keep_bytes: s.journal.keep_bytes,
        form_days: s.gui.upload_days,
        settle_every: Duration::from_millis(s.settle.interval_ms.max(10)),
        hunt_rate: c.frontend.limits().notifications_per_second,
        hunt_expiry: c.defaults.hunt_expiry(),
        default_client_monitoring: c.frontend.default_client_monitoring_artifacts.clone(),
        mail: crate::services::mail::Options {
            server: c.mail.server.clone(),
            port: c.mail.server_port,
            from: c.mail.from.clone(),
            user: c.mail.auth_username.clone(),
            password: c.mail.auth_password.clone(),
            skip_verify: c.mail.skip_verify,
        },
        frontend_certificate: c.frontend.certificate.clone(),
        public_url: c.gui.public_url.clone(),
        tools: crate::services::inventory::Options {
            public_bases: c.client.server_urls.iter().map(|u| public_base(u)).collect(),
            max_bytes: s.tools.max_bytes,
            fetch_timeout: Duration::from_secs(s.tools.fetch_seconds),
            github_api: s.tools.github_api.clone(),
            offline: c.tools_offline(),
        },
        forward: s.forward.iter().map(forward::sink).collect(),
        exports: crate::services::exports::Options {
            at_once: usize::try_from(s.exports.at_once).unwrap_or(1),
            timeout: c.defaults.export_timeout(),
        },
        default_server_monitoring: c.frontend.default_server_monitoring_artifacts.clone(),
        event_max_wait: (
            c.defaults.event_max_wait().as_secs(),
            c.defaults.event_max_wait_jitter().as_secs(),
        ),
        definitions: dirs,
        reserved_users: vec![
            c.client.pinned_server_name().to_owned(),
            c.api.pinned_gw_name().to_owned(),
        ],
        ..Options::default()
    }
}

/// Where clients reach the frontend of this URL by HTTP, without a slash at the end.
pub fn public_base(url: &str) -> String {
    let http = match url.split_once("://") {
        Some(("wss", rest)) => format!("https://{rest}"),
        Some(("ws", rest)) => format!("http://{rest}"),
        _ => url.to_owned(),
    };
    http.trim_end_matches('/').to_owned()
}

/// The limits of the stream between nodes, from the settings.
pub fn link_limits(c: &crate::config::settings::Cluster) -> cluster::Limits {
    let ms = Duration::from_millis;
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    cluster::Limits {
        beat: ms(c.beat_ms),
        missed_beats: c.missed_beats,
        connect: ms(c.connect_ms),
        welcome: ms(c.welcome_ms),
        backoff_min: ms(c.backoff_ms),
        backoff_max: ms(c.backoff_max_ms),
        backoff_unreached: ms(c.backoff_unreached_ms),
        stall: ms(c.stall_ms),
        queue_frames: size(c.queue_frames),
        queue_bytes: size(c.queue_bytes),
        frame_bytes: size(c.frame_bytes),
        window_frames: size(c.window_frames),
        session_backlog: size(c.session_backlog),
    }
}

fn standing(c: &crate::config::settings::Cluster) -> standing::Options {
    standing::Options {
        term: term::Options {
            beat: Duration::from_millis(c.store_beat_ms),
            stale: Duration::from_secs(c.master_stale_seconds),
            takeover: false,
        },
        node_stale: Duration::from_secs(c.node_stale_seconds),
    }
}

fn http_limits(c: &model::Config) -> HttpLimits {
    let l = c.frontend.limits();
    HttpLimits {
        max_body: l.max_body.max(HttpLimits::default().max_body),
        ws_ping: c.client.ws_ping_wait(),
        bytes_per_second: l.global_upload_rate.unwrap_or(0),
        ..HttpLimits::default()
    }
}

/// Connections of programs that read the metrics, at once.
const MONITORS: usize = 100;

fn address(host: &str, port: u16, what: &str) -> anyhow::Result<SocketAddr> {
    let ip = host.parse().with_context(|| format!("{what}: {host:?} is not an IP address"))?;
    Ok(SocketAddr::new(ip, port))
}

impl Node {
    /// Starts the node that `loaded` describes without any flags: a single server
    /// or a master.
    pub async fn start(env: Env, loaded: &Loaded, extras: Extras) -> anyhow::Result<Node> {
        let plan = fleet::plan(&env, loaded)?;
        Self::start_as(env, loaded, &plan, extras).await
    }

    /// Opens the datastore and starts to listen, in the role of `plan`; `loaded`
    /// is the configuration as that node sees it. Returns when clients can connect.
    pub async fn start_as(
        env: Env,
        loaded: &Loaded,
        plan: &NodePlan,
        extras: Extras,
    ) -> anyhow::Result<Node> {
        let c = &loaded.config;
        // The host's own files are not counted with the store's.
        let host = env.clone();
        // Every call to the store has a deadline and is counted.
        let limit = Duration::from_millis(loaded.settings.limits.store_timeout_ms);
        let (env, operations) = crate::store::ops::guard(&env, limit);
        let store = &c.datastore;
        anyhow::ensure!(!store.location().is_empty(), "Datastore.location is not set");
        let root = StoreRoot::new(store.location(), store.filestore_directory());
        let minion = matches!(plan.role, NodeRole::Minion { .. });
        let mut options = Options {
            node: plan.name.to_string(),
            role: if minion { Role::Minion } else { Role::Master },
            minions: matches!(plan.role, NodeRole::Master { .. }),
            ..options(loaded, &extras.definitions)
        };
        options.standing.term.takeover = extras.takeover;
        let server = match Server::open(env.clone(), root, options).await {
            Err(ServiceError::NotMaster(why)) => return Err(Displaced(why).into()),
            opened => opened.with_context(|| format!("datastore {}", store.location()))?,
        };
        if !minion {
            first_users(&server, c).await?;
        }
        let alone = matches!(plan.role, NodeRole::Single);
        let frontend = frontend(&env, loaded, server.clone(), alone)?;
        let mut node = Node {
            server: server.clone(),
            clients: ([0, 0, 0, 0], 0).into(),
            api: None,
            gui: None,
            monitoring: None,
            cluster: None,
            web: None,
            stop: CancellationToken::new(),
            last_stop: CancellationToken::new(),
            frontend: frontend.clone(),
            fatal: tokio::sync::watch::Sender::new(None),
            tasks: TaskTracker::new(),
        };
        node.run(&env, Side::Frontend, server.clone().keep_house(node.stop.clone()).boxed());
        node.run(&env, Side::Frontend, server.clone().recruit(node.stop.clone()).boxed());
        for (backlog, to) in server.backlogs.all().iter().zip(&loaded.settings.forward) {
            let stop = node.stop.clone();
            let work = forward::run(server.clone(), backlog.clone(), to.clone(), stop);
            node.run(&env, Side::Gui, work.boxed());
        }
        node.run(&env, Side::Frontend, server.clone().watch_space(node.stop.clone()).boxed());
        node.run(&env, Side::Frontend, watch_store(frontend.clone(), node.stop.clone()).boxed());
        let steer = frontend.clone().steer_clients(node.stop.clone());
        node.run(&env, Side::Frontend, steer.boxed());
        let watch = memory::watch(host.clone(), frontend.clone(), node.stop.clone());
        node.run(&env, Side::Frontend, watch.boxed());
        match &plan.role {
            NodeRole::Minion { master, identity } => {
                node.follow(&env, loaded, master.clone(), identity, &frontend, &operations)?;
            }
            role => {
                let taking = frontend.clone().keep_taking_over(node.stop.clone());
                node.run(&env, Side::Frontend, taking.boxed());
                let fleet = match role {
                    NodeRole::Master { revoked, .. } => {
                        let (list, now) = watch::channel(revoked.clone());
                        let path = loaded.settings_path.clone();
                        let stop = node.stop.clone();
                        let follow = revoked::follow(host.clone(), path, list, stop);
                        node.run(&env, Side::Frontend, follow.boxed());
                        let limits = link_limits(&loaded.settings.cluster);
                        Some(node.lead(&env, plan.ca.clone(), now, limits))
                    }
                    _ => None,
                };
                let api = node.serve_api(&env, loaded, &extras, fleet).await?;
                node.serve_gui(&env, loaded, api).await?;
                let registry = extras.registry.clone();
                let runner = server_flows::run(frontend.clone(), registry, node.stop.clone());
                node.run(&env, Side::Gui, runner.boxed());
            }
        }
        let metrics = node.serve_clients(&env, loaded, frontend.clone()).await?;
        node.serve_monitoring(&env, c, metrics, frontend, operations).await?;
        tracing::info!(clients = %node.clients, api = ?node.api, gui = ?node.gui,
            node = server.options.node, role = plan.role_name(), epoch = server.epoch.name(),
            "frontend is up");
        Ok(node)
    }

    /// Runs `task` on a side, tracked so that [`Node::stop`] waits for it.
    fn run(&self, env: &Env, side: Side, task: BoxFuture<'static, ()>) {
        env.tasks.spawn(side, Box::pin(self.tasks.track_future(task)));
    }

    fn stopping(&self) -> Stop {
        Stop { token: self.stop.clone(), grace: GRACE }
    }

    async fn serve_clients(
        &mut self,
        env: &Env,
        loaded: &Loaded,
        frontend: Arc<Frontend>,
    ) -> anyhow::Result<Arc<Metrics>> {
        let c = &loaded.config;
        let f = &c.frontend;
        let tls = if f.use_plain_http {
            None
        } else {
            let (cert, key) = tls_identity(env, f).await?;
            let identity =
                tls::Identity::from_pem(&cert, &key).context("frontend TLS certificate")?;
            let options = ServerOptions {
                allow_tls12: c.client.crypto.allow_weak_tls_server,
                client_auth: ClientAuth::None,
                alpn: Alpn::Http1,
            };
            Some(tls::server_config(env, &identity, &options)?)
        };
        let metrics = Arc::new(Metrics::default());
        let endpoint = Endpoint {
            base_path: f.base_path.clone(),
            proxy_header: Some(f.proxy_header.clone()).filter(|h| !h.is_empty()),
            limits: http_limits(c),
            metrics: metrics.clone(),
        };
        let at = address(f.bind_address(), f.bind_port(), "Frontend.bind_address")?;
        let listener = env.net.bind(at).await?;
        self.clients = listener.local_addr()?;
        let what = Serve {
            tls,
            proxy_protocol: loaded.settings.limits.proxy_protocol,
            limits: sockets::limits(env, loaded, Whose::Clients),
            metrics: metrics.clone(),
            side: Side::Frontend,
            stop: self.stopping(),
        };
        let handler = ClientEndpoint::new(Arc::new(Clients(frontend.clone())), endpoint);
        let all = http_limits(c).bytes_per_second;
        let shares = share(frontend, handler.clone(), all, self.stop.clone());
        self.run(env, Side::Frontend, shares.boxed());
        let handler = Arc::new(handler);
        self.run(env, Side::Frontend, serve(env.clone(), listener, what, handler).boxed());
        Ok(metrics)
    }

    async fn serve_api(
        &mut self,
        env: &Env,
        loaded: &Loaded,
        extras: &Extras,
        fleet: Option<crate::cluster::Fleet>,
    ) -> anyhow::Result<Api> {
        let c = &loaded.config;
        if c.api.bind_scheme() != "tcp" {
            anyhow::bail!("API.bind_scheme: only tcp is served, not {}", c.api.bind_scheme());
        }
        let identity = tls::Identity::from_pem(&c.frontend.certificate, &c.frontend.private_key)?;
        let tls = api::tls(
            env,
            &identity,
            &c.client.ca_certificate,
            c.client.crypto.allow_weak_tls_server,
        )?;
        let options = ApiOptions {
            pinned_server_name: c.client.pinned_server_name().to_owned(),
            gateway_name: c.api.pinned_gw_name().to_owned(),
            tables: gui::table_limits(&loaded.settings.gui),
            notebooks: gui::notebook_limits(loaded),
            ..ApiOptions::default()
        };
        let api = Api::new(self.server.clone(), extras.registry.clone(), options);
        let at = address(c.api.bind_address(), c.api.bind_port(), "API.bind_address")?;
        let listener = env.net.bind(at).await?;
        self.api = Some(listener.local_addr()?);
        let (stop, limits) = (self.stopping(), sockets::limits(env, loaded, Whose::Programs));
        let served = api.clone();
        let task =
            async move { served.serve(listener, tls, limits, Arc::default(), stop, fleet).await };
        self.run(env, Side::Gui, task.boxed());
        Ok(api)
    }

    async fn serve_monitoring(
        &mut self,
        env: &Env,
        c: &model::Config,
        clients: Arc<Metrics>,
        frontend: Arc<Frontend>,
        operations: Arc<CountingFs>,
    ) -> anyhow::Result<()> {
        let at = address(
            c.monitoring.bind_address(),
            c.monitoring.bind_port(),
            "Monitoring.bind_address",
        )?;
        let listener = env.net.bind(at).await?;
        self.monitoring = Some(listener.local_addr()?);
        let what = Serve {
            tls: None,
            proxy_protocol: false,
            // Metrics are wanted most when there is too much of everything else.
            limits: AcceptLimits {
                connections_per_second: 0,
                max_connections: MONITORS,
                ..AcceptLimits::default()
            },
            metrics: Arc::default(),
            side: Side::Gui,
            stop: self.stopping(),
        };
        let (link, gui) = (self.link_metrics(), self.web.clone());
        let more = Arc::new(move || link() + &gui.as_ref().map(gui::metrics).unwrap_or_default());
        let app = metrics::router(frontend, clients, operations, more);
        let handler = Arc::new(WebHandler::new(app));
        self.run(env, Side::Gui, serve(env.clone(), listener, what, handler).boxed());
        Ok(())
    }

    /// Returns when another process has this one's place, as the reason why this
    /// one must [`Node::abandon`] its work.
    pub async fn displaced(&self) -> Displaced {
        Displaced(self.server.standing.lost().await)
    }

    /// Ends without a decision: no new connections, and what is being committed
    /// is finished. What is not in stock files is the other process's to settle.
    pub async fn abandon(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(cluster) = &self.cluster {
            cluster.fleet.stopped().await;
        }
    }

    /// Before [`Node::stop`], where there are other nodes: sends the clients to them,
    /// for as long as the settings allow (`drain.stop_seconds`).
    pub async fn drain(&self) {
        self.frontend.send_all_away().await;
    }

    /// Stops: no new connections, what is under way is finished, everything
    /// complete goes into stock files.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        let tasks = self.tasks.len();
        tracing::info!(tasks, "no more is begun; what is under way is finished");
        self.tasks.wait().await;
        if let Some(cluster) = &self.cluster {
            // What minions have told is worked on to its end.
            cluster.fleet.stopped().await;
        }
        tracing::info!("what is complete goes into stock files");
        self.server.settle_all().await;
        if let Some(relay) = self.server.relay() {
            // The master is told what goes back to it.
            fleet::last_words(relay.uplink(), LAST_WORDS).await;
        }
        self.last_stop.cancel();
    }
}

/// Keeps to this node's part of what the whole cluster may take: enrolments, and
/// `bytes` a second of bodies.
async fn share(
    frontend: Arc<Frontend>,
    endpoint: ClientEndpoint,
    bytes: u64,
    stop: CancellationToken,
) {
    let mut among = 1;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let now = frontend.server().sharing();
        if std::mem::replace(&mut among, now) != now {
            frontend.admission().share_among(now);
            endpoint.set_rate(admit::share(bytes, now));
            tracing::info!(nodes = now, "limits of the cluster are divided anew");
        }
    }
}

/// The frontend of `loaded`, for `server`.
fn frontend(
    env: &Env,
    loaded: &Loaded,
    server: Arc<Server>,
    alone: bool,
) -> anyhow::Result<Arc<Frontend>> {
    let c = &loaded.config;
    let l = c.frontend.limits();
    let cores = sockets::cores(env);
    let defaults = AdmissionLimits::default();
    let admission = AdmissionLimits {
        slots: l.concurrency.map_or(2 * cores, |n| n as usize),
        slot_wait: l.concurrency_timeout.min(defaults.slot_wait),
        enrolments: l.enrollments_per_second,
        client_bytes: l.per_client_upload_rate.unwrap_or(0),
        memory: l.memory.unwrap_or(0),
        ..defaults
    };
    let drain = &loaded.settings.drain;
    let ways = || Ways::new(c.frontend.hostname(), c.frontend.bind_port(), &c.client.server_urls);
    let steer = SteerLimits {
        ways: (!alone).then(ways),
        per_second: drain.clients_per_second,
        stop: Duration::from_secs(drain.stop_seconds),
        notice: Duration::from_secs(drain.notice_seconds),
    };
    let older: Vec<String> = loaded.settings.rotation.old_private_keys.clone();
    let comms = Identity::new(&c.frontend.certificate, &c.frontend.private_key, &older)
        .map_err(anyhow::Error::msg)?;
    let limits = Limits {
        sessions: c.frontend.limits().expected_clients as usize,
        max_poll: c.client.max_poll().as_secs(),
        ancient_clients: c.security.allow_ancient_clients.unwrap_or(true),
        packet: crate::crypto::Limits {
            total_bytes: loaded.settings.limits.packet_inflated_bytes as usize,
            ..Default::default()
        },
        admission,
        steer,
        ..Limits::default()
    };
    Ok(Frontend::new(server, comms, limits))
}

/// The certificate of the listening socket: the comms identity unless a file of
/// its own is configured.
async fn tls_identity(env: &Env, f: &model::FrontendConfig) -> anyhow::Result<(String, String)> {
    if f.tls_certificate_filename.is_empty() {
        return Ok((f.certificate.clone(), f.private_key.clone()));
    }
    let read = |path: String, key: &'static str| async move {
        let at = crate::config::load::absolute(&path)?;
        let data = crate::env::fs::read_limited(&*env.fs, &at, 1 << 20).await.context(key)?;
        String::from_utf8(data).with_context(|| format!("{key}: {path} is not text"))
    };
    let cert =
        read(f.tls_certificate_filename.clone(), "Frontend.tls_certificate_filename").await?;
    let key = read(f.tls_private_key_filename.clone(), "Frontend.tls_private_key_filename").await?;
    Ok((cert, key))
}

/// Users the configuration starts a new deployment with.
async fn first_users(server: &Server, c: &model::Config) -> anyhow::Result<()> {
    use velociraptor_proto::proto::{ApiClientAcl, VelociraptorUser};
    for u in &c.gui.initial_users {
        let path = crate::store::paths::User { name: &u.name };
        if server.tree.get(&path.object()).await?.is_some() {
            continue;
        }
        let user = VelociraptorUser {
            name: u.name.clone(),
            password_hash: hex::decode(&u.password_hash)
                .context("GUI.initial_users password_hash")?,
            password_salt: hex::decode(&u.password_salt)
                .context("GUI.initial_users password_salt")?,
            ..Default::default()
        };
        let acl = ApiClientAcl { roles: vec!["administrator".into()], ..Default::default() };
        server.tree.set(&path.acl(&crate::services::ids::OrgId::root()), &acl).await?;
        server.tree.set(&path.object(), &user).await?;
    }
    Ok(())
}

/// Tells the truth about the store at `/healthz`: writes, reads and removes a
/// small file every few seconds, with a deadline.
async fn watch_store(frontend: Arc<Frontend>, stop: CancellationToken) {
    const EVERY: Duration = Duration::from_secs(5);
    const LIMIT: Duration = Duration::from_secs(5);
    let server = frontend.server().clone();
    let mut n = 0u64;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        n += 1;
        let path = server.own_path("probe", &n.to_string());
        let fs = &*server.env.fs;
        let probe = async {
            crate::env::fs::create_synced(fs, &path, b"alive").await?;
            fs.remove(&path).await
        };
        let health = match tokio::time::timeout(LIMIT, probe).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(format!("datastore: {e}")),
            Err(_) => Err(format!("datastore: no answer within {LIMIT:?}")),
        };
        let health = health.and(server.journal.space().health().map_err(|e| e.to_string()));
        if let Err(e) = &health {
            tracing::error!(error = e, "the datastore is not healthy");
        }
        frontend.set_health(health);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_links_defaults_are_those_of_the_settings() {
        let settings = crate::config::settings::Cluster::default();
        assert_eq!(link_limits(&settings), cluster::Limits::default());
    }
}
