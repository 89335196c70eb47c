//! Statements run one after another; the last gives the rows.

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::Value as Sql;
use rusqlite::{Batch, Connection, Statement};
use vql::{Dict, Emitter, Error, Key, Value};

use super::values::Holds;

/// Ends a statement whose rows nobody wants any more.
struct Interrupt(rusqlite::InterruptHandle);

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}

/// Runs the statements on a thread of its own: it may wait for the reader of
/// the rows, and the few places of the CPU pool are not for waiting.
pub(super) async fn rows(
    connection: Connection,
    query: String,
    values: Vec<Sql>,
    emitter: &Emitter,
) -> Result<(), Error> {
    let _interrupt = Interrupt(connection.get_interrupt_handle());
    let emitter = emitter.clone();
    let work = move || run(&connection, &query, values, &emitter);
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Error::failed),
        Err(e) => Err(Error::failed(e)),
    }
}

fn run(
    connection: &Connection,
    query: &str,
    values: Vec<Sql>,
    emitter: &Emitter,
) -> Result<(), String> {
    let text = |e: rusqlite::Error| e.to_string();
    let mut values = values.into_iter();
    let mut all = Batch::new(connection, query);
    let mut next = all.next().map_err(text)?;
    while let Some(mut statement) = next {
        bind(&mut statement, &mut values)?;
        if statement.column_count() == 0 {
            // What follows may need what this one makes.
            statement.raw_execute().map_err(text)?;
            next = all.next().map_err(text)?;
            continue;
        }
        next = all.next().map_err(text)?;
        let wanted = next.is_none().then_some(emitter);
        each(&mut statement, wanted).map_err(text)?;
    }
    Ok(())
}

/// Gives a statement its values, and leaves the others for those that follow.
fn bind(
    statement: &mut Statement<'_>,
    values: &mut impl Iterator<Item = Sql>,
) -> Result<(), String> {
    let wanted = statement.parameter_count();
    for place in 1..=wanted {
        let value = values.next().ok_or_else(|| {
            format!("values are missing: the statement wants {wanted} and gets {}", place - 1)
        })?;
        statement.raw_bind_parameter(place, value).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Runs a statement; its rows go where they are wanted.
fn each(statement: &mut Statement<'_>, to: Option<&Emitter>) -> Result<(), rusqlite::Error> {
    let columns: Vec<(Key, Holds)> =
        statement.columns().map(|c| (Key::new(c.name()), Holds::declared(c.decl_type()))).collect();
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        let Some(emitter) = to else { continue };
        let mut out = Dict::with_capacity(columns.len());
        for (i, (name, holds)) in columns.iter().enumerate() {
            out.set(name, row.get_ref(i).map_or(Value::Null, |v| holds.value(v)));
        }
        if emitter.blocking_send(out).is_err() {
            break;
        }
    }
    Ok(())
}
