//! Virtual clients: stock agents in everything that crosses the wire, with
//! made-up results, and a book of what they were acknowledged.
//!
//! Many are packed as tasks on few simulated hosts, since a simulated host costs
//! far more than a client. Each client is a task that runs one process of its
//! agent at a time and takes orders from the scenario between the lines.

mod execute;
mod link;
mod outbox;
mod process;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use velociraptor::env::Env;

use crate::ledger::{Books, now};
pub use execute::upload_name;
pub use process::Process;

/// What all clients of a deployment know.
#[derive(Clone, Debug, Default)]
pub struct Deployment {
    /// PEM of the CA.
    pub ca: String,
    /// The deployment's secret.
    pub nonce: String,
    /// The name servers bear.
    pub pinned: String,
}

/// One client as installed.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Index of its book.
    pub book: usize,
    /// Its id.
    pub id: String,
    /// Its key, PEM.
    pub key: String,
    /// What its deployment is.
    pub deployment: Arc<Deployment>,
    /// Where frontends are.
    pub urls: Vec<String>,
    /// Behind a balancer: each POST may go to any of `urls`.
    pub balanced: bool,
    /// Whether it compresses.
    pub compress: bool,
    /// Base of every back-off (stock: 60 s).
    pub max_poll: Duration,
    /// The version it says it has; old ones cannot be asked about flows.
    pub version: &'static str,
    /// Makes event rows although no table told it to, from the first moment.
    pub eager: bool,
    /// Largest POST, bytes.
    pub max_post: usize,
    /// The least time between rows of an event query.
    pub events: Duration,
    /// After a failure it always sends the same POST again. Others sometimes send
    /// the same messages in another grouping, as agents do whose loops were started
    /// anew meanwhile.
    pub steady: bool,
}

impl Setup {
    /// Whether it answers questions about flows.
    pub fn can_answer(&self) -> bool {
        self.version >= "0.73"
    }
}

/// What a scenario may do to a client.
#[derive(Debug)]
pub enum Order {
    /// The process ends at once and a new one starts after a while.
    Restart(Duration),
    /// Sleeps: no process, for so long.
    Sleep(Duration),
    /// Its connection breaks: what was on its way is sent again at once.
    Roam,
    /// Its last POSTs of results arrive once more.
    Replay(usize),
    /// Never comes back.
    Leave,
}

/// A scenario's hold on a client.
#[derive(Clone, Debug)]
pub struct Remote(mpsc::UnboundedSender<(Order, oneshot::Sender<()>)>);

impl Remote {
    /// Gives an order and waits until it was carried out.
    pub async fn order(&self, order: Order) {
        let (done, wait) = oneshot::channel();
        if self.0.send((order, done)).is_ok() {
            let _ = wait.await;
        }
    }
}

/// The orders' other end.
pub type Orders = mpsc::UnboundedReceiver<(Order, oneshot::Sender<()>)>;

/// A channel for orders.
pub fn orders() -> (Remote, Orders) {
    let (tx, rx) = mpsc::unbounded_channel();
    (Remote(tx), rx)
}

/// Lives a client's life. To be run inside a simulated host.
pub async fn live(env: Env, setup: Arc<Setup>, books: Books, mut orders: Orders, delay: Duration) {
    tokio::time::sleep(delay).await;
    loop {
        let number = books.client(setup.book, |b| {
            b.processes += 1;
            b.awake = true;
            b.back = None;
            b.processes
        });
        let process = match Process::new(env.clone(), setup.clone(), books.clone(), number) {
            Ok(p) => Arc::new(p),
            Err(e) => {
                books
                    .lock()
                    .complain("CLIENT", format!("client {} cannot start: {e:#}", setup.book));
                return;
            }
        };
        let rest = {
            let running = process.clone().run();
            tokio::pin!(running);
            loop {
                let (order, done) = tokio::select! {
                    biased;
                    order = orders.recv() => match order {
                        Some(o) => o,
                        None => std::future::pending().await,
                    },
                    () = &mut running => return,
                };
                match order {
                    Order::Roam => {
                        process.roam();
                        let _ = done.send(());
                    }
                    Order::Replay(n) => {
                        let again = process.clone();
                        env.spawn(async move {
                            again.link.replay(n).await;
                            let _ = done.send(());
                        });
                    }
                    Order::Restart(rest) | Order::Sleep(rest) => {
                        let _ = done.send(());
                        break Some(rest);
                    }
                    Order::Leave => {
                        let _ = done.send(());
                        break None;
                    }
                }
            }
        };
        process.end();
        drop(process);
        match rest {
            Some(rest) => {
                books.client(setup.book, |b| b.back = Some(now() + rest));
                tokio::time::sleep(rest).await;
            }
            None => return std::future::pending().await,
        }
    }
}
