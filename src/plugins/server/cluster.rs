//! The nodes of the cluster.

use vql::{ArgType, Dict, Error, Registry, Signature, Value};

use super::session::{Session, failed};
use crate::services::acl::Permission;
use crate::services::audit::audit;
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
                .with("Drained", n.drained)
                .with("Leaving", s.leaving)
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
    let sig = Signature::new(
        "frontend_drain",
        "Takes a node out of service: its clients go to other nodes. TRUE if that is news.",
    )
    .required("node", ArgType::String, "Its name, as in cluster_nodes().")
    .arg("undo", ArgType::Bool, "Take it back into service.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::ServerAdmin)?;
        let (node, undo) = (args.string("node")?, args.bool("undo")?);
        if !session.org.id.is_root() {
            return Err(Error::failed("nodes belong to the root organisation"));
        }
        let server = &session.server;
        let news = server.set_drained(&node, !undo).await.map_err(failed)?;
        let details = serde_json::json!({ "node": node, "drain": !undo });
        audit(server, &session.org, &session.principal, "FrontendDrain", details).await;
        Ok(Value::from(news))
    });
}
