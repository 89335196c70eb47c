//! An agent inside of another process: it has no connection and no files of its
//! own. It is handed messages and hands messages out.

use std::sync::Arc;

use tokio::sync::Mutex;
use velociraptor_proto::proto::VeloMessage;
use velociraptor_proto::proto::velo_message::AuthorizationState;
use vql::Registry;

use super::checkpoint::Checkpoint;
use super::events::Events;
use super::executor::Executor;
use super::outbox::{Batch, Outbox};
use super::query::{Context, Extend};
use super::settings::Settings;
use super::throttle::process_cpu;
use super::writeback::Writeback;
use crate::env::Env;
use crate::plugins::common::Host;

/// See the module.
#[derive(Debug)]
pub struct Local {
    executor: Arc<Executor>,
    out: Arc<Outbox>,
}

impl Local {
    /// Nothing runs yet. `extend` adds what the callables of `registry` look
    /// for in the scope of each request. It has no state file.
    pub fn new(env: &Env, settings: Settings, registry: Arc<Registry>, extend: Extend) -> Local {
        let writeback = Writeback::in_memory(env.fs.clone());
        let cx = Context {
            env: env.clone(),
            settings: Arc::new(settings),
            registry,
            host: Arc::new(Host { started: env.clock.unix(), ..Host::default() }),
            install_time: env.clock.unix(),
            cores: crate::env::real::cores(),
            cpu: process_cpu(),
            extend: Some(extend),
        };
        let out = Arc::new(Outbox::in_memory());
        let events = Events::new(cx.clone(), out.clone(), Arc::new(Mutex::new(writeback)));
        let checkpoint = Checkpoint::new(env.fs.clone(), None);
        let executor = Executor::new(cx, out.clone(), Arc::new(events), checkpoint);
        Local { executor, out }
    }

    /// Acts on one message of its own process; long work goes on by itself.
    pub async fn handle(&self, mut message: VeloMessage) {
        message.set_auth_state(AuthorizationState::Authenticated);
        self.executor.handle(message).await;
    }

    /// Collections that run.
    pub fn running(&self) -> usize {
        self.executor.running()
    }

    /// What it has to say; `None` when that is nothing.
    pub async fn next(&self) -> Option<Batch> {
        self.out.next().await
    }

    /// The batch was stored.
    pub async fn commit(&self, batch: Batch) {
        self.out.commit(batch).await;
    }

    /// Resolves when it has something to say.
    pub async fn filled(&self) {
        self.out.filled().await;
    }
}
