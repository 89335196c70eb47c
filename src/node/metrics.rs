//! Metrics in Prometheus text, under stock names where stock has one.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::comms::server::{Gate, Metrics, WAITS};
use crate::frontend::Frontend;
use crate::frontend::admit::Admission;
use crate::services::Server;
use crate::services::forward::Backlog;
use crate::services::wakes::{BUCKETS, Measured};
use crate::store::ops::CountingFs;

/// Serves `/metrics`.
pub(super) fn router(
    frontend: Arc<Frontend>,
    clients: Arc<Metrics>,
    operations: Arc<CountingFs>,
    link: Arc<dyn Fn() -> String + Send + Sync>,
) -> Router {
    Router::new().route(
        "/metrics",
        get(move || {
            let text = render(&frontend, &clients, &operations) + &link();
            async move {
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
                    .into_response()
            }
        }),
    )
}

struct Text(String);

impl Text {
    fn one(&mut self, kind: &str, name: &str, help: &str, value: u64) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: &AtomicU64) {
        self.one("counter", name, help, value.load(Ordering::Relaxed));
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.one("gauge", name, help, value);
    }
}

impl Text {
    fn kinds(&mut self, name: &str, help: &str, values: &[(&str, u64)]) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} counter");
        for (what, n) in values {
            let _ = writeln!(self.0, "{name}{{what=\"{what}\"}} {n}");
        }
    }

    fn delivery(&mut self, m: &Measured) {
        const NAME: &str = "velociraptor_task_delivery_seconds";
        const HELP: &str = "From a task's durable record to the socket of a client that is held.";
        let _ = writeln!(self.0, "# HELP {NAME} {HELP}\n# TYPE {NAME} histogram");
        for (bound, n) in BUCKETS.iter().zip(&m.buckets) {
            let le = *bound as f64 / 1e6;
            let _ = writeln!(self.0, "{NAME}_bucket{{le=\"{le}\"}} {n}");
        }
        let all = m.buckets[BUCKETS.len()];
        let _ = writeln!(self.0, "{NAME}_bucket{{le=\"+Inf\"}} {all}");
        let _ = writeln!(self.0, "{NAME}_sum {}\n{NAME}_count {all}", m.sum as f64 / 1e6);
    }
}

impl Text {
    /// The limits of admission, their use, queue, waits and refusals.
    fn admission(&mut self, a: &Admission, m: &Metrics) {
        let gates: [(&str, &Gate); 10] = [
            ("connection", &m.turns),
            ("upload_rate", &m.rate),
            ("client_rate", &a.client_rate),
            ("lookup", &a.lookups),
            ("stranger", &a.strangers),
            ("enrolment", &a.enrolments),
            ("cpu", &a.cpu),
            ("urgent_cpu", &a.urgent_cpu),
            ("urgent", &a.urgent),
            ("memory", &a.memory),
        ];
        let load = |v: &AtomicU64| v.load(Ordering::Relaxed);
        let mut table = |name: &str, kind: &str, help: &str, of: fn(&Gate) -> &AtomicU64| {
            let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (what, gate) in &gates {
                let _ = writeln!(self.0, "{name}{{limit=\"{what}\"}} {}", load(of(gate)));
            }
        };
        table("velociraptor_admission_limit", "gauge", "What is set; 0: unlimited.", |g| &g.limit);
        table("velociraptor_admission_used", "gauge", "In use now.", |g| &g.used);
        table("velociraptor_admission_waiting", "gauge", "Waiting now.", |g| &g.waiting);
        table("velociraptor_admission_passed_total", "counter", "Taken.", |g| &g.passed);
        table("velociraptor_admission_refused_total", "counter", "Told to come again.", |g| {
            &g.refused
        });
        const WAIT: &str = "velociraptor_admission_wait_seconds";
        let _ = writeln!(self.0, "# HELP {WAIT} What those taken waited.\n# TYPE {WAIT} histogram");
        for (what, gate) in &gates {
            let mut sum = 0;
            for (bound, n) in WAITS.iter().zip(&gate.classes) {
                sum += load(n);
                let le = *bound as f64 / 1e6;
                let _ = writeln!(self.0, "{WAIT}_bucket{{limit=\"{what}\",le=\"{le}\"}} {sum}");
            }
            let (all, waited) = (load(&gate.passed), load(&gate.waited) as f64 / 1e6);
            let _ = writeln!(self.0, "{WAIT}_bucket{{limit=\"{what}\",le=\"+Inf\"}} {all}");
            let _ = writeln!(self.0, "{WAIT}_sum{{limit=\"{what}\"}} {waited}");
            let _ = writeln!(self.0, "{WAIT}_count{{limit=\"{what}\"}} {all}");
        }
        let working = load(&a.cpu.used) + load(&a.urgent_cpu.used);
        self.gauge("client_comms_concurrency", "POSTs being worked on.", working);
        self.counter("frontend_timeout_rejections", "POSTs without a slot.", &a.cpu.refused);
    }
}

impl Text {
    /// Event rows to stores outside.
    fn forward(&mut self, server: &Server) {
        let load = |v: &AtomicU64| v.load(Ordering::Relaxed).to_string();
        let now = server.env.clock.micros();
        type Of<'a> = &'a dyn Fn(&Backlog) -> String;
        let all: [(&str, &str, &str, Of<'_>); 9] = [
            ("owed_messages", "gauge", "Messages not delivered.", &|b| b.owed().0.to_string()),
            ("owed_bytes", "gauge", "Their bytes.", &|b| b.owed().1.to_string()),
            ("limit_bytes", "gauge", "Bytes that may be owed.", &|b| {
                b.sink.backlog_bytes.to_string()
            }),
            ("lag_seconds", "gauge", "Age of the oldest message not delivered.", &|b| {
                (b.lag(now) as f64 / 1e6).to_string()
            }),
            ("rows_total", "counter", "Rows delivered.", &|b| load(&b.rows)),
            ("batches_total", "counter", "Deliveries.", &|b| load(&b.batches)),
            ("failures_total", "counter", "Attempts that failed.", &|b| load(&b.failures)),
            ("refused_total", "counter", "Rows left out: not taken.", &|b| load(&b.refused)),
            ("dropped_total", "counter", "Messages given up.", &|b| load(&b.dropped)),
        ];
        for (name, kind, help, of) in all {
            let name = format!("velociraptor_forward_{name}");
            let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for b in server.backlogs.all() {
                let _ = writeln!(self.0, "{name}{{sink=\"{}\"}} {}", b.sink.name, of(b));
            }
        }
    }
}

fn render(frontend: &Frontend, m: &Metrics, operations: &CountingFs) -> String {
    let server = frontend.server();
    let mut t = Text(String::new());
    let load = |v: &AtomicU64| v.load(Ordering::Relaxed);
    t.gauge("client_comms_current_connections", "Client connections open now.", load(&m.open));
    t.gauge("velociraptor_connections_limit", "Client connections that may be.", load(&m.most));
    t.delivery(&server.delivery().measured());
    t.gauge("velociraptor_clients_held", "Clients held for tasks.", server.sessions.len() as u64);
    let here = server.sessions.by_process().get(&None).copied().unwrap_or(0);
    t.gauge("velociraptor_readers_held", "Clients held by this process itself.", here as u64);
    t.gauge("velociraptor_websockets", "Client WebSockets open now.", load(&m.websockets));
    t.counter("velociraptor_connections_total", "Connections accepted.", &m.connections);
    t.counter("frontend_loadshed_count", "Connections closed before TLS.", &m.shed);
    t.counter(
        "velociraptor_handshake_failures_total",
        "TLS handshakes that failed.",
        &m.handshake_failures,
    );
    t.counter("velociraptor_requests_total", "Requests and WebSocket messages.", &m.requests);
    t.counter(
        "velociraptor_body_budget_refusals_total",
        "Requests refused: too much in memory.",
        &m.budget_refusals,
    );
    t.counter("velociraptor_oversize_total", "Bodies over the limit.", &m.oversize);
    t.counter(
        "velociraptor_service_timeouts_total",
        "Requests not answered in time.",
        &m.service_timeouts,
    );
    t.counter("frontend_receiver_bytes", "Body bytes received from clients.", &m.body_bytes);
    t.admission(frontend.admission(), m);
    t.gauge(
        "velociraptor_sharing_nodes",
        "Nodes among which the cluster's limits are divided.",
        server.sharing().into(),
    );
    let c = &server.counters;
    t.counter("velociraptor_jobs_total", "Messages stored.", &c.jobs);
    t.counter(
        "velociraptor_duplicates_total",
        "Messages or POSTs recognised as repeats.",
        &c.duplicates,
    );
    t.counter(
        "velociraptor_conflicts_total",
        "Messages whose place was taken; kept aside.",
        &c.conflicts,
    );
    let deleted = server.orgs().iter().map(|o| o.state().clients.deleted.len()).sum::<usize>();
    t.gauge(
        "velociraptor_deleted_remembered",
        "Clients, flows and hunts of which it is remembered that they were deleted.",
        deleted as u64,
    );
    t.counter(
        "velociraptor_deleted_dropped_total",
        "POSTs and messages of deleted clients and flows.",
        &c.dropped,
    );
    t.counter("velociraptor_ignored_total", "Messages nobody stores.", &c.ignored);
    t.counter(
        "velociraptor_quarantined_total",
        "Messages that can never be stored.",
        &c.quarantined,
    );
    t.counter("velociraptor_refused_total", "POSTs refused or not stored.", &c.refused);
    t.counter("velociraptor_rows_total", "Rows stored.", &c.rows);
    t.counter("uploaded_bytes", "Upload bytes stored.", &c.upload_bytes);
    t.counter("velociraptor_tasks_sent_total", "Tasks handed to clients.", &c.tasks_sent);
    t.counter("velociraptor_flows_settled_total", "Flows put into stock files.", &c.settled);
    t.counter(
        "velociraptor_query_spilled_bytes_total",
        "Bytes of rows that queries put into temporary files.",
        &c.query_spilled_bytes,
    );
    t.counter("velociraptor_tools_fetched_total", "Tools fetched.", &c.tools_fetched);
    t.counter("velociraptor_tools_failed_total", "Tools that could not be had.", &c.tools_failed);
    let most = server.options.tools.max_bytes;
    t.gauge("velociraptor_tools_limit_bytes", "Largest tool.", most);
    t.gauge(
        "velociraptor_draining",
        "1: clients are sent to other nodes.",
        frontend.leaves().into(),
    );
    t.gauge("velociraptor_drain_left", "Clients still to be sent.", frontend.to_leave() as u64);
    t.gauge(
        "velociraptor_drain_rate_limit",
        "Clients sent away in a second by a drain; 0: all at once.",
        frontend.drain_rate().into(),
    );
    t.gauge(
        "velociraptor_balance_rate_limit",
        "Clients that each node with too many sends to others in a second.",
        server.options.fleet.balance.per_second.into(),
    );
    t.kinds(
        "velociraptor_clients_sent_away_total",
        "Clients sent to other nodes, by how, and those that came back and were served.",
        &frontend.sent_away().named(),
    );
    let j = server.journal.stats();
    t.counter("velociraptor_journal_records_total", "Records committed.", &j.records);
    t.counter("velociraptor_journal_bytes_total", "Journal bytes written.", &j.bytes);
    t.counter(
        "velociraptor_journal_groups_total",
        "Groups committed: a write and a sync each.",
        &j.groups,
    );
    t.counter("velociraptor_journal_failures_total", "Groups that failed.", &j.failures);
    t.gauge("velociraptor_journal_files", "Journal files in use.", server.journal_files() as u64);
    let early = &server.early;
    t.gauge(
        "velociraptor_journal_kept_bytes",
        "Bytes of closed journal files, on a master of all processes.",
        early.kept.load(std::sync::atomic::Ordering::Relaxed),
    );
    t.counter(
        "velociraptor_flows_settled_early_total",
        "Flows put into stock files before their end, so that old journals can go.",
        &early.flows,
    );
    t.counter(
        "velociraptor_event_files_early_total",
        "Event files made before their day was over, so that old journals can go.",
        &early.events,
    );
    t.counter(
        "velociraptor_tasks_filed_early_total",
        "Tasks that got files while they waited, so that old journals can go.",
        &early.tasks,
    );
    t.gauge(
        "velociraptor_journal_waiting_bytes",
        "Bytes accepted and not committed yet.",
        server.journal.waiting_bytes() as u64,
    );
    let space = server.journal.space();
    t.gauge("velociraptor_store_free_bytes", "Bytes free.", space.free().unwrap_or(0));
    t.gauge("velociraptor_store_reserve_bytes", "Bytes kept for decisions.", space.held());
    t.gauge(
        "velociraptor_store_level",
        "0: everything is taken, 1: no uploads, 2: nor rows, 3: decisions alone.",
        space.level() as u64,
    );
    let name = "velociraptor_store_full_refusals_total";
    let _ = writeln!(t.0, "# HELP {name} Refused for want of space.\n# TYPE {name} counter");
    for (what, n) in space.refused() {
        let _ = writeln!(t.0, "{name}{{what=\"{what}\"}} {n}");
    }
    let name = "velociraptor_store_operations_total";
    let _ = writeln!(t.0, "# HELP {name} Calls to the file server.\n# TYPE {name} counter");
    for (operation, n) in operations.counts().named() {
        let _ = writeln!(t.0, "{name}{{operation=\"{operation}\"}} {n}");
    }
    t.forward(server);
    let e = &server.exports;
    t.gauge("velociraptor_exports_running", "Archives under way.", e.running() as u64);
    t.gauge(
        "velociraptor_exports_limit",
        "Archives made at the same time.",
        server.options.exports.at_once as u64,
    );
    t.counter("velociraptor_exports_total", "Archives finished.", &e.finished);
    t.counter("velociraptor_exports_failed_total", "Archives that failed.", &e.failed);
    let r = &server.recruitment;
    t.counter("velociraptor_hunt_recruits_total", "Clients recruited by hunts.", &r.recruited);
    t.counter("velociraptor_hunt_failures_total", "Recruitments not stored.", &r.failed);
    t.gauge(
        "velociraptor_hunt_rate_limit",
        "Clients that all hunts together recruit in a second.",
        server.options.hunt_rate,
    );
    let (mut clients, mut flows, mut hunts, mut waiting) = (0, 0, 0, 0);
    for org in server.orgs() {
        let s = org.state();
        let now = server.env.clock.micros();
        hunts += s.hunts.iter().filter(|(_, h)| h.recruits(now)).count() as u64;
        waiting += s.hunts.waiting() as u64;
        clients += s.clients.len() as u64;
        flows += s.flows.len() as u64;
    }
    t.gauge("velociraptor_clients", "Clients enrolled.", clients);
    t.gauge("velociraptor_hunts_running", "Hunts that take clients.", hunts);
    t.gauge("velociraptor_hunt_candidates", "Clients to be looked at by hunts.", waiting);
    t.gauge("velociraptor_unsettled_flows", "Flows not in stock files yet.", flows);
    match server.is_master() {
        true => fleet(&mut t, server),
        false => t.kinds(
            "velociraptor_task_claims_total",
            "Tasks in files that this minion reached for without its master.",
            &server.claims.named(),
        ),
    }
    t.0
}

/// What a master does for other processes.
fn fleet(t: &mut Text, server: &crate::services::Server) {
    let (all, living) = server.processes.count();
    let name = "velociraptor_fleet_processes";
    let _ = writeln!(t.0, "# HELP {name} Processes with files.\n# TYPE {name} gauge");
    let _ = writeln!(t.0, "{name}{{state=\"living\"}} {living}");
    let _ = writeln!(t.0, "{name}{{state=\"ended\"}} {}", all - living);
    let a = &server.processes.applied;
    t.counter("velociraptor_fleet_records_total", "Records of others applied.", &a.records);
    t.counter("velociraptor_fleet_bytes_total", "Bytes of them.", &a.bytes);
    t.counter("velociraptor_fleet_repeats_total", "Frames applied before.", &a.repeats);
    t.counter("velociraptor_fleet_gaps_total", "Gaps read from the store.", &a.gaps);
    t.counter("velociraptor_fleet_poison_total", "Records set aside.", &a.poison);
    t.counter(
        "velociraptor_fleet_refused_decisions_total",
        "Decisions of deposed masters.",
        &a.refused_decisions,
    );
    let positions = server.processes.positions();
    for (what, help) in [("file", "number"), ("offset", "bytes of it")] {
        let name = format!("velociraptor_fleet_position_{what}");
        let _ =
            writeln!(t.0, "# HELP {name} Journal file applied last, {help}.\n# TYPE {name} gauge");
        for (p, at) in &positions {
            let value = if what == "file" { at.file } else { at.offset };
            let (node, epoch) = (&p.node, &p.epoch);
            let _ = writeln!(t.0, "{name}{{node={node:?},epoch={epoch:?}}} {value}");
        }
    }
    t.gauge("velociraptor_task_files", "Tasks in files.", server.offers.len() as u64);
    t.kinds(
        "velociraptor_task_offers_total",
        "Tasks in files: left there, taken back, found in others' hands; failures.",
        &server.offers.counted.named(),
    );
    let (mut stones, mut hashes) = (0, 0);
    for org in server.orgs() {
        let s = org.state();
        stones += s.tombstones.len() as u64;
        hashes += s.tombstones.hashes() as u64;
    }
    t.gauge("velociraptor_tombstones", "Settled things remembered.", stones);
    t.gauge("velociraptor_tombstone_hashes", "Messages of them.", hashes);
    t.counter(
        "velociraptor_tombstones_dropped_total",
        "Forgotten because there were too many.",
        &a.tombstones_dropped,
    );
}
