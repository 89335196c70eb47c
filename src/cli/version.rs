//! `version`: what this program is.

use clap::Args;

use super::{Context, print};

/// Arguments of `version`.
#[derive(Args, Debug)]
pub struct VersionArgs {}

/// Prints name, version and protocol.
pub async fn run(_: VersionArgs, _: &Context) -> anyhow::Result<()> {
    print(&format!(
        "name: {}\nversion: {}\nclient_protocol: 4\nindependent_implementation: true\n",
        crate::PRODUCT,
        env!("CARGO_PKG_VERSION"),
    ))
}
