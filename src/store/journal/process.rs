//! Names of processes: one start of one node.

use std::fmt;

/// One start of one node. Its files are in `fleet/<node>/<epoch>/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    /// The node's name.
    pub node: String,
    /// The epoch's directory name, see [`super::Epoch::name`].
    pub epoch: String,
}

impl ProcessId {
    /// From its parts.
    pub fn new(node: impl Into<String>, epoch: impl Into<String>) -> Self {
        Self { node: node.into(), epoch: epoch.into() }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.epoch)
    }
}

impl From<velociraptor_proto::fleet::Process> for ProcessId {
    fn from(p: velociraptor_proto::fleet::Process) -> Self {
        Self { node: p.node, epoch: p.epoch }
    }
}

impl From<ProcessId> for velociraptor_proto::fleet::Process {
    fn from(p: ProcessId) -> Self {
        Self { node: p.node, epoch: p.epoch }
    }
}
