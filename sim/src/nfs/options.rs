//! How a server, a link and a mount are set up.

use std::ops::Range;
use std::time::Duration;

/// Which names a client may answer from its cache (`lookupcache=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupCache {
    /// Names that exist and names that do not.
    All,
    /// Names that exist.
    Positive,
    /// None.
    None,
}

/// The protocol, as far as it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Stateless: a removed file is gone for who has it open elsewhere.
    V3,
    /// The server knows who has a file open and keeps it for them.
    V4,
}

/// Options of one mount, by the names of nfs(5).
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// `vers`.
    pub vers: Version,
    /// `lookupcache`.
    pub lookupcache: LookupCache,
    /// `acregmin`..`acregmax`: how long a file's attributes are believed; the
    /// time grows from the first to the second while nothing changes.
    pub acreg: Range<Duration>,
    /// `acdirmin`..`acdirmax`, the same for directories and so for names.
    pub acdir: Range<Duration>,
    /// `wsize`: bytes of one WRITE.
    pub wsize: usize,
    /// `rsize`: bytes of one READ.
    pub rsize: usize,
    /// Entries of one READDIR.
    pub dir_page: usize,
    /// Age at which written data leaves the host unasked.
    pub dirty_expire: Duration,
    /// `sync` (comes with `noac`): a write returns when the server has it.
    pub sync: bool,
    /// Share of writes after which the kernel writes back at once, unasked.
    pub early_write_back: f64,
    /// A lost request or reply is made good by sending again after this.
    pub retry: Duration,
    /// Calls of one process in flight at once; more wait.
    pub slots: usize,
}

impl Default for MountOptions {
    /// What the guides ask for: NFS 4.2, `hard,lookupcache=positive,actimeo=1`.
    fn default() -> Self {
        let second = Duration::from_secs(1);
        MountOptions {
            lookupcache: LookupCache::Positive,
            acreg: second..second,
            acdir: second..second,
            ..MountOptions::kernel()
        }
    }
}

impl MountOptions {
    /// The kernel's own defaults for 4.2.
    pub fn kernel() -> Self {
        let s = Duration::from_secs;
        MountOptions {
            vers: Version::V4,
            lookupcache: LookupCache::All,
            acreg: s(3)..s(60),
            acdir: s(30)..s(60),
            wsize: 1 << 20,
            rsize: 1 << 20,
            dir_page: 512,
            dirty_expire: s(30),
            sync: false,
            early_write_back: 0.0,
            retry: s(1),
            slots: 128,
        }
    }

    /// `noac,lookupcache=none`.
    pub fn noac() -> Self {
        let zero = Duration::ZERO;
        MountOptions {
            lookupcache: LookupCache::None,
            acreg: zero..zero,
            acdir: zero..zero,
            sync: true,
            ..MountOptions::kernel()
        }
    }

    /// Version 3 with the same caches.
    pub fn v3(self) -> Self {
        MountOptions { vers: Version::V3, ..self }
    }

    /// Small WRITEs, READs and listings, and write-back at any time: everything
    /// that takes several calls can be caught in between.
    pub fn choppy(self) -> Self {
        MountOptions { wsize: 8192, rsize: 8192, dir_page: 3, early_write_back: 0.2, ..self }
    }
}

/// One host's way to the server.
#[derive(Clone, Debug)]
pub struct Link {
    /// A call's time there and back, the server's own included. Waits are
    /// rounded up to tokio's millisecond.
    pub latency: Range<Duration>,
    /// Nothing passes.
    pub cut: bool,
    /// Share of requests that never arrive.
    pub lose_request: f64,
    /// Share of replies that never arrive: the call has taken effect.
    pub lose_reply: f64,
}

impl Default for Link {
    fn default() -> Self {
        Link {
            latency: Duration::from_micros(500)..Duration::from_millis(3),
            cut: false,
            lose_request: 0.0,
            lose_reply: 0.0,
        }
    }
}

/// The life of a file without a name that a version 4 client has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// As on a local disk. A client that believes the old name opens it again.
    Kept,
    /// It can be opened and read by its handle, but after that its attributes
    /// are stale; so is whatever asks for them first (nfs-ganesha).
    Hollow,
    /// It goes within this time.
    Gone(Duration),
    /// Each file meets one of these fates.
    Any,
}

/// The server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Recognises a call sent again and repeats its reply. Memory of it is lost
    /// at a restart in any case. A real server may also forget under load.
    pub reply_cache: bool,
    /// After a restart, opens wait this long (version 4: old clients come first).
    pub grace: Duration,
    /// What becomes of files that are removed or replaced while a version 4
    /// client has them open. On version 3 they are gone at once.
    pub removed: Removed,
    /// `async` export: COMMIT is answered before the data is stable.
    pub async_export: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            reply_cache: true,
            grace: Duration::ZERO,
            removed: Removed::Any,
            async_export: false,
        }
    }
}
