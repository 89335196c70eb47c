//! What clients were acknowledged and what users were told: the other side of
//! every promise, kept outside of the code that makes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::plan::Plan;

/// Virtual time since the run began.
pub fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// What a job carries, as far as it can be looked for later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Rows of a result set, one JSON object a line.
    Rows {
        /// Name as the server gave it.
        set: String,
        /// The lines.
        lines: Vec<String>,
    },
    /// Lines of a query log: the messages.
    Logs(Vec<String>),
    /// A piece of an upload.
    Chunk {
        /// Which upload of the flow.
        number: i64,
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
        /// Whether it is the end.
        eof: bool,
    },
    /// A report; `complete` ends the flow.
    Stats {
        /// Rows it counts.
        rows: u64,
        /// Whether the flow is over.
        complete: bool,
    },
    /// Rows of an event artifact.
    Events {
        /// Name as the server gave it.
        artifact: String,
        /// The lines.
        lines: Vec<String>,
    },
    /// What the client says about itself.
    Info,
}

/// How a job left the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits in the client, or its process ended with it.
    Open,
    /// Answered 200.
    Acknowledged(Duration),
    /// Answered 406 and dropped, as stock does.
    Enrolling(Duration),
    /// Answered 400 and dropped.
    Refused(Duration),
    /// The client itself left it out, since the flow was cancelled.
    Dropped,
}

impl Fate {
    /// Whether the server said that it has it.
    pub fn promised(self) -> bool {
        matches!(self, Fate::Acknowledged(_) | Fate::Enrolling(_))
    }

    /// Whether it said so before `t`.
    pub fn promised_before(self, t: Duration) -> bool {
        matches!(self, Fate::Acknowledged(at) | Fate::Enrolling(at) if at < t)
    }
}

/// One message a client made.
#[derive(Clone, Debug)]
pub struct Job {
    /// Identity of its bytes.
    pub hash: [u8; 16],
    /// Its session.
    pub session: String,
    /// Which execution of the session made it.
    pub execution: u32,
    /// Which process of the client.
    pub process: u32,
    /// What it carries.
    pub content: Content,
    /// What became of it.
    pub fate: Fate,
    /// Whether any of its bytes were ever sent.
    pub sent: bool,
    /// The frontend that acknowledged it.
    pub via: String,
}

/// A task that reached a client.
#[derive(Clone, Debug)]
pub struct Received {
    /// When.
    pub at: Duration,
    /// Of which process.
    pub process: u32,
    /// Its session.
    pub session: String,
    /// Which reply of that process brought it.
    pub reply: u64,
    /// What it is.
    pub what: Task,
    /// The task's number; 0 for what has none.
    pub task: u64,
    /// The session cipher of the process, as the server names it.
    pub cipher: [u8; 16],
    /// The frontend that sent it.
    pub via: String,
}

/// Kinds of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Run a flow.
    Flow,
    /// Stop one.
    Cancel,
    /// Say what is known of one.
    Question,
    /// A table of event queries, by version.
    Table(u64),
}

/// A run of a flow on a client.
#[derive(Clone, Debug)]
pub struct Execution {
    /// When it began.
    pub at: Duration,
    /// In which process.
    pub process: u32,
    /// When it ended; never if its process ended first.
    pub over: Option<Duration>,
    /// Whether a cancel stopped it.
    pub cancelled: bool,
    /// Whether the server gave it as urgent work.
    pub urgent: bool,
}

/// One POST: from the first byte to the answer, tries included.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// When it began.
    pub from: Duration,
    /// When it was answered or given up.
    pub to: Option<Duration>,
    /// Whether it is a long poll.
    pub reader: bool,
    /// Whether the server answered anything but "come again".
    pub good: bool,
    /// Which process.
    pub process: u32,
}

/// One virtual client's book. A clone of a client id has a book of its own.
#[derive(Clone, Debug, Default)]
pub struct ClientBook {
    /// Its id.
    pub id: String,
    /// Whether it answers questions about flows.
    pub can_answer: bool,
    /// Everything it made.
    pub jobs: Vec<Job>,
    /// Tasks in the order they came.
    pub received: Vec<Received>,
    /// Executions by session.
    pub executions: BTreeMap<String, Vec<Execution>>,
    /// Its POSTs.
    pub exchanges: Vec<Exchange>,
    /// Processes begun so far.
    pub processes: u32,
    /// Whether a process runs.
    pub awake: bool,
    /// When its next process starts, if none runs and there is to be one.
    pub back: Option<Duration>,
    /// Jobs that wait to be sent.
    pub waiting: usize,
    /// Version of the event table its process runs.
    pub table: u64,
    /// It shares its id with another client.
    pub cloned: bool,
}

/// A collection that a user asked for and was told of.
#[derive(Clone, Debug)]
pub struct ToldFlow {
    /// Book of the client.
    pub client: usize,
    /// Flow id.
    pub flow: String,
    /// What it is to do.
    pub plan: Plan,
    /// When the answer came.
    pub at: Duration,
    /// When its cancelling was answered.
    pub cancelled: Option<Duration>,
    /// When that was told first, whatever was asked for since.
    pub cancelled_first: Option<Duration>,
    /// Somebody asked that it be deleted.
    pub deleting: bool,
    /// They were told that it is.
    pub deleted: bool,
    /// Further runs of it that users were told of, in order.
    pub runs: Vec<ToldRun>,
    /// When further runs were asked for, told or not.
    pub asked: Vec<Duration>,
}

impl ToldFlow {
    /// Whether a client's session is the flow's: its first run, or a further one.
    pub fn has(&self, session: &str) -> bool {
        let rest = session.strip_prefix(&self.flow);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// A further run of a flow that a user was told of.
#[derive(Clone, Debug)]
pub struct ToldRun {
    /// Its session.
    pub session: String,
    /// What it is to do.
    pub plan: Plan,
    /// When the answer came.
    pub at: Duration,
    /// When a user was told that its flow is cancelled, with every run asked for before.
    pub cancelled: Option<Duration>,
}

/// A user's change that was answered with success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A client has this label.
    Label(usize, String),
    /// A client no longer has this label.
    NoLabel(usize, String),
}

/// A state of a flow as the API told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: Duration,
    /// Rank: 0 running, 1 waiting or in progress, 2 over.
    pub rank: u8,
    /// Text of the state.
    pub state: String,
    /// The status text.
    pub status: String,
    /// Rows counted.
    pub rows: u64,
    /// Rows that can be read.
    pub readable: u64,
    /// Log lines counted.
    pub logs: u64,
    /// Upload bytes counted.
    pub bytes: u64,
}

/// Whom a hunt is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Everybody.
    All,
    /// Clients with this label.
    Label(String),
    /// Clients without this label.
    Not(String),
    /// Clients of a system that none has.
    Nobody,
}

/// A hunt that a user was told of.
#[derive(Clone, Debug)]
pub struct ToldHunt {
    /// Its id.
    pub id: String,
    /// Whom it is for.
    pub whom: Whom,
    /// Clients it may have; 0: any number.
    pub limit: u64,
    /// What it collects.
    pub plan: Plan,
    /// Whether it runs, as far as users were told; `None`: they were not.
    pub runs: Option<bool>,
    /// When it was told that it is stopped; forgotten when it is started again.
    pub stopped: Option<Duration>,
    /// It was told that it is deleted.
    pub deleted: bool,
}

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A process or its host.
    Host,
    /// The network between hosts.
    Network,
    /// The shared store, or the way to it.
    Store,
}

/// A stretch of time in which something was broken on purpose.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// What was broken.
    pub part: Part,
    /// From when.
    pub from: Duration,
    /// Until when; open while it lasts.
    pub to: Option<Duration>,
    /// How.
    pub what: String,
}

/// Bytes of a journal as a process wrote them.
#[derive(Clone, Debug)]
pub struct Written {
    /// When.
    pub at: Duration,
    /// Where in the file.
    pub offset: u64,
    /// What.
    pub data: Bytes,
}

/// All books of a run.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Clients by index.
    pub clients: Vec<ClientBook>,
    /// Collections told.
    pub flows: Vec<ToldFlow>,
    /// Hunts told.
    pub hunts: Vec<ToldHunt>,
    /// Labels that somebody tried to set, whether told of or not.
    pub tried: BTreeSet<(usize, String)>,
    /// Facts told.
    pub facts: Vec<(Duration, Fact)>,
    /// What the API told of each flow over time.
    pub seen: BTreeMap<(String, String), Vec<Seen>>,
    /// When something was broken.
    pub troubles: Vec<Trouble>,
    /// Things noticed during the run that no correct server does.
    pub complaints: Vec<(&'static str, String)>,
    /// Uploads' contents are a function of these: (client, session, execution, number).
    pub sizes: BTreeMap<(usize, String, u32, i64), u64>,
    /// What was written to journals, by path. Not all of it became durable.
    pub journals: BTreeMap<String, Vec<Written>>,
    /// Answers users are waiting for: (since, what).
    pub asked: BTreeSet<(Duration, String)>,
}

impl Ledger {
    /// Whether anything is broken in this stretch of time.
    pub fn troubled(&self, from: Duration, to: Duration) -> bool {
        self.troubles.iter().any(|t| t.from <= to && t.to.is_none_or(|end| end >= from))
    }

    /// Notes something that must not happen.
    pub fn complain(&mut self, invariant: &'static str, story: String) {
        self.complaints.push((invariant, story));
    }

    /// Whether this part is broken in this stretch of time.
    pub fn broken(&self, part: Part, from: Duration, to: Duration) -> bool {
        let within = |t: &&Trouble| t.from <= to && t.to.is_none_or(|end| end >= from);
        self.troubles.iter().filter(within).any(|t| t.part == part)
    }

    /// A trouble begins; gives its number.
    pub fn begin(&mut self, part: Part, what: impl Into<String>) -> usize {
        self.troubles.push(Trouble { part, from: now(), to: None, what: what.into() });
        self.troubles.len() - 1
    }

    /// A trouble ends; what it led to may take so much longer.
    pub fn end(&mut self, number: usize, after: Duration) {
        if let Some(t) = self.troubles.get_mut(number) {
            t.to.get_or_insert(now() + after);
        }
    }

    /// Whether a flow had ended on its client before its cancelling was answered,
    /// so that its report may have come first.
    pub fn ended_before_cancel(&self, f: &ToldFlow) -> bool {
        let Some(at) = f.cancelled else { return false };
        let id = self.clients[f.client].id.as_str();
        let all = self.books(id).flat_map(|i| &self.clients[i].executions);
        let mut sessions: BTreeMap<&str, bool> = BTreeMap::new();
        for (session, runs) in all.filter(|(s, _)| f.has(s)) {
            let ended = |e: &Execution| !e.cancelled && e.over.is_some_and(|o| o <= at);
            *sessions.entry(session).or_default() |= runs.iter().any(ended);
        }
        !sessions.is_empty() && sessions.values().all(|ended| *ended)
    }

    /// Indices of the books that bear this client id.
    pub fn books<'a>(&'a self, id: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.clients.iter().enumerate().filter(move |(_, c)| c.id == id).map(|(i, _)| i)
    }
}

/// The ledger, shared by everyone outside of the servers.
#[derive(Clone, Debug, Default)]
pub struct Books(Arc<Mutex<Ledger>>);

impl Books {
    /// Never held across an await.
    pub fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The book of one client.
    pub fn client<T>(&self, i: usize, f: impl FnOnce(&mut ClientBook) -> T) -> T {
        f(&mut self.lock().clients[i])
    }
}

/// Content of an upload: a function of who sends it.
pub fn upload_bytes(client: usize, session: &str, execution: u32, number: i64, size: u64) -> Bytes {
    use rand::{RngCore, SeedableRng};
    let name = format!("{client} {session} {execution} {number}");
    let hash = velociraptor::crypto::job_hash(name.as_bytes());
    let mut seed = [0; 8];
    seed.copy_from_slice(&hash[..8]);
    let mut rng = rand::rngs::SmallRng::seed_from_u64(u64::from_le_bytes(seed));
    let mut out = vec![0; size as usize];
    rng.fill_bytes(&mut out);
    out.into()
}
