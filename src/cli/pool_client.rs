//! `pool_client`: many virtual clients in this process, as load and as proof.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::client::{ClientArgs, ended, settings};
use super::{Context, Usage, print};
use crate::config::{Role, load};
use crate::pool::{self, Api, Book, Persona, Plan, Report, Tasks};

/// How often the line of progress is renewed.
const TICK: Duration = Duration::from_secs(1);

/// Waits after failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Waits {
    /// A minute and more, as the stock agent.
    Stock,
    /// Short ones that grow.
    #[default]
    Ours,
}

/// Arguments of `pool_client`.
#[derive(Args, Debug)]
#[command(after_long_help = "Each virtual client is a whole agent: its own key, session and \
    connection; its queries are really run, on this machine, one answer of `info()` apart. Its \
    state is kept in memory. Works against any server of the protocol, the stock one included, \
    with that server's client configuration.\n\n\
    With --collect and --api_config the clients are also tasked: the report then has the times \
    from the call to the client having its task, and after the last collection ended an audit of \
    what the server shows against what clients were acknowledged. Collections that somebody else \
    started are audited too.\n\n\
    Exit status: 0; 1 if the audit finds rows lost or doubled or tasks that never came, or on any \
    other failure.\n\n\
    Example:\n\n    \
    velociraptor -c client.config.yaml -a api.config.yaml pool_client --number 300 --keys keys.pem \\\n        \
    --ramp 50 --collect Generic.Client.Info --tasks 1000 --rate 100 --report report.json")]
pub struct PoolArgs {
    /// How many clients.
    #[arg(long, alias = "clients", default_value_t = 100, value_name = "N")]
    number: usize,

    /// Leave the first N keys of the file to somebody else: several of these processes
    /// share one file of keys that are all there.
    #[arg(long, default_value_t = 0, value_name = "N")]
    skip: usize,

    /// The file of their keys; missing ones are made and added to it.
    #[arg(long, value_name = "FILE", default_value = "pool_client.keys.pem")]
    keys: String,

    /// Clients started each second; 0 starts all at once.
    #[arg(long, default_value_t = 100, value_name = "N")]
    ramp: u32,

    /// A client's process ends after this time on average, and starts again.
    #[arg(long, value_name = "SECONDS")]
    churn: Option<f64>,

    /// What the clients say they are.
    #[arg(long, value_enum, default_value_t)]
    persona: Persona,

    /// How long clients wait after failures.
    #[arg(long, value_enum, default_value_t)]
    backoff: Waits,

    /// Collections of one client that run at the same time.
    #[arg(long, value_name = "N")]
    concurrency: Option<usize>,

    /// Collect this artifact from the clients in turn; needs --api_config.
    #[arg(long, value_name = "ARTIFACT", requires = "tasks")]
    collect: Option<String>,

    /// How many collections to start.
    #[arg(long, value_name = "N")]
    tasks: Option<usize>,

    /// Collections started each second.
    #[arg(long, default_value_t = 50.0, value_name = "N")]
    rate: f64,

    /// A client is left alone for so long after each of its collections was started.
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    think: f64,

    /// End after this time even if collections still run. Without --collect: run so long;
    /// by default until SIGTERM or SIGINT.
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,

    /// Every client sends event rows all the time, in POSTs of about this size (at least
    /// 64 KiB), not compressed: load that costs this machine less than the server.
    #[arg(long, value_name = "BYTES", conflicts_with = "churn")]
    flood: Option<u64>,

    /// Write the report into this file, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<String>,
}

fn seconds(name: &str, n: f64) -> anyhow::Result<Duration> {
    let bad = |_| Usage(format!("--{name}: {n} is not a number of seconds"));
    Ok(Duration::try_from_secs_f64(n).map_err(bad)?)
}

/// Runs the clients.
pub async fn run(args: PoolArgs, ctx: &Context) -> anyhow::Result<()> {
    let env = &ctx.env;
    let think = seconds("think", args.think)?;
    let churn = args.churn.map(|s| seconds("churn", s)).transpose()?;
    let duration = args.duration.map(|s| seconds("duration", s)).transpose()?;
    if !(args.rate > 0.0 && args.rate.is_finite()) {
        return Err(Usage(format!("--rate: {} is not a positive number", args.rate)).into());
    }
    // Each client has up to three connections.
    crate::env::real::open_files();
    let path = ctx.config_path()?;
    let loaded = load(env, path, ctx.global.settings.as_deref(), Role::Agent).await?;
    let client = ClientArgs {
        writeback: Some("/none".into()),
        stock_backoff: args.backoff == Waits::Stock,
        ..ClientArgs::default()
    };
    let (mut settings, connector) = settings(&loaded, &client)?;
    if let Some(n) = args.concurrency {
        settings.concurrency = n.max(1);
    }
    let api = match (&ctx.global.api_config, &args.collect) {
        (Some(path), _) => {
            let loaded = load(env, path, None, Role::ApiClient).await?;
            let org = ctx.global.org.clone().unwrap_or_default();
            Some(Api::connect(env, &loaded.config.api_config, &org).await?)
        }
        (None, Some(_)) => return Err(Usage("--collect needs --api_config".into()).into()),
        (None, None) => None,
    };
    let line = Line::new();
    let keys_file = crate::config::load::absolute(&args.keys)?;
    let all = args.skip.saturating_add(args.number);
    let keys = pool::keys(env, &keys_file, all, |n| line.show(&format!("keys: {n} of {all}")));
    let keys = keys.await?.split_off(args.skip);

    let (book, tasks) = (Arc::new(Book::default()), Arc::new(Tasks::default()));
    let stop = CancellationToken::new();
    let flood = args.flood.map(|bytes| bytes.clamp(64 << 10, 2 << 20));
    settings.disable_compression |= flood.is_some();
    let flood = flood.map(|bytes| (pool::Flood::new(bytes as usize), bytes));
    let options = pool::Options { persona: args.persona, ramp: args.ramp, churn, flood };
    let begun = Instant::now();
    pool::start(env, settings, &[connector], keys, &options, &book, &stop);

    let told = stop.child_token();
    {
        let told = told.clone();
        env.spawn(async move {
            match duration {
                Some(d) => tokio::select! {
                    biased;
                    () = ended() => {}
                    () = tokio::time::sleep(d) => {}
                },
                None => ended().await,
            }
            told.cancel();
        });
    }
    let work = async {
        let (Some(api), Some(artifact)) = (&api, &args.collect) else {
            return std::future::pending().await;
        };
        enrolled(&book, args.number).await;
        let plan = Plan {
            artifact: artifact.clone(),
            tasks: args.tasks.unwrap_or_default(),
            rate: args.rate,
            think,
        };
        pool::schedule(env, api, &book, &plan, &tasks, &told).await;
        complete(&book, &tasks).await;
    };
    let progress = async {
        loop {
            let s = book.sums();
            let n = |x: &std::sync::atomic::AtomicU64| x.load(Ordering::Relaxed);
            line.show(&format!(
                "{:.0} s: {} of {} clients, {} tasks accepted, {} received, {} complete, {} rows, {} MB",
                begun.elapsed().as_secs_f64(),
                n(&s.connected),
                args.number,
                tasks.len(),
                n(&s.tasks),
                n(&s.complete),
                n(&s.rows) + n(&s.events),
                n(&s.bytes) >> 20,
            ));
            tokio::time::sleep(TICK).await;
        }
    };
    tokio::select! {
        biased;
        () = told.cancelled() => {}
        () = work => {}
        () = progress => {}
    }
    let mut report = Report::of(args.number, begun.elapsed(), &book, &tasks);
    line.end();
    if let Some(api) = &api {
        report.audit = Some(pool::audit(api, &book, &tasks).await.context("audit")?);
    }
    stop.cancel();
    print(&report.to_string())?;
    let (failed, why) = tasks.failed();
    if failed > 0 {
        tracing::warn!("{failed} calls for tasks failed; the last one: {why}");
    }
    if let Some(path) = &args.report {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        let path = crate::config::load::absolute(path)?;
        let new = format!("{path}.new");
        crate::env::fs::replace(&*env.fs, &new, &path, text.as_bytes())
            .await
            .with_context(|| path.clone())?;
    }
    match &report.audit {
        Some(a) if args.collect.is_some() && !a.is_exact() => {
            anyhow::bail!("the server does not have exactly what was acknowledged")
        }
        _ => Ok(()),
    }
}

/// Waits until the server answered every client.
async fn enrolled(book: &Book, clients: usize) {
    while book.sums().connected.load(Ordering::Relaxed) < clients as u64 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the end of every collection that was started was acknowledged.
async fn complete(book: &Book, tasks: &Tasks) {
    for (client, flow) in tasks.all().into_keys() {
        while !book.flow(&client, &flow).is_some_and(|f| f.complete) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// One line at a terminal that is written over again and again.
struct Line(bool);

impl Line {
    fn new() -> Line {
        Line(std::io::stderr().is_terminal())
    }

    fn show(&self, text: &str) {
        if self.0 {
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        }
    }

    fn end(&self) {
        if self.0 {
            let _ = writeln!(std::io::stderr());
        }
    }
}
