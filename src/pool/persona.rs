//! What virtual clients say they are.

use vql::{ArgType, Registry, Signature};

use crate::plugins::common::Persona as Host;

/// What the interrogation asks a host of Windows with: it is answered, so that a
/// fleet of virtual clients does not begin with errors.
pub(super) fn register(registry: &mut Registry) {
    let sig = Signature::new("wmi", "Finds nothing: this host only says that it is Windows.")
        .required("query", ArgType::String, "A query in WQL.")
        .arg("namespace", ArgType::String, "Where it is asked.");
    registry.plugin_async(sig, |_, _, _| async { Ok(()) });
}

/// A kind of host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Persona {
    /// Servers that run Debian.
    #[default]
    Linux,
    /// Desktops that run Windows 11. Queries are still run by this program, so
    /// plugins of Windows alone are not there, but for `wmi`, which finds nothing.
    Windows,
    /// Every other one of each.
    Mixed,
}

impl Persona {
    /// The host of client number `n`.
    pub fn host(self, n: usize, id: &str) -> Host {
        let windows = match self {
            Persona::Linux => false,
            Persona::Windows => true,
            Persona::Mixed => n % 2 == 1,
        };
        let (name, os, platform, version) = match windows {
            true => ("DESKTOP", "windows", "Microsoft Windows 11 Pro", "10.0.22631"),
            false => ("server", "linux", "debian", "12"),
        };
        let hostname = format!("{name}-{n:05}");
        Host {
            fqdn: format!("{}.pool.example", hostname.to_lowercase()),
            hostname,
            os: os.into(),
            platform: platform.into(),
            version: version.into(),
            host_id: id.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_of_a_mixed_fleet_is_windows() {
        let os = |p: Persona, n| p.host(n, "C.1").os;
        assert_eq!(os(Persona::Mixed, 0), "linux");
        assert_eq!(os(Persona::Mixed, 1), "windows");
        assert_eq!(os(Persona::Linux, 1), "linux");
    }
}
