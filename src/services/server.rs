//! The server as one value: what every frontend, API call and query works on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use tokio::sync::mpsc;
use velociraptor_proto::proto::OrgRecord;

use super::events::Bus;
use super::fleet::claimer::Claims;
use super::fleet::hub::{Hub, Order};
use super::fleet::offers::Offers;
use super::fleet::relay::Relay;
use super::fleet::standing::Standing;
use super::fleet::steering::Steer;
use super::fleet::task_files::TaskFiles;
use super::fleet::{ProcessTable, Role};
use super::gates::Gates;
use super::handover::{Handed, Handover, RecoveredPost};
use super::hunts::{Hunts, Recruitment};
use super::ids::{OrgId, new_org_id};
use super::inventory::Inventory;
use super::monitoring::Monitoring;
use super::repository::{self, Repository};
use super::sessions::Sessions;
use super::state::OrgState;
use super::tombstones::Tombstones;
use super::users::Users;
use crate::crypto::names::NameCipher;
use crate::env::Env;
use crate::store::journal::{self, Epoch, Journal, Position, ProcessId, Segment};
use crate::store::{StoreError, StoreRoot, Tree, paths};

pub use super::counters::Counters;
pub use super::error::ServiceError;
pub use super::options::{DENIED_PREFIXES, Options};

/// An organisation.
#[derive(Debug)]
pub struct Org {
    /// Its id.
    pub id: OrgId,
    /// Its name.
    pub name: String,
    /// The nonce its clients send.
    pub nonce: String,
    /// Its artifact definitions.
    pub repository: Arc<Repository>,
    /// The tools its artifacts need.
    pub inventory: Inventory,
    /// Its event tables.
    pub monitoring: Monitoring,
    /// Order between what is added to its flows and what is decided about them.
    pub gates: Gates,
    /// One at a time changes what is known of endpoints' folders.
    pub(super) browsing: tokio::sync::Mutex<()>,
    state: Mutex<OrgState>,
}

impl Org {
    /// Its state. Never held across an await.
    pub fn state(&self) -> MutexGuard<'_, OrgState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server.
pub struct Server {
    /// The outside world.
    pub env: Env,
    /// Configuration of the services.
    pub options: Options,
    /// The stock datastore.
    pub tree: Tree,
    /// The same, for objects that people decide about: a full store has room for them
    /// as for decisions in the journal.
    pub decided: Tree,
    /// This process's journal.
    pub journal: Journal,
    /// This process's epoch.
    pub epoch: Epoch,
    /// What this process may be on the datastore.
    pub standing: Standing,
    /// Query name obfuscation.
    pub names: NameCipher,
    /// Which log lines of agents of protocol 3 are errors.
    pub log_errors: super::flows::LogErrors,
    /// Clients held here.
    pub sessions: Sessions,
    /// Live events.
    pub bus: Bus,
    /// How quickly tasks are delivered.
    pub wakes: super::wakes::Wakes,
    /// Counters.
    pub counters: Counters,
    /// What recruits for hunts.
    pub recruitment: Recruitment,
    /// What was put into stock files early.
    pub early: super::settle_early::Early,
    /// Held while files with stock names are made or removed in the background.
    pub housekeeping: tokio::sync::Mutex<()>,
    /// Event rows that stores outside are owed.
    pub backlogs: Arc<super::forward::Backlogs>,
    /// When mail was sent.
    pub mails: super::mail::Mails,
    /// Archives being made.
    pub exports: super::exports::Exports,
    /// One at a time changes notebooks.
    pub notebooks: super::notebooks::Notebooks,
    /// Among how many nodes limits of the whole cluster are divided.
    sharing: AtomicU32,
    /// Users and their rights.
    pub users: Users,
    /// Artifact definitions of the root organisation.
    pub repository: Arc<Repository>,
    /// This process and the others: their files, how far they are applied.
    pub processes: ProcessTable,
    /// Tasks in files.
    pub task_files: TaskFiles,
    /// On a master: what it knows of them.
    pub offers: Offers,
    /// On a minion: what became of those it reached for.
    pub claims: Claims,
    /// Which nodes take clients.
    pub steer: Steer,
    orgs: RwLock<BTreeMap<OrgId, Arc<Org>>>,
    task_counter: AtomicU64,
    handover: Handover,
    relay: OnceLock<Arc<Relay>>,
    hub: OnceLock<Weak<Hub>>,
    /// When this process started, seconds since the epoch.
    pub started: u64,
    orders: OnceLock<mpsc::UnboundedSender<Order>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("node", &self.options.node).finish_non_exhaustive()
    }
}

/// The directory of our own files below the file tree.
pub fn fleet_dir(root: &StoreRoot) -> String {
    format!("{}/fleet", root.fs)
}

impl Server {
    /// Opens the datastore: takes an epoch, starts a journal and loads the
    /// organisations. A master loads clients and reads every journal back; a
    /// minion does not look at anything that others wrote.
    pub async fn open(
        env: Env,
        root: StoreRoot,
        options: Options,
    ) -> Result<Arc<Self>, ServiceError> {
        let fleet = fleet_dir(&root);
        // What was kept in reserve for a full store, if that is certainly nobody's.
        if super::beat::nobody(&env, &fleet, &options.node).await? {
            super::space::reclaim(&env, &fleet, &options.node, None).await?;
        }
        let epoch = journal::take_epoch(&env, &fleet, &options.node, options.role.marker())
            .await
            .map_err(StoreError::from)?;
        let me = ProcessId::new(options.node.as_str(), epoch.name());
        let standing = Standing::take(&env, &fleet, &me, options.role, &options.standing).await?;
        super::space::reclaim(&env, &fleet, &options.node, Some(&me)).await?;
        // Only now: what another master wrote until it was one no longer counts.
        let mut old = match options.role {
            Role::Master => {
                journal::list_processes(&env, &fleet).await.map_err(StoreError::from)?
            }
            Role::Minion => Vec::new(),
        };
        old.retain(|l| l.process != me);
        let processes = ProcessTable::new(&fleet, me.clone(), options.role);
        let stamp = processes.stamp();
        let journal = Journal::start(&env, &fleet, me, options.journal.clone(), Some(stamp))
            .await
            .map_err(StoreError::from)?;
        let tree = Tree::new(&env, root);
        let decided = tree.for_decisions(journal.space_handle());
        let server = Arc::new(Self {
            tree,
            names: NameCipher::new(&options.obfuscation_nonce),
            log_errors: super::flows::LogErrors::new(options.collection_error_regex.as_deref()),
            journal,
            epoch,
            standing,
            sessions: Sessions::default(),
            bus: Bus::default(),
            wakes: Default::default(),
            counters: Counters::default(),
            recruitment: Recruitment::default(),
            early: Default::default(),
            housekeeping: tokio::sync::Mutex::default(),
            exports: super::exports::Exports::new(&options.exports),
            notebooks: super::notebooks::Notebooks::default(),
            mails: Default::default(),
            backlogs: Arc::new(super::forward::Backlogs::new(match options.role {
                Role::Master => &options.forward,
                Role::Minion => &[],
            })),
            sharing: AtomicU32::new(1),
            users: Users::new(
                decided.clone(),
                options.reserved_users.iter().cloned(),
                options.denied_permissions.clone(),
            ),
            repository: Arc::new(
                Repository::built_in().map_err(|e| ServiceError::Invalid(e.to_string()))?,
            ),
            orgs: RwLock::default(),
            task_files: TaskFiles::new(&env, &fleet, &processes.me),
            offers: Offers::default(),
            claims: Claims::default(),
            steer: Steer::default(),
            processes,
            handover: Handover::default(),
            relay: OnceLock::new(),
            hub: OnceLock::new(),
            started: env.clock.unix(),
            orders: OnceLock::new(),
            task_counter: AtomicU64::new(env.entropy.below(1 << 16)),
            decided,
            env,
            options,
        });
        server.load_orgs().await?;
        if !server.is_master() {
            return Ok(server);
        }
        server.load_artifacts().await?;
        server.load_drained().await?;
        super::load::load_clients(&server).await?;
        super::hunts::load(&server).await?;
        super::checkpoint::read(&server).await?;
        server.load_cursors().await?;
        super::recover::recover(&server, &old).await?;
        Ok(server)
    }

    /// Whether this process applies journals and decides.
    pub fn is_master(&self) -> bool {
        self.options.role == Role::Master
    }

    /// The name of this process.
    pub fn process(&self) -> ProcessId {
        ProcessId::new(self.options.node.as_str(), self.epoch.name())
    }

    /// Among how many nodes, this one included, the limits of the whole cluster are
    /// divided now; 1 on a single server, and on a minion without its master.
    pub fn sharing(&self) -> u32 {
        self.sharing.load(Ordering::Relaxed)
    }

    /// From now on limits are divided among so many nodes.
    pub fn share_among(&self, nodes: u32) {
        self.sharing.store(nodes.max(1), Ordering::Relaxed);
    }

    /// On a minion: what it does for its master. `None` on a master.
    pub fn relay(&self) -> Option<&Arc<Relay>> {
        self.relay.get()
    }

    /// How quickly tasks reach the clients held here.
    pub fn delivery(&self) -> &super::wakes::Wakes {
        self.relay().map_or(&self.wakes, |r| &r.wakes)
    }

    /// On a minion: journal bytes that the master has not applied, as far as it
    /// has said; whole files in between count with the size at which they roll.
    pub fn unreplicated_bytes(&self) -> u64 {
        let Some(relay) = self.relay() else { return 0 };
        let (end, applied) = (self.journal.end(), relay.applied());
        match end.file.checked_sub(applied.file) {
            None => 0,
            Some(0) => end.offset.saturating_sub(applied.offset),
            Some(files) => {
                let whole = self.options.journal.roll_bytes;
                (files * whole + end.offset).saturating_sub(applied.offset.min(whole))
            }
        }
    }

    /// Makes this server a minion's, once, before it serves anybody.
    pub fn set_relay(&self, relay: Arc<Relay>) {
        if self.relay.set(relay).is_err() {
            tracing::error!("a minion's relay was set twice; the first stays");
        }
    }

    /// On a master with minions: what it knows of them.
    pub fn hub(&self) -> Option<Arc<Hub>> {
        self.hub.get()?.upgrade()
    }

    /// Lets services see the minions, once.
    pub fn set_hub(&self, hub: &Arc<Hub>) {
        let _ = self.hub.set(Arc::downgrade(hub));
    }

    /// Says something to all minions, if there are any.
    pub fn order(&self, order: Order) {
        if let Some(orders) = self.orders.get() {
            let _ = orders.send(order);
        }
    }

    /// Where [`Server::order`] goes to; once.
    pub fn set_orders(&self, to: mpsc::UnboundedSender<Order>) {
        if self.orders.set(to).is_err() {
            tracing::error!("the way to minions was set twice; the first stays");
        }
    }

    async fn load_orgs(&self) -> Result<(), ServiceError> {
        let root = OrgRecord { nonce: self.options.root_nonce.clone(), ..Default::default() };
        self.add_org(OrgId::root(), &root);
        for child in self.tree.children(&paths::orgs_dir()).await? {
            if child.is_dir {
                continue;
            }
            if let Some(record) = self.tree.get(&paths::org_record(&child.name)).await? {
                self.add_org(OrgId::new(child.name.as_str()), &record);
            }
        }
        Ok(())
    }

    async fn load_artifacts(&self) -> Result<(), ServiceError> {
        for folder in &self.options.definitions {
            repository::load::folder(&self.env, &self.repository, folder)
                .await
                .map_err(StoreError::from)?;
        }
        for org in self.orgs() {
            repository::custom::load(&self.tree, &org.id, &org.repository).await?;
            self.load_inventory(&org).await?;
            self.load_monitoring(&org).await?;
        }
        Ok(())
    }

    fn repository_of(&self, id: &OrgId) -> Arc<Repository> {
        match id.is_root() {
            true => self.repository.clone(),
            false => Arc::new(Repository::child_of(self.repository.clone())),
        }
    }

    fn new_state(&self, org: &OrgId) -> OrgState {
        let mut state = OrgState { sabotage: self.env.sabotage, ..OrgState::default() };
        state.forward = Some((org.clone(), self.backlogs.clone()));
        state.hunts = Hunts::new(self.recruitment.signal.clone(), self.env.sabotage);
        if self.options.fleet.danger.no_tombstones {
            state.tombstones = Tombstones::without_memory();
        }
        state
    }

    fn add_org(&self, id: OrgId, record: &OrgRecord) -> Arc<Org> {
        let name = if id.is_root() { "<root>".to_owned() } else { record.name.clone() };
        let org = Arc::new(Org {
            id: id.clone(),
            name,
            nonce: record.nonce.clone(),
            repository: self.repository_of(&id),
            inventory: Inventory::default(),
            monitoring: Monitoring::default(),
            gates: Gates::default(),
            browsing: tokio::sync::Mutex::default(),
            state: Mutex::new(self.new_state(&id)),
        });
        self.orgs.write().unwrap_or_else(PoisonError::into_inner).insert(id, org.clone());
        org
    }

    /// Makes an organisation with a nonce of its own; its clients' configs carry it.
    pub async fn create_org(&self, name: &str, id: Option<&str>) -> Result<Arc<Org>, ServiceError> {
        let id = id.map_or_else(|| new_org_id(&self.env), OrgId::new);
        if id.is_root() || self.org(&id).is_some() {
            return Err(ServiceError::Invalid(format!("organisation {id} exists already")));
        }
        if !id.id().bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(ServiceError::Invalid(format!(
                "organisation id {id}: letters and digits only"
            )));
        }
        let mut nonce = [0; 8];
        self.env.entropy.fill(&mut nonce);
        let record = OrgRecord {
            name: name.to_owned(),
            id: id.id().to_owned(),
            nonce: data_encoding::BASE64.encode(&nonce),
            ..Default::default()
        };
        self.decided.set(&paths::org_record(id.id()), &record).await?;
        let org = self.add_org(id, &record);
        self.load_monitoring(&org).await?;
        Ok(org)
    }

    /// On a minion: what its master says of an organisation.
    pub fn learn_org(&self, id: &OrgId, name: &str, nonce: &str) {
        if self.org(id).is_none() {
            let record = OrgRecord {
                name: name.to_owned(),
                id: id.id().to_owned(),
                nonce: nonce.to_owned(),
                ..Default::default()
            };
            self.add_org(id.clone(), &record);
            tracing::info!(org = %id, "organisation learnt");
        }
    }

    /// The organisation with that id.
    pub fn org(&self, id: &OrgId) -> Option<Arc<Org>> {
        self.orgs.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// The root organisation.
    pub fn root(&self) -> Arc<Org> {
        // It is added before anything else and never removed.
        self.org(&OrgId::root()).unwrap_or_else(|| {
            Arc::new(Org {
                id: OrgId::root(),
                name: String::new(),
                nonce: self.options.root_nonce.clone(),
                repository: self.repository.clone(),
                inventory: Inventory::default(),
                monitoring: Monitoring::default(),
                gates: Gates::default(),
                browsing: tokio::sync::Mutex::default(),
                state: Mutex::new(self.new_state(&OrgId::root())),
            })
        })
    }

    /// The organisation whose clients send this nonce.
    pub fn org_by_nonce(&self, nonce: &str) -> Option<Arc<Org>> {
        let orgs = self.orgs.read().unwrap_or_else(PoisonError::into_inner);
        orgs.values().find(|o| o.nonce == nonce).cloned()
    }

    /// All organisations, root first.
    pub fn orgs(&self) -> Vec<Arc<Org>> {
        self.orgs.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A task id: time in the high bits, a counter in the low 16, as stock.
    pub fn new_task_id(&self) -> u64 {
        let n = self.task_counter.fetch_add(1, Ordering::Relaxed) & 0xffff;
        (self.env.clock.nanos() & 0x7fff_ffff_ffff_0000) | n
    }

    /// Readable form of a query name.
    pub fn reveal(&self, name: &str) -> String {
        if name.starts_with('$') {
            self.names.reveal(name).unwrap_or_else(|| name.to_owned())
        } else {
            name.to_owned()
        }
    }

    pub(super) fn note_segment(&self, s: &Arc<Segment>) {
        if let Some(k) = s.file() {
            self.processes.own().files().journal.entry(k).or_insert_with(|| s.clone());
        }
    }

    /// The spill file of this process with that name. Deleted once nobody refers to
    /// it.
    pub fn spill(&self, name: &str) -> Arc<Segment> {
        self.processes.own().spill(name)
    }

    /// On a minion: a record that ends at `end` refers to a spill file.
    pub fn note_spill_record(&self, spill: &Segment, end: Position) {
        self.processes.own().files().referred.insert(spill.name().to_owned(), end);
    }

    /// What frontends have to take up: batches of clients that were not enrolled
    /// when they came, and clients that have enrolled elsewhere.
    pub fn handover(&self) -> &Handover {
        &self.handover
    }

    pub(super) fn park(&self, post: RecoveredPost) {
        self.handover.push(Handed::Post(post));
    }

    pub(super) fn enrolled(&self, org: &OrgId, client: &str) {
        self.handover.push(Handed::Enrolled(org.clone(), client.to_owned()));
    }

    /// A path for something of this process that has no stock name.
    pub fn own_path(&self, kind: &str, name: &str) -> String {
        format!(
            "{}/{}/{}/{kind}/{name}",
            fleet_dir(&self.tree.root),
            self.options.node,
            self.epoch.name()
        )
    }

    /// Journal files in use.
    pub fn journal_files(&self) -> usize {
        self.processes.journal_files()
    }
}
