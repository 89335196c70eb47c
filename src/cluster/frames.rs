//! What goes over the stream, without what is the link's own business.

use std::fmt;

use velociraptor_proto::fleet::{self, down, up};
use velociraptor_proto::fleet::{
    Forget, Orgs, Position, Recall, Records, Release, Report, SessionChange, Sharing, Steer, Tasks,
    UpBeat,
};

/// One start of one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// The node's name: that of its certificate, and of its directory on the store.
    pub node: String,
    /// Unique among the starts of that node.
    pub epoch: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.epoch)
    }
}

impl From<fleet::Process> for Process {
    fn from(p: fleet::Process) -> Self {
        Self { node: p.node, epoch: p.epoch }
    }
}

impl From<Process> for fleet::Process {
    fn from(p: Process) -> Self {
        Self { node: p.node, epoch: p.epoch }
    }
}

/// What a minion says.
#[derive(Clone, Debug, PartialEq)]
pub enum FromMinion {
    /// Part of the list of readers that were there when it introduced itself;
    /// `Hello.sessions` says how many there are in all. Comes before all else.
    Snapshot(Vec<SessionChange>),
    /// Readers that came and went. Every one arrives, once and in order, except
    /// those made while the link had too many to keep: then a new stream follows,
    /// with a new list.
    Sessions(Vec<SessionChange>),
    /// What became of tasks. Every one arrives, once and in order.
    Reports(Vec<Report>),
    /// Journal bytes. May be missing or repeated.
    Records(Records),
    /// Alive; every second or so.
    Beat(UpBeat),
}

impl FromMinion {
    /// `None` for what is the link's own, or of a kind this version does not know.
    pub(super) fn from_wire(kind: Option<up::Kind>) -> Option<Self> {
        Some(match kind? {
            up::Kind::Sessions(s) if s.snapshot => Self::Snapshot(s.changes),
            up::Kind::Sessions(s) => Self::Sessions(s.changes),
            up::Kind::Reports(r) => Self::Reports(r.reports),
            up::Kind::Records(r) => Self::Records(r),
            up::Kind::Beat(b) => Self::Beat(b),
            up::Kind::Hello(_) => return None,
        })
    }

    pub(super) fn into_wire(self) -> up::Kind {
        let sessions =
            |changes, snapshot| up::Kind::Sessions(fleet::Sessions { changes, snapshot });
        match self {
            Self::Snapshot(changes) => sessions(changes, true),
            Self::Sessions(changes) => sessions(changes, false),
            Self::Reports(reports) => up::Kind::Reports(fleet::Reports { reports }),
            Self::Records(r) => up::Kind::Records(r),
            Self::Beat(b) => up::Kind::Beat(b),
        }
    }
}

/// What a master says. May be lost with the stream: the next one begins with a
/// `Hello` that says what arrived.
#[derive(Clone, Debug, PartialEq)]
pub enum FromMaster {
    /// Tasks for one client process.
    Tasks(Tasks),
    /// The client is elsewhere.
    Recall(Recall),
    /// How far the master has applied this process's journal.
    Applied(Position),
    /// Files nobody needs any more.
    Release(Release),
    /// The organisations, all of them.
    Orgs(Orgs),
    /// A client is gone or its key is another.
    Forget(Forget),
    /// What becomes of this node's clients.
    Steer(Steer),
    /// Among how many nodes limits are divided.
    Sharing(Sharing),
}

impl FromMaster {
    /// `None` for what is the link's own, or of a kind this version does not know.
    pub(super) fn from_wire(kind: Option<down::Kind>) -> Option<Self> {
        Some(match kind? {
            down::Kind::Tasks(t) => Self::Tasks(t),
            down::Kind::Recall(r) => Self::Recall(r),
            down::Kind::Acks(a) => Self::Applied(a.applied?),
            down::Kind::Release(r) => Self::Release(r),
            down::Kind::Orgs(o) => Self::Orgs(o),
            down::Kind::Forget(f) => Self::Forget(f),
            down::Kind::Steer(s) => Self::Steer(s),
            down::Kind::Sharing(s) => Self::Sharing(s),
            down::Kind::Welcome(_) | down::Kind::Refused(_) | down::Kind::Beat(_) => return None,
        })
    }

    pub(super) fn into_wire(self) -> down::Kind {
        match self {
            Self::Tasks(t) => down::Kind::Tasks(t),
            Self::Recall(r) => down::Kind::Recall(r),
            Self::Applied(p) => down::Kind::Acks(fleet::Acks { seq: 0, applied: Some(p) }),
            Self::Release(r) => down::Kind::Release(r),
            Self::Orgs(o) => down::Kind::Orgs(o),
            Self::Forget(f) => down::Kind::Forget(f),
            Self::Steer(s) => down::Kind::Steer(s),
            Self::Sharing(s) => down::Kind::Sharing(s),
        }
    }
}

/// Bytes of a frame on the wire, without its number.
pub(super) fn size(kind: &down::Kind) -> usize {
    kind.encoded_len()
}
