//! From a URL to a connected stream: proxy, fallback address, TLS.

use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

use super::ConnectorConfig;
use crate::comms::tls::TlsError;
use crate::env::{Conn, Env};

/// Longest answer of a proxy to CONNECT, bytes.
const MAX_PROXY_HEAD: usize = 16 << 10;

/// Why there is no connector.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No URLs.
    #[error("Client.server_urls is empty")]
    NoUrls,
    /// A URL is not usable.
    #[error("server URL {url:?}: {why}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A fallback address is not `host:port`.
    #[error("fallback address {0:?} is not host:port")]
    Fallback(String),
    /// TLS material.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

pub(super) struct Dialer {
    pub env: Env,
    pub tls: Arc<ClientConfig>,
    pub config: Arc<ConnectorConfig>,
}

/// A stream, and how to speak HTTP on it.
pub(super) struct Dialed {
    pub io: Conn,
    /// The stream ends at a proxy that wants the whole URL in the request line.
    pub via_proxy: bool,
    /// `Proxy-Authorization` for such requests.
    pub authorization: Option<String>,
}

/// Checks a base URL.
pub(super) fn check(url: &str) -> Result<(), ConnectError> {
    let err = |why| ConnectError::Url { url: url.to_owned(), why };
    let u = Url::parse(url).map_err(|_| err("not a URL"))?;
    if !matches!(u.scheme(), "http" | "https" | "ws" | "wss") {
        return Err(err("scheme must be http, https, ws or wss"));
    }
    if u.host_str().is_none() {
        return Err(err("no host"));
    }
    if !url.ends_with('/') {
        return Err(err("must end in /"));
    }
    Ok(())
}

/// `host` and port of `host:port`, with brackets around IPv6 addresses taken off.
pub(super) fn host_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then_some((host, port.parse().ok()?))
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.into())
}

fn endpoint(url: &Url) -> io::Result<(&str, u16)> {
    let host = url.host_str().ok_or_else(|| invalid("no host"))?;
    let port = url.port_or_known_default().ok_or_else(|| invalid("no port"))?;
    Ok((host.trim_start_matches('[').trim_end_matches(']'), port))
}

impl Dialer {
    /// Connects to the server of `url`.
    pub(super) async fn dial(&self, url: &Url) -> io::Result<Dialed> {
        let (host, port) = endpoint(url)?;
        let websocket = matches!(url.scheme(), "ws" | "wss");
        let secure = matches!(url.scheme(), "https" | "wss");
        let proxy = self.config.proxies.choose(url);
        let Some(proxy) = proxy else {
            let io = self.tcp(host, port, !websocket).await?;
            let io = if secure { self.secure(io, host, websocket).await? } else { io };
            return Ok(Dialed { io, via_proxy: false, authorization: None });
        };
        if !matches!(proxy.scheme(), "http" | "https") {
            return Err(invalid(format!("proxy scheme {:?} is not supported", proxy.scheme())));
        }
        let (proxy_host, proxy_port) = endpoint(proxy)?;
        let mut io = self.tcp(proxy_host, proxy_port, false).await?;
        if proxy.scheme() == "https" {
            io = self.secure(io, proxy_host, true).await?;
        }
        let authorization = authorization(proxy);
        if !secure && !websocket {
            return Ok(Dialed { io, via_proxy: true, authorization });
        }
        let target = url_authority(url)?;
        let limit = self.config.connection_timeout;
        timeout(limit, tunnel(&mut io, &target, authorization.as_deref())).await??;
        let io = if secure { self.secure(io, host, websocket).await? } else { io };
        Ok(Dialed { io, via_proxy: false, authorization: None })
    }

    async fn tcp(&self, host: &str, port: u16, fallback: bool) -> io::Result<Conn> {
        let limit = self.config.connection_timeout;
        let first = timeout(limit, self.env.net.connect(host, port)).await;
        let e = match first.unwrap_or_else(|e| Err(e.into())) {
            Ok(io) => return Ok(io),
            Err(e) => e,
        };
        let named =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let other = self.config.fallback_addresses.get(&named).filter(|_| fallback);
        let Some((host, port)) = other.and_then(|o| host_port(o)) else { return Err(e) };
        timeout(limit, self.env.net.connect(host, port)).await?
    }

    /// TLS on `io`. `by_host`: the server name is the host even in self-signed
    /// mode, as stock clients do for `wss`.
    async fn secure(&self, io: Conn, host: &str, by_host: bool) -> io::Result<Conn> {
        let pinned = self.config.use_self_signed_ssl && !by_host;
        let name = if pinned { &self.config.pinned_server_name } else { host };
        let name = ServerName::try_from(name.to_owned()).map_err(|e| invalid(e.to_string()))?;
        let connect = TlsConnector::from(self.tls.clone()).connect(name, io);
        let tls = timeout(self.config.connection_timeout, Box::pin(connect)).await??;
        Ok(Box::pin(tls))
    }
}

/// `host:port`, for Host headers and CONNECT.
pub(super) fn url_authority(url: &Url) -> io::Result<String> {
    let (host, port) = endpoint(url)?;
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

fn authorization(proxy: &Url) -> Option<String> {
    if proxy.username().is_empty() {
        return None;
    }
    let decode = |s: &str| {
        let pair = format!("x={}", s.replace('+', "%2B"));
        url::form_urlencoded::parse(pair.as_bytes())
            .next()
            .map(|(_, v)| v.into_owned())
            .unwrap_or_default()
    };
    let user = decode(proxy.username());
    let password = decode(proxy.password().unwrap_or_default());
    Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
}

async fn tunnel(io: &mut Conn, target: &str, authorization: Option<&str>) -> io::Result<()> {
    let auth = authorization.map(|a| format!("Proxy-Authorization: {a}\r\n")).unwrap_or_default();
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{auth}\r\n");
    io.write_all(request.as_bytes()).await?;
    io.flush().await?;
    // Byte by byte: what follows belongs to the server behind the proxy.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_PROXY_HEAD {
            return Err(invalid("proxy: answer is too long"));
        }
        head.push(io.read_u8().await?);
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut headers);
    let _ = answer.parse(&head);
    match answer.code {
        Some(200..=299) => Ok(()),
        code => Err(io::Error::other(format!(
            "proxy refused the connection: {} {}",
            code.unwrap_or_default(),
            answer.reason.unwrap_or_default()
        ))),
    }
}
