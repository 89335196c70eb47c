//! What users ask of clients: collections, and further runs of them.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use velociraptor::services::Server;
use velociraptor_proto::proto::{ArtifactCollectorArgs, ArtifactParameters, ArtifactSpec, VqlEnv};

use super::handle::Handle;
use crate::ledger::{ToldFlow, ToldRun, now};
use crate::plan::Plan;

/// Added to the numbers of runs, so that they are as long as a page's milliseconds.
const RUNS: u64 = 1_795_764_000_000;

type Answer = BoxFuture<'static, Result<(String, Duration), String>>;

/// The call that schedules `plan`, in a new flow or as the run `session` of one.
fn scheduled(
    client_id: String,
    session: String,
    plan: &Plan,
) -> impl FnOnce(Arc<Server>) -> Answer + Send + 'static {
    let (text, artifact, urgent) = (plan.to_text(), plan.artifact().to_owned(), plan.urgent);
    move |server| {
        Box::pin(async move {
            let org = server.root();
            let env = vec![VqlEnv { key: "Plan".into(), value: text, ..Default::default() }];
            let spec = ArtifactSpec {
                artifact: artifact.clone(),
                parameters: Some(ArtifactParameters { env }),
                ..Default::default()
            };
            let mut request = ArtifactCollectorArgs {
                client_id,
                flow_id: session,
                artifacts: vec![artifact],
                specs: vec![spec],
                urgent,
                ..Default::default()
            };
            server.compile_into(&org, &mut request).await.map_err(|e| e.to_string())?;
            let flow = server.schedule(&org, "user", request).await.map_err(|e| e.to_string())?;
            Ok((flow, now()))
        })
    }
}

impl Handle {
    /// Collects on a client. `None`: the user was not told that it is scheduled.
    pub async fn collect(&self, client: usize, plan: Plan) -> Option<String> {
        let call = scheduled(self.id(client), String::new(), &plan);
        let (flow, at) = self.ask(format!("collect on {client}"), call).await?;
        self.books.lock().flows.push(ToldFlow {
            client,
            flow: flow.clone(),
            plan,
            at,
            cancelled: None,
            cancelled_first: None,
            deleting: false,
            deleted: false,
            runs: vec![],
            asked: vec![],
        });
        Some(flow)
    }

    /// Runs again in a flow that is there, as the web page's shell does. `None`: the
    /// user was not told that it is scheduled.
    pub async fn run_again(&self, client: usize, flow: &str, plan: Plan) -> Option<String> {
        let session = format!("{flow}/{}", RUNS + now().as_millis() as u64);
        let change = |change: &dyn Fn(&mut ToldFlow)| {
            self.books.lock().flows.iter_mut().filter(|t| t.flow == flow).for_each(change);
        };
        change(&|t| {
            t.asked.push(now());
            // It may be over or not, from now on.
            t.cancelled = None;
        });
        let call = scheduled(self.id(client), session.clone(), &plan);
        let (_, at) = self.ask(format!("run {session}"), call).await?;
        self.cover("further run");
        change(&|t| {
            let (session, plan) = (session.clone(), plan.clone());
            t.runs.push(ToldRun { session, plan, at, cancelled: None });
        });
        Some(session)
    }
}
