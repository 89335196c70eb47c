//! Runs the query given as argument and prints its rows, one JSON object a line.
//! The log goes to standard error. Only the callables of the language exist.

use futures::StreamExt;
use std::sync::Arc;
use vql::{Limits, Registry, ScopeBuilder};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = std::env::args().nth(1).ok_or("usage: query TEXT")?;
    let scope = ScopeBuilder::new(Arc::new(Registry::standard()))
        .log(|level: vql::Level, message: &str| eprintln!("{}: {message}", level.name()))
        .build();
    let statements = vql::parse(&text)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build()?;
    runtime.block_on(async {
        let mut rows = vql::eval(statements, &scope, Limits::default());
        while let Some(row) = rows.next().await {
            println!("{}", row.to_json());
        }
    });
    Ok(())
}
