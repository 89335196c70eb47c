//! What an organisation's frontend knows, and how committed records change it.
//!
//! Live operation and recovery go through the same functions here: a record is
//! applied after it is committed, or when a journal is read back. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::journal::{Decision, OpenFlow, PostClass, Schedule};
use velociraptor_proto::proto::{ArtifactCollectorContext, FlowStats};

use super::clients::Clients;
use super::events::{EventKey, EventPart, EventTable, Form, day_of};
use super::flows::job::{Hash, Job, hash};
use super::flows::{LiveFlow, Outcome};
use super::ids::Session;
use super::tasks::Verdict;
use crate::store::journal::{Extent, Pin, ProcessId, add_pin};

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
    /// The client does not know a flow that it was given.
    FlowLost(FlowKey),
    /// A message was set aside because its place is taken.
    Conflict(FlowKey),
    /// Something that no one stores.
    Ignored,
    /// Known already.
    Duplicate,
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
    /// Flows for which something is being committed, and how much.
    busy: BTreeMap<FlowKey, usize>,
    /// Flows that are being put into stock files: nothing may be committed for
    /// them until that is over, or the record that says they are settled would
    /// cover what it does not know.
    settling: BTreeSet<FlowKey>,
}

impl OrgState {
    /// Before something is committed for these flows; `false`: wait and ask again.
    pub fn begin_commit(&mut self, keys: &[FlowKey]) -> bool {
        if keys.iter().any(|k| self.settling.contains(k)) {
            return false;
        }
        for k in keys {
            *self.busy.entry(k.clone()).or_default() += 1;
        }
        true
    }

    /// What was begun is committed and applied, or has failed.
    pub fn end_commit(&mut self, keys: &[FlowKey]) {
        for k in keys {
            if let Some(n) = self.busy.get_mut(k) {
                *n = n.saturating_sub(1);
                if *n == 0 {
                    self.busy.remove(k);
                }
            }
        }
    }

    /// Before a flow is settled; `false`: something is being committed for it.
    pub fn begin_settle(&mut self, key: &FlowKey) -> bool {
        !self.busy.contains_key(key) && self.settling.insert(key.clone())
    }

    /// The flow is settled, or that has failed.
    pub fn end_settle(&mut self, key: &FlowKey) {
        self.settling.remove(key);
    }

    /// Whether this message was taken before, as far as memory tells.
    pub fn has(&self, client: &str, session: &Session, job: &Job) -> bool {
        let key = (client.to_owned(), session.flow.clone());
        self.flows.get(&key).is_some_and(|f| f.has(job))
    }

    /// Remembers a committed POST.
    pub fn note_post(&mut self, p: &PostFacts<'_>) {
        self.clients.entry(p.client).ring(p.class).push(p.post);
    }

    /// Applies one committed job. `name` is the readable query or event name.
    pub fn apply_job(&mut self, p: &PostFacts<'_>, job: &Job, name: &str) -> Effect {
        let session = Session::parse(&job.message.session_id);
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
            add_pin(&mut self.clients.pins, &job.extent.pin);
            self.clients.dirty = true;
            return Effect::ClientInfo(p.client.to_owned());
        }
        let key = EventKey {
            client: p.client.to_owned(),
            artifact: name.to_owned(),
            day: day_of(p.received),
            logs,
        };
        let part = EventPart {
            received: p.received,
            rows: job.rows,
            extent: job.extent.clone(),
            form: Form::Job,
        };
        if self.events.sets.entry(key.clone()).or_default().add(job.hash, part) {
            Effect::Events(key)
        } else {
            Effect::Duplicate
        }
    }

    fn apply_flow(
        &mut self,
        p: &PostFacts<'_>,
        session: &Session,
        job: &Job,
        name: &str,
    ) -> Effect {
        let key = (p.client.to_owned(), session.flow.clone());
        if let Some(stats) = &job.message.flow_stats
            && super::flows::is_unknown(stats)
        {
            match self.clients.entry(p.client).queue.unknown(&session.flow, p.cipher) {
                Verdict::Redeliver => return Effect::Redelivered(key),
                Verdict::Lost => return Effect::FlowLost(key),
                Verdict::NotAsked => {}
            }
        } else {
            self.clients.entry(p.client).queue.evidence(&session.flow, p.received);
        }
        let flow = self.flows.entry(key.clone()).or_insert_with(LiveFlow::unrequested);
        let outcome = flow.apply(session, job, name, p.received);
        if flow.over() {
            self.clients.entry(p.client).queue.ended(&session.flow);
        }
        match outcome {
            Outcome::Stored => Effect::Progress(key),
            Outcome::Duplicate => Effect::Duplicate,
            Outcome::Conflict => Effect::Conflict(key),
            Outcome::Ignored => Effect::Ignored,
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
        let key = EventKey {
            client: client.to_owned(),
            artifact: artifact.to_owned(),
            day: day_of(time),
            logs: false,
        };
        let count = super::flows::job::lines(rows).count() as u64;
        let mut id = rows.to_vec();
        id.extend_from_slice(&time.to_le_bytes());
        let part = EventPart { received: time, rows: count, extent, form: Form::Lines };
        self.events.sets.entry(key).or_default().add(hash(&id), part);
    }

    /// Applies a decision.
    pub fn apply_decision(&mut self, d: &Decision, pin: &Pin) {
        let client = d.client_id.as_str();
        match &d.kind {
            Some(Kind::Schedule(s)) => self.schedule(client, s, pin),
            Some(Kind::Grant(g)) => {
                let cipher = to_hash(&g.cipher_hash);
                let grantee = grantee(&g.node, &g.epoch);
                let queue = &mut self.clients.entry(client).queue;
                queue.granted(|id| g.task_id.contains(&id), cipher, grantee.as_ref());
            }
            Some(Kind::Cancel(c)) => {
                let key = (client.to_owned(), c.flow_id.clone());
                let queue = &mut self.clients.entry(client).queue;
                let must_tell = queue.withdraw(&c.flow_id);
                if must_tell {
                    for t in &c.tasks {
                        queue.push(t.clone(), Some([0; 16]), Some(pin.clone()));
                    }
                }
                if let Some(f) = self.flows.get_mut(&key) {
                    f.pin(pin);
                    match c.reason.as_str() {
                        "" => f.cancel(&d.principal, d.time),
                        why => f.fail(why, d.time),
                    }
                }
            }
            Some(Kind::FailFlow(c)) => {
                self.clients.entry(client).queue.ended(&c.flow_id);
                if let Some(f) = self.flows.get_mut(&(client.to_owned(), c.flow_id.clone())) {
                    f.pin(pin);
                    f.fail(&c.reason, d.time);
                }
            }
            Some(Kind::Enrol(e)) => {
                let c = self.clients.entry(client);
                if c.info.first_seen_at == 0 {
                    c.info.first_seen_at = e.first_seen;
                }
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
                self.touch_clients(pin);
            }
            Some(Kind::ClientInfo(info)) => {
                let c = self.clients.entry(client);
                merge_info(&mut c.info, info);
                self.touch_clients(pin);
            }
            Some(Kind::DeleteClient(_)) => {
                self.clients.remove(client);
                self.flows.retain(|k, _| k.0 != client);
                self.events.sets.retain(|k, _| k.client != client);
                self.touch_clients(pin);
            }
            Some(
                Kind::OpenFlow(_) | Kind::SettledFlow(_) | Kind::SettledEvents(_) | Kind::Opened(_),
            )
            | None => {}
        }
    }

    fn touch_clients(&mut self, pin: &Pin) {
        add_pin(&mut self.clients.pins, pin);
        self.clients.dirty = true;
    }

    fn schedule(&mut self, client: &str, s: &Schedule, pin: &Pin) {
        let Some(context) = &s.context else { return };
        let key = (client.to_owned(), context.session_id.clone());
        self.flows.insert(key, LiveFlow::scheduled(s, pin.clone()));
        let queue = &mut self.clients.entry(client).queue;
        let (cipher, grantee) = (to_hash(&s.cipher_hash), grantee(&s.node, &s.epoch));
        for t in &s.tasks {
            queue.push(t.clone(), s.granted.then_some(cipher), Some(pin.clone()));
            if s.granted {
                queue.granted(|id| id == t.task_id, cipher, grantee.as_ref());
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
        pin: Pin,
    ) {
        let key = (client.to_owned(), o.flow_id.clone());
        self.flows.entry(key).or_insert_with(|| LiveFlow::opened(o, context, reports, pin));
    }

    /// The flow's part so far is in stock files: forget it.
    pub fn settled_flow(&mut self, client: &str, flow: &str) {
        self.flows.remove(&(client.to_owned(), flow.to_owned()));
        if let Some(c) = self.clients.get_mut(client) {
            c.queue.ended(flow);
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
