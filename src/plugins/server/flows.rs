//! Collections: starting, stopping and looking at them.

use velociraptor_proto::json::to_row;
use velociraptor_proto::proto::{
    ArtifactCollectorArgs, ArtifactCollectorContext, ArtifactParameters, ArtifactSpec, VqlEnv,
};
use vql::{ArgType, Args, Dict, Error, Level, Registry, Scope, Signature, Value};

use super::args::{needed, text_of};
use super::session::{Session, failed};
use crate::services::ServiceError;
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::compiler::redact;

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("flows", "Collections of a client.")
        .arg("client_id", ArgType::String, "The client; default is the variable ClientId.")
        .arg("flow_id", ArgType::String, "One collection.")
        .arg("summary", ArgType::Bool, "Leave the compiled request out.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let client = needed(&args, &scope, "client_id", "ClientId")?;
        let ids = match args.opt_string("flow_id")? {
            Some(id) => vec![id],
            None => session.server.flow_ids(&session.org, &client).await.map_err(failed)?,
        };
        let summary = args.bool("summary")?;
        for id in ids {
            let found = session.server.flow(&session.org, &client, &id).await.map_err(failed)?;
            if let Some(context) = found {
                emitter.send(flow_row(context, summary)?).await?;
            }
        }
        Ok(())
    });

    let sig = Signature::new("get_flow", "One collection of a client.")
        .required("client_id", ArgType::String, "The client.")
        .arg("flow_id", ArgType::String, "The collection; default is the variable FlowId.")
        .arg("summary", ArgType::Bool, "Leave the compiled request out.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let flow = needed(&args, &scope, "flow_id", "FlowId")?;
        let client = args.string("client_id")?;
        let found = session.server.flow(&session.org, &client, &flow).await.map_err(failed)?;
        found.map_or(Ok(Value::Null), |c| flow_row(c, args.bool("summary")?))
    });

    let sig = Signature::new("collect_client", "Collects artifacts from a client.")
        .required("client_id", ArgType::String, "The client.")
        .required("artifacts", ArgType::Strings, "What to collect.")
        .arg("flow_id", ArgType::String, "The id to use for the collection.")
        .arg("env", ArgType::Dict, "Parameters of all the artifacts.")
        .arg("spec", ArgType::Dict, "Parameters by artifact.")
        .arg("timeout", ArgType::Int, "Seconds.")
        .arg("ops_per_sec", ArgType::Float, "Operations a second.")
        .arg("cpu_limit", ArgType::Float, "Percent of all cores.")
        .arg("iops_limit", ArgType::Float, "Input and output operations a second.")
        .arg("progress_timeout", ArgType::Float, "Seconds without progress.")
        .arg("max_rows", ArgType::Int, "Rows at most.")
        .arg("max_bytes", ArgType::Int, "Uploaded bytes at most.")
        .arg("urgent", ArgType::Bool, "Before other collections.")
        .arg("org_id", ArgType::String, "The client's organisation.");
    r.function_async(sig, |scope, args| async move { collect(&scope, &args).await });

    let sig = Signature::new("cancel_flow", "Stops a collection.")
        .required("client_id", ArgType::String, "The client.")
        .arg("flow_id", ArgType::String, "The collection; default is the variable FlowId.");
    r.function_async(sig, |scope, args| async move {
        let (client, flow) =
            (args.string("client_id")?, needed(&args, &scope, "flow_id", "FlowId")?);
        let on_server = client == "server";
        let needed = if on_server { Permission::CollectServer } else { Permission::CollectClient };
        let session = Session::with(&scope, needed)?;
        let (server, org) = (&session.server, &session.org);
        let answer = Dict::new().with("flow_id", flow.as_str());
        match server.cancel(org, &client, &flow, &session.principal).await {
            // Of what is not there nothing runs.
            Err(ServiceError::NotFound(what)) => {
                scope.log(Level::Warn, format!("cancel_flow: {what} not found"));
                return Ok(answer.into());
            }
            done => done.map_err(failed)?,
        }
        let details = serde_json::json!({ "client": client, "flow_id": flow });
        audit(server, org, &session.principal, "CancelFlow", details).await;
        Ok(answer.into())
    });
}

fn flow_row(mut context: ArtifactCollectorContext, summary: bool) -> Result<Value, Error> {
    if let Some(request) = &mut context.request {
        request.compiled_collector_args.iter_mut().for_each(redact);
        if summary {
            request.compiled_collector_args.clear();
        }
    }
    let row = to_row(&context).map_err(Error::failed)?;
    Ok(Value::from_json_plain(row))
}

async fn collect(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::of(scope)?;
    let session = match args.opt_string("org_id")? {
        Some(org) => session.in_org(&org).await?,
        None => (*session).clone(),
    };
    let artifacts = args.strings("artifacts")?;
    let specs = specs(&artifacts, &*args.dict("env")?, &*args.dict("spec")?)?;
    let unsigned = |name: &str| Ok::<u64, Error>(u64::try_from(args.int(name)?).unwrap_or(0));
    let request = ArtifactCollectorArgs {
        client_id: args.string("client_id")?,
        flow_id: args.string("flow_id")?,
        artifacts,
        specs,
        timeout: unsigned("timeout")?,
        max_rows: unsigned("max_rows")?,
        max_upload_bytes: unsigned("max_bytes")?,
        ops_per_second: args.float("ops_per_sec")? as f32,
        cpu_limit: args.float("cpu_limit")? as f32,
        iops_limit: args.float("iops_limit")? as f32,
        progress_timeout: args.float("progress_timeout")? as f32,
        urgent: args.bool("urgent")?,
        ..Default::default()
    };
    let started = session
        .server
        .collect(&session.org, &session.principal, &session.policy, request)
        .await
        .map_err(failed)?;
    let row = to_row(&started).map_err(Error::failed)?;
    Ok(Value::from_json_plain(row))
}

/// One spec for each artifact: what `env` says for all, then what `spec` says
/// for it.
pub(super) fn specs(
    artifacts: &[String],
    env: &Dict,
    spec: &Dict,
) -> Result<Vec<ArtifactSpec>, Error> {
    for name in spec.keys() {
        if !artifacts.iter().any(|a| a == name.as_str()) {
            return Err(Error::Arg(format!("spec names {name}, which is not collected")));
        }
    }
    let one = |artifact: &String| {
        let mut all = env.clone();
        match spec.get(artifact) {
            None | Some(Value::Null) => {}
            Some(Value::Dict(own)) => {
                own.iter().for_each(|(k, v)| all.update(k.clone(), v.clone()));
            }
            Some(_) => return Err(Error::Arg(format!("spec of {artifact} should be a dict"))),
        }
        let env = all.iter().map(|(k, v)| VqlEnv {
            key: k.to_string(),
            value: text_of(v),
            comment: String::new(),
        });
        let parameters = Some(ArtifactParameters { env: env.collect() });
        Ok(ArtifactSpec { artifact: artifact.clone(), parameters, ..Default::default() })
    };
    artifacts.iter().map(one).collect()
}
