//! The generated service, each call to its room.

use tonic::{Request, Response, Status};
use velociraptor_proto::proto::api_server::Api as Service;
use velociraptor_proto::proto::health_check_response::ServingStatus;
use velociraptor_proto::proto::*;

use std::sync::Arc;

use super::Api;
use super::events::Watched;
use super::query::{self, Responses};
use crate::plugins::server::Session;
use crate::services::acl::Permission;

#[tonic::async_trait]
impl Service for Api {
    type QueryStream = Responses;
    type WatchEventStream = Watched;

    async fn query(
        &self,
        r: Request<VqlCollectorArgs>,
    ) -> Result<Response<Self::QueryStream>, Status> {
        let caller = self.caller(&r, Some(&r.get_ref().org_id)).await?;
        caller.require(Permission::AnyQuery)?;
        let args = r.into_inner();
        if args.query.is_empty() {
            return Err(Status::invalid_argument("no query is given"));
        }
        let session = Session {
            server: self.server.clone(),
            org: caller.org,
            principal: caller.name,
            policy: caller.policy,
        };
        Ok(Response::new(query::run(self.registry.clone(), Arc::new(session), args)))
    }

    async fn vfs_get_buffer(
        &self,
        r: Request<VfsFileBuffer>,
    ) -> Result<Response<VfsFileBuffer>, Status> {
        let caller = self.caller(&r, Some(&r.get_ref().org_id)).await?;
        Ok(Response::new(self.buffer(caller, r.into_inner()).await?))
    }

    async fn push_events(&self, r: Request<PushEventRequest>) -> Result<Response<()>, Status> {
        let caller = self.caller(&r, Some(&r.get_ref().org_id)).await?;
        self.push(caller, r.into_inner()).await
    }

    async fn write_event(&self, r: Request<VqlResponse>) -> Result<Response<()>, Status> {
        self.caller(&r, None).await?;
        Err(Status::unimplemented("WriteEvent is obsolete; use PushEvents"))
    }

    async fn watch_event(
        &self,
        r: Request<EventRequest>,
    ) -> Result<Response<Self::WatchEventStream>, Status> {
        let caller = self.caller(&r, Some(&r.get_ref().org_id)).await?;
        Ok(Response::new(self.watch(&caller, r.into_inner())?))
    }

    async fn check(
        &self,
        _r: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn collect_artifact(
        &self,
        r: Request<ArtifactCollectorArgs>,
    ) -> Result<Response<ArtifactCollectorResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.start_flow(&caller, r.into_inner()).await?))
    }

    async fn cancel_flow(
        &self,
        r: Request<ApiFlowRequest>,
    ) -> Result<Response<StartFlowResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.stop_flow(&caller, r.into_inner()).await?))
    }

    async fn get_flow_details(
        &self,
        r: Request<ApiFlowRequest>,
    ) -> Result<Response<FlowDetails>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.flow_details(&caller, r.into_inner()).await?))
    }

    async fn get_flow_requests(
        &self,
        r: Request<ApiFlowRequest>,
    ) -> Result<Response<ApiFlowRequestDetails>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.flow_messages(&caller, r.into_inner()).await?))
    }

    async fn get_client_flows(
        &self,
        r: Request<GetTableRequest>,
    ) -> Result<Response<GetTableResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.client_flows(&caller, r.into_inner()).await?))
    }

    async fn get_table(
        &self,
        r: Request<GetTableRequest>,
    ) -> Result<Response<GetTableResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.table(&caller, r.into_inner()).await?))
    }

    async fn create_hunt(&self, r: Request<Hunt>) -> Result<Response<StartFlowResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.new_hunt(&caller, r.into_inner()).await?))
    }

    async fn modify_hunt(&self, r: Request<HuntMutation>) -> Result<Response<()>, Status> {
        let caller = self.caller(&r, None).await?;
        self.change_hunt(&caller, r.into_inner()).await.map(Response::new)
    }

    async fn list_hunts(
        &self,
        r: Request<ListHuntsRequest>,
    ) -> Result<Response<ListHuntsResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.list(&caller, r.get_ref())?))
    }

    async fn get_hunt(&self, r: Request<GetHuntRequest>) -> Result<Response<Hunt>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.one_hunt(&caller, r.get_ref()).await?))
    }

    async fn get_hunt_tags(&self, r: Request<()>) -> Result<Response<HuntTags>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.hunt_tags(&caller)?))
    }

    async fn estimate_hunt(
        &self,
        r: Request<HuntEstimateRequest>,
    ) -> Result<Response<HuntStats>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.estimate(&caller, r.get_ref())?))
    }

    async fn get_hunt_table(
        &self,
        r: Request<GetTableRequest>,
    ) -> Result<Response<GetTableResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.hunt_table(&caller, r.get_ref())?))
    }

    async fn get_hunt_flows(
        &self,
        r: Request<GetTableRequest>,
    ) -> Result<Response<GetTableResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.hunt_flows(&caller, r.get_ref()).await?))
    }

    async fn get_hunt_results(
        &self,
        r: Request<GetHuntResultsRequest>,
    ) -> Result<Response<GetTableResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.hunt_rows(&caller, r.get_ref()).await?))
    }

    async fn create_download_file(
        &self,
        r: Request<CreateDownloadRequest>,
    ) -> Result<Response<CreateDownloadResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.create_download(&caller, r.into_inner()).await?))
    }

    async fn list_clients(
        &self,
        r: Request<SearchClientsRequest>,
    ) -> Result<Response<SearchClientsResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.search_clients(&caller, r.into_inner())?))
    }

    async fn get_client(
        &self,
        r: Request<GetClientRequest>,
    ) -> Result<Response<ApiClient>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.client(&caller, r.get_ref())?))
    }

    async fn get_client_metadata(
        &self,
        r: Request<GetClientRequest>,
    ) -> Result<Response<ClientMetadata>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.client_metadata(&caller, r.get_ref()).await?))
    }

    async fn set_client_metadata(
        &self,
        r: Request<SetClientMetadataRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = self.caller(&r, None).await?;
        self.change_metadata(&caller, r.into_inner()).await.map(Response::new)
    }

    async fn label_clients(
        &self,
        r: Request<LabelClientsRequest>,
    ) -> Result<Response<ApiResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.label(&caller, r.into_inner()).await?))
    }

    async fn notify_clients(
        &self,
        r: Request<NotificationRequest>,
    ) -> Result<Response<()>, Status> {
        let caller = self.caller(&r, None).await?;
        self.notify(&caller, r.get_ref()).map(Response::new)
    }

    async fn get_artifacts(
        &self,
        r: Request<GetArtifactsRequest>,
    ) -> Result<Response<ArtifactDescriptors>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.artifacts(&caller, r.into_inner())?))
    }

    async fn get_artifact_file(
        &self,
        r: Request<GetArtifactRequest>,
    ) -> Result<Response<GetArtifactResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.artifact_file(&caller, r.get_ref())?))
    }

    async fn set_artifact_file(
        &self,
        r: Request<SetArtifactRequest>,
    ) -> Result<Response<SetArtifactResponse>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.change_artifact(&caller, r.into_inner()).await?))
    }

    async fn get_client_monitoring_state(
        &self,
        r: Request<GetClientMonitoringStateRequest>,
    ) -> Result<Response<ClientEventTable>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.monitoring(&caller, r.get_ref())?))
    }

    async fn set_client_monitoring_state(
        &self,
        r: Request<ClientEventTable>,
    ) -> Result<Response<()>, Status> {
        let caller = self.caller(&r, None).await?;
        self.change_monitoring(&caller, r.into_inner()).await.map(Response::new)
    }

    async fn get_server_monitoring_state(
        &self,
        r: Request<()>,
    ) -> Result<Response<ArtifactCollectorArgs>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.server_monitoring(&caller)?))
    }

    async fn set_server_monitoring_state(
        &self,
        r: Request<ArtifactCollectorArgs>,
    ) -> Result<Response<ArtifactCollectorArgs>, Status> {
        let caller = self.caller(&r, None).await?;
        Ok(Response::new(self.change_server_monitoring(&caller, r.into_inner()).await?))
    }
}
