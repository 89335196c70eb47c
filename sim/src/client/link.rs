//! Sealing, posting and opening, with the production halves of the protocol:
//! [`Connector`] for URLs, tries and waits, the envelope for the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::sync::Mutex;
use velociraptor::comms::Channel;
use velociraptor::comms::agent::{Backoff, Connector, ConnectorConfig, Outcome};
use velociraptor::crypto::certs::{Certificate, verify_server_pem};
use velociraptor::crypto::envelope::{
    Packet, inflate_list, jobs, open_with, parse, unwrap_session,
};
use velociraptor::crypto::{
    Compression, Limits, PrivateKey, PublicKey, SessionCipher, SessionKeys,
};
use velociraptor::env::Env;
use velociraptor_proto::proto::VeloMessage;

use super::Setup;

/// What became of a POST.
pub enum Posted {
    /// Acknowledged; these messages came back.
    Done(Vec<VeloMessage>),
    /// The server does not know our key.
    Enrol,
    /// The server will never take it.
    Refused,
    /// Not acknowledged, and waited.
    Retry,
}

struct Session {
    cipher: SessionCipher,
    server: PublicKey,
    incoming: Option<(Bytes, Arc<SessionKeys>)>,
}

/// The way to the frontends of one client process.
pub struct Link {
    env: Env,
    setup: Arc<Setup>,
    key: PrivateKey,
    ca: Certificate,
    /// One; behind a balancer one for each frontend.
    ways: Vec<Connector>,
    /// Which of them each channel uses while it works.
    sticks: [AtomicU64; 2],
    session: Mutex<Option<Session>>,
    /// Sealed bodies of earlier POSTs of results, for replays.
    sent: Mutex<Vec<(bool, Bytes)>>,
    /// Replies that held something.
    replies: AtomicU64,
}

impl Link {
    /// Contacts nobody yet.
    pub fn new(env: Env, setup: Arc<Setup>) -> anyhow::Result<Self> {
        let config = |urls: Vec<String>| ConnectorConfig {
            server_urls: urls,
            ca_certificate: setup.deployment.ca.clone(),
            native_roots: false,
            connection_timeout: Duration::from_secs(30),
            max_poll: setup.max_poll,
            max_poll_std: setup.max_poll / 2,
            ws_ping_wait: Duration::from_secs(10),
            backoff: Backoff::Stock,
            ..ConnectorConfig::default()
        };
        let ways = match setup.balanced {
            true => setup
                .urls
                .iter()
                .map(|u| Connector::new(env.clone(), config(vec![u.clone()])))
                .collect(),
            false => vec![Connector::new(env.clone(), config(setup.urls.clone()))],
        };
        Ok(Self {
            ways: ways.into_iter().collect::<Result<_, _>>()?,
            sticks: [(); 2].map(|()| AtomicU64::new(env.entropy.next_u64())),
            key: PrivateKey::from_pem(&setup.key)?,
            ca: Certificate::from_pem(&setup.deployment.ca)?,
            env,
            setup,
            session: Mutex::default(),
            sent: Mutex::default(),
            replies: AtomicU64::new(0),
        })
    }

    /// Replies with content so far: names the reply that a message came in.
    pub fn replies(&self) -> u64 {
        self.replies.load(Ordering::Relaxed)
    }

    /// A balancer spreads requests; a WebSocket stays where it is until it ends.
    fn way(&self, channel: Channel) -> &Connector {
        let n = self.ways.len() as u64;
        let stays = self.setup.urls.first().is_some_and(|u| u.starts_with("wss"));
        let at = match stays {
            true => self.sticks[channel as usize].load(Ordering::Relaxed) % n,
            false => self.env.entropy.below(n),
        };
        &self.ways[at as usize]
    }

    /// Posts lists and waits for what it leads to, the wait after a failure
    /// included; and to which frontend they went. `failed` is called when it has failed,
    /// before that wait: nobody holds a client while it waits.
    pub async fn post(
        &self,
        channel: Channel,
        lists: &[Vec<u8>],
        urgent: bool,
        failed: impl Fn(),
    ) -> (Posted, String) {
        let way = self.way(channel);
        let (posted, via) = self.post_by(way, channel, lists, urgent, &failed).await;
        if matches!(posted, Posted::Retry) {
            let another = self.env.entropy.below(self.ways.len() as u64);
            self.sticks[channel as usize].store(another, Ordering::Relaxed);
        }
        (posted, via)
    }

    async fn post_by(
        &self,
        way: &Connector,
        channel: Channel,
        lists: &[Vec<u8>],
        urgent: bool,
        failed: &impl Fn(),
    ) -> (Posted, String) {
        let body = match self.seal(way, lists).await {
            Ok(b) => b,
            Err(why) => {
                tracing::debug!(why, "not sealed");
                failed();
                way.pause(channel).await;
                return (Posted::Retry, String::new());
            }
        };
        if channel == Channel::Control {
            let mut sent = self.sent.lock().await;
            sent.push((urgent, body.clone()));
            if sent.len() > 8 {
                sent.remove(0);
            }
        }
        // The other loop may move on while this one waits.
        let via = way.current_url();
        let posted = match way.post(channel, body, urgent).await {
            Outcome::Ok(answer) => match self.open(answer).await {
                Ok(jobs) => Posted::Done(jobs),
                Err(why) => {
                    tracing::warn!(why, "answer not understood");
                    failed();
                    way.pause(channel).await;
                    Posted::Retry
                }
            },
            Outcome::Enrol => Posted::Enrol,
            Outcome::Drop(_) => Posted::Refused,
            Outcome::Redirected => Posted::Retry,
            Outcome::Failed(_) => {
                failed();
                way.pause(channel).await;
                Posted::Retry
            }
        };
        (posted, via)
    }

    /// The name of our session: what a server grants tasks to.
    pub async fn cipher_hash(&self) -> [u8; 16] {
        let session = self.session.lock().await;
        let id = session.as_ref().map(|s| s.cipher.cipher_id().to_vec());
        velociraptor::crypto::job_hash(&id.unwrap_or_default())
    }

    /// Sends the bodies of earlier POSTs again as they were, as a network that
    /// delivers late does. The answers are nobody's.
    pub async fn replay(&self, how_many: usize) -> usize {
        let old = self.sent.lock().await.clone();
        let mut done = 0;
        for (urgent, body) in old.into_iter().rev().take(how_many) {
            let outcome = self.way(Channel::Control).post(Channel::Control, body, urgent).await;
            done += usize::from(matches!(outcome, Outcome::Ok(_)));
        }
        done
    }

    async fn seal(&self, way: &Connector, lists: &[Vec<u8>]) -> Result<Bytes, String> {
        let cipher = self.cipher(way).await?;
        let compression = match self.setup.compress {
            true => Compression::Zlib,
            false => Compression::None,
        };
        cipher
            .seal(
                &*self.env.entropy,
                lists,
                compression,
                &self.setup.deployment.nonce,
                self.env.clock.micros(),
            )
            .map(Bytes::from)
            .map_err(|e| e.to_string())
    }

    async fn cipher(&self, way: &Connector) -> Result<SessionCipher, String> {
        let mut session = self.session.lock().await;
        let now = self.env.clock.now();
        let pinned = &self.setup.deployment.pinned;
        let accepted = way
            .ensure_server_pem(|pem| {
                verify_server_pem(&String::from_utf8_lossy(pem), &self.ca, pinned, now)
            })
            .await;
        if let Some(cert) = accepted {
            let server = cert.public_key().clone();
            if session.as_ref().is_none_or(|s| s.server != server) {
                let (entropy, id) = (&*self.env.entropy, &self.setup.id);
                let cipher = SessionCipher::new(entropy, id, &self.key, &server)
                    .map_err(|e| e.to_string())?;
                *session = Some(Session { cipher, server, incoming: None });
            }
        }
        session.as_ref().map(|s| s.cipher.clone()).ok_or_else(|| "no session".into())
    }

    async fn open(&self, body: Bytes) -> Result<Vec<VeloMessage>, String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let Packet::Sealed(packet) = parse(body).map_err(|e| text(&e))? else {
            return Ok(Vec::new());
        };
        let keys = {
            let mut session = self.session.lock().await;
            let session = session.as_mut().ok_or("no session")?;
            match &session.incoming {
                Some((id, keys)) if id == packet.cipher_id() => keys.clone(),
                _ => {
                    let opened = unwrap_session(std::slice::from_ref(&self.key), &packet)
                        .map_err(|e| text(&e))?;
                    if !opened.verify(&session.server) {
                        return Err("not signed by the server".into());
                    }
                    let keys = Arc::new(opened.keys);
                    session.incoming = Some((packet.cipher_id().clone(), keys.clone()));
                    keys
                }
            }
        };
        let opened = open_with(&keys, packet).map_err(|e| text(&e))?;
        opened.check_nonce(&self.setup.deployment.nonce).map_err(|e| text(&e))?;
        let mut out = Vec::new();
        for list in &opened.lists {
            let list = inflate_list(list, opened.compression, Limits::default().list_bytes)
                .map_err(|e| text(&e))?;
            for job in jobs(&list) {
                let job = job.map_err(|e| text(&e))?;
                out.push(VeloMessage::decode(job).map_err(|e| text(&e))?);
            }
        }
        if !out.is_empty() {
            self.replies.fetch_add(1, Ordering::Relaxed);
        }
        Ok(out)
    }
}
