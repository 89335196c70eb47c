//! Both ends against each other, and each against peers that misbehave, over a
//! network in memory under paused time. Networks that fail are simulated elsewhere.

mod conduct;
mod flow;
mod strangers;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use velociraptor_proto::fleet::{
    self, Hello, Position, Records, Refused, Report, SessionChange, Tasks, UpBeat, Welcome,
};

use super::*;
use crate::comms::server::{AcceptLimits, Serve, Stop, WebHandler, serve};
use crate::comms::tls::{Alpn, ClientAuth, Identity, ServerOptions, roots, server_config};
use crate::crypto::certs::Authority;
use crate::crypto::{NodeIdentity, NodeName, PrivateKey, Revocations};
use crate::env::{Env, Side};

static KEY: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::generate().unwrap());

/// Waits for something to become so.
async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(600), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A master that writes down what it is told.
struct TestMaster {
    /// `hello a/1`, `report a/1 5`, `gone a/1`, and so on.
    log: Mutex<Vec<String>>,
    out: Mutex<BTreeMap<String, Downlink>>,
    /// Whether `frame` returns.
    open: watch::Sender<bool>,
    /// How long it takes.
    takes: Mutex<Duration>,
    refuse: Mutex<Option<Refused>>,
}

impl Default for TestMaster {
    fn default() -> Self {
        Self {
            log: Mutex::default(),
            out: Mutex::default(),
            open: watch::Sender::new(true),
            takes: Mutex::default(),
            refuse: Mutex::default(),
        }
    }
}

impl TestMaster {
    fn write(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }

    /// The log without beats and numbers of things.
    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn count(&self, part: &str) -> usize {
        self.log().iter().filter(|l| l.contains(part)).count()
    }

    fn out(&self, node: &str) -> Downlink {
        self.out.lock().unwrap().get(node).expect("it is connected").clone()
    }
}

async fn pass(open: &watch::Sender<bool>) {
    let mut open = open.subscribe();
    let _ = open.wait_for(|o| *o).await;
}

impl MasterSide for TestMaster {
    fn hello<'a>(
        &'a self,
        from: &'a Process,
        hello: Hello,
        out: Downlink,
    ) -> BoxFuture<'a, Result<Welcome, Refused>> {
        Box::pin(async move {
            if let Some(r) = self.refuse.lock().unwrap().clone() {
                self.write(format!("refused {from}"));
                return Err(r);
            }
            self.write(format!("hello {from} {}", hello.sessions));
            self.out.lock().unwrap().insert(from.node.clone(), out);
            let master = fleet::Process { node: "m".into(), epoch: "1".into() };
            Ok(Welcome { master: Some(master), ..Default::default() })
        })
    }

    fn frame<'a>(&'a self, from: &'a Process, frame: FromMinion) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            match &frame {
                FromMinion::Beat(_) => self.write(format!("beat {from}")),
                FromMinion::Snapshot(s) => self.write(format!("list {from} {}", s.len())),
                FromMinion::Sessions(s) => {
                    for c in s {
                        self.write(format!("session {from} {}", c.session));
                    }
                }
                FromMinion::Records(r) => self.write(format!("records {from} {}", r.data.len())),
                FromMinion::Reports(r) => {
                    for r in r {
                        self.write(format!("report {from} {}", r.task_id));
                    }
                }
            }
            pass(&self.open).await;
            let takes = *self.takes.lock().unwrap();
            sleep(takes).await;
            if matches!(frame, FromMinion::Reports(_)) {
                self.write(format!("done {from}"));
            }
        })
    }

    fn gone(&self, from: &Process) {
        self.write(format!("gone {from}"));
    }
}

/// A minion that writes down what it is told.
struct TestMinion {
    log: Mutex<Vec<String>>,
    open: watch::Sender<bool>,
    readers: Mutex<Vec<SessionChange>>,
    obeys: Mutex<Result<(), String>>,
}

impl Default for TestMinion {
    fn default() -> Self {
        Self {
            log: Mutex::default(),
            open: watch::Sender::new(true),
            readers: Mutex::default(),
            obeys: Mutex::new(Ok(())),
        }
    }
}

impl TestMinion {
    fn write(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn count(&self, part: &str) -> usize {
        self.log().iter().filter(|l| l.contains(part)).count()
    }
}

impl MinionSide for TestMinion {
    fn hello(&self) -> (Hello, Vec<SessionChange>) {
        self.write("hello".into());
        (
            Hello { product: "test".into(), ..Default::default() },
            self.readers.lock().unwrap().clone(),
        )
    }

    fn welcome<'a>(&'a self, _: Welcome) -> BoxFuture<'a, Result<(), String>> {
        self.write("welcome".into());
        let obeys = self.obeys.lock().unwrap().clone();
        Box::pin(async move { obeys })
    }

    fn frame<'a>(&'a self, frame: FromMaster) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            match frame {
                FromMaster::Tasks(t) => self.write(format!("tasks {}", t.client_id)),
                FromMaster::Applied(p) => self.write(format!("applied {}", p.offset)),
                other => self.write(format!("{other:?}")),
            }
            pass(&self.open).await;
        })
    }

    fn beat(&self) -> UpBeat {
        UpBeat::default()
    }

    fn gone(&self) {
        self.write("gone".into());
    }

    fn refused(&self, r: &Refused) {
        self.write(format!("refused {} {}", r.permanent, r.reason));
    }
}

/// A certificate authority and what it signs.
#[derive(Clone)]
struct Pki {
    env: Env,
    ca: Authority,
}

impl Pki {
    fn new(env: &Env) -> Self {
        let ca = Authority::generate(&*env.entropy, env.clock.now()).unwrap();
        Self { env: env.clone(), ca }
    }

    fn ca_pem(&self) -> String {
        self.ca.certificate().to_pem()
    }

    /// A certificate of the kind that frontends and API clients have.
    fn plain(&self, name: &str) -> Identity {
        let (e, now) = (&*self.env.entropy, self.env.clock.now());
        let cert = self.ca.issue(e, now, 10, name, KEY.public()).unwrap();
        Identity::from_pem(&cert.to_pem(), &KEY.to_pem()).unwrap()
    }

    fn node(&self, name: &str) -> Identity {
        let (e, now) = (&*self.env.entropy, self.env.clock.now());
        let name = NodeName::parse(name).unwrap();
        let id = NodeIdentity::issue_for(&self.ca, e, now, 10, &name, &KEY).unwrap();
        Identity::from_pem(&id.certificate_pem, &id.private_key_pem).unwrap()
    }

    fn dialer(&self, identity: &Identity) -> Dialer {
        Dialer::new(&self.env, identity, &self.ca_pem(), "VelociraptorServer").unwrap()
    }
}

/// A master that listens.
struct Lab {
    env: Env,
    pki: Pki,
    master: Arc<TestMaster>,
    fleet: Fleet,
    /// The port of the master; minions look here before each attempt.
    port: Arc<Mutex<u16>>,
    revoked: watch::Sender<Revocations>,
    stop: CancellationToken,
    limits: Limits,
}

/// Serves a router as the API listener does.
async fn listen(pki: &Pki, app: axum::Router, stop: &CancellationToken) -> u16 {
    let env = &pki.env;
    let anchors = Arc::new(roots([pki.ca_pem().as_str()]).unwrap());
    let options = ServerOptions {
        allow_tls12: false,
        client_auth: ClientAuth::Required(anchors),
        alpn: Alpn::Http2,
    };
    let tls = server_config(env, &pki.plain("VelociraptorServer"), &options).unwrap();
    let what = Serve {
        tls: Some(tls),
        proxy_protocol: false,
        limits: AcceptLimits::default(),
        metrics: Arc::default(),
        side: Side::Gui,
        stop: Stop { token: stop.clone(), grace: Duration::from_secs(10) },
    };
    let listener = env.net.bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(serve(env.clone(), listener, what, Arc::new(WebHandler::new(app))));
    port
}

impl Lab {
    async fn new(limits: Limits) -> Self {
        let env = crate::comms::tests::net::memory();
        let pki = Pki::new(&env);
        let mut lab = Self {
            fleet: Fleet::new(
                env.clone(),
                limits.clone(),
                Arc::new(TestMaster::default()),
                Arc::new(|_| unreachable!("replaced below")),
                CancellationToken::new(),
            ),
            env,
            pki,
            master: Arc::default(),
            port: Arc::default(),
            revoked: watch::Sender::new(Revocations::default()),
            stop: CancellationToken::new(),
            limits,
        };
        lab.start_master().await;
        lab
    }

    /// A new master process, where minions find it next.
    async fn start_master(&mut self) {
        self.stop = CancellationToken::new();
        self.master = Arc::default();
        let ca = self.pki.ca.certificate().clone();
        let verify = verifier(&self.env, ca, self.revoked.subscribe());
        let (env, limits) = (self.env.clone(), self.limits.clone());
        self.fleet = Fleet::new(env, limits, self.master.clone(), verify, self.stop.clone());
        let port = listen(&self.pki, self.fleet.router(), &self.stop).await;
        *self.port.lock().unwrap() = port;
    }

    fn minion_as(&self, identity: &Identity, node: &str, epoch: &str) -> Guest {
        let (side, uplink) = (Arc::new(TestMinion::default()), Uplink::new(self.limits.clone()));
        let port = self.port.clone();
        let minion = Minion {
            env: self.env.clone(),
            process: Process { node: node.into(), epoch: epoch.into() },
            addresses: Arc::new(move || {
                vec![Address { host: "master".into(), port: *port.lock().unwrap() }]
            }),
            dialer: self.pki.dialer(identity),
            uplink: uplink.clone(),
            side: side.clone(),
        };
        let stop = CancellationToken::new();
        let token = stop.clone();
        let run = tokio::spawn(async move { minion.run(token).await });
        Guest { side, uplink, stop, run }
    }

    fn minion(&self, node: &str, epoch: &str) -> Guest {
        self.minion_as(&self.pki.node(node), node, epoch)
    }
}

/// A minion that runs.
struct Guest {
    side: Arc<TestMinion>,
    uplink: Uplink,
    stop: CancellationToken,
    run: JoinHandle<Option<Refused>>,
}

impl Guest {
    async fn connected(&self) {
        until("connected", || self.uplink.connected()).await;
    }

    /// Why it gave up.
    async fn over(self) -> Option<Refused> {
        timeout(Duration::from_secs(600), self.run).await.expect("it ends").unwrap()
    }
}

fn report(id: u64) -> Report {
    Report { task_id: id, ..Default::default() }
}

fn session(id: u64) -> SessionChange {
    SessionChange { session: id, ..Default::default() }
}

fn records(bytes: usize) -> Records {
    Records { start: Some(Position::default()), data: vec![7; bytes].into() }
}

fn tasks(client: &str) -> FromMaster {
    FromMaster::Tasks(Tasks { client_id: client.into(), ..Default::default() })
}

/// A frame of about `bytes`.
fn bulk(bytes: usize) -> FromMaster {
    FromMaster::Tasks(Tasks {
        client_id: "bulk".into(),
        cipher_hash: vec![1; bytes],
        ..Default::default()
    })
}
