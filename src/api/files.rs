//! Reading bulk files of the datastore.

use tonic::Status;
use velociraptor_proto::proto::VfsFileBuffer;

use super::status::{status, store};
use super::{Api, Caller};
use crate::services::acl::Permission;
use crate::services::notebooks;
use crate::store::path::PathSpec;
use crate::store::uploads::{Holes, Upload};
use crate::store::{FilePath, PathType};

/// Most bytes of one answer; a longer wish gets this much.
const MAX_LENGTH: usize = 64 << 20;

/// Our own files, which hold everything that is not settled yet.
const FLEET: &str = "fleet";

impl Api {
    pub(super) async fn buffer(
        &self,
        caller: Caller,
        r: VfsFileBuffer,
    ) -> Result<VfsFileBuffer, Status> {
        let given = (r.client_id.as_str(), r.components.as_slice());
        let file = self.open_file(&caller, given).await?;
        let holes = if r.padding.unwrap_or(true) { Holes::Padded } else { Holes::Skipped };
        let length = (r.length as usize).min(MAX_LENGTH);
        let data = file.read(holes, r.offset, length).await.map_err(store)?;
        Ok(VfsFileBuffer { data, ..Default::default() })
    }

    /// A bulk file by its components: below a client if one is named. Parts of the
    /// datastore that are nobody's to read are refused.
    pub(super) async fn open_file(
        &self,
        caller: &Caller,
        (client, components): (&str, &[String]),
    ) -> Result<Upload, Status> {
        caller.require(Permission::ReadResults)?;
        // Before anything is compared: clients send a leading empty component.
        let given: Vec<String> = components.iter().filter(|c| !c.is_empty()).cloned().collect();
        let at = if client.is_empty() {
            let first = given.first().map(|c| c.to_ascii_lowercase());
            let hidden =
                first.is_none_or(|f| f == FLEET || self.options.denied_prefixes.contains(&f));
            if hidden {
                let path = given.join("/");
                return Err(Status::permission_denied(format!("PermissionDenied: /{path}")));
            }
            PathSpec::from_components(&caller.org.id, &given)
        } else {
            let mut all = vec!["clients", client];
            all.extend(given.iter().map(String::as_str));
            PathSpec::escaped(&caller.org.id, PathType::Json, &all)
        };
        // Whoever reads results reads no notebook that is not shared.
        if let Some(id) = notebooks::owner_of(&at.components) {
            let of = notebooks::At { server: &self.server, org: &caller.org, id };
            of.open(&caller.name).await.map_err(|e| status(&e))?;
        }
        let file = Upload::open(&self.server.tree, &FilePath(at)).await.map_err(store)?;
        file.ok_or_else(|| Status::not_found("Not Found"))
    }
}
