//! An agent's life: identity, event table, then the two loops until it is told
//! to stop. The reader asks for tasks, the sender delivers what waits.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use prost::Message;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::json;
use velociraptor_proto::proto::{
    Certificate as CsrMessage, ClientInfo, ForemanCheckin, MessageList, VeloMessage, VqlRequest,
    VqlResponse,
};

use super::buffer::Buffer;
use super::checkpoint::Checkpoint;
use super::events::{Events, MONITORING};
use super::executor::Executor;
use super::limiter::Limiter;
use super::link::{Identity, Link, Posted};
use super::outbox::{Outbox, Watch};
use super::query::{Context, Extend};
use super::settings::Settings;
use super::throttle::process_cpu;
use super::writeback::{Writeback, WritebackError};
use crate::comms::Channel;
use crate::comms::agent::{ConnectError, Connector, ConnectorConfig};
use crate::crypto::certs::{CertError, Certificate};
use crate::crypto::{ClientId, Compression, KeyError, PrivateKey};
use crate::env::Env;
use crate::plugins::common::Host;
use crate::plugins::endpoint::{Identity as OfQueries, NewIdentity, facts};

/// Least time between two requests for enrolment.
const ENROL_EVERY: Duration = Duration::from_secs(60);
/// What is gathered before a POST once something waits.
const GATHER: Duration = Duration::from_millis(50);
/// How long unsent data may stay off stable storage.
const SYNC_EVERY: Duration = Duration::from_secs(5);
/// The server's order to end is obeyed after this long.
const KILL_AFTER: Duration = Duration::from_secs(10);
const CHECK_IN: &str = "E.Foreman";
const ENROL: &str = "E:Enrol";
const INFO: &str = "Server.Internal.ClientInfo";

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its state.
    #[error(transparent)]
    Writeback(#[from] WritebackError),
    /// Its key.
    #[error("private key in the state file: {0}")]
    Key(#[from] KeyError),
    /// The CA of the configuration, or its own request.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// The way to the server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Key generation.
    #[error("making a key was aborted")]
    Aborted,
}

/// Why an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to stop.
    Stopped,
    /// The server told it to end.
    Killed,
}

/// What an agent brings along: its identity, state and queue.
pub struct Body {
    /// State, with the key in it.
    pub writeback: Writeback,
    /// What waits to be sent.
    pub out: Arc<Outbox>,
    /// Recent collections, for the next start.
    pub checkpoint: Checkpoint,
    /// The machine it speaks of.
    pub host: Arc<Host>,
    /// What its queries may call.
    pub registry: Arc<vql::Registry>,
    /// Sees what it receives.
    pub watch: Option<Arc<dyn Watch>>,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("host", &self.host).finish_non_exhaustive()
    }
}

/// What an agent's queries may call.
pub fn registry() -> vql::Registry {
    let mut registry = crate::plugins::endpoint_registry();
    super::artifacts::register(&mut registry);
    registry
}

impl Body {
    /// That of the machine this runs on, kept where the settings say.
    pub async fn installed(env: &Env, settings: &Settings) -> Result<Body, RunError> {
        let path = settings.expand(&settings.writeback);
        let writeback = Writeback::load(env.fs.clone(), &path, &settings.level2_suffix).await?;
        let buffer = match &settings.buffer_path {
            Some(p) if settings.buffer_disk > 0 => {
                let p = settings.expand(p);
                Buffer::on_disk(env, &p, settings.buffer_disk, settings.buffer_memory).await
            }
            _ => Buffer::memory(settings.buffer_memory),
        };
        Ok(Body {
            writeback,
            out: Arc::new(Outbox::new(buffer, settings.max_upload_size)),
            checkpoint: Checkpoint::new(env.fs.clone(), Some(format!("{path}.flows"))),
            host: Arc::new(Host { started: env.clock.unix(), ..Host::default() }),
            registry: Arc::new(registry()),
            watch: None,
        })
    }
}

/// Runs an agent until `stop` is cancelled or the server ends it.
pub async fn run(
    env: Env,
    settings: Settings,
    config: ConnectorConfig,
    stop: CancellationToken,
) -> Result<End, RunError> {
    let body = Body::installed(&env, &settings).await?;
    run_as(env, Arc::new(settings), config, body, stop).await
}

/// The same with a given body, such as a virtual client's.
pub async fn run_as(
    env: Env,
    settings: Arc<Settings>,
    config: ConnectorConfig,
    body: Body,
    stop: CancellationToken,
) -> Result<End, RunError> {
    let agent = Agent::start(env, settings, config, body).await?;
    let killed = async {
        agent.executor.killed.cancelled().await;
        tokio::time::sleep(KILL_AFTER).await;
    };
    let end = tokio::select! {
        biased;
        () = stop.cancelled() => End::Stopped,
        () = killed => End::Killed,
        () = agent.read() => End::Stopped,
        () = agent.send() => End::Stopped,
        () = agent.keep() => End::Stopped,
    };
    agent.events.stop().await;
    agent.out.sync().await;
    Ok(end)
}

/// A running agent.
struct Agent {
    env: Env,
    settings: Arc<Settings>,
    host: Arc<Host>,
    link: Link,
    out: Arc<Outbox>,
    events: Arc<Events>,
    executor: Arc<Executor>,
    watch: Option<Arc<dyn Watch>>,
    csr: String,
    id: String,
    install_time: u64,
}

impl Agent {
    async fn start(
        env: Env,
        settings: Arc<Settings>,
        config: ConnectorConfig,
        body: Body,
    ) -> Result<Agent, RunError> {
        let Body { mut writeback, out, checkpoint, host, registry, watch } = body;
        let key = key(&env, &mut writeback).await?;
        let id = ClientId::of(key.public()).to_string();
        let install_time = writeback.install_time();
        tracing::info!("client id {id}");
        let csr = crate::crypto::csr::request_pem(&key)?;
        let ca = Certificate::from_pem(&config.ca_certificate)?;
        let compression = match settings.disable_compression {
            true => Compression::None,
            false => Compression::Zlib,
        };
        let identity = Identity {
            key,
            id: id.clone(),
            ca,
            pinned: config.pinned_server_name.clone(),
            nonce: settings.nonce.clone(),
            compression,
        };
        let connector = Connector::new(env.clone(), config)?;
        let writeback = Arc::new(Mutex::new(writeback));
        let cx = Context {
            env: env.clone(),
            settings: settings.clone(),
            registry,
            host: host.clone(),
            install_time,
            cores: crate::env::real::cores(),
            cpu: process_cpu(),
            extend: Some(extension(&env, &host, &writeback)),
        };
        let events = Arc::new(Events::new(cx.clone(), out.clone(), writeback.clone()));
        let executor = Executor::new(cx, out.clone(), events.clone(), checkpoint);
        executor.recover().await;
        events.start_saved().await;
        let link = Link::new(env.clone(), identity, connector, writeback);
        Ok(Agent { env, settings, host, link, out, events, executor, watch, csr, id, install_time })
    }

    async fn act(&self, jobs: Vec<VeloMessage>) {
        for job in jobs {
            if let Some(watch) = &self.watch {
                watch.received(&job);
            }
            self.executor.handle(job).await;
        }
    }

    /// Asks for tasks, for ever.
    async fn read(&self) {
        let mut limiter = Limiter::new(self.settings.max_poll / 30, 10);
        let mut told: Option<Instant> = None;
        loop {
            limiter.take().await;
            let mut jobs = vec![VeloMessage {
                session_id: CHECK_IN.into(),
                foreman_checkin: Some(ForemanCheckin {
                    last_event_table_version: self.events.version(),
                    ..ForemanCheckin::default()
                }),
                ..VeloMessage::default()
            }];
            let due = |period| told.is_none_or(|at: Instant| at.elapsed() >= period);
            let tell = self.settings.info_period.is_some_and(due);
            if tell {
                jobs.extend(self.info().await);
            }
            let list = MessageList { job: jobs }.encode_to_vec();
            match self.link.post(Channel::Reader, vec![list], false).await {
                Posted::Done(jobs) => {
                    if tell {
                        told = Some(Instant::now());
                    }
                    self.act(jobs).await;
                }
                Posted::Enrol => {}
                Posted::Retry => continue,
            }
            tokio::time::sleep(self.settings.min_poll).await;
        }
    }

    /// Delivers what waits, for ever.
    async fn send(&self) {
        let mut limiter = Limiter::new(Duration::from_millis(100), 100);
        let mut enrolled: Option<Instant> = None;
        loop {
            if self.link.is_unknown() {
                // Data would be refused until the server knows our key. The
                // reader finds out when it does.
                if enrolled.is_none_or(|at| at.elapsed() >= ENROL_EVERY) {
                    enrolled = Some(Instant::now());
                    self.enrol().await;
                }
                tokio::time::sleep(self.settings.min_poll).await;
                continue;
            }
            let Some(mut batch) = self.out.next().await else {
                tokio::select! {
                    biased;
                    () = self.out.filled() => tokio::time::sleep(GATHER).await,
                    () = tokio::time::sleep(self.settings.min_poll) => {}
                }
                continue;
            };
            if !batch.urgent {
                limiter.take().await;
            }
            let lists = std::mem::take(&mut batch.lists);
            if lists.is_empty() {
                self.out.commit(batch).await;
                continue;
            }
            match self.link.post(Channel::Control, lists, batch.urgent).await {
                Posted::Done(jobs) => {
                    self.out.commit(batch).await;
                    self.act(jobs).await;
                }
                Posted::Enrol | Posted::Retry => continue,
            }
            if !self.out.is_large().await {
                tokio::time::sleep(self.settings.min_poll.min(Duration::from_secs(1))).await;
            }
        }
    }

    /// Puts unsent data on stable storage from time to time.
    async fn keep(&self) {
        loop {
            tokio::time::sleep(SYNC_EVERY).await;
            if self.out.bytes().await > 0 {
                self.out.sync().await;
            }
        }
    }

    async fn enrol(&self) {
        tracing::info!("asking to be enrolled");
        let csr = CsrMessage { pem: self.csr.clone().into_bytes(), ..CsrMessage::default() };
        let job =
            VeloMessage { session_id: ENROL.into(), csr: Some(csr), ..VeloMessage::default() };
        let list = MessageList { job: vec![job] }.encode_to_vec();
        // Success is answered like failure; the reader sees the difference.
        let _ = self.link.post(Channel::Control, vec![list], true).await;
    }

    /// What the server is told about this host.
    async fn info(&self) -> Option<VeloMessage> {
        let host = self.host.clone();
        let f = self.env.offload(move || facts(&host)).await?;
        let info = ClientInfo {
            client_id: self.id.clone(),
            hostname: f.hostname,
            fqdn: f.fqdn,
            system: self.host.os().into(),
            release: format!("{}{}", f.platform, f.version),
            architecture: f.architecture,
            client_version: self.settings.client_version.clone(),
            client_name: self.settings.client_name.clone(),
            labels: self.settings.labels.clone(),
            install_time: self.install_time,
            ..ClientInfo::default()
        };
        let row = json::to_sparse_row(&info).ok()?.to_string();
        let response = VqlResponse {
            query: Some(VqlRequest { name: INFO.into(), ..VqlRequest::default() }),
            query_id: self.env.entropy.next_u64() >> 1,
            timestamp: self.env.clock.micros(),
            total_rows: 1,
            jsonl_response: format!("{row}\n"),
            ..VqlResponse::default()
        };
        Some(VeloMessage {
            session_id: MONITORING.into(),
            vql_response: Some(response),
            ..VeloMessage::default()
        })
    }
}

/// What the queries of one agent share, and its identity, which they may change.
/// A virtual client has neither a program to restart nor a file of its own.
fn extension(env: &Env, host: &Host, writeback: &Arc<Mutex<Writeback>>) -> Extend {
    let shared = Arc::new(vql::Shared::default());
    let renewal = Renewal { env: env.clone(), writeback: writeback.clone() };
    let identity = Arc::new(OfQueries(Arc::new(renewal)));
    let real = host.persona.is_none();
    Arc::new(move |builder, _, _| {
        let builder = builder.extension(shared.clone());
        if real { builder.extension(identity.clone()) } else { builder }
    })
}

struct Renewal {
    env: Env,
    writeback: Arc<Mutex<Writeback>>,
}

impl NewIdentity for Renewal {
    fn renew(&self) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(async move {
            let made = self.env.offload(PrivateKey::generate).await;
            let key = made.ok_or("the work was aborted")?.map_err(|e| e.to_string())?;
            let id = ClientId::of(key.public()).to_string();
            let mut writeback = self.writeback.lock().await;
            writeback.set_identity(&key.to_pem(), &id, self.env.clock.unix());
            writeback.save().await.map_err(|e| e.to_string())?;
            Ok(id)
        })
    }
}

/// The key of the state file, or a new one, saved before it is used.
async fn key(env: &Env, writeback: &mut Writeback) -> Result<PrivateKey, RunError> {
    if let Some(pem) = writeback.private_key() {
        return Ok(PrivateKey::from_pem(pem)?);
    }
    let key = env.offload(PrivateKey::generate).await.ok_or(RunError::Aborted)??;
    let id = ClientId::of(key.public()).to_string();
    writeback.set_identity(&key.to_pem(), &id, env.clock.unix());
    writeback.save().await?;
    Ok(key)
}
