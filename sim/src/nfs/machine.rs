//! The events between hosts and server, in order of virtual time.
//!
//! The machine has no task of its own: whoever looks at it first lets happen
//! what was due ([`Machine::tick`]). So a call that is on its way takes effect
//! whatever became of the process, or the host, that sent it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Name;
use super::call::{Op, Reply};
use super::inject::{Effect, Rule};
use super::kernel::{Changed, Host};
use super::options::{Link, Removed, ServerOptions};
use super::server::Server;
use crate::oracle::Oracle;
use crate::tree::Ino;

/// A stalled call is looked at again this often.
pub(super) const POLL: Duration = Duration::from_millis(20);
/// How long a client waits when the server says "later".
const LATER: Duration = Duration::from_secs(1);

/// Where virtual time comes from; `None` when nobody knows (between steps).
pub(super) type Time = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

/// Who waits for a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A system call, which polls for it.
    Process,
    /// Write-back of a file: goes on without any process.
    WriteBack(Ino),
    /// Nobody.
    Nobody,
}

#[derive(Debug)]
pub(super) struct Call {
    host: Name,
    op: Arc<Op>,
    origin: Origin,
    attempt: u32,
    due: Duration,
    done: Option<Box<Reply>>,
    /// The event that sends it again if nothing comes back.
    retry: Moment,
}

/// A place in the queue: virtual time, and a number that orders what is at one time.
type Moment = (Duration, u64);

#[derive(Clone, Debug)]
struct Request {
    id: u64,
    host: Name,
    op: Arc<Op>,
    back: Duration,
}

#[derive(Debug)]
enum Event {
    Arrive(Box<Request>),
    Reply(u64, Name, Box<Reply>),
    Retry(u64, u32),
    WriteBack(Name, u64, Ino),
    /// A file without a name is no longer kept for who has it open.
    Gone(Ino),
}

pub(super) struct Machine {
    pub(super) now: Duration,
    time: Time,
    queue: BTreeMap<Moment, Event>,
    seq: u64,
    rng: SmallRng,
    pub(super) server: Server,
    pub(super) up: bool,
    pub(super) stalled: bool,
    parked: Vec<Request>,
    pub(super) links: BTreeMap<Name, Link>,
    pub(super) hosts: BTreeMap<Name, Host>,
    calls: BTreeMap<u64, Call>,
    pub(super) rules: Vec<Rule>,
    pub(super) oracle: Oracle,
    /// How often something unusual happened, by name.
    pub(super) seen: BTreeMap<&'static str, u64>,
}

impl Machine {
    pub(super) fn new(seed: u64, options: ServerOptions, time: Time) -> Machine {
        Machine {
            now: Duration::ZERO,
            time,
            queue: BTreeMap::new(),
            seq: 0,
            rng: SmallRng::seed_from_u64(seed),
            server: Server::new(options),
            up: true,
            stalled: false,
            parked: Vec::new(),
            links: BTreeMap::new(),
            hosts: BTreeMap::new(),
            calls: BTreeMap::new(),
            rules: Vec::new(),
            oracle: Oracle::default(),
            seen: BTreeMap::new(),
        }
    }

    /// Lets everything happen that is due by now.
    pub(super) fn tick(&mut self) {
        // Hosts of a simulation step run one after the other, so time as a host
        // sees it may be a tick behind what another has seen.
        let until = (self.time)().unwrap_or(self.now).max(self.now);
        while let Some(e) = self.queue.first_entry()
            && e.key().0 <= until
        {
            let ((at, _), event) = e.remove_entry();
            self.now = at;
            self.happen(event);
        }
        self.now = until;
    }

    pub(super) fn next_process(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub(super) fn coin(&mut self, share: f64) -> bool {
        share > 0.0 && self.rng.random_bool(share.min(1.0))
    }

    pub(super) fn within(&mut self, r: &Range<Duration>) -> Duration {
        if r.is_empty() { r.start } else { self.rng.random_range(r.clone()) }
    }

    pub(super) fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn push(&mut self, at: Duration, event: Event) -> Moment {
        self.seq += 1;
        let moment = (at.max(self.now), self.seq);
        self.queue.insert(moment, event);
        moment
    }

    /// Sends a call again at that time, unless it is over by then.
    fn retry(&mut self, at: Duration, id: u64, attempt: u32) {
        let moment = self.push(at, Event::Retry(id, attempt));
        if let Some(call) = self.calls.get_mut(&id) {
            call.retry = moment;
        }
    }

    /// Forgets a call. Most are over long before they would be sent again: so that the
    /// queue stays short, that goes with them.
    fn forget(&mut self, id: u64) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        self.queue.remove(&call.retry);
        Some(call)
    }

    /// Sends a call; the reply is fetched with [`Machine::reply`] or goes to
    /// the kernel.
    pub(super) fn submit(&mut self, host: &Name, op: Op, origin: Origin) -> u64 {
        self.seq += 1;
        let id = self.seq;
        let due = self.now;
        let (host, op) = (host.clone(), Arc::new(op));
        let retry = (due, id);
        let call = Call { host, op, origin, attempt: 0, due, done: None, retry };
        self.calls.insert(id, call);
        self.send(id);
        id
    }

    fn send(&mut self, id: u64) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.attempt += 1;
        let (host, op, attempt) = (call.host.clone(), call.op.clone(), call.attempt);
        if attempt > 1 {
            self.note("call sent again");
        }
        let retry = self.hosts.get(&host).map_or(Duration::from_secs(1), |h| h.opts.retry);
        let link = self.links.get(&host).cloned().unwrap_or_default();
        let trip = self.within(&link.latency);
        let lost = link.cut
            || self.coin(link.lose_request)
            || self.rule(&host, &op, |e| matches!(e, Effect::LoseRequest)).is_some();
        let due = if lost {
            self.note("request lost");
            self.now + retry
        } else {
            let wait = match self.rule(&host, &op, |e| matches!(e, Effect::Delay(_))) {
                Some(Effect::Delay(d)) => d,
                _ => Duration::ZERO,
            };
            let request = Box::new(Request { id, host, op, back: trip / 2 });
            self.push(self.now + wait + trip - trip / 2, Event::Arrive(request));
            self.now + wait + trip
        };
        self.retry(if lost { due } else { due + retry }, id, attempt);
        if let Some(call) = self.calls.get_mut(&id) {
            call.due = due;
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(r) => self.arrive(*r),
            Event::Reply(id, host, reply) => match self.hosts.get_mut(&host) {
                Some(h) if h.paused => h.waiting.push((id, reply)),
                _ => self.deliver(id, reply),
            },
            Event::Retry(id, attempt) => self.again(id, attempt),
            Event::Gone(ino) => self.server.drop_opens(ino),
            Event::WriteBack(host, boot, ino) => match self.hosts.get(&host) {
                Some(h) if h.boot == boot && h.paused => {
                    self.push(self.now + POLL, Event::WriteBack(host, boot, ino));
                }
                Some(h) if h.boot == boot => self.write_back_due(&host, ino),
                _ => {}
            },
        }
    }

    fn arrive(&mut self, r: Request) {
        if !self.up {
            return self.note("request to a server that is down");
        }
        if self.stalled {
            return self.parked.push(r);
        }
        if !self.calls.contains_key(&r.id) {
            self.note("call landed after its sender had gone");
        }
        let reply = match self.rule(&r.host, &r.op, |e| matches!(e, Effect::Fail(_))) {
            Some(Effect::Fail(why)) => self.server.refuse(why),
            _ => self.server.handle(&r.host, r.id, &r.op, self.now),
        };
        for ino in std::mem::take(&mut self.server.removed) {
            let fate = match self.server.options.removed {
                Removed::Any => match self.rng.random_range(0..3) {
                    0 => Removed::Kept,
                    1 => Removed::Hollow,
                    _ => Removed::Gone(Duration::from_secs(5)),
                },
                fate => fate,
            };
            match fate {
                Removed::Hollow => self.server.hollow_out(ino),
                Removed::Gone(most) => {
                    let after = self.within(&(Duration::ZERO..most));
                    self.push(self.now + after, Event::Gone(ino));
                }
                Removed::Kept | Removed::Any => {}
            }
        }
        let link = self.links.get(&r.host).cloned().unwrap_or_default();
        let rule = self
            .rule(&r.host, &r.op, |e| matches!(e, Effect::LoseReply | Effect::LoseReplyAndForget));
        if matches!(rule, Some(Effect::LoseReplyAndForget)) {
            self.server.forget_replies();
        }
        if link.cut || rule.is_some() || self.coin(link.lose_reply) {
            return self.note("reply lost");
        }
        self.push(self.now + r.back, Event::Reply(r.id, r.host, Box::new(reply)));
    }

    fn again(&mut self, id: u64, attempt: u32) {
        let Some(call) = self.calls.get(&id) else { return };
        if call.done.is_some() || call.attempt != attempt {
            return;
        }
        let paused = self.hosts.get(&call.host).is_some_and(|h| h.paused);
        // A request that lies at a stalled server is not sent a second time: the
        // connection stands.
        if paused || self.parked.iter().any(|r| r.id == id) {
            self.retry(self.now + POLL, id, attempt);
        } else {
            self.send(id);
        }
    }

    fn deliver(&mut self, id: u64, reply: Box<Reply>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.done.is_some() {
            return;
        }
        if reply.later {
            call.due = self.now + LATER;
            let (at, attempt) = (call.due, call.attempt);
            self.note("told to wait for the grace period");
            return self.retry(at, id, attempt);
        }
        match call.origin {
            Origin::Process => call.done = Some(reply),
            Origin::Nobody => {
                let now = self.now;
                if let Some(c) = self.forget(id)
                    && let Some(a) = reply.attr()
                    && let Some(h) = self.hosts.get_mut(&c.host)
                {
                    h.learn(a, Changed::Unknown, now);
                }
            }
            Origin::WriteBack(ino) => {
                if let Some(c) = self.forget(id) {
                    self.written(&c.host, ino, &c.op, *reply);
                }
            }
        }
    }

    /// A system call's reply, or how long to wait before asking again.
    pub(super) fn reply(&mut self, id: u64) -> Result<Box<Reply>, Duration> {
        self.tick();
        let Some(call) = self.calls.get(&id) else { return Err(POLL) };
        match &call.done {
            Some(_) => {
                let reply = self.forget(id).and_then(|c| c.done);
                reply.ok_or(POLL)
            }
            None if call.due > self.now => Err(call.due - self.now),
            None => Err(POLL),
        }
    }

    /// The process gave up or died. What was sent may still land.
    pub(super) fn abandon(&mut self, id: u64) {
        self.forget(id);
    }

    /// How long until write-back of a file may have got further.
    pub(super) fn write_back_wait(&self, host: &Name, ino: Ino) -> Duration {
        let of = |c: &&Call| c.origin == Origin::WriteBack(ino) && c.host == *host;
        let due = self.calls.values().filter(of).map(|c| c.due).min();
        due.map_or(POLL, |d| if d > self.now { d - self.now } else { POLL })
    }

    pub(super) fn write_back_at(&mut self, after: Duration, host: &Name, boot: u64, ino: Ino) {
        self.push(self.now + after, Event::WriteBack(host.clone(), boot, ino));
    }

    /// The server answers again; what it had received is carried out first.
    pub(super) fn resume_server(&mut self) {
        self.stalled = false;
        for r in std::mem::take(&mut self.parked) {
            self.arrive(r);
        }
    }

    /// The server loses power; nothing is answered until it is up again.
    pub(super) fn server_down(&mut self) {
        self.up = false;
        self.stalled = false;
        self.parked.clear();
    }

    pub(super) fn server_up(&mut self) {
        if !self.up {
            self.up = true;
            let rng = &mut self.rng;
            self.server.restart(self.now, &mut || rng.random_bool(0.5));
        }
    }

    /// The host stands still: replies wait, nothing is sent.
    pub(super) fn resume_host(&mut self, host: &Name) {
        let Some(h) = self.hosts.get_mut(host) else { return };
        h.paused = false;
        for (id, reply) in std::mem::take(&mut h.waiting) {
            self.deliver(id, reply);
        }
    }

    /// The host loses power: its caches and what it had not sent are gone.
    pub(super) fn crash_host(&mut self, host: &Name) {
        self.calls.retain(|_, c| c.host != *host);
        if let Some(h) = self.hosts.get_mut(host) {
            let lost = h.lose_power();
            if lost > 0 {
                self.note("host lost unsent data");
            }
        }
        self.oracle.host_gone(host);
        self.server.forget_host(host);
    }
}
