//! A connection from a minion to a master, with certificates on both sides.

use std::fmt;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response};
use velociraptor_proto::fleet::fleet_client::FleetClient;
use velociraptor_proto::fleet::{CheckReply, CheckRequest};

use super::Limits;
use super::ending::describe;
use crate::comms::tls::{Alpn, Identity, TlsError, client_config, roots};
use crate::env::Env;

/// Where a master may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name or IP address.
    pub host: String,
    /// Port of its API.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Connects as one node.
#[derive(Clone)]
pub struct Dialer {
    env: Env,
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Dialer {
    /// `node` is the node's certificate and key. The master must show a certificate of
    /// `ca_pem` for `server_name`, the name that all frontends share.
    pub fn new(
        env: &Env,
        node: &Identity,
        ca_pem: &str,
        server_name: &str,
    ) -> Result<Self, TlsError> {
        let tls = client_config(env, roots([ca_pem])?, Some(node), Alpn::Http2)?;
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|e| TlsError::Pem { what: "server name", why: e.to_string() })?;
        Ok(Self { env: env.clone(), tls, name })
    }

    /// Asks the master at `to` whether it would take this node, within `limits.connect`.
    pub async fn check(&self, to: &Address, limits: &Limits) -> Result<CheckReply, String> {
        let ask = async {
            let mut client = self.connect(to, limits).await?;
            let answer = client.check(CheckRequest {}).await;
            answer.map(Response::into_inner).map_err(|e| match e.code() {
                Code::Unimplemented => {
                    "it answers, and no minions may join it: it runs without ExtraFrontends, or \
                     is another program"
                        .to_owned()
                }
                Code::PermissionDenied | Code::Unauthenticated => e.message().to_owned(),
                _ => describe(&e),
            })
        };
        let late = || format!("no answer within {:?}", limits.connect);
        tokio::time::timeout(limits.connect, ask).await.unwrap_or_else(|_| Err(late()))
    }

    /// Connects, TLS included. The caller sets the deadline.
    pub(super) async fn connect(
        &self,
        to: &Address,
        limits: &Limits,
    ) -> Result<FleetClient<Channel>, String> {
        let (this, address, patience) = (self.clone(), to.clone(), limits.tcp());
        let dial = tower::service_fn(move |_: http::Uri| {
            let (this, address) = (this.clone(), address.clone());
            async move {
                // Until the caller's deadline. An answer, also a refusal, ends it.
                let tcp = loop {
                    let connecting = this.env.net.connect(&address.host, address.port);
                    if let Ok(done) = tokio::time::timeout(patience, connecting).await {
                        break done?;
                    }
                };
                TlsConnector::from(this.tls).connect(this.name, tcp).await.map(TokioIo::new)
            }
        });
        // The name only fills the :authority header. Beats watch the stream; this watches
        // the connection while there is none yet.
        let channel = Endpoint::from_static("http://velociraptor-fleet")
            .http2_keep_alive_interval(limits.silence())
            .keep_alive_timeout(limits.silence())
            .keep_alive_while_idle(true)
            .connect_with_connector(dial)
            .await
            .map_err(|e| describe(&e))?;
        Ok(FleetClient::new(channel)
            .max_decoding_message_size(limits.frame_bytes.saturating_add(super::FRAME_OVERHEAD)))
    }
}
