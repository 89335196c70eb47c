//! One port for callers and nodes; each has its own service.

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::fleet::{Hello, Refused, SessionChange, UpBeat, Welcome};

use super::*;
use crate::cluster::{
    Address, Dialer, Downlink, FromMaster, FromMinion, Limits, MasterSide, Minion, MinionSide,
    Process, Uplink, verifier,
};
use crate::crypto::{NodeIdentity, NodeName, Revocations};
use crate::env::Env;

/// Turns everybody away, by name.
struct Door;

impl MasterSide for Door {
    fn hello<'a>(
        &'a self,
        from: &'a Process,
        _: Hello,
        _: Downlink,
    ) -> BoxFuture<'a, Result<Welcome, Refused>> {
        let reason = format!("{from} was heard");
        Box::pin(async { Err(Refused { reason, permanent: true }) })
    }

    fn frame<'a>(&'a self, _: &'a Process, _: FromMinion) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn gone(&self, _: &Process) {}
}

struct Nobody;

impl MinionSide for Nobody {
    fn hello(&self) -> (Hello, Vec<SessionChange>) {
        Default::default()
    }

    fn welcome<'a>(&'a self, _: Welcome) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn frame<'a>(&'a self, _: FromMaster) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn beat(&self) -> UpBeat {
        UpBeat::default()
    }

    fn gone(&self) {}

    fn refused(&self, _: &Refused) {}
}

/// A service for nodes of `ca`.
pub(super) fn fleet(env: &Env, ca: &Authority) -> Fleet {
    let revoked = tokio::sync::watch::Sender::new(Revocations::default()).subscribe();
    let verify = verifier(env, ca.certificate().clone(), revoked);
    Fleet::new(env.clone(), Limits::default(), Arc::new(Door), verify, CancellationToken::new())
}

/// How a node with this certificate is refused.
async fn refused(lab: &Lab, cert: &str, key: &str) -> String {
    let env = &lab.server.env;
    let identity = Identity::from_pem(cert, key).unwrap();
    let ca = lab.ca.certificate().to_pem();
    let (host, port) = lab.address.rsplit_once(':').unwrap();
    let address = Address { host: host.into(), port: port.parse().unwrap() };
    let minion = Minion {
        env: env.clone(),
        process: Process { node: "host-8000".into(), epoch: "1".into() },
        addresses: Arc::new(move || vec![address.clone()]),
        dialer: Dialer::new(env, &identity, &ca, "VelociraptorServer").unwrap(),
        uplink: Uplink::new(Limits::default()),
        side: Arc::new(Nobody),
    };
    let run = minion.run(CancellationToken::new());
    let r = tokio::time::timeout(Duration::from_secs(60), run).await.expect("an answer");
    r.expect("a refusal").reason
}

#[tokio::test]
async fn certificates_open_one_service_each() {
    let lab = Lab::new().await;
    let env = &lab.server.env;
    let name = NodeName::parse("host-8000").unwrap();
    let node = NodeIdentity::issue(&lab.ca, &*env.entropy, env.clock.now(), 10, &name).unwrap();
    let said = refused(&lab, &node.certificate_pem, &node.private_key_pem).await;
    assert_eq!(said, "host-8000/1 was heard");

    // A caller with every right is no node.
    lab.user("host-8000", "root", "administrator").await;
    let (cert, key) = lab.certificate("host-8000");
    let said = refused(&lab, &cert, &key).await;
    assert!(said.contains("not a node's certificate"), "{said}");
}
