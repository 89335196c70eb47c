//! The directory: which clients are held right now, and where.
//!
//! The frontend of this process registers its readers, a master also those that
//! minions tell of; services wake them. A client normally has one reader; the
//! newest is the one that gets tasks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc};

use super::flows::job::Hash;
use super::ids::OrgId;
use crate::store::journal::ProcessId;

/// A client of an organisation.
pub type Key = (OrgId, String);

/// Clients of a minion that have something to be sent.
pub type Wakes = mpsc::UnboundedSender<Key>;

/// Where a reader is.
#[derive(Debug)]
enum Place {
    /// In this process.
    Here { wake: Notify, superseded: Notify },
    /// At a minion, under a number of its own.
    There { process: ProcessId, session: u64, wakes: Wakes },
}

/// A held reader.
#[derive(Debug)]
pub struct Held {
    /// Unique in this process.
    pub id: u64,
    /// The session cipher of its client process.
    pub cipher: Hash,
    /// Peer address as known to the frontend.
    pub remote: String,
    /// When it came, microseconds, if that was before this process knew of it.
    before: Option<u64>,
    place: Place,
}

impl Held {
    /// Lets a reader of this process look at its queue. Nothing for others: see
    /// [`Sessions::wake`].
    pub fn wake(&self) {
        if let Place::Here { wake, .. } = &self.place {
            wake.notify_one();
        }
    }

    /// Waits to be woken; for ever if the reader is not in this process.
    pub async fn woken(&self) {
        match &self.place {
            Place::Here { wake, .. } => wake.notified().await,
            Place::There { .. } => std::future::pending().await,
        }
    }

    /// Ends a reader of this process: a newer one took over, or the client was
    /// deleted.
    pub fn supersede(&self) {
        if let Place::Here { superseded, .. } = &self.place {
            superseded.notify_one();
        }
    }

    /// Waits to be superseded.
    pub async fn superseded(&self) {
        match &self.place {
            Place::Here { superseded, .. } => superseded.notified().await,
            Place::There { .. } => std::future::pending().await,
        }
    }

    /// The minion that holds it; `None`: this process does.
    pub fn process(&self) -> Option<&ProcessId> {
        match &self.place {
            Place::Here { .. } => None,
            Place::There { process, .. } => Some(process),
        }
    }

    fn is(&self, at: &ProcessId, number: u64) -> bool {
        matches!(&self.place, Place::There { process, session, .. } if process == at && *session == number)
    }
}

/// A reader that a minion tells of.
#[derive(Debug)]
pub struct Remote<'a> {
    /// The minion.
    pub process: &'a ProcessId,
    /// Its number there.
    pub session: u64,
    /// Where to say that there is something for it.
    pub wakes: &'a Wakes,
    /// It was there before this process knew, and came then, microseconds: not newer than
    /// readers that came since. Of those that were there before the one that came last is
    /// the newest, whichever minion tells first.
    pub known_before: Option<u64>,
}

/// The registry.
#[derive(Debug, Default)]
pub struct Sessions {
    next: AtomicU64,
    held: Mutex<BTreeMap<Key, Vec<Arc<Held>>>>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Vec<Arc<Held>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, cipher: Hash, remote: &str, before: Option<u64>, place: Place) -> Arc<Held> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(Held { id, cipher, remote: remote.to_owned(), before, place })
    }

    /// Registers a reader of this process; returns it and the reader it
    /// displaces, if any.
    pub fn register(
        &self,
        org: &OrgId,
        client: &str,
        cipher: Hash,
        remote: &str,
    ) -> (Arc<Held>, Option<Arc<Held>>) {
        let place = Place::Here { wake: Notify::new(), superseded: Notify::new() };
        let held = self.make(cipher, remote, None, place);
        let mut map = self.lock();
        let list = map.entry((org.clone(), client.to_owned())).or_default();
        let old = list.last().cloned();
        list.push(held.clone());
        (held, old)
    }

    /// Registers a reader of a minion; returns the reader it displaces, if any.
    pub fn register_remote(
        &self,
        org: &OrgId,
        client: &str,
        cipher: Hash,
        remote: &str,
        at: &Remote<'_>,
    ) -> Option<Arc<Held>> {
        let place = Place::There {
            process: at.process.clone(),
            session: at.session,
            wakes: at.wakes.clone(),
        };
        let held = self.make(cipher, remote, at.known_before, place);
        let mut map = self.lock();
        let list = map.entry((org.clone(), client.to_owned())).or_default();
        list.retain(|h| !h.is(at.process, at.session));
        if let Some(came) = at.known_before {
            let earlier = |h: &&Arc<Held>| h.before.is_some_and(|b| b <= came);
            let at = list.iter().take_while(earlier).count();
            list.insert(at, held);
            return None;
        }
        let old = list.last().cloned();
        list.push(held);
        old
    }

    /// A reader of this process is over.
    pub fn unregister(&self, org: &OrgId, client: &str, id: u64) {
        self.drop_from(org, client, |h| h.id == id);
    }

    /// A reader of a minion is over.
    pub fn unregister_remote(&self, org: &OrgId, client: &str, process: &ProcessId, session: u64) {
        self.drop_from(org, client, |h| h.is(process, session));
    }

    fn drop_from(&self, org: &OrgId, client: &str, which: impl Fn(&Held) -> bool) {
        let mut map = self.lock();
        let key = (org.clone(), client.to_owned());
        if let Some(list) = map.get_mut(&key) {
            list.retain(|h| !which(h));
            if list.is_empty() {
                map.remove(&key);
            }
        }
    }

    /// All readers of a minion are over, or a new list of them follows.
    pub fn forget_process(&self, process: &ProcessId) {
        self.lock().retain(|_, list| {
            list.retain(|h| h.process() != Some(process));
            !list.is_empty()
        });
    }

    /// The reader that gets the client's tasks.
    pub fn held(&self, org: &OrgId, client: &str) -> Option<Arc<Held>> {
        self.lock().get(&(org.clone(), client.to_owned()))?.last().cloned()
    }

    /// For many questions at once: nobody comes or goes while it is kept.
    pub fn view(&self, org: &OrgId) -> View<'_> {
        View { held: self.lock(), key: (org.clone(), String::new()) }
    }

    /// All readers of a client, for those that must end.
    pub fn readers(&self, org: &OrgId, client: &str) -> Vec<Arc<Held>> {
        self.lock().get(&(org.clone(), client.to_owned())).cloned().unwrap_or_default()
    }

    /// Lets the client's reader look at its queue.
    pub fn wake(&self, org: &OrgId, client: &str) {
        if let Some(h) = self.held(org, client) {
            wake_one(&h, org, client);
        }
    }

    /// Wakes every reader of an organisation.
    pub fn wake_all(&self, org: &OrgId) {
        self.wake_where(|key| key.0 == *org);
    }

    /// Wakes the readers of those clients for which `which` says so.
    pub fn wake_where(&self, which: impl Fn(&Key) -> bool) {
        for (key, list) in self.lock().iter() {
            if which(key)
                && let Some(h) = list.last()
            {
                wake_one(h, &key.0, &key.1);
            }
        }
    }

    /// The clients of an organisation that are held, by id.
    pub fn clients_of(&self, org: &OrgId) -> Vec<String> {
        let held = self.lock();
        held.keys().filter(|key| key.0 == *org).map(|key| key.1.clone()).collect()
    }

    /// Clients held here and, on a master, at its minions.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Clients held by each minion, and by this process (`None`).
    pub fn by_process(&self) -> BTreeMap<Option<ProcessId>, usize> {
        let mut out = BTreeMap::new();
        for h in self.lock().values().filter_map(|l| l.last()) {
            *out.entry(h.process().cloned()).or_default() += 1;
        }
        out
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn wake_one(h: &Held, org: &OrgId, client: &str) {
    match &h.place {
        Place::Here { wake, .. } => wake.notify_one(),
        // A minion without a stream has no one listening: its next list of
        // readers wakes them all.
        Place::There { wakes, .. } => drop(wakes.send((org.clone(), client.to_owned()))),
    }
}

/// The readers of an organisation at one moment.
#[derive(Debug)]
pub struct View<'a> {
    held: MutexGuard<'a, BTreeMap<Key, Vec<Arc<Held>>>>,
    /// The organisation, and room for the name of a client.
    key: Key,
}

impl View<'_> {
    /// The reader that gets the client's tasks.
    pub fn held(&mut self, client: &str) -> Option<&Arc<Held>> {
        self.key.1.clear();
        self.key.1.push_str(client);
        self.held.get(&self.key)?.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_reader_gets_the_tasks() {
        let s = Sessions::default();
        let org = OrgId::root();
        let (a, none) = s.register(&org, "C.1", [1; 16], "a");
        assert!(none.is_none());
        let (b, old) = s.register(&org, "C.1", [2; 16], "b");
        assert_eq!(old.unwrap().id, a.id);
        assert_eq!(s.held(&org, "C.1").unwrap().id, b.id);
        {
            let mut view = s.view(&org);
            assert_eq!(view.held("C.1").unwrap().id, b.id);
            assert!(view.held("C.2").is_none() && view.held("C.").is_none());
        }
        assert!(s.view(&OrgId::new("O1")).held("C.1").is_none());
        s.unregister(&org, "C.1", b.id);
        assert_eq!(s.held(&org, "C.1").unwrap().id, a.id);
        s.unregister(&org, "C.1", a.id);
        assert!(s.is_empty() && s.held(&org, "C.1").is_none());
    }

    #[test]
    fn of_two_that_were_there_before_the_later_one_is_the_newest() {
        let org = OrgId::root();
        let (wakes, _woken) = mpsc::unbounded_channel();
        let (one, two) = (ProcessId::new("m1", "1"), ProcessId::new("m2", "1"));
        let at = |process, came| Remote { process, session: 1, wakes: &wakes, known_before: came };
        for told in [[(&one, 5), (&two, 9)], [(&two, 9), (&one, 5)]] {
            let s = Sessions::default();
            for (process, came) in told {
                s.register_remote(&org, "C.1", [1; 16], "r", &at(process, Some(came)));
            }
            assert_eq!(s.held(&org, "C.1").unwrap().process(), Some(&two));
            let (here, _) = s.register(&org, "C.1", [1; 16], "r");
            s.register_remote(&org, "C.1", [1; 16], "r", &at(&one, Some(99)));
            assert_eq!(s.held(&org, "C.1").unwrap().id, here.id, "it came since");
        }
    }

    #[test]
    fn readers_of_minions_are_woken_there_and_old_lists_are_not_newer() {
        let s = Sessions::default();
        let org = OrgId::root();
        let (wakes, mut woken) = mpsc::unbounded_channel();
        let (one, two) = (ProcessId::new("m1", "1"), ProcessId::new("m2", "1"));
        let at = |process, session, known_before| Remote {
            process,
            session,
            wakes: &wakes,
            known_before,
        };
        s.register_remote(&org, "C.1", [1; 16], "r", &at(&one, 1, None));
        s.register_remote(&org, "C.1", [1; 16], "r", &at(&two, 1, Some(5)));
        assert_eq!(s.held(&org, "C.1").unwrap().process(), Some(&one));
        s.wake(&org, "C.1");
        assert_eq!(woken.try_recv().unwrap().1, "C.1");
        // A repeat of what is known adds nothing.
        s.register_remote(&org, "C.1", [1; 16], "r", &at(&one, 1, None));
        s.unregister_remote(&org, "C.1", &one, 1);
        assert_eq!(s.held(&org, "C.1").unwrap().process(), Some(&two));
        s.forget_process(&two);
        assert!(s.is_empty());
    }
}
