//! `golden`: runs recorded queries and compares what they give.
//!
//! A case is `X.in.yaml` with what it gave before in `X.out.yaml`. Format of the
//! input: `Queries` (texts of one statement each), `Parameters` (variables),
//! `Transforms` (replacements in the output). Format of the output: for each
//! query its text and its rows.

use std::fmt::Write;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use velociraptor_proto::proto::VqlEnv;
use vql::{Dict, Value};

use super::{Context, Globals, print};
use crate::env::{Env, fs};
use crate::plugins::server::Session;
use crate::services::acl::Policy;
use crate::services::{Options, Server, repository};
use crate::store::StoreRoot;

mod case;
mod mock;
mod store;
mod upload;

use case::case;
use store::TempStore;

/// Largest file of a case, in bytes.
const MAX_FILE: usize = 64 << 20;
/// Lines shown of each side of a difference.
const SHOWN: usize = 8;

/// Arguments of `golden`.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Cases run on this host, on a server of their own with an empty datastore, \
    or with a copy of the one that --datastore names; now() stands still. The variable srcDir is what --env says, or the current directory; config is the Client section of \
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
    /// Give the cases a copy of this datastore, of ours or a stock server's.
    #[arg(long, value_name = "DIR")]
    datastore: Option<String>,
    /// Write what the cases give now over what they gave before.
    #[arg(long)]
    record: bool,
    /// Accepted for compatibility: nothing is written without --record.
    #[arg(long, hide = true)]
    testonly: bool,
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
    let store = TempStore::new(&ctx.env, args.datastore.as_deref()).await?;
    let config = client_config(ctx).await?;
    let server = server(&alone, &store, &config).await?;
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

/// The server the queries of cases run on: with all definitions, and nothing else.
async fn server(ctx: &Context, store: &TempStore, config: &Dict) -> anyhow::Result<Arc<Session>> {
    let root = StoreRoot::single(store.0.to_str().context("the temporary directory is no text")?);
    let mut options = Options { obfuscate: false, ..Options::default() };
    if let Some(Value::List(urls)) = config.get("server_urls") {
        let base = |u: &Value| crate::node::public_base(&u.to_text());
        options.tools.public_bases = urls.iter().map(base).collect();
    }
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
        GoldenArgs { dir, filter, env: vec![], datastore: None, record, testonly: false }
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

    #[tokio::test]
    async fn cases_see_a_copy_of_a_datastore() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::create_dir_all(at("store/public/x")).unwrap();
        std::fs::write(at("store/public/x/a"), "there").unwrap();
        std::fs::create_dir(at("cases")).unwrap();
        let queries = [
            "SELECT read_file(filename='/public/x/a', accessor='fs') AS D FROM scope()",
            "SELECT file_store_delete(path='/public/x/a') AS D FROM scope()",
            "SELECT server_set_metadata(a='b') FROM scope()",
        ];
        let input = serde_json::json!({ "Queries": queries }).to_string();
        std::fs::write(at("cases/a.in.yaml"), input).unwrap();
        let given =
            GoldenArgs { datastore: Some(at("store")), ..arguments(&at("cases"), "", true) };
        run(given, &context()).await.unwrap();
        let out = std::fs::read_to_string(at("cases/a.out.yaml")).unwrap();
        assert!(out.contains("\"D\": \"there\""), "{out}");
        assert_eq!(std::fs::read_to_string(at("store/public/x/a")).unwrap(), "there");
        assert_eq!(std::fs::read_dir(at("store")).unwrap().count(), 1);
        let nowhere =
            GoldenArgs { datastore: Some(at("none")), ..arguments(&at("cases"), "", true) };
        let said = format!("{:#}", run(nowhere, &context()).await.unwrap_err());
        assert!(said.contains("cannot copy") && said.contains("/none"), "{said}");
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
