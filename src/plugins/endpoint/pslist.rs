//! `pslist`: one row for each process.

use std::collections::BTreeMap;
use std::path::Path;

use vql::{ArgType, Dict, Registry, Signature, Value};

use crate::plugins::common::{Host, blocking, host};

/// Ticks a second in `/proc/<pid>/stat`; fixed on Linux.
const TICKS: f64 = 100.0;

/// Adds `pslist`.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("pslist", "The processes of the host.").arg(
        "pid",
        ArgType::Int,
        "Only this process.",
    );
    registry.plugin_async(signature, |scope, args, emitter| async move {
        let host = host(&scope);
        let only = args.opt_int("pid")?.and_then(|p| u32::try_from(p).ok());
        for row in blocking(&scope, move || processes(&host, only)).await? {
            scope.charge_op().await;
            emitter.send(row).await?;
        }
        Ok(())
    });
}

/// Ids of all processes, ascending.
pub fn pids(proc: &Path) -> Vec<u32> {
    let Ok(dir) = std::fs::read_dir(proc) else { return Vec::new() };
    let name = |e: std::io::Result<std::fs::DirEntry>| e.ok()?.file_name().to_str()?.parse().ok();
    let mut all: Vec<u32> = dir.filter_map(name).collect();
    all.sort_unstable();
    all
}

/// Rows of all processes, or of one.
pub fn processes(host: &Host, only: Option<u32>) -> Vec<Dict> {
    let users = users(&host.root);
    let stat = std::fs::read_to_string(host.proc.join("stat")).unwrap_or_default();
    let boot = stat.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let pids = only.map_or_else(|| pids(&host.proc), |p| vec![p]);
    let one = |pid: u32| process(&host.proc.join(pid.to_string()), pid, boot?, &users);
    pids.into_iter().filter_map(one).collect()
}

/// Account names by id.
fn users(root: &Path) -> BTreeMap<u32, String> {
    let text = std::fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let entry = |l: &str| {
        let mut f = l.split(':');
        let name = f.next()?;
        Some((f.nth(1)?.parse().ok()?, name.to_owned()))
    };
    let mut out = BTreeMap::new();
    for (id, name) in text.lines().filter_map(entry) {
        // Of two with one id the first is its name.
        out.entry(id).or_insert(name);
    }
    out
}

/// One process; `None` when it has gone meanwhile.
fn process(dir: &Path, pid: u32, boot: f64, users: &BTreeMap<u32, String>) -> Option<Dict> {
    let stat = std::fs::read(dir.join("stat")).ok()?;
    let stat = vql::lossy(&stat).into_owned();
    // The name is in brackets and may hold any character.
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let mut name = stat.get(open + 1..close)?.to_owned();
    let fields: Vec<&str> = stat.get(close + 1..)?.split_whitespace().collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    let ppid = fields.get(1).and_then(|f| f.parse::<i64>().ok()).unwrap_or(0);

    let status = std::fs::read_to_string(dir.join("status")).unwrap_or_default();
    let field = |n: &str| status.lines().find_map(|l| Some(l.strip_prefix(n)?.trim().to_owned()));
    let kb = |n: &str| -> u64 {
        let text = field(n).unwrap_or_default();
        text.split(' ').next().and_then(|s| s.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let uid = field("Uid:").and_then(|u| u.split_whitespace().next()?.parse::<u32>().ok());
    let user = uid.map(|u| users.get(&u).cloned().unwrap_or_else(|| u.to_string()));

    let args = std::fs::read(dir.join("cmdline")).unwrap_or_default();
    let args: Vec<_> = args.split(|b| *b == 0).filter(|a| !a.is_empty()).collect();
    let command = args.join(&b' ');
    // The kernel cuts names at 15 characters; the full one is in the arguments.
    if name.len() >= 15
        && let Some(full) = args.first().and_then(|a| a.rsplit(|b| *b == b'/').next())
        && full.starts_with(name.as_bytes())
    {
        name = vql::lossy(full).into_owned();
    }
    let link = |n: &str| {
        let target = std::fs::read_link(dir.join(n));
        target.map(|t| t.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let created = boot + number(19) / TICKS;
    let created = vql::Time::from_second(created as i64).ok().map(vql::rfc3339);
    // Queries write these names in either case.
    let memory = Dict::case_insensitive()
        .with("rss", kb("VmRSS:"))
        .with("vms", kb("VmSize:"))
        .with("swap", kb("VmSwap:"));
    let times = Dict::case_insensitive()
        .with("user", number(11) / TICKS)
        .with("system", number(12) / TICKS);
    Some(
        Dict::case_insensitive()
            .with("Pid", pid)
            .with("Name", name)
            .with("Ppid", ppid)
            .with("CommandLine", command)
            .with("CreateTime", created)
            .with("Times", times)
            .with("Exe", link("exe"))
            .with("Cwd", link("cwd"))
            .with("Username", user.map_or(Value::from(""), Value::from))
            .with("MemoryInfo", memory),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_files() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("proc/42");
        std::fs::create_dir_all(&p).unwrap();
        std::fs::create_dir_all(dir.path().join("etc")).unwrap();
        std::fs::write(
            dir.path().join("etc/passwd"),
            "root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("proc/stat"), "btime 1700000000\n").unwrap();
        let stat = "42 (a very long) na) S 7 0 0 0 0 0 0 0 0 0 150 50 0 0 0 0 1 0 1000 0 0\n";
        std::fs::write(p.join("stat"), stat).unwrap();
        std::fs::write(p.join("status"), "Uid:\t0\t0\t0\t0\nVmRSS:\t    12 kB\n").unwrap();
        std::fs::write(p.join("cmdline"), "/bin/x\0-v\0").unwrap();
        let host =
            Host { root: dir.path().into(), proc: dir.path().join("proc"), ..Host::default() };
        let rows = processes(&host, None);
        assert_eq!(rows.len(), 1);
        assert_eq!(
            rows[0].to_json(),
            "{\"Pid\":42,\"Name\":\"a very long) na\",\"Ppid\":7,\"CommandLine\":\"/bin/x -v\",\
             \"CreateTime\":\"2023-11-14T22:13:30Z\",\"Times\":{\"user\":1.5,\"system\":0.5},\
             \"Exe\":\"\",\"Cwd\":\"\",\"Username\":\"root\",\
             \"MemoryInfo\":{\"rss\":12288,\"vms\":0,\"swap\":0}}"
        );
        assert!(rows[0].contains("pid"));
        assert!(processes(&host, Some(43)).is_empty());
    }
}
