//! Processes of one machine on one store, through [`Server::open`].

use std::sync::Arc;
use std::time::Duration;

use velociraptor_proto::fleet::{Sharing, Welcome};

use super::Role;
use super::chain::{Chain, Link};
use super::minion::Minion;
use super::relay::Relay;
use super::running::{self, Running};
use super::{standing, term};
use crate::cluster::{FromMaster, MinionSide, Uplink};
use crate::env::Env;
use crate::services::{Options, Server, ServiceError};
use crate::store::StoreRoot;
use crate::store::journal::{CommitError, ProcessId};

const BEAT: Duration = Duration::from_millis(20);

fn options(node: &str, takeover: bool) -> Options {
    let term = term::Options { beat: BEAT, stale: BEAT * 10, takeover };
    Options {
        node: node.into(),
        standing: standing::Options { term, node_stale: BEAT * 10 },
        ..Options::default()
    }
}

async fn open(root: &str, node: &str, takeover: bool) -> Result<Arc<Server>, ServiceError> {
    let root = StoreRoot::new(root, root);
    Server::open(crate::env::real::env(), root, options(node, takeover)).await
}

/// Another machine's process that took the chain in `dir` and beats until it is
/// replaced, which it then says.
async fn elsewhere(
    env: &Env,
    fleet: &str,
    dir: String,
    node: &str,
) -> tokio::task::JoinHandle<Link> {
    let me = ProcessId::new(node, "00000001-ee");
    let far = Running { host: "far".into(), boot: "b".into(), pid: 7, ..Running::default() };
    running::announce(env, fleet, &me, &far).await.unwrap();
    let chain = Chain::new(env, fleet, dir, &me);
    let mut at = Link::default().taken_by(&me, 1);
    assert!(chain.begin(&at).await.unwrap());
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(BEAT).await;
            let next = at.next();
            match chain.shift(&at, &next).await.unwrap() {
                true => at = next,
                false => return at,
            }
        }
    })
}

#[tokio::test]
async fn a_second_master_says_who_the_first_is_and_takes_over_when_told() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().to_str().unwrap();
    let fleet = format!("{root}/fleet");
    let env = crate::env::real::env();
    let first = elsewhere(&env, &fleet, term::dir(&fleet), "first").await;
    let e = open(root, "second", false).await.unwrap_err();
    assert!(matches!(e, ServiceError::NotMaster(_)), "{e:?}");
    let text = e.to_string();
    for part in ["node first", "00000001-ee", "process 7 on host far", "1970-01-01", "--takeover"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    let left = env.fs.list(&format!("{fleet}/second")).await.unwrap();
    assert!(left.iter().all(|e| e.name == "alive"), "a refused start leaves nothing: {left:?}");
    let second = open(root, "second", true).await.unwrap();
    assert_eq!(second.standing.term().unwrap().number(), 2);
    assert_eq!(first.await.unwrap().term, 1);
}

#[tokio::test]
async fn a_deposed_master_decides_nothing_more_and_knows_why() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().to_str().unwrap();
    let old = open(root, "a", false).await.unwrap();
    let org = old.root();
    let kind = || velociraptor_proto::journal::decision::Kind::Enrol(Default::default());
    old.decide(&org, "C.1", "", kind()).await.unwrap();
    // A process of this very one counts as ended: no waiting.
    let new = open(root, "b", false).await.unwrap();
    let why = tokio::time::timeout(Duration::from_secs(20), old.standing.lost()).await.unwrap();
    assert!(why.contains("node b") && why.contains("term 2"), "{why}");
    let e = old.decide(&org, "C.2", "", kind()).await.unwrap_err();
    assert!(matches!(e, CommitError::Refused { written: false }), "{e:?}");
    assert!(new.root().state().clients.get("C.1").is_some());
    new.decide(&new.root(), "C.3", "", kind()).await.unwrap();
}

#[tokio::test]
async fn after_a_clean_stop_or_a_silence_the_next_one_starts() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().to_str().unwrap();
    let fleet = format!("{root}/fleet");
    let env = crate::env::real::env();
    let a = open(root, "a", false).await.unwrap();
    a.settle_all().await;
    assert!(!a.standing.may_decide(), "it gave the role up");
    let dir = term::dir(&fleet);
    let chain = Chain::new(&env, &fleet, dir, &ProcessId::new("x", "1-x"));
    let last = chain.look().await.unwrap().pop().unwrap();
    assert_eq!((last.term, last.holder.clone()), (1, None));
    // Another machine's master that does not move.
    let far = ProcessId::new("far", "00000001-ee");
    let silent = last.taken_by(&far, 0);
    assert!(chain.shift(&last, &silent).await.unwrap());
    let began = tokio::time::Instant::now();
    let b = open(root, "a", false).await.unwrap();
    assert!(began.elapsed() >= BEAT * 10, "it was watched");
    assert_eq!(b.standing.term().unwrap().number(), 3);
}

#[tokio::test]
async fn a_node_runs_once() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().to_str().unwrap();
    let fleet = format!("{root}/fleet");
    let env = crate::env::real::env();
    let twin = elsewhere(&env, &fleet, format!("{fleet}/n/alive"), "n").await;
    let e = open(root, "n", true).await.unwrap_err();
    assert!(matches!(e, ServiceError::NotMaster(_)), "a restart does not help: {e:?}");
    let e = e.to_string();
    assert!(e.contains("as this node: node n") && e.contains("host far"), "{e}");
    twin.abort();
    open(root, "n", false).await.unwrap();
}

#[tokio::test]
async fn a_minion_refuses_a_master_of_a_lower_term() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().to_str().unwrap();
    let options = Options { role: Role::Minion, ..options("n", false) };
    let server = Server::open(crate::env::real::env(), StoreRoot::new(root, root), options.clone());
    let server = server.await.unwrap();
    let relay = Relay::new(Uplink::new(Default::default()));
    let minion = Minion::new(server.clone(), relay.clone(), Arc::new(|_| {}), Arc::new(|_| {}));
    let applied = |offset| Some(velociraptor_proto::fleet::Position { file: 0, offset });
    let hello = |term, offset| Welcome { term, applied: applied(offset), ..Default::default() };
    minion.welcome(hello(5, 20)).await.unwrap();
    let why = minion.welcome(hello(4, 30)).await.unwrap_err();
    assert!(why.contains("term 4") && why.contains("term 5") && why.contains("deposed"), "{why}");
    assert_eq!(relay.applied().offset, 20, "nothing that it says counts");
    minion.welcome(hello(5, 40)).await.unwrap();
    minion.welcome(hello(6, 50)).await.unwrap();
    minion.welcome(hello(5, 60)).await.unwrap_err();
    assert_eq!(relay.applied().offset, 50);
    // Another start of the node remembers.
    server.settle_all().await;
    drop((minion, server));
    let server = Server::open(crate::env::real::env(), StoreRoot::new(root, root), options);
    let relay = Relay::new(Uplink::new(Default::default()));
    let side = (relay.clone(), Arc::new(|_: &mut _| {}), Arc::new(|_: &_| {}));
    let minion = Minion::new(server.await.unwrap(), side.0, side.1, side.2);
    let before = relay.applied();
    let why = minion.welcome(hello(5, 70)).await.unwrap_err();
    assert!(why.contains("term 5") && why.contains("term 6"), "{why}");
    assert_eq!(relay.applied(), before);
    minion.welcome(hello(6, 80)).await.unwrap();
    assert_eq!(relay.applied().offset, 80);
}

#[tokio::test]
async fn limits_are_divided_as_the_master_says_and_not_without_it() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().to_str().unwrap();
    let options = Options { role: Role::Minion, ..options("n", false) };
    let server =
        Server::open(crate::env::real::env(), StoreRoot::new(root, root), options).await.unwrap();
    let relay = Relay::new(Uplink::new(Default::default()));
    let minion = Minion::new(server.clone(), relay, Arc::new(|_| {}), Arc::new(|_| {}));
    assert_eq!(server.sharing(), 1);
    minion.frame(FromMaster::Sharing(Sharing { nodes: 3 })).await;
    assert_eq!(server.sharing(), 3);
    minion.frame(FromMaster::Sharing(Sharing { nodes: 0 })).await;
    assert_eq!(server.sharing(), 1, "whatever it says");
    minion.frame(FromMaster::Sharing(Sharing { nodes: 4 })).await;
    minion.gone();
    assert_eq!(server.sharing(), 1);
}

#[tokio::test]
async fn a_lost_chain_is_not_begun_twice() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().to_str().unwrap();
    let env = crate::env::real::env();
    let a = open(root, "a", false).await.unwrap();
    a.settle_all().await;
    drop(a);
    let dir = term::dir(&format!("{root}/fleet"));
    for e in env.fs.list(&dir).await.unwrap() {
        if Link::parse(&e.name).is_some() {
            env.fs.remove(&format!("{dir}/{}", e.name)).await.unwrap();
        }
    }
    let e = open(root, "b", false).await.unwrap_err().to_string();
    assert!(e.contains(&dir) && e.contains("remove"), "{e}");
}
