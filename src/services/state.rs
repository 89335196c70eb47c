//! What an organisation's frontend knows, and how committed records change it.
//!
//! Live operation and recovery go through the same functions here: a record is
//! applied after it is committed, or when a journal is read back. No I/O.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::journal::{Decision, Grant, OpenFlow, PostClass, Schedule};
use velociraptor_proto::proto::{ArtifactCollectorContext, FlowStats};

use super::clients::Clients;
use super::events::{EventKey, EventPart, EventTable, Filing, Form, day_of};
use super::flows::job::{Hash, Job, hash};
use super::flows::runs::session_of;
use super::flows::{LiveFlow, Outcome};
use super::forward::Backlogs;
use super::hunts::Hunts;
use super::ids::{OrgId, Session};
use super::tasks::Verdict;
use super::tombstones::{Buried, Tombstones};
use crate::env::{Mutant, Sabotage};
use crate::store::journal::{Extent, ProcessId, Segment};

/// The session of event queries.
pub const MONITORING: &str = "F.Monitoring";
/// The session of questions about flows.
pub const STATUS: &str = "F.Status";
/// The event by which agents refresh their client record.
pub const CLIENT_INFO: &str = "Server.Internal.ClientInfo";

/// Names a flow within an organisation.
pub type FlowKey = (String, String);

/// A committed POST, parsed.
#[derive(Debug)]
pub struct PostFacts<'a> {
    /// Stored client id.
    pub client: &'a str,
    /// Class of the POST.
    pub class: PostClass,
    /// When it was received, microseconds.
    pub received: u64,
    /// Identity of the whole POST.
    pub post: Hash,
    /// The session cipher that carried it.
    pub cipher: Hash,
    /// When the key that proved it was made, seconds; 0: not known.
    pub life: u64,
}

/// Something the services must act on after a record was applied.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// A flow got something new.
    Progress(FlowKey),
    /// The agent refreshed its record; `rows` holds one JSON object.
    ClientInfo(String),
    /// Event rows were stored.
    Events(EventKey),
    /// A task that was in doubt did not start and will be sent again.
    Redelivered(FlowKey),
    /// The client does not know a session that it was given: client and session.
    FlowLost((String, String)),
    /// A message was set aside because its place is taken.
    Conflict(FlowKey),
    /// Something that no one stores.
    Ignored,
    /// Known already.
    Duplicate,
    /// Of something that was deleted.
    Dropped,
}

/// Whether a message was taken before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Not that we know.
    No,
    /// By something unsettled, which holds it.
    Live,
    /// By something else: what is settled, or the events of another day. Nothing
    /// will tell so later, when that is forgotten.
    Settled,
}

/// Everything known about an organisation that is not only in stock files.
#[derive(Debug, Default)]
pub struct OrgState {
    /// Client records, tasks, last POSTs.
    pub clients: Clients,
    /// Unsettled flows.
    pub flows: BTreeMap<FlowKey, LiveFlow>,
    /// Unsettled events.
    pub events: EventTable,
    /// What is settled and may be sent again.
    pub tombstones: Tombstones,
    /// Sessions, each with its client, that are lost, of which that could not be stored,
    /// and why they are.
    pub lost: BTreeMap<(String, String), String>,
    /// Hunts and their clients.
    pub hunts: Hunts,
    /// A fault put in on purpose; see [`crate::env::sabotage`].
    pub sabotage: Sabotage,
    /// Whose events these are, and who wants them.
    pub forward: Option<(OrgId, Arc<Backlogs>)>,
}

impl OrgState {
    /// Adds rows of a message to the events; false when they are there.
    fn add_event(&mut self, key: EventKey, part: EventPart) -> bool {
        let new = self.events.sets.entry(key.clone()).or_default().add(part.clone());
        if let (true, Some((org, to))) = (new, &self.forward) {
            to.put(org, &key, &part);
        }
        new
    }

    /// Whether this message was taken before, as far as memory tells. `received`
    /// is when it came now, microseconds, and `name` its readable query name.
    pub fn known(
        &self,
        client: &str,
        session: &Session,
        job: &Job,
        name: &str,
        received: u64,
    ) -> Known {
        let m = &job.message;
        let monitoring = session.flow == MONITORING;
        if session.flow == STATUS || (monitoring && name == CLIENT_INFO) {
            return Known::No;
        }
        if monitoring && m.file_buffer.is_none() {
            let logs = m.log_message.is_some();
            let day = self.events.day_of(client, name, logs, &job.hash);
            let (client, artifact) = (client.to_owned(), name.to_owned());
            return match day {
                Some(day) if day == day_of(received) => Known::Live,
                Some(_) => Known::Settled,
                None => self.buried(&Buried::Events { client, artifact, logs }, job),
            };
        }
        let key = (client.to_owned(), session.flow.clone());
        if self.flows.get(&key).is_some_and(|f| f.has(job)) {
            return Known::Live;
        }
        self.buried(&Buried::Flow(key), job)
    }

    /// Whether it tells that a flow is lost that the client process `cipher` does not know
    /// one of these sessions. Agents say so in the same bytes each time, so this is asked
    /// of what came before: it may be new all the same.
    pub fn tells_of_loss(&self, client: &str, cipher: Hash, unknown: &[String]) -> bool {
        let Some(c) = self.clients.get(client) else { return false };
        unknown.iter().any(|id| c.queue.ran_in_another(&Session::parse(id).id(), cipher))
    }

    fn buried(&self, what: &Buried, job: &Job) -> Known {
        let known = self.tombstones.has(what, &job.hash);
        match known && !self.sabotage.is(Mutant::ForgetTombstones) {
            true => Known::Settled,
            false => Known::No,
        }
    }

    /// Whether a POST is of a client's present life. Asked before it is applied.
    pub fn admits(&mut self, p: &PostFacts<'_>) -> bool {
        let kept = self.clients.deleted.admits(p.client, p.life, p.received);
        kept || self.sabotage.is(Mutant::UndeleteLate)
    }

    /// Whether a flow was deleted: nothing of it is kept any more.
    pub fn is_deleted(&self, client: &str, flow: &str) -> bool {
        self.clients.deleted.has_flow(client, flow) && !self.sabotage.is(Mutant::UndeleteLate)
    }

    /// Something came for a flow that was deleted. All that counts is that its client
    /// has it, or is done with it: its cancel waits for that.
    fn note_of_deleted(&mut self, p: &PostFacts<'_>, session: &Session, job: &Job) {
        let queue = &mut self.clients.entry(p.client).queue;
        match &job.message.flow_stats {
            Some(stats) if super::flows::is_unknown(stats) => queue.forget(&session.id()),
            Some(stats) if stats.flow_complete => queue.forget(&session.id()),
            _ => queue.evidence(&session.id(), p.received),
        }
    }

    /// Remembers a committed POST; `at` holds its record.
    pub fn note_post(&mut self, p: &PostFacts<'_>, at: &Arc<Segment>) {
        self.clients.entry(p.client).ring(p.class).push(p.post, p.received, Arc::downgrade(at));
    }

    /// Applies one committed job. `name` is the readable query or event name.
    pub fn apply_job(&mut self, p: &PostFacts<'_>, job: &Job, name: &str) -> Effect {
        let session = Session::parse(&job.message.session_id);
        if self.is_deleted(p.client, &session.flow) {
            self.note_of_deleted(p, &session, job);
            return Effect::Dropped;
        }
        match session.flow.as_str() {
            MONITORING => self.apply_monitoring(p, job, name),
            STATUS => Effect::Ignored,
            _ => self.apply_flow(p, &session, job, name),
        }
    }

    fn apply_monitoring(&mut self, p: &PostFacts<'_>, job: &Job, name: &str) -> Effect {
        let m = &job.message;
        if m.file_buffer.is_some() {
            return self.apply_flow(p, &Session::parse(MONITORING), job, name);
        }
        let logs = m.log_message.is_some();
        if (!logs && m.vql_response.is_none()) || name.is_empty() || job.rows == 0 {
            return Effect::Ignored;
        }
        if name == CLIENT_INFO {
            self.clients.pins.insert(job.extent.segment.clone());
            self.clients.dirty = true;
            self.hunts.look_at(p.client);
            return Effect::ClientInfo(p.client.to_owned());
        }
        let key = EventKey {
            client: p.client.to_owned(),
            artifact: name.to_owned(),
            day: day_of(p.received),
            logs,
        };
        let part = EventPart {
            hash: job.hash,
            received: p.received,
            rows: job.rows,
            extent: job.extent.clone(),
            form: Form::Job,
        };
        if self.add_event(key.clone(), part) { Effect::Events(key) } else { Effect::Duplicate }
    }

    fn apply_flow(
        &mut self,
        p: &PostFacts<'_>,
        session: &Session,
        job: &Job,
        name: &str,
    ) -> Effect {
        let key = (p.client.to_owned(), session.flow.clone());
        let id = session.id();
        if let Some(stats) = &job.message.flow_stats
            && super::flows::is_unknown(stats)
        {
            let queue = &mut self.clients.entry(p.client).queue;
            let cipher = match self.sabotage.is(Mutant::RedeliverToAnyCipher) {
                true => queue.sent_to(&id).unwrap_or(p.cipher),
                false => p.cipher,
            };
            match queue.unknown(&id, cipher) {
                Verdict::Redeliver => return Effect::Redelivered(key),
                Verdict::Lost => return Effect::FlowLost((key.0, id)),
                Verdict::Pending => return Effect::Ignored,
                Verdict::NotAsked => {}
            }
            // A decision says so, as in the other cases: that its receipt was proved is in
            // no journal, so whoever reads this back may take it for an early answer.
            let open = |f: &LiveFlow| f.context.is_some() && !f.run_over(&session.child);
            if self.flows.get(&key).is_some_and(open) {
                return Effect::FlowLost((key.0, id));
            }
        } else {
            self.clients.entry(p.client).queue.evidence(&id, p.received);
        }
        let flow = self.flows.entry(key.clone()).or_insert_with(LiveFlow::unrequested);
        if self.sabotage.is(Mutant::LastReportWins) && job.message.flow_stats.is_some() {
            flow.reports.clear();
        }
        let outcome = flow.apply(session, job, name, p.received);
        if flow.reports.get(&session.child).is_some_and(super::flows::is_complete) {
            // Its client is done with it: a cancel that waits is of no use.
            self.clients.entry(p.client).queue.forget(&id);
        } else if flow.over() {
            self.clients.entry(p.client).queue.ended(&id);
        }
        self.pin_spill(p.client, session, job);
        match outcome {
            Outcome::Stored => Effect::Progress(key),
            Outcome::Duplicate => Effect::Duplicate,
            Outcome::Conflict => Effect::Conflict(key),
            Outcome::Ignored => Effect::Ignored,
        }
    }

    /// Keeps the data beside the journal that a record refers to until its flow is settled,
    /// whatever the flow itself makes of it. Of two records of the same data one is not used
    /// now; whoever reads the journals again may meet that one first, and then uses it.
    pub fn pin_spill(&mut self, client: &str, session: &Session, job: &Job) {
        if self.sabotage.is(Mutant::DeleteRepeatedSpills) {
            return;
        }
        let key = (client.to_owned(), session.flow.clone());
        if let (Some(e), Some(f)) = (&job.spill, self.flows.get_mut(&key)) {
            f.pin(e.segment.clone());
        }
    }

    /// Applies rows of a server-side event.
    pub fn apply_events(
        &mut self,
        client: &str,
        artifact: &str,
        time: u64,
        rows: &Bytes,
        extent: Extent,
    ) {
        if self.clients.deleted.is_gone(client) {
            return;
        }
        let key = EventKey {
            client: client.to_owned(),
            artifact: artifact.to_owned(),
            day: day_of(time),
            logs: false,
        };
        let count = super::flows::job::lines(rows).count() as u64;
        let mut id = rows.to_vec();
        id.extend_from_slice(&time.to_le_bytes());
        let (hash, form) = (hash(&id), Form::Lines);
        let part = EventPart { hash, received: time, rows: count, extent, form };
        self.add_event(key, part);
    }

    /// Applies a decision.
    pub fn apply_decision(&mut self, d: &Decision, pin: &Arc<Segment>) {
        let client = d.client_id.as_str();
        let about_itself = matches!(&d.kind, Some(Kind::Enrol(_) | Kind::DeleteClient(_)));
        if !about_itself && self.clients.deleted.precedes(client, d.time) {
            return;
        }
        match &d.kind {
            Some(Kind::Schedule(s)) => {
                if self.is_repeated(client, s) || self.is_known_run(client, s) {
                    return;
                }
                if let Some(c) = &s.context {
                    self.clients.deleted.scheduled(client, &c.session_id);
                    if self.is_deleted(client, &c.session_id) {
                        return;
                    }
                }
                self.schedule(client, s, pin);
                self.hunts.scheduled(client, s, pin);
            }
            Some(Kind::SetHunt(s)) => {
                if let Some(hunt) = &s.hunt {
                    self.hunts.set(hunt, pin);
                }
            }
            Some(Kind::HuntFlow(h)) => {
                self.hunts.join(&h.hunt_id, client, &h.flow_id, d.time, pin);
            }
            Some(Kind::HuntDone(h)) => self.hunts.done(client, h, pin),
            Some(Kind::Grant(g)) => {
                let cipher = to_hash(&g.cipher_hash);
                let grantee = grantee(&g.node, &g.epoch);
                let queue = &mut self.clients.entry(client).queue;
                queue.granted(|id| g.task_id.contains(&id), cipher, grantee.as_ref());
                queue.hold(&g.task_id, pin);
            }
            Some(Kind::Claim(g)) => self.claimed(client, g, pin, false),
            Some(Kind::Cancel(c)) => {
                let key = (client.to_owned(), c.flow_id.clone());
                let queue = &mut self.clients.entry(client).queue;
                if c.away {
                    queue.may_be_elsewhere(&c.flow_id);
                }
                let has_it = queue.withdraw(&c.flow_id);
                let all = self.sabotage.is(Mutant::CancelWhatWasWithdrawn);
                for t in c.tasks.iter().filter(|t| all || has_it.contains(&t.session_id)) {
                    queue.push(t.clone(), Some([0; 16]), Some(pin.clone()));
                }
                if let Some(f) = self.flows.get_mut(&key) {
                    f.pin(pin.clone());
                    match c.reason.as_str() {
                        "" => f.cancel(&d.principal, d.time),
                        why => f.fail(why, d.time),
                    }
                }
            }
            Some(Kind::FailFlow(c)) => {
                let session = Session::parse(&c.flow_id);
                self.clients.entry(client).queue.forget(&c.flow_id);
                self.lost.remove(&(client.to_owned(), c.flow_id.clone()));
                if let Some(f) = self.flows.get_mut(&(client.to_owned(), session.flow)) {
                    f.pin(pin.clone());
                    f.fail_run(&session.child, &c.reason, d.time);
                }
            }
            Some(Kind::Enrol(e)) => {
                if !self.clients.deleted.enrolled(client, e.first_seen) {
                    // Read late; or a key made by a clock that is behind, at the very
                    // second of one that counts no more. That one goes too.
                    let whole = (client.to_owned(), String::new());
                    self.clients.deleted.suspect(whole, Default::default());
                    return;
                }
                let c = self.clients.entry(client);
                if c.info.first_seen_at == 0 {
                    c.info.first_seen_at = e.first_seen;
                }
                self.hunts.look_at(client);
                self.touch_clients(pin);
            }
            Some(Kind::Label(l)) => {
                let info = &mut self.clients.entry(client).info;
                info.labels.retain(|x| !l.remove.iter().any(|r| r.eq_ignore_ascii_case(x)));
                for add in &l.add {
                    if !info.labels.iter().any(|x| x.eq_ignore_ascii_case(add)) {
                        info.labels.push(add.clone());
                    }
                }
                info.labels_timestamp = l.labels_timestamp.max(info.labels_timestamp + 1);
                self.hunts.look_at(client);
                self.touch_clients(pin);
            }
            Some(Kind::ClientInfo(info)) => {
                let c = self.clients.entry(client);
                merge_info(&mut c.info, info);
                self.hunts.look_at(client);
                self.touch_clients(pin);
            }
            Some(Kind::DeleteClient(gone)) => {
                let lives = gone.life.iter().copied();
                self.clients.deleted.delete_client(client, d.time, lives, Some(pin));
                self.clients.remove_dead(client);
                self.flows.retain(|k, _| k.0 != client);
                self.events.remove_client(client);
                self.tombstones.remove_client(client);
                self.touch_clients(pin);
            }
            Some(Kind::FilingEvents(f)) => {
                let key = EventKey {
                    client: client.to_owned(),
                    artifact: f.artifact.clone(),
                    day: f.day.clone(),
                    logs: f.logs,
                };
                let hashes = f.hashes.chunks(16).map(to_hash).collect();
                let (name, pin) = (f.name.clone(), pin.clone());
                self.events.filing.insert(key, Filing { name, hashes: Arc::new(hashes), pin });
            }
            Some(Kind::DeleteFlow(f)) => {
                let key = (client.to_owned(), f.flow_id.clone());
                self.flows.remove(&key);
                self.tombstones.remove_flow(&key);
                self.clients.deleted.delete_flow(key, d.time, Some(pin));
            }
            Some(Kind::DeleteHuntFlows(h)) => {
                let id = h.hunt_id.as_str();
                let of_hunt = |k: &FlowKey| super::hunts::hunt_of_flow(&k.1).as_deref() == Some(id);
                self.flows.retain(|k, _| !of_hunt(k));
                self.tombstones.remove_flows(of_hunt);
                self.clients.deleted.delete_hunt(id, d.time, Some(pin));
            }
            Some(
                Kind::OpenFlow(_)
                | Kind::SettledFlow(_)
                | Kind::SettledEvents(_)
                | Kind::Opened(_)
                | Kind::Repeats(_),
            )
            | None => {}
        }
    }

    /// A minion reaches for tasks in files; `live`: which are there is known.
    pub fn claimed(&mut self, client: &str, g: &Grant, pin: &Arc<Segment>, live: bool) {
        let Some(by) = grantee(&g.node, &g.epoch) else { return };
        if let Some(c) = self.clients.get_mut(client) {
            c.queue.claimed(&g.task_id, &by, to_hash(&g.cipher_hash), pin, live);
        }
    }

    /// Whether a hunt's flow is here already: whoever recruits and is not told
    /// whether that was written writes the very same again.
    fn is_repeated(&self, client: &str, s: &Schedule) -> bool {
        let Some(c) = s.context.as_ref().filter(|_| !s.hunt_id.is_empty()) else { return false };
        let flow = self.flows.get(&(client.to_owned(), c.session_id.clone()));
        flow.is_some_and(|f| f.context.is_some()) && !self.sabotage.is(Mutant::RecruitTwice)
    }

    /// Whether it asks for a run of a flow that is there already.
    fn is_known_run(&self, client: &str, s: &Schedule) -> bool {
        let Some(c) = &s.context else { return false };
        let run = session_of(c);
        let flow = self.flows.get(&(client.to_owned(), run.flow));
        !run.child.is_empty() && flow.is_some_and(|f| f.knows_run(&run.child))
    }

    fn touch_clients(&mut self, pin: &Arc<Segment>) {
        self.clients.pins.insert(pin.clone());
        self.clients.dirty = true;
    }

    fn schedule(&mut self, client: &str, s: &Schedule, pin: &Arc<Segment>) {
        let Some(context) = &s.context else { return };
        let key = (client.to_owned(), context.session_id.clone());
        match self.flows.entry(key) {
            Entry::Occupied(mut f) if session_of(context).child.is_empty() => {
                f.get_mut().adopt(s, pin.clone());
            }
            Entry::Occupied(mut f) => f.get_mut().run_again(s, pin.clone()),
            Entry::Vacant(v) => drop(v.insert(LiveFlow::scheduled(s, pin.clone()))),
        }
        let queue = &mut self.clients.entry(client).queue;
        let (cipher, grantee) = (to_hash(&s.cipher_hash), grantee(&s.node, &s.epoch));
        for t in &s.tasks {
            queue.push(t.clone(), s.granted.then_some(cipher), Some(pin.clone()));
            if s.granted {
                queue.granted_to(t.task_id, grantee.as_ref());
            }
        }
    }

    /// A flow with stock files is being added to.
    pub fn open_flow(
        &mut self,
        client: &str,
        o: &OpenFlow,
        context: Option<ArtifactCollectorContext>,
        reports: BTreeMap<String, FlowStats>,
        pin: Arc<Segment>,
    ) {
        if self.clients.deleted.is_gone(client) || self.is_deleted(client, &o.flow_id) {
            return;
        }
        let key = (client.to_owned(), o.flow_id.clone());
        self.flows.entry(key).or_insert_with(|| LiveFlow::opened(o, context, reports, pin));
    }

    /// The flow's part so far is in stock files, since `at`, microseconds: only
    /// what was sent is remembered.
    ///
    /// Whether it was over is in the record: when that is read back, the reports that
    /// said so may be gone.
    pub fn settled_flow(&mut self, client: &str, flow: &str, at: u64, goes_on: bool) {
        let key = (client.to_owned(), flow.to_owned());
        if let Some(f) = self.flows.remove(&key) {
            self.tombstones.bury(Buried::Flow(key), f.hashes(), f.segments().cloned(), at);
        }
        // One that goes on keeps its task.
        if !goes_on && let Some(c) = self.clients.get_mut(client) {
            c.queue.settled(flow);
        }
    }

    /// The file that was begun last for this set of events is there, since `at`,
    /// microseconds. Not `filed`: everything of the set is in stock files.
    pub fn settled_events(&mut self, key: &EventKey, at: u64, filed: bool) {
        let begun = self.events.filing.remove(key);
        let parts = match (&begun, filed) {
            (Some(f), _) => self.events.take(key, Some(&f.hashes)),
            (None, true) => return,
            (None, false) => self.events.take(key, None),
        };
        // Nobody sends again what the server made.
        let sent: Vec<EventPart> = parts.into_iter().filter(|p| p.form == Form::Job).collect();
        let what = Buried::Events {
            client: key.client.clone(),
            artifact: key.artifact.clone(),
            logs: key.logs,
        };
        let pins = sent.iter().map(|p| p.extent.segment.clone()).chain(begun.map(|f| f.pin));
        let hashes = sent.iter().map(|p| p.hash);
        self.tombstones.bury(what, hashes, pins, at);
    }

    /// An end of a flow is among the events: it is not announced again.
    pub fn announced(&mut self, client: &str, flow: &str) {
        if let Some(f) = self.flows.get_mut(&(client.to_owned(), flow.to_owned())) {
            f.announced = true;
        }
    }
}

/// The other frontend process that a durable record names, if it names one.
fn grantee(node: &str, epoch: &str) -> Option<ProcessId> {
    (!node.is_empty()).then(|| ProcessId::new(node, epoch))
}

/// Fields that an agent or an interrogation reports; empty ones change nothing.
pub fn merge_info(
    into: &mut velociraptor_proto::proto::ClientInfo,
    new: &velociraptor_proto::proto::ClientInfo,
) {
    let text = |a: &mut String, b: &String| {
        if !b.is_empty() {
            a.clone_from(b);
        }
    };
    text(&mut into.hostname, &new.hostname);
    text(&mut into.fqdn, &new.fqdn);
    text(&mut into.system, &new.system);
    text(&mut into.release, &new.release);
    text(&mut into.architecture, &new.architecture);
    text(&mut into.client_version, &new.client_version);
    text(&mut into.client_name, &new.client_name);
    text(&mut into.build_time, &new.build_time);
    text(&mut into.build_url, &new.build_url);
    text(&mut into.last_interrogate_flow_id, &new.last_interrogate_flow_id);
    text(&mut into.last_interrogate_artifact_name, &new.last_interrogate_artifact_name);
    if new.install_time > 0 {
        into.install_time = new.install_time;
    }
    if new.first_seen_at > 0 && into.first_seen_at == 0 {
        into.first_seen_at = new.first_seen_at;
    }
    into.ping = into.ping.max(new.ping);
    if !new.mac_addresses.is_empty() {
        into.mac_addresses.clone_from(&new.mac_addresses);
    }
    for l in &new.labels {
        if !into.labels.iter().any(|x| x.eq_ignore_ascii_case(l)) {
            into.labels.push(l.clone());
        }
    }
}

/// A stored hash; shorter bytes are filled with zeros.
pub fn to_hash(bytes: &[u8]) -> Hash {
    let mut h = [0; 16];
    let n = bytes.len().min(16);
    h[..n].copy_from_slice(&bytes[..n]);
    h
}
