//! Records that somebody still needs.
//!
//! Whoever holds a [`Pin`] can read its record: the file that holds it is not
//! deleted, and if the record is copied to another file, the pin knows. A
//! record without a pin may go with its file.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::segment::{Segment, read};
use crate::env::FileSystem;

#[derive(Clone, Debug)]
struct Place {
    segment: Arc<Segment>,
    /// Where the payload begins in the file.
    payload: u64,
}

/// What pins of one record share.
#[derive(Debug)]
pub(super) struct Kept {
    place: Mutex<Place>,
}

/// Keeps a record. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pin(Arc<Kept>);

impl Pin {
    /// Keeps the record of `segment` whose payload begins at `payload`.
    pub fn new(segment: &Arc<Segment>, payload: u64) -> Self {
        let place = Mutex::new(Place { segment: segment.clone(), payload });
        let kept = Arc::new(Kept { place });
        segment.register(Arc::downgrade(&kept));
        Self(kept)
    }

    /// Of something that is in no journal.
    pub fn nowhere() -> Self {
        Self::new(&Arc::new(Segment::of_path("")), 0)
    }

    fn place(&self) -> Place {
        self.0.place.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file that holds the record now.
    pub fn segment(&self) -> Arc<Segment> {
        self.place().segment
    }

    /// Whether both keep the same record.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// `len` bytes of the payload, from `offset` on.
    pub fn extent(&self, offset: u64, len: u64) -> Extent {
        Extent { pin: self.clone(), offset, len }
    }
}

/// Adds a pin unless the last one added keeps the same record.
pub fn add_pin(pins: &mut Vec<Pin>, pin: &Pin) {
    if !pins.last().is_some_and(|p| p.is(pin)) {
        pins.push(pin.clone());
    }
}

/// Bytes of a record's payload; keeps the record.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The record.
    pub pin: Pin,
    /// First byte within the payload.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Extent {
    /// Of something that is in no journal.
    pub fn nowhere() -> Self {
        Pin::nowhere().extent(0, 0)
    }

    /// Reads the bytes; fewer than promised is `UnexpectedEof`.
    pub async fn read(&self, fs: &dyn FileSystem) -> io::Result<Bytes> {
        // Held while it is read: so its file stays, even if the record moves.
        let Place { segment, payload } = self.pin.place();
        read(fs, &segment, payload + self.offset, self.len).await
    }
}
