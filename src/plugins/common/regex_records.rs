//! `parse_records_with_regex`: what regular expressions find in files as rows.

use regex::bytes::{Regex, RegexBuilder};
use vql::{ArgType, Args, Dict, Emitter, Error, Level, Registry, Scope, Signature};

use super::accessor::{accessor, path_of};
use super::blocking;
use super::lines::buffer_size;

/// Adds `parse_records_with_regex`.
pub fn register(registry: &mut Registry) {
    let doc = "Rows from regular expressions with named groups.";
    let records = Signature::new("parse_records_with_regex", doc)
        .required("file", ArgType::Paths, "The files.")
        .required("regex", ArgType::Strings, "The expressions.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("buffer_size", ArgType::Int, "Bytes searched at a time.");
    registry.plugin_async(records, |scope, args, emitter| async move {
        parse_records(&scope, &args, &emitter).await
    });
}

async fn parse_records(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let accessor = accessor(scope, &args.string("accessor")?)?;
    let mut regexes = Vec::new();
    for r in args.strings("regex")? {
        let re = RegexBuilder::new(&r).case_insensitive(true).build().map_err(Error::failed)?;
        regexes.push(re);
    }
    let named =
        |re: &Regex| -> Vec<String> { re.capture_names().flatten().map(str::to_owned).collect() };
    let names: Vec<Vec<String>> = regexes.iter().map(named).collect();
    let window = buffer_size(args)?;
    for file in args.list("file") {
        let path = path_of(scope, &*accessor, &file);
        let (a, p) = (accessor.clone(), path.clone());
        let opened = blocking(scope, move || a.open(&p)).await?;
        let mut reader = match opened {
            Ok(f) => f,
            Err(e) => {
                scope.log(Level::Default, format!("{}: {e}", path.to_text()));
                continue;
            }
        };
        // Begins with what followed the last record found.
        let mut data = Vec::new();
        loop {
            let read = move || {
                use std::io::Read;
                let room = window.saturating_sub(data.len()) as u64;
                // What was read before a fault is searched too.
                let _ = (&mut reader).take(room).read_to_end(&mut data);
                (data, reader)
            };
            (data, reader) = blocking(scope, read).await?;
            if data.is_empty() {
                break;
            }
            let mut end = 0;
            for (n, re) in regexes.iter().enumerate() {
                let others = names.iter().enumerate().filter(|(other, _)| *other != n);
                let others: Vec<&String> = others.flat_map(|(_, names)| names).collect();
                for found in re.captures_iter(&data) {
                    scope.charge_op().await;
                    let mut row = Dict::new().with("FullPath", path.to_text());
                    // All rows have the groups of all expressions.
                    for name in others.iter().filter(|name| !names[n].contains(name)) {
                        row.update((*name).clone(), "");
                    }
                    for (i, name) in re.capture_names().enumerate().skip(1) {
                        let name = name.map_or_else(|| format!("g{i}"), str::to_owned);
                        row.update(name, found.get(i).map_or(&b""[..], |m| m.as_bytes()));
                    }
                    end = end.max(found.get(0).map_or(0, |m| m.end()));
                    emitter.send(row).await?;
                }
            }
            // A record that begins here may end behind what was read.
            match end {
                0 => data.clear(),
                end => drop(data.drain(..end)),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use vql::Value;

    #[tokio::test]
    async fn records_of_several_expressions_and_buffers() {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let scope = vql::ScopeBuilder::new(Arc::new(registry))
            .extension(Arc::new(crate::env::real::env()))
            .build();
        let query = async |text: &str| Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        // The second record lies over the end of the first buffer.
        let text = "SELECT L FROM parse_records_with_regex(accessor='data', file='xxa=1xxxxa=2xxa=3', \
                    regex='(?P<L>a=.)', buffer_size=11)";
        assert_eq!(query(text).await, r#"[{"L":"a=1"},{"L":"a=2"},{"L":"a=3"}]"#);
        let text = "SELECT * FROM parse_records_with_regex(accessor='data', file='a=1b=2', \
                    regex=['(?P<K>a)=(.)', '(?P<B>b)=(?P<K>.)'])";
        let expected = r#"[{"FullPath":"a=1b=2","B":"","K":"a","g2":"1"},{"FullPath":"a=1b=2","B":"b","K":"2"}]"#;
        assert_eq!(query(text).await, expected);
    }
}
