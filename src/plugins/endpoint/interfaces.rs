//! `interfaces`: network interfaces, from `/sys/class/net`.

use std::any::Any;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use vql::{Dict, Object, Registry, Signature, Value};

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
    let groups = (table("igmp"), table("igmp6"));
    let four = v4(&table("fib_trie"), &table("route"));
    let mut rows: Vec<(i64, Dict)> =
        names.iter().map(|n| interface(&dir.join(n), n, &four, &six, &groups)).collect();
    rows.sort_by_key(|(index, _)| *index);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn interface(
    dir: &Path,
    name: &str,
    four: &[(String, String)],
    six: &str,
    groups: &(String, String),
) -> (i64, Dict) {
    let read = |f: &str| {
        let text = std::fs::read_to_string(dir.join(f)).unwrap_or_default();
        text.trim().to_owned()
    };
    let number = |f: &str| read(f).parse::<i64>().unwrap_or(0);
    let mut flags = i64::from_str_radix(read("flags").trim_start_matches("0x"), 16).unwrap_or(0);
    // The file has only what was set, not that there is a carrier.
    if flags & 0x1 != 0 && read("carrier") == "1" {
        flags |= 0x40;
    }
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
    let multicast = multicast(groups, name);
    let members = multicast.iter().map(|a| Dict::new().with("IP", a).with("Zone", ""));
    let yes = |bit| if flags & bit != 0 { "Y" } else { "N" };
    let row = Dict::new()
        .with("Name", name)
        .with("HardwareAddr", hardware(&mac))
        .with("MTU", number("mtu"))
        .with("Index", index)
        .with("Flags", set.join("|"))
        .with("Loopback", yes(0x8))
        .with("PointToPoint", yes(0x10))
        .with("Up", yes(0x1))
        .with("HardwareAddrString", mac)
        .with(
            "Addrs",
            match addresses.is_empty() {
                true => Value::Null,
                false => addresses.iter().filter_map(|a| network(a)).collect(),
            },
        )
        .with("AddrsString", addresses.into_iter().collect::<Value>())
        .with("MulticastAddrs", members.collect::<Value>())
        .with("MulticastAddrsString", multicast.iter().collect::<Value>());
    (index, row)
}

/// Bytes with a text: base64 in JSON.
#[derive(Clone, Debug)]
struct Bytes {
    bytes: Vec<u8>,
    text: String,
}

impl Object for Bytes {
    fn type_name(&self) -> &'static str {
        "[]uint8"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn member(&self, name: &str) -> Option<Value> {
        (name == "String").then(|| self.text.as_str().into())
    }

    fn text(&self) -> Option<String> {
        Some(self.text.clone())
    }

    fn to_plain(&self) -> Value {
        Value::Bytes(self.bytes.as_slice().into())
    }

    fn truth(&self) -> bool {
        !self.bytes.is_empty()
    }
}

/// The address of the hardware, `aa:bb:..`; NULL without one.
fn hardware(mac: &str) -> Value {
    let bytes: Option<Vec<u8>> = mac.split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
    bytes.map_or(Value::Null, |bytes| Value::object(Bytes { bytes, text: mac.to_owned() }))
}

/// `address/prefix` as address and mask.
fn network(text: &str) -> Option<Value> {
    let (address, prefix) = text.split_once('/')?;
    let prefix: usize = prefix.parse().ok()?;
    let length = if address.contains(':') { 16 } else { 4 };
    let byte =
        |i: usize| 0xffu16.wrapping_shl(8 - prefix.saturating_sub(8 * i).min(8) as u32) as u8;
    let bytes: Vec<u8> = (0..length).map(byte).collect();
    let mask = Value::object(Bytes { text: hex::encode(&bytes), bytes });
    Some(Dict::new().with("IP", address).with("Mask", mask).into())
}

/// Groups an interface is a member of: the tables of IPv4 and IPv6.
fn multicast((four, six): &(String, String), name: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut here = false;
    for line in four.lines().skip(1) {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        match line.starts_with(char::is_whitespace) {
            // Addresses stand below the line of their interface.
            true if here => {
                let address = u32::from_str_radix(first, 16).ok();
                out.extend(address.map(|a| Ipv4Addr::from(u32::from_be(a)).to_string()));
            }
            true => {}
            false => here = words.next() == Some(name),
        }
    }
    for line in six.lines() {
        let f: Vec<&str> = line.split_whitespace().collect();
        if f.get(1) == Some(&name)
            && let Some(address) = f.get(2).and_then(|a| u128::from_str_radix(a, 16).ok())
        {
            out.push(Ipv6Addr::from(address).to_string());
        }
    }
    out
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
    fn masks_and_groups() {
        let shown = |text| network(text).unwrap().to_json();
        assert_eq!(shown("192.0.2.1/20"), r#"{"IP":"192.0.2.1","Mask":"///wAA=="}"#);
        let six = network("fd00::1/64").unwrap();
        let mask = vql::member(&vql::member(&six, "Mask").unwrap(), "String").unwrap();
        assert_eq!(mask.to_text(), "ffffffffffffffff0000000000000000");
        assert_eq!(hardware("0a:1b:2c:3d:4e:5f").to_json(), "\"ChssPU5f\"");
        assert!(hardware("").is_null());
        if cfg!(target_endian = "little") {
            let four = "Idx\tDevice    : Count Querier\n1\tlo        :     1      V3\n\t\t\t\t\
                010000E0     1 0:00000000\t\t0\n2\teth0      :     1      V3\n\t\t\t\t\
                FB0000E0     1 0:00000000\t\t0\n";
            let six = "2    eth0            ff020000000000000000000000000001     1 0000000C 0\n";
            let got = multicast(&(four.into(), six.into()), "eth0");
            assert_eq!(got, ["224.0.0.251", "ff02::1"]);
        }
    }

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
