//! Looking at and changing artifact definitions.

use velociraptor_proto::json::{to_row, to_sparse_row};
use velociraptor_proto::proto::{Artifact, ArtifactMetadata};
use vql::{ArgType, Error, Registry, Signature, Value};

use super::session::{Session, failed};
use crate::services::acl::Permission;
use crate::services::artifacts::{Marks, writer_permission};
use crate::services::repository::parse;

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("artifact_definitions", "Artifact definitions.")
        .arg("names", ArgType::Strings, "Only these.")
        .arg("deps", ArgType::Bool, "Also what these import.")
        .arg("sanitize", ArgType::Bool, "Leave the YAML text out.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let repository = &session.org.repository;
        let mut names = args.strings("names")?;
        if args.bool("deps")? {
            let of = |n: &String| repository.get(n).map(|a| a.imports.clone()).unwrap_or_default();
            let more: Vec<_> = names.iter().flat_map(of).collect();
            names.extend(more.into_iter().filter(|n| !n.is_empty()));
        }
        let all = match args.has("names") {
            true => names.iter().filter_map(|n| repository.get(n)).collect(),
            false => repository.all(),
        };
        let sanitize = args.bool("sanitize")?;
        for artifact in all {
            emitter.send(row(&artifact, sanitize)?).await?;
        }
        Ok(())
    });

    let sig = Signature::new("artifact_set", "Stores an artifact definition.")
        .required("definition", ArgType::String, "The YAML text.")
        .arg("prefix", ArgType::String, "What its name must begin with.")
        .arg("tags", ArgType::Strings, "Its tags.")
        .arg("repository", ArgType::String, "Accepted and ignored.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::of(&scope)?;
        let mut text = args.string("definition")?;
        let mut artifact = parse(&text).map_err(Error::failed)?;
        let prefix = args.string("prefix")?;
        if !artifact.name.starts_with(&prefix) {
            text = renamed(&text, &artifact.name, &prefix);
            artifact = parse(&text).map_err(Error::failed)?;
            if !artifact.name.starts_with(&prefix) {
                let name = &artifact.name;
                return Err(Error::failed(format!("the name {name} does not begin with {prefix}")));
            }
        }
        session.require(writer_permission(&artifact))?;
        let (server, org) = (&session.server, &session.org);
        let who = &session.principal;
        let mut set = server.set_artifact(org, who, &text).await.map_err(failed)?;
        if args.has("tags") {
            let marks = Marks { tags: Some(args.strings("tags")?), ..Marks::default() };
            server.mark_artifact(org, who, &set.name, marks).await.map_err(failed)?;
            set = org.repository.get(&set.name).unwrap_or(set);
        }
        row(&set, false)
    });

    let sig = Signature::new("artifact_set_metadata", "Marks an artifact definition.")
        .required("name", ArgType::String, "The artifact.")
        .arg("hidden", ArgType::Bool, "Not shown in lists.")
        .arg("basic", ArgType::Bool, "May be collected with COLLECT_BASIC alone.")
        .arg("tags", ArgType::Strings, "Its tags, instead of those it has.")
        .version(2);
    r.function_async(sig, |scope, args| async move {
        let session = Session::of(&scope)?;
        let name = args.string("name")?;
        let artifact = session.org.repository.get(&name);
        let artifact = artifact.ok_or_else(|| Error::failed(format!("{name} not found")))?;
        session.require(writer_permission(&artifact))?;
        let said = |name: &str| match args.has(name) {
            true => args.bool(name).map(Some),
            false => Ok(None),
        };
        let tags = if args.has("tags") { Some(args.strings("tags")?) } else { None };
        let marks = Marks { hidden: said("hidden")?, basic: said("basic")?, tags };
        let (server, org) = (&session.server, &session.org);
        let now = server.mark_artifact(org, &session.principal, &name, marks).await;
        let now = to_sparse_row(&now.map_err(failed)?).map_err(Error::failed)?;
        Ok(Value::from_json_plain(now))
    });

    let sig = Signature::new("artifact_delete", "Deletes a definition somebody wrote.").required(
        "name",
        ArgType::String,
        "The artifact.",
    );
    r.function_async(sig, |scope, args| async move {
        let session = Session::of(&scope)?;
        let name = args.string("name")?;
        let artifact = session.org.repository.get(&name);
        let artifact = artifact.ok_or_else(|| Error::failed(format!("{name} not found")))?;
        session.require(writer_permission(&artifact))?;
        let (server, org) = (&session.server, &session.org);
        server.delete_artifact(org, &session.principal, &name).await.map_err(failed)?;
        Ok(name.into())
    });
}

/// The definition with `prefix` before its name.
fn renamed(text: &str, name: &str, prefix: &str) -> String {
    let mut out = String::with_capacity(text.len() + prefix.len());
    let mut found = false;
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("name:") {
            Some(rest) if !found => {
                found = true;
                out += "name:";
                out += &rest.replacen(name, &format!("{prefix}{name}"), 1);
            }
            _ => out += line,
        }
    }
    out
}

/// Members in the order the stock program shows them.
const ORDER: [&str; 26] = [
    "name",
    "aliases",
    "description",
    "author",
    "reference",
    "references",
    "required_permissions",
    "implied_permissions",
    "impersonate",
    "resources",
    "tools",
    "precondition",
    "parameters",
    "type",
    "sources",
    "imports",
    "export",
    "reports",
    "column_types",
    "raw",
    "compiled",
    "built_in",
    "compiled_in",
    "is_alias",
    "is_inherited",
    "metadata",
];
const PARAMETER_ORDER: [&str; 9] = [
    "name",
    "default",
    "description",
    "type",
    "choices",
    "friendly_name",
    "validating_regex",
    "artifact_type",
    "sources",
];
const SOURCE_ORDER: [&str; 6] =
    ["name", "description", "precondition", "query", "queries", "notebook"];

/// Puts members in an order; others follow.
fn ordered(json: &mut serde_json::Value, order: &[&str]) {
    let Some(map) = json.as_object_mut() else { return };
    let mut rest = std::mem::take(map);
    for name in order {
        if let Some(value) = rest.shift_remove(*name) {
            map.insert((*name).to_owned(), value);
        }
    }
    map.extend(rest);
}

fn row(artifact: &Artifact, sanitize: bool) -> Result<Value, Error> {
    let mut json = to_row(artifact).map_err(Error::failed)?;
    if artifact.metadata.is_none() {
        json["metadata"] = to_row(&ArtifactMetadata::default()).map_err(Error::failed)?;
    }
    if sanitize && let Some(map) = json.as_object_mut() {
        map.shift_remove("raw");
    }
    for (list, order) in [("parameters", &PARAMETER_ORDER[..]), ("sources", &SOURCE_ORDER)] {
        let items = json.get_mut(list).and_then(serde_json::Value::as_array_mut);
        items.into_iter().flatten().for_each(|item| ordered(item, order));
    }
    ordered(&mut json, &ORDER);
    Ok(Value::from_json_plain(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_an_order_and_a_prefix_is_put_before_the_name() {
        let text = "name: A\nparameters:\n- name: P\n  choices: [x]\nsources:\n- query: SELECT 1 FROM scope()\n";
        let artifact = parse(text).unwrap();
        let json = row(&artifact, true).unwrap().to_json();
        let at = |name: &str| json.find(&format!("\"{name}\":")).unwrap();
        assert!(at("aliases") < at("description") && at("export") < at("column_types"), "{json}");
        assert!(at("choices") < at("friendly_name") && !json.contains("\"raw\""), "{json}");
        assert_eq!(renamed(text, "A", "Custom."), format!("name: Custom.{}", &text[6..]));
    }
}
