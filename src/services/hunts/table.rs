//! What is known of an organisation's hunts, and how records change it. Pure: no
//! I/O, time is told. Recovery and normal operation go through the same functions,
//! and each may be told a second time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;
use velociraptor_proto::journal::{HuntDone, Schedule};
use velociraptor_proto::proto::hunt::State;
use velociraptor_proto::proto::{ArtifactCollectorArgs, ClientInfo, Hunt, HuntStats};

use super::conditions;
use crate::env::{Mutant, Sabotage};
use crate::services::state::FlowKey;
use crate::store::journal::Segment;

/// The id that the flow of a hunt has on every client: `F.X.H` for `H.X`.
pub fn flow_of_hunt(hunt: &str) -> String {
    format!("F.{}.H", hunt.strip_prefix("H.").unwrap_or(hunt))
}

/// The hunt to which a flow belongs by its id.
pub fn hunt_of_flow(flow: &str) -> Option<String> {
    let id = flow.strip_prefix("F.")?.strip_suffix(".H")?;
    (!id.is_empty()).then(|| format!("H.{id}"))
}

/// How a client's flow of a hunt ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Microseconds since the epoch.
    pub started: u64,
    /// Microseconds since the epoch.
    pub ended: u64,
    /// Whether it ended in an error, which `error` tells.
    pub failed: bool,
    /// Its status.
    pub error: String,
    /// Rows collected.
    pub rows: u64,
    /// Bytes uploaded.
    pub bytes: u64,
    /// Nanoseconds.
    pub duration: i64,
}

/// A client of a hunt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its flow.
    pub flow: String,
    /// When it became one, microseconds since the epoch.
    pub since: u64,
    /// How it ended; `None` while it goes on.
    pub end: Option<End>,
}

/// What of a hunt is not in its files.
#[derive(Clone, Debug, Default)]
pub(super) struct Unwritten {
    /// The object, its counts apart.
    pub object: bool,
    /// The full request.
    pub request: bool,
    /// Clients or ends, and the counts.
    pub tables: bool,
    /// Clients without a marker.
    pub markers: BTreeSet<String>,
    /// The records behind all this.
    pub pins: BTreeSet<Arc<Segment>>,
}

impl Unwritten {
    pub(super) fn any(&self) -> bool {
        self.object || self.request || self.tables
    }

    /// It could not be written.
    pub(super) fn put_back(&mut self, other: Unwritten) {
        self.object |= other.object;
        self.request |= other.request;
        self.tables |= other.tables;
        self.markers.extend(other.markers);
        self.pins.extend(other.pins);
    }
}

/// A hunt.
#[derive(Clone, Debug, Default)]
pub struct LiveHunt {
    /// As last set; counts are not kept here.
    pub hunt: Hunt,
    members: BTreeMap<String, Member>,
    /// Clients of which a stock server left a mark that they ran it, and no row.
    ran: BTreeSet<String>,
    /// Clients whose flow is being decided.
    joining: BTreeSet<String>,
    pub(super) unwritten: Unwritten,
    /// When its tables were last written.
    pub(super) written: Option<tokio::time::Instant>,
}

impl LiveHunt {
    /// A hunt as stock files have it.
    pub(super) fn loaded(
        hunt: Hunt,
        members: BTreeMap<String, Member>,
        ran: BTreeSet<String>,
    ) -> Self {
        Self { hunt, members, ran, ..Self::default() }
    }

    /// Its clients, by id.
    pub fn members(&self) -> &BTreeMap<String, Member> {
        &self.members
    }

    /// Its clients in the order in which they became that.
    pub fn in_order(&self) -> Vec<(&String, &Member)> {
        let mut all: Vec<_> = self.members.iter().collect();
        all.sort_by_key(|(id, m)| (m.since, *id));
        all
    }

    /// Whether it takes clients, at `now` microseconds.
    pub fn recruits(&self, now: u64) -> bool {
        self.hunt.state() == State::Running && !self.expired(now) && !self.is_full(0)
    }

    /// Whether its time is over, at `now` microseconds.
    pub fn expired(&self, now: u64) -> bool {
        self.hunt.expires > 0 && now >= self.hunt.expires
    }

    /// Whether it has all the clients it may have.
    pub fn is_full(&self, joining: usize) -> bool {
        let limit = self.hunt.client_limit;
        limit > 0 && (self.members.len() + joining) as u64 >= limit
    }

    /// Whether a client has it or will have it.
    pub fn has(&self, client: &str) -> bool {
        self.members.contains_key(client)
            || self.ran.contains(client)
            || self.joining.contains(client)
    }

    fn wants(&self, client: &str, info: &ClientInfo, now: u64, sabotage: Sabotage) -> bool {
        let taken = match sabotage.is(Mutant::RecruitTwice) {
            true => self.joining.contains(client),
            false => self.has(client),
        };
        let full = self.is_full(self.joining.len()) && !sabotage.is(Mutant::NoHuntLimit);
        self.hunt.state() == State::Running
            && !self.expired(now)
            && !full
            && !taken
            && conditions::matches(self.hunt.condition.as_ref(), info)
    }

    /// What its clients add up to. Each is counted once, whatever was told how often.
    pub fn stats(&self) -> HuntStats {
        let mut s = HuntStats {
            stopped: self.hunt.state() == State::Stopped,
            total_clients_scheduled: self.members.len() as u64,
            ..Default::default()
        };
        for end in self.members.values().filter_map(|m| m.end.as_ref()) {
            s.total_finished_clients += 1;
            s.total_clients_with_results += u64::from(end.rows > 0);
            s.total_clients_with_errors += u64::from(end.failed);
            s.total_collected_rows += end.rows;
            s.total_uploaded_bytes += end.bytes;
        }
        s
    }

    /// The hunt with its counts; `request` says whether with its compiled request.
    pub fn shown(&self, request: bool) -> Hunt {
        let mut hunt = Hunt { stats: Some(self.stats()), ..self.hunt.clone() };
        if let Some(r) = hunt.start_request.as_mut().filter(|_| !request) {
            r.compiled_collector_args.clear();
            r.summary = true;
        }
        hunt
    }

    /// The request for one client.
    pub fn request_for(&self, client: &str) -> Option<ArtifactCollectorArgs> {
        let mut request = self.hunt.start_request.clone()?;
        request.client_id = client.to_owned();
        request.flow_id = flow_of_hunt(&self.hunt.hunt_id);
        request.creator.clone_from(&self.hunt.creator);
        Some(request)
    }
}

/// A client to be recruited: reserved, so that nobody else does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The hunt.
    pub hunt: String,
    /// The client.
    pub client: String,
}

/// The hunts of an organisation.
#[derive(Debug, Default)]
pub struct Hunts {
    map: BTreeMap<String, LiveHunt>,
    /// Flows that belong to a hunt otherwise than by their id.
    joined: BTreeMap<FlowKey, BTreeSet<String>>,
    /// Deleted ones of which files may be left.
    pub(super) deleted: BTreeMap<String, BTreeSet<Arc<Segment>>>,
    /// The table of all hunts is not as written.
    pub(super) index: bool,
    /// Clients to be looked at, in order.
    candidates: VecDeque<String>,
    queued: BTreeSet<String>,
    /// Clients that somebody wants in a hunt, whatever its conditions say.
    wanted: VecDeque<Chosen>,
    /// Everybody who is connected is to be looked at.
    all: bool,
    signal: Arc<Notify>,
    sabotage: Sabotage,
}

impl Hunts {
    /// None yet; `signal` is told when there may be somebody to recruit.
    pub fn new(signal: Arc<Notify>, sabotage: Sabotage) -> Self {
        Self { signal, sabotage, ..Self::default() }
    }

    /// The hunt with that id.
    pub fn get(&self, id: &str) -> Option<&LiveHunt> {
        self.map.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut LiveHunt> {
        self.map.get_mut(id)
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &LiveHunt)> {
        self.map.iter()
    }

    pub(super) fn insert(&mut self, hunt: LiveHunt) {
        let id = hunt.hunt.hunt_id.clone();
        for (client, m) in &hunt.members {
            if hunt_of_flow(&m.flow).as_ref() != Some(&id) {
                let key = (client.clone(), m.flow.clone());
                self.joined.entry(key).or_default().insert(id.clone());
            }
        }
        if hunt.hunt.state() == State::Running {
            self.look_at_all();
        }
        self.map.insert(id, hunt);
    }

    /// A hunt is new, changed or deleted.
    pub fn set(&mut self, hunt: &Hunt, pin: &Arc<Segment>) {
        let id = &hunt.hunt_id;
        self.index = true;
        if hunt.state() == State::Deleted {
            let gone = self.map.remove(id);
            self.joined.retain(|_, of| {
                of.remove(id);
                !of.is_empty()
            });
            let pins = self.deleted.entry(id.clone()).or_default();
            pins.extend(gone.into_iter().flat_map(|h| h.unwritten.pins));
            pins.insert(pin.clone());
            return;
        }
        let live = self.map.entry(id.clone()).or_default();
        let request = live.hunt.start_request.take();
        live.hunt = Hunt { stats: None, ..hunt.clone() };
        if live.hunt.start_request.is_none() {
            live.hunt.start_request = request;
        } else {
            live.unwritten.request = true;
        }
        live.unwritten.object = true;
        live.unwritten.pins.insert(pin.clone());
        if live.hunt.state() == State::Running {
            self.look_at_all();
        }
    }

    /// A flow is scheduled for a hunt, or added to one: its client is one of the
    /// hunt's. `since` is when, microseconds.
    pub fn join(&mut self, hunt: &str, client: &str, flow: &str, since: u64, pin: &Arc<Segment>) {
        let Some(live) = self.map.get_mut(hunt) else { return };
        live.joining.remove(client);
        let known = live.members.get(client).is_some_and(|m| m.flow == flow);
        if !known {
            let member = Member { flow: flow.to_owned(), since, end: None };
            live.members.insert(client.to_owned(), member);
        }
        live.unwritten.markers.insert(client.to_owned());
        live.unwritten.tables = true;
        live.unwritten.pins.insert(pin.clone());
        if hunt_of_flow(flow).as_deref() != Some(hunt) {
            let key = (client.to_owned(), flow.to_owned());
            self.joined.entry(key).or_default().insert(hunt.to_owned());
        }
    }

    /// As [`Hunts::join`], for what a schedule says.
    pub fn scheduled(&mut self, client: &str, s: &Schedule, pin: &Arc<Segment>) {
        if let Some(c) = &s.context
            && !s.hunt_id.is_empty()
        {
            self.join(&s.hunt_id, client, &c.session_id, c.create_time, pin);
        }
    }

    /// A client's flow is over.
    pub fn done(&mut self, client: &str, d: &HuntDone, pin: &Arc<Segment>) {
        let Some(live) = self.map.get_mut(&d.hunt_id) else { return };
        let Some(m) = live.members.get_mut(client).filter(|m| m.flow == d.flow_id) else { return };
        // Told again when more came: what is counted does not shrink.
        let before = m.end.take().unwrap_or_default();
        m.end = Some(End {
            started: d.started,
            ended: d.ended,
            failed: d.failed,
            error: d.error.clone(),
            rows: d.rows.max(before.rows),
            bytes: d.bytes.max(before.bytes),
            duration: d.duration,
        });
        live.unwritten.tables = true;
        live.unwritten.pins.insert(pin.clone());
    }

    /// The hunts of which this is the client's flow.
    pub fn of_flow(&self, client: &str, flow: &str) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        let mine = |id: &String| {
            let hunt = self.map.get(id);
            hunt.and_then(|h| h.members.get(client)).is_some_and(|m| m.flow == flow)
        };
        all.extend(hunt_of_flow(flow));
        if let Some(more) = self.joined.get(&(client.to_owned(), flow.to_owned())) {
            all.extend(more.iter().cloned());
        }
        all.retain(mine);
        all
    }

    /// Something is new about a client: it came, or there is a new fact.
    pub fn look_at(&mut self, client: &str) {
        if !self.map.values().any(|h| h.hunt.state() == State::Running) {
            return;
        }
        if self.queued.insert(client.to_owned()) {
            self.candidates.push_back(client.to_owned());
            self.signal.notify_one();
        }
    }

    fn look_at_all(&mut self) {
        self.all = true;
        self.signal.notify_one();
    }

    /// Whether everybody is to be looked at; asked once.
    pub(super) fn take_all(&mut self) -> bool {
        std::mem::take(&mut self.all)
    }

    /// Somebody wants this client in that hunt.
    pub(super) fn want(&mut self, chosen: Chosen) {
        if !self.wanted.contains(&chosen) {
            self.wanted.push_back(chosen);
            self.signal.notify_one();
        }
    }

    /// Clients waiting to be looked at.
    pub fn waiting(&self) -> usize {
        self.candidates.len() + self.wanted.len()
    }

    /// The next client that a hunt wants, reserved. `info` tells of a client that
    /// is connected; others are looked at when they come.
    pub(super) fn choose(
        &mut self,
        now: u64,
        info: impl Fn(&str) -> Option<ClientInfo>,
    ) -> Option<Chosen> {
        while let Some(chosen) = self.wanted.pop_front() {
            if let Some(live) = self.map.get_mut(&chosen.hunt).filter(|h| !h.has(&chosen.client)) {
                live.joining.insert(chosen.client.clone());
                return Some(chosen);
            }
        }
        while let Some(client) = self.candidates.pop_front() {
            self.queued.remove(&client);
            let Some(info) = info(&client) else { continue };
            let sabotage = self.sabotage;
            let mut hunts = self.map.iter_mut();
            let wants = hunts.find(|(_, h)| h.wants(&client, &info, now, sabotage));
            if let Some((id, live)) = wants {
                live.joining.insert(client.clone());
                let chosen = Chosen { hunt: id.clone(), client: client.clone() };
                // Another may want it too.
                self.look_at(&client);
                return Some(chosen);
            }
        }
        None
    }

    /// It is decided, or will not be.
    pub(super) fn released(&mut self, c: &Chosen) {
        if let Some(live) = self.map.get_mut(&c.hunt) {
            live.joining.remove(&c.client);
        }
    }

    /// Hunts that run and should not any more, at `now` microseconds.
    pub(super) fn over(&self, now: u64) -> Vec<String> {
        let full = |h: &LiveHunt| h.is_full(0) && !self.sabotage.is(Mutant::NoHuntLimit);
        let over = |h: &LiveHunt| h.hunt.state() == State::Running && (h.expired(now) || full(h));
        self.map.iter().filter(|(_, h)| over(h)).map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
