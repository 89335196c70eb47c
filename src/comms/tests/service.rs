//! A policy made of prepared answers, which writes down what it saw.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::comms::server::{
    Answer, ClientService, End, Hold, Oversize, Proof, PublicFile, Pusher, ReaderAnswer,
    ReaderSession, Request, RequestHead, pushes,
};

/// What a service was told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    Delivered(u64, Proof),
    Message(Bytes),
    Ended(End),
}

#[derive(Default)]
pub(crate) struct Log(pub Mutex<Vec<Told>>, tokio::sync::Notify, pub Mutex<VecDeque<Answer>>);

impl Log {
    pub(crate) async fn wait(&self, what: &Told) {
        loop {
            let more = self.1.notified();
            if self.0.lock().unwrap().contains(what) {
                return;
            }
            let waited = tokio::time::timeout(Duration::from_secs(100), more).await;
            waited.unwrap_or_else(|_| panic!("no {what:?} in {:?}", self.0.lock().unwrap()));
        }
    }

    pub(crate) fn all(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }

    fn add(&self, t: Told) {
        self.0.lock().unwrap().push(t);
        self.1.notify_waiters();
    }
}

impl ReaderSession for Log {
    fn delivered(&self, seq: u64, proof: Proof) {
        self.add(Told::Delivered(seq, proof));
    }
    fn message(&self, request: Request) -> BoxFuture<'_, Answer> {
        self.add(Told::Message(request.body));
        let a = self.2.lock().unwrap().pop_front();
        async { a.unwrap_or(Answer::Reply(Bytes::new())) }.boxed()
    }
    fn ended(&self, end: End) {
        self.add(Told::Ended(end));
    }
}

/// Prepared answers; without one `control` replies `ok` and `reader` is over.
#[derive(Default)]
pub(crate) struct Script {
    pub control: Mutex<VecDeque<Answer>>,
    pub reader: Mutex<VecDeque<ReaderAnswer>>,
    pub seen: Mutex<Vec<(RequestHead, Bytes)>>,
    pub oversize: Mutex<Vec<Oversize>>,
    pub sick: Mutex<Option<String>>,
    pub shed: Mutex<Option<Answer>>,
    pub delay: Mutex<Duration>,
    pub pem: Mutex<Option<Bytes>>,
}

impl Script {
    pub(crate) fn answers(&self, list: impl IntoIterator<Item = Answer>) {
        self.control.lock().unwrap().extend(list);
    }

    /// Makes the next reader wait; what to push and what it was told.
    pub(crate) fn hold(&self, first: Option<&'static [u8]>, secs: u64) -> (Pusher, Arc<Log>) {
        let (tx, queue) = pushes(8);
        let log = Arc::new(Log::default());
        let hold = Hold {
            first: first.map(Bytes::from_static),
            pushes: queue,
            deadline: Instant::now() + Duration::from_secs(secs),
            session: log.clone(),
        };
        self.reader.lock().unwrap().push_back(ReaderAnswer::Hold(hold));
        (tx, log)
    }

    pub(crate) fn bodies(&self) -> Vec<Bytes> {
        self.seen.lock().unwrap().iter().map(|s| s.1.clone()).collect()
    }
}

impl ClientService for Script {
    fn server_pem(&self) -> Bytes {
        self.pem.lock().unwrap().clone().unwrap_or_else(|| Bytes::from_static(b"PEM"))
    }

    fn health(&self) -> Result<(), String> {
        self.sick.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn admit(&self, _: &RequestHead) -> Result<(), Answer> {
        self.shed.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn control(&self, request: Request) -> BoxFuture<'_, Answer> {
        self.seen.lock().unwrap().push((request.head, request.body));
        let a = self.control.lock().unwrap().pop_front();
        let delay = *self.delay.lock().unwrap();
        async move {
            tokio::time::sleep(delay).await;
            a.unwrap_or(Answer::Reply(Bytes::from_static(b"ok")))
        }
        .boxed()
    }

    fn reader(&self, request: Request) -> BoxFuture<'_, ReaderAnswer> {
        self.seen.lock().unwrap().push((request.head, request.body));
        let a = self.reader.lock().unwrap().pop_front();
        async { a.unwrap_or(ReaderAnswer::Done(Answer::Reply(Bytes::new()))) }.boxed()
    }

    fn oversize(&self, body: Oversize) -> BoxFuture<'_, Answer> {
        self.oversize.lock().unwrap().push(body);
        async { Answer::Status(400, "Too big".into()) }.boxed()
    }

    fn public_file<'a>(&'a self, path: &'a [String]) -> BoxFuture<'a, Option<PublicFile>> {
        let found = path == ["tools", "a b.exe"];
        async move {
            let pieces = ["MZ", "rest"].map(|p| Ok(Bytes::from_static(p.as_bytes())));
            found.then(|| PublicFile {
                name: "a\"b.exe".into(),
                len: 6,
                body: Box::pin(futures::stream::iter(pieces)),
            })
        }
        .boxed()
    }
}
