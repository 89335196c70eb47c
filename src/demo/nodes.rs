//! The nodes as processes: started, killed, held still.

use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::time::{Instant, timeout};

use super::deployment::Deployment;
use super::script::node_name;

/// A node told to stop gets so long: it puts everything into stock files.
const STOP: Duration = Duration::from_secs(90);

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was not started, or was ended.
    Down,
    /// Its process runs.
    Running,
    /// Its process is held still.
    Paused,
    /// It was told to stop.
    Stopping,
}

struct Node {
    child: Option<Child>,
    state: State,
    since: Instant,
}

/// All of them: the master first.
pub struct Nodes(Vec<Node>);

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|n| n.state)).finish()
    }
}

/// A file at the end of which a process writes.
#[allow(clippy::disallowed_methods, clippy::disallowed_types)] // a descriptor for a real process
fn log(path: &str) -> anyhow::Result<OwnedFd> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    Ok(file.with_context(|| path.to_owned())?.into())
}

impl Nodes {
    /// So many, none of which runs.
    pub fn new(n: usize) -> Nodes {
        let down = |_| Node { child: None, state: State::Down, since: Instant::now() };
        Nodes((0..n).map(down).collect())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// How a node is, and for how long.
    pub fn state(&self, node: usize) -> (State, Duration) {
        self.0.get(node).map_or((State::Down, Duration::ZERO), |n| (n.state, n.since.elapsed()))
    }

    fn get(&mut self, node: usize) -> anyhow::Result<&mut Node> {
        self.0.get_mut(node).with_context(|| format!("there is no {}", node_name(node)))
    }

    /// Starts a node that does not run.
    pub fn start(&mut self, d: &mut Deployment, node: usize) -> anyhow::Result<()> {
        let n = self.get(node)?;
        anyhow::ensure!(n.state == State::Down, "{} runs", node_name(node));
        let log_name = format!("logs/{}.log", node_name(node));
        let args = d.frontend(node);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = d.commands.prepare(&args, &format!(" 2>> {log_name} &"));
        command.stdout(Stdio::null()).stderr(log(&format!("{}/{log_name}", d.dir))?);
        let child = command.spawn().with_context(|| node_name(node))?;
        *n = Node { child: Some(child), state: State::Running, since: Instant::now() };
        Ok(())
    }

    fn signal(&mut self, node: usize, signal: Signal, state: State) -> anyhow::Result<Option<u32>> {
        let n = self.get(node)?;
        let Some(id) = n.child.as_ref().and_then(Child::id) else {
            anyhow::bail!("{} does not run", node_name(node));
        };
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).context("process id")?;
        kill_process(pid, signal).with_context(|| node_name(node))?;
        (n.state, n.since) = (state, Instant::now());
        Ok(Some(id))
    }

    /// Ends it at once; returns its process id.
    pub async fn kill(&mut self, node: usize) -> anyhow::Result<Option<u32>> {
        let id = self.signal(node, Signal::KILL, State::Down)?;
        if let Some(mut child) = self.get(node)?.child.take() {
            child.wait().await?;
        }
        Ok(id)
    }

    /// Tells it to stop.
    pub fn stop(&mut self, node: usize) -> anyhow::Result<Option<u32>> {
        self.signal(node, Signal::TERM, State::Stopping)
    }

    /// Holds its process still.
    pub fn pause(&mut self, node: usize) -> anyhow::Result<Option<u32>> {
        self.signal(node, Signal::STOP, State::Paused)
    }

    /// Lets it go on.
    pub fn resume(&mut self, node: usize) -> anyhow::Result<Option<u32>> {
        anyhow::ensure!(self.state(node).0 == State::Paused, "{} is not held", node_name(node));
        self.signal(node, Signal::CONT, State::Running)
    }

    /// Notices processes that have ended: which, whether they were told to, and how.
    pub fn ended(&mut self) -> Vec<(usize, bool, String)> {
        let mut out = Vec::new();
        for (i, n) in self.0.iter_mut().enumerate() {
            let Some(child) = &mut n.child else { continue };
            let Ok(Some(status)) = child.try_wait() else { continue };
            let told = n.state == State::Stopping;
            out.push((i, told && status.success(), status.to_string()));
            *n = Node { child: None, state: State::Down, since: Instant::now() };
        }
        out
    }

    /// Ends all of them in order, the master last; those that do not end are killed, and named.
    pub async fn end(&mut self) -> Vec<String> {
        let mut late = Vec::new();
        for node in (0..self.count()).rev() {
            if self.state(node).0 == State::Paused {
                let _ = self.resume(node);
            }
            if self.state(node).0 == State::Running {
                let _ = self.stop(node);
            }
        }
        for (i, n) in self.0.iter_mut().enumerate().rev() {
            let Some(child) = &mut n.child else { continue };
            if !matches!(timeout(STOP, child.wait()).await, Ok(Ok(_))) {
                let _ = child.kill().await;
                late.push(format!("{} did not stop in {} s", node_name(i), STOP.as_secs()));
            }
            *n = Node { child: None, state: State::Down, since: Instant::now() };
        }
        late
    }
}
