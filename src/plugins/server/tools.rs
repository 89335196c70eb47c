//! `query` in other organisations and as other users, `help`, `verify`.

use std::sync::Arc;

use vql::syntax::CallKind;
use vql::{ArgType, Args, Dict, Error, Plugin, Registry, RowStream, Scope, Signature, Value};

use super::session::Session;
use crate::services::acl::Permission;
use crate::services::repository::{Origin, Repository};
use crate::services::verify::{Fault, Judge, stock};

pub(super) fn register(r: &mut Registry) {
    if let Some(inner) = r.plugin("query") {
        r.add_plugin(Arc::new(QueryElsewhere::around(inner)));
    }

    r.plugin_async(
        Signature::new("help", "What queries can call here."),
        |scope, _, emitter| async move {
            let registry = scope.registry().clone();
            let functions = registry.functions().map(|s| (CallKind::Function, s));
            let plugins = registry.plugins().map(|s| (CallKind::Plugin, s));
            for (kind, signature) in functions.chain(plugins) {
                emitter.send(help_row(kind, signature)).await?;
            }
            Ok(())
        },
    );

    let doc = "Lays out the queries of an artifact definition.";
    let sig = Signature::new("reformat", doc);
    let sig = sig.required("artifact", ArgType::String, "The YAML text.");
    r.function_sync(sig, |scope, args| {
        Session::of(scope)?;
        let text = args.string("artifact")?;
        let (text, error) = match laid_out(&text) {
            Ok(done) => (done.trim_matches('\n').to_owned(), String::new()),
            Err(error) => (text, error),
        };
        Ok(Dict::new().with("Artifact", text).with("Error", error).into())
    });

    let sig = Signature::new("verify", "What is wrong with an artifact definition.")
        .required("artifact", ArgType::String, "The YAML text, or a name.")
        .arg("repository", ArgType::String, "Accepted: names are looked up in this organisation.")
        .arg("disable_override", ArgType::Bool, "Accepted: nothing is overridden.")
        .version(2);
    r.function_sync(sig, |scope, args| {
        let session = Session::with(scope, Permission::ReadResults)?;
        verify(scope, &session, &args.string("artifact")?)
    });
}

/// Lays out the queries of a definition that stand in a literal block, a little further in than
/// their key; everything else stays as it is.
fn laid_out(text: &str) -> Result<String, String> {
    let mut out: Vec<String> = Vec::new();
    let lines: Vec<&str> = text.split('\n').collect();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        at += 1;
        out.push((*line).to_owned());
        let Some(column) = opens_query(line) else { continue };
        let deep = |l: &str| l.len() - l.trim_start_matches(' ').len();
        let mut block: Vec<&str> = Vec::new();
        for next in &lines[at..] {
            if !next.trim().is_empty() && deep(next) <= column {
                break;
            }
            block.push(next);
        }
        while block.last().is_some_and(|l| l.trim().is_empty()) {
            block.pop();
        }
        let Some(inner) = block.iter().find(|l| !l.trim().is_empty()).map(|l| deep(l)) else {
            continue;
        };
        let query: Vec<&str> = block.iter().map(|l| l.get(inner..).unwrap_or_default()).collect();
        let done = vql::syntax::one_per_line(&query.join("\n"))
            .map_err(|e| format!("While parsing VQL at line {}: {e}", at + e.line))?;
        let indent = " ".repeat(column + 2);
        out.extend(done.trim().split('\n').map(|l| format!("{indent}{l}")));
        at += block.len();
    }
    Ok(out.join("\n"))
}

/// Where the key stands of a line that begins the literal block of a query.
fn opens_query(line: &str) -> Option<usize> {
    let key = line.trim_start_matches([' ', '-']);
    let names = ["query:", "export:", "precondition:"];
    let block = names.iter().find_map(|name| key.strip_prefix(name))?.trim();
    ["|", "|-", "|+"].contains(&block).then_some(line.len() - key.len())
}

/// The language's `query`, which a caller with the right may also run in
/// another organisation or as somebody else.
struct QueryElsewhere {
    inner: Arc<dyn Plugin>,
    signature: Signature,
}

impl QueryElsewhere {
    fn around(inner: Arc<dyn Plugin>) -> QueryElsewhere {
        let signature = inner
            .signature()
            .clone()
            .arg("org_id", ArgType::String, "The organisation to run in.")
            .arg("runas", ArgType::String, "The user to run as; needs IMPERSONATION.");
        QueryElsewhere { inner, signature }
    }
}

/// The session a call asks for.
async fn elsewhere(scope: &Scope, args: &Args) -> Result<Option<Arc<Session>>, Error> {
    let (org, user) = (args.opt_string("org_id")?, args.opt_string("runas")?);
    if org.is_none() && user.is_none() {
        return Ok(None);
    }
    let session = Session::of(scope)?;
    let mut there = match org {
        Some(org) => session.in_org(&org).await?,
        None => (*session).clone(),
    };
    if let Some(user) = user.filter(|u| *u != session.principal) {
        // Where the query will run: who may take the place of others in their own
        // organisation may not do so elsewhere.
        there.require(Permission::Impersonation)?;
        let policy = session.server.users.policy(&there.org.id, &user).await;
        there.policy = policy.map_err(Error::failed)?;
        there.principal = user;
    }
    Ok(Some(Arc::new(there)))
}

impl Plugin for QueryElsewhere {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn rows(&self, scope: &Scope, args: Args) -> RowStream {
        let (inner, scope) = (self.inner.clone(), scope.clone());
        let rows = async move {
            match elsewhere(&scope, &args).await {
                Ok(None) => inner.rows(&scope, args),
                Ok(Some(session)) => inner.rows(&scope.with_extension(session), args),
                Err(e) => {
                    scope.error(format!("query: {e}"));
                    vql::stream::empty()
                }
            }
        };
        Box::pin(futures::FutureExt::flatten_stream(rows))
    }
}

fn help_row(kind: CallKind, signature: &Signature) -> Dict {
    let known = stock().find(kind, signature.name);
    let args = signature.args.iter().map(|a| {
        Dict::new()
            .with("name", a.name)
            .with("type", a.kind.name())
            .with("description", a.doc)
            .with("repeated", a.kind.is_repeated())
            .with("required", a.required)
    });
    let mut metadata = Dict::new();
    if let Some(permissions) = known.map(|k| k.permissions).filter(|p| !p.is_empty()) {
        metadata.set("permissions", permissions);
    }
    Dict::new()
        .with("name", signature.name)
        .with("description", signature.doc)
        .with("type", if kind == CallKind::Function { "Function" } else { "Plugin" })
        .with("args", args.collect::<Value>())
        .with("metadata", metadata)
        .with("version", signature.version)
        .with("free_form_args", signature.free_form)
}

fn verify(scope: &Scope, session: &Session, given: &str) -> Result<Value, Error> {
    let parent = session.org.repository.clone();
    let text = match parent.get(given.trim()) {
        Some(artifact) => artifact.raw.clone(),
        None => given.to_owned(),
    };
    let repository = Repository::child_of(parent);
    let _ = repository.add(&text, Origin::Folder);
    let agent = crate::plugins::local_registry();
    let accessors = super::files::accessor_names(scope);
    let judge = Judge {
        repository: &repository,
        agent: &agent,
        server: scope.registry(),
        accessors: &accessors,
    };
    let report = judge.file("", &text);
    let shown = |p: &crate::services::verify::Problem| match p.line {
        0 => p.message.clone(),
        line => format!("{line}:{}: {}", p.column, p.message),
    };
    let faults = |wanted: fn(Fault) -> bool| -> Value {
        report.problems.iter().filter(|p| wanted(p.fault)).map(shown).collect()
    };
    let permissions = repository.get(&report.artifact).map(|a| a.required_permissions.clone());
    Ok(Dict::new()
        .with("Artifact", report.artifact.as_str())
        .with("Permissions", permissions.unwrap_or_default())
        .with("Errors", faults(|_| true))
        .with("Warnings", Value::list(Vec::new()))
        .with("Missing", report.missing.iter().collect::<Value>())
        .into())
}

#[cfg(test)]
mod tests {
    use super::laid_out;

    #[test]
    fn queries_in_blocks_are_laid_out() {
        let text = "name: A # mine\nexport: |\n    LET X=1\nsources:\n- query: |\n        SELECT A,B\n\n         \
            FROM info()\n\n  description: x\n- query: SELECT 1 FROM scope()\n";
        let want = "name: A # mine\nexport: |\n  LET X = 1\nsources:\n- query: |\n    SELECT A,\n           B\n    \
            FROM info()\n\n  description: x\n- query: SELECT 1 FROM scope()\n";
        assert_eq!(laid_out(text).unwrap(), want);
        assert_eq!(laid_out(want).unwrap(), want);
        let error = laid_out("sources:\n- query: |\n    SELECT FROM\n").unwrap_err();
        assert!(error.starts_with("While parsing VQL at line 3: "), "{error}");
    }
}
