//! Settling: what journals hold gets its stock files, once.
//!
//! A complete file is written under a name of our own, synced, and linked to
//! its stock name; a name that is taken already is compared, not overwritten
//! blindly. Data comes before its index. When all of a flow is in stock files,
//! a record says so, and the journals behind it are free to go.

use std::io::ErrorKind;

use bytes::Bytes;
use velociraptor_proto::journal::SettledFlow;
use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::proto::artifact_collector_context::State;
use velociraptor_proto::proto::{
    ApiFlowRequestDetails, ArtifactCollectorArgs, ArtifactCollectorContext,
};

use super::flows::{LiveFlow, LiveSet, Rows, rows_path};
use super::server::{Counters, Org, Server, ServiceError};
use super::state::FlowKey;
use crate::env::Mutant;
use crate::env::fs::parent;
use crate::store::journal::Extents;
use crate::store::resultset::SetWriter;
use crate::store::{FilePath, StoreError, StoreKind, paths};

/// Files of one settled thing: our names and the stock names, data first.
struct Placed {
    temporary: String,
    stock: String,
}

impl Server {
    /// Writes the objects of a flow that changed: its context, request and task.
    pub async fn write_flow_objects(&self, org: &Org, key: &FlowKey) -> Result<(), ServiceError> {
        let now = self.env.clock.micros();
        let (context, reports) = {
            let mut state = org.state();
            let Some(f) = state.flows.get_mut(key) else { return Ok(()) };
            f.dirty = false;
            let Some(c) = f.snapshot(now) else { return Ok(()) };
            (as_stored(c), f.reports.clone())
        };
        let done = self.put_objects(org, key, context, !reports.is_empty()).await;
        if done.is_err()
            && let Some(f) = org.state().flows.get_mut(key)
        {
            f.dirty = true;
        }
        done
    }

    async fn put_objects(
        &self,
        org: &Org,
        (client, flow): &FlowKey,
        context: ArtifactCollectorContext,
        reported: bool,
    ) -> Result<(), ServiceError> {
        let path = paths::Client { org: &org.id, id: client };
        let path = path.flow(flow);
        let task = self.flow_requests(org, client, flow).await?;
        let request = context.request.clone();
        // Of a flow that was opened again the full request is there.
        if let Some(request) = request.as_ref().filter(|r| !r.summary) {
            let full = ArtifactCollectorContext {
                session_id: flow.clone(),
                client_id: client.clone(),
                request: Some(redacted(request.clone())),
                previous_flows: context.previous_flows.clone(),
                ..Default::default()
            };
            self.tree.set(&path.requests(), &full).await?;
            self.tree
                .set(
                    &path.task(),
                    &ApiFlowRequestDetails { items: redacted_tasks(task), ..Default::default() },
                )
                .await?;
        }
        if reported {
            let stats = ArtifactCollectorContext {
                request: None,
                previous_flows: vec![],
                ..context.clone()
            };
            self.tree.set(&path.stats(), &stats).await?;
        }
        // Last, so that a context is never there without what it points at.
        let summary = ArtifactCollectorContext {
            request: request.map(summary),
            query_stats: vec![],
            previous_flows: vec![],
            ..context
        };
        self.tree.set(&path.context(), &summary).await?;
        Ok(())
    }

    /// Puts everything of a flow into stock files and forgets it.
    pub async fn settle_flow(&self, org: &Org, key: &FlowKey) -> Result<(), ServiceError> {
        // Something is coming in: later.
        let Some(_closed) = org.gates.try_close(key.clone()) else { return Ok(()) };
        self.settle_quiet_flow(org, key).await
    }

    async fn settle_quiet_flow(&self, org: &Org, key: &FlowKey) -> Result<(), ServiceError> {
        self.write_flow_objects(org, key).await?;
        self.follow_hunt_end(org, key).await?;
        let Some(f) = org.state().flows.get(key).cloned() else { return Ok(()) };
        let (client, flow) = key;
        for (name, set) in &f.results {
            self.settle_set(org, key, &Rows::Results(name.clone()), set).await?;
        }
        self.settle_set(org, key, &Rows::Logs, &f.logs).await?;
        self.settle_set(org, key, &Rows::Transactions, &f.transactions).await?;
        super::settle_uploads::settle(self, org, key, &f).await?;
        self.keep_aside(org, key, &f).await?;
        let unchanged = org
            .state()
            .flows
            .get(key)
            .is_some_and(|now| now.last_received == f.last_received && !now.dirty);
        if !unchanged {
            return Ok(()); // more came meanwhile: settle again later
        }
        super::part_runs::keep(self, &org.id, key, &f).await?;
        let goes_on = !f.over();
        let kind = Kind::SettledFlow(SettledFlow { flow_id: flow.clone(), goes_on });
        let at = self.decide_alone(org, client, "", kind).await?;
        org.state().settled_flow(client, flow, at, goes_on);
        if f.kept_parts && f.uploads_complete() {
            super::part_uploads::forget(self, &org.id, client, flow).await;
        }
        Counters::inc(&self.counters.settled);
        Ok(())
    }

    async fn settle_set(
        &self,
        org: &Org,
        (client, flow): &FlowKey,
        which: &Rows,
        set: &LiveSet,
    ) -> Result<(), ServiceError> {
        if set.is_empty() || set.rows() == 0 {
            return Ok(());
        }
        let stock = rows_path(org, client, flow, which);
        self.tree.record_long_names(&stock.0).await?;
        let data = self.tree.temp(StoreKind::Files);
        let index = format!("{data}.index");
        let written = self.write_set(&data, &index, &stock, set).await;
        self.or_discard(&[&data, &index], written).await?;
        let files = self.placed(&stock, data, index)?;
        self.place(files, set.base > 0).await
    }

    async fn write_set(
        &self,
        data: &str,
        index: &str,
        stock: &FilePath,
        set: &LiveSet,
    ) -> Result<(), ServiceError> {
        let mut w = SetWriter::create(&*self.env.fs, data, index).await?;
        if set.base > 0 {
            let before = crate::store::resultset::ResultSet::open(&self.tree, stock).await?;
            let mut rows = before.rows(0).await?;
            for _ in 0..set.base {
                let Some(row) = rows.next().await? else { break };
                w.row(&row).await?;
            }
        }
        let mut journals = Extents::new(&*self.env.fs);
        for (_, part) in set.parts() {
            let blob = self.journal_rows(&mut journals, &part.extent).await?;
            w.jsonl(&blob).await?;
        }
        w.finish().await?;
        Ok(())
    }

    /// Removes what an attempt that failed left under names of its own: on a
    /// full disk each further attempt would leave more.
    pub(super) async fn or_discard<T>(
        &self,
        names: &[&str],
        done: Result<T, ServiceError>,
    ) -> Result<T, ServiceError> {
        if done.is_err() {
            for name in names {
                let _ = self.env.fs.remove(name).await;
            }
        }
        done
    }

    fn placed(
        &self,
        stock: &FilePath,
        data: String,
        index: String,
    ) -> Result<Vec<Placed>, ServiceError> {
        let root = &self.tree.root;
        Ok(vec![
            Placed { temporary: data, stock: root.file(stock).map_err(StoreError::from)? },
            Placed {
                temporary: index,
                stock: root.file(&stock.index()).map_err(StoreError::from)?,
            },
        ])
    }

    /// Gives finished files their stock names. `replace` says that the names
    /// are taken by what the new files continue.
    async fn place(&self, files: Vec<Placed>, replace: bool) -> Result<(), ServiceError> {
        let names: Vec<&str> = files.iter().map(|f| f.temporary.as_str()).collect();
        self.or_discard(&names, self.name_files(&files, replace).await).await
    }

    async fn name_files(&self, files: &[Placed], replace: bool) -> Result<(), ServiceError> {
        let fs = &*self.env.fs;
        let mut files: Vec<&Placed> = files.iter().collect();
        if self.env.sabotage.is(Mutant::IndexBeforeData) {
            files.reverse();
        }
        for f in &files {
            if replace {
                fs.rename(&f.temporary, &f.stock).await.map_err(StoreError::from)?;
            } else {
                self.link(&f.temporary, &f.stock).await?;
            }
        }
        if let Some(f) = files.first() {
            fs.sync_dir(parent(&f.stock)).await.map_err(StoreError::from)?;
        }
        Ok(())
    }

    /// Links `temporary` to `stock` and drops the temporary name. A stock name
    /// that is taken: if it holds a beginning of ours, or ours its beginning,
    /// the longer stays; other content stays too, and ours is kept aside.
    pub(super) async fn link(&self, temporary: &str, stock: &str) -> Result<(), ServiceError> {
        let fs = &*self.env.fs;
        match fs.link(temporary, stock).await {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                match self.compare(temporary, stock).await? {
                    Compared::OursIsLonger => {
                        fs.rename(temporary, stock).await.map_err(StoreError::from)?;
                        return Ok(());
                    }
                    Compared::TheirsHoldsOurs => {}
                    Compared::Different => {
                        let name = format!("{:016x}", self.env.entropy.next_u64());
                        let aside = self.own_path("aside", &name);
                        tracing::error!(
                            stock,
                            aside,
                            "stock name is taken by other content; ours is kept aside"
                        );
                        Counters::inc(&self.counters.conflicts);
                        fs.rename(temporary, &aside).await.map_err(StoreError::from)?;
                        return Ok(());
                    }
                }
            }
            Err(e) => return Err(StoreError::from(e).into()),
        }
        match fs.remove(temporary).await {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                tracing::warn!(path = temporary, error = %e, "temporary name not removed");
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether two names are one file, or two of the same content.
    pub(super) async fn same_file(&self, ours: &str, theirs: &str) -> Result<bool, ServiceError> {
        let fs = &*self.env.fs;
        let err = |e| ServiceError::from(StoreError::from(e));
        let (a, b) = (fs.stat(ours).await.map_err(err)?, fs.stat(theirs).await.map_err(err)?);
        if a.inode == b.inode {
            return Ok(true);
        }
        let same = a.len == b.len;
        Ok(same && self.compare(ours, theirs).await? == Compared::TheirsHoldsOurs)
    }

    async fn compare(&self, ours: &str, theirs: &str) -> Result<Compared, ServiceError> {
        const BLOCK: usize = 1 << 20;
        let fs = &*self.env.fs;
        let err = |e| ServiceError::from(StoreError::from(e));
        // A link of ours whose reply was lost, or that an earlier process made.
        if fs.stat(ours).await.map_err(err)?.inode == fs.stat(theirs).await.map_err(err)?.inode {
            return Ok(Compared::TheirsHoldsOurs);
        }
        let a = fs.open(ours, crate::env::Open::Read).await.map_err(err)?;
        let b = fs.open(theirs, crate::env::Open::Read).await.map_err(err)?;
        let (la, lb) = (a.size().await.map_err(err)?, b.size().await.map_err(err)?);
        let mut at = 0;
        while at < la.min(lb) {
            let n = BLOCK.min((la.min(lb) - at) as usize);
            let (x, y) =
                (a.read_at(at, n).await.map_err(err)?, b.read_at(at, n).await.map_err(err)?);
            if x != y || x.is_empty() {
                return Ok(Compared::Different);
            }
            at += x.len() as u64;
        }
        Ok(if la > lb { Compared::OursIsLonger } else { Compared::TheirsHoldsOurs })
    }

    /// Messages whose place was taken stay readable in the journal.
    async fn keep_aside(&self, org: &Org, key: &FlowKey, f: &LiveFlow) -> Result<(), ServiceError> {
        let sets = f.results.values().chain([&f.logs, &f.transactions]);
        for part in sets.flat_map(LiveSet::aside) {
            let raw = part.extent.read(&*self.env.fs).await.map_err(StoreError::from)?;
            let path = self.own_path("aside", &hex::encode(part.hash));
            tracing::warn!(org = %org.id, client = key.0, flow = key.1, path, "conflicting message kept aside");
            match crate::env::fs::create_synced(&*self.env.fs, &path, &raw).await {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                    return Err(StoreError::from(e).into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[derive(PartialEq, Eq)]
enum Compared {
    OursIsLonger,
    TheirsHoldsOurs,
    Different,
}

/// A context as stock files hold it. What a flow that goes on is shown as, waiting or
/// in progress, is worked out whenever it is read: a stock server never lets a flow end
/// of which that is stored.
fn as_stored(mut c: ArtifactCollectorContext) -> ArtifactCollectorContext {
    if matches!(c.state(), State::Waiting | State::InProgress | State::Unresponsive) {
        c.state = State::Running.into();
    }
    c
}

/// A request as the small context object holds it: without compiled queries.
fn summary(mut r: ArtifactCollectorArgs) -> ArtifactCollectorArgs {
    r.compiled_collector_args.clear();
    r.summary = true;
    r
}

fn redacted(mut r: ArtifactCollectorArgs) -> ArtifactCollectorArgs {
    for q in &mut r.compiled_collector_args {
        super::compiler::redact(q);
    }
    r
}

fn redacted_tasks(
    mut tasks: Vec<velociraptor_proto::proto::VeloMessage>,
) -> Vec<velociraptor_proto::proto::VeloMessage> {
    for t in &mut tasks {
        for q in t.flow_request.iter_mut().flat_map(|f| &mut f.vql_client_actions) {
            super::compiler::redact(q);
        }
    }
    tasks
}

/// Rows as one blob, for small sets built in memory.
pub(super) fn blob(rows: &[serde_json::Value]) -> Bytes {
    let mut out = String::new();
    for r in rows {
        out.push_str(&r.to_string());
        out.push('\n');
    }
    out.into()
}

impl Server {
    /// Writes a small set built in memory to its stock name.
    /// Adds rows to a set of this process alone that has `there` rows; readers see
    /// it before or after.
    pub async fn add_rows(
        &self,
        stock: &FilePath,
        there: u64,
        rows: &Bytes,
    ) -> Result<(), ServiceError> {
        self.settle_rows(stock, there, rows).await
    }

    pub(crate) async fn settle_rows(
        &self,
        stock: &FilePath,
        base: u64,
        rows: &Bytes,
    ) -> Result<(), ServiceError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.tree.record_long_names(&stock.0).await?;
        let data = self.tree.temp(StoreKind::Files);
        let index = format!("{data}.index");
        let written = async {
            let mut w = SetWriter::create(&*self.env.fs, &data, &index).await?;
            for row in crate::store::resultset::read_rows(&self.tree, stock, 0, base).await? {
                w.row(&row).await?;
            }
            w.jsonl(rows).await?;
            w.finish().await?;
            Ok(())
        };
        self.or_discard(&[&data, &index], written.await).await?;
        let files = self.placed(stock, data, index)?;
        self.place(files, base > 0).await
    }
}
