//! The calling side: a connection to a server's API.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint};
use velociraptor_proto::proto::api_client::ApiClient;

use crate::comms::tls::{Alpn, Identity, TlsError, client_config, roots};
use crate::config::model::ApiClientConfig;
use crate::env::Env;

/// Limit on connecting, TLS included.
const CONNECT: Duration = Duration::from_secs(20);
/// A server that is gone is noticed within twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Largest message accepted when the configuration does not say: 64 MiB.
const MAX_RECEIVE: usize = 64 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configuration is not usable.
    #[error("API client configuration: {0}")]
    Config(String),
    /// Certificates or keys are not usable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server did not answer as it should.
    #[error("API at {address}: {reason}")]
    Connect {
        /// Where.
        address: String,
        /// Why not.
        reason: String,
    },
}

/// Connects as the client the configuration describes.
pub async fn connect(
    env: &Env,
    config: &ApiClientConfig,
) -> Result<ApiClient<Channel>, ConnectError> {
    let address = config.api_connection_string.as_str();
    if address.starts_with("unix:") {
        return Err(ConnectError::Config(format!("{address}: unix sockets are not supported")));
    }
    let bad = || ConnectError::Config(format!("`{address}` is not host:port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_| bad())?;
    if config.client_private_key.contains("ENCRYPTED") {
        let text = "the private key is encrypted; decrypt it first (openssl rsa -traditional)";
        return Err(ConnectError::Config(text.into()));
    }
    let identity = Identity::from_pem(&config.client_cert, &config.client_private_key)?;
    let anchors = roots([config.ca_certificate.as_str()])?;
    let tls = client_config(env, anchors, Some(&identity), Alpn::Http2)?;
    let name = ServerName::try_from(config.pinned_server_name().to_owned())
        .map_err(|e| ConnectError::Config(format!("pinned_server_name: {e}")))?;
    let connector = tokio_rustls::TlsConnector::from(tls);
    let (env, host) = (env.clone(), Arc::<str>::from(host));
    let dial = tower::service_fn(move |_: http::Uri| {
        let (env, host, connector, name) =
            (env.clone(), host.clone(), connector.clone(), name.clone());
        async move {
            let tcp = env.net.connect(&host, port).await?;
            connector.connect(name, tcp).await.map(TokioIo::new)
        }
    });
    // The name in the address only fills the :authority header.
    let endpoint = Endpoint::from_static("http://velociraptor-api")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let connecting = tokio::time::timeout(CONNECT, endpoint.connect_with_connector(dial));
    let failed = |reason: String| ConnectError::Connect { address: address.to_owned(), reason };
    let channel = match connecting.await {
        Ok(Ok(channel)) => channel,
        Ok(Err(e)) => return Err(failed(chain(&e))),
        Err(_) => return Err(failed(format!("no answer within {} s", CONNECT.as_secs()))),
    };
    let max = match usize::try_from(config.max_grpc_recv_size) {
        Ok(0) | Err(_) => MAX_RECEIVE,
        Ok(n) => n,
    };
    Ok(ApiClient::new(channel).max_decoding_message_size(max))
}

/// An error with its causes: the outer ones of a transport say nothing.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        text += &format!(": {e}");
        cause = e.source();
    }
    text
}
