//! Notebooks: making, changing, exporting and deleting them.

use serde_json::json;
use velociraptor_proto::json::{to_row, to_sparse_row};
use velociraptor_proto::proto::{Env, NotebookCellRequest, NotebookMetadata};
use vql::{ArgType, Args, Dict, Error, Level, Registry, Scope, Signature, Value};

use super::args::text_of;
use super::session::{Session, failed};
use super::store_path::StorePath;
use super::timelines;
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::exports::{Format, Request, What};
use crate::services::notebooks::desk::Who;
use crate::services::notebooks::{At, is_id};

/// What a notebook begins with unless it is said, as stock names it.
const DEFAULT: &str = "Notebooks.Default";

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("notebook_create", "Makes a notebook.")
        .arg("name", ArgType::String, "Its name.")
        .arg("description", ArgType::String, "What it is for.")
        .arg("collaborators", ArgType::Strings, "Who else may open it.")
        .arg("public", ArgType::Bool, "Everybody may open it.")
        .arg("artifacts", ArgType::Strings, "Artifacts whose cells it begins with.")
        .arg("env", ArgType::Dict, "Variables that its cells find.");
    r.function_async(sig, |scope, args| async move { create(&scope, &args).await });

    let sig = Signature::new("notebook_get", "A notebook with its cells.")
        .required("notebook_id", ArgType::String, "The notebook.")
        .arg("verbose", ArgType::Bool, "Accepted: cells are whole in any case.")
        .version(2);
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let id = args.string("notebook_id")?;
        let found = at(&session, &id).open(&session.principal).await.map_err(failed)?;
        whole(&session, found).await
    });

    let sig = Signature::new("notebook_update", "Changes a notebook; what is not given stays.")
        .required("notebook_id", ArgType::String, "The notebook.")
        .arg("description", ArgType::String, "What it is for.")
        .arg("collaborators", ArgType::Strings, "Who else may open it.")
        .arg("public", ArgType::Bool, "Everybody may open it.")
        .arg("attachment", ArgType::String, "The content of a file to attach.")
        .arg("attachment_filename", ArgType::String, "The name of that file.");
    r.function_async(sig, |scope, args| async move { update(&scope, &args).await });

    let sig = Signature::new("notebook_update_cell", "Adds, changes or removes a cell.")
        .required("notebook_id", ArgType::String, "The notebook.")
        .arg("cell_id", ArgType::String, "The cell; without it one is added at the end.")
        .arg("delete", ArgType::Bool, "Remove it.")
        .arg("type", ArgType::String, "vql, markdown …")
        .arg("input", ArgType::String, "What it says.")
        .arg("output", ArgType::String, "Accepted and ignored: it is worked out of the input.")
        .version(2);
    r.function_async(sig, |scope, args| async move { update_cell(&scope, &args).await });

    let sig = Signature::new("notebook_export", "Exports a notebook, and returns when it is done.")
        .required("notebook_id", ArgType::String, "The notebook.")
        .arg("filename", ArgType::String, "The name of the export.")
        .arg("type", ArgType::String, "html (default) or zip.");
    r.function_async(sig, |scope, args| async move {
        let html = match args.string("type")?.as_str() {
            "" | "html" => true,
            "zip" => false,
            other => return Err(Error::Arg(format!("type should be html or zip, not {other}"))),
        };
        export(&scope, &args, html).await
    });

    let sig = Signature::new("create_notebook_download", "Makes an archive of a notebook.")
        .required("notebook_id", ArgType::String, "The notebook.")
        .arg("filename", ArgType::String, "The name of the archive.")
        .version(2);
    r.function_async(sig, |scope, args| async move { export(&scope, &args, false).await });

    let sig = Signature::new("notebooks", "Notebooks that the caller may open, newest first.").arg(
        "all",
        ArgType::Bool,
        "Those of everybody.",
    );
    r.plugin_async(sig, |scope, args, emitter| async move {
        let all = args.bool("all")?;
        let right = if all { Permission::ServerAdmin } else { Permission::ReadResults };
        let session = Session::with(&scope, right)?;
        let (server, org) = (&session.server, &session.org);
        let user = (!all).then_some(session.principal.as_str());
        for mut n in server.notebooks.list_for(server, org, user).await.map_err(failed)? {
            let id = n.notebook_id.clone();
            n.available_downloads = Some(server.notebook_exports(org, &id).await.map_err(failed)?);
            n.available_uploads = Some(at(&session, &id).files(&n).await.map_err(failed)?);
            n.timelines = timelines::names(&session, &id).await?;
            n.context.get_or_insert_default();
            let row = to_row(&n).map_err(Error::failed)?;
            emitter.send(Value::from_json_plain(row)).await?;
        }
        Ok(())
    });

    let sig = Signature::new("notebook_delete", "Deletes a notebook with all its cells.")
        .required("notebook_id", ArgType::String, "The notebook.")
        .arg("really_do_it", ArgType::Bool, "Without it nothing is deleted, only named.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ServerAdmin)?;
        let id = args.string("notebook_id")?;
        if !is_id(&id) {
            return Err(Error::Arg(format!("{id} is no notebook")));
        }
        let really = args.bool("really_do_it")?;
        let (server, org) = (&session.server, &session.org);
        if really {
            let details = json!({ "notebook_id": id });
            audit(server, org, &session.principal, "notebook_delete", details).await;
        }
        let root = &server.tree.root;
        let gone = server.notebooks.purge(At { server, org, id: &id }, really).await;
        for file in gone.map_err(failed)? {
            let path =
                file.path.strip_prefix(&root.ds).or_else(|| file.path.strip_prefix(&root.fs));
            let path = path.unwrap_or(&file.path);
            let (kind, tree) =
                if path.ends_with(".db") { ("Notebook", "ds") } else { ("Filestore", "fs") };
            let mut row = Dict::new()
                .with("notebook_id", id.as_str())
                .with("type", kind)
                .with("vfs_path", format!("{tree}:{path}"));
            if let Some(error) = file.error {
                row.set("error", error);
            }
            emitter.send(row).await?;
        }
        Ok(())
    });
}

fn at<'a>(session: &'a Session, id: &'a str) -> At<'a> {
    At { server: &session.server, org: &session.org, id }
}

fn who(session: &Session) -> Who {
    Who {
        name: session.principal.clone(),
        org: session.org.clone(),
        policy: session.policy.clone(),
    }
}

/// A notebook as the functions give it: its cells whole, what is empty left out.
async fn whole(session: &Session, mut n: NotebookMetadata) -> Result<Value, Error> {
    let id = n.notebook_id.clone();
    for cell in &mut n.cell_metadata {
        let found = at(session, &id).cell(&cell.cell_id, &cell.current_version).await;
        *cell = found.map_err(failed)?;
    }
    sparse(session, n).await
}

async fn sparse(session: &Session, mut n: NotebookMetadata) -> Result<Value, Error> {
    n.timelines = timelines::names(session, &n.notebook_id).await?;
    Ok(Value::from_json_plain(to_sparse_row(&n).map_err(Error::failed)?))
}

async fn create(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::with(scope, Permission::CollectServer)?;
    let mut artifacts = args.strings("artifacts")?;
    let known = |name: &String| session.org.repository.get(name).is_some();
    if let Some(unknown) = artifacts.iter().find(|name| !known(name)) {
        return Err(Error::failed(format!("artifact {unknown} not found")));
    }
    if artifacts.is_empty() && known(&DEFAULT.to_owned()) {
        artifacts.push(DEFAULT.to_owned());
    }
    let env = args.dict("env")?;
    let env = env.iter().map(|(k, v)| Env { key: k.to_string(), value: text_of(v) });
    let asked = NotebookMetadata {
        name: args.string("name")?,
        description: args.string("description")?,
        collaborators: args.strings("collaborators")?,
        public: args.bool("public")?,
        env: env.collect(),
        artifacts,
        ..NotebookMetadata::default()
    };
    let desk = session.server.notebooks.desk().map_err(failed)?;
    let made = desk.create(who(&session), asked).await.map_err(failed)?;
    whole(&session, made).await
}

async fn update(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::with(scope, Permission::CollectServer)?;
    let id = args.string("notebook_id")?;
    let (server, user, place) = (&session.server, &session.principal, at(&session, &id));
    let mut n = place.open(user).await.map_err(failed)?;
    if args.has("description") {
        n.description = args.string("description")?;
    }
    if args.has("collaborators") {
        n.collaborators = args.strings("collaborators")?;
    }
    if args.has("public") {
        n.public = args.bool("public")?;
    }
    let mut now = server.notebooks.change(place, user, n).await.map_err(failed)?;
    if args.has("attachment") {
        let (name, data) = (args.string("attachment_filename")?, args.bytes("attachment")?);
        if name.is_empty() {
            return Err(Error::Arg("attachment needs attachment_filename".into()));
        }
        server
            .notebooks
            .attach(place, user, (&name, false), data.as_bytes())
            .await
            .map_err(failed)?;
        now = place.open(user).await.map_err(failed)?;
    }
    sparse(&session, now).await
}

async fn update_cell(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::with(scope, Permission::CollectServer)?;
    let (id, cell_id) = (args.string("notebook_id")?, args.string("cell_id")?);
    let (server, user, place) = (&session.server, &session.principal, at(&session, &id));
    if args.bool("delete")? {
        let mut n = place.open(user).await.map_err(failed)?;
        let before = n.cell_metadata.len();
        n.cell_metadata.retain(|c| c.cell_id != cell_id);
        if n.cell_metadata.len() == before {
            return Err(Error::failed(format!("cell {cell_id} not found")));
        }
        let now = server.notebooks.change(place, user, n).await.map_err(failed)?;
        return whole(&session, now).await;
    }
    if args.has("output") {
        let text = "notebook_update_cell: output is worked out of the input, not taken";
        scope.log(Level::Warn, text);
    }
    let mut asked = NotebookCellRequest {
        notebook_id: id.clone(),
        cell_id,
        r#type: args.string("type")?,
        input: args.string("input")?,
        sync: true,
        ..NotebookCellRequest::default()
    };
    if !asked.cell_id.is_empty() && !args.has("input") {
        // Only its type changes, or it is worked out again.
        asked.input = place.cell(&asked.cell_id, "").await.map_err(failed)?.input;
    }
    let desk = server.notebooks.desk().map_err(failed)?;
    let now = desk.write(who(&session), asked).await.map_err(failed)?;
    whole(&session, now).await
}

async fn export(scope: &Scope, args: &Args, html: bool) -> Result<Value, Error> {
    let session = Session::with(scope, Permission::PrepareResults)?;
    let (id, name) = (args.string("notebook_id")?, args.opt_string("filename")?);
    at(&session, &id).open(&session.principal).await.map_err(failed)?;
    let details = json!({ "notebook_id": id, "type": if html { "html" } else { "zip" } });
    audit(&session.server, &session.org, &session.principal, "ExportNotebook", details).await;
    let request = Request {
        what: What::Notebook { id, html, name: name.filter(|n| !n.is_empty()) },
        format: Format::Json,
        password: String::new(),
        expand_sparse: false,
    };
    let export = session.server.export(&session.org, request).await.map_err(failed)?;
    let at = StorePath(export.at.0.named_components());
    export.wait().await.map_err(failed)?;
    Ok(Value::object(at))
}

#[cfg(test)]
mod tests {
    use super::super::registry;
    use crate::api::{Api, ApiOptions};
    use crate::plugins::server::tests::{run_as, server};

    #[tokio::test(flavor = "multi_thread")]
    async fn notebooks_are_written_by_queries() {
        let dir = tempfile::tempdir().unwrap();
        let s = server(&dir).await;
        let make =
            "SELECT notebook_create(name='N', description='d', env=dict(V='v')) AS N FROM scope()";
        let (rows, log) = run_as(&s, "administrator", make).await;
        assert!(rows == r#"[{"N":null}]"# && log.contains("no cells are worked out"), "{log}");
        let api = Api::new(s.clone(), registry(), ApiOptions::default());
        let (_, log) = run_as(&s, "investigator", make).await;
        assert!(log.contains("COLLECT_SERVER"), "{log}");
        let work = "LET N <= notebook_create(name='N', description='d', env=dict(V='v'), collaborators='ann')
            LET Id <= N.notebook_id
            LET C <= notebook_update_cell(notebook_id=Id, type='vql', input='SELECT V, 1 AS A FROM scope()')
            LET Cell <= C.cell_metadata[-1].cell_id
            SELECT N.creator AS Who, N.collaborators AS With, len(list=N.cell_metadata) AS First,
                C.cell_metadata[-1].type AS T, C.cell_metadata[-1].calculating AS Busy,
                { SELECT * FROM source(notebook_id=Id, notebook_cell_id=Cell) } AS Rows,
                notebook_update_cell(notebook_id=Id, cell_id=Cell, input='SELECT 2 AS A FROM scope()')
                    .cell_metadata[-1].available_versions AS V2,
                { SELECT * FROM source(notebook_id=Id, notebook_cell_id=Cell) } AS Rows2,
                len(list=notebook_update_cell(notebook_id=Id, cell_id=Cell, delete=TRUE).cell_metadata) AS Left,
                notebook_update(notebook_id=Id, public=TRUE, attachment='abc',
                    attachment_filename='a.txt').description AS D,
                notebook_get(notebook_id=Id).public AS P,
                timeline_add(timeline='T', name='x', key='At', notebook_id=Id, query={
                    SELECT timestamp(epoch=5) AS At FROM scope() }).name AS TL,
                { SELECT name, public, timelines, available_uploads.files.name AS Files
                  FROM notebooks() } AS All,
                notebook_export(notebook_id=Id, filename='page').Components[-1] AS E,
                create_notebook_download(notebook_id=Id, filename='x.zip').Components[-1] AS Z
            FROM scope()";
        let (rows, log) = run_as(&s, "administrator", work).await;
        let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
        let row = &rows[0];
        for (name, want) in [
            ("Who", r#""mike""#),
            ("With", r#"["ann"]"#),
            ("First", "2"),
            ("T", r#""vql""#),
            ("Busy", "null"),
            ("Rows", r#"{"V":"v","A":1}"#),
            ("Rows2", "2"),
            ("Left", "2"),
            ("D", r#""d""#),
            ("P", "true"),
            ("TL", r#""T""#),
            ("All", r#"{"name":"N","public":true,"timelines":["T"],"Files":["a.txt"]}"#),
            ("E", r#""page.html""#),
            ("Z", r#""x.zip""#),
        ] {
            assert_eq!(row[name].to_string(), want, "{name}: {row} {log}");
        }
        assert_eq!(row["V2"].as_array().map(Vec::len), Some(2));
        let (rows, _) = run_as(&s, "reader", "SELECT * FROM notebooks(all=TRUE)").await;
        assert_eq!(rows, "[]");
        drop(api);
        let (_, log) = run_as(&s, "administrator", make).await;
        assert!(log.contains("any more"), "{log}");
    }
}
