//! Rules from text, compiled once for a query.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use boreal::Compiler;
use boreal::compiler::{CompilerParams, ExternalValue};
use vql::{Args, Error, Level, Scope, Value};

use crate::plugins::common::blocking;

/// Rule sets kept for one query.
const KEPT: usize = 32;

/// Rules ready to search with.
pub(super) struct Compiled {
    pub(super) scanner: boreal::Scanner,
}

/// Rule sets of a query by key; what does not compile is remembered too.
#[derive(Default)]
struct Kept(Mutex<BTreeMap<String, Result<Arc<Compiled>, String>>>);

/// The rules of a call, or why they do not compile.
pub(super) async fn compiled(
    scope: &Scope,
    args: &Args,
) -> Result<Result<Arc<Compiled>, String>, Error> {
    let text = written_out(scope, &args.string("rules")?);
    let namespace = args.string("namespace")?;
    let vars = args.dict("vars")?;
    let key = match args.opt_string("key")? {
        Some(key) => format!("key {key}"),
        None => format!("{namespace}\0{}\0{text}", Value::from((*vars).clone()).to_json()),
    };
    let kept = scope.session_value::<Kept>();
    if let Some(found) = kept.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
        return Ok(found.clone());
    }
    let vars: Vec<(String, ExternalValue)> =
        vars.iter().map(|(name, value)| (name.to_string(), external(value))).collect();
    let made = blocking(scope, move || compile(&text, &namespace, vars)).await?.map(Arc::new);
    let mut all = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() >= KEPT {
        all.clear();
    }
    all.insert(key, made.clone());
    Ok(made)
}

fn external(value: &Value) -> ExternalValue {
    match value {
        Value::Bool(b) => ExternalValue::Boolean(*b),
        Value::Float(f) => ExternalValue::Float(*f),
        other => match other.as_int() {
            Some(n) => ExternalValue::Integer(n),
            None => ExternalValue::Bytes(other.to_str().as_bytes().to_vec()),
        },
    }
}

fn compile(
    text: &str,
    namespace: &str,
    vars: Vec<(String, ExternalValue)>,
) -> Result<Compiled, String> {
    let mut compiler = Compiler::new();
    // Rules come from other people: they may not read this host's files.
    compiler.set_params(CompilerParams::default().disable_includes(true));
    for (name, value) in vars {
        compiler.define_symbol(name, value);
    }
    let added = match namespace {
        "" => compiler.add_rules_str(text),
        namespace => compiler.add_rules_str_in_namespace(text, namespace),
    };
    added.map_err(|e| e.to_string())?;
    Ok(Compiled { scanner: compiler.finalize() })
}

/// How rules begin, which are no shorthand.
const BEGINNINGS: [&str; 7] = ["rule", "import", "private", "global", "include", "//", "/*"];

/// A text for a rule: escapes in it mean what they do in rules.
fn quoted(text: &str) -> String {
    let (mut out, mut escaped) = (String::new(), false);
    for c in text.chars() {
        if c == '"' && !escaped {
            out.push('\\');
        }
        escaped = c == '\\' && !escaped;
        out.push(c);
    }
    out
}

/// The rule that a shorthand such as `wide nocase: a, b` stands for.
fn written_out(scope: &Scope, text: &str) -> String {
    let text = text.trim();
    if BEGINNINGS.iter().any(|b| text.starts_with(b)) {
        return text.to_owned();
    }
    let Some((words, texts)) = text.split_once(':') else { return text.to_owned() };
    let known = |w: &&str| ["wide", "ascii", "nocase"].contains(w);
    if let Some(unknown) = words.split(' ').find(|w| !known(w)) {
        let message = format!("yara: {unknown} is no shorthand; read as rules");
        scope.log(Level::Default, message);
        return text.to_owned();
    }
    let strings: String = texts
        .split(',')
        .enumerate()
        .map(|(i, text)| {
            let text = quoted(text.trim());
            format!(" $a{i} = \"{text}\" {words}\n")
        })
        .collect();
    format!("rule X {{ strings:{strings} condition: any of them }}")
}
