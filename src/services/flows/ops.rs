//! Scheduling, cancelling and looking at flows.

use std::sync::Arc;

use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::journal::{CancelFlow, Schedule};
use velociraptor_proto::proto::artifact_collector_context::State;
use velociraptor_proto::proto::flow_request::Compression;
use velociraptor_proto::proto::{
    ArtifactCollectorArgs, ArtifactCollectorContext, Cancel, FlowRequest, VeloMessage,
};

use super::LiveFlow;
use super::runs::session_of;
use crate::services::fleet::hub::Order;
use crate::services::ids::{Session, new_flow_id};
use crate::services::server::{Org, Server, ServiceError};
use crate::services::state::{FlowKey, MONITORING, OrgState};
use crate::store::paths::Client;

/// Upload bytes a flow may send unless the request says otherwise: 1 GiB.
const MAX_UPLOAD: u64 = 1 << 30;

/// How often an agent looks whether it has logs to send, milliseconds. A stock
/// agent may lose the last batch of a flow, so batches are kept short.
const LOG_BATCH: u64 = 50;

/// Rows in an agent's part, unless the query says otherwise.
pub const MAX_ROW: u64 = 1000;

impl Server {
    /// Schedules a compiled collection on a client and returns the flow's id. A request
    /// with the id of a further run, `F.…/<number>`, runs in the flow that is there.
    ///
    /// `request.compiled_collector_args` holds the queries. Returns once the
    /// decision is durable; a client held here has been woken.
    pub async fn schedule(
        &self,
        org: &Org,
        principal: &str,
        request: ArtifactCollectorArgs,
    ) -> Result<String, ServiceError> {
        if Session::parse(&request.flow_id).is_numbered() {
            return self.run_again(org, principal, request).await;
        }
        let schedule = self.plan_flow(org, principal, request)?;
        let client = schedule.context.as_ref().map(|c| c.client_id.clone()).unwrap_or_default();
        self.decide(org, &client, principal, Kind::Schedule(schedule.clone())).await?;
        Ok(self.launched(org, &client, &schedule))
    }

    /// Schedules a further run of a flow, on top of what is there of it.
    async fn run_again(
        &self,
        org: &Org,
        principal: &str,
        request: ArtifactCollectorArgs,
    ) -> Result<String, ServiceError> {
        let (client, run) = (request.client_id.clone(), Session::parse(&request.flow_id));
        let key = (client.clone(), run.flow.clone());
        // Nothing is decided about the flow meanwhile, and nothing of it comes in: what
        // the record says of its runs is so.
        let _closed = org.gates.close(key.clone()).await;
        let live = org.state().flows.contains_key(&key);
        let stored = match live {
            true => None,
            false => self.flow(org, &client, &run.flow).await?,
        };
        self.open_if_stored(org, &client, &run.flow, &[]).await?;
        let over = {
            let state = org.state();
            let flow = state.flows.get(&key).filter(|f| f.context.is_some());
            let flow = flow.ok_or_else(|| {
                ServiceError::Invalid(format!("flow_id: `{}` is a run of no flow", run.id()))
            })?;
            if flow.knows_run(&run.child) {
                return Err(ServiceError::Invalid(format!("{} is there already", run.id())));
            }
            flow.runs_over()
        };
        let mut schedule = self.plan_flow(org, principal, request)?;
        schedule.over = over;
        if let (Some(c), Some(stored)) = (&mut schedule.context, stored) {
            // Of what is in stock files nothing is left in memory that would list it.
            let before = super::runs::earlier(&stored);
            c.previous_flows = stored.previous_flows;
            c.previous_flows.push(before);
        }
        self.decide_alone(org, &client, principal, Kind::Schedule(schedule.clone())).await?;
        Ok(self.launched(org, &client, &schedule))
    }

    /// The decision that schedules a compiled collection on a client, which goes
    /// to whoever holds the client now.
    pub(in crate::services) fn plan_flow(
        &self,
        org: &Org,
        principal: &str,
        mut request: ArtifactCollectorArgs,
    ) -> Result<Schedule, ServiceError> {
        let client = request.client_id.clone();
        if request.compiled_collector_args.is_empty() {
            return Err(ServiceError::Invalid("the collection has no queries".into()));
        }
        // The server is no client and always there.
        if client != "server" && org.state().clients.get(&client).is_none() {
            return Err(ServiceError::NotFound(format!("client {client}")));
        }
        if request.flow_id.is_empty() {
            request.flow_id = new_flow_id(&self.env);
        }
        // What the client is given, and below which flow what it sends is kept.
        let session_id = request.flow_id.clone();
        let flow_id = Session::parse(&session_id).flow;
        if org.state().clients.deleted.was_deleted_alone(&client, &flow_id) {
            let text = format!("flow {flow_id} was deleted; its id is not used again");
            return Err(ServiceError::Invalid(text));
        }
        request.creator = principal.to_owned();
        let now = self.env.clock.micros();
        let task = VeloMessage {
            session_id,
            request_id: 1,
            task_id: self.new_task_id(),
            urgent: request.urgent,
            flow_request: Some(self.flow_request(&request)),
            ..Default::default()
        };
        let context = ArtifactCollectorContext {
            session_id: flow_id,
            client_id: client.clone(),
            create_time: now,
            total_requests: request.compiled_collector_args.len() as i64,
            outstanding_requests: request.compiled_collector_args.len() as i64,
            state: State::Running.into(),
            request: Some(request),
            ..Default::default()
        };
        let held = self.sessions.held(&org.id, &client);
        let at = held.as_ref().and_then(|h| h.process()).cloned();
        Ok(Schedule {
            context: Some(context),
            tasks: vec![task],
            granted: held.is_some(),
            cipher_hash: held.as_ref().map(|h| h.cipher.to_vec()).unwrap_or_default(),
            node: at.as_ref().map(|p| p.node.clone()).unwrap_or_default(),
            epoch: at.map(|p| p.epoch).unwrap_or_default(),
            hunt_id: String::new(),
            over: Vec::new(),
        })
    }

    /// That decision is durable: the client is woken. Returns the flow's id.
    pub(in crate::services) fn launched(&self, org: &Org, client: &str, s: &Schedule) -> String {
        if s.granted {
            let ids = s.tasks.iter().map(|t| t.task_id);
            self.wakes.durable(ids, self.env.clock.micros());
        } else {
            self.offers.look_at((org.id.clone(), client.to_owned()));
        }
        self.sessions.wake(&org.id, client);
        s.context.as_ref().map(|c| c.session_id.clone()).unwrap_or_default()
    }

    fn flow_request(&self, r: &ArtifactCollectorArgs) -> FlowRequest {
        FlowRequest {
            vql_client_actions: r.compiled_collector_args.clone(),
            log_batch_time: if r.log_batch_time > 0 { r.log_batch_time } else { LOG_BATCH },
            max_rows: r.max_rows,
            max_logs: r.max_logs,
            max_upload_bytes: if r.max_upload_bytes > 0 { r.max_upload_bytes } else { MAX_UPLOAD },
            log_error_regex: self.options.collection_error_regex.clone().unwrap_or_default(),
            compression: if self.options.compress {
                Compression::Zlib.into()
            } else {
                Compression::None.into()
            },
            ..Default::default()
        }
    }

    /// Cancels a flow. What was not sent is withdrawn; a client that may have it
    /// is told. A flow that is over is left as it is.
    pub async fn cancel(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
        principal: &str,
    ) -> Result<(), ServiceError> {
        self.stop(org, client, flow, principal, String::new()).await
    }

    /// Stops a flow that sent more than its request allows, for agents that do
    /// not do so by themselves.
    pub async fn hold_to_limits(&self, org: &Org, (client, flow): &FlowKey) {
        let key = (client.clone(), flow.clone());
        let why = org.state().flows.get(&key).filter(|f| !f.over()).and_then(LiveFlow::over_limit);
        let Some(why) = why else { return };
        tracing::info!(client, flow, why, "flow stopped");
        if let Err(e) = self.stop(org, client, flow, "", why.to_owned()).await {
            tracing::error!(client, flow, error = %e, "flow over its limit not stopped");
        }
    }

    async fn stop(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
        principal: &str,
        reason: String,
    ) -> Result<(), ServiceError> {
        let key = (client.to_owned(), flow.to_owned());
        let live = {
            let state = org.state();
            let known = state.flows.get(&key);
            if known.is_some_and(LiveFlow::over) {
                return Ok(());
            }
            known.is_some()
        };
        if !live {
            // A flow of an earlier server, or one that is long settled.
            let context = self.flow(org, client, flow).await?;
            let context = context.ok_or_else(|| ServiceError::NotFound(format!("flow {flow}")))?;
            if matches!(context.state(), State::Finished | State::Error) {
                return Ok(());
            }
            self.reopen(org, client, flow).await?;
        }
        let sessions = org.state().flows.get(&key).map(LiveFlow::sessions).unwrap_or_default();
        let tasks = sessions
            .into_iter()
            .map(|session_id| VeloMessage {
                session_id,
                task_id: self.new_task_id(),
                cancel: Some(Cancel::default()),
                urgent: true,
                ..Default::default()
            })
            .collect();
        // What lies in a file is withdrawn by getting it back.
        self.take_back(org, client, Some(flow)).await;
        let elsewhere =
            |s: &OrgState| s.clients.get(client).is_some_and(|c| c.queue.is_elsewhere(flow));
        let away = elsewhere(&org.state());
        let cancel = CancelFlow { flow_id: flow.to_owned(), tasks, reason, away };
        self.decide(org, client, principal, Kind::Cancel(cancel)).await?;
        self.order(Order::Recall((org.id.clone(), client.to_owned()), None));
        self.sessions.wake(&org.id, client);
        Ok(())
    }

    /// Brings a settled flow back, so that more can be added to it.
    pub async fn reopen(&self, org: &Org, client: &str, flow: &str) -> Result<(), ServiceError> {
        let _open = org.gates.enter(vec![(client.to_owned(), flow.to_owned())]).await;
        self.open_if_stored(org, client, flow, &[]).await
    }

    /// Before something is added to a flow that is not live: notes what its
    /// stock files hold already. The caller is inside the flow's gate.
    pub async fn open_if_stored(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
        names: &[String],
    ) -> Result<(), ServiceError> {
        {
            let state = org.state();
            let live = state.flows.contains_key(&(client.to_owned(), flow.to_owned()));
            if live || state.is_deleted(client, flow) {
                return Ok(());
            }
        }
        let described =
            crate::services::recover::describe_stored(self, &org.id, client, flow, names).await?;
        let Some(open) = described else { return Ok(()) };
        let (context, reports) =
            crate::services::recover::stored_flow(self, &org.id, client, flow).await?;
        let decision = velociraptor_proto::journal::Decision {
            org_id: org.id.id().to_owned(),
            client_id: client.to_owned(),
            time: self.env.clock.micros(),
            principal: String::new(),
            kind: Some(Kind::OpenFlow(open.clone())),
            seen: Vec::new(),
        };
        let record = velociraptor_proto::journal::record::Kind::Decision(decision);
        let done = self.commit(record, vec![], vec![]).await?;
        let open = crate::services::part_uploads::located(self, open);
        org.state().open_flow(client, &open, context, reports, done.segment);
        Ok(())
    }

    /// A flow's context with state and totals as they are now.
    pub async fn flow(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
    ) -> Result<Option<ArtifactCollectorContext>, ServiceError> {
        let now = self.env.clock.micros();
        let key = (client.to_owned(), flow.to_owned());
        {
            let state = org.state();
            if state.is_deleted(client, flow) {
                return Ok(None);
            }
            if let Some(f) = state.flows.get(&key)
                && let Some(mut c) = f.snapshot_with(
                    now,
                    state.clients.get(client).and_then(|c| c.queue.heard_of(flow)),
                )
            {
                self.reveal_names(&mut c);
                return Ok(Some(c));
            }
        }
        let path = Client { org: &org.id, id: client };
        let path = path.flow(flow);
        let Some(mut context) = self.tree.get(&path.context()).await? else { return Ok(None) };
        if let Some(full) = self.tree.get(&path.requests()).await?
            && full.request.is_some()
        {
            (context.request, context.previous_flows) = (full.request, full.previous_flows);
        }
        let stored = (context.state(), context.status.clone());
        let reports = crate::services::recover::stored_reports(self, &org.id, client, flow).await?;
        let reports: Vec<_> = reports.values().collect();
        super::status::derive(&mut context, &reports, now);
        // Which of several runs its outcome is, what was stored says.
        if !session_of(&context).child.is_empty() && stored.0 == State::Finished {
            (context.state, context.status) = (stored.0.into(), stored.1);
        }
        // Put into files before its end and before its first report.
        let some = context.total_collected_rows > 0 || context.total_uploaded_bytes > 0;
        if some && matches!(context.state(), State::Running | State::Waiting) {
            context.set_state(State::InProgress);
        }
        self.reveal_names(&mut context);
        if context.client_id.is_empty() {
            context.client_id = client.to_owned();
        }
        if context.session_id.is_empty() {
            context.session_id = flow.to_owned();
        }
        Ok(Some(context))
    }

    fn reveal_names(&self, c: &mut ArtifactCollectorContext) {
        for n in &mut c.artifacts_with_results {
            *n = self.reveal(n);
        }
        c.artifacts_with_results.sort();
        c.artifacts_with_results.dedup();
        for q in &mut c.query_stats {
            for n in &mut q.names_with_response {
                *n = self.reveal(n);
            }
        }
    }

    /// Ids of a client's flows, newest first.
    pub async fn flow_ids(&self, org: &Org, client: &str) -> Result<Vec<String>, ServiceError> {
        let path = Client { org: &org.id, id: client };
        let mut ids: std::collections::BTreeSet<String> =
            (self.tree.children(&path.collections()).await?)
                .into_iter()
                .filter(|c| !c.is_dir && c.name.starts_with("F.") && c.name != MONITORING)
                .map(|c| c.name)
                .collect();
        let state = org.state();
        let live = state.flows.range((client.to_owned(), String::new())..);
        ids.extend(
            live.take_while(|(k, _)| k.0 == client)
                .filter(|(_, f)| f.context.is_some())
                .map(|(k, _)| k.1.clone()),
        );
        ids.retain(|flow| !state.is_deleted(client, flow));
        Ok(ids.into_iter().rev().collect())
    }

    /// The compiled messages a flow sent to its client.
    pub async fn flow_requests(
        &self,
        org: &Org,
        client: &str,
        flow: &str,
    ) -> Result<Vec<VeloMessage>, ServiceError> {
        let path = Client { org: &org.id, id: client };
        let stored = self.tree.get(&path.flow(flow).task()).await?.map(|d| d.items);
        let latest = {
            let state = org.state();
            let live = state.flows.get(&(client.to_owned(), flow.to_owned()));
            live.and_then(|f| f.context.as_ref()).map(|c| session_of(c).id())
        };
        // Of the latest run, if there are several.
        let is_latest = |m: &VeloMessage| latest.as_ref().is_none_or(|run| m.session_id == *run);
        if let Some(items) = stored.filter(|items| items.first().is_none_or(is_latest)) {
            return Ok(items);
        }
        let Some(c) = self.flow(org, client, flow).await? else {
            return Err(ServiceError::NotFound(format!("flow {flow}")));
        };
        let session_id = session_of(&c).id();
        let Some(request) = c.request else { return Ok(vec![]) };
        Ok(vec![VeloMessage {
            session_id,
            request_id: 1,
            urgent: request.urgent,
            flow_request: Some(self.flow_request(&request)),
            ..Default::default()
        }])
    }

    /// Waits until a flow is over and whole, or the time is up.
    pub async fn wait_for_flow(
        self: &Arc<Self>,
        org: &Org,
        client: &str,
        flow: &str,
        limit: std::time::Duration,
    ) -> Result<ArtifactCollectorContext, ServiceError> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            let whole = {
                let state = org.state();
                state
                    .flows
                    .get(&(client.to_owned(), flow.to_owned()))
                    .is_none_or(|f| f.over() && f.whole())
            };
            let context = self.flow(org, client, flow).await?;
            let context = context.ok_or_else(|| ServiceError::NotFound(format!("flow {flow}")))?;
            if whole && matches!(context.state(), State::Finished | State::Error) {
                return Ok(context);
            }
            if tokio::time::Instant::now() >= end {
                return Err(ServiceError::Timeout(format!(
                    "flow {flow} is still {:?}",
                    context.state()
                )));
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}
