//! `golden`: runs recorded queries and compares what they give.
//!
//! A case is `X.in.yaml` with what it gave before in `X.out.yaml`. Format of the
//! input: `Queries` (texts of one statement each), `Parameters` (variables),
//! `Transforms` (replacements in the output). Format of the output: for each
//! query its text and its rows.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use futures::StreamExt;
use serde::Deserialize;
use velociraptor_proto::proto::VqlEnv;
use vql::{ArgType, Dict, Limits, Scope, ScopeBuilder, Value};

use super::golden_upload::Container;
use super::{Context, Globals, print};
use crate::env::{Env, fs};
use crate::plugins;
use crate::plugins::common::Uploader;
use crate::plugins::server::Session;
use crate::services::acl::Policy;
use crate::services::{Options, Server, repository};
use crate::store::StoreRoot;

/// Rows of one part of the output.
const PART: usize = 1000;
/// Longest time for one case.
const CASE: Duration = Duration::from_secs(30);
/// Largest file of a case, in bytes.
const MAX_FILE: usize = 64 << 20;
/// The time `now()` tells: cases must give the same at any time.
const FROZEN: (i64, i32) = (1_590_938_885, 10);
/// Lines shown of each side of a difference.
const SHOWN: usize = 8;

/// Arguments of `golden`.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Cases run on this host, on a server of their own with an empty datastore; \
    now() stands still. The variable srcDir is what --env says, or the current directory; config is the Client section of \
    the file that --config names.\n\nExit status: 0 when all cases \
    passed, 1 otherwise."
)]
pub struct GoldenArgs {
    /// The directory of the cases.
    dir: String,
    /// Only cases whose file name begins with this.
    #[arg(long, default_value = "")]
    filter: String,
    /// A variable of all cases; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Write what the cases give now over what they gave before.
    #[arg(long)]
    record: bool,
    /// Accepted for compatibility: nothing is written without --record.
    #[arg(long, hide = true)]
    testonly: bool,
}

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

/// Runs the command.
pub async fn run(args: GoldenArgs, ctx: &Context) -> anyhow::Result<()> {
    let dir = crate::config::load::absolute(&args.dir)?;
    let mut env = super::query::variables(&args.env)?;
    if !env.iter().any(|e| e.key == "srcDir") {
        let here = crate::config::load::absolute(".")?;
        env.push(VqlEnv { key: "srcDir".into(), value: here, comment: String::new() });
    }
    // Of the configuration cases see the client's section only.
    let global = Globals { config: None, ..ctx.global.clone() };
    let alone = Context { env: ctx.env.clone(), global };
    let store = TempStore::new(&ctx.env)?;
    let server = server(&alone, &store).await?;
    let config = client_config(ctx).await?;
    let names: Vec<String> = (ctx.env.fs.list(&dir).await?.into_iter())
        .filter(|e| !e.is_dir && e.name.starts_with(&args.filter))
        .filter_map(|e| e.name.strip_suffix(".in.yaml").map(str::to_owned))
        .collect();
    anyhow::ensure!(!names.is_empty(), "there is no case {}*.in.yaml in {dir}", args.filter);
    let (mut passed, mut failed) = (0, 0);
    for name in names {
        let path = |end: &str| format!("{}/{name}.{end}.yaml", dir.trim_end_matches('/'));
        let input = text(&ctx.env, &path("in")).await?;
        let given = match case(&server, &env, &config, &input).await {
            Ok(given) => given,
            Err(e) => {
                failed += 1;
                print(&format!("{name}: failed: {e:#}\n"))?;
                continue;
            }
        };
        if args.record {
            write(&ctx.env, &path("out"), &given).await?;
        }
        let expected = match text(&ctx.env, &path("out")).await {
            Ok(text) => text,
            Err(e) => {
                failed += 1;
                print(&format!("{name}: failed: {e:#}\n"))?;
                continue;
            }
        };
        match difference(&expected, &given) {
            None => {
                passed += 1;
                print(&format!("{name}: passed\n"))?;
            }
            Some(shown) => {
                failed += 1;
                print(&format!("{name}: failed\n{shown}"))?;
            }
        }
    }
    print(&format!("{passed} passed, {failed} failed\n"))?;
    anyhow::ensure!(failed == 0, "{failed} cases failed");
    Ok(())
}

/// What queries see as `config`: the client's section of the configuration, if one is given.
async fn client_config(ctx: &Context) -> anyhow::Result<Dict> {
    let Some(path) = &ctx.global.config else { return Ok(Dict::new()) };
    let text = text(&ctx.env, path).await?;
    let all: serde_json::Value =
        yaml_serde::from_str(&text).with_context(|| format!("{path} is no configuration"))?;
    let client = all.get("Client").cloned().unwrap_or_default();
    Ok(Value::from_json_plain(client).into_row())
}

/// The empty datastore of the cases; it goes with them.
struct TempStore(std::path::PathBuf);

impl TempStore {
    fn new(env: &Env) -> anyhow::Result<TempStore> {
        let mut name = [0; 8];
        env.entropy.fill(&mut name);
        let dir = std::env::temp_dir().join(format!("golden.{}", hex::encode(name)));
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(TempStore(dir))
    }
}

impl Drop for TempStore {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The server the queries of cases run on: with all definitions, and nothing else.
async fn server(ctx: &Context, store: &TempStore) -> anyhow::Result<Arc<Session>> {
    let root = StoreRoot::single(store.0.to_str().context("the temporary directory is no text")?);
    let options = Options { obfuscate: false, ..Options::default() };
    let server = Server::open(ctx.env.clone(), root, options).await?;
    for folder in &ctx.global.definitions {
        let path = crate::config::load::absolute(folder)?;
        for s in repository::load::folder(&ctx.env, &server.repository, &path).await? {
            eprintln!("{}: {}", s.path, s.reason);
        }
    }
    let org = server.root();
    let principal = "VelociraptorServer".to_owned();
    Ok(Arc::new(Session { server, org, principal, policy: Policy::super_user() }))
}

async fn text(env: &Env, path: &str) -> anyhow::Result<String> {
    let bytes = fs::read_limited(&*env.fs, path, MAX_FILE).await?;
    String::from_utf8(bytes).with_context(|| format!("{path} is not UTF-8"))
}

async fn write(env: &Env, path: &str, text: &str) -> anyhow::Result<()> {
    let new = format!("{path}.new");
    let _ = env.fs.remove(&new).await;
    fs::create_synced(&*env.fs, &new, text.as_bytes()).await?;
    Ok(env.fs.rename(&new, path).await?)
}

/// What a case gives, as text.
async fn case(
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
    super::golden_mock::register(&mut registry);
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
    scope.set("Artifact", Value::object(super::golden_mock::Named("Artifact".into())));
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

/// Where two texts differ; `None` when they do not, but for white space at
/// both ends.
fn difference(expected: &str, given: &str) -> Option<String> {
    let (a, b): (Vec<_>, Vec<_>) =
        (expected.trim().lines().collect(), given.trim().lines().collect());
    if a == b {
        return None;
    }
    let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let query = a[..same].iter().rev().find(|l| l.starts_with("Query: ")).copied();
    let mut out = format!("  line {}", same + 1);
    if let Some(query) = query {
        let _ = write!(out, ", {query}");
    }
    out.push('\n');
    for (mark, side) in [("-", &a), ("+", &b)] {
        for line in side.iter().skip(same).take(SHOWN) {
            let _ = writeln!(out, "  {mark} {line}");
        }
    }
    Some(out)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use crate::env::real;

    fn context() -> Context {
        Context { env: real::env(), global: Globals::default() }
    }

    fn arguments(dir: &str, filter: &str, record: bool) -> GoldenArgs {
        let (dir, filter) = (dir.to_owned(), filter.to_owned());
        GoldenArgs { dir, filter, env: vec![], record, testonly: false }
    }

    #[tokio::test]
    async fn queries_see_the_configuration_of_clients() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("c.yaml"), "Client:\n  server_urls: ['https://a:1/']\n").unwrap();
        std::fs::write(at("a.in.yaml"), "Queries:\n- SELECT config FROM scope()\n").unwrap();
        let mut ctx = context();
        ctx.global.config = Some(at("c.yaml"));
        run(arguments(dir.path().to_str().unwrap(), "", true), &ctx).await.unwrap();
        let out = std::fs::read_to_string(at("a.out.yaml")).unwrap();
        assert!(out.contains("\"https://a:1/\""), "{out}");
    }

    /// Our own cases.
    #[tokio::test]
    async fn recorded_cases_pass() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
        run(arguments(dir, "", false), &context()).await.unwrap();
    }

    #[tokio::test]
    async fn cases_have_a_server_and_can_upload() {
        let dir = tempfile::tempdir().unwrap();
        let queries = [
            r"SELECT artifact_set(definition='name: Custom.A\nsources:\n- query: SELECT 1 AS A FROM scope()\n').name AS N FROM scope()",
            "SELECT * FROM Artifact.Custom.A()",
            "SELECT upload(accessor='data', file='hello', name='a.txt') AS U FROM scope()",
            "SELECT log(message='said', dedup=-1), mock_time(now=5), now() AS N FROM scope()",
            "SELECT Log FROM test_read_logs() WHERE Log =~ ':said'",
        ];
        let input = serde_json::json!({ "Queries": queries }).to_string();
        std::fs::write(dir.path().join("a.in.yaml"), input).unwrap();
        run(arguments(dir.path().to_str().unwrap(), "", true), &context()).await.unwrap();
        let out = std::fs::read_to_string(dir.path().join("a.out.yaml")).unwrap();
        for expected in [
            "\"N\": \"Custom.A\"",
            "\"A\": 1,\n  \"_Source\": \"Custom.A\"",
            "\"StoredName\": \"/uploads/data/a.txt\"",
            "\"N\": 5",
            "\"Log\": \"Velociraptor: DEFAULT:said\\n\"",
        ] {
            assert!(out.contains(expected), "{expected}: {out}");
        }
    }

    #[tokio::test]
    async fn a_difference_is_shown_and_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().to_str().unwrap();
        let input = "Parameters:\n  X: one\nTransforms:\n- Search: two\n  Replace: three\nQueries:\n\
                     # A comment.\n- LET Y = 'two'\n- SELECT X, Y, now() AS N FROM scope()\n";
        std::fs::write(dir.path().join("a.in.yaml"), input).unwrap();
        let error = run(arguments(at, "", false), &context()).await.unwrap_err();
        assert_eq!(error.to_string(), "1 cases failed");
        run(arguments(at, "a", true), &context()).await.unwrap();
        let out = std::fs::read_to_string(dir.path().join("a.out.yaml")).unwrap();
        let expected = "# A comment.\nQuery: LET Y = 'three'\nOutput: []\n\n\
            Query: SELECT X, Y, now() AS N FROM scope()\nOutput: [\n {\n  \"X\": \"one\",\n  \
            \"Y\": \"three\",\n  \"N\": 1590938885\n }\n]\n\n";
        assert_eq!(out, expected);
        let shown = difference(expected, &expected.replace("one", "1")).unwrap();
        assert!(shown.contains("line 8, Query: SELECT X"), "{shown}");
        assert!(
            shown.contains("-   \"X\": \"one\"") && shown.contains("+   \"X\": \"1\""),
            "{shown}"
        );
        assert!(run(arguments(at, "b", false), &context()).await.is_err());
    }
}
