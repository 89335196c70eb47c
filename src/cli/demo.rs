//! `demo`: a whole cluster on this machine, to look at and to break.

use std::os::unix::process::CommandExt;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::client::{ClientArgs, ended, settings};
use super::{Context, Usage, print};
use crate::config::{Role, load};
use crate::demo::{self, Choices, Deployment, GRAMMAR, Outcome, Play, Script};
use crate::pool::{self, Api};

/// Least size of a disk of its own.
const SMALLEST: u64 = 256 << 20;

/// Arguments of `demo`.
#[derive(Args, Debug)]
#[command(after_long_help = format!("Starts a master and minions as processes of this program, each \
    with the configuration that `config generate` and `config frontend` make for it, and virtual \
    clients (see `pool_client`) in this process. The clients are tasked all the while; a hunt goes \
    over all of them. At a terminal a table shows how it goes, and keys break things; elsewhere \
    lines do. The web pages are open meanwhile: the address and the password are shown.\n\n\
    At the end (key q, SIGINT, SIGTERM, or the script's end) everything is put in order and what \
    clients were acknowledged is compared with what the server shows: acknowledged, lost, doubled. \
    Every command that was run is listed, so that each step can be done by hand.\n\n\
    Needs no rights, and listens on 127.0.0.1 alone.\n\n\
    {GRAMMAR}\n\n\
    Exit status: 0 if everything acknowledged is there once, hunts are exact, and no node ended by \
    itself; 1 if not; 2 for a script that is wrong.\n\n\
    Example:\n\n    \
    printf 'at 10s kill minion-1\\nat 20s start minion-1\\nat 30s kill master\\nat 33s start master\\n\
    at 60s end\\n' > script\n    \
    velociraptor demo --minions 2 --clients 300 --script script --report report.json"))]
pub struct DemoArgs {
    /// Minions beside the master.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=9))]
    minions: u16,

    /// Virtual clients.
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    clients: u32,

    /// Clients that use WebSockets, percent; the others use HTTPS.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100))]
    wss: u8,

    /// Collections started each second.
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    rate: f64,

    /// Clients started each second; 0 starts all at once.
    #[arg(long, default_value_t = 100, value_name = "N")]
    ramp: u32,

    /// What happens when; see below. Without it keys decide, until q.
    #[arg(long, value_name = "FILE")]
    script: Option<String>,

    /// Write the outcome into this file, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<String>,

    /// The directory of everything, which must be empty; it stays. Default: a temporary one, which
    /// is removed after a good end.
    #[arg(long, value_name = "DIR")]
    dir: Option<String>,

    /// The file of the clients' keys; missing ones are made and added to it. Default: a
    /// new one in the directory.
    #[arg(long, value_name = "FILE")]
    keys: Option<String>,

    /// Put the datastore on a disk of its own of this size, such as 512M or 2G, so that it can be
    /// filled. It is in memory (a tmpfs in a user namespace, by `unshare`): faster than a disk, and gone
    /// at the end.
    #[arg(long, value_name = "SIZE")]
    disk: Option<String>,

    /// Let the store be stalled: the nodes then run as `demo_node`, which is `frontend` with a
    /// hook in front of its file calls. Without it they are what runs in production.
    #[arg(long)]
    stalls: bool,

    /// Port of the web pages; 0 takes a free one.
    #[arg(long = "gui_port", default_value_t = 0, value_name = "PORT")]
    gui_port: u16,

    /// How long the end waits for collections that run, seconds.
    #[arg(long, default_value_t = 180.0, value_name = "SECONDS")]
    patience: f64,

    /// This process is in its own namespace already.
    #[arg(long, hide = true)]
    inside: bool,
}

/// `512M`: bytes.
fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// Replaces this process by itself in a user and mount namespace of its own, where
/// it may mount. Returns only when that fails.
fn enter_namespace() -> anyhow::Error {
    let program = match std::env::current_exe() {
        Ok(p) => p,
        Err(e) => return e.into(),
    };
    let mut c = std::process::Command::new("unshare");
    c.args(["--user", "--map-root-user", "--mount"]).arg(program);
    c.args(std::env::args_os().skip(1)).arg("--inside");
    let e = c.exec();
    anyhow::Error::from(e).context("--disk: no mount namespace of its own (unshare)")
}

/// Runs it.
pub async fn run(args: DemoArgs, ctx: &Context) -> anyhow::Result<()> {
    let env = &ctx.env;
    let disk = match args.disk.as_deref().map(|text| (text, size(text))) {
        None => None,
        Some((_, Some(n))) if n >= SMALLEST => Some(n),
        Some((text, _)) => {
            let least = SMALLEST >> 20;
            let why = format!("--disk {text}: should be a size of at least {least}M");
            return Err(Usage(why).into());
        }
    };
    if !(args.rate > 0.0 && args.rate.is_finite()) {
        return Err(Usage(format!("--rate: {} is not a positive number", args.rate)).into());
    }
    let patience = Duration::try_from_secs_f64(args.patience)
        .map_err(|_| Usage(format!("--patience: {} is no number of seconds", args.patience)))?;
    let minions = usize::from(args.minions);
    let script = match &args.script {
        None => None,
        Some(path) => Some(read_script(ctx, path, minions).await?),
    };
    if disk.is_some() && !args.inside {
        return Err(enter_namespace());
    }
    let (dir, keep) = match &args.dir {
        Some(d) => (crate::config::load::absolute(d)?, true),
        None => (temporary(ctx), false),
    };
    let choices =
        Choices { dir: dir.clone(), minions, gui_port: args.gui_port, disk, stalls: args.stalls };
    let stop = CancellationToken::new();
    {
        let stop = stop.clone();
        env.spawn(async move {
            ended().await;
            stop.cancel();
        });
    }
    let outcome = play(&args, ctx, &choices, script, patience, &stop).await;
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(e) => {
            eprintln!("files and logs are in {dir}");
            return Err(e);
        }
    };
    print(&outcome.to_string())?;
    if let Some(path) = &args.report {
        let text = serde_json::to_string_pretty(&outcome)? + "\n";
        let path = crate::config::load::absolute(path)?;
        let new = format!("{path}.new");
        let written = crate::env::fs::replace(&*env.fs, &new, &path, text.as_bytes());
        written.await.with_context(|| path.clone())?;
    }
    match (keep, outcome.good) {
        (false, true) => remove(&dir, disk.is_some()).with_context(|| dir.clone())?,
        _ => print(&format!("files and logs are in {dir}\n"))?,
    }
    anyhow::ensure!(outcome.good, "{}", outcome.complaints.join("; "));
    Ok(())
}

async fn read_script(ctx: &Context, path: &str, minions: usize) -> anyhow::Result<Script> {
    const LIMIT: usize = 1 << 20;
    let whole = crate::config::load::absolute(path)?;
    let data = crate::env::fs::read_limited(&*ctx.env.fs, &whole, LIMIT);
    let data = data.await.with_context(|| whole.clone())?;
    let text = String::from_utf8(data).map_err(|e| Usage(format!("{path}: {e}")))?;
    Ok(Script::parse(&text, minions).map_err(|e| Usage(format!("{path}: {e}")))?)
}

fn temporary(ctx: &Context) -> String {
    let mut b = [0; 6];
    ctx.env.entropy.fill(&mut b);
    let base = std::env::temp_dir();
    format!("{}/{}-demo-{}", base.display(), crate::PRODUCT, hex::encode(b))
}

#[allow(clippy::disallowed_methods)] // a directory this command made, as a whole
fn remove(dir: &str, mounted: bool) -> std::io::Result<()> {
    if mounted {
        // If it fails, so does the next step, and says why.
        let _ = std::process::Command::new("umount").arg(format!("{dir}/ds")).status();
    }
    std::fs::remove_dir_all(dir)
}

async fn play(
    args: &DemoArgs,
    ctx: &Context,
    choices: &Choices,
    script: Option<Script>,
    patience: Duration,
    stop: &CancellationToken,
) -> anyhow::Result<Outcome> {
    let env = &ctx.env;
    let mut d = Deployment::make(env, choices).await?;
    print(&d.welcome())?;
    let clients = args.clients as usize;
    let path = match &args.keys {
        Some(path) => crate::config::load::absolute(path)?,
        None => format!("{}/keys.pem", d.dir),
    };
    let keys = pool::keys(env, &path, clients, |n| {
        if n > 0 {
            eprintln!("keys of clients: {n} of {clients}");
        }
    });
    let keys = keys.await?;
    let mut nodes = demo::Nodes::new(choices.minions + 1);
    demo::start_nodes(env, &mut d, &mut nodes).await?;
    let api = d.api_client().await?;
    let loaded = load(env, &api, None, Role::ApiClient).await?;
    let api = Api::connect(env, &loaded.config.api_config, "").await?;
    let config = d.client_config(env).await?;
    let loaded = load(env, &config, None, Role::Agent).await?;
    let none = ClientArgs { writeback: Some("/none".into()), ..ClientArgs::default() };
    let play = Play {
        client: settings(&loaded, &none)?,
        keys,
        wss_percent: usize::from(args.wss),
        rate: args.rate,
        ramp: args.ramp,
        script,
        patience,
        api,
    };
    demo::run(env, d, nodes, play, stop).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("512M"), Some(512 << 20));
        assert_eq!(size("1g"), Some(1 << 30));
        assert_eq!(size("77"), Some(77));
        for bad in ["", "M", "1T", "-1", "99999999999G", "é"] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }
}
