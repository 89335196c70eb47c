//! What a client's POST says, read: all of it that costs, so that it is done in one visit to the
//! threads for long work. Knows nothing of who sent it, nor of what becomes of it.

use std::sync::Arc;

use bytes::Bytes;

use crate::crypto::envelope::{Limits, inflate_lists};
use crate::crypto::{EnvelopeError, Opened};
use crate::services::flows::is_unknown;
use crate::services::flows::job::{self, Hash, Job, JobError, hash};
use crate::store::journal::{Extent, Segment};

/// A POST whose sender is proved.
#[derive(Debug)]
pub enum Letter {
    /// Opened, and not read yet.
    Opened(Opened),
    /// Read as well.
    Read(Result<Content, EnvelopeError>),
}

/// The jobs of a POST.
#[derive(Debug)]
pub struct Content {
    /// Each as it came, and what it says. Their extents are of no segment yet.
    pub(super) jobs: Vec<(Bytes, Result<Job, JobError>)>,
    /// What tells the POST from others: a hash over the hashes of its jobs.
    pub(super) post: Hash,
}

impl Content {
    /// Unpacks and parses what was opened.
    pub(super) fn read(opened: &Opened, limits: &Limits) -> Result<Self, EnvelopeError> {
        let raw = inflate_lists(opened, limits)?;
        let nowhere = Arc::new(Segment::of_path(""));
        let mut hashes = Vec::with_capacity(raw.len());
        let read = raw.into_iter().map(|raw| {
            let own = hash(&raw);
            hashes.push(own);
            let extent = Extent { segment: nowhere.clone(), offset: 0, len: 0 };
            let job = job::parse(&raw, own, extent, None);
            (raw, job)
        });
        let jobs = read.collect();
        Ok(Self { jobs, post: hash(hashes.concat().as_slice()) })
    }

    /// Those that say something, in their order.
    fn read_jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter().filter_map(|(_, job)| job.as_ref().ok())
    }

    /// The version of the event table that a check-in claims its sender has.
    pub(super) fn table_claim(&self) -> Option<u64> {
        let check_ins = self.read_jobs().filter_map(|j| j.message.foreman_checkin.as_ref());
        check_ins.map(|f| f.last_event_table_version).last()
    }

    /// Flows that the client says it does not know.
    pub(super) fn unknown_flows(&self) -> Vec<String> {
        let of = |j: &&Job| j.message.flow_stats.as_ref().is_some_and(is_unknown);
        self.read_jobs().filter(of).map(|j| j.message.session_id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use velociraptor_proto::proto::{FlowStats, ForemanCheckin, VeloMessage, VeloStatus};

    use super::*;
    use crate::crypto::Compression;
    use crate::crypto::envelope::pack_job;

    fn opened(jobs: &[Vec<u8>]) -> Opened {
        let mut list = Vec::new();
        jobs.iter().for_each(|j| pack_job(&mut list, j));
        let compression = Compression::None;
        Opened { lists: vec![list.into()], compression, timestamp_us: 0, nonce: String::new() }
    }

    #[test]
    fn what_a_post_says_is_found_beside_what_cannot_be_read() {
        let checks_in = |version| {
            let f = ForemanCheckin { last_event_table_version: version, ..Default::default() };
            VeloMessage { foreman_checkin: Some(f), ..Default::default() }.encode_to_vec()
        };
        let error_message = "Flow not known F.1".to_owned();
        let status = VeloStatus { error_message, ..Default::default() };
        let stats = FlowStats { query_status: vec![status], ..Default::default() };
        let lost =
            VeloMessage { session_id: "F.1".into(), flow_stats: Some(stats), ..Default::default() };
        let jobs =
            [checks_in(3), b"\xff not a message".to_vec(), lost.encode_to_vec(), checks_in(7)];
        let limits = Limits::default();
        let content = Content::read(&opened(&jobs), &limits).unwrap();
        assert_eq!(content.table_claim(), Some(7), "the latest counts");
        assert_eq!(content.unknown_flows(), ["F.1"]);
        assert!(content.jobs[1].1.is_err());
        let raw: Vec<_> = content.jobs.iter().map(|(raw, _)| raw.to_vec()).collect();
        assert_eq!(raw, jobs, "all are kept, in their order");
        // The same again is the same POST, another order is not.
        assert_eq!(Content::read(&opened(&jobs), &limits).unwrap().post, content.post);
        let mut turned = jobs;
        turned.reverse();
        assert_ne!(Content::read(&opened(&turned), &limits).unwrap().post, content.post);
    }
}
