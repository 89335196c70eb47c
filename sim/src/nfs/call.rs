//! The calls between a client's kernel and the server, and their replies.

use bytes::Bytes;

use crate::tree::{Attr, Done, Ino};

/// Kind of a call, for counters and injected faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Lookup,
    GetAttr,
    Open,
    Close,
    Create,
    SetAttr,
    Read,
    Write,
    Commit,
    Link,
    Rename,
    Remove,
    MakeDir,
    RemoveDir,
    ReadDir,
    FsStat,
}

/// A call.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Lookup {
        dir: Ino,
        name: String,
    },
    GetAttr {
        ino: Ino,
    },
    /// Version 4: the server notes that the host has the file open.
    Open {
        dir: Ino,
        name: String,
    },
    /// Version 4: a file that the client knows already.
    OpenKnown {
        ino: Ino,
    },
    /// Version 4.
    Close {
        ino: Ino,
    },
    /// Mode and times of a new file.
    SetAttr {
        ino: Ino,
    },
    /// Exclusive. `open` as with [`Op::Open`].
    Create {
        dir: Ino,
        name: String,
        open: bool,
    },
    Read {
        ino: Ino,
        off: u64,
        len: usize,
    },
    Write {
        ino: Ino,
        off: u64,
        data: Bytes,
        stable: bool,
    },
    Commit {
        ino: Ino,
    },
    Link {
        ino: Ino,
        dir: Ino,
        name: String,
    },
    Rename {
        from: (Ino, String),
        to: (Ino, String),
    },
    Remove {
        dir: Ino,
        name: String,
    },
    MakeDir {
        dir: Ino,
        name: String,
    },
    RemoveDir {
        dir: Ino,
        name: String,
    },
    ReadDir {
        dir: Ino,
        after: String,
        max: usize,
    },
    FsStat,
}

impl Op {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Op::Lookup { .. } => Kind::Lookup,
            Op::GetAttr { .. } => Kind::GetAttr,
            Op::Open { .. } | Op::OpenKnown { .. } => Kind::Open,
            Op::Close { .. } => Kind::Close,
            Op::Create { .. } => Kind::Create,
            Op::SetAttr { .. } => Kind::SetAttr,
            Op::Read { .. } => Kind::Read,
            Op::Write { .. } => Kind::Write,
            Op::Commit { .. } => Kind::Commit,
            Op::Link { .. } => Kind::Link,
            Op::Rename { .. } => Kind::Rename,
            Op::Remove { .. } => Kind::Remove,
            Op::MakeDir { .. } => Kind::MakeDir,
            Op::RemoveDir { .. } => Kind::RemoveDir,
            Op::ReadDir { .. } => Kind::ReadDir,
            Op::FsStat => Kind::FsStat,
        }
    }

    /// A second execution would give another answer.
    pub(super) fn once(&self) -> bool {
        matches!(
            self.kind(),
            Kind::Open
                | Kind::Close
                | Kind::Create
                | Kind::Link
                | Kind::Rename
                | Kind::Remove
                | Kind::MakeDir
                | Kind::RemoveDir
        )
    }
}

/// What a call gave.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    None,
    Attr(Attr),
    Data {
        bytes: Bytes,
        attr: Attr,
    },
    /// `before` is the change number just before this write.
    Written {
        before: u64,
        attr: Attr,
    },
    Names {
        names: Vec<(String, bool)>,
        all: bool,
    },
    Space(u64),
}

/// A directory before and after a call changed it.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirChange {
    pub(super) attr: Attr,
}

/// A reply.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) answer: Done<Answer>,
    pub(super) dirs: Vec<DirChange>,
    /// Differs after a restart: what was written and not committed may be gone.
    pub(super) verifier: u64,
    /// The server wants the call again later (grace period).
    pub(super) later: bool,
}

impl Reply {
    /// The attributes in the answer, if there are any.
    pub(super) fn attr(&self) -> Option<Attr> {
        match &self.answer {
            Ok(
                Answer::Attr(a) | Answer::Data { attr: a, .. } | Answer::Written { attr: a, .. },
            ) => Some(*a),
            _ => None,
        }
    }
}
