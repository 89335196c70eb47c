//! Clients that people make: records of hosts that never enrolled, to hold what was
//! collected elsewhere.

use velociraptor_proto::journal::Enrol;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::proto::ClientInfo;

use super::deletion::check_client;
use super::ids::new_client_id;
use super::server::{Org, Server, ServiceError};

impl Server {
    /// Makes a client with this record, under its own id or a new one, and returns
    /// its record. Of one that is there already, what is given is changed.
    pub async fn create_client(
        &self,
        org: &Org,
        principal: &str,
        mut info: ClientInfo,
    ) -> Result<ClientInfo, ServiceError> {
        if info.client_id.is_empty() {
            info.client_id = new_client_id(&self.env, &org.id);
        }
        let id = info.client_id.clone();
        check_client(&id)?;
        // Nobody deletes it meanwhile.
        let _alone = self.housekeeping.lock().await;
        if let Some(first_seen) = self.new_life(org, &id) {
            self.decide(org, &id, principal, Kind::Enrol(Enrol { first_seen })).await?;
        }
        self.decide(org, &id, principal, Kind::ClientInfo(info)).await?;
        let found = org.state().clients.get(&id).map(|c| c.info.clone());
        found.ok_or_else(|| ServiceError::NotFound(format!("client {id}")))
    }

    /// For a client that was deleted: a time that none of its earlier lives has.
    fn new_life(&self, org: &Org, id: &str) -> Option<u64> {
        let state = org.state();
        let dead = state.clients.deleted.get(id).filter(|d| !d.lives_again)?;
        let now = self.env.clock.unix();
        (now..).find(|life| !dead.lives.contains(life))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::server::tests::{CLIENT, server};

    #[tokio::test]
    async fn a_client_that_was_made_is_known_again_after_a_start_and_after_a_deletion() {
        let dir = tempfile::tempdir().unwrap();
        let s = server(&dir).await;
        let org = s.root();
        let made = ClientInfo {
            client_id: "C.00000000000000aa".into(),
            hostname: "h".into(),
            ping: 7,
            labels: vec!["L".into()],
            ..Default::default()
        };
        let found = s.create_client(&org, "mike", made.clone()).await.unwrap();
        assert_eq!((found.ping, found.labels), (7, vec!["L".to_owned()]));
        s.delete_client(&org, &made.client_id, "mike").await.unwrap();
        assert!(org.state().clients.get(&made.client_id).is_none());
        let again = ClientInfo { hostname: "again".into(), labels: vec![], ..made.clone() };
        s.create_client(&org, "mike", again).await.unwrap();
        for bad in ["foo", "C.", "C.1/../2", "server"] {
            let info = ClientInfo { client_id: bad.into(), ..Default::default() };
            assert!(s.create_client(&org, "mike", info).await.is_err(), "{bad}");
        }
        let new = s.create_client(&org, "mike", ClientInfo::default()).await.unwrap();
        assert!(new.client_id.len() == CLIENT.len() && new.client_id.starts_with("C."));
        drop((org, s));
        let s = server(&dir).await;
        let state = s.root();
        let state = state.state();
        let info = &state.clients.get(&made.client_id).unwrap().info;
        assert!(info.hostname == "again" && info.labels.is_empty(), "{info:?}");
        assert!(state.clients.get(&new.client_id).is_some());
    }
}
