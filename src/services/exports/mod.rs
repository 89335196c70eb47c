//! Exports: collections, hunts and notebooks as zip archives, notebooks also as pages, below `downloads/`, where stock
//! servers have them. An archive is made under a name that nobody looks at and gets
//! its own when it is whole; what became of it is told by an object beside it.
//!
//! Archives are read back by those who may read results; who may make them is the
//! caller's to check.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore, watch};
use velociraptor_proto::proto::{
    AvailableDownloadFile, AvailableDownloads, ContainerStats, Hunt as HuntObject,
};

use super::server::{Org, Server, ServiceError, fleet_dir};
use crate::store::paths::{
    Client, Hunt, download_stats, notebook_download, notebook_download_named, notebook_downloads,
};
use crate::store::{DirPath, FilePath, PathType, StoreError};

mod container;
mod content;
mod csv;
mod notebook;
mod page;
mod rows;
#[cfg(test)]
mod tests;
mod uploads;

use container::Container;
use content::Style;

/// Longest time a collection's archive takes, as stock.
const FLOW_TIME: Duration = Duration::from_secs(600);
/// Longest time a hunt's archive takes, as stock.
const HUNT_TIME: Duration = Duration::from_secs(3600);

/// How exports are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Archives made at the same time; others wait.
    pub at_once: usize,
    /// Longest time one takes, instead of 10 minutes for a collection and an hour
    /// for a hunt.
    pub timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self { at_once: 2, timeout: None }
    }
}

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON, one row a line.
    #[default]
    Json,
    /// Separated values.
    Csv,
    /// Both.
    Both,
}

impl Format {
    /// As stock callers name it.
    pub fn parse(text: &str) -> Result<Self, ServiceError> {
        match text {
            "" | "json" | "jsonl" => Ok(Self::Json),
            "csv" => Ok(Self::Both),
            "csv_only" => Ok(Self::Csv),
            other => Err(ServiceError::Invalid(format!(
                "format {other} is not known: json, jsonl, csv or csv_only"
            ))),
        }
    }

    /// Of the two wishes; none of them is JSON.
    pub fn of(json: bool, csv: bool) -> Self {
        match (json, csv) {
            (_, false) => Self::Json,
            (false, true) => Self::Csv,
            (true, true) => Self::Both,
        }
    }

    fn json(self) -> bool {
        self != Self::Csv
    }

    fn csv(self) -> bool {
        self != Self::Json
    }
}

/// What to export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// One collection.
    Flow {
        /// Its client.
        client: String,
        /// Its id.
        flow: String,
        /// Name of the archive, instead of one made of host, client and collection.
        name: Option<String>,
    },
    /// All collections of a hunt.
    Hunt {
        /// Its id.
        hunt: String,
        /// Only the rows of all clients together.
        combined_only: bool,
        /// What the archive's name begins with.
        base: String,
    },
    /// A notebook. Whether the caller may open it is looked at before.
    Notebook {
        /// Its id.
        id: String,
        /// A page for people instead of an archive.
        html: bool,
        /// Name of the export, instead of one made of the notebook and the time.
        name: Option<String>,
    },
}

/// An export that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Of what.
    pub what: What,
    /// With rows how.
    pub format: Format,
    /// Locks the archive unless empty.
    pub password: String,
    /// Sparse files are filled up if they are mostly data or small.
    pub expand_sparse: bool,
}

/// An export that was begun.
#[derive(Clone, Debug)]
pub struct Export {
    /// Where it will be.
    pub at: FilePath,
    done: watch::Receiver<Option<Result<(), String>>>,
}

impl Export {
    /// Waits until it is there, or has failed.
    pub async fn wait(mut self) -> Result<(), ServiceError> {
        let ended = self.done.wait_for(Option::is_some).await;
        let ended = ended.map_err(|_| ServiceError::Invalid("the server is stopping".into()))?;
        match &*ended {
            Some(Err(e)) => Err(ServiceError::Invalid(e.clone())),
            _ => Ok(()),
        }
    }
}

/// The exports of this process.
#[derive(Debug)]
pub struct Exports {
    slots: Arc<Semaphore>,
    running: Mutex<BTreeMap<String, ()>>,
    number: AtomicU64,
    swept: OnceCell<()>,
    /// Archives finished.
    pub finished: AtomicU64,
    /// Archives that could not be made.
    pub failed: AtomicU64,
}

impl Exports {
    /// None yet.
    pub fn new(options: &Options) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(options.at_once.max(1))),
            running: Mutex::default(),
            number: AtomicU64::new(0),
            swept: OnceCell::new(),
            finished: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, ()>) -> T) -> T {
        f(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Archives that are being made or wait for their turn.
    pub fn running(&self) -> usize {
        self.with(|r| r.len())
    }
}

/// What is known before an archive is begun.
enum Job {
    Flow { client: String, flow: String },
    Hunt { hunt: Box<HuntObject>, combined_only: bool },
    Notebook { id: String, html: bool },
}

impl Server {
    /// Begins an export. It goes on by itself, whoever waits.
    pub async fn export(
        self: &Arc<Self>,
        org: &Arc<Org>,
        request: Request,
    ) -> Result<Export, ServiceError> {
        if !self.is_master() {
            return Err(ServiceError::Invalid("only the master makes exports".into()));
        }
        let locked = !request.password.is_empty();
        let (at, job, limit) = match request.what {
            What::Flow { client, flow, name } => {
                let path = Client { org: &org.id, id: &client };
                let path = path.flow(&flow);
                if self.flow(org, &client, &flow).await?.is_none() {
                    return Err(ServiceError::NotFound(format!("{flow} of {client}")));
                }
                let host = match client.as_str() {
                    "server" => "server".to_owned(),
                    id => {
                        let state = org.state();
                        state.clients.get(id).map(|c| c.info.hostname.clone()).unwrap_or_default()
                    }
                };
                let at = match &name {
                    Some(name) => path.download_named(name),
                    None => path.download(&host, locked),
                };
                (at, Job::Flow { client, flow }, FLOW_TIME)
            }
            What::Hunt { hunt, combined_only, base } => {
                let found = self.hunt(org, &hunt, true);
                let found = found.ok_or_else(|| ServiceError::NotFound(format!("hunt {hunt}")))?;
                let path = Hunt { org: &org.id, id: &hunt };
                let at = path.download(&base, combined_only, locked);
                (at, Job::Hunt { hunt: Box::new(found), combined_only }, HUNT_TIME)
            }
            What::Notebook { id, html, name } => {
                let now = i64::try_from(self.env.clock.unix()).unwrap_or(0);
                let stamp =
                    vql::Time::from_second(now).map(|t| t.strftime("%Y%m%d%H%M%SZ").to_string());
                let stamp = stamp.unwrap_or_default();
                let at = match &name {
                    Some(name) => notebook_download_named(&org.id, &id, name, html),
                    None => notebook_download(&org.id, &id, &stamp, html),
                };
                if name.is_none() && self.tree.get(&download_stats(&at)).await?.is_some() {
                    let text = "an export of this second is there already; ask again".to_owned();
                    return Err(ServiceError::Invalid(text));
                }
                (at, Job::Notebook { id, html }, FLOW_TIME)
            }
        };
        let stock = self.tree.root.file(&at).map_err(StoreError::from)?;
        let fresh = self.exports.with(|r| r.insert(stock.clone(), ()).is_none());
        if !fresh {
            let name = at.0.named_components().pop().unwrap_or_default();
            return Err(ServiceError::Invalid(format!("{name} is being made already")));
        }
        let running = Running { server: self.clone(), stock };
        self.exports.swept.get_or_init(|| self.sweep_exports()).await;
        self.tree.record_long_names(&at.0).await?;
        self.tree.set(&download_stats(&at), &container::first_stats(&self.env, &at)).await?;
        let (tell, done) = watch::channel(None);
        let style = Style { format: request.format, expand_sparse: request.expand_sparse };
        let limit = self.options.exports.timeout.unwrap_or(limit);
        let (server, org, place) = (self.clone(), org.clone(), at.clone());
        self.env.spawn_gui(async move {
            let running = running;
            let ended = server.make(&org, job, &place, &request.password, (style, limit)).await;
            if let Err(e) = &ended {
                tracing::warn!(archive = running.stock, error = %e, "export failed");
                server.exports.failed.fetch_add(1, Ordering::Relaxed);
                let mut stats = container::first_stats(&server.env, &place);
                stats.error = e.to_string();
                if let Err(e) = server.tree.set(&download_stats(&place), &stats).await {
                    tracing::warn!(error = %e, "the end of an export could not be noted");
                }
            } else {
                server.exports.finished.fetch_add(1, Ordering::Relaxed);
            }
            drop(running);
            let _ = tell.send(Some(ended.map_err(|e| e.to_string())));
        });
        Ok(Export { at, done })
    }

    async fn make(
        self: &Arc<Self>,
        org: &Arc<Org>,
        job: Job,
        at: &FilePath,
        password: &str,
        (style, limit): (Style, Duration),
    ) -> Result<(), ServiceError> {
        let slots = self.exports.slots.clone();
        let stopping = |_| ServiceError::Invalid("the server is stopping".into());
        let _slot = slots.acquire_owned().await.map_err(stopping)?;
        let n = self.exports.number.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{}{n}", self.own_exports());
        let work = async {
            let (env, tree) = (&self.env, &self.tree);
            if let Job::Notebook { id, html: true } = &job {
                let page = page::Page::create(env, tree, at.clone(), temporary.clone()).await?;
                return notebook::page((self, org), page, id).await;
            }
            let mut c =
                Container::create(env, tree, at.clone(), temporary.clone(), password).await?;
            let place = (self, org);
            match &job {
                Job::Flow { client, flow } => {
                    content::flow(place, &mut c, &[], (client, flow), style).await?;
                }
                Job::Hunt { hunt, combined_only } => {
                    content::hunt(place, &mut c, hunt, *combined_only, style).await?;
                }
                Job::Notebook { id, .. } => notebook::archive(place, &mut c, id).await?,
            }
            c.finish().await.map(drop)
        };
        let ended = match tokio::time::timeout(limit, work).await {
            Ok(ended) => ended,
            Err(_) => Err(ServiceError::Timeout("Timeout".into())),
        };
        if ended.is_err() {
            // It may not have been begun, or have its own name by now.
            let _ = self.env.fs.remove(&temporary).await;
        }
        ended
    }

    /// What names of unfinished archives of this process begin with.
    fn own_exports(&self) -> String {
        let fleet = fleet_dir(&self.tree.root);
        format!("{fleet}/exports/{}.{}.", self.options.node, self.epoch.name())
    }

    /// Removes what earlier masters did not finish.
    async fn sweep_exports(&self) {
        let dir = format!("{}/exports", fleet_dir(&self.tree.root));
        let own = self.own_exports();
        let found = match self.env.fs.list(&dir).await {
            Ok(found) => found,
            Err(e) => return tracing::warn!(error = %e, "unfinished exports are not looked for"),
        };
        for e in found {
            let path = format!("{dir}/{}", e.name);
            if !path.starts_with(&own)
                && let Err(e) = self.env.fs.remove(&path).await
            {
                tracing::warn!(path, error = %e, "an unfinished export stays");
            }
        }
    }

    /// Archives of a collection.
    pub async fn flow_exports(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
    ) -> Result<AvailableDownloads, ServiceError> {
        let path = Client { org: &org.id, id: client };
        self.available(&path.flow(flow).downloads()).await
    }

    /// Archives of a hunt.
    pub async fn hunt_exports(
        &self,
        org: &Org,
        hunt: &str,
    ) -> Result<AvailableDownloads, ServiceError> {
        self.available(&Hunt { org: &org.id, id: hunt }.downloads()).await
    }

    /// Exports of a notebook.
    pub async fn notebook_exports(
        &self,
        org: &Org,
        id: &str,
    ) -> Result<AvailableDownloads, ServiceError> {
        self.available(&notebook_downloads(&org.id, id)).await
    }

    async fn available(&self, dir: &DirPath) -> Result<AvailableDownloads, ServiceError> {
        let mut files = Vec::new();
        for child in self.tree.children(&DirPath::objects(dir.0.clone())).await? {
            if child.is_dir {
                continue;
            }
            let object = crate::store::ObjectPath::<ContainerStats>::new(
                dir.0.clone().child(&[&child.name]).typed(PathType::ObjectJson),
            );
            let Some(mut stats) = self.tree.get(&object).await? else { continue };
            let complete = !stats.hash.is_empty();
            if !complete && stats.error.is_empty() && !self.makes(&object) {
                stats.error = "the server was stopped while it made this".into();
            }
            files.push(AvailableDownloadFile {
                name: child.name.clone(),
                complete,
                size: stats.total_compressed_bytes,
                path: stats.components.join("/"),
                r#type: stats.r#type.clone(),
                stats: Some(stats),
                ..Default::default()
            });
        }
        Ok(AvailableDownloads { files })
    }

    /// Whether the archive with this record is being made.
    fn makes(&self, record: &crate::store::ObjectPath<ContainerStats>) -> bool {
        [PathType::Zip, PathType::Report].into_iter().any(|kind| {
            let at = FilePath(record.path.clone()).typed(kind);
            let stock = self.tree.root.file(&at).unwrap_or_default();
            self.exports.with(|r| r.contains_key(&stock))
        })
    }
}

/// An archive is being made until this is gone.
struct Running {
    server: Arc<Server>,
    stock: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.exports.with(|r| r.remove(&self.stock));
    }
}
