//! Hunts: starting, changing and looking at them.

use serde_json::json;
use velociraptor_proto::json::to_row;
use velociraptor_proto::proto::hunt::State;
use velociraptor_proto::proto::hunt_condition::UnionField;
use velociraptor_proto::proto::hunt_os_condition::Os;
use velociraptor_proto::proto::{
    ArtifactCollectorArgs, Hunt, HuntCondition, HuntLabelCondition, HuntMutation, HuntOsCondition,
};
use vql::{ArgType, Args, Dict, Emitter, Error, Registry, Scope, Signature, Time, Value};

use super::flows::specs;
use super::hunt_results::each;
use super::session::{Session, failed};
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::compiler::redact;

pub(super) fn register(r: &mut Registry) {
    let sig =
        Signature::new("hunt", "Collects artifacts from all clients that match, now and later.")
            .required("artifacts", ArgType::Strings, "What to collect.")
            .arg("description", ArgType::String, "What it is for.")
            .arg("tags", ArgType::Strings, "Tags of the hunt.")
            .arg("expires", ArgType::Time, "When it ends; default is a week from now.")
            .arg("spec", ArgType::Dict, "Parameters by artifact.")
            .arg("timeout", ArgType::Int, "Seconds each collection may take.")
            .arg("ops_per_sec", ArgType::Float, "Operations a second.")
            .arg("cpu_limit", ArgType::Float, "Percent of all cores.")
            .arg("iops_limit", ArgType::Float, "Input and output operations a second.")
            .arg("max_rows", ArgType::Int, "Rows at most, of each client.")
            .arg("max_bytes", ArgType::Int, "Uploaded bytes at most, of each client.")
            .arg("pause", ArgType::Bool, "Do not start it yet.")
            .arg("include_labels", ArgType::Strings, "Clients with one of these labels.")
            .arg("exclude_labels", ArgType::Strings, "Not clients with one of these labels.")
            .arg("os", ArgType::String, "Clients of this system: linux, windows or darwin.")
            .arg("org_id", ArgType::Strings, "In these organisations.");
    r.function_async(sig, |scope, args| async move { create(&scope, &args).await });

    let sig = Signature::new("hunt_add", "Adds a client, or a collection of it, to a hunt.")
        .required("client_id", ArgType::String, "The client.")
        .required("hunt_id", ArgType::String, "The hunt.")
        .arg("flow_id", ArgType::String, "A collection that is there already.")
        .arg("relaunch", ArgType::Bool, "Run it once more on this client.");
    r.function_async(sig, |scope, args| async move { add(&scope, &args).await });

    let sig = Signature::new("hunt_update", "Starts, stops or changes a hunt.")
        .required("hunt_id", ArgType::String, "The hunt.")
        .arg("stop", ArgType::Bool, "Stop it.")
        .arg("start", ArgType::Bool, "Start it.")
        .arg("description", ArgType::String, "What it is for.")
        .arg("expires", ArgType::Time, "When it ends.")
        .arg("add_labels", ArgType::Strings, "Tags to add.")
        .arg("del_labels", ArgType::Strings, "Tags to remove.");
    r.function_async(sig, |scope, args| async move { update(&scope, &args).await });

    let sig = Signature::new("hunts", "Hunts with their counts.")
        .arg("hunt_id", ArgType::String, "One hunt.")
        .arg("summary", ArgType::Bool, "Leave the compiled request out.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let whole = !args.bool("summary")?;
        let (server, org) = (&session.server, &session.org);
        let all = match args.opt_string("hunt_id")? {
            Some(id) => server.hunt(org, &id, whole).into_iter().collect(),
            None => server.hunts(org, whole, true),
        };
        for hunt in all {
            emitter.send(shown(&session, hunt).await?).await?;
        }
        Ok(())
    });

    let sig = Signature::new("hunt_info", "One hunt, by its id or that of a flow of it.").arg(
        "hunt_id",
        ArgType::String,
        "The hunt; default is the variable HuntId.",
    );
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let id = super::args::needed(&args, &scope, "hunt_id", "HuntId")?;
        let id = crate::services::hunts::hunt_of_flow(&id).unwrap_or(id);
        match session.server.hunt(&session.org, &id, true) {
            Some(hunt) => shown(&session, hunt).await,
            None => Ok(Value::Null),
        }
    });

    let sig = Signature::new("hunt_flows", "The collections of a hunt.")
        .arg("hunt_id", ArgType::String, "The hunt; default is the variable HuntId.")
        .arg("start_row", ArgType::Int, "Rows to leave out first.")
        .arg("limit", ArgType::Int, "Rows at most.")
        .arg("basic_info", ArgType::Bool, "Only say which collections there are.");
    r.plugin_async(sig, |scope, args, emitter| async move { flows(&scope, &args, &emitter).await });

    let sig = Signature::new("hunt_results", "The rows that a hunt collected.")
        .arg("hunt_id", ArgType::String, "The hunt; default is the variable HuntId.")
        .arg("artifact", ArgType::String, "The artifact, perhaps with /Source; default the first.")
        .arg("source", ArgType::String, "The source.")
        .arg("brief", ArgType::Bool, "Accepted and ignored.")
        .arg("orgs", ArgType::Strings, "From these organisations.");
    r.plugin_async(
        sig,
        |scope, args, emitter| async move { results(&scope, &args, &emitter).await },
    );

    let sig = Signature::new("hunt_delete", "Deletes a hunt and all that its collections brought.")
        .required("hunt_id", ArgType::String, "The hunt.")
        .arg("really_do_it", ArgType::Bool, "Without it files are only listed.")
        .arg("workers", ArgType::Int, "Accepted and ignored.")
        .arg("archive", ArgType::Bool, "Hide it instead.");
    r.plugin_async(
        sig,
        |scope, args, emitter| async move { delete(&scope, &args, &emitter).await },
    );
}

fn row_of(mut hunt: Hunt) -> Result<Value, Error> {
    if let Some(request) = &mut hunt.start_request {
        request.compiled_collector_args.iter_mut().for_each(redact);
    }
    Ok(Value::from_json_plain(to_row(&hunt).map_err(Error::failed)?))
}

/// A hunt as it is listed: with its archives, and every part of its condition.
async fn shown(session: &Session, mut hunt: Hunt) -> Result<Value, Error> {
    let exports = session.server.hunt_exports(&session.org, &hunt.hunt_id).await;
    hunt.stats.get_or_insert_default().available_downloads = Some(exports.map_err(failed)?);
    let condition = hunt.condition.take().unwrap_or_default();
    let (mut labels, mut os) = (HuntLabelCondition::default(), HuntOsCondition::default());
    match condition.union_field {
        Some(UnionField::Labels(l)) => labels = l,
        Some(UnionField::Os(o)) => os = o,
        None => {}
    }
    let row = |m| Value::from_json_plain(m);
    let condition = Dict::new()
        .with(
            "excluded_labels",
            row(to_row(&condition.excluded_labels.unwrap_or_default()).map_err(Error::failed)?),
        )
        .with("labels", row(to_row(&labels).map_err(Error::failed)?))
        .with("os", row(to_row(&os).map_err(Error::failed)?));
    let mut row = match row_of(hunt)? {
        Value::Dict(row) => (*row).clone(),
        other => return Ok(other),
    };
    row.update("condition", condition);
    Ok(row.into())
}

fn unsigned(args: &Args, name: &str) -> Result<u64, Error> {
    Ok(u64::try_from(args.int(name)?).unwrap_or(0))
}

/// A time in microseconds, which has to be later than now.
fn later(session: &Session, t: Time) -> Result<u64, Error> {
    let micros = u64::try_from(t.as_microsecond()).unwrap_or(0);
    if micros <= session.server.env.clock.micros() {
        return Err(Error::failed(format!("expiry time {t} in the past")));
    }
    Ok(micros)
}

fn condition(args: &Args) -> Result<Option<HuntCondition>, Error> {
    let (include, exclude) = (args.strings("include_labels")?, args.strings("exclude_labels")?);
    let os = args.string("os")?;
    let os = match os.as_str() {
        "" => None,
        "linux" => Some(Os::Linux),
        "windows" => Some(Os::Windows),
        "darwin" => Some(Os::Osx),
        other => {
            let text = format!("os should be linux, windows or darwin, not {other}");
            return Err(Error::Arg(text));
        }
    };
    let union_field = match os {
        Some(os) => Some(UnionField::Os(HuntOsCondition { os: os.into() })),
        None => (!include.is_empty())
            .then_some(UnionField::Labels(HuntLabelCondition { label: include })),
    };
    let excluded_labels = (!exclude.is_empty()).then_some(HuntLabelCondition { label: exclude });
    let any = union_field.is_some() || excluded_labels.is_some();
    Ok(any.then_some(HuntCondition { union_field, excluded_labels }))
}

async fn create(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::with(scope, Permission::StartHunt)?;
    let artifacts = args.strings("artifacts")?;
    if !args.string("os")?.is_empty() && !args.strings("include_labels")?.is_empty() {
        scope.error("hunt: os and include_labels are given: the labels are not looked at");
    }
    let expires = args.time("expires")?.map(|t| later(&session, t)).transpose()?;
    let specs = specs(&artifacts, &Dict::new(), &*args.dict("spec")?)?;
    let request = ArtifactCollectorArgs {
        artifacts,
        specs,
        timeout: unsigned(args, "timeout")?,
        max_rows: unsigned(args, "max_rows")?,
        max_upload_bytes: unsigned(args, "max_bytes")?,
        ops_per_second: args.float("ops_per_sec")? as f32,
        cpu_limit: args.float("cpu_limit")? as f32,
        iops_limit: args.float("iops_limit")? as f32,
        ..Default::default()
    };
    let orgs = args.strings("org_id")?;
    let mut hunt = Hunt {
        hunt_description: args.string("description")?,
        tags: args.strings("tags")?,
        expires: expires.unwrap_or(0),
        condition: condition(args)?,
        start_request: Some(request),
        ..Default::default()
    };
    hunt.set_state(if args.bool("pause")? { State::Paused } else { State::Running });
    let mut targets = Vec::new();
    if orgs.is_empty() {
        targets.push((*session).clone());
    } else {
        session.require(Permission::OrgAdmin)?;
        for id in &orgs {
            let there = session.in_org(id).await?;
            there.require(Permission::StartHunt)?;
            targets.push(there);
        }
    }
    let mut made = None;
    for t in &targets {
        let org_ids = if t.org.id.is_root() { orgs.clone() } else { vec![] };
        let one = Hunt { org_ids, ..hunt.clone() };
        let done = t.server.create_hunt(&t.org, &t.principal, &t.policy, one).await;
        let done = done.map_err(failed)?;
        hunt.hunt_id.clone_from(&done.hunt_id);
        made = Some(done);
    }
    let Some(made) = made else { return Ok(Value::Null) };
    let what = json!({ "hunt_id": made.hunt_id, "orgs": orgs });
    audit(&session.server, &session.org, &session.principal, "CreateHunt", what).await;
    let id = made.hunt_id.clone();
    Ok(Dict::new().with("HuntId", id).with("Request", row_of(made)?).into())
}

async fn add(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::with(scope, Permission::StartHunt)?;
    let (client, hunt) = (args.string("client_id")?, args.string("hunt_id")?);
    if client == "server" {
        return Err(Error::failed("The server can not participate in a hunt"));
    }
    let (server, org, who) = (&session.server, &session.org, &session.principal);
    let flow = args.opt_string("flow_id")?.filter(|f| !f.is_empty());
    let answer = if args.bool("relaunch")? {
        server.relaunch_hunt(org, who, &hunt, &client).await.map_err(failed)?
    } else if let Some(flow) = &flow {
        server.add_to_hunt(org, who, &hunt, &client, flow).await.map_err(failed)?;
        client.clone()
    } else {
        server.add_client_to_hunt(org, &hunt, &client).await.map_err(failed)?;
        client.clone()
    };
    let what = json!({ "hunt_id": hunt, "client": client, "flow_id": flow });
    audit(server, org, who, "HuntAdd", what).await;
    Ok(answer.into())
}

async fn update(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::with(scope, Permission::StartHunt)?;
    let hunt_id = args.string("hunt_id")?;
    let (server, org) = (&session.server, &session.org);
    let hunt = server.hunt(org, &hunt_id, false);
    let hunt = hunt.ok_or_else(|| Error::failed(format!("hunt {hunt_id} not found")))?;
    let mut m = HuntMutation {
        hunt_id: hunt_id.clone(),
        description: args.string("description")?,
        ..Default::default()
    };
    if args.bool("start")? {
        m.set_state(State::Running);
    } else if args.bool("stop")? {
        m.set_state(State::Stopped);
    }
    if let Some(t) = args.time("expires")? {
        m.expires = later(&session, t)?;
    }
    let (more, less) = (args.strings("add_labels")?, args.strings("del_labels")?);
    let tagged = !more.is_empty() || !less.is_empty();
    let mut tags = hunt.tags;
    if tagged {
        let is = |list: &[String], t: &str| list.iter().any(|x| x.eq_ignore_ascii_case(t));
        for t in more {
            if !is(&tags, &t) {
                tags.push(t);
            }
        }
        tags.retain(|t| !is(&less, t));
        tags.sort();
        m.tags = if tags.is_empty() { vec!["-".into()] } else { tags.clone() };
    }
    server.modify_hunt(org, &session.principal, &m).await.map_err(failed)?;
    let what = json!({ "hunt_id": hunt_id, "state": m.state().as_str_name(), "tags": m.tags });
    audit(server, org, &session.principal, "ModifyHunt", what).await;
    match tagged {
        true => Ok(Value::from(tags.into_iter().map(Value::from).collect::<Vec<_>>())),
        false => Ok(hunt_id.into()),
    }
}

async fn flows(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let session = Session::with(scope, Permission::ReadResults)?;
    let (server, org) = (&session.server, &session.org);
    let id = super::args::needed(args, scope, "hunt_id", "HuntId")?;
    let basic = args.bool("basic_info")?;
    let skip = usize::try_from(args.int("start_row")?).unwrap_or(0);
    let limit = args.opt_int("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let members = server.hunt_members(org, &id).map_err(failed)?;
    for (client, m) in members.into_iter().skip(skip).take(limit.unwrap_or(usize::MAX)) {
        let flow = match basic {
            true => Value::from(
                Dict::new().with("client_id", client.clone()).with("session_id", m.flow.clone()),
            ),
            false => match server.flow(org, &client, &m.flow).await.map_err(failed)? {
                Some(mut context) => {
                    if let Some(r) = &mut context.request {
                        r.compiled_collector_args.clear();
                    }
                    Value::from_json_plain(to_row(&context).map_err(Error::failed)?)
                }
                None => Value::Null,
            },
        };
        let row = Dict::new()
            .with("HuntId", id.clone())
            .with("ClientId", client)
            .with("FlowId", m.flow)
            .with("Flow", flow);
        emitter.send(row).await?;
    }
    Ok(())
}

pub(super) async fn results(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let session = Session::with(scope, Permission::ReadResults)?;
    let id = super::args::needed(args, scope, "hunt_id", "HuntId")?;
    let mut artifact = args.string("artifact")?;
    let source = args.string("source")?;
    if !source.is_empty() && !artifact.is_empty() && !artifact.contains('/') {
        artifact = format!("{artifact}/{source}");
    }
    let orgs = args.strings("orgs")?;
    let mut places = Vec::new();
    for org in &orgs {
        let there = session.in_org(org).await?;
        there.require(Permission::ReadResults)?;
        places.push(there);
    }
    if orgs.is_empty() {
        places.push((*session).clone());
    }
    for s in places {
        let out = each(&s.server, &s.org, &id, &artifact, |row| async move {
            let row = Value::from_json(serde_json::Value::Object(row));
            Ok(emitter.send(row).await.is_ok())
        });
        out.await.map_err(failed)?;
    }
    Ok(())
}

async fn delete(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let session = Session::with(scope, Permission::ServerAdmin)?;
    let (server, org, who) = (&session.server, &session.org, &session.principal);
    let id = args.string("hunt_id")?;
    let hunt = server.hunt(org, &id, false);
    let hunt = hunt.ok_or_else(|| Error::failed(format!("hunt {id} not found")))?;
    let (really, archive) = (args.bool("really_do_it")?, args.bool("archive")?);
    if really || archive {
        let details = json!({ "hunt_id": id, "details": to_row(&hunt).map_err(Error::failed)? });
        audit(server, org, who, "hunt_delete", details).await;
    }
    if archive {
        let mut m = HuntMutation { hunt_id: id, ..Default::default() };
        m.set_state(State::Archived);
        return server.modify_hunt(org, who, &m).await.map_err(failed);
    }
    if !really {
        for (client, member) in server.hunt_members(org, &id).map_err(failed)? {
            let files = server.files_of_flow(org, &client, &member.flow).await;
            super::deletion::flow_rows(emitter, files.map_err(failed)?).await?;
        }
        return Ok(());
    }
    let (deletion, members) = server.begin_hunt_deletion(org, &id, who).await.map_err(failed)?;
    for (client, member) in members {
        let removed = server.delete_hunt_flow(&deletion, &client, &member.flow, who).await;
        super::deletion::flow_rows(emitter, removed.map_err(failed)?).await?;
    }
    server.finish_hunt(deletion, who).await.map_err(failed)
}
