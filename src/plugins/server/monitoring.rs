//! The organisation's client event table.

use velociraptor_proto::json::{from_json, to_row};
use velociraptor_proto::proto::ClientEventTable;
use vql::{ArgType, Error, Registry, Signature, Value};

use super::session::{Session, failed};
use crate::services::acl::Permission;
use crate::services::audit::audit;

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("get_client_monitoring", "What clients are told to watch.");
    r.function_sync(sig, |scope, _| {
        let session = Session::with(scope, Permission::ReadResults)?;
        let row = to_row(&session.org.monitoring.table()).map_err(Error::failed)?;
        Ok(Value::from_json(row))
    });

    let sig = Signature::new("set_client_monitoring", "Tells clients what to watch.").required(
        "value",
        ArgType::Any,
        "The table, as get_client_monitoring() gives it.",
    );
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::CollectClient)?;
        let given = args.any("value").to_json();
        let table: ClientEventTable = from_json(given.as_bytes()).map_err(Error::failed)?;
        session.server.set_monitoring(&session.org, table).await.map_err(failed)?;
        let principal = &session.principal;
        audit(&session.server, &session.org, principal, "SetClientMonitoringState", given.into())
            .await;
        let row = to_row(&session.org.monitoring.table()).map_err(Error::failed)?;
        Ok(Value::from_json(row))
    });
}
