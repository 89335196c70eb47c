//! `interfaces`: network interfaces, from `/sys/class/net`.

use std::net::{Ipv4Addr, Ipv6Addr};
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
    let table =
        |n: &str| std::fs::read_to_string(host.proc.join("net").join(n)).unwrap_or_default();
    let six = table("if_inet6");
    let four = v4(&table("fib_trie"), &table("route"));
    let mut rows: Vec<(i64, Dict)> =
        names.iter().map(|n| interface(&dir.join(n), n, &four, &six)).collect();
    rows.sort_by_key(|(index, _)| *index);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn interface(dir: &Path, name: &str, four: &[(String, String)], six: &str) -> (i64, Dict) {
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
    let mut addresses: Vec<String> =
        four.iter().filter(|(i, _)| i == name).map(|(_, a)| a.clone()).collect();
    addresses.extend(v6(six, name));
    let addresses: Value = addresses.into_iter().collect();
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
        .with("Addrs", addresses.clone())
        .with("AddrsString", addresses);
    (index, row)
}

/// IPv4 addresses with their prefix, by interface: the local addresses of the
/// routing trie, each with the on-link route it falls into.
fn v4(trie: &str, routes: &str) -> Vec<(String, String)> {
    let hex = |t: &str| u32::from_str_radix(t, 16).ok().map(u32::from_be);
    let route = |l: &str| {
        let f: Vec<&str> = l.split_whitespace().collect();
        let (to, via, mask) = (hex(f.get(1)?)?, hex(f.get(2)?)?, hex(f.get(7)?)?);
        (via == 0 && mask != 0).then(|| ((*f[0]).to_owned(), to, mask))
    };
    let mut links: Vec<(String, u32, u32)> = routes.lines().skip(1).filter_map(route).collect();
    links.push(("lo".into(), 0x7f00_0000, 0xff00_0000));
    links.sort_by_key(|(_, _, mask)| std::cmp::Reverse(*mask));
    let mut out = Vec::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last
        {
            let n = u32::from(address);
            let link = links.iter().find(|(_, to, mask)| n & mask == *to);
            if let Some((name, _, mask)) = link {
                let entry = (name.clone(), format!("{address}/{}", mask.count_ones()));
                if !out.contains(&entry) {
                    out.push(entry);
                }
            }
        }
    }
    out
}

/// IPv6 addresses with their prefix, of one interface.
fn v6(table: &str, name: &str) -> Vec<String> {
    let line = |l: &str| {
        let f: Vec<&str> = l.split_whitespace().collect();
        let address = u128::from_str_radix(f.first()?, 16).ok()?;
        let prefix = u8::from_str_radix(f.get(2)?, 16).ok()?;
        (*f.get(5)? == name).then(|| format!("{}/{prefix}", Ipv6Addr::from(address)))
    };
    table.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.1.2.0\n        /24 link UNICAST\n\
            \x20    |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n\
            \x20    |-- 10.1.2.255\n        /32 link BROADCAST\n";
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask\n\
            eth0 00000000 0102010A 0003 0 0 0 00000000\n\
            eth0 0002010A 00000000 0001 0 0 0 00FFFFFF\n";
        let got = v4(trie, routes);
        if cfg!(target_endian = "little") {
            let want = [("eth0", "10.1.2.3/24"), ("lo", "127.0.0.1/8")];
            assert_eq!(got, want.map(|(a, b)| (a.to_owned(), b.to_owned())));
        }
        let six = "fe80000000000000000000000000000a 02 40 20 80 eth0\n";
        assert_eq!(v6(six, "eth0"), ["fe80::a/64"]);
    }
}
