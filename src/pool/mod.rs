//! Many virtual clients in one process: production agents with their real
//! crypto and transports, whose state is in memory and whose hosts are made up.
//! What they were sent and what they were acknowledged is kept in a [`Book`], so
//! that a run ends with an audit of what the server has.
//!
//! Knows no server of ours: everything goes over the client protocol and the API,
//! so it loads a stock server just as well.

mod api;
mod audit;
mod book;
mod flood;
mod keys;
mod persona;
mod report;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::agent::buffer::Buffer;
use crate::agent::checkpoint::Checkpoint;
use crate::agent::outbox::Outbox;
use crate::agent::writeback::Writeback;
use crate::agent::{Body, End, Settings, run, run_as};
use crate::comms::agent::ConnectorConfig;
use crate::crypto::{ClientId, PrivateKey};
use crate::env::Env;
use crate::plugins::common::Host;

pub use api::Api;
pub use audit::audit;
pub use book::Book;
pub use flood::Flood;
pub use keys::{KeysError, keys};
pub use persona::Persona;
pub use report::{Latency, Report};
pub use tasks::{Plan, Tasks, schedule};

/// Bytes of unsent data a virtual client holds before its queries wait.
const BUFFER: u64 = 4 << 20;
/// How long a churned client stays away.
const AWAY: Duration = Duration::from_secs(2);

/// How the clients behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// What they say they are.
    pub persona: Persona,
    /// Clients started each second; 0 starts all at once.
    pub ramp: u32,
    /// Mean time after which a client's process ends and a new one starts, with
    /// the same key and without its memory; `None` keeps them.
    pub churn: Option<Duration>,
    /// What they always have to send, if anything, and bytes of a POST of it.
    pub flood: Option<(Arc<Flood>, u64)>,
}

/// Starts the clients, one for each key, and leaves them running until `stop`; they
/// take the connectors in turn. Their ids are known to the book from the start.
pub fn start(
    env: &Env,
    settings: Settings,
    connectors: &[ConnectorConfig],
    keys: Vec<PrivateKey>,
    options: &Options,
    book: &Arc<Book>,
    stop: &CancellationToken,
) {
    let settings = Arc::new(settings);
    let mut registry = run::registry();
    persona::register(&mut registry);
    let registry = Arc::new(registry);
    for ((n, key), connector) in keys.into_iter().enumerate().zip(connectors.iter().cycle()) {
        let id = ClientId::of(key.public()).to_string();
        let one = Virtual {
            env: env.clone(),
            settings: settings.clone(),
            connector: connector.clone(),
            host: Host {
                started: env.clock.unix(),
                persona: Some(Arc::new(options.persona.host(n, &id))),
                ..Host::default()
            },
            registry: registry.clone(),
            churn: options.churn,
            flood: options.flood.clone(),
            watch: book.client(&id),
            key,
            id,
        };
        let (stop, ramp) = (stop.clone(), options.ramp);
        env.spawn(async move {
            let wait = match ramp {
                0 => Duration::ZERO,
                r => Duration::from_secs_f64(n as f64 / f64::from(r)),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => one.live(&stop).await,
            }
        });
    }
}

struct Virtual {
    env: Env,
    settings: Arc<Settings>,
    connector: ConnectorConfig,
    host: Host,
    registry: Arc<vql::Registry>,
    churn: Option<Duration>,
    flood: Option<(Arc<Flood>, u64)>,
    watch: Arc<book::Client>,
    key: PrivateKey,
    id: String,
}

impl Virtual {
    async fn live(&self, stop: &CancellationToken) {
        // What was not acknowledged survives the process, as in a buffer on disk.
        let (room, post) = match &self.flood {
            Some((_, post)) => (2 * post, *post),
            None => (BUFFER, self.settings.max_upload_size),
        };
        let out = Outbox::new(Buffer::memory(room), post);
        let out = Arc::new(out.watched(self.watch.clone()));
        if let Some((flood, _)) = &self.flood {
            self.env.spawn(flood.clone().fill(self.env.clone(), out.clone(), stop.clone()));
        }
        while !stop.is_cancelled() {
            let mut writeback = Writeback::in_memory(self.env.fs.clone());
            writeback.set_identity(&self.key.to_pem(), &self.id, self.host.started);
            let body = Body {
                writeback,
                out: out.clone(),
                checkpoint: Checkpoint::new(self.env.fs.clone(), None),
                host: Arc::new(self.host.clone()),
                registry: self.registry.clone(),
                watch: Some(self.watch.clone()),
            };
            let end = stop.child_token();
            if let Some(mean) = self.churn {
                let (end, wait) = (end.clone(), exponential(&self.env, mean));
                self.env.spawn(async move {
                    tokio::select! {
                        biased;
                        () = end.cancelled() => {}
                        () = tokio::time::sleep(wait) => end.cancel(),
                    }
                });
            }
            let (env, settings) = (self.env.clone(), self.settings.clone());
            let ended = run_as(env, settings, self.connector.clone(), body, end.clone()).await;
            end.cancel();
            match ended {
                Ok(End::Stopped | End::Killed) => self.watch.restarted(),
                Err(e) => {
                    tracing::error!(client = self.id, "a virtual client cannot run: {e}");
                    return;
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tokio::time::sleep(AWAY) => {}
            }
        }
    }
}

/// A random time with this mean.
fn exponential(env: &Env, mean: Duration) -> Duration {
    let u = (env.entropy.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    mean.mul_f64(-(1.0 - u).ln().max(-20.0))
}
