//! A frontend's process as a simulated host: starts the production node, and takes
//! calls from outside to be made inside of it.
//!
//! Calls run on the host itself, as requests of its users do, so a crash takes
//! them with it.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use velociraptor::config::{Flags, load_node};
use velociraptor::env::Env;
use velociraptor::node::{Extras, Node};
use velociraptor::services::Server;

use super::config;
use crate::plan;

type Call = Box<dyn FnOnce(Arc<Server>) -> BoxFuture<'static, ()> + Send>;

enum Message {
    Call(Call),
    Stop(oneshot::Sender<()>),
    Retire(oneshot::Sender<()>),
}

/// The frontend is not there, or went away before it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// The way into a frontend's process, from outside.
#[derive(Clone, Default)]
pub struct Remote(Arc<Mutex<Option<mpsc::UnboundedSender<Message>>>>);

impl Remote {
    fn sender(&self) -> Option<mpsc::UnboundedSender<Message>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, to: Option<mpsc::UnboundedSender<Message>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }

    /// Whether it has started and not ended.
    pub fn is_up(&self) -> bool {
        self.sender().is_some_and(|s| !s.is_closed())
    }

    /// Makes a call inside of it.
    pub async fn call<T, F>(
        &self,
        call: impl FnOnce(Arc<Server>) -> F + Send + 'static,
    ) -> Result<T, Gone>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        let call: Call = Box::new(move |server| {
            Box::pin(async move {
                let _ = tx.send(call(server).await);
            })
        });
        self.sender().ok_or(Gone)?.send(Message::Call(call)).map_err(|_| Gone)?;
        rx.await.map_err(|_| Gone)
    }

    /// Tells it to stop and waits until it has.
    pub async fn stop(&self) -> Result<(), Gone> {
        let (tx, rx) = oneshot::channel();
        self.sender().ok_or(Gone)?.send(Message::Stop(tx)).map_err(|_| Gone)?;
        rx.await.map_err(|_| Gone)
    }

    /// The same as its service manager does it: its clients are sent away first.
    pub async fn retire(&self) -> Result<(), Gone> {
        let (tx, rx) = oneshot::channel();
        self.sender().ok_or(Gone)?.send(Message::Retire(tx)).map_err(|_| Gone)?;
        rx.await.map_err(|_| Gone)
    }
}

/// Runs a frontend until its process ends: by a crash of its host, or by `exit`,
/// which is told whether a service manager starts it again. A process that is over
/// leaves nothing behind, no stream and no task, so `exit` must end the host.
pub async fn serve(
    name: String,
    remote: Remote,
    env: impl Fn() -> Option<Env>,
    exit: impl Fn(Again),
) {
    remote.set(None);
    let Some(env) = env() else { return };
    let again = match start(&name, env).await {
        Ok(node) => work(node, &remote).await,
        Err(e) => {
            tracing::warn!(target: "velociraptor::sim", host = name, error = format!("{e:#}"), "frontend did not start");
            Again::Yes
        }
    };
    exit(again);
    std::future::pending().await
}

/// Whether a process that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It failed, or lost its place: its service manager tries again.
    Yes,
    /// It was asked to stop.
    No,
}

async fn work(node: Node, remote: &Remote) -> Again {
    let (tx, mut rx) = mpsc::unbounded_channel();
    remote.set(Some(tx));
    let mut fatal = node.fatal();
    let end = loop {
        let message = tokio::select! {
            biased;
            _ = fatal.wait_for(Option::is_some) => break End::Lost,
            _ = node.displaced() => break End::Lost,
            m = rx.recv() => m,
        };
        match message {
            Some(Message::Call(call)) => drop(tokio::spawn(call(node.server.clone()))),
            Some(Message::Stop(done)) => break End::Stopped(done),
            Some(Message::Retire(done)) => {
                node.drain().await;
                break End::Stopped(done);
            }
            None => break End::Lost,
        }
    };
    remote.set(None);
    match end {
        End::Stopped(done) => {
            node.stop().await;
            let _ = done.send(());
            Again::No
        }
        End::Lost => {
            node.abandon().await;
            Again::Yes
        }
    }
}

/// Why a process ends that does not crash, as in `velociraptor frontend`.
enum End {
    /// It was asked to.
    Stopped(oneshot::Sender<()>),
    /// Another one has its place, or its master does not want it.
    Lost,
}

/// The same for all processes of all nodes, and never changed: made once.
static EXTRAS: LazyLock<Extras> = LazyLock::new(|| Extras {
    registry: velociraptor::plugins::server::registry(),
    definitions: vec![],
    takeover: false,
});

async fn start(name: &str, env: Env) -> anyhow::Result<Node> {
    let flags = match name {
        "server" => Flags::default(),
        _ => Flags { minion: true, node: Some(config::node_name(name)) },
    };
    let (loaded, plan) = load_node(&env, config::PATH, None, &flags).await?;
    let node = Node::start_as(env, &loaded, &plan, EXTRAS.clone()).await?;
    for definition in plan::DEFINITIONS {
        node.server.root().repository.set(definition)?;
    }
    Ok(node)
}
