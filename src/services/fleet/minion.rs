//! A minion as its master's peer: carries out what comes down the stream, and
//! says how it is.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{Mutex, watch};
use velociraptor_proto::fleet::{
    Hello, NodeStats, OrgFact, Orgs, Refused, SessionChange, UpBeat, Welcome,
};

use super::relay::Relay;
use super::seen_term;
use super::status::own_stats;
use super::steering::Share;
use crate::cluster::{FromMaster, MinionSide};
use crate::services::ids::OrgId;
use crate::services::server::{Server, fleet_dir};
use crate::services::sessions::Key;
use crate::services::state::to_hash;

/// What the process adds to [`NodeStats`] that services do not know.
pub type Probe = Arc<dyn Fn(&mut NodeStats) + Send + Sync>;

/// Called for a client whose key must not be trusted any longer.
pub type Forgetter = Arc<dyn Fn(&Key) + Send + Sync>;

/// A minion's side of the stream.
pub struct Minion {
    server: Arc<Server>,
    relay: Arc<Relay>,
    probe: Probe,
    forget: Forgetter,
    /// Highest term of a master that this node has seen; `None`: its file was not
    /// read yet.
    term: Mutex<Option<u64>>,
    /// Why this process must end, once that is so.
    fatal: watch::Sender<Option<String>>,
}

impl std::fmt::Debug for Minion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minion").field("relay", &self.relay).finish_non_exhaustive()
    }
}

impl Minion {
    /// For `server`, whose relay is set.
    pub fn new(
        server: Arc<Server>,
        relay: Arc<Relay>,
        probe: Probe,
        forget: Forgetter,
    ) -> Arc<Self> {
        Arc::new(Self {
            server,
            relay,
            probe,
            forget,
            term: Mutex::default(),
            fatal: watch::Sender::new(None),
        })
    }

    /// Becomes `Some` when the master says for good that this process is not
    /// wanted.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.fatal.subscribe()
    }

    /// A master of `term` is here. It is refused if this node has seen a higher one,
    /// also before it was restarted, and obeyed once that is noted durably.
    async fn obey(&self, term: u64) -> Result<(), String> {
        let (env, fleet) = (&self.server.env, fleet_dir(&self.server.tree.root));
        let node = &self.server.options.node;
        let mut known = self.term.lock().await;
        let seen = match *known {
            Some(seen) => seen,
            None => seen_term::read(env, &fleet, node)
                .await
                .map_err(|e| format!("the term that this node has seen cannot be read: {e}"))?,
        };
        *known = Some(seen);
        if term < seen {
            return Err(format!(
                "this master is of term {term}, and one of term {seen} has been here: it is deposed"
            ));
        }
        if term > seen {
            let noted = seen_term::write(env, &fleet, node, term).await;
            noted.map_err(|e| format!("term {term} of this master cannot be noted: {e}"))?;
            *known = Some(term);
        }
        Ok(())
    }

    /// A client was deleted: what proves an earlier life of it counts no more. `false`:
    /// that was known.
    fn learn_deleted(&self, key: &Key, at: u64, lives: Vec<u64>) -> bool {
        let Some(org) = self.server.org(&key.0) else { return false };
        let mut state = org.state();
        let clients = &mut state.clients;
        if clients.deleted.when(&key.1) >= at {
            return false;
        }
        clients.deleted.delete_client(&key.1, at, lives, None);
        clients.remove(&key.1);
        true
    }

    fn learn(&self, orgs: &Orgs) {
        for OrgFact { org_id, name, nonce } in &orgs.orgs {
            self.server.learn_org(&OrgId::new(org_id.as_str()), name, nonce);
        }
    }
}

impl MinionSide for Minion {
    fn hello(&self) -> (Hello, Vec<SessionChange>) {
        let (holdings, readers) = self.relay.introduce();
        let hello = Hello {
            product: crate::ABOUT.to_owned(),
            end: Some(self.server.journal.end().into()),
            holdings,
            ..Default::default()
        };
        (hello, readers)
    }

    fn welcome<'a>(&'a self, welcome: Welcome) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            self.obey(welcome.term).await?;
            self.learn(&welcome.orgs.unwrap_or_default());
            self.relay.set_applied(welcome.applied.unwrap_or_default().into());
            let master = welcome.master.unwrap_or_default();
            tracing::info!(
                master = master.node,
                epoch = master.epoch,
                "the master has welcomed this minion"
            );
            Ok(())
        })
    }

    fn frame<'a>(&'a self, frame: FromMaster) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            match frame {
                FromMaster::Tasks(t) => {
                    let (org, client) = self.relay.give(t);
                    self.server.sessions.wake(&org, &client);
                }
                FromMaster::Recall(r) => {
                    let key = (OrgId::new(r.org_id.as_str()), r.client_id);
                    let elsewhere = (!r.request_hash.is_empty())
                        .then(|| (to_hash(&r.cipher_hash), to_hash(&r.request_hash)));
                    self.relay.recall(&key, elsewhere, self.server.env.clock.micros());
                }
                FromMaster::Applied(p) => self.relay.set_applied(p.into()),
                FromMaster::Release(r) => self.server.release(&r).await,
                FromMaster::Orgs(o) => self.learn(&o),
                FromMaster::Steer(s) => {
                    self.server.steer.set(s.drain, s.nodes.into_iter().collect());
                    if s.share > 0 {
                        self.server.steer.share(Share { clients: s.share, to: s.share_to });
                    }
                }
                FromMaster::Sharing(s) => self.server.share_among(s.nodes),
                FromMaster::Forget(f) => {
                    let key = (OrgId::new(f.org_id.as_str()), f.client_id);
                    if f.time > 0 && !self.learn_deleted(&key, f.time, f.life) {
                        // It is told with each stream, and was carried out.
                        return;
                    }
                    self.relay.recall(&key, None, self.server.env.clock.micros());
                    (self.forget)(&key);
                    for reader in self.server.sessions.readers(&key.0, &key.1) {
                        reader.supersede();
                    }
                }
            }
        })
    }

    fn beat(&self) -> UpBeat {
        let mut stats = NodeStats {
            clients: self.relay.clients() as u64,
            unreplicated_bytes: self.server.unreplicated_bytes(),
            ..own_stats(&self.server)
        };
        (self.probe)(&mut stats);
        UpBeat {
            end: Some(self.server.journal.end().into()),
            stats: Some(stats),
            ..Default::default()
        }
    }

    fn gone(&self) {
        // Nobody says who else is there: each node for itself.
        self.server.share_among(1);
        tracing::warn!("the master is not reached; clients are served without it");
    }

    fn refused(&self, refusal: &Refused) {
        tracing::error!(
            reason = refusal.reason,
            permanent = refusal.permanent,
            "the master refuses this minion"
        );
        if refusal.permanent {
            self.fatal.send_replace(Some(refusal.reason.clone()));
        }
    }
}
