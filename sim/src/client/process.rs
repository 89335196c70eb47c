//! One process of a client: the reader and the sender loop of a stock agent,
//! and what it does with the messages it gets.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use velociraptor::comms::Channel;
use velociraptor::crypto::PrivateKey;
use velociraptor::env::Env;
use velociraptor_proto::proto::{
    Certificate as Csr, ClientInfo, FlowStats, ForemanCheckin, MessageList, VeloMessage,
    VqlEventTable, VqlRequest, VqlResponse,
};

use super::Setup;
use super::link::{Link, Posted};
use super::outbox::{Batch, Item, Outbox};
use crate::ledger::{Books, Content, Exchange, Fate, Job, Received, Task, now};

/// Least time between two requests for enrolment (stock: 60 s).
const ENROL_EVERY: Duration = Duration::from_secs(3);
/// Pause after each round of either loop.
const MIN_POLL: Duration = Duration::from_secs(1);
/// Flows that are not urgent and run at once.
const SLOTS: usize = 2;

/// A flow this process knows.
pub(super) struct Known {
    pub execution: u32,
    pub cancel: CancellationToken,
    pub stats: FlowStats,
    pub over: bool,
}

/// See the module.
pub struct Process {
    pub(super) env: Env,
    pub(super) setup: Arc<Setup>,
    pub(super) books: Books,
    /// Which process of its client.
    pub(super) number: u32,
    pub(super) link: Link,
    pub(super) out: Outbox,
    pub(super) flows: Mutex<BTreeMap<String, Known>>,
    pub(super) slots: Semaphore,
    /// Ended when the process is.
    pub(super) stop: CancellationToken,
    table: AtomicU64,
    events: Mutex<CancellationToken>,
    enrolled: Mutex<Option<Instant>>,
    roams: Notify,
}

impl Process {
    /// Not started yet.
    pub fn new(env: Env, setup: Arc<Setup>, books: Books, number: u32) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        Ok(Self {
            link: Link::new(env.clone(), setup.clone())?,
            out: Outbox::default(),
            flows: Mutex::default(),
            slots: Semaphore::new(SLOTS),
            table: AtomicU64::new(0),
            events: Mutex::new(stop.child_token()),
            enrolled: Mutex::default(),
            roams: Notify::new(),
            stop,
            env,
            setup,
            books,
            number,
        })
    }

    /// Runs until dropped.
    pub async fn run(self: Arc<Self>) {
        if self.setup.eager {
            let me = self.clone();
            self.spawn(async move { me.events(vec!["Custom.Sim.Eager".into()], None).await });
        }
        tokio::select! {
            biased;
            () = self.read() => {}
            () = self.send() => {}
        }
    }

    /// What it leaves behind when it ends: nothing.
    pub fn end(&self) {
        self.stop.cancel();
        self.books.client(self.setup.book, |b| {
            b.awake = false;
            b.waiting = 0;
            for x in b.exchanges.iter_mut().filter(|x| x.to.is_none()) {
                x.to = Some(now());
            }
        });
    }

    /// Work that ends with the process.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.env.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    pub(super) fn flows(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message and writes it into the book.
    pub(super) fn queue(&self, message: VeloMessage, execution: u32, content: Content) {
        let urgent = message.urgent;
        let raw = message.encode_to_vec();
        let job = Job {
            hash: velociraptor::crypto::job_hash(&raw),
            session: message.session_id.clone(),
            execution,
            process: self.number,
            content,
            fate: Fate::Open,
            sent: false,
            via: String::new(),
        };
        let entry = self.books.client(self.setup.book, |b| {
            b.jobs.push(job);
            b.waiting += 1;
            b.jobs.len() - 1
        });
        let mut list = Vec::with_capacity(raw.len() + 8);
        velociraptor::crypto::envelope::pack_job(&mut list, &raw);
        self.out.push(urgent, Item { list, entry });
    }

    /// Leaves out what a cancelled flow still has in the normal queue, but for
    /// its logs and reports.
    pub(super) fn suppress(&self, session: &str) {
        let dropped = {
            let books = self.books.lock();
            let jobs = &books.clients[self.setup.book].jobs;
            self.out.remove(|entry| {
                let j = &jobs[entry];
                j.session == session
                    && !matches!(j.content, Content::Logs(_) | Content::Stats { .. })
            })
        };
        self.books.client(self.setup.book, |b| {
            for e in &dropped {
                b.jobs[*e].fate = Fate::Dropped;
            }
        });
        self.count_waiting();
    }

    fn count_waiting(&self) {
        let n = self.out.len();
        self.books.client(self.setup.book, |b| b.waiting = n);
    }

    fn exchange(&self, reader: bool) -> usize {
        self.books.client(self.setup.book, |b| {
            b.exchanges.push(Exchange {
                from: now(),
                to: None,
                reader,
                good: false,
                process: self.number,
            });
            b.exchanges.len() - 1
        })
    }

    fn answered(&self, exchange: usize, good: bool) {
        self.books.client(self.setup.book, |b| {
            let x = &mut b.exchanges[exchange];
            x.to.get_or_insert_with(now);
            x.good = good;
        });
    }

    /// Asks for tasks, for ever.
    async fn read(self: &Arc<Self>) {
        let mut told = false;
        loop {
            let check_in = ForemanCheckin {
                last_event_table_version: self.table.load(Ordering::Relaxed),
                ..Default::default()
            };
            let mut jobs = vec![VeloMessage {
                session_id: "E.Foreman".into(),
                foreman_checkin: Some(check_in),
                ..Default::default()
            }];
            let mut info = None;
            if !told {
                jobs.push(self.info());
                info = Some(self.books.client(self.setup.book, |b| {
                    b.jobs.push(Job {
                        hash: [0; 16],
                        session: "F.Monitoring".into(),
                        execution: 0,
                        process: self.number,
                        content: Content::Info,
                        fate: Fate::Open,
                        sent: true,
                        via: String::new(),
                    });
                    b.jobs.len() - 1
                }));
            }
            let list = MessageList { job: jobs }.encode_to_vec();
            let x = self.exchange(true);
            let failed = || self.answered(x, false);
            let (posted, via) = self.link.post(Channel::Reader, &[list], false, failed).await;
            self.answered(x, !matches!(posted, Posted::Retry));
            if !matches!(posted, Posted::Retry) {
                told = true;
            }
            let fate = match &posted {
                Posted::Done(_) => Fate::Acknowledged(now()),
                Posted::Enrol => Fate::Enrolling(now()),
                Posted::Refused => Fate::Refused(now()),
                Posted::Retry => Fate::Open,
            };
            if let Some(entry) = info {
                self.books.client(self.setup.book, |b| b.jobs[entry].fate = fate);
            }
            match posted {
                Posted::Done(jobs) => self.handle(jobs, &via).await,
                Posted::Enrol => self.enrol(),
                Posted::Refused => {}
                Posted::Retry => continue,
            }
            tokio::time::sleep(MIN_POLL).await;
        }
    }

    /// Delivers what waits, for ever.
    async fn send(self: &Arc<Self>) {
        loop {
            let Some(batch) = self.next_batch() else {
                tokio::select! {
                    biased;
                    () = self.out.filled() => tokio::time::sleep(Duration::from_millis(50)).await,
                    () = tokio::time::sleep(MIN_POLL) => {}
                }
                continue;
            };
            let lists: Vec<Vec<u8>> = batch.items.iter().map(|i| i.list.clone()).collect();
            self.books.client(self.setup.book, |b| {
                for i in &batch.items {
                    b.jobs[i.entry].sent = true;
                }
            });
            let x = self.exchange(false);
            let failed = || self.answered(x, false);
            let (posted, via) = tokio::select! {
                biased;
                () = self.roams.notified() => (Posted::Retry, String::new()),
                done = self.link.post(Channel::Control, &lists, batch.urgent, failed) => done,
            };
            self.answered(x, !matches!(posted, Posted::Retry));
            match posted {
                Posted::Done(jobs) => {
                    self.settle(&batch, Fate::Acknowledged(now()), &via);
                    self.handle(jobs, &via).await;
                }
                Posted::Enrol => {
                    self.settle(&batch, Fate::Enrolling(now()), &via);
                    self.enrol();
                }
                Posted::Refused => self.settle(&batch, Fate::Refused(now()), &via),
                Posted::Retry => continue,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn next_batch(&self) -> Option<Batch> {
        self.out.next(self.setup.max_post, self.setup.steady, &*self.env.entropy)
    }

    /// The connection of a POST of results that is on its way breaks.
    pub(super) fn roam(&self) {
        self.roams.notify_waiters();
    }

    fn settle(&self, batch: &Batch, fate: Fate, via: &str) {
        self.out.commit(batch);
        self.books.client(self.setup.book, |b| {
            for i in &batch.items {
                b.jobs[i.entry].fate = fate;
                b.jobs[i.entry].via = via.to_owned();
            }
        });
        self.count_waiting();
    }

    /// Queues a request for enrolment, at most one in a while.
    fn enrol(&self) {
        {
            let mut last = self.enrolled.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|at| at.elapsed() < ENROL_EVERY) {
                return;
            }
            *last = Some(Instant::now());
        }
        let pem = PrivateKey::from_pem(&self.setup.key)
            .ok()
            .and_then(|k| velociraptor::crypto::csr::request_pem(&k).ok());
        let Some(pem) = pem else { return };
        let csr = Csr { pem: pem.into_bytes(), ..Default::default() };
        let message = VeloMessage {
            session_id: "E:Enrol".into(),
            csr: Some(csr),
            urgent: true,
            ..Default::default()
        };
        let link = MessageList { job: vec![message] }.encode_to_vec();
        let entry = self.books.client(self.setup.book, |b| {
            b.jobs.push(Job {
                hash: [0; 16],
                session: "E:Enrol".into(),
                execution: 0,
                process: self.number,
                content: Content::Info,
                fate: Fate::Dropped,
                sent: false,
                via: String::new(),
            });
            b.jobs.len() - 1
        });
        self.out.push(true, Item { list: link, entry });
    }

    fn info(&self) -> VeloMessage {
        let info = ClientInfo {
            client_id: self.setup.id.clone(),
            hostname: format!("host-{}", self.setup.book),
            system: "linux".into(),
            client_name: "velociraptor".into(),
            client_version: self.setup.version.into(),
            ..Default::default()
        };
        let row = velociraptor_proto::json::to_sparse_row(&info).map(|r| r.to_string());
        VeloMessage {
            session_id: "F.Monitoring".into(),
            vql_response: Some(VqlResponse {
                query: Some(VqlRequest {
                    name: "Server.Internal.ClientInfo".into(),
                    ..Default::default()
                }),
                query_id: self.env.entropy.next_u64() >> 1,
                timestamp: self.env.clock.micros(),
                total_rows: 1,
                jsonl_response: format!("{}\n", row.unwrap_or_default()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Acts on the messages of one reply.
    async fn handle(self: &Arc<Self>, jobs: Vec<VeloMessage>, via: &str) {
        if jobs.is_empty() {
            return;
        }
        let reply = self.link.replies();
        for job in &jobs {
            let what = if job.flow_request.is_some() {
                Task::Flow
            } else if job.cancel.is_some() {
                Task::Cancel
            } else if job.flow_stats_request.is_some() {
                Task::Question
            } else if let Some(t) = &job.update_event_table {
                Task::Table(t.version)
            } else {
                continue;
            };
            let session = job.session_id.clone();
            let r = Received {
                at: now(),
                process: self.number,
                session,
                reply,
                what,
                task: job.task_id,
                cipher: self.link.cipher_hash().await,
                via: via.to_owned(),
            };
            self.books.client(self.setup.book, |b| b.received.push(r));
        }
        for job in jobs {
            if let Some(request) = job.flow_request {
                self.run_flow(&job.session_id, job.urgent, request);
            } else if job.cancel.is_some() {
                self.cancel_flow(&job.session_id);
            } else if let Some(q) = job.flow_stats_request {
                if self.setup.can_answer() {
                    for id in &q.flow_id {
                        self.answer(id);
                    }
                }
            } else if let Some(table) = job.update_event_table {
                self.update_table(table);
            }
        }
    }

    fn update_table(self: &Arc<Self>, table: VqlEventTable) {
        if table.version <= self.table.load(Ordering::Relaxed) {
            return;
        }
        self.table.store(table.version, Ordering::Relaxed);
        self.books.client(self.setup.book, |b| b.table = table.version);
        let fresh = self.stop.child_token();
        {
            let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            events.cancel();
            *events = fresh.clone();
        }
        let names: Vec<String> = (table.event.iter())
            .filter_map(|e| e.query.iter().rev().find(|q| !q.name.is_empty()))
            .map(|q| q.name.clone())
            .collect();
        let me = self.clone();
        self.spawn(async move {
            tokio::select! {
                biased;
                () = fresh.cancelled() => {}
                () = me.events(names, Some(table.version)) => {}
            }
        });
    }
}
