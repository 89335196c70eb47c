//! Process epochs: a directory of its own for every process start.

use std::io;

use crate::env::{Env, Open};

use super::process::ProcessId;

/// One process start of one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch {
    /// Counts starts of the node as far as the starter could see.
    pub number: u64,
    /// Makes the name unique even if two processes took the same number.
    pub suffix: String,
}

impl Epoch {
    /// The directory name, `<number>-<suffix>`, sortable.
    pub fn name(&self) -> String {
        format!("{:08}-{}", self.number, self.suffix)
    }

    /// From a directory name; `None` if it is not of that form.
    pub fn parse(name: &str) -> Option<Self> {
        let (n, s) = name.split_once('-')?;
        Some(Self { number: n.parse().ok()?, suffix: s.to_owned() })
    }
}

/// Where a node keeps its epochs.
fn node_dir(fleet: &str, node: &str) -> String {
    format!("{fleet}/{node}")
}

/// The directory of a process below `fleet`.
pub fn process_dir(fleet: &str, p: &ProcessId) -> String {
    format!("{fleet}/{}/{}", p.node, p.epoch)
}

/// A journal file of a process.
pub fn journal_path(fleet: &str, p: &ProcessId, file: u64) -> String {
    format!("{}/{file}.journal", process_dir(fleet, p))
}

/// A private file of a process that holds bulk data.
pub fn spill_path(fleet: &str, p: &ProcessId, name: &str) -> String {
    format!("{}/spill/{name}", process_dir(fleet, p))
}

/// The file that makes an epoch: it is there from the start to the end.
pub fn marker_path(fleet: &str, p: &ProcessId) -> String {
    format!("{}/epoch", process_dir(fleet, p))
}

/// Takes a fresh epoch for `node` below the directory `fleet` (absolute).
/// `marker` is kept in its marker file.
pub async fn take_epoch(env: &Env, fleet: &str, node: &str, marker: &[u8]) -> io::Result<Epoch> {
    let dir = node_dir(fleet, node);
    let last = env.fs.list(&dir).await?.iter().filter_map(|e| Epoch::parse(&e.name)).max();
    let mut number = last.map_or(1, |e| e.number + 1);
    loop {
        let mut b = [0; 4];
        env.entropy.fill(&mut b);
        let epoch = Epoch { number, suffix: hex::encode(b) };
        let path = marker_path(fleet, &ProcessId::new(node, epoch.name()));
        match env.fs.open(&path, Open::CreateNew).await {
            Ok(f) => {
                f.write_at(0, bytes::Bytes::copy_from_slice(marker)).await?;
                f.sync().await?;
                f.close().await?;
                env.fs.sync_dir(&dir).await?;
                return Ok(epoch);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(e),
        }
    }
}

/// A process of which a directory was found, and its journal files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Who wrote them.
    pub process: ProcessId,
    /// Numbers of its journal files, ascending.
    pub files: Vec<u64>,
}

impl Listed {
    /// Absolute paths of the files, in order.
    pub fn paths(&self, fleet: &str) -> Vec<String> {
        self.files.iter().map(|k| journal_path(fleet, &self.process, *k)).collect()
    }
}

/// The processes of all nodes below `fleet`, by node, then in order of start.
///
/// A listing is a hint: on a network file system it may be half a minute old.
/// What it lacks was made after what it has.
pub async fn list_processes(env: &Env, fleet: &str) -> io::Result<Vec<Listed>> {
    let mut out = Vec::new();
    for node in env.fs.list(fleet).await?.into_iter().filter(|e| e.is_dir) {
        for process in list_epochs(env, fleet, &node.name).await? {
            let files = list_files(env, fleet, &process).await?;
            out.push(Listed { process, files });
        }
    }
    Ok(out)
}

/// The processes of one node, in order of start.
pub async fn list_epochs(env: &Env, fleet: &str, node: &str) -> io::Result<Vec<ProcessId>> {
    let mut epochs: Vec<Epoch> = (env.fs.list(&node_dir(fleet, node)).await?.iter())
        .filter_map(|e| Epoch::parse(&e.name))
        .collect();
    epochs.sort();
    Ok(epochs.into_iter().map(|e| ProcessId::new(node, e.name())).collect())
}

/// Numbers of the journal files of one process, ascending.
pub async fn list_files(env: &Env, fleet: &str, process: &ProcessId) -> io::Result<Vec<u64>> {
    let mut files: Vec<u64> = (env.fs.list(&process_dir(fleet, process)).await?.iter())
        .filter_map(|e| e.name.strip_suffix(".journal")?.parse().ok())
        .collect();
    files.sort_unstable();
    Ok(files)
}
