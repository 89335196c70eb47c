//! Event rows: as they come, and as they are stored.

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use vql::{ArgType, Args, Emitter, Error, Level, Registry, Signature, Value};

use super::args::{needed, or_variable};
use super::results::send;
use super::session::{Session, failed};
use crate::services::acl::Permission;
use crate::services::event_view::EventView;
use crate::services::events::EventKey;
use crate::services::flows::job::lines;
use crate::services::repository::{Kind, source_name};
use crate::store::journal::{Extents, Worth};
use crate::store::resultset::with_ts;

/// Which rows: a span of time, Unix nanoseconds, and a range of what is in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    from: i64,
    to: i64,
    /// Rows to leave out first.
    skip: u64,
    /// Rows at most.
    count: u64,
}

impl Window {
    /// First moment, and the first after it.
    pub(super) fn span(self) -> (i64, i64) {
        (self.from, self.to)
    }

    /// From the arguments `start_time`, `end_time`, `start_row` and `count`; all open by default.
    pub(super) fn of(args: &Args) -> Result<Window, Error> {
        let nanos = |t: vql::Time| i64::try_from(t.as_nanosecond()).unwrap_or(i64::MAX);
        let number =
            |key: &str| Ok::<_, Error>(args.opt_int(key)?.and_then(|n| u64::try_from(n).ok()));
        Ok(Window {
            from: args.time("start_time")?.map_or(i64::MIN, nanos),
            // A parameter that nobody filled in is the time zero.
            to: args.time("end_time")?.map(nanos).filter(|t| *t > 0).unwrap_or(i64::MAX),
            skip: number("start_row")?.unwrap_or(0),
            count: number("count")?.filter(|n| *n > 0).unwrap_or(u64::MAX),
        })
    }
}

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("watch_monitoring", "Rows of an event artifact as they come.")
        .required("artifact", ArgType::String, "The artifact, perhaps with /Source.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let name = args.string("artifact")?;
        if session.org.repository.kind_of(&name).is_none() {
            return Err(Error::failed(format!("Artifact {name} not found")));
        }
        let mut events = session.server.bus.subscribe();
        loop {
            let batch = tokio::select! {
                biased;
                () = emitter.stopped() => return Ok(()),
                batch = events.recv() => batch,
            };
            match batch {
                Ok(b) if b.org == session.org.id && b.artifact == name => {
                    for line in lines(&b.rows) {
                        send(&emitter, &b.rows.slice_ref(line)).await?;
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(n)) => {
                    let text = format!("watch_monitoring: {n} batches of events were missed");
                    scope.log(Level::Warn, text);
                }
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    });

    let sig = Signature::new("monitoring", "Stored rows of an event artifact.")
        .arg("client_id", ArgType::String, "The client; for server events `server`.")
        .arg("artifact", ArgType::String, "The artifact, perhaps with /Source.")
        .arg("source", ArgType::String, "The source.")
        .arg("start_time", ArgType::Time, "Rows from then on.")
        .arg("end_time", ArgType::Time, "Rows before then.")
        .arg("start_row", ArgType::Int, "Rows to leave out first.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let artifact = needed(&args, &scope, "artifact", "ArtifactName")?;
        let name = match args.opt_string("source")? {
            Some(source) if !artifact.contains('/') => source_name(&artifact, &source),
            _ => artifact,
        };
        let client = or_variable(&args, &scope, "client_id", "ClientId")?;
        let client = client.unwrap_or_else(|| "server".to_owned());
        stored(&session, &client, &name, Window::of(&args)?, &emitter).await
    });

    let sig = Signature::new("monitoring_logs", "What the queries of an event artifact logged.")
        .required("client_id", ArgType::String, "The client; for server events `server`.")
        .required("artifact", ArgType::String, "The artifact, perhaps with /Source.")
        .arg("source", ArgType::String, "The source.")
        .arg("start_time", ArgType::Time, "Lines from then on.")
        .arg("end_time", ArgType::Time, "Lines before then.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let (client, mut name) = (args.string("client_id")?, args.string("artifact")?);
        if let Some(source) = args.opt_string("source")?.filter(|_| !name.contains('/')) {
            name = source_name(&name, &source);
        }
        let key = EventKey { client, artifact: name, day: String::new(), logs: true };
        read(&session, &key, Window::of(&args)?, &emitter).await
    });

    let sig = Signature::new("send_event", "Puts a row on an event queue of the server.")
        .required("artifact", ArgType::String, "The event artifact.")
        .required("row", ArgType::Dict, "The row.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::of(&scope)?;
        let name = args.string("artifact")?;
        let allowed = session.policy.allows(Permission::CollectServer);
        if !allowed && !session.policy.may_publish(&name) {
            session.require(Permission::CollectServer)?;
        }
        if session.org.repository.kind_of(&name) != Some(Kind::ServerEvent) {
            return Err(Error::failed(format!("{name} is not an event of the server")));
        }
        let mut row = (*args.dict("row")?).clone();
        row.set("_Sender", session.principal.as_str());
        let rows = Bytes::from(format!("{}\n", Value::from(row).to_json()));
        let (server, org) = (&session.server, &session.org);
        let pushed = server.push_rows(Worth::Rows, org, "server", &name, rows).await;
        pushed.map_err(Error::failed)?;
        Ok(true.into())
    });
}

/// What is still to be left out, and what is still to be shown.
struct Range {
    skip: u64,
    left: u64,
}

impl Range {
    /// Whether the next row is shown.
    fn takes(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let takes = self.left > 0;
        self.left = self.left.saturating_sub(1);
        takes
    }
}

/// Emits stored rows: those in day files, then those still in journals.
pub(super) async fn stored(
    session: &Session,
    client: &str,
    artifact: &str,
    window: Window,
    emitter: &Emitter,
) -> Result<(), Error> {
    let any = EventKey {
        client: client.to_owned(),
        artifact: artifact.to_owned(),
        day: String::new(),
        logs: false,
    };
    read(session, &any, window, emitter).await
}

async fn read(
    session: &Session,
    any: &EventKey,
    window: Window,
    emitter: &Emitter,
) -> Result<(), Error> {
    let (server, org) = (&session.server, &session.org);
    let EventView { files, live } = server.events(org, any).await.map_err(failed)?;
    let mut range = Range { skip: window.skip, left: window.count };
    let mut rows = files.rows(window.from, window.to);
    while let Some(row) = rows.next().await.map_err(Error::failed)? {
        if range.takes() {
            send(emitter, &row.shown()).await?;
        }
        if range.left == 0 {
            return Ok(());
        }
    }
    let mut journals = Extents::new(&*server.env.fs);
    for (key, part) in live {
        let nanos = i64::try_from(part.received).unwrap_or(i64::MAX).saturating_mul(1000);
        if nanos < window.from || nanos >= window.to {
            continue;
        }
        let blob = server.event_rows_in(&mut journals, &key, &part).await.map_err(failed)?;
        for line in lines(&blob) {
            if range.takes() {
                send(emitter, &with_ts(&blob.slice_ref(line), nanos / 1_000_000)).await?;
            }
        }
        if range.left == 0 {
            return Ok(());
        }
    }
    Ok(())
}
