//! Collections: starting, stopping, looking.

use tonic::Status;
use velociraptor_proto::proto::{
    ApiFlowRequest, ApiFlowRequestDetails, ArtifactCollectorArgs, ArtifactCollectorResponse,
    FlowDetails, StartFlowResponse,
};

use super::status::status;
use super::{Api, Caller};
use crate::services::ServiceError;
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::compiler::redact;

impl Api {
    pub(super) async fn start_flow(
        &self,
        caller: &Caller,
        r: ArtifactCollectorArgs,
    ) -> Result<ArtifactCollectorResponse, Status> {
        let started = self.server.collect(&caller.org, &caller.name, &caller.policy, r).await;
        started.map_err(|e| match e {
            // Which of several artifacts it is cannot be seen from the request.
            ServiceError::NotFound(_) => Status::not_found(e.to_string()),
            e => status(&e),
        })
    }

    pub(super) async fn stop_flow(
        &self,
        caller: &Caller,
        r: ApiFlowRequest,
    ) -> Result<StartFlowResponse, Status> {
        let server = r.client_id == "server";
        caller.require(if server {
            Permission::CollectServer
        } else {
            Permission::CollectClient
        })?;
        let done = self.server.cancel(&caller.org, &r.client_id, &r.flow_id, &caller.name).await;
        done.map_err(|e| status(&e))?;
        let details = serde_json::json!({ "client": r.client_id, "flow_id": r.flow_id });
        audit(&self.server, &caller.org, &caller.name, "CancelFlow", details).await;
        Ok(StartFlowResponse { flow_id: r.flow_id })
    }

    pub(super) async fn flow_details(
        &self,
        caller: &Caller,
        r: ApiFlowRequest,
    ) -> Result<FlowDetails, Status> {
        caller.require(Permission::ReadResults)?;
        let found = self.server.flow(&caller.org, &r.client_id, &r.flow_id).await;
        let mut context =
            found.map_err(|e| status(&e))?.ok_or_else(|| Status::not_found("Not Found"))?;
        if !r.include_full_request {
            context.previous_flows.clear();
        }
        if let Some(request) = &mut context.request {
            if r.include_full_request {
                request.compiled_collector_args.iter_mut().for_each(redact);
            } else {
                request.compiled_collector_args.clear();
            }
        }
        let exports = self.server.flow_exports(&caller.org, &r.client_id, &r.flow_id).await;
        let available_downloads = Some(exports.map_err(|e| status(&e))?);
        Ok(FlowDetails { context: Some(context), available_downloads })
    }

    pub(super) async fn flow_messages(
        &self,
        caller: &Caller,
        r: ApiFlowRequest,
    ) -> Result<ApiFlowRequestDetails, Status> {
        caller.require(Permission::ReadResults)?;
        let found = self.server.flow_requests(&caller.org, &r.client_id, &r.flow_id).await;
        let mut items = found.map_err(|e| status(&e))?;
        for action in items.iter_mut().filter_map(|m| m.flow_request.as_mut()) {
            action.vql_client_actions.iter_mut().for_each(redact);
        }
        let count = if r.count == 0 { usize::MAX } else { r.count as usize };
        let items = items.into_iter().skip(r.offset as usize).take(count).collect();
        Ok(ApiFlowRequestDetails { items, client_id: r.client_id, flow_id: r.flow_id })
    }
}
