//! The model against real kernels: scripts of two hosts, played on the model,
//! give what two Linux NFS clients gave, step by step, but for the differences
//! listed here and in docs/NFS.md.
//!
//! What the kernels gave is kept in `tools/nfs-lab/recorded`; where the lab can
//! run, `tools/nfs-lab/lab.py` records it anew, and `NFS_LAB_RECORDED` points
//! this test to it.
#![allow(missing_docs, clippy::disallowed_methods)] // reads the recorded files

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sim::nfs::{FileServer, MountOptions, Removed, ServerOptions};
use velociraptor::env::{File, FileSystem, Open};

/// Where the model is known to differ: options, script, step (from 0), why.
const DIFFERENCES: &[(&str, &str, usize, &str)] = &[];

fn options(name: &str) -> MountOptions {
    match name {
        "v4-kernel" => MountOptions::kernel(),
        "v4-positive" => MountOptions::default(),
        "v4-noac" => MountOptions::noac(),
        "v3-kernel" => MountOptions::kernel().v3(),
        "v3-positive" => MountOptions::default().v3(),
        other => panic!("{other}: no such options"),
    }
}

struct Script {
    /// `host operation arguments -> what it gave`.
    steps: Vec<String>,
}

fn recorded(options: &str) -> BTreeMap<String, Script> {
    let own = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/nfs-lab/recorded"));
    let dir = std::env::var_os("NFS_LAB_RECORDED").map_or(own, PathBuf::from);
    let path = dir.join(format!("{options}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let all: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let script = |v: &serde_json::Value| Script {
        steps: v["steps"].as_array().unwrap().iter().map(|s| s.as_str().unwrap().into()).collect(),
    };
    all.iter().map(|(name, v)| (name.clone(), script(v))).collect()
}

/// Bytes in short, as the lab's agent shows them.
fn shown(data: &[u8]) -> String {
    let (mut out, mut i) = (String::new(), 0);
    while i < data.len() {
        let n = data[i..].iter().take_while(|b| **b == data[i]).count();
        let c = if data[i] == 0 { '0' } else { char::from(data[i]) };
        match n {
            1..4 => out.extend(std::iter::repeat_n(c, n)),
            _ => out.push_str(&format!(" {c}*{n} ")),
        }
        i += n;
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn data(spec: &str) -> Bytes {
    match spec.split_once('*') {
        Some((text, n)) => Bytes::from(text.repeat(n.parse().unwrap())),
        None => Bytes::copy_from_slice(spec.as_bytes()),
    }
}

struct Host {
    fs: Arc<dyn FileSystem>,
    handles: BTreeMap<String, Box<dyn File>>,
}

impl Host {
    fn handle(&self, name: &str) -> &dyn File {
        &**self.handles.get(name).unwrap_or_else(|| panic!("handle {name} is not open"))
    }

    async fn run(&mut self, op: &str, args: &[&str]) -> io::Result<String> {
        let at = |n: usize| format!("/s{}", args.get(n).copied().unwrap_or_default());
        let number = |n: usize| args[n].parse::<u64>().unwrap();
        let none = String::new();
        match op {
            "create" | "open-read" | "open-write" => {
                let how = match op {
                    "create" => Open::CreateNew,
                    "open-read" => Open::Read,
                    _ => Open::Write,
                };
                let f = self.fs.open(&at(1), how).await?;
                let old = self.handles.insert(args[0].to_owned(), f);
                if let Some(old) = old {
                    old.close().await?;
                }
            }
            "close" => {
                self.handles.remove(args[0]).unwrap().close().await?;
            }
            "write" => self.handle(args[0]).write_at(number(1), data(args[2])).await?,
            "append" => {
                let f = self.handle(args[0]);
                f.write_at(f.size().await?, data(args[1])).await?;
            }
            "read" => {
                let n = number(2) as usize;
                return Ok(shown(&self.handle(args[0]).read_at(number(1), n).await?));
            }
            "size" => return Ok(self.handle(args[0]).size().await?.to_string()),
            "sync" => self.handle(args[0]).sync().await?,
            "text" => {
                let f = self.fs.open(&at(0), Open::Read).await?;
                return Ok(shown(&f.read_at(0, 1 << 20).await?));
            }
            "stat" => {
                let m = self.fs.stat(&at(0)).await?;
                return Ok(if m.is_dir { "dir".into() } else { m.len.to_string() });
            }
            "same" => {
                let (a, b) = (self.fs.stat(&at(0)).await?, self.fs.stat(&at(1)).await?);
                return Ok((a.inode == b.inode).to_string());
            }
            "list" => {
                let names =
                    self.fs.list(&at(0)).await?.into_iter().map(|e| {
                        if e.name.starts_with(".nfs") { ".nfs*".to_owned() } else { e.name }
                    });
                return Ok(names.collect::<Vec<_>>().join(" "));
            }
            "rename" => self.fs.rename(&at(0), &at(1)).await?,
            "link" => self.fs.link(&at(0), &at(1)).await?,
            "remove" => self.fs.remove(&at(0)).await?,
            "rmdir" => self.fs.remove_dir(&at(0)).await?,
            "mkdir" => self.fs.create_dir(&at(0)).await?,
            "syncdir" => self.fs.sync_dir(&at(0)).await?,
            "sleep" => {
                let s = args[0].parse().unwrap();
                tokio::time::sleep(Duration::from_secs_f64(s)).await;
            }
            other => panic!("no operation {other}"),
        }
        Ok(none)
    }
}

/// Plays a script on the model: what each step gave.
async fn play(options: MountOptions, script: &Script) -> Vec<String> {
    let removed = Removed::Hollow; // the lab's server is nfs-ganesha
    let nas = FileServer::on_tokio(1, ServerOptions { removed, ..ServerOptions::default() });
    let host = |name| Host { fs: nas.mount(name, options.clone()), handles: BTreeMap::new() };
    let mut first = host("a");
    first.run("mkdir", &[""]).await.unwrap();
    nas.crash_host("a"); // the lab mounts anew, too
    let mut hosts = [host("a"), host("b")];
    let mut out = Vec::new();
    for step in &script.steps {
        let step = step.split(" -> ").next().unwrap_or(step).trim_end_matches(" ->");
        let words: Vec<&str> = step.split_whitespace().collect();
        let h = &mut hosts[usize::from(words[0] == "b")];
        out.push(match h.run(words[1], &words[2..]).await {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::Other => "EIO".into(),
            Err(e) => format!("{:?}", e.kind()),
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    out
}

async fn compare(name: &str) {
    let mut wrong = Vec::new();
    let scripts = recorded(name);
    assert!(scripts.len() > 20, "{name}: {} scripts", scripts.len());
    for (script, real) in &scripts {
        let model = play(options(name), real).await;
        for (n, (step, got)) in real.steps.iter().zip(&model).enumerate() {
            let (what, kernel) = step.split_once(" ->").unwrap_or((step, ""));
            let known = DIFFERENCES.iter().any(|d| (d.0, d.1, d.2) == (name, script, n));
            let same = kernel.trim() == got;
            if same == known {
                let note = if known { " (listed as a difference)" } else { "" };
                wrong.push(format!("{script} {n}: {what}: kernel {kernel:?}, model {got:?}{note}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn version_4_with_the_kernels_defaults() {
    compare("v4-kernel").await;
}

#[tokio::test(start_paused = true)]
async fn version_4_as_the_guides_ask() {
    compare("v4-positive").await;
}

#[tokio::test(start_paused = true)]
async fn version_4_without_caches() {
    compare("v4-noac").await;
}

#[tokio::test(start_paused = true)]
async fn version_3_with_the_kernels_defaults() {
    compare("v3-kernel").await;
}

#[tokio::test(start_paused = true)]
async fn version_3_with_short_caches() {
    compare("v3-positive").await;
}
