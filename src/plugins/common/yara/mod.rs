//! `yara` and `proc_yara`: files and processes searched by YARA rules.
//!
//! Real files are searched whole up to [`WHOLE`] bytes, as rules about distant
//! parts of a file need; larger ones, and what only an accessor can read, in
//! buffers, each by itself.

mod lint;
mod memory;
mod rules;
mod scan;

use std::io::{Read, SeekFrom};
use std::sync::Arc;

use vql::{ArgType, Args, Emitter, Error, Level, Registry, Scope, Signature};

use super::accessor::{UNKNOWN, accessor, path_of};
use super::path::OsPath;
use super::{blocking, host};
use rules::Compiled;
use scan::{Hit, Wanted};

/// Largest real file searched in one piece, in bytes. It is held in memory.
const WHOLE: u64 = 64 << 20;
/// Bytes of a buffer when nothing else is said.
const BLOCK: u64 = 1 << 20;
/// Accessors that lead to real files.
const REAL: [&str; 4] = ["", "auto", "file", "file_links"];

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    lint::register(registry);
    let with_rules = |name, doc| {
        Signature::new(name, doc)
            .required("rules", ArgType::String, "YARA rules, or a shorthand: `ascii wide: a, b`.")
            .arg("context", ArgType::Int, "Bytes shown on each side of a hit.")
            .arg("key", ArgType::String, "Names the rules: they are compiled once.")
            .arg("namespace", ArgType::String, "Namespace of the rules.")
            .arg("vars", ArgType::Dict, "Variables of the rules.")
            .arg("number", ArgType::Int, "Stop after so many hits (1).")
    };
    let yara = with_rules("yara", "Searches files by YARA rules.")
        .required("files", ArgType::Paths, "The files.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("start", ArgType::Int, "Where in a file to begin.")
        .arg("end", ArgType::Int, "Where in a file to end.")
        .arg("blocksize", ArgType::Int, "Bytes of a buffer.")
        .arg("force_buffers", ArgType::Bool, "Search real files in buffers too.")
        .version(3);
    registry.plugin_async(yara, |scope, args, emitter| async move {
        files(&scope, &args, &emitter).await
    });
    let yarax = with_rules("yarax", "Searches files by YARA rules, as yara does.")
        .required("files", ArgType::Paths, "The files.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("start", ArgType::Int, "Where in a file to begin.")
        .arg("end", ArgType::Int, "Where in a file to end.")
        .arg("blocksize", ArgType::Int, "Bytes of a buffer.")
        .arg("dll_path", ArgType::Any, "Accepted: no library is needed.")
        .arg("force_buffers", ArgType::Bool, "Search real files in buffers too.")
        .version(2);
    registry.plugin_async(yarax, |scope, args, emitter| async move {
        files(&scope, &args, &emitter).await
    });
    let process = with_rules("proc_yara", "Searches a process's memory by YARA rules.")
        .required("pid", ArgType::Int, "The process.")
        .version(2);
    registry.plugin_async(process, |scope, args, emitter| async move {
        process_memory(&scope, &args, &emitter).await
    });
}

/// What both plugins take.
async fn common(scope: &Scope, args: &Args) -> Result<Option<(Arc<Compiled>, Wanted)>, Error> {
    let positive = |n: i64| usize::try_from(n).ok().filter(|n| *n > 0);
    let wanted = Wanted {
        number: positive(args.int("number")?).unwrap_or(1),
        context: positive(args.int("context")?).unwrap_or(0),
    };
    match rules::compiled(scope, args).await? {
        Ok(rules) => Ok(Some((rules, wanted))),
        Err(fault) => {
            scope.error(format!("{}: {fault}", args.call_name()));
            Ok(None)
        }
    }
}

async fn files(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let Some((rules, wanted)) = common(scope, args).await? else { return Ok(()) };
    let name = args.string("accessor")?;
    let accessor = accessor(scope, &name)?;
    let place = |arg| args.int(arg).map(|n| u64::try_from(n).unwrap_or(0));
    let (start, end) = (place("start")?, Some(place("end")?).filter(|n| *n > 0));
    let block = Some(place("blocksize")?).filter(|n| *n > 0).unwrap_or(BLOCK);
    let real = REAL.contains(&name.as_str()) && !args.bool("force_buffers")? && start == 0;
    let mut left = wanted.number;
    for file in args.list("files") {
        scope.charge_op().await;
        let path = path_of(scope, &*accessor, &file);
        let (a, p) = (accessor.clone(), path.clone());
        let opened = blocking(scope, move || Ok::<_, std::io::Error>((a.stat(&p)?, a.open(&p)?)));
        let (mut info, mut reader) = match opened.await? {
            Ok(opened) => opened,
            Err(e) => {
                let shown = path.to_text();
                scope.log(Level::Default, format!("yara: {shown} cannot be opened: {e}"));
                continue;
            }
        };
        info.path = path.clone();
        let whole = real && info.size <= WHOLE;
        let block = if whole { info.size.max(1) } else { block };
        let mut at = start;
        // When there were enough, every rule still tells of one place in each buffer.
        while end.is_none_or(|end| at < end) {
            let length = end.map_or(block, |end| block.min(end - at));
            let (rules, stop) = (rules.clone(), emitter.clone());
            let wanted = Wanted { number: left, ..wanted };
            let read = move || {
                let mut data = Vec::new();
                let done = reader
                    .seek(SeekFrom::Start(at))
                    .and_then(|_| (&mut reader).take(length).read_to_end(&mut data));
                let hits = done.map(|_| {
                    if data.is_empty() {
                        return Ok(Vec::new());
                    }
                    scan::bytes(&rules, &data, wanted, &|| stop.is_stopped())
                });
                (hits, data.len() as u64, reader)
            };
            let (hits, length);
            (hits, length, reader) = blocking(scope, read).await?;
            match hits {
                Ok(Ok(hits)) => {
                    for hit in hits {
                        left = left.saturating_sub(1);
                        emitter.send(hit.row(at, &info, &path)).await?;
                    }
                }
                Ok(Err(e)) => scope.log(Level::Default, format!("yara: {}: {e}", path.to_text())),
                Err(e) => {
                    scope.log(Level::Default, format!("yara: {}: {e}", path.to_text()));
                    break;
                }
            }
            if length == 0 || whole {
                break;
            }
            at += length;
            scope.charge_op().await;
        }
    }
    Ok(())
}

async fn process_memory(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let Some((rules, wanted)) = common(scope, args).await? else { return Ok(()) };
    let pid = args.int("pid")?;
    let proc = host(scope).proc.clone();
    let stop = emitter.clone();
    let search = move || -> Result<Vec<Hit>, String> {
        let memory = memory::Regions::open(&proc, pid).map_err(|e| e.to_string())?;
        scan::process(&rules, memory, wanted, &|| stop.is_stopped())
    };
    match blocking(scope, search).await? {
        Ok(hits) => {
            let path = OsPath::linux(format!("/{pid}").as_bytes());
            let mut info = super::FileInfo::plain(path.clone(), 0);
            (info.mode, info.times) = (0o100_644, [UNKNOWN; 4]);
            for hit in hits {
                emitter.send(hit.row(0, &info, &path)).await?;
            }
        }
        Err(e) => scope.log(Level::Default, format!("proc_yara: pid {pid}: {e}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vql::Value;

    async fn query(text: &str) -> (String, Vec<String>) {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = lines.clone();
        let scope = vql::ScopeBuilder::new(Arc::new(registry))
            .log(move |_: Level, text: &str| log.lock().unwrap().push(text.to_owned()))
            .extension(env)
            .build();
        let rows = Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let lines = lines.lock().unwrap().clone();
        (rows, lines)
    }

    const RULE: &str = "rule A : t1 { meta: who = 'x' n = 3 strings: $a = 'needle' $b = /n.{2}dle/ \
        condition: any of them } rule B { condition: filesize < 100 }";

    #[tokio::test]
    async fn hits_have_their_place_and_context() {
        let rule = RULE.replace('\'', "\"");
        let text = format!(
            "LET R = '''{rule}''' \
             SELECT Rule, Meta, Tags, String, FileName FROM yara(rules=R, accessor='data', \
                files='hay needle hay', context=2, number=10)"
        );
        let (rows, _) = query(&text).await;
        let expected = r#"[{"Rule":"A","Meta":{"who":"x","n":3},"Tags":["t1"],"String":{"Name":"$a","Offset":4,"HexData":["00000000  79 20 6e 65 65 64 6c 65  20 68                    |y needle h|",""],"Data":"eSBuZWVkbGUgaA=="},"FileName":"hay needle hay"},"#;
        assert!(rows.starts_with(expected), "{rows}");
        assert!(rows.contains(r#""Name":"$b""#) && rows.contains(r#"{"Rule":"B","Meta":null"#));
        let one = "SELECT Rule FROM yara(rules='ascii: needle, hay', accessor='data', files='a needle', number=1)";
        assert_eq!(query(one).await.0, r#"[{"Rule":"X"}]"#);
        // Escapes of a shorthand are those of rules.
        let escaped = r#"SELECT String.Offset AS At FROM yara(rules='ascii: a\\x42"c', accessor='data', files='_aB"c')"#;
        assert_eq!(query(escaped).await.0, r#"[{"At":1}]"#);
    }

    #[tokio::test]
    async fn buffers_are_searched_by_themselves() {
        let text = "SELECT String.Offset AS At FROM yara(rules='ascii: bb', accessor='data', \
            files='aabbaabb', blocksize=4, number=5)";
        assert_eq!(query(text).await.0, r#"[{"At":2},{"At":6}]"#);
        let text = "SELECT String.Offset AS At FROM yara(rules='ascii: bb', accessor='data', \
            files='aabbaabb', start=3, end=8, number=5)";
        assert_eq!(query(text).await.0, r#"[{"At":6}]"#);
    }

    #[tokio::test]
    async fn each_rule_tells_of_one_place_at_least() {
        let text = "SELECT Rule, String.Offset AS At, Tags FROM yara(rules='''rule X { strings: \
            $a = \"ab\" $b = \"cd\" condition: any of them } rule Y { condition: true }''', \
            accessor='data', files=('ab cd', 'cd'), number=1)";
        let expected = r#"[{"Rule":"X","At":0,"Tags":null},{"Rule":"Y","At":0,"Tags":null},{"Rule":"X","At":0,"Tags":null},{"Rule":"Y","At":0,"Tags":null}]"#;
        assert_eq!(query(text).await.0, expected);
        // A condition may be about another place than the first.
        let text = "SELECT String.Offset AS At FROM yara(rules='''rule X { strings: $a = \"ab\" \
            condition: $a at 4 and #a == 2 }''', accessor='data', files='ab--ab', number=1)";
        assert_eq!(query(text).await.0, r#"[{"At":0}]"#);
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let (rows, log) =
            query("SELECT * FROM yara(rules='rule X {', accessor='data', files='a')").await;
        assert_eq!(rows, "[]");
        assert!(log.iter().any(|l| l.starts_with("yara: ")), "{log:?}");
        let (rows, log) =
            query("SELECT * FROM yara(rules='ascii: a', files='/nothing/there')").await;
        assert_eq!(rows, "[]");
        assert!(log.iter().any(|l| l.contains("/nothing/there")), "{log:?}");
        let vars = "SELECT Rule FROM yara(rules='rule X { condition: n == 3 and s == \"a\" and b }', \
            accessor='data', files='a', vars=dict(n=3, s='a', b=TRUE))";
        assert_eq!(query(vars).await.0, r#"[{"Rule":"X"}]"#);
        // Rules about signatures compile.
        let signed = "SELECT Rule FROM yara(rules='import \"pe\" rule X { condition: \
            pe.number_of_signatures > 0 or pe.is_signed or filesize == 1 }', \
            accessor='data', files='a')";
        assert_eq!(query(signed).await.0, r#"[{"Rule":"X"}]"#);
    }

    #[tokio::test]
    async fn a_process_is_searched() {
        // In this very process's memory, and nowhere in the rule as it is written.
        let secret = format!("{}-{}", "in-memory", 7_654_321);
        let hexed = secret.bytes().map(|b| format!("{b:02x} ")).collect::<String>();
        let text = format!(
            "SELECT Rule, File.FullPath = '/{0}' AS File FROM proc_yara(pid={0}, rules='rule P {{ strings: $a = {{ {hexed} }} condition: $a }}')",
            std::process::id()
        );
        assert_eq!(query(&text).await.0, r#"[{"Rule":"P","File":true}]"#);
        drop(secret);
        let (rows, log) = query("SELECT * FROM proc_yara(pid=999999999, rules='ascii: a')").await;
        assert_eq!(rows, "[]");
        assert!(log.iter().any(|l| l.starts_with("proc_yara: pid 999999999")), "{log:?}");
    }
}
