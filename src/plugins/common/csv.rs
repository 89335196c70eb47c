//! `parse_csv`: separated values as rows.

use std::io::Read;

use vql::{
    ArgType, Args, CsvHeader, CsvOptions, CsvRows, Emitter, Error, Level, Registry, Scope,
    Signature,
};

use super::accessor::{accessor, path_of};
use super::blocking;

/// Largest file read, in bytes; it is held in memory.
const LIMIT: u64 = 256 << 20;

/// Adds `parse_csv`.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("parse_csv", "The records of files of separated values.")
        .required("filename", ArgType::Paths, "The files.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("auto_headers", ArgType::Bool, "The first line has no names.")
        .arg("separator", ArgType::String, "What separates values (comma).")
        .arg("comment", ArgType::String, "Lines beginning with this are left out.")
        .arg("columns", ArgType::Strings, "Names of the columns.");
    registry.plugin_async(signature, |scope, args, emitter| async move {
        run(&scope, &args, &emitter).await
    });
}

/// How the arguments say that values are separated and columns named.
pub(super) fn options(args: &Args) -> Result<CsvOptions, Error> {
    let byte = |name: &str| {
        let text = args.bytes(name)?;
        match text.as_bytes() {
            [] => Ok(None),
            [byte] => Ok(Some(*byte)),
            _ => Err(Error::failed(format!("{name} can only be one character"))),
        }
    };
    let columns = args.strings("columns")?;
    Ok(CsvOptions {
        separator: byte("separator")?.unwrap_or(b','),
        comment: byte("comment")?,
        header: match (columns.is_empty(), args.bool("auto_headers")?) {
            (false, _) => CsvHeader::Given(columns),
            (true, true) => CsvHeader::Numbered,
            (true, false) => CsvHeader::FirstLine,
        },
    })
}

async fn run(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let accessor = accessor(scope, &args.string("accessor")?)?;
    let mut options = options(args)?;
    for file in args.list("filename") {
        let path = path_of(scope, &*accessor, &file);
        let (a, p) = (accessor.clone(), path.clone());
        let read = move || {
            let mut data = Vec::new();
            a.open(&p)?.take(LIMIT).read_to_end(&mut data)?;
            Ok::<_, std::io::Error>(data)
        };
        let data = match blocking(scope, read).await? {
            Ok(d) => d,
            Err(e) => {
                let text = format!("Unable to open file {}: {e}", path.to_text());
                scope.log(Level::Default, text);
                continue;
            }
        };
        let rows = CsvRows::new(&data, &options);
        // Of several files the first names the columns of all.
        let header = rows.header().map(|h| h.iter().map(|k| k.to_string()).collect());
        for row in rows {
            scope.charge_op().await;
            emitter.send(row).await?;
        }
        if let Some(header) = header {
            options.header = CsvHeader::Given(header);
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
    async fn files_of_values() {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        let rows = async |args: &str| {
            let text = format!("SELECT * FROM parse_csv(accessor='data', {args})");
            Value::from(vql::run(&text, &scope).await.unwrap()).to_json()
        };
        let text = "filename='A,B\n1,2,3\n\n3\n\"{\"\"a\"\": 1}\",x\n'";
        let expected = r#"[{"A":1,"B":2},{"A":3,"B":""},{"A":{"a":1},"B":"x"}]"#;
        assert_eq!(rows(text).await, expected);
        let two = "filename=['A\n1\n', 'A\n2\n']";
        assert_eq!(rows(two).await, r#"[{"A":1},{"A":"A"},{"A":2}]"#);
        let own = "filename='#x\n1;2\n', separator=';', comment='#', columns='X'";
        assert_eq!(rows(own).await, r#"[{"X":1,"Col1":2}]"#);
        assert_eq!(rows("filename='a', separator=';;'").await, "[]");
    }
}
