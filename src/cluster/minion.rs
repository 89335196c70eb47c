//! The minion's end: keeps a stream to the master, for as long as the process lives.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use velociraptor_proto::fleet::Refused;

use super::backoff::Backoff;
use super::ending::Ending;
use super::session::Session;
use super::{Address, Counters, Dialer, MinionSide, Process, Uplink};
use crate::env::Env;

/// Where masters may be, asked before each attempt; the first one is tried first.
pub type Addresses = Arc<dyn Fn() -> Vec<Address> + Send + Sync>;

/// The link of a minion.
#[derive(Clone)]
pub struct Minion {
    /// Its world.
    pub env: Env,
    /// This process; the node's name must be that of its certificate.
    pub process: Process,
    /// Where to connect.
    pub addresses: Addresses,
    /// How to connect.
    pub dialer: Dialer,
    /// What is sent. Its limits are those of the link.
    pub uplink: Uplink,
    /// What is done with what comes.
    pub side: Arc<dyn MinionSide>,
}

impl fmt::Debug for Minion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minion").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Minion {
    /// Keeps a stream until `stop` (then `None`), or until a master refuses this process
    /// for good.
    pub async fn run(&self, stop: CancellationToken) -> Option<Refused> {
        let limits = self.uplink.limits().clone();
        let mut backoff = Backoff::new(limits.backoff_min, limits.backoff_max);
        let mut turn = 0;
        loop {
            let addresses = (self.addresses)();
            let (ending, lived) = match addresses.get(turn % addresses.len().max(1)) {
                Some(address) => self.once(address, &stop).await,
                None => (Ending::Broken("no address of a master is known".into()), None),
            };
            self.uplink.finish(&ending.to_string());
            if stop.is_cancelled() {
                return None;
            }
            let cap = match &ending {
                // Nobody was there who could be bothered.
                Ending::Broken(_) | Ending::Silent(_) => limits.backoff_unreached,
                _ => limits.backoff_max,
            };
            if let Ending::Refused(r) = ending {
                Counters::add(&self.uplink.counters().refused, 1);
                self.side.refused(&r);
                if r.permanent {
                    return Some(r);
                }
            }
            match lived {
                // One that breaks at once does not make the next attempt quick.
                Some(t) if t >= limits.beat => backoff.reset(),
                Some(_) => {}
                None => {
                    Counters::add(&self.uplink.counters().connect_failures, 1);
                    turn += 1;
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = sleep(backoff.pause(&self.env, cap)) => {}
            }
        }
    }

    /// One stream; also how long it lived, if it came to that.
    async fn once(
        &self,
        address: &Address,
        stop: &CancellationToken,
    ) -> (Ending, Option<Duration>) {
        let session = match Session::open(self, address, stop).await {
            Ok(session) => session,
            Err(ending) => {
                tracing::info!(master = %address, why = %ending, "no stream to the master");
                return (ending, None);
            }
        };
        let (since, master) = (Instant::now(), session.master.clone());
        let counters = self.uplink.counters();
        Counters::add(&counters.streams, 1);
        Counters::add(&counters.streams_total, 1);
        tracing::info!(%master, %address, "connected to the master");
        self.uplink.welcomed(master.clone());
        let ending = session.run(stop).await;
        self.uplink.finish(&ending.to_string());
        Counters::sub(&counters.streams, 1);
        tracing::info!(%master, why = %ending, "the stream to the master has ended");
        self.side.gone();
        (ending, Some(since.elapsed()))
    }
}
