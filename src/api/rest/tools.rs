//! The tools that artifacts need: what pages show, change and upload.
//!
//! An uploaded tool goes into the datastore as it comes: it may be larger than what fits into
//! memory.

use axum::Router;
use axum::extract::Request;
use axum::routing::post;
use multer::Field;
use tonic::Status;
use velociraptor_proto::json::from_json;
use velociraptor_proto::proto::Tool;

use super::uploads::{file_name, with_a_file};
use super::{Rest, failed, json as answer, on_get, on_post, text};
use crate::api::Caller;
use crate::api::status::status;
use crate::services::acl::Permission;
use crate::services::inventory::{Complete, Content};

pub(super) fn routes(rest: &Rest) -> Router {
    let form = rest.clone();
    Router::new()
        .route(
            "/v1/GetToolInfo",
            on_get(rest, |r, c, m: Tool| async move { text(&r.tool(&c, &m)?) }),
        )
        .route(
            "/v1/SetToolInfo",
            on_post(rest, |r, c, m: Tool| async move { text(&r.set_tool(&c, m).await?) }),
        )
        .route(
            "/v1/UploadTool",
            post(move |r: Request| async move {
                let done = form.upload_tool(r).await;
                done.map_or_else(|e| failed(&e), answer)
            }),
        )
}

impl Rest {
    fn tool(&self, caller: &Caller, asked: &Tool) -> Result<Tool, Status> {
        caller.require(Permission::ReadResults)?;
        let found = self.api.server.tool(&caller.org, &asked.name, &asked.version);
        found.ok_or_else(|| {
            Status::not_found(format!("no definition here names the tool `{}`", asked.name))
        })
    }

    /// What pages say of a tool. Its content they cannot name: that is what was fetched or
    /// uploaded before, as long as it is to be had from the same place.
    async fn set_tool(&self, caller: &Caller, asked: Tool) -> Result<Tool, Status> {
        caller.require(Permission::ArtifactWriter)?;
        let server = &self.api.server;
        let mut tool = Tool { filestore_path: String::new(), ..asked };
        if let Some(known) = server.tool(&caller.org, &tool.name, &tool.version)
            && known.hash == tool.hash
            && (known.url == tool.url || known.url.is_empty() && tool.serve_locally)
        {
            tool.filestore_path = known.filestore_path;
        }
        let done =
            server.set_tool(&caller.org, &caller.name, tool).await.map_err(|e| status(&e))?;
        self.tool(caller, &done)
    }

    async fn upload_tool(&self, request: Request) -> Result<String, Status> {
        let caller = self.caller(&request).await?;
        caller.require(Permission::ArtifactWriter)?;
        let server = &self.api.server;
        let mut form = with_a_file(request, server.options.tools.max_bytes)?;
        let (mut asked, mut file): (Option<Tool>, Option<(String, Complete)>) = (None, None);
        let done = loop {
            let part = match form.next_field().await {
                Ok(Some(part)) => part,
                Ok(None) => break Ok(()),
                Err(e) => break Err(self.wrong_form(&e)),
            };
            let step = match part.name() {
                Some("file") if file.is_none() => {
                    let taken = self.tool_content(part).await;
                    taken.map(|taken| file = Some(taken))
                }
                Some("_params_") => {
                    part.bytes().await.map_err(|e| self.wrong_form(&e)).and_then(|b| {
                        let read = from_json(&b);
                        asked = Some(
                            read.map_err(|e| Status::invalid_argument(format!("_params_: {e}")))?,
                        );
                        Ok(())
                    })
                }
                _ => Err(Status::invalid_argument("the form has more than one file")),
            };
            if step.is_err() {
                break step;
            }
        };
        let complete = match (done, asked, file) {
            (Ok(()), Some(tool), Some((name, content))) => {
                let filename = if tool.filename.is_empty() { name } else { tool.filename };
                let tool = Tool { filename, ..tool };
                let (org, who) = (&caller.org, &caller.name);
                let done = server.upload_tool(org, who, tool, content).await;
                return text(&done.map_err(|e| status(&e))?);
            }
            (Err(e), _, file) => (e, file),
            (Ok(()), None, file) => (Status::invalid_argument("the form has no _params_"), file),
            (Ok(()), _, None) => (Status::invalid_argument("the form has no file"), None),
        };
        let (error, file) = complete;
        if let Some((_, content)) = file {
            content.abandon(&server.env).await;
        }
        Err(error)
    }

    fn wrong_form(&self, e: &multer::Error) -> Status {
        match e {
            multer::Error::FieldSizeExceeded { .. } | multer::Error::StreamSizeExceeded { .. } => {
                let most = self.api.server.options.tools.max_bytes;
                Status::resource_exhausted(format!(
                    "a tool has at most {most} bytes (tools.max_bytes)"
                ))
            }
            e => Status::invalid_argument(format!("the form: {e}")),
        }
    }

    /// Takes the file of a form into the datastore.
    async fn tool_content(&self, mut part: Field<'static>) -> Result<(String, Complete), Status> {
        let server = &self.api.server;
        let name = file_name(part.file_name())?;
        let mut content = Content::new(server).await.map_err(|e| status(&e))?;
        loop {
            let done = match part.chunk().await {
                Ok(Some(data)) => content.write(data).await.map_err(|e| status(&e)),
                Ok(None) => {
                    return Ok((name, content.finish().await.map_err(|e| status(&e))?));
                }
                Err(e) => Err(self.wrong_form(&e)),
            };
            if let Err(e) = done {
                content.abandon(&server.env).await;
                return Err(e);
            }
        }
    }
}
