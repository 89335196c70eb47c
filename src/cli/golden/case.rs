//! One recorded case: its queries in one scope on a server, and what they give as text.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use serde::Deserialize;
use velociraptor_proto::proto::VqlEnv;
use vql::{ArgType, Dict, Limits, Scope, ScopeBuilder, Value};

use super::upload::Container;
use crate::plugins;
use crate::plugins::common::Uploader;
use crate::plugins::server::Session;

/// Rows of one part of the output.
const PART: usize = 1000;
/// Longest time for one case.
const CASE: Duration = Duration::from_secs(30);
/// The time `now()` tells: cases must give the same at any time.
const FROZEN: (i64, i32) = (1_590_938_885, 10);

/// The input of a case.
#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Case {
    queries: Vec<String>,
    #[serde(default)]
    parameters: indexmap::IndexMap<String, String>,
    #[serde(default)]
    transforms: Vec<Transform>,
    /// Accepted: the server of cases has the defaults.
    #[serde(default, rename = "ConfigMerges")]
    _config_merges: serde::de::IgnoredAny,
    /// See the one before.
    #[serde(default, rename = "ConfigPatches")]
    _config_patches: serde::de::IgnoredAny,
}

/// A replacement in the output.
#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
struct Transform {
    /// Accepted; replacements are made everywhere.
    scope: String,
    search: String,
    regexp: String,
    replace: String,
}

/// What a case gives, as text.
pub(super) async fn case(
    session: &Arc<Session>,
    variables: &[VqlEnv],
    config: &Dict,
    input: &str,
) -> anyhow::Result<String> {
    let case: Case = yaml_serde::from_str(input).context("the input is not a case")?;
    let lines = Lines::default();
    let scope = scope(session, variables, &case, &lines);
    scope.set("config", config.clone());
    let mut out = String::new();
    let work = async {
        let comments = comments(input);
        for (i, query) in case.queries.iter().enumerate() {
            out += comments.get(i).map_or("", String::as_str);
            lines.add(&format!("Running query {}", query.trim()));
            let statements = vql::parse(query).map_err(|e| anyhow::anyhow!("{query}\n{e}"))?;
            let _ = writeln!(out, "Query: {query}");
            let mut rows = vql::eval_shown(statements, &scope, Limits::default());
            let mut part = Vec::new();
            let mut parts = 0;
            while let Some(row) = rows.next().await {
                part.push(row);
                if part.len() == PART {
                    output(&mut out, &mut part);
                    parts += 1;
                }
            }
            if parts == 0 || !part.is_empty() {
                output(&mut out, &mut part);
            }
        }
        anyhow::Ok(())
    };
    let done = tokio::time::timeout(CASE, work).await;
    scope.close();
    match done {
        Ok(done) => done?,
        // What there is by then is compared.
        Err(_) => out += &format!("took longer than {} s\n", CASE.as_secs()),
    }
    for t in &case.transforms {
        if !t.regexp.is_empty() {
            out = regex::Regex::new(&t.regexp)?.replace_all(&out, t.replace.as_str()).into_owned();
        } else if !t.search.is_empty() {
            out = out.replace(&t.search, &t.replace);
        }
    }
    Ok(out)
}

/// The comment before each query, with a line end; empty without one.
fn comments(input: &str) -> Vec<String> {
    let (mut all, mut pending) = (Vec::new(), String::new());
    let (mut inside, mut indent) = (false, None);
    for line in input.lines() {
        let text = line.trim_start();
        let at = line.len() - text.len();
        if !inside {
            inside = line.starts_with("Queries:");
        } else if text.starts_with('#') {
            pending += text.trim_end();
            pending.push('\n');
        } else if text.starts_with("- ") && indent.is_none_or(|i| i == at) {
            indent = Some(at);
            all.push(std::mem::take(&mut pending));
        } else if !text.is_empty() {
            inside = at > 0;
            pending.clear();
        }
    }
    all
}

fn output(out: &mut String, part: &mut Vec<Value>) {
    let rows = Value::list(std::mem::take(part));
    let _ = writeln!(out, "Output: {}\n", rows.to_json_indented());
}

/// The scope all queries of a case share.
fn scope(session: &Arc<Session>, variables: &[VqlEnv], case: &Case, lines: &Lines) -> Scope {
    let frozen = vql::Time::new(FROZEN.0, FROZEN.1).unwrap_or(vql::Time::UNIX_EPOCH);
    let mut registry = (*plugins::server::registry()).clone();
    super::mock::register(&mut registry);
    let read = lines.clone();
    let doc = "The lines logged since it was last asked.";
    registry.plugin_async(vql::Signature::new("test_read_logs", doc), move |_, _, emitter| {
        let lines = read.take();
        async move {
            for line in lines {
                emitter.send(Dict::new().with("Log", line)).await?;
            }
            Ok(())
        }
    });
    let clock = Arc::new(std::sync::Mutex::new(frozen));
    let set = clock.clone();
    let doc = "Sets the time that the case is told.";
    let mock = vql::Signature::new("mock_time", doc).required("now", ArgType::Int, "Its seconds.");
    registry.function_sync(mock, move |_, args| {
        let now = vql::Time::from_second(args.int("now")?).map_err(vql::Error::failed)?;
        *set.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = now;
        Ok(true.into())
    });
    let scope = ScopeBuilder::new(Arc::new(registry))
        .log(lines.clone())
        .clock(move || *clock.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
        .extension(Arc::new(session.server.env.clone()))
        .extension(Arc::new(plugins::server::files::of_host(session)))
        .extension(Arc::new(Uploader(Arc::new(Container))))
        .extension(session.clone())
        .build();
    scope.set("Artifact", Value::object(super::mock::Named("Artifact".into())));
    scope.set("_SessionId", "F.Golden");
    // Where a container of what was uploaded would be.
    scope.set("GoldenOutput", "");
    for variable in variables {
        scope.set(variable.key.clone(), variable.value.clone());
    }
    for (name, value) in &case.parameters {
        scope.set(name.clone(), value.clone());
    }
    scope
}

/// What a case logged.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<String>>>);

impl vql::LogSink for Lines {
    fn log(&self, level: vql::Level, text: &str) {
        tracing::debug!("{}: {text}", level.name());
        match level {
            vql::Level::Default => self.add(text),
            level => self.add(&format!("{}:{text}", level.name())),
        }
    }

    /// What a case logs itself has its level in any case.
    fn said(&self, level: vql::Level, text: &str) {
        tracing::debug!("{}: {text}", level.name());
        self.add(&format!("{}:{text}", level.name()));
    }
}

impl Lines {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn add(&self, text: &str) {
        self.lock().push(format!("Velociraptor: {text}\n"));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lock())
    }
}
