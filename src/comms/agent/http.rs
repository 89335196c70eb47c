//! Requests over HTTP/1.1 with connections kept alive.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, LOCATION, PROXY_AUTHORIZATION, USER_AGENT,
};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use url::Url;

use super::dial::{Dialer, url_authority};

/// Idle connections kept to one place; the two loops of an agent use two.
const KEPT: usize = 2;

/// An answer.
pub(super) struct Reply {
    pub status: u16,
    pub location: Option<String>,
    /// The body, or how it broke off.
    pub body: Result<Bytes, String>,
}

#[derive(Default)]
pub(super) struct Pool(Mutex<BTreeMap<String, Vec<Link>>>);

struct Link {
    send: SendRequest<Full<Bytes>>,
    via_proxy: bool,
    authorization: Option<String>,
}

impl Pool {
    fn take(&self, place: &str) -> Option<Link> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list = all.get_mut(place)?;
        while let Some(link) = list.pop() {
            if !link.send.is_closed() {
                return Some(link);
            }
        }
        all.remove(place);
        None
    }

    fn put(&self, place: &str, link: Link) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, list| {
            list.retain(|l| !l.send.is_closed());
            !list.is_empty()
        });
        let list = all.entry(place.to_owned()).or_default();
        if list.len() < KEPT {
            list.push(link);
        }
    }

    /// GET without a body, POST with one. `heard` is called when bytes come.
    pub(super) async fn request(
        &self,
        dialer: &Dialer,
        url: &str,
        body: Option<Bytes>,
        urgent: bool,
        heard: impl Fn(),
    ) -> io::Result<Reply> {
        let url = Url::parse(url).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let authority = url_authority(&url)?;
        let place = format!("{}://{authority}", url.scheme());
        let mut link = match self.take(&place) {
            Some(l) => l,
            None => connect(dialer, &url).await?,
        };
        let request = build(&url, &authority, &link, body, urgent)?;
        let limit = dialer.config.connection_timeout;
        let answer = timeout(limit, async {
            link.send.ready().await?;
            link.send.send_request(request).await
        });
        let answer = answer.await?.map_err(io::Error::other)?;
        heard();
        let status = answer.status().as_u16();
        let location =
            answer.headers().get(LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
        let mut body = answer.into_body();
        let mut data = BytesMut::new();
        let silence = dialer.config.body_silence;
        let body = loop {
            match timeout(silence, body.frame()).await {
                Err(_) => break Err("response body stalled".into()),
                Ok(None) => {
                    self.put(&place, link);
                    break Ok(data.freeze());
                }
                Ok(Some(Err(e))) => break Err(format!("response body: {e}")),
                Ok(Some(Ok(frame))) => {
                    heard();
                    if let Ok(piece) = frame.into_data() {
                        if (data.len() + piece.len()) as u64 > dialer.config.max_response {
                            break Err("response body is too long".into());
                        }
                        data.extend_from_slice(&piece);
                    }
                }
            }
        };
        Ok(Reply { status, location, body })
    }
}

async fn connect(dialer: &Dialer, url: &Url) -> io::Result<Link> {
    let dialed = dialer.dial(url).await?;
    let (send, driver) =
        http1::handshake(TokioIo::new(dialed.io)).await.map_err(io::Error::other)?;
    dialer.env.spawn(async move {
        if let Err(e) = driver.await {
            tracing::debug!(error = %e, "connection to server");
        }
    });
    Ok(Link { send, via_proxy: dialed.via_proxy, authorization: dialed.authorization })
}

fn build(
    url: &Url,
    authority: &str,
    link: &Link,
    body: Option<Bytes>,
    urgent: bool,
) -> io::Result<http::Request<Full<Bytes>>> {
    let target = if link.via_proxy {
        url.as_str().to_owned()
    } else {
        let query = url.query().map(|q| format!("?{q}")).unwrap_or_default();
        format!("{}{query}", url.path())
    };
    let mut b = http::Request::builder()
        .method(if body.is_some() { http::Method::POST } else { http::Method::GET })
        .uri(target)
        .header(HOST, authority)
        .header(USER_AGENT, "Velociraptor")
        .header(CONTENT_TYPE, "application/binary");
    if let Some(body) = &body {
        b = b.header(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    if urgent {
        b = b.header("X-Priority", "urgent");
    }
    if let Some(a) = &link.authorization {
        b = b.header(PROXY_AUTHORIZATION, a);
    }
    b.body(Full::new(body.unwrap_or_default())).map_err(io::Error::other)
}
