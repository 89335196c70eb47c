//! Posting: attempts, rotation, redirects, waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep};

use super::dial::{self, ConnectError, Dialer};
use super::http::Pool;
use super::socket::{self, Sockets};
use super::urls::{Place, Urls};
use super::{Backoff, ConnectorConfig, Failure, Outcome, verify};
use crate::comms::Channel;
use crate::env::Env;

/// Attempts at once after a network error, 408 or 503.
const ATTEMPTS: u32 = 3;
/// A `server.pem` this long is refused, bytes.
const MAX_PEM: usize = 1 << 20;
/// First wait of growing back-off.
const FIRST_WAIT: Duration = Duration::from_secs(1);

struct State {
    urls: Urls,
    /// The URL generation whose `server.pem` was accepted; 0 is none.
    accepted: u64,
    /// Pauses in a row, by channel, and whether one came after the last post.
    /// A success is one only if no pause follows: the caller may have found
    /// the answer unusable.
    pauses: [(u32, bool); 2],
    heard: Instant,
}

/// The way to the frontends, shared by an agent's reader and sender loops.
/// Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    dialer: Arc<Dialer>,
    state: Arc<Mutex<State>>,
    /// Held while `server.pem` is fetched: both loops wait.
    pem: Arc<AsyncMutex<()>>,
    pool: Arc<Pool>,
    sockets: Arc<Sockets>,
}

/// What one attempt led to.
enum Attempt {
    Done(Outcome),
    /// Try again at once, if attempts are left.
    Again(Option<u16>, String),
    /// Go to the next URL.
    Advance(Option<u16>, String),
    /// Stay, but wait.
    Stay(Option<u16>, String),
    Redirect(String),
}

impl Connector {
    /// Checks the configuration; contacts nobody.
    pub fn new(env: Env, config: ConnectorConfig) -> Result<Self, ConnectError> {
        if config.server_urls.is_empty() {
            return Err(ConnectError::NoUrls);
        }
        for url in &config.server_urls {
            dial::check(url)?;
        }
        for address in config.fallback_addresses.iter().flat_map(|(from, to)| [from, to]) {
            if dial::host_port(address).is_none() {
                return Err(ConnectError::Fallback(address.clone()));
            }
        }
        let tls = verify::client_config(&env, &config)?;
        let state = State {
            urls: Urls::new(config.server_urls.clone(), &env),
            accepted: 0,
            pauses: [(0, false); 2],
            heard: Instant::now(),
        };
        Ok(Self {
            dialer: Arc::new(Dialer { env, tls, config: Arc::new(config) }),
            state: Arc::new(Mutex::new(state)),
            pem: Arc::default(),
            pool: Arc::default(),
            sockets: Arc::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a server last sent anything (pads and pings count); for watchdogs.
    pub fn heard(&self) -> Instant {
        self.state().heard
    }

    /// The base URL posts go to now.
    pub fn current_url(&self) -> String {
        self.state().urls.peek().base
    }

    fn hear(&self) -> impl Fn() + Send + Sync + Clone + 'static {
        let state = self.state.clone();
        move || state.lock().unwrap_or_else(PoisonError::into_inner).heard = Instant::now()
    }

    /// Whether the current URL's `server.pem` must be fetched before the next
    /// post.
    pub fn server_pem_is_stale(&self) -> bool {
        let s = self.state();
        s.accepted != s.urls.generation()
    }

    /// If the current URL's `server.pem` was not accepted yet: fetches it, and
    /// that of the next URL, and so on, with waits, until `accept` takes one.
    /// Returns what `accept` returned; `None` if there was nothing to do.
    pub async fn ensure_server_pem<T, E: std::fmt::Display>(
        &self,
        mut accept: impl FnMut(&[u8]) -> Result<T, E>,
    ) -> Option<T> {
        let _one = self.pem.lock().await;
        let mut failures = 0;
        loop {
            let place = {
                let s = self.state();
                if s.accepted == s.urls.generation() {
                    return None;
                }
                s.urls.peek()
            };
            let why = match self.fetch_server_pem(&place.base).await {
                Err(why) => why,
                Ok(pem) => match accept(&pem) {
                    Err(e) => format!("not acceptable: {e}"),
                    Ok(t) => {
                        self.state().accepted = place.generation;
                        return Some(t);
                    }
                },
            };
            tracing::info!(url = %place.base, why, "server.pem");
            failures += 1;
            let (walked, urls) = {
                let mut s = self.state();
                (s.urls.advance(place.generation), s.urls.len())
            };
            match self.dialer.config.backoff {
                Backoff::Stock if walked => sleep(self.stock_wait()).await,
                Backoff::Stock => {}
                Backoff::Growing => sleep(self.growing_wait(failures, urls)).await,
            }
        }
    }

    /// One fetch of `server.pem` below a base URL. For `ws` and `wss` by HTTP
    /// first, then over a WebSocket.
    pub async fn fetch_server_pem(&self, base: &str) -> Result<Bytes, String> {
        let plain = match base.strip_prefix("ws") {
            Some(rest) => format!("http{rest}server.pem"),
            None => format!("{base}server.pem"),
        };
        let got = self.pool.request(&self.dialer, &plain, None, false, self.hear()).await;
        let result = match got {
            Ok(r) if r.status == 200 => r.body,
            Ok(r) => Err(format!("status {}", r.status)),
            Err(e) => Err(e.to_string()),
        };
        let result = match result {
            Err(_) if base.starts_with("ws") => {
                let url = format!("{base}server.pem");
                socket::fetch_pem(&self.dialer, &url).await.map_err(|e| e.to_string())
            }
            r => r,
        };
        result.and_then(|pem| match pem.len() {
            n if n > MAX_PEM => Err(format!("{n} bytes are too many")),
            _ => Ok(pem),
        })
    }

    /// Posts an envelope to the current URL and waits for the whole answer; on
    /// [`Channel::Reader`] that is a long poll. Network errors, 408 and 503 are
    /// tried three times at once with the same bytes. Dropping the future
    /// closes the connection it used.
    pub async fn post(&self, channel: Channel, body: Bytes, urgent: bool) -> Outcome {
        let (place, paused) = {
            let mut s = self.state();
            let paused = std::mem::take(&mut s.pauses[channel as usize].1);
            (s.urls.place(), paused)
        };
        let mut last = (None, String::new());
        for _ in 0..ATTEMPTS {
            let attempt = match place.base.starts_with("ws") {
                true => self.post_ws(&place, channel, &body).await,
                false => self.post_http(&place, channel, body.clone(), urgent).await,
            };
            match attempt {
                Attempt::Done(outcome) => {
                    let mut s = self.state();
                    if !paused {
                        s.pauses[channel as usize].0 = 0;
                    }
                    if matches!(outcome, Outcome::Ok(_)) {
                        s.urls.good(place.generation);
                    }
                    let now = s.urls.peek();
                    drop(s);
                    if now.generation != place.generation {
                        // The other loop has moved on meanwhile: nobody would read this socket.
                        self.sockets.keep_only(&now.base);
                    }
                    return outcome;
                }
                Attempt::Again(status, why) => last = (status, why),
                Attempt::Advance(status, why) => {
                    return self.advance(&place, status, why).await;
                }
                Attempt::Stay(status, why) => {
                    return Outcome::Failed(Failure { why, status, advanced: false });
                }
                Attempt::Redirect(base) => return self.redirect(&place, &base).await,
            }
        }
        self.advance(&place, last.0, last.1).await
    }

    async fn advance(&self, place: &Place, status: Option<u16>, why: String) -> Outcome {
        let (walked, base) = {
            let mut s = self.state();
            let walked = s.urls.advance(place.generation);
            (walked, s.urls.peek().base)
        };
        self.sockets.keep_only(&base);
        if walked && self.dialer.config.backoff == Backoff::Stock {
            sleep(self.stock_wait()).await;
        }
        Outcome::Failed(Failure { why, status, advanced: true })
    }

    async fn redirect(&self, place: &Place, base: &str) -> Outcome {
        if let Err(e) = dial::check(base) {
            return self.advance(place, Some(301), e.to_string()).await;
        }
        let (marked, fresh) = self.state().urls.redirect(base);
        // Two servers may be pointing at each other. A stock agent takes every
        // redirect within the marks of another for that.
        let again = if self.dialer.config.backoff == Backoff::Stock { marked } else { fresh };
        if again {
            sleep(self.stock_wait()).await;
        }
        Outcome::Redirected
    }

    /// Waits as long as befits the failures in a row on this channel. To be
    /// called after [`Outcome::Failed`], and after an answer that turned out
    /// to be unusable.
    pub async fn pause(&self, channel: Channel) {
        let (failures, urls) = {
            let mut s = self.state();
            let p = &mut s.pauses[channel as usize];
            *p = (p.0.saturating_add(1), true);
            (p.0, s.urls.len())
        };
        sleep(match self.dialer.config.backoff {
            Backoff::Stock => self.stock_wait(),
            Backoff::Growing => self.growing_wait(failures, urls),
        })
        .await;
    }

    fn stock_wait(&self) -> Duration {
        let c = &self.dialer.config;
        self.dialer.env.jitter(c.max_poll, c.max_poll_std)
    }

    /// Up to a second for each URL of the ring, then doubling.
    fn growing_wait(&self, failures: u32, urls: usize) -> Duration {
        let c = &self.dialer.config;
        let urls = u32::try_from(urls).unwrap_or(u32::MAX);
        if failures < urls {
            return self.dialer.env.jitter(Duration::ZERO, FIRST_WAIT);
        }
        let doublings = (failures - urls).min(16);
        let wait = (FIRST_WAIT * 2u32.pow(doublings)).min(c.max_poll + c.max_poll_std);
        self.dialer.env.jitter(wait / 2, wait / 2)
    }

    async fn post_http(
        &self,
        place: &Place,
        channel: Channel,
        body: Bytes,
        urgent: bool,
    ) -> Attempt {
        let url = place.url(channel.path());
        let answer = self.pool.request(&self.dialer, &url, Some(body), urgent, self.hear()).await;
        let reply = match answer {
            Ok(r) => r,
            Err(e) => return Attempt::Again(None, e.to_string()),
        };
        match (reply.status, reply.location) {
            (200, _) => match reply.body {
                Ok(b) => Attempt::Done(Outcome::Ok(b)),
                // Refused after success: the server keeps us away for a while,
                // not from this URL.
                Err(why) => Attempt::Stay(Some(200), why),
            },
            (301, Some(base)) => Attempt::Redirect(base),
            (status, _) => {
                let text = reply.body.unwrap_or_default();
                let text = String::from_utf8_lossy(&text[..text.len().min(1000)]);
                by_status(status, text.trim())
            }
        }
    }

    async fn post_ws(&self, place: &Place, channel: Channel, body: &Bytes) -> Attempt {
        let url = place.url(channel.path());
        let ahead = channel == Channel::Reader;
        let answer = self.sockets.exchange(&self.dialer, &url, body, ahead, self.hear()).await;
        match answer {
            Ok(e) if e.code == 200 => Attempt::Done(Outcome::Ok(e.data)),
            Ok(e) => by_status(e.code, &e.err),
            Err(e) => Attempt::Again(None, e.to_string()),
        }
    }
}

/// What a status other than 200 means.
fn by_status(status: u16, text: &str) -> Attempt {
    let why = format!("status {status} {text}");
    match status {
        400 => Attempt::Done(Outcome::Drop(text.to_owned())),
        406 => Attempt::Done(Outcome::Enrol),
        408 | 503 => Attempt::Again(Some(status), why),
        _ => Attempt::Advance(Some(status), why),
    }
}
