//! placeholder until the agent room lands
use crate::env::Env;
/// x
pub async fn start(_: &Env, _: &str) -> anyhow::Result<tokio_util::sync::CancellationToken> {
    anyhow::bail!("no agent")
}
