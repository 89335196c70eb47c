//! What is on stable storage while the server is dead: its journals, read
//! without the server's help.

use std::collections::BTreeSet;
use std::path::Path;

use velociraptor::services::flows::job;
use velociraptor::store::journal::{Extent, list_processes, scan};
use velociraptor_proto::journal::record::Kind;

/// Amounts of distinct data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Upload bytes.
    pub bytes: u64,
    /// Result rows.
    pub rows: u64,
}

/// What journals hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Of the flow, in all journals.
    pub flow: Amount,
    /// Of any flow, in those of the last process: what its counters counted.
    pub last: Amount,
}

/// Reads the journals below the datastore `ds`.
pub fn stored(ds: &Path, flow: &str) -> Stored {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let env = velociraptor::env::real::env();
    let fleet = format!("{}/fleet", ds.display());
    runtime.block_on(async {
        let mut out = Stored::default();
        let (mut of_flow, mut of_last) = (BTreeSet::new(), BTreeSet::new());
        let processes = list_processes(&env, &fleet).await.unwrap();
        let files = processes.iter().flat_map(|p| p.paths(&fleet).into_iter().map(move |f| (p, f)));
        for (process, path) in files {
            let is_last = processes.last() == Some(process);
            let torn = scan(&*env.fs, &path, |found| {
                let Some(Kind::Post(post)) = found.record.kind else { return };
                let mut at = 0;
                for meta in post.jobs {
                    let raw = found.payload.slice(at..at + meta.length as usize);
                    at += meta.length as usize;
                    let hash: job::Hash = meta.hash.as_slice().try_into().unwrap();
                    let spill = meta.spill.map(|s| Extent {
                        segment: found.extent.segment.clone(),
                        offset: s.offset,
                        len: s.length,
                    });
                    let job = job::parse(&raw, hash, found.extent.clone(), spill).unwrap();
                    let add = |to: &mut Amount| {
                        if job.message.file_buffer.is_some() {
                            to.bytes += job.bytes;
                        }
                        if job.message.vql_response.is_some() {
                            to.rows += job.rows;
                        }
                    };
                    if is_last && of_last.insert(hash) {
                        add(&mut out.last);
                    }
                    if job.message.session_id.starts_with(flow) && of_flow.insert(hash) {
                        add(&mut out.flow);
                    }
                }
            });
            torn.await.unwrap();
        }
        out
    })
}
