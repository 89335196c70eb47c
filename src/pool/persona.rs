//! What virtual clients say they are.

use crate::plugins::common::Persona as Host;

/// A kind of host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Persona {
    /// Servers that run Debian.
    #[default]
    Linux,
    /// Desktops that run Windows 11. Queries are still run by this program, so
    /// plugins of Windows alone are not there.
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
