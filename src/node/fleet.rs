//! The node's place in the cluster: the stream and what hangs on it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use futures::future::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use velociraptor_proto::fleet::NodeStats;

use super::Node;
use crate::cluster::{self, Dialer, Fleet, Uplink};
use crate::comms::tls;
use crate::config::{Loaded, NodePlan};
use crate::crypto::certs::Certificate;
use crate::crypto::{NodeIdentity, Revocations};
use crate::env::{Env, Side};
use crate::frontend::Frontend;
use crate::services::Server;
use crate::services::fleet::claimer::Claimer;
use crate::services::fleet::hub::Hub;
use crate::services::fleet::minion::Minion;
use crate::services::fleet::processes::Processes;
use crate::services::fleet::relay::{Relay, records};

/// Journal bytes kept for a stream that is slow, before it must read the store.
const FEED: usize = 32 << 20;

/// Journal bytes in one frame at most: larger groups are read from the store.
const FRAME: usize = 8 << 20;

/// What a master has of its minions.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// What they told, and what they are told.
    pub hub: Arc<Hub>,
    /// Their streams.
    pub fleet: Fleet,
}

impl Node {
    /// Lets minions join this master.
    pub(super) fn lead(
        &mut self,
        env: &Env,
        ca: Certificate,
        revoked: watch::Receiver<Revocations>,
        limits: cluster::Limits,
    ) -> Fleet {
        let processes = Processes::new(self.server.clone());
        let term = self.server.standing.term().map_or(0, |t| t.number());
        let hub = Hub::new(self.server.clone(), processes.clone(), term);
        let (orders, rx) = mpsc::unbounded_channel();
        self.server.set_orders(orders);
        self.server.set_hub(&hub);
        let verify = cluster::verifier(env, ca, revoked);
        let fleet = Fleet::new(env.clone(), limits, hub.clone(), verify, self.stop.clone());
        self.run(env, Side::Frontend, hub.clone().run(rx, self.stop.clone()).boxed());
        self.run(env, Side::Frontend, processes.tail(self.stop.clone()).boxed());
        let offers = self.server.clone().look_after_offers(self.stop.clone());
        self.run(env, Side::Frontend, offers.boxed());
        self.cluster = Some(Cluster { hub, fleet: fleet.clone() });
        fleet
    }

    /// Joins the master at `address`.
    pub(super) fn follow(
        &mut self,
        env: &Env,
        loaded: &Loaded,
        address: crate::config::Address,
        identity: &NodeIdentity,
        frontend: &Arc<Frontend>,
        operations: &Arc<crate::store::ops::CountingFs>,
    ) -> anyhow::Result<()> {
        let own = tls::Identity::from_pem(&identity.certificate_pem, &identity.private_key_pem)
            .context("node.certificate")?;
        let c = &loaded.config.client;
        let dialer = Dialer::new(env, &own, &c.ca_certificate, c.pinned_server_name())?;
        let uplink = Uplink::new(super::link_limits(&loaded.settings.cluster));
        let relay = Relay::new(uplink.clone());
        self.server.set_relay(relay.clone());
        let expires = Certificate::from_pem(&identity.certificate_pem)
            .map(|c| c.validity().1)
            .unwrap_or_default();
        let ops = operations.clone();
        let probe = Arc::new(move |s: &mut NodeStats| {
            s.certificate_expires = u64::try_from(expires).unwrap_or(0);
            let counts = ops.counts();
            (s.store_operations, s.store_failures) = (counts.total(), counts.failed);
        });
        let forgetter = {
            let frontend = frontend.clone();
            Arc::new(move |key: &crate::services::sessions::Key| frontend.forget(&key.1))
        };
        let side = Minion::new(self.server.clone(), relay.clone(), probe, forgetter);
        let id = self.server.process();
        let link = cluster::Minion {
            env: env.clone(),
            process: cluster::Process { node: id.node, epoch: id.epoch },
            addresses: Arc::new(move || {
                vec![cluster::Address { host: address.host.clone(), port: address.port }]
            }),
            dialer,
            uplink: uplink.clone(),
            side: side.clone(),
        };
        // The link outlives the relay's last words.
        let (stop, last) = (self.stop.clone(), self.last_stop.clone());
        let after = Duration::from_secs(loaded.settings.cluster.claim_after_seconds);
        let claimer = Claimer::new(self.server.clone(), relay.clone(), after);
        self.run(env, Side::Frontend, claimer.run(stop.clone()).boxed());
        let fatal = self.fatal.clone();
        self.run(env, Side::Frontend, relay.run(stop.clone()).boxed());
        self.run(env, Side::Frontend, pass_on(self.server.clone(), uplink, stop).boxed());
        let server = self.server.clone();
        env.spawn(async move {
            if let Some(refused) = link.run(last).await {
                tracing::error!(
                    node = server.options.node,
                    reason = refused.reason,
                    "this node must end"
                );
                fatal.send_replace(Some(refused.reason));
            }
        });
        Ok(())
    }

    /// What the metrics say of the stream.
    pub(super) fn link_metrics(&self) -> Arc<dyn Fn() -> String + Send + Sync> {
        if let Some(cluster) = &self.cluster {
            let fleet = cluster.fleet.clone();
            return Arc::new(move || cluster::metrics::master(&fleet));
        }
        match self.server.relay().map(|r| r.uplink().clone()) {
            Some(uplink) => Arc::new(move || cluster::metrics::minion(&uplink)),
            None => Arc::new(String::new),
        }
    }

    /// Becomes `Some` with the reason when the node must end.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.fatal.subscribe()
    }
}

/// Journal bytes go to the master as they are committed.
async fn pass_on(server: Arc<Server>, uplink: Uplink, stop: CancellationToken) {
    let feed = server.journal.subscribe(FEED);
    loop {
        let group = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            g = feed.next() => g,
        };
        let Some(g) = group else { return };
        if g.data.len() <= FRAME {
            // Not sent: the master sees from the next beat that it exists.
            let _ = uplink.records(records(g.start.file, g.start.offset, g.data));
        }
    }
}

/// Waits until the master knows what it must, if it can be reached.
pub(super) async fn last_words(uplink: &Uplink, limit: std::time::Duration) {
    const LOOK: std::time::Duration = std::time::Duration::from_millis(20);
    let told = async {
        while uplink.connected() && uplink.owed() != (0, 0) {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(limit, told).await.is_err() {
        tracing::warn!("stopped before the master knew everything; it will ask the clients");
    }
}

/// Who this process is, from its files.
pub(super) fn plan(env: &Env, loaded: &Loaded) -> anyhow::Result<NodePlan> {
    let now: SystemTime = env.clock.now();
    let (_, plan) = loaded.clone().for_node(&crate::config::Flags::default(), now)?;
    Ok(plan)
}
