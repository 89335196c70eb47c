//! Finding clients, and what people say about them.

use tonic::Status;
use velociraptor_proto::proto::search_clients_request::{Filters, SortingSense};
use velociraptor_proto::proto::{
    ApiClient, ApiResponse, ClientInfo, ClientMetadata, GetClientRequest, LabelClientsRequest,
    NotificationRequest, SearchClientsRequest, SearchClientsResponse, SetClientMetadataRequest,
};

use super::status::status;
use super::{Api, Caller};
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::clients::{ONLINE, api_client};

/// Clients of one answer when the request does not say.
const LIMIT: u64 = 1000;

impl Api {
    pub(super) fn search_clients(
        &self,
        caller: &Caller,
        r: SearchClientsRequest,
    ) -> Result<SearchClientsResponse, Status> {
        caller.require(Permission::ReadResults)?;
        let limit = if r.limit == 0 { LIMIT } else { r.limit };
        let now = self.server.env.clock.micros();
        // Only the page is copied: there may be many clients, and those that send wait meanwhile.
        let (total, page): (u64, Vec<ApiClient>) = {
            let state = caller.org.state();
            let mut held = self.server.sessions.view(&caller.org.id);
            let online = r.filter() == Filters::Online;
            let mut found: Vec<&ClientInfo> = state
                .clients
                .found(&r.query)
                .map(|c| &c.info)
                .filter(|i| {
                    !online
                        || now.saturating_sub(i.ping) <= ONLINE
                        || held.held(&i.client_id).is_some()
                })
                .collect();
            let host = |i: &&ClientInfo| i.hostname.to_lowercase();
            match r.sort() {
                SortingSense::Unsorted => {}
                SortingSense::SortUp => found.sort_by_cached_key(host),
                SortingSense::SortDown => {
                    found.sort_by_cached_key(host);
                    found.reverse();
                }
            }
            let page = found.iter().skip(to_usize(r.offset)).take(to_usize(limit));
            let page = page.map(|i| api_client(i, held.held(&i.client_id).map(|_| now)));
            (found.len() as u64, page.collect())
        };
        let mut answer = SearchClientsResponse { total, ..Default::default() };
        if r.name_only {
            answer.names = page
                .into_iter()
                .map(|c| match c.os_info {
                    Some(o) if !o.hostname.is_empty() => format!("host:{}", o.hostname),
                    _ => c.client_id,
                })
                .collect();
        } else {
            answer.items = page;
        }
        answer.search_term = Some(r);
        Ok(answer)
    }

    /// Now, when the client is held by this frontend.
    fn seen(&self, caller: &Caller, client: &str, now: u64) -> Option<u64> {
        self.server.sessions.held(&caller.org.id, client).map(|_| now)
    }

    pub(super) fn client(
        &self,
        caller: &Caller,
        r: &GetClientRequest,
    ) -> Result<ApiClient, Status> {
        caller.require(Permission::ReadResults)?;
        let now = self.server.env.clock.micros();
        let seen = self.seen(caller, &r.client_id, now);
        let state = caller.org.state();
        let client = state.clients.get(&r.client_id);
        client.map(|c| api_client(&c.info, seen)).ok_or_else(|| Status::not_found("Not Found"))
    }

    pub(super) async fn client_metadata(
        &self,
        caller: &Caller,
        r: &GetClientRequest,
    ) -> Result<ClientMetadata, Status> {
        let server = r.client_id == "server";
        caller.require(if server { Permission::ServerAdmin } else { Permission::ReadResults })?;
        let found = self.server.metadata(&caller.org, &r.client_id).await;
        let mut metadata = found.map_err(|e| status(&e))?;
        metadata.client_id = r.client_id.clone();
        Ok(metadata)
    }

    pub(super) async fn change_metadata(
        &self,
        caller: &Caller,
        r: SetClientMetadataRequest,
    ) -> Result<(), Status> {
        let server = r.client_id == "server";
        caller.require(if server { Permission::ServerAdmin } else { Permission::LabelClient })?;
        let keys: Vec<_> = r.add.iter().map(|i| i.key.clone()).collect();
        let add: Vec<_> = r.add.into_iter().map(|i| (i.key, i.value)).collect();
        let done = self.server.set_metadata(&caller.org, &r.client_id, &add, &r.remove).await;
        done.map_err(|e| status(&e))?;
        let details = serde_json::json!({
            "client_id": r.client_id, "updated_keys": keys, "removed_keys": r.remove,
        });
        audit(&self.server, &caller.org, &caller.name, "SetClientMetadata", details).await;
        Ok(())
    }

    pub(super) async fn label(
        &self,
        caller: &Caller,
        r: LabelClientsRequest,
    ) -> Result<ApiResponse, Status> {
        caller.require(Permission::LabelClient)?;
        let none = Vec::new();
        let (add, remove) = match r.operation.as_str() {
            "set" => (&r.labels, &none),
            "remove" => (&none, &r.labels),
            other => {
                let text = format!("`{other}` is no operation; use set or remove");
                return Err(Status::invalid_argument(text));
            }
        };
        for client in &r.client_ids {
            let done = self.server.label(&caller.org, client, &caller.name, add, remove).await;
            done.map_err(|e| status(&e))?;
        }
        Ok(ApiResponse::default())
    }

    pub(super) fn notify(&self, caller: &Caller, r: &NotificationRequest) -> Result<(), Status> {
        caller.require(Permission::CollectClient)?;
        if r.notify_all {
            self.server.sessions.wake_all(&caller.org.id);
        } else if r.client_id.is_empty() {
            return Err(Status::invalid_argument("no client is named"));
        } else {
            self.server.sessions.wake(&caller.org.id, &r.client_id);
        }
        Ok(())
    }
}

fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
