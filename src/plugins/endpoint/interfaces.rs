//! `interfaces`: network interfaces, from `/sys/class/net`.

use std::net::Ipv6Addr;
use std::path::Path;

use vql::{Dict, Registry, Signature, Value};

use crate::plugins::common::{Host, blocking, host};

/// Adds `interfaces`.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("interfaces", "The network interfaces of the host.");
    registry.plugin_async(signature, |scope, _args, emitter| async move {
        let host = host(&scope);
        for row in blocking(&scope, move || interfaces(&host)).await? {
            emitter.send(row).await?;
        }
        Ok(())
    });
}

fn interfaces(host: &Host) -> Vec<Dict> {
    let dir = host.root.join("sys/class/net");
    let Ok(entries) = std::fs::read_dir(&dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    let six = std::fs::read_to_string(host.proc.join("net/if_inet6")).unwrap_or_default();
    let mut rows: Vec<(i64, Dict)> =
        names.iter().map(|n| interface(&dir.join(n), n, &six)).collect();
    rows.sort_by_key(|(index, _)| *index);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn interface(dir: &Path, name: &str, six: &str) -> (i64, Dict) {
    let read = |f: &str| {
        let text = std::fs::read_to_string(dir.join(f)).unwrap_or_default();
        text.trim().to_owned()
    };
    let number = |f: &str| read(f).parse::<i64>().unwrap_or(0);
    let flags = i64::from_str_radix(read("flags").trim_start_matches("0x"), 16).unwrap_or(0);
    let names = [
        (0x1, "up"),
        (0x2, "broadcast"),
        (0x8, "loopback"),
        (0x10, "pointtopoint"),
        (0x1000, "multicast"),
        (0x40, "running"),
    ];
    let set: Vec<&str> = names.iter().filter(|(b, _)| flags & b != 0).map(|(_, n)| *n).collect();
    let mac = match read("address") {
        m if m == "00:00:00:00:00:00" => String::new(),
        m => m,
    };
    let index = number("ifindex");
    let row = Dict::new()
        .with("Name", name)
        .with("HardwareAddr", mac.clone())
        .with("MTU", number("mtu"))
        .with("Index", index)
        .with("Flags", set.join("|"))
        .with("Loopback", flags & 0x8 != 0)
        .with("PointToPoint", flags & 0x10 != 0)
        .with("Up", flags & 0x1 != 0)
        .with("HardwareAddrString", mac)
        .with("Addrs", v6(six, name).into_iter().collect::<Value>());
    (index, row)
}

/// IPv6 addresses with their prefix. (The kernel tells IPv4 ones by netlink only.)
fn v6(table: &str, name: &str) -> Vec<String> {
    let line = |l: &str| {
        let f: Vec<&str> = l.split_whitespace().collect();
        let address = u128::from_str_radix(f.first()?, 16).ok()?;
        let prefix = u8::from_str_radix(f.get(2)?, 16).ok()?;
        (*f.get(5)? == name).then(|| format!("{}/{prefix}", Ipv6Addr::from(address)))
    };
    table.lines().filter_map(line).collect()
}
