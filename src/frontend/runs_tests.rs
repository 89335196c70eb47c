//! Further runs of a flow: as the web page's shell asks for them, while the flow goes
//! on, when it is over, when it is in stock files, and across restarts.

use std::time::Duration;

use velociraptor_proto::proto::artifact_collector_context::State;
use velociraptor_proto::proto::*;

use super::tests::*;
use super::*;
use crate::comms::server::Answer;
use crate::services::flows::Rows;
use crate::services::flows::job::Hash;
use crate::services::housekeeping::Settle;
use crate::services::tasks::{Reply, Way};

const FLOW: &str = "F.Shell";
/// As a page numbers runs: milliseconds.
const ONE: &str = "F.Shell/1795764261970";
const TWO: &str = "F.Shell/1795764261971";
const SET: &str = "Custom.A";
const CIPHER: Hash = [1; 16];

struct Lab {
    w: World,
    c: Clients,
    client: TestClient,
}

impl Lab {
    async fn new() -> Lab {
        let w = World::new();
        let c = w.start().await;
        let client = TestClient::new(&w, NONCE);
        interrogated(&c, &w, &client).await;
        Lab { w, c, client }
    }

    /// The process ends without a word, and another starts.
    async fn killed(self) -> Lab {
        let Lab { w, c, client } = self;
        drop(c);
        let c = w.start().await;
        Lab { w, c, client }
    }

    /// Everything is put into stock files, as at a clean stop.
    async fn settle(&self) {
        let (s, org) = server(&self.c);
        s.settle(Settle::All).await;
        assert!(!org.state().flows.contains_key(&(self.client.id.clone(), FLOW.to_owned())));
    }

    async fn ask(&self, session: &str) -> Result<String, String> {
        let (s, org) = server(&self.c);
        let request = ArtifactCollectorArgs {
            client_id: self.client.id.clone(),
            flow_id: session.into(),
            creator: "ann".into(),
            artifacts: vec![session.into()],
            compiled_collector_args: vec![VqlCollectorArgs::default()],
            urgent: true,
            ..Default::default()
        };
        s.schedule(&org, "ann", request).await.map_err(|e| e.to_string())
    }

    /// What the client is given now.
    async fn take(&self) -> Vec<String> {
        let (s, org) = server(&self.c);
        let way = Way::Reply(Reply::frame([7; 16]));
        let tasks = s.next_tasks(&org, &self.client.id, CIPHER, way).await;
        org.state().clients.entry(&self.client.id).queue.frame_consumed(CIPHER, [7; 16], 9);
        let named = |m: VeloMessage| m.cancel.map(|_| format!("cancel {}", m.session_id));
        let all = tasks.into_iter().filter(|m| m.flow_stats_request.is_none());
        all.map(|m| named(m.clone()).unwrap_or(m.session_id)).collect()
    }

    async fn says(&self, jobs: &[VeloMessage]) {
        let answer = post(&self.c, self.client.body(jobs)).await;
        assert_eq!(answer, Answer::Reply(Bytes::new()));
    }

    async fn flow(&self) -> ArtifactCollectorContext {
        let (s, org) = server(&self.c);
        s.flow(&org, &self.client.id, FLOW).await.unwrap().unwrap()
    }

    async fn state(&self) -> (State, u64) {
        let c = self.flow().await;
        (c.state(), c.total_collected_rows)
    }

    /// The rows, each as the number that its run gave it.
    async fn rows(&self) -> Vec<u64> {
        let (s, org) = server(&self.c);
        let set = Rows::Results(SET.into());
        let rows = s.rows(&org, &self.client.id, FLOW, &set, 0, u64::MAX).await.unwrap();
        let number =
            |r: &Bytes| serde_json::from_slice::<serde_json::Value>(r).unwrap()["i"].as_u64();
        rows.iter().filter_map(number).collect()
    }

    fn conflicts(&self) -> u64 {
        server(&self.c).0.counters.conflicts.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// Stock files that are read back with the journals may be of later runs than the record
/// that opened the flow.
#[tokio::test]
async fn a_flow_that_was_stopped_before_its_first_report_counts_its_runs_once() {
    let mut l = Lab::new().await;
    l.ask(FLOW).await.unwrap();
    l.take().await;
    l.says(&[rows(FLOW, SET, 0, 2)]).await;
    l.settle().await;
    server(&l.c).0.collect_garbage().await;
    l = l.killed().await;
    l.says(&[rows(FLOW, SET, 2, 1), done(FLOW, 3)]).await;
    l.ask(ONE).await.unwrap();
    l.says(&[rows(ONE, SET, 0, 4), done(ONE, 4)]).await;
    assert_eq!(l.state().await, (State::Finished, 7));
    for _ in 0..2 {
        let (s, org) = server(&l.c);
        let key = (l.client.id.clone(), FLOW.to_owned());
        s.write_flow_objects(&org, &key).await.unwrap();
        l = l.killed().await;
        assert_eq!(l.state().await, (State::Finished, 7));
    }
}

/// A report of a run that goes on.
fn works(session: &str, rows: i64) -> VeloMessage {
    let mut m = done(session, rows);
    if let Some(s) = &mut m.flow_stats {
        s.flow_complete = false;
        s.query_status[0].set_status(velo_status::ReturnedStatus::Progress);
        s.query_status[0].last_active = crate::env::real::env().clock.micros();
    }
    m
}

fn fails(session: &str) -> VeloMessage {
    let mut m = done(session, 0);
    if let Some(s) = &mut m.flow_stats {
        s.query_status[0].set_status(velo_status::ReturnedStatus::GenericError);
        s.query_status[0].error_message = "it broke".into();
    }
    m
}

#[tokio::test]
async fn commands_of_a_shell_that_goes_on_are_runs_of_its_flow() {
    let l = Lab::new().await;
    assert_eq!(l.ask(FLOW).await.unwrap(), FLOW);
    assert_eq!(l.take().await, [FLOW]);
    l.says(&[rows(FLOW, SET, 0, 2), works(FLOW, 2)]).await;
    assert_eq!(l.ask(ONE).await.unwrap(), FLOW);
    assert_eq!(l.take().await, [ONE], "its client is given the run itself");
    let c = l.flow().await;
    assert_eq!((c.session_id.as_str(), c.request.unwrap().flow_id.as_str()), (FLOW, ONE));
    let earlier: Vec<_> = c.previous_flows.iter().filter_map(|p| p.request.as_ref()).collect();
    assert_eq!((earlier.len(), earlier[0].creator.as_str()), (1, "ann"));
    // The command is over, the shell is not; its output comes behind.
    l.says(&[rows(ONE, SET, 0, 1), done(ONE, 1), rows(FLOW, SET, 2, 2)]).await;
    assert_eq!(l.state().await, (State::InProgress, 5));
    assert_eq!(l.rows().await, [0, 1, 0, 2, 3], "as they came");
    assert_eq!(l.ask(TWO).await.unwrap(), FLOW);
    assert!(l.ask(TWO).await.unwrap_err().contains("there already"));
    l.says(&[done(FLOW, 4)]).await;
    assert_ne!(l.state().await.0, State::Finished, "a command waits");
    l.says(&[rows(TWO, SET, 0, 1), done(TWO, 1)]).await;
    assert_eq!(l.state().await, (State::Finished, 6));
    assert_eq!((l.rows().await.len(), l.conflicts()), (6, 0));
}

#[tokio::test]
async fn a_flow_in_stock_files_runs_again_whenever_its_server_dies() {
    // The process is killed after each of these steps in turn.
    for killed in 0..6 {
        let mut l = Lab::new().await;
        l.ask(FLOW).await.unwrap();
        l.take().await;
        l.says(&[rows(FLOW, SET, 0, 3), done(FLOW, 3)]).await;
        l.settle().await;
        for step in 0..6 {
            match step {
                0 => assert_eq!(l.ask(ONE).await.unwrap(), FLOW),
                1 => {
                    // After a kill its client was asked first.
                    let given = l.take().await;
                    assert!(given == [ONE] || (killed == 0 && given.is_empty()), "{given:?}");
                }
                2 => {
                    l.says(&[rows(ONE, SET, 0, 1), works(ONE, 1)]).await;
                    assert_eq!(l.state().await, (State::InProgress, 4), "killed after {killed}");
                }
                3 => l.says(&[rows(ONE, SET, 1, 1)]).await,
                4 => l.says(&[done(ONE, 2)]).await,
                _ => l.settle().await,
            }
            if step == killed {
                l = l.killed().await;
            }
        }
        assert_eq!(l.state().await, (State::Finished, 5), "killed after {killed}");
        assert_eq!(l.rows().await, [0, 1, 2, 0, 1], "killed after {killed}");
        assert_eq!(l.conflicts(), 0);
        // And once more, on top of all that.
        l.ask(TWO).await.unwrap();
        assert!(matches!(l.state().await, (State::Running | State::Waiting, 5)));
        let listed = l.flow().await.previous_flows;
        let ids: Vec<_> = listed.iter().filter_map(|p| p.request.as_ref()).collect();
        assert_eq!(ids.iter().map(|r| r.flow_id.as_str()).collect::<Vec<_>>(), [FLOW, ONE]);
        l.says(&[rows(TWO, SET, 0, 1), done(TWO, 1)]).await;
        assert_eq!(l.state().await, (State::Finished, 6));
        l.settle().await;
        assert_eq!(l.state().await, (State::Finished, 6));
    }
}

#[tokio::test]
async fn runs_that_go_on_go_on_behind_their_own_rows_after_a_clean_stop() {
    let mut l = Lab::new().await;
    l.ask(FLOW).await.unwrap();
    l.take().await;
    l.says(&[rows(FLOW, SET, 0, 2), works(FLOW, 2)]).await;
    l.ask(ONE).await.unwrap();
    l.take().await;
    l.says(&[rows(ONE, SET, 0, 2), works(ONE, 2), rows(FLOW, SET, 2, 1)]).await;
    l.settle().await;
    server(&l.c).0.collect_garbage().await;
    l = l.killed().await;
    assert_eq!(l.rows().await, [0, 1, 0, 1, 2]);
    l.says(&[rows(FLOW, SET, 3, 1), works(FLOW, 4), rows(ONE, SET, 2, 1)]).await;
    l.ask(TWO).await.unwrap();
    l.says(&[rows(TWO, SET, 0, 1), done(TWO, 1), done(ONE, 3)]).await;
    assert_eq!(l.state().await, (State::InProgress, 8));
    let listed = l.flow().await.previous_flows;
    let ids: Vec<_> =
        listed.iter().filter_map(|p| Some(p.request.as_ref()?.flow_id.clone())).collect();
    assert_eq!(ids, [FLOW, ONE]);
    l.says(&[done(FLOW, 4)]).await;
    assert_eq!(l.state().await, (State::Finished, 8));
    assert_eq!((l.rows().await, l.conflicts()), (vec![0, 1, 0, 1, 2, 3, 2, 0], 0));
    l.settle().await;
    assert_eq!((l.state().await, l.rows().await.len()), ((State::Finished, 8), 8));
}

#[tokio::test]
async fn what_comes_late_of_an_earlier_run_says_nothing_of_the_later() {
    let l = Lab::new().await;
    l.ask(FLOW).await.unwrap();
    l.take().await;
    l.says(&[rows(FLOW, SET, 0, 1), fails(FLOW)]).await;
    assert_eq!(l.state().await.0, State::Error);
    l.ask(ONE).await.unwrap();
    assert!(matches!(l.state().await, (State::Running | State::Waiting, 1)));
    l.take().await;
    // The first run's rows and a report of its middle, after its end.
    l.says(&[rows(ONE, SET, 0, 1), works(FLOW, 1), rows(FLOW, SET, 1, 1)]).await;
    assert_eq!(l.state().await, (State::InProgress, 3));
    l.says(&[done(ONE, 1)]).await;
    assert_eq!(l.state().await, (State::Finished, 3));
    l.says(&[works(FLOW, 2)]).await;
    l.says(&[done(ONE, 1), rows(ONE, SET, 0, 1)]).await;
    assert_eq!((l.state().await, l.rows().await.len()), ((State::Finished, 3), 3));
    l.settle().await;
    assert_eq!(l.state().await, (State::Finished, 3));
}

#[tokio::test]
async fn a_cancel_goes_to_the_runs_that_a_client_has_and_a_further_run_opens_the_flow() {
    let l = Lab::new().await;
    l.ask(FLOW).await.unwrap();
    l.take().await;
    l.ask(ONE).await.unwrap();
    l.take().await;
    l.says(&[done(ONE, 0)]).await;
    l.ask(TWO).await.unwrap();
    let (s, org) = server(&l.c);
    s.cancel(&org, &l.client.id, FLOW, "ann").await.unwrap();
    assert_eq!(l.flow().await.status, "Cancelled by ann");
    assert_eq!(l.take().await, [format!("cancel {FLOW}")], "one is over, one was not sent");
    let three = "F.Shell/1795764261972";
    l.ask(three).await.unwrap();
    assert_eq!(l.take().await, [three]);
    l.says(&[rows(three, SET, 0, 1), fails(FLOW), done(three, 1)]).await;
    let c = l.flow().await;
    assert_eq!((c.state(), c.status.as_str()), (State::Finished, ""));
}

#[tokio::test]
async fn a_run_that_its_client_does_not_know_fails_alone() {
    let mut l = Lab::new().await;
    l.ask(FLOW).await.unwrap();
    l.take().await;
    l.says(&[works(FLOW, 0)]).await;
    l.ask(ONE).await.unwrap();
    l.take().await;
    let unknown = VeloStatus {
        status: velo_status::ReturnedStatus::UnknownFlow.into(),
        ..Default::default()
    };
    let mut answer = done(ONE, 0);
    answer.flow_stats.as_mut().unwrap().query_status = vec![unknown];
    l.says(&[answer]).await;
    let over = |l: &Lab, child: &str| {
        let org = server(&l.c).1;
        let state = org.state();
        state.flows[&(l.client.id.clone(), FLOW.to_owned())].run_over(child)
    };
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while !over(&l, "1795764261970") {
        assert!(tokio::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!over(&l, ""), "the shell goes on");
    l = l.killed().await;
    assert!(over(&l, "1795764261970") && !over(&l, ""));
}
