//! Callables that need a host but neither an endpoint's inspection nor a
//! server: files behind accessors, uploads, child processes, waiting.
//! What they need they find in the scope: [`Host`], [`Accessors`], [`Uploader`]
//! and the environment.

pub mod accessor;
pub mod binary;
pub mod bzip2;
pub mod content;
pub mod csv;
pub mod diff;
pub mod documents;
pub mod encoding;
pub mod evtx;
pub mod ewf;
pub mod ext4;
pub mod fat;
pub mod fields;
pub mod file;
pub mod geoip;
pub mod glob;
pub mod globs;
pub mod hive;
pub mod http;
pub mod inside;
pub mod ip;
pub mod journald;
pub mod last;
pub mod leveldb;
pub mod lines;
pub mod magic;
pub mod mounts;
pub mod ntfs;
pub mod patch;
pub mod path;
pub mod pathspec;
pub mod pe;
pub mod pipe;
pub mod plist;
pub mod prefetch;
pub mod process;
pub mod process_memory;
pub mod raw_file;
pub mod raw_reg;
pub mod records;
pub mod regex_records;
pub mod remap;
pub mod s3;
pub mod signed;
pub mod small;
pub mod smtp;
pub mod sparse;
pub mod spill;
pub mod sqlite;
pub mod temp;
pub mod tlsh;
pub mod unzip;
pub mod upload;
pub mod upload_directory;
pub mod url;
pub mod vfs_ls;
pub mod vhdx;
pub mod waiting;
pub mod watch;
pub mod written;
pub mod xml;
pub mod yara;
pub mod zip;

use std::path::PathBuf;
use std::sync::Arc;

use vql::{Error, Registry, Scope};

pub use accessor::{Accessor, Accessors, FileInfo, Range};
pub use path::OsPath;
pub use upload::{UploadFile, UploadResult, UploadSink, Uploader};

use crate::env::Env;

/// The machine that queries look at.
#[derive(Clone, Debug)]
pub struct Host {
    /// What `/` stands for in file names.
    pub root: PathBuf,
    /// Where process information is.
    pub proc: PathBuf,
    /// When this process started, unix seconds.
    pub started: u64,
    /// What a virtual client says of itself instead of what this machine is.
    pub persona: Option<Arc<Persona>>,
}

/// A made-up host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persona {
    /// Short name.
    pub hostname: String,
    /// Name with domain.
    pub fqdn: String,
    /// Go's name of the system: `linux`, `windows`, `darwin`.
    pub os: String,
    /// Distribution or edition.
    pub platform: String,
    /// Its version.
    pub version: String,
    /// Id of the installation.
    pub host_id: String,
}

impl Host {
    /// Go's name of the system it runs, or says it does.
    pub fn os(&self) -> &str {
        self.persona.as_ref().map_or(std::env::consts::OS, |p| &p.os)
    }
}

impl Default for Host {
    fn default() -> Self {
        Host { root: "/".into(), proc: "/proc".into(), started: 0, persona: None }
    }
}

/// The machine of this query.
pub fn host(scope: &Scope) -> Arc<Host> {
    let host = scope.extension::<Host>().unwrap_or_default();
    match remap::Remapped::persona(scope) {
        Some(persona) => Arc::new(Host { persona: Some(persona), ..(*host).clone() }),
        None => host,
    }
}

/// Runs blocking work where it does not hold up the reactor.
pub async fn blocking<T: Send + 'static>(
    scope: &Scope,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let Some(env) = scope.extension::<Env>() else {
        return Err(Error::failed("no environment in this scope"));
    };
    env.offload(work).await.ok_or_else(|| Error::failed("the work was aborted"))
}

/// Adds all callables of this module.
pub fn register(registry: &mut Registry) {
    binary::register(registry);
    csv::register(registry);
    diff::register(registry);
    documents::register(registry);
    encoding::register(registry);
    evtx::register(registry);
    file::register(registry);
    geoip::register(registry);
    glob::register(registry);
    http::register(registry);
    ip::register(registry);
    journald::register(registry);
    leveldb::register(registry);
    lines::register(registry);
    regex_records::register(registry);
    magic::register(registry);
    ntfs::register(registry);
    patch::register(registry);
    pathspec::register(registry);
    pe::register(registry);
    pipe::register(registry);
    plist::register(registry);
    prefetch::register(registry);
    process::register(registry);
    raw_reg::register(registry);
    remap::register(registry);
    s3::register(registry);
    signed::register(registry);
    small::register(registry);
    sqlite::register(registry);
    temp::register(registry);
    tlsh::register(registry);
    unzip::register(registry);
    upload::register(registry);
    upload_directory::register(registry);
    url::register(registry);
    vfs_ls::register(registry);
    waiting::register(registry);
    watch::register(registry);
    written::register(registry);
    yara::register(registry);
}
