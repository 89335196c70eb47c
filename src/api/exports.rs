//! Archives of collections and hunts: making them. They are fetched as any other
//! file, below `downloads`.

use serde_json::json;
use tonic::Status;
use velociraptor_proto::proto::{CreateDownloadRequest, CreateDownloadResponse};

use super::status::status;
use super::{Api, Caller};
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::exports::{Format, Request, What};
use crate::store::client_path;

impl Api {
    /// Begins an export; its progress is among the downloads of the collection or
    /// hunt.
    pub(super) async fn create_download(
        &self,
        caller: &Caller,
        r: CreateDownloadRequest,
    ) -> Result<CreateDownloadResponse, Status> {
        caller.require(Permission::PrepareResults)?;
        // Passwords are for nobody to read.
        let details = json!({
            "client_id": r.client_id, "flow_id": r.flow_id, "hunt_id": r.hunt_id,
            "only_combined_hunt": r.only_combined_hunt, "json_format": r.json_format,
            "csv_format": r.csv_format, "expand_sparse": r.expand_sparse,
            "locked": !r.password.is_empty(),
        });
        audit(&self.server, &caller.org, &caller.name, "CreateDownloadRequest", details).await;
        let what = if !r.client_id.is_empty() && !r.flow_id.is_empty() {
            What::Flow { client: r.client_id, flow: r.flow_id, name: None }
        } else if !r.hunt_id.is_empty() {
            What::Hunt { hunt: r.hunt_id, combined_only: r.only_combined_hunt, base: String::new() }
        } else {
            return Err(Status::invalid_argument("name a client and its flow, or a hunt"));
        };
        let request = Request {
            what,
            format: Format::of(r.json_format, r.csv_format),
            password: r.password,
            expand_sparse: r.expand_sparse,
        };
        let export = self.server.export(&caller.org, request).await.map_err(|e| status(&e))?;
        let path = client_path::join(&export.at.0.named_components());
        Ok(CreateDownloadResponse { vfs_path: format!("fs:{path}") })
    }
}
