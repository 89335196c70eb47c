//! Whether a certificate proves a node, by the deployment's CA and its list of
//! withdrawn certificates.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Unproved, Verify};
use crate::crypto::certs::{CertError, Certificate};
use crate::crypto::{NodeError, Revocations, verify_node};
use crate::env::Env;

/// Verifies against `ca`, the clock, and `revoked` as it is at each check: a
/// change ends the streams of withdrawn nodes within a beat.
pub fn verifier(env: &Env, ca: Certificate, revoked: watch::Receiver<Revocations>) -> Verify {
    let clock = env.clock.clone();
    Arc::new(move |der| {
        let peer = verify_node(&[der], &ca, clock.now(), &revoked.borrow());
        peer.map(|p| p.name.as_str().to_owned()).map_err(|e| Unproved {
            // A wrong date may be our clock's fault, and a new certificate may be on its way.
            permanent: !matches!(e, NodeError::Cert(CertError::OutOfDate { .. })),
            reason: e.to_string(),
        })
    })
}
