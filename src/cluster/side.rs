//! The two things that frames are for, as the link sees them.

use futures::future::BoxFuture;
use velociraptor_proto::fleet::{Hello, Refused, SessionChange, UpBeat, Welcome};

use super::{Downlink, FromMaster, FromMinion, Process};

/// What a master does with what minions say. Implemented by services.
///
/// For one node the calls are strictly in sequence: `hello`, then `frame`s, then
/// `gone`, and only then the next `hello`, of whichever process of that node. Calls
/// about different nodes come at the same time. A call that has begun is never
/// dropped before it is finished, also when the stream breaks meanwhile; so each
/// should have deadlines of its own.
pub trait MasterSide: Send + Sync {
    /// A minion has introduced itself. That it is `from`'s node was proved by its
    /// certificate, and no other process of that node has a live stream. `out` sends
    /// to it: what is sent before this returns follows the `Welcome`, whose version the
    /// link fills in. Keeping `out` does not keep the stream.
    ///
    /// If this returns `Ok`, `gone` will be called. A refusal goes to the minion.
    fn hello<'a>(
        &'a self,
        from: &'a Process,
        hello: Hello,
        out: Downlink,
    ) -> BoxFuture<'a, Result<Welcome, Refused>>;

    /// The next frame. While this is running no other frame of the same minion is
    /// read beyond a bounded queue, so a slow master makes minions withhold records.
    /// Sessions and reports are acknowledged once this returns, and a repeat of
    /// them is not delivered again while this process lives.
    fn frame<'a>(&'a self, from: &'a Process, frame: FromMinion) -> BoxFuture<'a, ()>;

    /// The stream has ended: broken, silent, replaced by a newer one of the same
    /// process, closed, or its certificate no longer holds.
    fn gone(&self, from: &Process);
}

/// What a minion does with what its master says. Implemented by services.
///
/// The calls are strictly in sequence: `hello`, then `welcome`, `frame`s and `gone`,
/// or `refused`, or neither when the master was not reached. [`MinionSide::beat`]
/// comes in between. A call that has begun is never dropped before it is finished.
pub trait MinionSide: Send + Sync {
    /// How this process introduces itself on a new stream, with all readers that it
    /// holds now. The link fills in `version`, `process` and `sessions`.
    ///
    /// A change of a reader must be in this list or be given to
    /// [`super::Uplink::sessions`] after it was made; both is harmless, since what
    /// was given comes after the list and says the same.
    fn hello(&self) -> (Hello, Vec<SessionChange>);

    /// The master has accepted. An error ends this stream: a master of an older
    /// term, for example. Its text goes to the log.
    fn welcome<'a>(&'a self, welcome: Welcome) -> BoxFuture<'a, Result<(), String>>;

    /// The next frame of the master.
    fn frame<'a>(&'a self, frame: FromMaster) -> BoxFuture<'a, ()>;

    /// What to say each beat; the link fills in `clock_micros` and `received`.
    fn beat(&self) -> UpBeat;

    /// A stream that `welcome` accepted has ended.
    fn gone(&self);

    /// The master does not want this process, with a reason for people. If the
    /// refusal is permanent the link gives up, and the process should end.
    fn refused(&self, refusal: &Refused);
}
