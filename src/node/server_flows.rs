//! Collections on the server itself: the pseudo client `server` of each
//! organisation is an agent inside of this process. Its tasks are delivered,
//! and what it says is stored, the way every client's is.
//!
//! Queries run with the rights of whoever asked for the collection, as they are
//! when it starts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use velociraptor_proto::proto::{VeloMessage, VqlCollectorArgs};
use vql::{Registry, ScopeBuilder};

use super::server_events::Table;
use crate::agent::events::MONITORING;
use crate::agent::local::Local;
use crate::agent::query::Extend;
use crate::agent::settings::Settings;
use crate::frontend::Frontend;
use crate::plugins::common::Host;
use crate::plugins::server::Session;
use crate::plugins::server::files::accessors;
use crate::services::flows::job::Hash;
use crate::services::ids::{OrgId, Session as FlowSession};
use crate::services::tasks::{Reply, Way};
use crate::services::{Org, Server};

/// The pseudo client.
pub(super) const SERVER: &str = "server";
/// How often new work is looked for.
const POLL: Duration = Duration::from_millis(200);
/// How long a batch that could not be stored waits for the next attempt.
const AGAIN: Duration = Duration::from_secs(2);
/// Collections that run at the same time in one organisation.
const CONCURRENCY: usize = 20;

/// Who a flow's queries run as: by flow and effective principal.
#[derive(Clone, Default)]
pub(super) struct Callers(Arc<Mutex<Sessions>>);

type Sessions = BTreeMap<(String, String), Arc<Session>>;

impl Callers {
    fn with<T>(&self, f: impl FnOnce(&mut Sessions) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that queries of `flow` for `effective` run as this caller.
    pub fn insert(&self, flow: &str, effective: &str, session: Session) {
        let key = (flow.to_owned(), effective.to_owned());
        self.with(|all| all.insert(key, Arc::new(session)));
    }
}

/// Runs collections on the server, with the callables of `registry`, until `stop`.
pub(super) async fn run(frontend: Arc<Frontend>, registry: Arc<Registry>, stop: CancellationToken) {
    let server = frontend.server().clone();
    let mut agents: BTreeMap<OrgId, Runner> = BTreeMap::new();
    loop {
        for org in server.orgs() {
            if !agents.contains_key(&org.id) {
                fail_lost(&server, &org).await;
            }
            let runner = agents
                .entry(org.id.clone())
                .or_insert_with(|| Runner::start(&frontend, &registry, &org, &stop));
            let waits = org.state().clients.get(SERVER).is_some_and(|c| c.queue.has_work());
            if waits {
                runner.turn(&server).await;
            }
            runner.follow_table(&server).await;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// Ends what an earlier process had begun: its queries are gone, and running
/// them again could do twice what they do.
async fn fail_lost(server: &Arc<Server>, org: &Arc<Org>) {
    let lost: Vec<String> = {
        let state = org.state();
        let client = state.clients.get(SERVER);
        let waiting: BTreeSet<String> = client
            .iter()
            .flat_map(|c| c.queue.unsent())
            .map(|m| FlowSession::parse(&m.session_id).flow)
            .collect();
        let all = state.flows.range((SERVER.to_owned(), String::new())..);
        all.take_while(|(key, _)| key.0 == SERVER)
            .filter(|(key, f)| f.context.is_some() && !f.over() && !waiting.contains(&key.1))
            .map(|(key, _)| key.1.clone())
            .collect()
    };
    for flow_id in lost {
        let reason = "The server was restarted while it ran this collection";
        server.end_lost(org, (SERVER.to_owned(), flow_id), reason).await;
    }
}

/// The agent of one organisation.
struct Runner {
    org: Arc<Org>,
    cipher: Hash,
    local: Arc<Local>,
    callers: Callers,
    table: Table,
}

impl Runner {
    fn start(
        frontend: &Arc<Frontend>,
        registry: &Arc<Registry>,
        org: &Arc<Org>,
        stop: &CancellationToken,
    ) -> Runner {
        let server = frontend.server();
        let env = server.env.clone();
        let callers = Callers::default();
        let known = callers.clone();
        // Queries find whose they are by the session they run in.
        let extend: Extend =
            Arc::new(move |builder: ScopeBuilder, session: &str, args: &VqlCollectorArgs| {
                let flow = FlowSession::parse(session).flow;
                let key = (flow, args.effective_principal.clone());
                match known.with(|all| all.get(&key).cloned()) {
                    Some(caller) => {
                        let accessors = Arc::new(accessors(&caller, &Host::default()));
                        builder.extension(accessors).extension(caller)
                    }
                    // Without a caller every callable of a server refuses.
                    None => builder,
                }
            });
        let settings = Settings {
            nonce: org.nonce.clone(),
            // It has no file of its own.
            writeback: String::new(),
            concurrency: CONCURRENCY,
            ..Settings::default()
        };
        let local = Arc::new(Local::new(&env, settings, registry.clone(), extend));
        let mut cipher = [0; 16];
        env.entropy.fill(&mut cipher);
        let (f, o, l, stop) = (frontend.clone(), org.clone(), local.clone(), stop.clone());
        env.spawn_gui(async move { pump(f, o, cipher, l, stop).await });
        Runner { org: org.clone(), cipher, local, callers, table: Table::default() }
    }

    /// Runs the event artifacts that are to run on the server now.
    async fn follow_table(&mut self, server: &Arc<Server>) {
        let Runner { org, local, callers, table, .. } = self;
        if let Err(e) = table.follow(server, org, local, callers).await {
            tracing::error!(org = %org.id, error = %e, "event artifacts of the server stay as they are");
        }
    }

    /// Takes what waits and starts it.
    async fn turn(&self, server: &Arc<Server>) {
        let mut request = [0; 16];
        server.env.entropy.fill(&mut request);
        let now = server.env.clock.micros();
        self.org.state().clients.entry(SERVER).queue.checked_in(self.cipher, request, now);
        let messages = server
            .next_tasks(&self.org, SERVER, self.cipher, Way::Reply(Reply::frame(request)))
            .await;
        for message in messages {
            if let Err(e) = self.remember_callers(server, &message).await {
                tracing::error!(flow = message.session_id, error = %e, "caller of a collection not known");
            }
            self.local.handle(message).await;
        }
        // Nothing is lost on the way from here to there.
        let now = server.env.clock.micros();
        let mut state = self.org.state();
        state.clients.entry(SERVER).queue.frame_consumed(self.cipher, request, now);
    }

    /// Notes with whose rights the queries of a flow run.
    async fn remember_callers(
        &self,
        server: &Arc<Server>,
        message: &VeloMessage,
    ) -> anyhow::Result<()> {
        let Some(request) = &message.flow_request else { return Ok(()) };
        let flow = FlowSession::parse(&message.session_id).flow;
        let creator = {
            let state = self.org.state();
            let known = state.flows.get(&(SERVER.to_owned(), flow.clone()));
            let request = known.and_then(|f| f.context.as_ref()?.request.as_ref());
            request.map(|r| r.creator.clone()).unwrap_or_default()
        };
        let wanted: BTreeSet<&str> =
            request.vql_client_actions.iter().map(|a| a.effective_principal.as_str()).collect();
        for effective in wanted {
            let principal = if effective.is_empty() { &creator } else { effective };
            let session = Session {
                server: server.clone(),
                org: self.org.clone(),
                principal: principal.to_owned(),
                policy: server.users.policy(&self.org.id, principal).await?,
            };
            self.callers.insert(&flow, effective, session);
        }
        self.forget_callers();
        Ok(())
    }

    /// Flows that are over need nobody any more.
    fn forget_callers(&self) {
        let state = self.org.state();
        let over = |flow: &str| {
            state.flows.get(&(SERVER.to_owned(), flow.to_owned())).is_none_or(|f| f.over())
        };
        self.callers.with(|all| all.retain(|(flow, _), _| flow == MONITORING || !over(flow)));
    }
}

/// Stores what the agent says. What could not be stored is said again.
async fn pump(
    frontend: Arc<Frontend>,
    org: Arc<Org>,
    cipher: Hash,
    local: Arc<Local>,
    stop: CancellationToken,
) {
    loop {
        while let Some(batch) = local.next().await {
            match frontend.ingest_own(&org, SERVER, cipher, &batch.lists, batch.urgent).await {
                Ok(()) => local.commit(batch).await,
                Err(e) => {
                    tracing::warn!(error = %e, "rows of a collection on the server not stored yet");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = local.filled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::PrivateKey;
    use crate::crypto::certs::Authority;
    use crate::frontend::{Identity, Limits};
    use crate::services::Options;
    use crate::services::flows::Rows;
    use crate::store::StoreRoot;
    use velociraptor_proto::proto::artifact_collector_context::State;
    use velociraptor_proto::proto::{
        ApiClientAcl, ArtifactCollectorArgs, ArtifactCollectorContext, ArtifactParameters,
        ArtifactSpec, VqlEnv,
    };

    const TEXT: &str = "name: Custom.Server\ntype: SERVER\nparameters:\n- name: N\n  type: int\n\
        sources:\n- name: Rows\n  query: |\n    SELECT N + 1 AS M, whoami() AS Who, \
        get(item=client_info(client_id='C.1'), field='client_id') AS C, \
        log(message='from the server') AS L FROM scope()\n";
    const SLOW: &str = "name: Custom.Slow\ntype: SERVER\nsources:\n- query: |\n    \
        SELECT sleep(time=600) AS S FROM scope()\n";

    struct World {
        dir: tempfile::TempDir,
        identity: Identity,
    }

    impl World {
        fn new() -> World {
            let env = crate::env::real::env();
            let now = env.clock.now();
            let ca = Authority::generate(&*env.entropy, now).unwrap();
            let key = PrivateKey::generate().unwrap();
            let name = "VelociraptorServer";
            let cert = ca.issue(&*env.entropy, now, 365, name, key.public()).unwrap();
            let identity = Identity::new(&cert.to_pem(), &key.to_pem(), &[]).unwrap();
            World { dir: tempfile::tempdir().unwrap(), identity }
        }

        async fn start(&self) -> (Arc<Server>, CancellationToken) {
            let env = crate::env::real::env();
            let root = StoreRoot::single(self.dir.path().to_str().unwrap());
            // The process before is not waited for: it does not end by itself here.
            let mut options = Options::default();
            options.standing.term.takeover = true;
            let server = Server::open(env.clone(), root, options).await.unwrap();
            let frontend = Frontend::new(server.clone(), self.identity.clone(), Limits::default());
            frontend.take_over().await;
            let stop = CancellationToken::new();
            env.spawn(run(frontend, crate::plugins::server::registry(), stop.clone()));
            (server, stop)
        }
    }

    async fn user(server: &Server, name: &str, role: &str) {
        if server.users.get(name).await.unwrap().is_none() {
            server.users.create(name).await.unwrap();
        }
        let acl = ApiClientAcl { roles: vec![role.into()], ..Default::default() };
        server.users.set_acl(&OrgId::root(), name, &acl).await.unwrap();
    }

    async fn collect(server: &Server, who: &str, artifact: &str) -> Result<String, String> {
        let env = vec![VqlEnv { key: "N".into(), value: "41".into(), ..Default::default() }];
        let spec = ArtifactSpec {
            artifact: artifact.into(),
            parameters: Some(ArtifactParameters { env }),
            ..Default::default()
        };
        let request = ArtifactCollectorArgs {
            client_id: SERVER.into(),
            artifacts: vec![artifact.into()],
            specs: vec![spec],
            ..Default::default()
        };
        let org = server.root();
        let policy = server.users.policy(&org.id, who).await.unwrap();
        let started = server.collect(&org, who, &policy, request).await;
        started.map(|s| s.flow_id).map_err(|e| e.to_string())
    }

    /// Waits until the flow is as wanted.
    async fn until(
        server: &Server,
        flow: &str,
        wanted: impl Fn(&ArtifactCollectorContext) -> bool,
    ) -> ArtifactCollectorContext {
        let waiting = async {
            loop {
                let found = server.flow(&server.root(), SERVER, flow).await.unwrap();
                if let Some(context) = found.filter(|c| wanted(c)) {
                    return context;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), waiting).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn artifacts_run_on_the_server_with_the_rights_of_who_asked() {
        let world = World::new();
        let (server, stop) = world.start().await;
        let org = server.root();
        org.state().clients.entry("C.1");
        for text in [TEXT, SLOW] {
            server.set_artifact(&org, "admin", text).await.unwrap();
        }
        user(&server, "admin", "administrator").await;
        user(&server, "reader", "reader").await;
        let flow = collect(&server, "admin", "Custom.Server").await.unwrap();
        let over =
            |c: &ArtifactCollectorContext| matches!(c.state(), State::Finished | State::Error);
        let context = until(&server, &flow, over).await;
        assert_eq!(
            (context.state(), context.total_collected_rows),
            (State::Finished, 1),
            "{context:?}"
        );
        let which = Rows::Results("Custom.Server/Rows".into());
        let rows = server.rows(&org, SERVER, &flow, &which, 0, 10).await.unwrap();
        let row = String::from_utf8_lossy(&rows[0]).into_owned();
        assert!(row.contains(r#""M":42,"Who":"admin","C":"C.1""#), "{row}");
        // Who may not launch on the server, does not.
        let refused = collect(&server, "reader", "Custom.Server").await.unwrap_err();
        assert!(refused.contains("COLLECT_SERVER"), "{refused}");
        // No client is made of it.
        assert_eq!(server.root().state().clients.search("all"), ["C.1"]);

        // A cancel reaches it.
        let slow = collect(&server, "admin", "Custom.Slow").await.unwrap();
        until(&server, &slow, |c| c.total_logs > 0 || c.active_time > 0).await;
        server.cancel(&org, SERVER, &slow, "admin").await.unwrap();
        let context = until(&server, &slow, over).await;
        assert_eq!(context.state(), State::Error, "{context:?}");

        // What runs when the process ends is not run again.
        let slow = collect(&server, "admin", "Custom.Slow").await.unwrap();
        until(&server, &slow, |c| c.total_logs > 0 || c.active_time > 0).await;
        stop.cancel();
        drop((org, server));
        let (server, stop) = world.start().await;
        let context = until(&server, &slow, over).await;
        assert!(context.status.contains("restarted"), "{context:?}");
        stop.cancel();
    }

    const WATCH: &str = "name: Custom.Watch\ntype: SERVER_EVENT\nparameters:\n- name: Mark\n  \
        default: one\nsources:\n- query: |\n    SELECT Mark, N, whoami() AS Who, ClientId FROM \
        watch_monitoring(artifact='Custom.Beat') WHERE log(message='seen', dedup=-1)\n";
    const BEAT: &str = "name: Custom.Beat\ntype: CLIENT_EVENT\nsources:\n- query: |\n    \
        SELECT 1 AS N FROM scope()\n";

    /// Rows of the event artifact that are stored, once they are as wanted.
    async fn events(server: &Arc<Server>, logs: bool, wanted: impl Fn(&[String]) -> bool) {
        use crate::services::events::EventKey;
        let any = EventKey {
            client: SERVER.into(),
            artifact: "Custom.Watch".into(),
            day: String::new(),
            logs,
        };
        let mut rows = Vec::new();
        let waiting = async {
            loop {
                rows.clear();
                let view = server.events(&server.root(), &any).await.unwrap();
                for (key, part) in view.live {
                    let blob = server.event_rows(&key, &part).await.unwrap();
                    rows.extend(String::from_utf8_lossy(&blob).lines().map(str::to_owned));
                }
                if wanted(&rows) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(120), waiting).await;
        assert!(ended.is_ok(), "{rows:?}");
    }

    /// Rows of a client come until the watcher has taken `n` of them.
    async fn beat(server: &Arc<Server>, mark: &str, n: u64) {
        let org = server.root();
        let row = || bytes::Bytes::from(format!("{{\"N\":{n},\"ClientId\":\"C.1\"}}\n"));
        let stop = CancellationToken::new();
        let sent = async {
            // A watcher sees what comes after it has begun.
            while !stop.is_cancelled() {
                server.push_events(&org, "C.1", "Custom.Beat", row()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let want = format!("\"Mark\":\"{mark}\",\"N\":{n},\"Who\":\"VelociraptorServer\"");
        let seen = async {
            events(server, false, |rows| rows.iter().any(|r| r.contains(&want))).await;
            stop.cancel();
        };
        tokio::join!(sent, seen);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn event_artifacts_run_on_the_server_until_the_table_changes() {
        let world = World::new();
        let (server, stop) = world.start().await;
        let org = server.root();
        for text in [WATCH, BEAT] {
            server.set_artifact(&org, "admin", text).await.unwrap();
        }
        let table = |mark: &str| ArtifactCollectorArgs {
            artifacts: vec!["Custom.Watch".into()],
            specs: vec![ArtifactSpec {
                artifact: "Custom.Watch".into(),
                parameters: Some(ArtifactParameters {
                    env: vec![VqlEnv {
                        key: "Mark".into(),
                        value: mark.into(),
                        ..Default::default()
                    }],
                }),
                ..Default::default()
            }],
            ..Default::default()
        };
        server.set_server_monitoring(&org, table("one")).await.unwrap();
        beat(&server, "one", 1).await;
        events(&server, true, |logs| logs.iter().any(|l| l.contains("seen"))).await;
        // Others take its place.
        server.set_server_monitoring(&org, table("two")).await.unwrap();
        beat(&server, "two", 2).await;
        // What does not run here is refused, and nothing changes.
        let wrong = ArtifactCollectorArgs {
            artifacts: vec!["Custom.Beat".into()],
            ..ArtifactCollectorArgs::default()
        };
        let refused = server.set_server_monitoring(&org, wrong).await.unwrap_err();
        assert!(refused.to_string().contains("Custom.Beat"), "{refused}");
        let none =
            ArtifactCollectorArgs { artifacts: vec!["No.Such".into()], ..Default::default() };
        let refused = server.set_server_monitoring(&org, none).await.unwrap_err();
        assert!(refused.to_string().contains("No.Such not found"), "{refused}");
        stop.cancel();

        // The table outlives the process.
        let (server, stop) = world.start().await;
        assert_eq!(server.root().monitoring.server_table().artifacts, ["Custom.Watch"]);
        beat(&server, "two", 3).await;
        stop.cancel();
    }
}
