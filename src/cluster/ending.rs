//! Why a stream ends.

use tonic::Status;
use velociraptor_proto::fleet::Refused;

use super::Process;

/// Why one stream ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ending {
    /// This process stops.
    #[error("this process stops")]
    Stopping,
    /// The other side ended it properly.
    #[error("the other side ended the stream")]
    Finished,
    /// The network, the other process or a layer between us failed.
    #[error("the stream broke: {0}")]
    Broken(String),
    /// Nothing came for too long.
    #[error("nothing was heard for {0} ms")]
    Silent(u128),
    /// The other side takes nothing any more.
    #[error("frames were not taken for {0} ms")]
    Stalled(u128),
    /// The same process has another stream.
    #[error("the process has a newer stream")]
    Replaced,
    /// The services closed it.
    #[error("the stream was closed")]
    Closed,
    /// Session changes were dropped: a new list is needed.
    #[error("the list of sessions has to be sent again")]
    Stale,
    /// The other side is not wanted, with a reason for people.
    #[error("refused: {}", .0.reason)]
    Refused(Refused),
    /// The services do not obey this master.
    #[error("the master {0} is not obeyed: {1}")]
    Unwanted(Process, String),
    /// The other side broke the protocol.
    #[error("protocol error: {0}")]
    Violation(String),
}

impl Ending {
    pub(super) fn broken(status: &Status) -> Self {
        Ending::Broken(describe(status))
    }
}

/// An error with its causes: the outer ones of a transport say nothing.
pub(super) fn describe(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        text += &format!(": {e}");
        cause = e.source();
    }
    text
}
