//! Enrolment: a client proves that it holds a key, and the key is kept.

use std::sync::Arc;

use prost::Message;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::journal::{Enrol, PostClass};
use velociraptor_proto::proto::certificate::Type;
use velociraptor_proto::proto::{PublicKey as StoredKey, VeloMessage};

use super::Frontend;
use super::open::Sender;
use super::quarantine::Parked;
use crate::comms::server::Answer;
use crate::crypto::csr;
use crate::crypto::envelope::inflate_lists;
use crate::env::Mutant;
use crate::services::Org;
use crate::services::ids;
use crate::store::paths::Client;

/// What a client is told that is to enrol.
const PLEASE: &str = "Please Enrol";

impl Frontend {
    /// Handles a packet whose sender is not proved. Its data is kept until the
    /// key is known; the answer makes the client enrol.
    pub(super) async fn stranger(self: &Arc<Self>, sender: Sender, parked: Parked) -> Answer {
        let Sender::Stranger { org, client, wrong_key, session, opened } = sender else {
            return Answer::Status(500, "not a stranger".into());
        };
        if !self.admission.stranger().await {
            return Answer::Status(500, "Too many clients without a key; come again".into());
        }
        let jobs = match inflate_lists(&opened, &self.limits.packet) {
            Ok(jobs) => jobs,
            Err(e) => return Answer::Status(403, e.to_string()),
        };
        let messages: Vec<VeloMessage> =
            jobs.iter().filter_map(|j| VeloMessage::decode(j.clone()).ok()).collect();
        let source = ids::source(&org.id, &client.to_string());
        let requests = messages.iter().filter_map(|m| m.csr.as_ref());
        let requests: Vec<_> =
            requests.filter(|c| c.r#type() == Type::Csr && !c.pem.is_empty()).collect();
        if !requests.is_empty() {
            for r in requests {
                let request = match csr::Request::from_pem(&String::from_utf8_lossy(&r.pem)) {
                    Ok(r) => r,
                    Err(e) => return refuse(&source, &e.to_string()),
                };
                if request.client_id().ok() != Some(client) {
                    return refuse(&source, "the request is for another client id");
                }
                if request.public_key.exponent() != [1, 0, 1] {
                    return refuse(&source, "the key's exponent is not 65537");
                }
                if !session.verify(&request.public_key) {
                    return refuse(&source, "the packet is not signed with the requested key");
                }
                if !wrong_key && !self.admission.enrolment().await {
                    return Answer::Status(500, "Too many enrolments; come again".into());
                }
                if wrong_key {
                    return refuse(&source, "another key is enrolled under this id");
                }
                if let Err(e) = self.enrol(&org, &source, &request.public_key.to_pem()).await {
                    tracing::error!(client = source, error = e, "enrolment not stored");
                    return Answer::Status(500, e);
                }
            }
            return Answer::Status(406, PLEASE.into());
        }
        if wrong_key {
            // Its data is not to be trusted, and 406 would make it drop it.
            return Answer::Status(403, "signature does not match the enrolled key".into());
        }
        let worth_keeping = messages.iter().any(|m| m.foreman_checkin.is_none())
            && !self.server.env.sabotage.is(Mutant::EnrolWithoutParking);
        if worth_keeping && let Err(e) = self.park(&org.id, &source, parked).await {
            tracing::warn!(client = source, error = %e, "batch of an unknown client not kept; it will come again");
            return Answer::Status(500, e.to_string());
        }
        Answer::Status(406, PLEASE.into())
    }

    async fn enrol(
        self: &Arc<Self>,
        org: &Arc<Org>,
        source: &str,
        pem: &str,
    ) -> Result<(), String> {
        let now = self.server.env.clock.unix();
        let path = Client { org: &org.id, id: source };
        let key = StoredKey { pem: pem.as_bytes().to_vec(), enroll_time: now };
        // Created, never replaced: the content is a function of the id.
        let new = self.server.tree.create(&path.key(), &key).await.map_err(|e| e.to_string())?;
        // Another frontend's, or an earlier try's: that one tells its life.
        let life = match new {
            true => now,
            false => match super::stored_key(&self.server, source, &org.id).await? {
                Some((_, life)) => life,
                None => return Err("its key has just been removed".into()),
            },
        };
        let kind = Kind::Enrol(Enrol { first_seen: life });
        self.server.decide(org, source, "", kind).await.map_err(|e| e.to_string())?;
        self.peers.forget(source);
        tracing::info!(client = source, org = %org.id, "client enrolled");
        let row = serde_json::json!({"ClientId": source});
        let rows = format!("{row}\n").into();
        if let Err(e) =
            self.server.push_events(org, "server", "Server.Internal.Enrollment", rows).await
        {
            tracing::warn!(client = source, error = %e, "enrolment event not stored");
        }
        self.retake_all(&org.id, source).await;
        Ok(())
    }
}

fn refuse(client: &str, why: &str) -> Answer {
    tracing::warn!(client, why, "enrolment refused");
    Answer::Status(503, why.to_owned())
}

/// Class of a POST on the control endpoint.
pub(super) fn class_of(urgent: bool) -> PostClass {
    if urgent { PostClass::Urgent } else { PostClass::Normal }
}
