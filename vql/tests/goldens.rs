//! Runs recorded queries of another implementation when their directory is
//! given in `VQL_GOLDENS`; the recordings are not part of this project.
//! Files: `vql_queries.golden` and `multi_vql_queries.golden`, JSON objects from
//! `number name: query` to the rows.
#![allow(clippy::disallowed_methods)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use vql::{ArgType, Dict, Limits, Object, Registry, Row, Scope, ScopeBuilder, Signature, Value};

static CALLS: AtomicI64 = AtomicI64::new(0);

#[derive(Debug)]
struct Methods(i64);

impl Object for Methods {
    fn type_name(&self) -> &'static str {
        "methods"
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
    fn members(&self) -> Vec<vql::Key> {
        ["Value1", "Value2", "Counter"].map(vql::Key::from).to_vec()
    }
    fn member(&self, name: &str) -> Option<Value> {
        match name {
            "Value1" => Some(self.0.into()),
            "Value2" => {
                let n = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
                Some(format!("I am a method, called {n}").into())
            }
            "Counter" => Some(CALLS.load(Ordering::Relaxed).into()),
            _ => None,
        }
    }
}

fn registry() -> Registry {
    let mut r = Registry::standard();
    let any = |name| Signature::new(name, "").any_args();
    r.function_sync(any("func_foo"), |_, args| {
        Ok(if args.has("return") { args.any("return") } else { 1.into() })
    });
    let counter = AtomicI64::new(0);
    r.function_sync(any("counter"), move |_, _| {
        Ok((counter.fetch_add(1, Ordering::Relaxed) + 1).into())
    });
    r.function_sync(
        Signature::new("panic", "").arg("column", ArgType::Any, "").arg("value", ArgType::Any, ""),
        |_, args| Ok(args.any("value")),
    );
    r.function_sync(any("set_env"), |scope, args| {
        let mut env = scope.resolve("RootEnv").unwrap_or_default().into_row();
        env.set(args.string("column")?, args.any("value"));
        scope.root().set("RootEnv", env);
        Ok(true.into())
    });
    r.plugin_stream(any("test"), |_, _| {
        let row = |i: i64| Dict::new().with("foo", i * 2).with("bar", i).into();
        Ok(vql::stream::from_rows((0..3).map(row)))
    });
    r.plugin_stream(
        Signature::new("range", "")
            .required("start", ArgType::Float, "")
            .required("end", ArgType::Float, "")
            .any_args(),
        |_, args| {
            let (mut at, end) = (args.float("start")?, args.float("end")?);
            let next = move || {
                at += 1.0;
                (at - 1.0 <= end).then(|| Dict::new().with("value", at - 1.0).into())
            };
            Ok(vql::stream::from_rows(std::iter::from_fn(next)))
        },
    );
    r.plugin_stream(any("dict"), |_, args| Ok(vql::stream::from_rows([args.to_dict().into()])));
    r.plugin_stream(any("objectwithmethods"), |_, _| {
        Ok(vql::stream::from_rows([1, 2].map(|n| Value::object(Methods(n)))))
    });
    r.plugin_stream(any("groupbytest"), |_, _| {
        let rows = [(1, 5, "a"), (2, 5, "b"), (3, 2, "c"), (4, 2, "d")];
        let row = |(a, b, c): (i64, i64, &'static str)| {
            Dict::new().with("foo", a).with("bar", b).with("baz", c).into()
        };
        Ok(vql::stream::from_rows(rows.into_iter().map(row)))
    });
    r
}

fn scope() -> Scope {
    let verbose = std::env::var("VQL_GOLDENS_LOG").is_ok();
    let scope = ScopeBuilder::new(Arc::new(registry()))
        .log(move |level: vql::Level, text: &str| {
            if verbose {
                eprintln!("{}: {text}", level.name());
            }
        })
        .build();
    let last = Dict::new().with("Foo", "Bar");
    let list = Value::list(vec![1.into(), 2.into(), 3.into(), last.into()]);
    scope.set("const_foo", 1);
    scope.set("three_int64", 3);
    scope.set("my_list_obj", Dict::new().with("my_list", list));
    scope.set("env_var", "EnvironmentData");
    scope.set("foo", Dict::new().with("bar", Dict::new().with("baz", 5)).with("bar2", 7));
    scope.set("RootEnv", Dict::new());
    let array: Vec<Value> = vec![1.into(), 2.into(), 3.into()];
    scope.set("ArrayValue", array);
    scope.set("StructValue", Dict::new().with("SrcIP", "127.0.0.1").with("src_ip", "127.0.0.1"));
    scope.set("VarIsObjectWithMethods", Value::object(Methods(1)));
    CALLS.store(0, Ordering::Relaxed);
    scope
}

async fn run(query: &str, scope: &Scope) -> Result<Vec<Row>, String> {
    use futures::StreamExt;
    let statements = vql::parse(query).map_err(|e| e.to_string())?;
    let text = statements.iter().map(|s| s.to_string()).collect::<Vec<_>>().join(" ");
    if text != query {
        return Err(format!("canonical text is {text}"));
    }
    let rows = vql::eval(statements, scope, Limits::default());
    Ok(rows.map(Value::into_row).collect().await)
}

#[test]
fn recorded_queries() {
    let Ok(dir) = std::env::var("VQL_GOLDENS") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (mut passed, mut failed) = (0, 0);
    for file in ["vql_queries.golden", "multi_vql_queries.golden"] {
        let text = std::fs::read_to_string(format!("{dir}/{file}")).unwrap();
        let cases: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&text).unwrap();
        let mut current = String::new();
        let mut shared = scope();
        for (key, want) in cases {
            let starts = [": SELECT", ": LET ", ": EXPLAIN"];
            let at = starts.iter().filter_map(|s| key.find(s)).min().unwrap();
            let query = &key[at + 2..];
            let number = key[..3].to_string();
            if number != current || !file.starts_with("multi") {
                shared = scope();
                current = number;
            }
            let got = runtime.block_on(run(query, &shared));
            let got = match got {
                Ok(rows) if rows.is_empty() => serde_json::Value::Null,
                Ok(rows) => serde_json::from_str(&Value::from(rows).to_json()).unwrap(),
                Err(e) => serde_json::Value::String(e),
            };
            let (want_text, got_text) = (want.to_string(), got.to_string());
            if want_text == got_text || (want_text == "[]" && got.is_null()) {
                passed += 1;
            } else {
                failed += 1;
                println!("{file} {key}\n  want {want_text}\n  got  {got_text}");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
}

/// `VQL_SCRIPTS` names a JSON file: a list of `[name, script]`. All must parse,
/// and their canonical text must be a fixed point.
#[test]
fn recorded_scripts_parse() {
    let Ok(file) = std::env::var("VQL_SCRIPTS") else { return };
    let text = std::fs::read_to_string(file).unwrap();
    let scripts: Vec<(String, String)> = serde_json::from_str(&text).unwrap();
    let canonical = |text: &str| {
        let statements = vql::parse(text)?;
        let texts: Vec<String> = statements.iter().map(ToString::to_string).collect();
        Ok::<_, vql::ParseError>(texts.join("\n"))
    };
    for (name, script) in &scripts {
        let once = canonical(script).unwrap_or_else(|e| panic!("{name}: {e}"));
        let twice = canonical(&once).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(once, twice, "{name}");
    }
    println!("{} scripts", scripts.len());
}
