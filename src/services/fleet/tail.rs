//! The journal of another process, read from the store as far as it goes.

use std::io::{self, ErrorKind};

use super::table::Proc;
use crate::env::FileSystem;
use crate::store::journal::{Found, Next, Position, Reader, TornTail};

/// Where reading stands.
#[derive(Debug, Default)]
pub(in crate::services) struct Tail {
    reader: Option<Open>,
    /// What lies at a position, looked at and not taken.
    peeked: Option<(Position, Step)>,
}

#[derive(Debug)]
struct Open {
    reader: Reader,
    file: u64,
    /// A later file was known to exist when it was opened: nothing can come after
    /// what is seen.
    complete: bool,
}

/// What lies at a position.
#[derive(Debug)]
pub(in crate::services) enum Step {
    /// A record that ends there.
    Record(Box<Found>, Position),
    /// Bytes that are no record, up to there.
    Poison {
        /// Where they end.
        end: Position,
        /// What is wrong with them.
        reason: String,
        /// The bytes.
        raw: bytes::Bytes,
    },
    /// Nothing more in this file, which may have a torn end: the next begins there.
    NextFile(Option<TornTail>, Position),
}

impl Step {
    /// Where the next one begins.
    pub fn end(&self) -> Position {
        match self {
            Self::Record(_, end) | Self::Poison { end, .. } | Self::NextFile(_, end) => *end,
        }
    }
}

impl Tail {
    /// Forgets what is open: the next step is looked for on the store.
    pub fn reset(&mut self) {
        self.reader = None;
        self.peeked = None;
    }

    /// What lies at `at`; `None`: nothing yet.
    pub async fn peek(
        &mut self,
        fs: &dyn FileSystem,
        p: &Proc,
        at: Position,
    ) -> io::Result<Option<&Step>> {
        if self.peeked.as_ref().is_none_or(|(of, _)| *of != at) {
            self.peeked = self.read(fs, p, at).await?.map(|step| (at, step));
        }
        Ok(self.peeked.as_ref().map(|(_, step)| step))
    }

    /// Takes what lies at `at`; `None`: nothing yet.
    pub async fn next(
        &mut self,
        fs: &dyn FileSystem,
        p: &Proc,
        at: Position,
    ) -> io::Result<Option<Step>> {
        self.peek(fs, p, at).await?;
        Ok(self.peeked.take().map(|(_, step)| step))
    }

    async fn read(
        &mut self,
        fs: &dyn FileSystem,
        p: &Proc,
        at: Position,
    ) -> io::Result<Option<Step>> {
        let next_file = Position::start_of(at.file + 1);
        let mut fresh = false;
        loop {
            let newest = p.life().newest;
            // A name that may not exist yet is not asked for: the answer could be
            // remembered longer than it is true.
            if newest.is_none_or(|n| n < at.file) {
                return Ok(None);
            }
            let later = newest.is_some_and(|n| n > at.file);
            let stale = |o: &Open| o.file != at.file || o.reader.at() != at.offset;
            if self.reader.as_ref().is_none_or(stale) {
                if !self.open(fs, p, at, later).await? {
                    // Never made, or deleted.
                    return Ok(later.then_some(Step::NextFile(None, next_file)));
                }
                fresh = true;
            }
            let Some(o) = &mut self.reader else { return Ok(None) };
            let place = |offset| Position { file: at.file, offset };
            let torn = match o.reader.next().await? {
                Next::Record(f) => {
                    let end = place(f.end);
                    return Ok(Some(Step::Record(f, end)));
                }
                Next::Poison { end, reason, raw, .. } => {
                    return Ok(Some(Step::Poison { end: place(end), reason, raw }));
                }
                Next::End => None,
                Next::Torn(t) => Some(t),
            };
            let complete = o.complete;
            self.reader = None;
            match (later, complete, torn) {
                // It ended there when it was opened, which may be long ago.
                _ if !std::mem::replace(&mut fresh, true) => {}
                // More may come.
                (false, ..) => return Ok(None),
                // It was opened before the later file was known: once more.
                (true, false, _) => {}
                (true, true, torn) => {
                    p.journal(at.file).close(at.offset);
                    return Ok(Some(Step::NextFile(torn, next_file)));
                }
            }
        }
    }

    /// `false`: there is no such file.
    async fn open(
        &mut self,
        fs: &dyn FileSystem,
        p: &Proc,
        at: Position,
        later: bool,
    ) -> io::Result<bool> {
        let known = p.files().journal.contains_key(&at.file);
        match Reader::open(fs, p.journal(at.file), at.offset).await {
            Ok(reader) => {
                self.reader = Some(Open { reader, file: at.file, complete: later });
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                if !known {
                    p.files().journal.remove(&at.file);
                }
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }
}
