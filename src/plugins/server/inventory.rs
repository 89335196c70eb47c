//! The tools that artifacts need on endpoints: what is known of them, and what an administrator
//! says instead.

use std::io::Read;

use bytes::Bytes;
use velociraptor_proto::json::{to_row, to_sparse_row};
use velociraptor_proto::proto::Tool;
use vql::{ArgType, Args, Dict, Error, Registry, Scope, Signature, Value};

use super::session::{Session, failed};
use crate::plugins::common::blocking;
use crate::plugins::common::file::named;
use crate::services::acl::Permission;
use crate::services::compiler::tool_variables;
use crate::services::inventory::{Complete, Content};

/// Bytes of a file read at once.
const BLOCK: usize = 1 << 20;

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("inventory_add", "Says where clients get a tool, or uploads it.")
        .required("tool", ArgType::String, "Its name.")
        .arg("serve_locally", ArgType::Bool, "Clients fetch it from this server.")
        .arg("url", ArgType::String, "Where it is.")
        .arg("hash", ArgType::String, "Its SHA-256, in hex.")
        .arg("filename", ArgType::String, "Its file's name on endpoints.")
        .arg("version", ArgType::String, "Its version.")
        .arg("file", ArgType::Path, "A file to upload as the tool.")
        .arg("accessor", ArgType::String, "The accessor of that file.")
        .version(2);
    r.function_async(sig, |scope, args| async move { add(&scope, &args).await });

    let sig = Signature::new("inventory_get", "How clients get a tool; fetches it if need be.")
        .required("tool", ArgType::String, "Its name.")
        .arg("version", ArgType::String, "Its version.")
        .arg("probe", ArgType::Bool, "Tell what is known, and fetch nothing.")
        .version(2);
    r.function_async(sig, |scope, args| async move { get(&scope, &args).await });

    let sig = Signature::new("inventory", "The tools that artifacts need, and those added.");
    r.plugin_async(sig, |scope, _, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        for tool in session.server.tools(&session.org) {
            emitter.send(row(&tool)?).await?;
        }
        Ok(())
    });
}

/// A tool with all its members.
fn row(tool: &Tool) -> Result<Dict, Error> {
    let json = to_row(tool).map_err(Error::failed)?;
    Ok(Value::from_json_plain(json).into_row())
}

async fn add(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::with(scope, Permission::ServerAdmin)?;
    let mut tool = Tool {
        name: args.string("tool")?,
        serve_locally: args.bool("serve_locally")?,
        url: args.string("url")?,
        hash: args.string("hash")?,
        filename: args.string("filename")?,
        version: args.string("version")?,
        admin_override: true,
        ..Tool::default()
    };
    let (server, org, who) = (&session.server, &session.org, &session.principal);
    if !args.has("file") {
        server.set_tool(org, who, tool.clone()).await.map_err(failed)?;
        return Ok(row(&tool)?.into());
    }
    session.require(Permission::FilesystemRead)?;
    let content = uploaded(scope, args, &session).await?;
    let expected = tool.hash.to_ascii_lowercase();
    if !expected.is_empty() && expected != content.hash {
        let got = content.hash.clone();
        content.abandon(&server.env).await;
        return Err(Error::failed(format!(
            "the file of {} has the SHA-256 {got}, and {expected} is expected",
            tool.name
        )));
    }
    if tool.filename.is_empty() {
        tool.filename = named(scope, args, "file")?
            .1
            .components
            .last()
            .map(|c| c.to_text().into_owned())
            .unwrap_or_default();
    }
    let tool = server.upload_tool(org, who, tool, content).await.map_err(failed)?;
    Ok(row(&tool)?.into())
}

/// The file that is named, on its way into the datastore.
async fn uploaded(scope: &Scope, args: &Args, session: &Session) -> Result<Complete, Error> {
    let (accessor, path) = named(scope, args, "file")?;
    let shown = path.to_text();
    let opened = blocking(scope, move || accessor.open(&path)).await?;
    let mut file = opened.map_err(|e| Error::failed(format!("{shown}: {e}")))?;
    let mut content = Content::new(&session.server).await.map_err(failed)?;
    loop {
        let (back, read) = blocking(scope, move || {
            let mut block = Vec::new();
            let read = (&mut file).take(BLOCK as u64).read_to_end(&mut block);
            (file, read.map(|_| block))
        })
        .await?;
        file = back;
        let done = match read {
            Ok(block) if block.is_empty() => return content.finish().await.map_err(failed),
            Ok(block) => content.write(Bytes::from(block)).await.map_err(failed),
            Err(e) => Err(Error::failed(format!("{shown}: {e}"))),
        };
        if let Err(e) = done {
            content.abandon(&session.server.env).await;
            return Err(e);
        }
    }
}

async fn get(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::with(scope, Permission::ServerAdmin)?;
    let (name, version) = (args.string("tool")?, args.string("version")?);
    let (server, org) = (&session.server, &session.org);
    let none = || Error::failed(format!("tool {name} is not known: no definition names it"));
    let mut tool = server.tool(org, &name, &version).ok_or_else(none)?;
    if !args.bool("probe")? {
        let versions = std::mem::take(&mut tool.versions);
        tool = server.prepare_tool(org, &tool).await.map_err(failed)?;
        tool.versions = versions;
    }
    let mut found = Dict::new();
    for (name, value) in tool_variables(&name, &tool) {
        // A tool without a version has no variable for it.
        if !(name.ends_with("_VERSION") && value.is_empty()) {
            found.set(name, value);
        }
    }
    let definition = to_sparse_row(&tool).map_err(Error::failed)?;
    found.set("Definition", Value::from_json_plain(definition));
    Ok(found.into())
}
