//! Collecting artifacts: from what somebody asks to a scheduled flow.

use std::collections::BTreeMap;

use serde_json::json;
use velociraptor_proto::proto::{ArtifactCollectorArgs, ArtifactCollectorResponse, Tool, VqlEnv};

use super::acl::Policy;
use super::audit::audit;
use super::compiler::{self, CompileOptions, FindTool};
use super::ids::Session;
use super::server::{Org, Server, ServiceError};

/// The parameter by which an artifact keeps a session between runs of a flow.
const STATEFUL: &str = "Stateful";

impl From<compiler::CompileError> for ServiceError {
    fn from(e: compiler::CompileError) -> Self {
        use compiler::CompileError::NotFound;
        match e {
            NotFound(name) => ServiceError::NotFound(format!("artifact {name}")),
            e => ServiceError::Invalid(e.to_string()),
        }
    }
}

/// Stock's shell asks for a flow of its own by `/S`, whatever its id, and goes on in it:
/// what can keep a session, and is not told whether to, does.
fn open_session(org: &Org, request: &mut ArtifactCollectorArgs) {
    request.flow_id.clear();
    for spec in &mut request.specs {
        let artifact = org.repository.resolve(&spec.artifact, request.allow_custom_overrides);
        let can = artifact.is_some_and(|a| a.parameters.iter().any(|p| p.name == STATEFUL));
        let env = &mut spec.parameters.get_or_insert_default().env;
        if can && env.iter().all(|e| e.key != STATEFUL) {
            env.push(VqlEnv { key: STATEFUL.into(), value: "Y".into(), ..Default::default() });
        }
    }
}

impl Server {
    /// Checks the caller's rights, compiles, and schedules on one client.
    /// Returns once the flow is durable.
    pub async fn collect(
        &self,
        org: &Org,
        principal: &str,
        policy: &Policy,
        mut request: ArtifactCollectorArgs,
    ) -> Result<ArtifactCollectorResponse, ServiceError> {
        if request.client_id.is_empty() {
            return Err(ServiceError::Invalid("no client is named".into()));
        }
        let on_server = request.client_id == "server";
        for spec in compiler::specs(&request) {
            let name = &spec.artifact;
            let artifact = org
                .repository
                .resolve(name, request.allow_custom_overrides)
                .ok_or_else(|| ServiceError::NotFound(format!("artifact {name}")))?;
            compiler::check_launch(policy, &artifact, on_server)
                .map_err(|e| ServiceError::Denied(e.to_string()))?;
        }
        if request.flow_id.starts_with("/S") {
            open_session(org, &mut request);
        }
        self.name_flow(org, &mut request).await?;
        self.compile_into(org, &mut request).await?;
        request.creator = principal.to_owned();
        let flow_id = self.schedule(org, principal, request.clone()).await?;
        if request.flow_id.is_empty() {
            request.flow_id.clone_from(&flow_id);
        }
        request.compiled_collector_args.clear();
        let details = json!({
            "client": request.client_id, "flow_id": flow_id, "artifacts": request.artifacts,
        });
        audit(self, org, principal, "ScheduleFlow", details).await;
        Ok(ArtifactCollectorResponse { flow_id, request: Some(request) })
    }

    /// A flow that is asked for by name must not be there: a request for one that is
    /// would take the place of its first. A further run must be of a flow that is there.
    async fn name_flow(
        &self,
        org: &Org,
        request: &mut ArtifactCollectorArgs,
    ) -> Result<(), ServiceError> {
        if request.flow_id.is_empty() {
            return Ok(());
        }
        let run = Session::parse(&request.flow_id);
        let there = self.flow(org, &request.client_id, &run.flow).await?.is_some();
        let text = match (run.child.is_empty(), there) {
            (true, false) => return Ok(()),
            (true, true) => format!(
                "flow_id: {0} is there already: start a new one, or a further run of it, \
                 {0}/<number>",
                run.flow
            ),
            (false, false) => format!("flow_id: `{}` is a run of no flow", run.id()),
            (false, true) if !run.is_numbered() => format!(
                "flow_id: `{}` is no run of a flow: runs are numbered, {}/<number>",
                run.id(),
                run.flow
            ),
            // What runs on the server ends with it, all runs of a flow together.
            (false, true) if request.client_id == "server" => {
                "flow_id: further runs of a collection on the server are not served: start a new \
                 one"
                .to_owned()
            }
            (false, true) => return Ok(()),
        };
        Err(ServiceError::Invalid(text))
    }

    /// Fills in `compiled_collector_args` and the limits that were left open. Tools that
    /// are not known yet are fetched.
    pub async fn compile_into(
        &self,
        org: &Org,
        request: &mut ArtifactCollectorArgs,
    ) -> Result<(), ServiceError> {
        let metadata = BTreeMap::new();
        let hide = |name: &str| self.hide(name);
        let mut fetched = Vec::new();
        let compiled = loop {
            let done = {
                let find = self.find_tool(org, &fetched);
                let options = self.compile_options(&hide, &metadata, &find);
                compiler::compile(&org.repository, request, &options)
            };
            match done {
                Err(e) => self.mend(org, &e, &mut fetched).await.ok_or(e)??,
                Ok(compiled) => break compiled,
            }
        };
        request.artifacts = compiler::specs(request).into_iter().map(|s| s.artifact).collect();
        compiled.limits.write_to(request);
        request.compiled_collector_args = compiled.requests;
        Ok(())
    }

    /// The name of a result set as clients see it.
    pub fn hide(&self, name: &str) -> String {
        self.names.hide(name).unwrap_or_else(|| name.to_owned())
    }

    /// How tools are found while something is compiled: those fetched for it, and those known.
    pub(super) fn find_tool<'a>(
        &'a self,
        org: &'a Org,
        fetched: &'a [(Tool, Tool)],
    ) -> impl Fn(&Tool) -> Option<Tool> + Send + Sync + 'a {
        move |definition| {
            let just = fetched.iter().find(|(d, _)| d == definition).map(|(_, t)| t.clone());
            just.or_else(|| self.ready_tool(org, definition))
        }
    }

    /// If something did not compile for want of a tool: fetches that, so that it may be tried
    /// once more. `None` for any other reason.
    pub(super) async fn mend(
        &self,
        org: &Org,
        error: &compiler::CompileError,
        fetched: &mut Vec<(Tool, Tool)>,
    ) -> Option<Result<(), ServiceError>> {
        let compiler::CompileError::ToolUnavailable { artifact, tool } = error else { return None };
        let done = self.prepare_tool(org, tool).await.map_err(|e| match e {
            ServiceError::Invalid(why) => ServiceError::Invalid(format!("{artifact}: {why}")),
            e => e,
        });
        Some(done.map(|ready| fetched.push(((**tool).clone(), ready))))
    }

    /// What the configuration says about compiling.
    pub fn compile_options<'a>(
        &self,
        hide: &'a (dyn Fn(&str) -> String + Send + Sync),
        server_metadata: &'a BTreeMap<String, String>,
        find_tool: &'a FindTool<'a>,
    ) -> CompileOptions<'a> {
        CompileOptions {
            find_tool: Some(find_tool),
            obfuscate: self.options.obfuscate.then_some(hide),
            server_metadata: Some(server_metadata),
            ..Default::default()
        }
    }
}
