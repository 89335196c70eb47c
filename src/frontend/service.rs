//! The frontend as the transport sees it: which answer each outcome gets, so
//! that a stock agent keeps what was not stored.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::enrol::class_of;
use super::open::{OpenError, Sender};
use super::quarantine::Parked;
use super::{Frontend, IngestError};
use crate::comms::server::{
    Answer, ClientService, Oversize, PublicFile, ReaderAnswer, Request, RequestHead,
};

/// Serves clients for a frontend.
#[derive(Clone, Debug)]
pub struct Clients(pub Arc<Frontend>);

/// The answer to a packet that was not accepted. None of these makes a stock
/// agent drop its data.
pub(super) fn refusal(e: &OpenError) -> Answer {
    let code = match e {
        OpenError::Empty => 406,
        OpenError::Envelope(_) | OpenError::Nonce | OpenError::Source(_) => 403,
        OpenError::Store(_) | OpenError::Deleted | OpenError::Busy | OpenError::Interrupted => 500,
    };
    Answer::Status(code, e.to_string())
}

/// The answer to a POST that was not stored.
pub(super) fn not_stored(e: &IngestError) -> Answer {
    match e {
        // Only after its bytes were kept: the agent drops it.
        IngestError::Never(why) => Answer::Status(400, why.clone()),
        e => Answer::Status(500, e.to_string()),
    }
}

impl Frontend {
    /// Agents of protocol 3 are turned away on both channels, where the operator
    /// says so: one that were only given tasks would run them for nothing.
    pub(super) fn too_old(&self, who: &super::open::Who) -> Option<Answer> {
        let refused = who.api_version < 4 && !self.limits.ancient_clients;
        refused.then(|| Answer::Status(403, "agents before 0.6.8 are not served here".into()))
    }

    async fn results(self: &Arc<Self>, request: Request) -> Answer {
        let urgent = request.head.urgent;
        let class = class_of(urgent);
        let _turn = match urgent {
            false => None,
            true => match self.admission.urgent().await {
                None => return refusal(&OpenError::Busy),
                turn => turn,
            },
        };
        let (remote, body) = (request.head.remote, request.body);
        let (who, letter) = match self.open(body.clone(), urgent).await {
            Ok(Sender::Proved(who, letter)) => (who, letter),
            Ok(stranger) => {
                return self.stranger(stranger, Parked { class, remote, body }).await;
            }
            Err(e) => {
                tracing::warn!(remote, error = %e, "packet refused");
                return refusal(&e);
            }
        };
        if let Some(refused) = self.too_old(&who) {
            return refused;
        }
        if !self.admission.bytes(&who.source, body.len() as u64).await {
            return Answer::Status(500, "Over the upload rate of a client".into());
        }
        match self.ingest_letter(&who, class, &remote, letter).await {
            Ok(()) => {}
            Err(IngestError::Never(why)) => {
                let parked = Parked { class, remote, body };
                let kept = self.quarantine(&who.org.id, &who.source, &parked, &why).await;
                tracing::error!(client = who.source, why, "POST can never be stored; set aside");
                return match kept {
                    Ok(()) => Answer::Status(400, why),
                    Err(e) => Answer::Status(500, e),
                };
            }
            Err(e) => {
                tracing::warn!(client = who.source, error = %e, "not stored; the client keeps it");
                return not_stored(&e);
            }
        }
        // An empty body is always safe; stock replies with an empty list.
        Answer::Reply(Bytes::new())
    }
}

impl ClientService for Clients {
    fn server_pem(&self) -> Bytes {
        Bytes::from(self.0.identity.pem.clone())
    }

    fn health(&self) -> Result<(), String> {
        // What is refused is known within a second; what is written and read back is
        // looked at more rarely.
        self.0.server.journal.space().health().map_err(|e| e.to_string())?;
        self.0.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn draining(&self) -> bool {
        self.0.leaves()
    }

    fn admit(&self, head: &RequestHead) -> Result<(), Answer> {
        self.0.admission.admits(head)
    }

    fn control(&self, request: Request) -> BoxFuture<'_, Answer> {
        Box::pin(async move {
            let answer = self.0.results(request).await;
            if !matches!(answer, Answer::Reply(_)) {
                self.0.count_refused();
            }
            answer
        })
    }

    fn reader(&self, request: Request) -> BoxFuture<'_, ReaderAnswer> {
        Box::pin(self.0.check_in(request))
    }

    fn oversize(&self, body: Oversize) -> BoxFuture<'_, Answer> {
        Box::pin(async move {
            // Its sender is not known and it will never fit: what can be kept is.
            let parked = Parked {
                class: class_of(body.head.urgent),
                remote: body.head.remote.clone(),
                body: body.prefix,
            };
            let why = format!("body is larger than {} bytes", body.limit);
            let root = self.0.server.root();
            tracing::error!(remote = parked.remote, why, "POST refused for ever");
            match self.0.quarantine(&root.id, "", &parked, &why).await {
                Ok(()) => Answer::Status(400, why),
                Err(e) => Answer::Status(500, e),
            }
        })
    }

    fn public_file<'a>(&'a self, path: &'a [String]) -> BoxFuture<'a, Option<PublicFile>> {
        Box::pin(async move { super::public::open(&self.0.server, path).await })
    }
}
