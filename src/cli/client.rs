//! `client`: runs the endpoint agent with a stock client configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{Context, Usage};
use crate::agent::{Body, End, Settings, run_as};
use crate::comms::agent::{Backoff, ConnectorConfig, Proxies, Thumbprint, Verification};
use crate::config::{Loaded, Role, load};
use crate::env::Env;
use crate::plugins::common::{Host, Persona};

/// Arguments of `client`.
#[derive(Args, Debug, Default)]
pub struct ClientArgs {
    /// Keep the agent's state in this file instead of the configured one.
    #[arg(long, value_name = "FILE")]
    pub(super) writeback: Option<String>,
    /// Buffer unsent data in files beginning with this name instead of the
    /// configured one.
    #[arg(long, value_name = "FILE")]
    pub(super) buffer: Option<String>,
    /// Wait after failures exactly as the stock agent does (a minute and more).
    #[arg(long = "stock_backoff")]
    pub(super) stock_backoff: bool,
    /// Accepted for compatibility and ignored.
    #[arg(long, hide = true)]
    pub(super) quiet: bool,
}

/// Starts an agent in this process with the client configuration at `config`;
/// cancelling the token ends it.
pub async fn start(env: &Env, config: &str) -> anyhow::Result<CancellationToken> {
    start_as(env, config, None).await
}

/// The same; with a persona it says that of itself, and nothing of the machine it runs on,
/// which is another at every moment.
pub async fn start_as(
    env: &Env,
    config: &str,
    persona: Option<Persona>,
) -> anyhow::Result<CancellationToken> {
    let loaded = load(env, config, None, Role::Agent).await?;
    let (settings, connector) = settings(&loaded, &ClientArgs::default())?;
    let stop = CancellationToken::new();
    let (world, token) = (env.clone(), stop.clone());
    env.spawn(async move {
        let run = async {
            let mut body = Body::installed(&world, &settings).await?;
            let host = Host { persona: persona.map(Arc::new), ..(*body.host).clone() };
            body.host = Arc::new(host);
            run_as(world.clone(), Arc::new(settings), connector, body, token).await
        };
        match run.await {
            Ok(_) => tracing::info!("the agent has ended"),
            Err(e) => tracing::error!("the agent cannot run: {e}"),
        }
    });
    Ok(stop)
}

/// Runs until the process is told to end.
pub async fn run(args: ClientArgs, ctx: &Context) -> anyhow::Result<()> {
    let path = ctx.config_path()?;
    let loaded = load(&ctx.env, path, ctx.global.settings.as_deref(), Role::Agent).await?;
    for f in &loaded.findings {
        tracing::warn!("{f}");
    }
    let (settings, connector) = settings(&loaded, &args)?;
    let stop = CancellationToken::new();
    let signal = stop.clone();
    ctx.env.spawn(async move {
        ended().await;
        signal.cancel();
    });
    match crate::agent::run(ctx.env.clone(), settings, connector, stop).await? {
        End::Stopped => Ok(()),
        // A service manager starts it again, which is what the server wants.
        End::Killed => anyhow::bail!("ended by the server"),
    }
}

/// Resolves on SIGTERM and SIGINT.
pub(super) async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        biased;
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

pub(super) fn settings(
    loaded: &Loaded,
    args: &ClientArgs,
) -> anyhow::Result<(Settings, ConnectorConfig)> {
    let c = &loaded.config.client;
    let absolute = |p: &str| crate::config::load::absolute(p).map_err(anyhow::Error::from);
    let writeback = match &args.writeback {
        Some(p) => p.as_str(),
        None => c.writeback_linux.as_str(),
    };
    if writeback.is_empty() {
        return Err(Usage("Client.writeback_linux is not set: give --writeback FILE".into()).into());
    }
    let buffer = match &args.buffer {
        Some(p) => Some(p.as_str()),
        None => Some(c.local_buffer.filename_linux.as_str()).filter(|p| !p.is_empty()),
    };
    let disk = match c.local_buffer.disk_size {
        0 if args.buffer.is_some() => Settings::default().buffer_disk,
        n => n,
    };
    let settings = Settings {
        nonce: c.nonce.clone(),
        writeback: absolute(writeback)?,
        level2_suffix: c.level2_writeback_suffix.clone(),
        buffer_path: buffer.map(absolute).transpose()?,
        buffer_disk: disk,
        buffer_memory: c.buffer_memory(),
        max_upload_size: c.max_upload_size(),
        concurrency: usize::try_from(c.concurrency()).unwrap_or(usize::MAX >> 4).min(1000),
        default_max_wait: c.default_max_wait(),
        stats_period: c.flow_stats_update(),
        info_period: c.client_info_update(),
        min_poll: c.min_poll(),
        max_poll: c.max_poll(),
        max_poll_std: c.max_poll_std(),
        disable_compression: c.disable_compression,
        labels: c.labels.clone(),
        server_urls: c.server_urls.clone(),
        ..Settings::default()
    };
    let text = |key: &str| {
        let value = loaded.document.get(&format!("Client.{key}"));
        value.and_then(|v| v.as_str()).unwrap_or_default().to_owned()
    };
    let verification = match c.crypto.certificate_verification_mode.to_uppercase().as_str() {
        "" | "PKI" => Verification::Pki,
        "PKI_OR_THUMBPRINT" => Verification::PkiOrThumbprint,
        "THUMBPRINT_ONLY" => Verification::ThumbprintOnly,
        other => anyhow::bail!("Client.Crypto.certificate_verification_mode: {other} is unknown"),
    };
    let mut thumbprints = Vec::new();
    let listed = loaded.document.get("Client.Crypto.certificate_thumbprints");
    for t in listed.and_then(|v| v.as_array()).into_iter().flatten() {
        let t = t.as_str().unwrap_or_default();
        let parsed = Thumbprint::parse(t);
        thumbprints.push(parsed.with_context(|| format!("certificate thumbprint {t}"))?);
    }
    let proxy = text("proxy");
    let proxies = match proxy.as_str() {
        "" => Proxies::from_variables(|name| std::env::var(name).ok()),
        p => Proxies::single(p.parse().context("Client.proxy")?),
    };
    let mut fallback_addresses = BTreeMap::new();
    let fallbacks = loaded.document.get("Client.fallback_addresses");
    for (from, to) in fallbacks.and_then(|v| v.as_object()).into_iter().flatten() {
        if let Some(to) = to.as_str() {
            fallback_addresses.insert(from.clone(), to.to_owned());
        }
    }
    let connector = ConnectorConfig {
        server_urls: c.server_urls.clone(),
        ca_certificate: c.ca_certificate.clone(),
        root_certs: c.crypto.root_certs.clone(),
        use_self_signed_ssl: c.use_self_signed_ssl,
        pinned_server_name: c.pinned_server_name().to_owned(),
        verification,
        thumbprints,
        connection_timeout: c.connection_timeout(),
        proxies,
        fallback_addresses,
        ws_ping_wait: c.ws_ping_wait(),
        max_poll: c.max_poll(),
        max_poll_std: c.max_poll_std(),
        backoff: if args.stock_backoff { Backoff::Stock } else { Backoff::Growing },
        ..ConnectorConfig::default()
    };
    Ok((settings, connector))
}
