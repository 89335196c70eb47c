//! `connections` and `netstat`: sockets, from `/proc/net` and the descriptors of processes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use vql::{Dict, Registry, Signature, Value};

use super::pslist::pids;
use crate::plugins::common::{Host, accessor, blocking, host};

/// Adds `connections`.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("connections", "List all active connections.");
    registry.plugin_async(signature, |scope, _args, emitter| async move {
        let host = host(&scope);
        for row in blocking(&scope, move || connections(&host)).await? {
            scope.charge_op().await;
            emitter.send(row).await?;
        }
        Ok(())
    });
    let signature = Signature::new("netstat", "TCP connections, in the form of every system.");
    registry.plugin_async(signature, |scope, _args, emitter| async move {
        let host = host(&scope);
        for row in blocking(&scope, move || netstat(&host)).await? {
            scope.charge_op().await;
            emitter.send(row).await?;
        }
        Ok(())
    });
}

/// TCP sockets in the form that `netstat` has on every system.
fn netstat(host: &Host) -> Vec<Dict> {
    let owners = owners(&host.proc);
    let mut rows = Vec::new();
    for (file, family, name) in [("tcp", 2, "IPv4"), ("tcp6", 10, "IPv6")] {
        let text = std::fs::read_to_string(host.proc.join("net").join(file)).unwrap_or_default();
        rows.extend(text.lines().skip(1).filter_map(|line| socket(line, family, name, &owners)));
    }
    rows
}

fn socket(line: &str, family: i64, name: &str, owners: &BTreeMap<u64, (u32, u32)>) -> Option<Dict> {
    let f: Vec<&str> = line.split_whitespace().collect();
    let place = |text: &str| {
        let (ip, port) = address(text)?;
        Some(Dict::new().with("IP", ip).with("Port", port))
    };
    // What its program has closed is nobody's.
    let pid = owners.get(&f.get(9)?.parse().ok()?).map_or(-1, |owner| i64::from(owner.0));
    Some(
        Dict::new()
            .with("Fd", 0)
            .with("Family", family)
            .with("Type", 1)
            .with("Laddr", place(f.get(1)?)?)
            .with("Raddr", place(f.get(2)?)?)
            .with(
                "Status",
                match state(f.get(3)?) {
                    "ESTABLISHED" => "ESTAB",
                    other => other,
                },
            )
            .with("Pid", pid)
            .with("FamilyString", name)
            .with("Timestamp", accessor::time(accessor::UNKNOWN))
            .with("TypeString", "TCP"),
    )
}

/// Socket inode to the process and descriptor that hold it.
fn owners(proc: &Path) -> BTreeMap<u64, (u32, u32)> {
    let mut out = BTreeMap::new();
    for pid in pids(proc) {
        // Other users' descriptors cannot be read without rights.
        let Ok(dir) = std::fs::read_dir(proc.join(pid.to_string()).join("fd")) else { continue };
        for entry in dir.flatten() {
            let Ok(target) = std::fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy().into_owned();
            let inode = target.strip_prefix("socket:[").and_then(|t| t.strip_suffix(']'));
            let fd = entry.file_name().to_str().and_then(|n| n.parse().ok());
            if let (Some(inode), Some(fd)) = (inode.and_then(|i| i.parse().ok()), fd) {
                out.entry(inode).or_insert((pid, fd));
            }
        }
    }
    out
}

fn connections(host: &Host) -> Vec<Dict> {
    let owners = owners(&host.proc);
    // Stock calls datagrams "UCP", and queries compare with that.
    let tables = [
        ("tcp", "AF_INET", "TCP"),
        ("tcp6", "AF_INET6", "TCP"),
        ("udp", "AF_INET", "UCP"),
        ("udp6", "AF_INET6", "UCP"),
    ];
    let mut rows = Vec::new();
    for (file, family, kind) in tables {
        let text = std::fs::read_to_string(host.proc.join("net").join(file)).unwrap_or_default();
        let line = |l| inet(l, family, kind, &owners);
        rows.extend(text.lines().skip(1).filter_map(line));
    }
    let text = std::fs::read(host.proc.join("net/unix")).unwrap_or_default();
    rows.extend(vql::lossy(&text).lines().skip(1).filter_map(|l| unix(l, &owners)));
    rows
}

fn row(
    family: &str,
    kind: &str,
    local: (String, u16),
    remote: (String, u16),
    status: &str,
    owner: Option<&(u32, u32)>,
    uids: Vec<i64>,
) -> Dict {
    let address =
        |(ip, port): (String, u16)| Dict::case_insensitive().with("ip", ip).with("port", port);
    Dict::case_insensitive()
        .with("FD", owner.map_or(0, |o| o.1))
        .with("Family", family)
        .with("Type", kind)
        .with("Laddr", address(local))
        .with("Raddr", address(remote))
        .with("Status", status)
        .with("Pid", owner.map_or(0, |o| o.0))
        .with("Uids", uids.into_iter().collect::<Value>())
}

fn inet(line: &str, family: &str, kind: &str, owners: &BTreeMap<u64, (u32, u32)>) -> Option<Dict> {
    let f: Vec<&str> = line.split_whitespace().collect();
    let status = match (kind, *f.get(3)?) {
        ("TCP", s) => state(s),
        _ => "NONE",
    };
    let uid = f.get(7)?.parse::<i64>().ok()?;
    let inode = f.get(9)?.parse().ok()?;
    let owner = owners.get(&inode);
    Some(row(family, kind, address(f.get(1)?)?, address(f.get(2)?)?, status, owner, vec![uid; 4]))
}

fn unix(line: &str, owners: &BTreeMap<u64, (u32, u32)>) -> Option<Dict> {
    let f: Vec<&str> = line.split_whitespace().collect();
    let kind = match *f.get(4)? {
        "0001" => "TCP",
        "0002" => "UCP",
        other => other.trim_start_matches('0'),
    };
    let inode = f.get(6)?.parse().ok()?;
    let path = f.get(7).map(|p| (*p).to_owned()).unwrap_or_default();
    let owner = owners.get(&inode);
    Some(row("AF_UNIX", kind, (path, 0), (String::new(), 0), "NONE", owner, vec![]))
}

/// `0100007F:1F90`: words of the address are in the host's byte order.
fn address(text: &str) -> Option<(String, u16)> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for word in ip.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string(),
        _ => return None,
    };
    Some((ip, port))
}

fn state(hex: &str) -> &'static str {
    match hex {
        "01" => "ESTABLISHED",
        "02" => "SYN_SENT",
        "03" => "SYN_RECV",
        "04" => "FIN_WAIT1",
        "05" => "FIN_WAIT2",
        "06" => "TIME_WAIT",
        "07" => "CLOSE",
        "08" => "CLOSE_WAIT",
        "09" => "LAST_ACK",
        "0A" => "LISTEN",
        "0B" => "CLOSING",
        _ => "NONE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("net")).unwrap();
        let fd = dir.path().join("7/fd");
        std::fs::create_dir_all(&fd).unwrap();
        std::os::unix::fs::symlink("socket:[991]", fd.join("3")).unwrap();
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 991 1 0 100 0 0 10 0\n";
        std::fs::write(dir.path().join("net/tcp"), tcp).unwrap();
        let host = Host { proc: dir.path().into(), ..Host::default() };
        let rows = connections(&host);
        assert_eq!(rows.len(), 1);
        if cfg!(target_endian = "little") {
            assert_eq!(
                rows[0].to_json(),
                "{\"FD\":3,\"Family\":\"AF_INET\",\"Type\":\"TCP\",\
                 \"Laddr\":{\"ip\":\"127.0.0.1\",\"port\":8080},\
                 \"Raddr\":{\"ip\":\"0.0.0.0\",\"port\":0},\"Status\":\"LISTEN\",\"Pid\":7,\
                 \"Uids\":[1000,1000,1000,1000]}"
            );
            assert_eq!(
                Value::from(netstat(&host).remove(0)).to_json(),
                "{\"Fd\":0,\"Family\":2,\"Type\":1,\"Laddr\":{\"IP\":\"127.0.0.1\",\"Port\":8080},\
                 \"Raddr\":{\"IP\":\"0.0.0.0\",\"Port\":0},\"Status\":\"LISTEN\",\"Pid\":7,\
                 \"FamilyString\":\"IPv4\",\"Timestamp\":\"0001-01-01T00:00:00Z\",\
                 \"TypeString\":\"TCP\"}"
            );
        }
    }
}
