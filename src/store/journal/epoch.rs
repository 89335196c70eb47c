//! Process epochs: a directory of its own for every process start.

use std::io;

use crate::env::{Env, Open};

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

    fn parse(name: &str) -> Option<Self> {
        let (n, s) = name.split_once('-')?;
        Some(Self { number: n.parse().ok()?, suffix: s.to_owned() })
    }
}

/// Where a node keeps its epochs.
fn node_dir(fleet: &str, node: &str) -> String {
    format!("{fleet}/{node}")
}

/// Takes a fresh epoch for `node` below the directory `fleet` (absolute).
pub async fn take_epoch(env: &Env, fleet: &str, node: &str) -> io::Result<Epoch> {
    let dir = node_dir(fleet, node);
    let last = env.fs.list(&dir).await?.iter().filter_map(|e| Epoch::parse(&e.name)).max();
    let mut number = last.map_or(1, |e| e.number + 1);
    loop {
        let mut b = [0; 4];
        env.entropy.fill(&mut b);
        let epoch = Epoch { number, suffix: hex::encode(b) };
        let marker = format!("{dir}/{}/epoch", epoch.name());
        match env.fs.open(&marker, Open::CreateNew).await {
            Ok(f) => {
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

/// Journal files of all nodes and epochs below `fleet`, oldest first per node.
pub async fn existing_segments(env: &Env, fleet: &str) -> io::Result<Vec<String>> {
    let mut out = Vec::new();
    for node in env.fs.list(fleet).await?.into_iter().filter(|e| e.is_dir) {
        let dir = node_dir(fleet, &node.name);
        let mut epochs: Vec<Epoch> =
            env.fs.list(&dir).await?.iter().filter_map(|e| Epoch::parse(&e.name)).collect();
        epochs.sort();
        for epoch in epochs {
            let edir = format!("{dir}/{}", epoch.name());
            let mut files: Vec<u64> = (env.fs.list(&edir).await?.iter())
                .filter_map(|e| e.name.strip_suffix(".journal")?.parse().ok())
                .collect();
            files.sort_unstable();
            out.extend(files.iter().map(|k| format!("{edir}/{k}.journal")));
        }
    }
    Ok(out)
}
