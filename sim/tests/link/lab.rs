//! Hosts with one end of the stream each, and what they say and hear.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use sim::crypto;
use sim::disk::Disk;
use sim::net::{EPOCH, Inline, SimEntropy, SimNet};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use velociraptor::cluster::{
    Address, Dialer, Downlink, Fleet, FromMaster, FromMinion, Limits, MasterSide, Minion,
    MinionSide, Process, Uplink, verifier,
};
use velociraptor::comms::server::{AcceptLimits, Serve, Stop, WebHandler, serve};
use velociraptor::comms::tls::{Alpn, ClientAuth, Identity, ServerOptions, roots, server_config};
use velociraptor::crypto::certs::Authority;
use velociraptor::crypto::{NodeIdentity, NodeName, PrivateKey, Revocations};
use velociraptor::env::{Clock, Env, Side};
use velociraptor_proto::fleet::{
    self, Hello, Refused, Report, SessionChange, Tasks, UpBeat, Welcome,
};

/// The master's host.
pub const MASTER: &str = "master";
const PORT: u16 = 8001;

/// One simulation at a time.
static ONE: Mutex<()> = Mutex::new(());

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A minion to start.
pub struct Node {
    pub host: &'static str,
    pub name: &'static str,
    pub epoch: u32,
    /// Its certificate is another deployment's.
    pub foreign: bool,
    /// For how long its certificate is valid.
    pub days: u32,
}

impl Node {
    /// On a host of its own name.
    pub fn named(name: &'static str, epoch: u32) -> Self {
        Self { host: name, name, epoch, foreign: false, days: 100 }
    }
}

/// What all hosts share and the test looks at.
pub struct World {
    /// One line for each thing that happened, with its virtual time.
    story: Mutex<Vec<(Duration, String)>>,
    /// Ids of reports, by node and start of the master.
    reports: Mutex<BTreeMap<(String, u32), Vec<u64>>>,
    said: Mutex<BTreeMap<String, u64>>,
    tasks: Mutex<BTreeMap<String, u64>>,
    up: Mutex<BTreeMap<String, bool>>,
    talking: Mutex<bool>,
    skew: Mutex<Duration>,
    pub revoked: watch::Sender<Revocations>,
    ca: Authority,
    foreign: Authority,
    key: PrivateKey,
}

impl World {
    fn tell(&self, line: String) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        lock(&self.story).push((at, line));
    }

    pub fn story(&self) -> Vec<(Duration, String)> {
        lock(&self.story).clone()
    }

    pub fn count(&self, part: &str) -> usize {
        lock(&self.story).iter().filter(|(_, l)| l.contains(part)).count()
    }

    pub fn before(&self, a: &str, b: &str) -> bool {
        let story = lock(&self.story);
        let at = |part: &str| story.iter().position(|(_, l)| l.contains(part));
        at(a).zip(at(b)).is_some_and(|(a, b)| a < b)
    }

    /// Nodes whose link is up.
    pub fn up(&self) -> Vec<String> {
        lock(&self.up).iter().filter(|(_, up)| **up).map(|(n, _)| n.clone()).collect()
    }

    pub fn reports(&self, node: &str, start: u32) -> Vec<u64> {
        lock(&self.reports).get(&(node.to_owned(), start)).cloned().unwrap_or_default()
    }

    /// The last id that a node has reported.
    pub fn said(&self, node: &str) -> u64 {
        lock(&self.said).get(node).copied().unwrap_or_default()
    }

    pub fn tasks(&self, node: &str) -> u64 {
        lock(&self.tasks).get(node).copied().unwrap_or_default()
    }

    /// Sets every host's wall clock ahead.
    pub fn set_skew(&self, skew: Duration) {
        *lock(&self.skew) = skew;
    }
}

struct WorldClock(Arc<World>);

impl Clock for WorldClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + EPOCH + *lock(&self.0.skew) + turmoil::sim_elapsed().unwrap_or_default()
    }
}

struct Master {
    world: Arc<World>,
    start: u32,
}

impl MasterSide for Master {
    fn hello<'a>(
        &'a self,
        from: &'a Process,
        _: Hello,
        out: Downlink,
    ) -> BoxFuture<'a, Result<Welcome, Refused>> {
        self.world.tell(format!("master hello {from}"));
        let world = self.world.clone();
        tokio::spawn(async move {
            while *lock(&world.talking) {
                let task = Tasks { client_id: "C.1".into(), ..Default::default() };
                if out.send(FromMaster::Tasks(task)).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(83)).await;
            }
        });
        let master = fleet::Process { node: MASTER.into(), epoch: self.start.to_string() };
        Box::pin(async { Ok(Welcome { master: Some(master), ..Default::default() }) })
    }

    fn frame<'a>(&'a self, from: &'a Process, frame: FromMinion) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let FromMinion::Reports(r) = frame {
                // Work that a break may fall into.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let ids: Vec<u64> = r.iter().map(|r| r.task_id).collect();
                self.world.tell(format!("master has {ids:?} of {from}"));
                lock(&self.world.reports)
                    .entry((from.node.clone(), self.start))
                    .or_default()
                    .extend(ids);
            }
        })
    }

    fn gone(&self, from: &Process) {
        self.world.tell(format!("master gone {from}"));
    }
}

struct Side1 {
    world: Arc<World>,
    process: Process,
}

impl MinionSide for Side1 {
    fn hello(&self) -> (Hello, Vec<SessionChange>) {
        self.world.tell(format!("{} says hello", self.process));
        let readers = vec![SessionChange::default(); 10];
        (Hello { product: "sim".into(), ..Default::default() }, readers)
    }

    fn welcome<'a>(&'a self, _: Welcome) -> BoxFuture<'a, Result<(), String>> {
        self.world.tell(format!("{} is up", self.process));
        lock(&self.world.up).insert(self.process.node.clone(), true);
        Box::pin(async { Ok(()) })
    }

    fn frame<'a>(&'a self, frame: FromMaster) -> BoxFuture<'a, ()> {
        if let FromMaster::Tasks(_) = frame {
            *lock(&self.world.tasks).entry(self.process.node.clone()).or_default() += 1;
        }
        Box::pin(async {})
    }

    fn beat(&self) -> UpBeat {
        UpBeat::default()
    }

    fn gone(&self) {
        self.world.tell(format!("{} is down", self.process));
        lock(&self.world.up).insert(self.process.node.clone(), false);
    }

    fn refused(&self, r: &Refused) {
        let good = if r.permanent { " for good" } else { "" };
        self.world.tell(format!("{} refused{good}: {}", self.process, r.reason));
    }
}

/// One simulation under way.
pub struct Lab<'a> {
    pub sim: turmoil::Sim<'a>,
    pub world: Arc<World>,
    seed: u64,
}

impl Lab<'_> {
    fn new(seed: u64) -> Self {
        let mut b = turmoil::Builder::new();
        b.rng_seed(seed)
            .epoch(UNIX_EPOCH + EPOCH)
            .simulation_duration(Duration::from_secs(3600))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(5))
            .tcp_capacity(1024);
        let entropy = SimEntropy::new(seed);
        let now = UNIX_EPOCH + EPOCH - Duration::from_secs(3600);
        let pem = |text: &str| PrivateKey::from_pem(text).expect("a committed key");
        let ca = |key| Authority::self_signed(key, &entropy, now).expect("a CA");
        let world = World {
            story: Mutex::default(),
            reports: Mutex::default(),
            said: Mutex::default(),
            tasks: Mutex::default(),
            up: Mutex::default(),
            talking: Mutex::new(true),
            skew: Mutex::default(),
            revoked: watch::Sender::new(Revocations::default()),
            ca: ca(pem(include_str!("../../data/ca.pem"))),
            foreign: ca(pem(include_str!("../../data/gateway.pem"))),
            key: pem(include_str!("../../data/client.pem")),
        };
        let mut lab = Self { sim: b.build(), world: Arc::new(world), seed };
        lab.start_master();
        lab
    }

    fn env(world: &Arc<World>, host: &str, seed: u64) -> Env {
        Env {
            net: Arc::new(SimNet),
            clock: Arc::new(WorldClock(world.clone())),
            entropy: Arc::new(SimEntropy::new(seed)),
            fs: Disk::default().mount(host, Duration::ZERO),
            crypto: Arc::new(crypto::provider()),
            cpu: Arc::new(Inline),
            tasks: Arc::new(Inline),
            sabotage: velociraptor::env::Sabotage::NONE,
        }
    }

    fn start_master(&mut self) {
        let (world, seed) = (self.world.clone(), self.seed);
        let starts = Arc::new(Mutex::new(0));
        self.sim.host(MASTER, move || {
            let (world, starts) = (world.clone(), starts.clone());
            async move {
                let start = {
                    let mut n = lock(&starts);
                    *n += 1;
                    *n
                };
                let env = Self::env(&world, MASTER, seed ^ u64::from(start));
                let ca = world.ca.certificate().clone();
                let entropy = SimEntropy::new(seed);
                let now = UNIX_EPOCH + EPOCH - Duration::from_secs(60);
                let name = "VelociraptorServer";
                let cert = world.ca.issue(&entropy, now, 100, name, world.key.public())?;
                let identity = Identity::from_pem(&cert.to_pem(), &world.key.to_pem())?;
                let options = ServerOptions {
                    allow_tls12: false,
                    client_auth: ClientAuth::Required(Arc::new(roots([ca.to_pem().as_str()])?)),
                    alpn: Alpn::Http2,
                };
                let what = Serve {
                    tls: Some(server_config(&env, &identity, &options)?),
                    proxy_protocol: false,
                    limits: AcceptLimits::default(),
                    metrics: Arc::default(),
                    side: Side::Gui,
                    stop: Stop::default(),
                };
                let verify = verifier(&env, ca, world.revoked.subscribe());
                let side = Arc::new(Master { world: world.clone(), start });
                let never = CancellationToken::new();
                let fleet = Fleet::new(env.clone(), Limits::default(), side, verify, never);
                let listener = env.net.bind(([0, 0, 0, 0], PORT).into()).await?;
                serve(env, listener, what, Arc::new(WebHandler::new(fleet.router()))).await;
                Ok(())
            }
        });
    }

    /// Starts a minion on a host of its own.
    pub fn start(&mut self, node: Node) {
        let (world, seed) = (self.world.clone(), self.seed);
        let process = Process { node: node.name.into(), epoch: node.epoch.to_string() };
        self.sim.host(node.host, move || {
            let (world, process) = (world.clone(), process.clone());
            async move {
                let env = Self::env(&world, node.host, seed ^ u64::from(node.epoch) << 8);
                let ca = if node.foreign { &world.foreign } else { &world.ca };
                let now = UNIX_EPOCH + EPOCH - Duration::from_secs(60);
                let name = NodeName::parse(node.name)?;
                let entropy = SimEntropy::new(seed);
                let id = NodeIdentity::issue_for(ca, &entropy, now, node.days, &name, &world.key)?;
                let identity = Identity::from_pem(&id.certificate_pem, &id.private_key_pem)?;
                let ca = world.ca.certificate().to_pem();
                let uplink = Uplink::new(Limits::default());
                let minion = Minion {
                    dialer: Dialer::new(&env, &identity, &ca, "VelociraptorServer")?,
                    env,
                    process: process.clone(),
                    addresses: Arc::new(|| vec![Address { host: MASTER.into(), port: PORT }]),
                    uplink: uplink.clone(),
                    side: Arc::new(Side1 { world: world.clone(), process: process.clone() }),
                };
                let talk = tokio::spawn(async move {
                    let mut id = 0;
                    loop {
                        tokio::time::sleep(Duration::from_millis(37)).await;
                        if *lock(&world.talking) {
                            id += 1;
                            uplink.reports(vec![Report { task_id: id, ..Default::default() }]);
                            lock(&world.said).insert(process.node.clone(), id);
                        }
                    }
                });
                if minion.run(CancellationToken::new()).await.is_some() {
                    talk.abort();
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        });
    }

    /// Lets virtual time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            if let Err(e) = self.sim.step() {
                panic!("{e}");
            }
        }
    }

    /// Nothing new is said; what was said arrives.
    pub fn quiet(&mut self) {
        *lock(&self.world.talking) = false;
        self.run(Duration::from_secs(3));
    }
}

/// Runs `script` on a thread of its own, so every thread-local starts from nothing.
#[allow(clippy::disallowed_methods)] // a simulation needs its own thread
pub fn simulate(seed: u64, script: impl FnOnce(&mut Lab<'_>) + Send) {
    let _one = lock(&ONE);
    align_task_ids();
    std::thread::scope(|s| {
        let thread = std::thread::Builder::new().stack_size(32 << 20).spawn_scoped(s, || {
            crypto::reseed(seed);
            script(&mut Lab::new(seed));
        });
        if let Err(e) = thread.expect("a thread").join() {
            std::panic::resume_unwind(e);
        }
    });
}

/// The order in which a crash drops tasks depends on their ids: start from an aligned one.
fn align_task_ids() {
    let Ok(rt) = tokio::runtime::Builder::new_current_thread().build() else { return };
    while rt.spawn(async {}).id().to_string().parse::<u64>().is_ok_and(|id| id % 64 != 63) {}
}
