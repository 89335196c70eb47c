//! `datastore`: what is not in stock files yet, and the way there.

use std::io::IsTerminal as _;
use std::sync::Mutex;

use clap::{Args, Subcommand};
use serde_json::json;

use super::output::table;
use super::{Context, print};
use crate::config::load::check_user;
use crate::config::{Loaded, Role, load};
use crate::node::offline;
use crate::services::inspect::{Life, Report, Unsettled};
use crate::services::settle_everything::Settled;

/// Arguments of `datastore`.
#[derive(Args, Debug)]
pub struct DatastoreArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
enum Command {
    /// Show processes, journals, and what is in journals alone. Reads only.
    Status(StatusArgs),
    /// Put everything into stock files, so that a stock server can take over.
    Settle(SettleArgs),
}

#[derive(Args, Debug)]
#[command(
    after_long_help = "Reads the journals on the datastore of the configuration file, beside \
    running servers or without; nothing is written and nobody is asked. Takes about as long as \
    reading the journals once, and up to three beats more when processes of other machines are \
    watched for a sign of life.\n\n\
    A flow or a day of events is unsettled until all of it is in the files a stock server reads: \
    with servers running that is flows that run or ended within the last minute, and today's \
    events. `oldest` is when the first of them came.\n\n\
    Exit status: 0 when the journals could be read, 1 when not."
)]
struct StatusArgs {
    /// One JSON object, with every process, instead of the tables.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
#[command(
    after_long_help = "For the way back to a stock server. Stop all servers on the datastore \
    first, minions too: one that lives is refused by name, with status 3. Run it as the user who \
    owns the datastore, on the master's configuration.\n\n\
    All journals of all nodes are read back as at a start, and everything in them gets its stock \
    files: flows that have not ended as they stand, events of today, unsent tasks as files of the \
    stock queue, clients' records, and of files that are still being uploaded what is there. Then \
    the journals are deleted. What is left below `fleet` a stock server does not look at: \
    messages set aside, quarantined POSTs, POSTs of clients that never enrolled, parts of \
    unfinished uploads. A server of this program started later goes on with all of it.\n\n\
    It can be interrupted at any moment, by a power cut too, and run again: it does what is left, \
    and nothing when nothing is.\n\n\
    Exit status: 0 when everything is in stock files; 1 when something is not (run it again); 3 \
    when a server lives."
)]
struct SettleArgs {
    /// Take the master role even from a master that lives; that one then ends. For when it
    /// cannot be stopped where it runs.
    #[arg(long)]
    takeover: bool,

    /// The summary as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: DatastoreArgs, ctx: &Context) -> anyhow::Result<()> {
    let settings = ctx.global.settings.as_deref();
    let loaded = load(&ctx.env, ctx.config_path()?, settings, Role::Tool).await?;
    match args.command {
        Command::Status(args) => status(&args, ctx, &loaded).await,
        Command::Settle(args) => settle(&args, ctx, &loaded).await,
    }
}

async fn status(args: &StatusArgs, ctx: &Context, loaded: &Loaded) -> anyhow::Result<()> {
    let report = offline::status(&ctx.env, loaded).await?;
    if args.json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&report)?));
    }
    print(&shown(&report, ctx.env.clock.unix()))
}

async fn settle(args: &SettleArgs, ctx: &Context, loaded: &Loaded) -> anyhow::Result<()> {
    check_user(&ctx.env, &loaded.config).await?;
    super::frontend::check_mounts(ctx, &loaded.config).await?;
    let started = tokio::time::Instant::now();
    let progress = Progress::new();
    let told = |what: &str, n: usize, of: usize| progress.show(what, n, of);
    let definitions = &ctx.global.definitions;
    let done = offline::settle(&ctx.env, loaded, definitions, args.takeover, &told).await;
    progress.end();
    let done = done?;
    let nothing = done.is_none();
    let s = done.unwrap_or_default();
    if args.json {
        let mut out = serde_json::to_value(&s)?;
        if let Some(map) = out.as_object_mut() {
            map.insert("nothing_to_do".into(), json!(nothing));
            map.insert("seconds".into(), json!(started.elapsed().as_secs_f64()));
        }
        print(&format!("{out}\n"))?;
    } else if nothing {
        print("Nothing to do: everything is in stock files.\n")?;
    } else {
        print(&summary(&s))?;
    }
    anyhow::ensure!(
        s.journals_left == s.journals_waiting,
        "{} journal files are still there: something in them could not be settled; the log says \
         what. Run it again",
        s.journals_left - s.journals_waiting
    );
    Ok(())
}

/// A line at a terminal that says how far it is; nothing elsewhere.
struct Progress {
    terminal: bool,
    last: Mutex<(String, usize)>,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: Mutex::default() }
    }

    fn show(&self, what: &str, n: usize, of: usize) {
        if !self.terminal {
            return;
        }
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Not each of a hundred thousand.
        let due = last.0 != what || n > last.1 + of / 200;
        if due {
            *last = (what.to_owned(), n);
            let count = if of > 0 { format!(": {n} of {of}") } else { String::new() };
            eprint!("\r\x1b[K{what}{count}");
        }
    }

    fn end(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

fn summary(s: &Settled) -> String {
    let mut out = String::from("Everything is in stock files:\n");
    let mut line = |n: u64, what: &str, more: String| {
        if n > 0 {
            out += &format!("{n:>10}  {what}{more}\n");
        }
    };
    let open = match s.open_flows {
        0 => String::new(),
        n => format!(", of which {n} have not ended"),
    };
    line(s.flows as u64, "flows", open);
    line(s.event_sets as u64, "sets of events", format!(", {} rows", s.event_rows));
    line(s.uploads as u64, "uploads", String::new());
    line(s.partial_uploads as u64, "unfinished uploads", " (a part of each)".into());
    line(s.tasks as u64, "queued tasks", String::new());
    line(s.clients as u64, "client records", String::new());
    line(s.journal_files as u64, "journal files deleted", String::new());
    if s.waiting_to_enrol > 0 {
        out += &format!(
            "{} POSTs of clients that never enrolled stay in a journal: they are sealed, and a \
             stock server has no place for them.\n",
            s.waiting_to_enrol
        );
    }
    out
}

fn shown(r: &Report, now: u64) -> String {
    let mut out = match &r.master {
        None => "master: none\n".to_owned(),
        Some(m) => {
            format!("master: {} (epoch {}, term {}), {}\n", m.node, m.epoch, m.term, life(m.state))
        }
    };
    if !r.processes.is_empty() {
        let columns =
            ["node", "epoch", "role", "state", "journals", "bytes", "upload data", "process"];
        let rows: Vec<Vec<String>> = (r.processes.iter())
            .map(|p| {
                vec![
                    p.node.clone(),
                    p.epoch.clone(),
                    p.role.to_owned(),
                    life(p.state).to_owned(),
                    p.journal_files.to_string(),
                    p.journal_bytes.to_string(),
                    p.spill_bytes.to_string(),
                    p.running.clone(),
                ]
            })
            .collect();
        out += "\n";
        out += &table(&columns.map(str::to_owned), &rows);
    }
    out += "\nin journals alone:\n";
    let u = &r.unsettled;
    let days: Vec<String> = u.event_days.iter().map(|(d, n)| format!("{d}: {n}")).collect();
    let rows = [
        ("flows", format!("{} ({} have not ended), {} rows", u.flows, u.open_flows, u.rows)),
        ("events", format!("{} sets, {} rows", u.event_sets(), u.event_rows)),
        ("event days", days.join(", ")),
        ("uploads", format!("{}, and {} unfinished", u.uploads, u.partial_uploads)),
        ("tasks", u.tasks.to_string()),
        ("waiting to enrol", u.waiting_to_enrol.to_string()),
        ("oldest", u.oldest.map_or("-".into(), |t| when(t, now))),
        ("unreadable places", u.unreadable.to_string()),
    ];
    for (what, text) in rows {
        out += &format!("  {what:<18} {text}\n");
    }
    out += &format!("\n{}\n", would(u, r));
    out
}

fn life(l: Life) -> &'static str {
    match l {
        Life::Alive => "alive",
        Life::Silent => "silent",
        Life::Ended => "ended",
    }
}

fn when(t: u64, now: u64) -> String {
    let at = jiff::Timestamp::from_second(t as i64).unwrap_or_default();
    format!("{at}, {} s ago", now.saturating_sub(t))
}

/// What `datastore settle` would do.
fn would(u: &Unsettled, r: &Report) -> String {
    let alive: Vec<&str> =
        (r.processes.iter()).filter(|p| p.state == Life::Alive).map(|p| p.node.as_str()).collect();
    let files: usize = r.processes.iter().map(|p| p.journal_files).sum();
    let bytes: u64 = r.processes.iter().map(|p| p.journal_bytes + p.spill_bytes).sum();
    if files == 0 {
        return "datastore settle has nothing to do: there is no journal.".into();
    }
    let work = format!(
        "write {} flows, {} sets of events, {} uploads ({} of them in part) and {} tasks as stock \
         files, and delete {files} journal files ({bytes} bytes with the data of uploads).",
        u.flows,
        u.event_sets(),
        u.uploads + u.partial_uploads,
        u.partial_uploads,
        u.tasks
    );
    match alive.is_empty() {
        true => format!("datastore settle would {work}"),
        false => format!("Stopped ({}), datastore settle would {work}", alive.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_what_there_was() {
        let s = Settled { flows: 3, open_flows: 1, partial_uploads: 2, ..Settled::default() };
        let text = summary(&s);
        assert!(text.contains("3  flows, of which 1 have not ended"), "{text}");
        assert!(text.contains("2  unfinished uploads") && !text.contains("tasks"), "{text}");
    }

    #[test]
    fn a_status_says_what_settling_would_do() {
        let mut r = Report { master: None, processes: vec![], unsettled: Unsettled::default() };
        assert!(shown(&r, 0).contains("nothing to do"));
        r.processes.push(crate::services::inspect::ProcessReport {
            node: "n1".into(),
            epoch: "00000001-a".into(),
            role: "minion",
            state: Life::Alive,
            running: "process 7 on host h".into(),
            journal_files: 2,
            journal_bytes: 100,
            spill_files: 0,
            spill_bytes: 0,
        });
        r.unsettled.event_days.insert("2026-01-02".into(), 4);
        r.unsettled.oldest = Some(60);
        let text = shown(&r, 100);
        assert!(
            text.contains("Stopped (n1), datastore settle would write 0 flows, 4 sets"),
            "{text}"
        );
        assert!(text.contains("1970-01-01T00:01:00Z, 40 s ago"), "{text}");
        assert!(text.contains("2026-01-02: 4"), "{text}");
    }
}
