//! A whole deployment from an empty folder, as `gui` makes it: a server, our agent
//! on this machine, an administrator.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub struct Deployment {
    dir: tempfile::TempDir,
    child: Option<Child>,
    pub base: String,
    pub password: String,
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn program() -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_velociraptor"));
    c.stdin(Stdio::null());
    c
}

impl Deployment {
    pub fn start() -> Deployment {
        Self::with(&[])
    }

    pub fn without_agent() -> Deployment {
        Self::with(&["--noclient"])
    }

    fn with(more: &[&str]) -> Deployment {
        let dir = tempfile::Builder::new().prefix("gui").tempdir().unwrap();
        let ports = crate::ports::free::<4>().map(|p| p.to_string());
        let mut run = program();
        run.arg("gui").arg("--datastore").arg(dir.path()).arg("--nobrowser").args(more);
        for (flag, port) in
            ["--frontend_port", "--api_port", "--gui_port", "--monitoring_port"].iter().zip(&ports)
        {
            run.arg(flag).arg(port);
        }
        let mut child = run.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let password = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it did not start: {seen}")).unwrap();
            if let Some(rest) = line.trim().strip_prefix("administrator admin, password ") {
                break rest.split(' ').next().unwrap().to_owned();
            }
            seen += &line;
            seen.push('\n');
        };
        // The rest is read, or the program would wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let base = format!("https://127.0.0.1:{}", ports[2]);
        Deployment { dir, child: Some(child), base, password }
    }

    /// Starts it again on another configuration.
    pub fn restart(&mut self, change: impl FnOnce(String) -> String) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let config = self.path("server.config.yaml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, change(text)).unwrap();
        let mut run = program();
        run.arg("gui").arg("--datastore").arg(self.dir.path()).args(["--nobrowser", "--noclient"]);
        let mut child = run.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        loop {
            let line = lines.next().unwrap_or_else(|| panic!("it did not start: {seen}")).unwrap();
            if line.contains("web pages") {
                break;
            }
            seen += &line;
            seen.push('\n');
        }
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(self.dir.path()).join(name)
    }

    /// A command of the deployment's administrator.
    pub fn command(&self, args: &[&str]) -> String {
        let out = program().current_dir(self.dir.path()).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{args:?}: {said}");
        String::from_utf8(out.stdout).unwrap()
    }

    /// Rows of a query, as JSON lines.
    pub fn query(&self, vql: &str) -> Vec<serde_json::Value> {
        let text =
            self.command(&["--api_config", "api.config.yaml", "query", "--format", "jsonl", vql]);
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}
