//! Deleting stored events: whole days of one artifact. What is still in journals is
//! put into its files first, so that nothing comes back of it.

use super::events::EventKey;
use super::server::{Org, Server, ServiceError};
use super::settle_events::event_paths;
use crate::store::resultset::TimedSet;
use crate::store::resultset::timed::DAY_NANOS;

/// A day file that was deleted, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayRemoved {
    /// It holds lines of the queries' logs, not rows.
    pub logs: bool,
    /// From the root of the file tree.
    pub path: String,
    /// Why it is still there; empty: it is not.
    pub error: String,
}

impl Server {
    /// The day files of an event artifact (`Artifact/Source`) whose days touch a span
    /// of time (Unix nanoseconds), and its logs. `really` deletes them, with what is
    /// not in files yet.
    pub async fn delete_events(
        &self,
        org: &Org,
        client: &str,
        artifact: &str,
        (from, to): (i64, i64),
        really: bool,
    ) -> Result<Vec<DayRemoved>, ServiceError> {
        if really && !self.is_master() {
            return Err(ServiceError::NotMaster("only the master deletes events".into()));
        }
        // Nothing is settled meanwhile, and nobody else removes the same.
        let _alone = self.housekeeping.lock().await;
        let mut out = Vec::new();
        for logs in [false, true] {
            let any = EventKey {
                client: client.to_owned(),
                artifact: artifact.to_owned(),
                day: String::new(),
                logs,
            };
            if really {
                self.settle_days(org, &any).await?;
            }
            let files = TimedSet::open(&self.tree, &event_paths(org, &any).dir()).await?;
            let touched = |start: i64| start < to && start.saturating_add(DAY_NANOS) > from;
            for file in files.files().iter().filter(|f| touched(f.start)) {
                let mut error = String::new();
                // The rows first: an index without rows is nothing.
                for path in file.parts().iter().filter(|_| really) {
                    match self.env.fs.remove(path).await {
                        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                            error = format!("{path}: {e}");
                            break;
                        }
                        _ => {}
                    }
                }
                let shown = file.path.strip_prefix(&self.tree.root.fs).unwrap_or(&file.path);
                out.push(DayRemoved { logs, path: shown.to_owned(), error });
            }
        }
        Ok(out)
    }

    async fn settle_days(&self, org: &Org, any: &EventKey) -> Result<(), ServiceError> {
        let same = |k: &&EventKey| {
            k.client == any.client && k.artifact == any.artifact && k.logs == any.logs
        };
        let days: Vec<EventKey> = {
            let state = org.state();
            let events = &state.events;
            events.sets.keys().chain(events.filing.keys()).filter(same).cloned().collect()
        };
        for key in days {
            self.settle_events(org, &key).await?;
        }
        Ok(())
    }

    /// Rows of an event artifact, or its log, that are not in files yet.
    pub fn events_in_journals(&self, org: &Org, client: &str, artifact: &str) -> u64 {
        let state = org.state();
        let mine = state.events.sets.iter();
        let mine = mine.filter(|(k, _)| k.client == client && k.artifact == artifact);
        mine.map(|(_, set)| set.rows()).sum()
    }
}

#[cfg(test)]
mod tests {
    use crate::plugins::server::tests::{run_as, server};

    #[tokio::test]
    async fn events_in_files_and_in_journals_go_and_stay_gone() {
        let dir = tempfile::tempdir().unwrap();
        let s = server(&dir).await;
        let (org, name) = (s.root(), "Server.Internal.Enrollment");
        let send = |row: &'static str| s.push_events(&org, "server", name, row.into());
        send("{\"ClientId\":\"C.1\"}\n").await.unwrap();
        s.settle(crate::services::housekeeping::Settle::All).await;
        send("{\"ClientId\":\"C.2\"}\n").await.unwrap();
        let delete = |more: &str| {
            format!(
                "SELECT Type, Data.VFSPath AS P, Error FROM delete_events(client_id='server', artifact='{name}'{more})"
            )
        };
        let (_, log) = run_as(&s, "reader", &delete("")).await;
        assert!(log.contains("DELETE_RESULTS"), "{log}");
        let (rows, log) = run_as(&s, "administrator", &delete("")).await;
        assert!(rows.matches("EventFile").count() == 1 && log.contains("1 rows"), "{rows} {log}");
        assert!(rows.contains(&format!("/server_artifacts/{name}/")), "{rows}");
        let old = delete(", end_time='2020-01-01', really_do_it=TRUE");
        assert_eq!(run_as(&s, "administrator", &old).await.0, "[]", "another day");
        let all = format!("SELECT ClientId FROM monitoring(artifact='{name}')");
        let both = r#"[{"ClientId":"C.1"},{"ClientId":"C.2"}]"#;
        assert_eq!(run_as(&s, "reader", &all).await.0, both);
        let (rows, log) = run_as(&s, "administrator", &delete(", really_do_it=TRUE")).await;
        assert!(rows.contains("EventFile") && !rows.contains("os error"), "{rows} {log}");
        assert_eq!(run_as(&s, "reader", &all).await.0, "[]");
        drop((org, s));
        let s = server(&dir).await;
        assert_eq!(run_as(&s, "reader", &all).await.0, "[]", "read back from journals");
    }
}
