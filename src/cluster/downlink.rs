//! The master's way to one minion: a bounded queue, and slots for what only its
//! newest value counts of.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::fleet::{Acks, Position, Refused, down};

use super::frames::size;
use super::queue::{Entrance, Exit, queue};
use super::{FromMaster, Limits, NotSent, Process};

/// Sends to one stream of a minion, in order. Cheap to clone; useless after the
/// stream has ended: the next one brings its own.
#[derive(Clone)]
pub struct Downlink(Arc<Shared>);

struct Shared {
    to: Process,
    queue: Entrance<down::Kind>,
    frame_bytes: usize,
    acks: Mutex<Acks>,
    wake: Notify,
    closed: CancellationToken,
    farewell: Mutex<Option<Refused>>,
}

impl fmt::Debug for Downlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Downlink").field("to", &self.0.to).finish_non_exhaustive()
    }
}

impl Downlink {
    /// With the other end of its queue.
    pub(super) fn new(to: Process, limits: &Limits) -> (Self, Exit<down::Kind>) {
        let (entrance, exit) = queue(limits.queue_frames, limits.queue_bytes);
        let shared = Shared {
            to,
            queue: entrance,
            frame_bytes: limits.frame_bytes,
            acks: Mutex::default(),
            wake: Notify::new(),
            closed: CancellationToken::new(),
            farewell: Mutex::default(),
        };
        (Self(Arc::new(shared)), exit)
    }

    /// Who reads what is sent.
    pub fn to(&self) -> &Process {
        &self.0.to
    }

    fn checked(&self, frame: FromMaster) -> Result<(down::Kind, usize), NotSent> {
        let kind = frame.into_wire();
        let bytes = size(&kind);
        let limit = self.0.frame_bytes;
        if bytes > limit { Err(NotSent::TooLarge { bytes, limit }) } else { Ok((kind, bytes)) }
    }

    /// Sends a frame; waits while the queue is full. A minion that does not read for
    /// [`Limits::stall`] loses its stream, so this does not wait for ever. `Ok` says
    /// that it is in the queue; whether it arrives the next `Hello` tells.
    pub async fn send(&self, frame: FromMaster) -> Result<(), NotSent> {
        if let FromMaster::Applied(p) = frame {
            return self.applied(p);
        }
        let (kind, bytes) = self.checked(frame)?;
        self.0.queue.push(kind, bytes).await
    }

    /// Sends a frame if there is room in the queue now.
    pub fn try_send(&self, frame: FromMaster) -> Result<(), NotSent> {
        if let FromMaster::Applied(p) = frame {
            return self.applied(p);
        }
        let (kind, bytes) = self.checked(frame)?;
        self.0.queue.try_push(kind, bytes)
    }

    /// Tells how far the journal has been applied. Takes no room and never waits: of
    /// several positions that were not sent yet only the last is.
    pub fn applied(&self, position: Position) -> Result<(), NotSent> {
        if self.is_closed() {
            return Err(NotSent::Gone);
        }
        self.acks().applied = Some(position);
        self.0.wake.notify_one();
        Ok(())
    }

    /// Ends the stream, with what the minion is told. The first reason counts.
    pub fn close(&self, why: Refused) {
        self.farewell().get_or_insert(why);
        self.end();
    }

    /// Returns when the stream has ended or is about to.
    pub async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// Whether the stream has ended or is about to.
    pub fn is_closed(&self) -> bool {
        self.0.closed.is_cancelled()
    }

    /// Frames and bytes that wait to be sent.
    pub fn waiting(&self) -> (usize, usize) {
        self.0.queue.used()
    }

    fn acks(&self) -> MutexGuard<'_, Acks> {
        self.0.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn farewell(&self) -> MutexGuard<'_, Option<Refused>> {
        self.0.farewell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbered frames up to `seq` have been acted on.
    pub(super) fn acknowledge(&self, seq: u64) {
        self.acks().seq = seq;
        self.0.wake.notify_one();
    }

    /// Waits until there is something to acknowledge, and takes it.
    pub(super) async fn next_acks(&self) -> Acks {
        loop {
            let acks = std::mem::take(&mut *self.acks());
            if acks != Acks::default() {
                return acks;
            }
            self.0.wake.notified().await;
        }
    }

    /// Ends the stream without a word.
    pub(super) fn end(&self) {
        self.0.closed.cancel();
        self.0.queue.close();
    }

    /// What to say at the end, if somebody closed it with a reason.
    pub(super) fn last_word(&self) -> Option<Refused> {
        self.farewell().take()
    }
}
