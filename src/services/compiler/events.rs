//! The event table of a client: queries that never end.
//!
//! A client restarts all of them whenever one query or variable differs, so
//! the same definitions must give the same bytes: nothing here is random.

use sha2::{Digest, Sha256};
use velociraptor_proto::proto::{ArtifactSpec, VqlCollectorArgs};

use super::{CompileError, CompileOptions, artifact_requests, limits, number};
use crate::services::repository::{Kind, Repository};

/// How long event rows are gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventDefaults {
    /// Seconds (configuration `defaults.event_max_wait`).
    pub max_wait: u64,
    /// Most seconds added to spread clients' packets (`event_max_wait_jitter`).
    pub jitter: u64,
}

impl Default for EventDefaults {
    fn default() -> Self {
        EventDefaults { max_wait: 120, jitter: 20 }
    }
}

/// The events of a table in the order of `specs`; a name given twice counts
/// once, the first time. Those that do not exist, or need a tool that clients cannot be
/// told of yet, are left out, and why is returned: one deleted definition must not stop
/// the others.
///
/// `client_id` spreads packets of different clients over time.
pub fn event_requests(
    repository: &Repository,
    specs: &[ArtifactSpec],
    client_id: &str,
    defaults: EventDefaults,
    options: &CompileOptions<'_>,
) -> Result<(Vec<VqlCollectorArgs>, Vec<CompileError>), CompileError> {
    let (mut events, mut missing) = (Vec::new(), Vec::new());
    let mut seen = std::collections::BTreeSet::new();
    for spec in specs.iter().filter(|s| seen.insert(s.artifact.clone())) {
        let Some(artifact) = repository.get(&spec.artifact) else {
            missing.push(CompileError::NotFound(spec.artifact.clone()));
            continue;
        };
        let kind = Kind::of(&artifact);
        // The server's own event queries are of another kind.
        let wanted = if client_id == "server" { Kind::ServerEvent } else { Kind::ClientEvent };
        if kind != wanted {
            let name = spec.artifact.clone();
            return Err(CompileError::WrongKind { name, kind: kind.name() });
        }
        let requests = match artifact_requests(repository, &artifact, spec, options) {
            Err(e @ CompileError::ToolUnavailable { .. }) => {
                missing.push(e);
                continue;
            }
            done => done?,
        };
        for mut one in requests {
            let own = artifact.resources.unwrap_or_default();
            limits::batching(&mut one, spec, &own, options);
            // A timeout would only restart the query; the client has a period of its own.
            one.cpu_limit = if spec.cpu_limit > 0.0 { spec.cpu_limit } else { own.cpu_limit };
            one.ops_per_second = own.ops_per_second;
            one.iops_limit = own.iops_limit;
            if one.max_wait == 0 {
                let spread = spread(client_id, &spec.artifact, defaults.jitter);
                one.max_wait = defaults.max_wait.saturating_add(spread);
            }
            events.push(one);
        }
    }
    number(&mut events);
    Ok((events, missing))
}

fn spread(client_id: &str, artifact: &str, bound: u64) -> u64 {
    let hash = Sha256::new().chain_update(client_id).chain_update([0]).chain_update(artifact);
    let first = hash.finalize().iter().take(8).fold(0u64, |n, b| n << 8 | u64::from(*b));
    first.checked_rem(bound).unwrap_or(0)
}
