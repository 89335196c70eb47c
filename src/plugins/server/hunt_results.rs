//! The rows that a hunt collected, from all its clients.

use std::future::Future;

use serde_json::{Map, Value};

use crate::services::flows::Rows;
use crate::services::tables::sets_of;
use crate::services::{Org, Server, ServiceError};

/// Rows read at a time.
const PAGE: u64 = 1000;

/// Calls `see` with each row of `artifact` (the first result set if none is named)
/// of each client, with the columns that say whose it is, until it returns false.
pub async fn each<F, Fut>(
    server: &Server,
    org: &Org,
    hunt_id: &str,
    artifact: &str,
    mut see: F,
) -> Result<(), ServiceError>
where
    F: FnMut(Map<String, Value>) -> Fut,
    Fut: Future<Output = Result<bool, ServiceError>>,
{
    let hunt = server.hunt(org, hunt_id, false);
    let hunt = hunt.ok_or_else(|| ServiceError::NotFound(format!("hunt {hunt_id}")))?;
    let sets = sets_of(org, &hunt.artifacts);
    let name = match artifact {
        "" => sets.first().or(hunt.artifacts.first()).cloned().unwrap_or_default(),
        a => a.to_owned(),
    };
    if !sets.is_empty() && !sets.contains(&name) {
        return Err(ServiceError::Invalid(format!(
            "artifact {name} is not in hunt {hunt_id}, which has {}",
            sets.join(", ")
        )));
    }
    for (client, m) in server.hunt_members(org, hunt_id)? {
        let fqdn = {
            let state = org.state();
            state.clients.get(&client).map(|c| c.info.fqdn.clone()).unwrap_or_default()
        };
        let which = Rows::Results(name.clone());
        let mut start = 0;
        loop {
            let rows = server.rows(org, &client, &m.flow, &which, start, PAGE).await?;
            let got = rows.len() as u64;
            for row in rows {
                let Ok(mut row) = serde_json::from_slice::<Map<String, Value>>(&row) else {
                    continue;
                };
                row.insert("FlowId".into(), m.flow.clone().into());
                row.insert("ClientId".into(), client.clone().into());
                row.insert("_OrgId".into(), org.id.to_string().into());
                row.insert("Fqdn".into(), fqdn.clone().into());
                if !see(row).await? {
                    return Ok(());
                }
            }
            if got < PAGE {
                break;
            }
            start += got;
        }
    }
    Ok(())
}
