//! `config check`: say what is wrong with a configuration, and try what a node needs.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::Instant;

use super::Context;
use crate::cli::output::table;
use crate::cli::{Usage, print};
use crate::cluster::{Address, Dialer, Limits, VERSION};
use crate::comms::tls::Identity;
use crate::config::settings::NodeKind;
use crate::config::{
    Document, Finding, Flags, Level, Loaded, NodePlan, NodeRole, Role, check, load,
};
use crate::env::Env;
use crate::store::mounts::{self, Weight};
use crate::store::ops::guard;
use crate::store::probe::peer::{self, Patience, Who};
use crate::store::probe::{self, Line};

/// A node's certificate that ends sooner than this is warned about, seconds.
const SOON: i64 = 30 * 86_400;

/// Arguments of `config check`.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Every finding is printed as FILE:LINE: KEY: what is wrong. Errors keep \
    the role from starting; warnings will become errors with time; notes name keys that have no \
    effect here.\n\n\
    With --minion the node's own certificate is checked too, the master is called with it, and \
    the datastore is tried as with --datastore: mount options, the calls the store relies on and \
    the time they take, the owner of new files, the file server's clock. Run it as the user the \
    frontend runs as. --datastore_peer tries the datastore from two nodes at once: start it on \
    both within five minutes, with the same TOKEN, any word that was not used before.\n\n\
    Exit status: 0 without errors, 1 with."
)]
pub struct CheckArgs {
    /// For whom to check. Default: minion or server if the file has a Frontend section,
    /// api_client if it has a client certificate, else agent.
    #[arg(long, value_enum, conflicts_with_all = ["minion", "node"])]
    role: Option<For>,

    /// Check what `frontend --minion` would start with, and try it out.
    #[arg(long)]
    minion: bool,

    /// Which node this is, as for `frontend`.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// Try the datastore.
    #[arg(long)]
    datastore: bool,

    /// Try the datastore together with the process that was started with the same TOKEN
    /// on another node.
    #[arg(long = "datastore_peer", value_name = "TOKEN")]
    datastore_peer: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum For {
    Server,
    Minion,
    Agent,
    ApiClient,
}

/// Prints all findings, then what was tried; an error makes it fail.
pub async fn run(args: CheckArgs, ctx: &Context) -> anyhow::Result<()> {
    let path = match (&ctx.global.config, &ctx.global.api_config) {
        (None, Some(api)) => api.as_str(),
        _ => ctx.config_path()?,
    };
    if let Some(token) = args.datastore_peer.as_deref().filter(|t| !peer::is_token(t)) {
        let message = format!("--datastore_peer {token:?}: letters, digits, - and _, 64 at most");
        return Err(Usage(message).into());
    }
    let text = super::read(&ctx.env, path).await?;
    let given = ctx.global.settings.as_deref();
    let named = args.node.as_deref().filter(|_| args.minion);
    let (settings, settings_path, passed_over) =
        load::load_settings(&ctx.env, path, given, named).await?;
    let doc = Document::parse_api_client(&text, path)?;
    let role = match args.role {
        Some(For::Server) => Role::Server,
        Some(For::Minion) => Role::Minion,
        Some(For::Agent) => Role::Agent,
        Some(For::ApiClient) => Role::ApiClient,
        None if args.minion => Role::Minion,
        None if doc.get("Frontend").is_some() => match settings.node.role {
            Some(NodeKind::Minion) => Role::Minion,
            _ => Role::Server,
        },
        None if doc.get("api_config.client_cert").is_some() => Role::ApiClient,
        None => Role::Agent,
    };
    let tries = args.minion || args.datastore || args.datastore_peer.is_some();
    if tries && !role.serves() {
        return Err(Usage("only a server's or minion's file can be tried out".into()).into());
    }
    let now = ctx.env.clock.now();
    let mut findings = check::check(&doc, &settings, role, now);
    findings.extend(passed_over);
    let mut errors = say(&findings)?;
    // What a start in this role would find out beyond the file itself.
    let mut plan = None;
    if role.serves() && errors == 0 {
        let flags = Flags { minion: role == Role::Minion, node: args.node.clone() };
        let loaded = Loaded::of(doc, settings, settings_path, role, now)?;
        match loaded.for_node(&flags, now) {
            Ok((_, p)) => plan = Some(p),
            Err(e) => {
                print(&format!("error: {e}\n"))?;
                errors += 1;
            }
        }
    }
    let mut failed = 0;
    if let (true, Some(plan)) = (tries, &plan) {
        let lines = attempt(&args, ctx, plan).await;
        failed = lines.iter().filter(|l| l.level == probe::Level::Failed).count();
        show(&lines)?;
    }
    match (errors, failed) {
        (0, 0) => Ok(()),
        (0, 1) => anyhow::bail!("{path}: 1 check failed"),
        (0, n) => anyhow::bail!("{path}: {n} checks failed"),
        (1, _) => anyhow::bail!("{path}: 1 error"),
        (n, _) => anyhow::bail!("{path}: {n} errors"),
    }
}

/// Prints findings; how many are errors.
fn say(findings: &[Finding]) -> anyhow::Result<usize> {
    let mut errors = 0;
    for f in findings {
        let level = match f.level {
            Level::Error => {
                errors += 1;
                "error"
            }
            Level::Warning => "warning",
            Level::Note => "note",
        };
        print(&format!("{level}: {f}\n"))?;
    }
    Ok(errors)
}

/// Everything that is tried, in the order of the report.
async fn attempt(args: &CheckArgs, ctx: &Context, plan: &NodePlan) -> Vec<Line> {
    // Every call to the store has a deadline, as in a running node.
    let (env, _) = guard(&ctx.env, crate::store::ops::DEADLINE);
    let mut out = vec![certificate(&env, plan)];
    if args.minion {
        out.extend(master(&env, plan).await);
    }
    let store = &plan.config.datastore;
    let mut dirs = vec![store.location(), store.filestore_directory()];
    dirs.dedup();
    let uid = rustix::process::geteuid().as_raw();
    for dir in dirs {
        let head = |l: Line| Line { what: format!("{dir}: {}", l.what), ..l };
        if let Some(token) = &args.datastore_peer {
            let uname = rustix::system::uname();
            let host = uname.nodename().to_string_lossy().into_owned();
            let who = Who { node: plan.name.to_string(), host, uid };
            let lines = peer::meet(&env, dir, token, &who, Patience::default()).await;
            out.extend(lines.into_iter().map(head));
        } else {
            // Made now if need be, so that its file system can be told.
            let made = env.fs.create_dir(dir).await;
            out.extend(mount(&env, dir).await.into_iter().map(head));
            match made {
                Ok(()) => out.extend(probe::directory(&env, dir, uid).await.into_iter().map(head)),
                Err(e) => {
                    out.push(head(Line::new("datastore", probe::Level::Failed, e.to_string())))
                }
            }
        }
    }
    out
}

/// The node's own certificate.
fn certificate(env: &Env, plan: &NodePlan) -> Line {
    let what = format!("certificate of {} {}", plan.role_name(), plan.name);
    let Some(id) = plan.identity() else {
        let level = match plan.role {
            NodeRole::Minion { .. } => probe::Level::Failed,
            _ => probe::Level::Ok,
        };
        return Line::new(&what, level, "none");
    };
    let left = id.not_after.saturating_sub(i64::try_from(env.clock.unix()).unwrap_or(i64::MAX));
    let level = if left < SOON { probe::Level::Warning } else { probe::Level::Ok };
    Line::new(&what, level, format!("ends in {} days, serial {}", left / 86_400, id.serial))
}

/// Whether the master answers, is the deployment's, and would take this node.
async fn master(env: &Env, plan: &NodePlan) -> Option<Line> {
    let NodeRole::Minion { master, identity } = &plan.role else { return None };
    let what = format!("master at {master}");
    let client = &plan.config.client;
    let limits = Limits::default();
    let start = Instant::now();
    let dialer =
        Identity::from_pem(&identity.certificate_pem, &identity.private_key_pem).and_then(|own| {
            Dialer::new(env, &own, &client.ca_certificate, client.pinned_server_name())
        });
    let to = Address { host: master.host.clone(), port: master.port };
    let answer = match dialer {
        Ok(dialer) => dialer.check(&to, &limits).await,
        Err(e) => Err(e.to_string()),
    };
    let took = start.elapsed();
    Some(match answer {
        Ok(r) if r.version != VERSION => {
            let note = format!(
                "{} speaks version {} of the protocol, this one {VERSION}",
                r.product, r.version
            );
            Line::new(&what, probe::Level::Failed, note)
        }
        Ok(r) => {
            let running = if r.connected { "; it is connected now" } else { "" };
            let note = format!("{}, takes node {}{running}", r.product, r.node);
            Line { took: Some((took, took)), ..Line::new(&what, probe::Level::Ok, note) }
        }
        Err(e) => Line::new(&what, probe::Level::Failed, e),
    })
}

/// What the kernel says of the file system.
async fn mount(env: &Env, dir: &str) -> Vec<Line> {
    let Some(m) = mounts::of(&*env.fs, dir).await else {
        return vec![Line::new("mount", probe::Level::Warning, "the kernel does not tell")];
    };
    let what = format!("{} from {}, on {}", m.kind, m.source, m.point);
    let mut out = vec![Line::new("mount", probe::Level::Ok, what)];
    for (weight, note) in m.judge() {
        let level = match weight {
            Weight::Note => probe::Level::Ok,
            Weight::Warning => probe::Level::Warning,
            Weight::Refused => probe::Level::Failed,
        };
        out.push(Line::new("mount", level, note));
    }
    out
}

fn show(lines: &[Line]) -> anyhow::Result<()> {
    let time = |d: Duration| match d {
        d if d < Duration::from_millis(10) => format!("{:.2} ms", d.as_secs_f64() * 1e3),
        d if d < Duration::from_secs(10) => format!("{} ms", d.as_millis()),
        d => format!("{} s", d.as_secs()),
    };
    let row = |l: &Line| {
        let (median, longest) = match l.took {
            Some((m, l)) => (time(m), time(l)),
            None => Default::default(),
        };
        vec![l.what.clone(), l.level.word().to_owned(), median, longest, l.note.clone()]
    };
    let columns = ["Check", "Result", "Median", "Longest", "Note"].map(str::to_owned);
    print(&table(&columns, &lines.iter().map(row).collect::<Vec<_>>()))
}
