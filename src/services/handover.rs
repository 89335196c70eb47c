//! What the services hand to frontends: batches that wait for their clients' keys.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use velociraptor_proto::journal::Quarantine;

use super::ids::OrgId;
use crate::store::journal::Extent;

/// A sealed POST found in a journal, whose sender was not enrolled when it came.
#[derive(Clone, Debug)]
pub struct RecoveredPost {
    /// What is known of it.
    pub about: Quarantine,
    /// Where the body is; keeps the journal that holds it.
    pub body: Extent,
}

/// Something to take up.
#[derive(Clone, Debug)]
pub enum Handed {
    /// A batch.
    Post(RecoveredPost),
    /// A client has enrolled, through another frontend.
    Enrolled(OrgId, String),
}

/// What is to be taken up, in the order in which it became known.
#[derive(Debug, Default)]
pub struct Handover {
    list: Mutex<Vec<Handed>>,
    wake: Notify,
}

impl Handover {
    pub(super) fn push(&self, what: Handed) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        self.wake.notify_one();
    }

    /// A batch that could not be taken up is to be taken up later.
    pub fn again(&self, post: RecoveredPost) {
        self.push(Handed::Post(post));
    }

    /// Everything there is; each is given out once.
    pub fn take(&self) -> Vec<Handed> {
        std::mem::take(&mut self.list.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns when there may be something.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}
