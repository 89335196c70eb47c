//! `sysinfo`: what the machine is made of, from the files of its kernel.

use std::collections::BTreeSet;
use std::path::Path;

use vql::{Dict, Registry, Signature, Value};

use super::info::facts;
use crate::plugins::common::{Host, blocking, host};

/// Adds `sysinfo`.
pub fn register(registry: &mut Registry) {
    let sig = Signature::new("sysinfo", "What the machine is made of.");
    registry.function_async(sig, |scope, _| async move {
        let host = host(&scope);
        Ok(blocking(&scope, move || describe(&host)).await?.into())
    });
}

fn describe(host: &Host) -> Dict {
    let read = |p: &Path| std::fs::read_to_string(p).unwrap_or_default().trim().to_owned();
    let file = |p: &str| read(&host.root.join(p.trim_start_matches('/')));
    let dmi = |name: &str| file(&format!("/sys/class/dmi/id/{name}"));
    let facts = facts(host);
    let uname = rustix::system::uname();
    let cpuinfo = read(&host.proc.join("cpuinfo"));
    let memory = read(&host.proc.join("meminfo"));
    let kib = memory.lines().find_map(|l| {
        l.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    let timezone = std::fs::read_link(host.root.join("etc/localtime")).ok();
    let timezone = timezone.and_then(|p| {
        let text = p.to_string_lossy().into_owned();
        text.split_once("zoneinfo/").map(|(_, zone)| zone.to_owned())
    });
    let text = |pairs: &[(&'static str, String)]| -> Value {
        let filled = pairs.iter().filter(|(_, v)| !v.is_empty());
        filled.fold(Dict::new(), |d, (k, v)| d.with(*k, v)).into()
    };
    Dict::new()
        .with(
            "node",
            text(&[
                ("hostname", facts.hostname.clone()),
                ("machineid", file("/etc/machine-id")),
                ("timezone", timezone.unwrap_or_default()),
            ]),
        )
        .with(
            "os",
            text(&[
                ("name", pretty_name(&file("/etc/os-release"))),
                ("vendor", facts.platform.clone()),
                ("version", facts.version.clone()),
                ("architecture", facts.architecture.clone()),
            ]),
        )
        .with(
            "kernel",
            text(&[
                ("release", facts.kernel.clone()),
                ("version", uname.version().to_string_lossy().into_owned()),
                ("architecture", uname.machine().to_string_lossy().into_owned()),
            ]),
        )
        .with("product", text(&[("name", dmi("product_name")), ("vendor", dmi("sys_vendor"))]))
        .with("board", text(&[("name", dmi("board_name")), ("vendor", dmi("board_vendor"))]))
        .with(
            "bios",
            text(&[
                ("vendor", dmi("bios_vendor")),
                ("version", dmi("bios_version")),
                ("date", dmi("bios_date")),
            ]),
        )
        .with("cpu", cpu(&cpuinfo))
        .with("memory", Dict::new().with("size", kib.unwrap_or(0) / 1024))
}

fn pretty_name(release: &str) -> String {
    let line = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    line.unwrap_or_default().trim_matches('"').to_owned()
}

fn cpu(cpuinfo: &str) -> Dict {
    let field = |line: &str, name: &str| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    };
    let first = |name: &str| cpuinfo.lines().find_map(|l| field(l, name)).unwrap_or_default();
    let threads = cpuinfo.lines().filter(|l| field(l, "processor").is_some()).count();
    let packages: BTreeSet<_> = cpuinfo.lines().filter_map(|l| field(l, "physical id")).collect();
    let cores = first("cpu cores").parse::<usize>().unwrap_or(0) * packages.len().max(1);
    Dict::new()
        .with("vendor", first("vendor_id"))
        .with("model", first("model name"))
        .with("cpus", packages.len().max(1))
        .with("cores", if cores == 0 { threads } else { cores })
        .with("threads", threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors() {
        let text = "processor\t: 0\nvendor_id\t: V\nmodel name\t: M 1\nphysical id\t: 0\ncpu cores\t: 2\n\n\
                    processor\t: 1\nphysical id\t: 0\ncpu cores\t: 2\n";
        let json = Value::from(cpu(text)).to_json();
        assert_eq!(json, r#"{"vendor":"V","model":"M 1","cpus":1,"cores":2,"threads":2}"#);
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"X 1\"\n"), "X 1");
    }

    #[test]
    fn a_machine_without_facts_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let (root, proc) = (dir.path().into(), dir.path().into());
        let host = Host { root, proc, ..Host::default() };
        let json = Value::from(describe(&host)).to_json();
        assert!(json.contains(r#""memory":{"size":0}"#), "{json}");
    }
}
