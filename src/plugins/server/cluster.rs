//! The nodes of the cluster.

use vql::{Dict, Registry, Signature};

use super::session::Session;
use crate::services::acl::Permission;
use crate::services::fleet::status::NodeView;

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new(
        "cluster_nodes",
        "Every frontend of this deployment: role, connection, lag, load and health.",
    );
    r.plugin_async(sig, |scope, _, emitter| async move {
        let session = Session::of(&scope)?;
        session.require(Permission::ReadResults)?;
        let server = &session.server;
        for n in NodeView::all(server, server.hub().as_deref()) {
            let s = &n.stats;
            let row = Dict::new()
                .with("Node", n.node.as_str())
                .with("Role", n.role)
                .with("Epoch", n.epoch.as_str())
                .with("Connected", n.connected)
                .with("SinceSeconds", n.since)
                .with("BeatAgeMs", n.beat_age_ms)
                .with("Streams", n.streams)
                .with("Version", n.product.as_str())
                .with("Clients", n.clients)
                .with("LagBytes", n.lag_bytes)
                .with("LagFiles", n.lag_files)
                .with("WaitingFrames", n.waiting_frames)
                .with("WaitingBytes", n.waiting_bytes)
                .with("Jobs", s.jobs)
                .with("Rows", s.rows)
                .with("UploadBytes", s.upload_bytes)
                .with("Refused", s.refused)
                .with("JournalBytes", s.journal_bytes)
                .with("JournalGroups", s.journal_groups)
                .with("JournalFiles", s.journal_files)
                .with("StoreOperations", s.store_operations)
                .with("StoreFailures", s.store_failures)
                .with("StoreError", s.store_error.as_str())
                .with("DeliveryP50Micros", s.delivery_p50)
                .with("DeliveryP99Micros", s.delivery_p99)
                .with("Started", s.started)
                .with("CertificateExpires", s.certificate_expires);
            emitter.send(row).await?;
        }
        Ok(())
    });
}
