//! The files of the cluster: made by the commands a visitor would use, in a
//! directory of its own.

use std::fmt::Write as _;

use anyhow::Context as _;
use serde_json::json;

use super::commands::Commands;
use crate::config::generate;
use crate::env::{Env, fs};

/// Room kept for decisions by each node. Several nodes share a disk with their
/// user here.
const RESERVE: u64 = 16 << 20;
/// Name of the first user.
pub(super) const USER: &str = "admin";
const HOST: &str = "127.0.0.1";

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Choices {
    /// Directory of everything; made when it is not there.
    pub dir: String,
    /// Minions beside the master.
    pub minions: usize,
    /// Where the GUI listens; 0 takes a free port.
    pub gui_port: u16,
    /// Put the datastore on a file system in memory of so many bytes. Needs a
    /// mount namespace of this process's own.
    pub disk: Option<u64>,
    /// Run nodes whose store can be stalled.
    pub stalls: bool,
}

/// Ports of one node.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// For clients.
    pub clients: u16,
    /// For metrics.
    pub metrics: u16,
}

/// A deployment's files and addresses.
#[derive(Debug)]
pub struct Deployment {
    /// Its directory.
    pub dir: String,
    /// Ports of the nodes: the master's first.
    pub ports: Vec<Ports>,
    /// Port of the GUI.
    pub gui_port: u16,
    /// Password of the first user.
    pub password: String,
    /// The datastore has a file system of its own.
    pub own_disk: bool,
    /// The store can be stalled, by a file called `stall`.
    pub stalls: bool,
    /// What was run so far.
    pub commands: Commands,
}

/// Ports of a demo are among these: below where systems take the ports of outgoing
/// connections from (Linux 32768 to 60999), so that nobody's connection takes the port of a
/// node while it is being started again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// So many free ports of this machine.
async fn free_ports(env: &Env, n: usize) -> anyhow::Result<Vec<u16>> {
    let mut b = [0; 2];
    env.entropy.fill(&mut b);
    let spread = usize::from(u16::from_le_bytes(b)) % PORTS.len();
    let mut out = Vec::with_capacity(n);
    for port in PORTS.cycle().skip(spread).take(PORTS.len()) {
        if out.len() == n {
            break;
        }
        if !in_use(env, port).await {
            out.push(port);
        }
    }
    anyhow::ensure!(out.len() == n, "fewer than {n} ports of {PORTS:?} are free");
    Ok(out)
}

/// Whether anything listens there.
async fn in_use(env: &Env, port: u16) -> bool {
    env.net.bind(([127, 0, 0, 1], port).into()).await.is_err()
}

fn password(env: &Env) -> String {
    let mut b = [0; 10];
    env.entropy.fill(&mut b);
    data_encoding::BASE32_NOPAD.encode(&b).to_lowercase()
}

impl Deployment {
    /// Makes the files. Nothing runs yet.
    pub async fn make(env: &Env, choices: &Choices) -> anyhow::Result<Deployment> {
        let dir = choices.dir.clone();
        if !env.fs.list(&dir).await?.is_empty() {
            anyhow::bail!("{dir} is not empty: a demo begins with nothing");
        }
        let store = format!("{dir}/ds");
        for d in ["ds", "logs"] {
            env.fs.create_dir(&format!("{dir}/{d}")).await.with_context(|| dir.clone())?;
        }
        let mut commands = Commands::new(&dir)?;
        commands.note("mkdir -p ds logs".into());
        if let Some(bytes) = choices.disk {
            let size = format!("size={bytes},mode=700");
            commands.other(&["mount", "-t", "tmpfs", "-o", &size, "demo", "ds"]).await?;
        }
        let nodes = choices.minions + 1;
        // Two for each node, and the API and the GUI of the master.
        let free = free_ports(env, nodes * 2 + 2).await?;
        let gui_port = match choices.gui_port {
            0 => free[nodes * 2 + 1],
            port if in_use(env, port).await => anyhow::bail!("port {port} is taken: --gui_port"),
            port => port,
        };
        // `config frontend` gives nodes on one host the metrics ports after the master's.
        let first = metrics_ports(env, &free, nodes).await?;
        let ports: Vec<Ports> =
            (0..nodes).map(|n| Ports { clients: free[n], metrics: first + n as u16 }).collect();
        let password = password(env);
        let merge = json!({
            "Frontend": {"hostname": HOST, "bind_address": HOST, "bind_port": ports[0].clients},
            "API": {"hostname": HOST, "bind_port": free[nodes * 2]},
            "GUI": {
                "bind_port": gui_port,
                "public_url": format!("https://{HOST}:{gui_port}/app/index.html"),
                "initial_users": [generate::user(&*env.entropy, USER, &password)],
            },
            "Monitoring": {"bind_port": first},
            "Datastore": {"location": store, "filestore_directory": store},
            "Client": {"server_urls": [format!("https://{HOST}:{}/", ports[0].clients)]},
        });
        let merge = merge.to_string();
        let generate = ["config", "generate", "--merge", merge.as_str()];
        let text = commands.run(&generate, " > server.config.yaml").await?;
        let mut d = Deployment {
            dir,
            ports,
            gui_port,
            password,
            own_disk: choices.disk.is_some(),
            stalls: choices.stalls,
            commands,
        };
        d.write(env, "server.config.yaml", &text).await?;
        let settings = format!("journal:\n  reserve_bytes: {RESERVE}\n");
        d.write(env, "server.fleet.yaml", &settings).await?;
        d.commands
            .note(format!(r"printf 'journal:\n  reserve_bytes: {RESERVE}\n' > server.fleet.yaml"));
        d.frontends().await?;
        Ok(d)
    }

    async fn frontends(&mut self) -> anyhow::Result<()> {
        let ports: Vec<String> = self.ports.iter().skip(1).map(|p| p.clients.to_string()).collect();
        let mut args = vec!["-c", "server.config.yaml", "config", "frontend"];
        for port in &ports {
            args.extend(["--hostname", HOST, "--bind_port", port.as_str()]);
        }
        args.extend(["--bind_address", HOST, "--api_hostname", HOST, "--output", "nodes"]);
        if ports.is_empty() {
            // A single server: its files are those of the first command.
            return Ok(());
        }
        self.commands.run(&args, "").await.map(drop)
    }

    pub(super) async fn write(&self, env: &Env, name: &str, text: &str) -> anyhow::Result<()> {
        let path = format!("{}/{name}", self.dir);
        let new = format!("{path}.new");
        fs::replace(&*env.fs, &new, &path, text.as_bytes()).await.with_context(|| path.clone())
    }

    /// The configuration file of a node, below the directory.
    pub fn config(&self, node: usize) -> String {
        match node {
            0 if self.ports.len() == 1 => "server.config.yaml".into(),
            0 => "nodes/server.config.yaml".into(),
            n => format!("nodes/minion.{}.config.yaml", self.name(n)),
        }
    }

    /// The name of a node in the deployment.
    pub fn name(&self, node: usize) -> String {
        format!("{HOST}-{}", self.ports.get(node).map_or(0, |p| p.clients))
    }

    /// Arguments that run a node.
    pub fn frontend(&self, node: usize) -> Vec<String> {
        let mut args = vec!["-c".to_owned(), self.config(node)];
        match self.stalls {
            false => args.push("frontend".to_owned()),
            true => args.extend(["demo_node", "--gate", "stall"].map(str::to_owned)),
        }
        if node > 0 {
            args.extend(["--minion".to_owned(), "--node".to_owned(), self.name(node)]);
        }
        args
    }

    /// Makes the file with which the API is called. The master must run.
    pub async fn api_client(&mut self) -> anyhow::Result<String> {
        let (config, name) = (self.config(0), "api.config.yaml");
        let args = ["-c", config.as_str(), "config", "api_client", "--name", "demo", "--role"];
        let args: Vec<&str> = args.into_iter().chain(["administrator", name]).collect();
        self.commands.run(&args, "").await?;
        Ok(format!("{}/{name}", self.dir))
    }

    /// The agents' configuration file, by its whole path.
    pub async fn client_config(&mut self, env: &Env) -> anyhow::Result<String> {
        if self.ports.len() > 1 {
            return Ok(format!("{}/nodes/client.config.yaml", self.dir));
        }
        let args = ["-c", "server.config.yaml", "config", "client"];
        let text = self.commands.run(&args, " > client.config.yaml").await?;
        self.write(env, "client.config.yaml", &text).await?;
        Ok(format!("{}/client.config.yaml", self.dir))
    }

    /// What the visitor is told first.
    pub fn welcome(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "web pages  https://{HOST}:{}/", self.gui_port);
        let _ = writeln!(out, "sign in    {USER}, password {}", self.password);
        let _ = writeln!(out, "directory  {}", self.dir);
        out
    }
}

/// The first of `nodes` ports in a row that are free and are none of `taken`.
async fn metrics_ports(env: &Env, taken: &[u16], nodes: usize) -> anyhow::Result<u16> {
    for _ in 0..100 {
        let first = free_ports(env, 1).await?[0];
        let Some(last) = first.checked_add(nodes as u16 - 1) else { continue };
        let mut good = true;
        for port in first..=last {
            good &= !taken.contains(&port) && !in_use(env, port).await;
        }
        if good {
            return Ok(first);
        }
    }
    anyhow::bail!("no {nodes} free ports in a row on {HOST} for the nodes' metrics")
}
