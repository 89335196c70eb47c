//! `config frontend`: add minions to a deployment, and write the files of every node.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use anyhow::{Context as _, bail};
use clap::Args;
use zeroize::Zeroizing;

use super::questions::{self, Session};
use super::{CaKey, Context, KeyPlace, load_tool, read, report, write_private};
use crate::cli::{Usage, print};
use crate::config::nodes::{self, Change, Issuing, MasterUrl, NewMinion, Reissue};
use crate::config::{Config, Document, ServerIdentity, check, load, role};

/// Arguments of `config frontend`.
#[derive(Args, Debug)]
#[command(after_long_help = "Reads the master's configuration, ours or the stock program's, and \
    writes into DIR, each file readable by its owner only:\n\n  \
    server.config.yaml, server.fleet.yaml                  the master's\n  \
    minion.NODE.config.yaml, minion.NODE.fleet.yaml        one pair for each minion\n  \
    client.config.yaml                                     the agents'\n  \
    ca.key                                                 the CA's private key: keep it offline\n\n\
    Take each pair to its node, into one directory and under these names. The *.fleet.yaml file \
    holds the node's certificate and key, with which it proves itself to the other nodes. No \
    minion's file holds the CA's key, the gateway's key or another node's. The configurations \
    load in the stock program.\n\n\
    Run it again, on the server.config.yaml it wrote, to add another node: certificates that were \
    issued stay good. Without --hostname the files are written anew, after `config rotate_keys` \
    for example. Called without flags it asks.\n\n\
    Agents learn of new nodes from client.config.yaml alone: those that are deployed go on with \
    the URLs they have.")]
pub struct FrontendArgs {
    /// Public name or address of a minion to add; may be repeated.
    #[arg(long, value_name = "HOST")]
    hostname: Vec<String>,

    /// Port for clients: one for all new minions, or one for each --hostname in turn.
    /// Default: the master's.
    #[arg(long = "bind_port", value_name = "PORT")]
    bind_port: Vec<u16>,

    /// Address on which the new minions listen.
    #[arg(long = "bind_address", value_name = "ADDRESS", default_value = "0.0.0.0")]
    bind_address: std::net::IpAddr,

    /// Name under which minions reach the master's API. Default: API.hostname of the
    /// file, else the master's public name.
    #[arg(long = "api_hostname", value_name = "HOST")]
    api_hostname: Option<String>,

    /// Address on which the master's API listens. Default: what the file says, or
    /// 0.0.0.0 if that is loopback.
    #[arg(long = "api_bind_address", value_name = "ADDRESS")]
    api_bind_address: Option<std::net::IpAddr>,

    /// Agents connect to the master too.
    #[arg(long = "keep_master_url", conflicts_with = "no_master_url")]
    keep_master_url: bool,

    /// Agents connect to minions alone: the master's URL is taken out of server_urls.
    #[arg(long = "no_master_url")]
    no_master_url: bool,

    /// Leave Client.server_urls as it is: a load balancer stands before the nodes.
    #[arg(long = "keep_server_urls", conflicts_with_all = ["keep_master_url", "no_master_url"])]
    keep_server_urls: bool,

    #[command(flatten)]
    ca: CaKey,

    /// Days the nodes' certificates are valid. Default: what the file says of
    /// certificates, or 365.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..36_500))]
    validity: Option<u32>,

    /// Issue a new certificate to this node, or to `all`; may be repeated.
    #[arg(long, value_name = "NODE")]
    reissue: Vec<String>,

    /// The directory to write into.
    #[arg(long, value_name = "DIR")]
    output: Option<String>,
}

/// Makes the change and writes the files.
pub async fn run(args: FrontendArgs, ctx: &Context) -> anyhow::Result<()> {
    let mut loaded = load_tool(ctx).await?;
    report(&loaded);
    let asks = args.hostname.is_empty() && args.output.is_none() && args.reissue.is_empty();
    let (change, output) = if asks {
        let mut input = io::stdin().lock();
        ask(&mut input as &mut dyn BufRead, &mut io::stderr(), &loaded.config)?
    } else {
        (change(&args)?, args.output.clone().ok_or(Usage("--output DIR is missing".into()))?)
    };
    let dir = load::absolute(&output)?;
    let key = args.ca.add(ctx, &mut loaded).await?;
    let id = ServerIdentity::of(&loaded.config, &loaded.settings)
        .map_err(|(path, e)| anyhow::anyhow!("{path}: {e}"))?;
    let mut notes = nodes::extend(&mut loaded.document, &change)?;
    let config = check::model(&loaded.document)?;
    same_deployment(ctx, &dir, &config).await?;
    let reissue = Reissue::new(args.reissue.clone());
    let issuing = Issuing {
        authority: id.authority.as_ref(),
        entropy: &*ctx.env.entropy,
        now: ctx.env.clock.now(),
        days: args.validity.unwrap_or(config.certificate_validity_days()),
        reissue: &reissue,
    };
    let existing = existing(ctx, &dir, &config).await?;
    let made = nodes::files(&loaded.document, &loaded.settings, &issuing, &existing)?;
    // First: the other files leave it out.
    if key == KeyPlace::Configuration {
        keep_ca_key(ctx, &dir, &loaded.config.ca.private_key).await?;
    }
    for file in &made.files {
        write_private(&ctx.env, &format!("{dir}/{}", file.name), &file.text).await?;
    }
    notes.extend(made.notes);
    notes.iter().for_each(|n| eprintln!("note: {n}"));
    print(&summary(&dir, &config, key)?)
}

fn change(args: &FrontendArgs) -> anyhow::Result<Change> {
    let count = args.hostname.len();
    if args.bind_port.len() > 1 && args.bind_port.len() != count {
        let message = format!("--bind_port: give it once, or once for each of {count} --hostname");
        return Err(Usage(message).into());
    }
    let name = |flag: &str, text: &str| {
        questions::host(text).map_err(|e| Usage(format!("{flag} {text:?}: should be {e}")))
    };
    let mut add = Vec::new();
    for (i, hostname) in args.hostname.iter().enumerate() {
        let port = args.bind_port.get(i).or(args.bind_port.first()).copied();
        if port == Some(0) {
            return Err(Usage("--bind_port: should be a port from 1 to 65535".into()).into());
        }
        let bind_address = args.bind_address.to_string();
        add.push(NewMinion { hostname: name("--hostname", hostname)?, port, bind_address });
    }
    let api_hostname =
        args.api_hostname.as_deref().map(|n| name("--api_hostname", n)).transpose()?;
    Ok(Change {
        add,
        api_hostname,
        api_bind_address: args.api_bind_address.map(|a| a.to_string()),
        master_url: match (args.keep_master_url, args.no_master_url) {
            (true, _) => MasterUrl::Keep,
            (_, true) => MasterUrl::Remove,
            _ => MasterUrl::AsIs,
        },
        keep_urls: args.keep_server_urls,
    })
}

/// The questions of a call without flags.
fn ask(
    input: &mut dyn BufRead,
    out: &mut dyn Write,
    config: &Config,
) -> anyhow::Result<(Change, String)> {
    let mut s = Session { input, out };
    writeln!(s.out, "Minions to add; an empty name ends the list.")?;
    let mut change = Change::default();
    loop {
        let hostname = s.ask("Public DNS name or address of the minion", "", |a| match a {
            "" => Ok(String::new()),
            name => questions::host(name),
        })?;
        if hostname.is_empty() {
            break;
        }
        let masters = config.frontend.bind_port().to_string();
        let port = s.ask("Port agents connect to", &masters, questions::port)?;
        let bind_address = "0.0.0.0".to_owned();
        change.add.push(NewMinion { hostname, port: Some(port), bind_address });
    }
    let known = match config.api.hostname.as_str() {
        "" => config.frontend.hostname(),
        name => name,
    };
    let question = "Name or address under which minions reach the master";
    change.api_hostname = Some(s.ask(question, known, questions::host)?);
    change.master_url = match s.yes("Should agents connect to the master too", true)? {
        true => MasterUrl::Keep,
        false => MasterUrl::Remove,
    };
    let dir =
        s.ask("Directory to write the files of all nodes into", "./cluster", |a| Ok(a.to_owned()))?;
    Ok((change, dir))
}

/// Refuses to write over another deployment, or over a newer state of this one.
async fn same_deployment(ctx: &Context, dir: &str, new: &Config) -> anyhow::Result<()> {
    let path = format!("{dir}/{}", nodes::MASTER_FILE);
    if !exists(ctx, &path).await? {
        return Ok(());
    }
    let old = check::model(&Document::parse(&read(&ctx.env, &path).await?, &path)?)?;
    if old.client.ca_certificate.trim() != new.client.ca_certificate.trim() {
        bail!("{path} belongs to another deployment: its CA is another one");
    }
    let names = new.node_names();
    let lost: Vec<String> =
        old.node_names().into_iter().skip(1).filter(|n| !names.contains(n)).collect();
    if !lost.is_empty() {
        let lost = lost.join(", ");
        bail!("{path} has nodes that would be lost: {lost}; use that file as --config");
    }
    Ok(())
}

async fn exists(ctx: &Context, path: &str) -> anyhow::Result<bool> {
    match ctx.env.fs.stat(path).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The minions' settings of an earlier run.
async fn existing(
    ctx: &Context,
    dir: &str,
    config: &Config,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for minion in role::minions(config)? {
        let name = nodes::minion_settings_file(&minion.name);
        let path = format!("{dir}/{name}");
        if exists(ctx, &path).await? {
            out.insert(name, read(&ctx.env, &path).await?);
        }
    }
    Ok(out)
}

/// Puts the CA's key into a file of its own.
async fn keep_ca_key(ctx: &Context, dir: &str, key: &str) -> anyhow::Result<()> {
    let path = format!("{dir}/{}", nodes::CA_KEY_FILE);
    if exists(ctx, &path).await? {
        let there = Zeroizing::new(read(&ctx.env, &path).await?);
        if there.trim() != key.trim() {
            bail!("{path} holds another key: it is not written over");
        }
        return Ok(());
    }
    write_private(&ctx.env, &path, key).await.context("the CA's key")
}

fn summary(dir: &str, config: &Config, key: KeyPlace) -> anyhow::Result<String> {
    let mut out = format!("written to {dir}:\n");
    let mut line = |files: &str, what: &str| out += &format!("  {files}\n      {what}\n");
    line(
        &format!("{}, {}", nodes::MASTER_FILE, nodes::MASTER_SETTINGS_FILE),
        &format!("the master {}: frontend", config.frontend.node_name()),
    );
    for m in role::minions(config)? {
        let files =
            format!("{}, {}", nodes::minion_file(&m.name), nodes::minion_settings_file(&m.name));
        line(&files, &format!("minion {0}: frontend --minion --node {0}", m.name));
    }
    line(nodes::CLIENT_FILE, &format!("agents: {}", config.client.server_urls.join(" ")));
    if key == KeyPlace::Configuration {
        line(nodes::CA_KEY_FILE, "the CA's private key: no node needs it, keep it offline");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::generate;

    fn asked(answers: &str) -> anyhow::Result<(Change, String)> {
        let doc = Document::from_value(
            serde_json::json!({"version": generate::version(), "Frontend": {"hostname": "m", "bind_port": 8100}}),
            "f",
        )?;
        let config = check::model(&doc)?;
        ask(&mut answers.as_bytes(), &mut Vec::new(), &config)
    }

    #[test]
    fn questions_are_answered() {
        let (change, dir) = asked("b\n\nbad name\nc\n0\n443\n\n\nno\n/srv/x\n").unwrap();
        let minion = |h: &str, p| NewMinion {
            hostname: h.into(),
            port: Some(p),
            bind_address: "0.0.0.0".into(),
        };
        assert_eq!(change.add, [minion("b", 8100), minion("c", 443)]);
        assert_eq!((change.api_hostname.as_deref(), dir.as_str()), (Some("m"), "/srv/x"));
        assert_eq!(change.master_url, MasterUrl::Remove);
        assert!(asked("b\n").is_err());
    }
}
