//! `info`: one row about the host.

use std::path::Path;

use vql::{Dict, Error, Registry, Signature};

use crate::plugins::common::{Host, blocking, host};

/// What is known of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Short name as the kernel has it.
    pub hostname: String,
    /// Name with domain, as far as it is known locally.
    pub fqdn: String,
    /// Distribution id, such as `debian`.
    pub platform: String,
    /// Distribution family, such as `debian` for ubuntu.
    pub family: String,
    /// Distribution version.
    pub version: String,
    /// Kernel release.
    pub kernel: String,
    /// Go's name for the processor: `amd64`, `arm64`, ...
    pub architecture: String,
    /// Id of the installation.
    pub host_id: String,
    /// Seconds since boot.
    pub uptime: u64,
    /// Boot time, unix seconds.
    pub boot_time: u64,
    /// Whether devices of a virtual machine are there.
    pub guest: bool,
}

/// Reads the facts.
pub fn facts(host: &Host) -> Facts {
    if let Some(p) = &host.persona {
        return Facts {
            hostname: p.hostname.clone(),
            fqdn: p.fqdn.clone(),
            platform: p.platform.clone(),
            family: p.platform.clone(),
            version: p.version.clone(),
            architecture: "amd64".into(),
            host_id: p.host_id.clone(),
            ..Facts::default()
        };
    }
    let read = |p: &Path| std::fs::read_to_string(p).unwrap_or_default();
    let file = |p: &str| read(&host.root.join(p.trim_start_matches('/')));
    let uname = rustix::system::uname();
    let hostname = uname.nodename().to_string_lossy().into_owned();
    let os = file("/etc/os-release");
    let field = |name: &str| -> String {
        let line = os.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    let platform = field("ID");
    let like = field("ID_LIKE");
    let family = match like.split(' ').next().filter(|f| !f.is_empty()) {
        Some("rhel" | "fedora" | "centos") => "rhel".into(),
        Some(f) => f.to_owned(),
        None => platform.clone(),
    };
    let stat = read(&host.proc.join("stat"));
    let boot_time = stat.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok());
    let uptime = read(&host.proc.join("uptime"));
    let uptime = uptime.split('.').next().and_then(|s| s.parse().ok());
    Facts {
        fqdn: fqdn(&hostname, &file("/etc/hosts")),
        hostname,
        platform,
        family,
        version: match file("/etc/debian_version").trim() {
            point if field("ID") == "debian" && !point.is_empty() => point.to_owned(),
            _ => field("VERSION_ID"),
        },
        kernel: uname.release().to_string_lossy().into_owned(),
        architecture: architecture().into(),
        host_id: match file("/sys/class/dmi/id/product_uuid").trim() {
            "" => dashed(file("/etc/machine-id").trim()),
            known => known.to_lowercase(),
        },
        guest: read(&host.proc.join("bus/pci/devices")).contains("virtio-pci"),
        uptime: uptime.unwrap_or(0),
        boot_time: boot_time.unwrap_or(0),
    }
}

/// 32 digits as they are usually grouped; any other text as it is.
fn dashed(id: &str) -> String {
    if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return id.to_owned();
    }
    [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-")
}

/// The canonical name that the hosts file gives this host, if it has a domain.
fn fqdn(hostname: &str, hosts: &str) -> String {
    if hostname.contains('.') {
        return hostname.to_owned();
    }
    let names = |l: &str| -> Vec<String> {
        let l = l.split('#').next().unwrap_or_default();
        l.split_whitespace().skip(1).map(str::to_owned).collect()
    };
    let full = |n: &String| n.strip_prefix(hostname).is_some_and(|r| r.starts_with('.'));
    let lines = hosts.lines().map(names);
    let mut found = lines.filter(|n| n.iter().any(|n| n == hostname)).flatten().filter(full);
    found.next().unwrap_or_else(|| hostname.to_owned())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// Adds `info`, as plugin and as function.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("info", "Facts about the host, in one row.");
    registry.plugin_async(signature.clone(), |scope, _args, emitter| async move {
        emitter.send(row(&scope).await?).await
    });
    registry.function_async(signature, |scope, _args| async move { Ok(row(&scope).await?.into()) });
}

async fn row(scope: &vql::Scope) -> Result<Dict, Error> {
    let host = host(scope);
    let (started, os) = (host.started, host.os().to_owned());
    let f = blocking(scope, move || facts(&host)).await?;
    let text = |p: std::io::Result<std::path::PathBuf>| {
        p.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let start = i64::try_from(started).ok().and_then(|s| vql::Time::from_second(s).ok());
    let zone = jiff::tz::TimeZone::system();
    let local = zone.to_offset_info(scope.now());
    Ok(Dict::new()
        .with("Hostname", f.hostname)
        .with("Uptime", f.uptime)
        .with("BootTime", f.boot_time)
        .with("OS", os)
        .with("Platform", f.platform)
        .with("PlatformFamily", f.family)
        .with("PlatformVersion", f.version)
        .with("KernelVersion", f.kernel)
        .with("VirtualizationSystem", "")
        .with("VirtualizationRole", if f.guest { "guest" } else { "" })
        .with("CompilerVersion", "rustc")
        .with("HostID", f.host_id)
        .with("Exe", text(std::env::current_exe()))
        .with("CWD", text(std::env::current_dir()))
        .with("IsAdmin", rustix::process::geteuid().is_root())
        .with("ClientStart", start)
        .with("LocalTZ", local.abbreviation())
        .with("LocalTZOffset", i64::from(local.offset().seconds()))
        .with("Fqdn", f.fqdn)
        .with("Architecture", f.architecture))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc")).unwrap();
        let release = "NAME=\"X\"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"22.04\"\n";
        std::fs::write(dir.path().join("etc/os-release"), release).unwrap();
        std::fs::write(dir.path().join("etc/machine-id"), "abc\n").unwrap();
        std::fs::write(dir.path().join("stat"), "cpu 1\nbtime 1700000000\n").unwrap();
        std::fs::write(dir.path().join("uptime"), "123.45 1.0\n").unwrap();
        let host = Host { root: dir.path().into(), proc: dir.path().into(), ..Host::default() };
        let f = facts(&host);
        assert_eq!((f.platform.as_str(), f.family.as_str()), ("ubuntu", "debian"));
        assert_eq!((f.version.as_str(), f.host_id.as_str()), ("22.04", "abc"));
        assert_eq!((f.uptime, f.boot_time, f.guest), (123, 1_700_000_000, false));
        let grouped = "00112233-4455-6677-8899-aabbccddeeff";
        std::fs::write(dir.path().join("etc/machine-id"), grouped.replace('-', "")).unwrap();
        std::fs::create_dir_all(dir.path().join("bus/pci")).unwrap();
        let devices = "0008\t1af41042\t0\tvirtio-pci\n";
        std::fs::write(dir.path().join("bus/pci/devices"), devices).unwrap();
        let f = facts(&host);
        assert_eq!((f.host_id.as_str(), f.guest), (grouped, true));
    }

    #[test]
    fn full_names() {
        let hosts = "127.0.0.1 localhost\n10.0.0.1 web.example.org web # x\n";
        assert_eq!(fqdn("web", hosts), "web.example.org");
        assert_eq!(fqdn("db", hosts), "db");
        assert_eq!(fqdn("a.b", ""), "a.b");
    }
}
