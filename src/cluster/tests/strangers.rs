//! Peers that are not what they should be.

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tonic::{Code, Request, Response, Status, Streaming};
use velociraptor_proto::fleet::fleet_server::{self, FleetServer};
use velociraptor_proto::fleet::{Down, Reports, Up, down, up};

use super::*;

/// Says `frames`, keeps the stream open, and returns what comes until it ends.
async fn talk(lab: &Lab, identity: &Identity, frames: Vec<Up>) -> Result<Vec<Down>, Status> {
    let address = Address { host: "master".into(), port: *lab.port.lock().unwrap() };
    let mut client = lab.pki.dialer(identity).connect(&address, &lab.limits).await.unwrap();
    let frames = stream::iter(frames).chain(stream::pending());
    let mut from = client.stream(frames).await?.into_inner();
    let mut got = vec![];
    while let Some(down) = from.message().await? {
        got.push(down);
    }
    Ok(got)
}

fn hello(version: u32, node: &str, epoch: &str) -> Up {
    let process = Some(fleet::Process { node: node.into(), epoch: epoch.into() });
    let hello = Hello { version, process, product: "other 9.9".into(), ..Default::default() };
    Up { seq: 0, kind: Some(up::Kind::Hello(hello)) }
}

fn numbered(seq: u64) -> Up {
    let reports = vec![report(seq)];
    Up { seq, kind: Some(up::Kind::Reports(Reports { reports })) }
}

fn refusal(got: Result<Vec<Down>, Status>) -> Refused {
    match got.as_deref() {
        Ok([Down { kind: Some(down::Kind::Refused(r)), .. }]) => r.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn only_nodes_may_speak_and_only_for_themselves() {
    let lab = Lab::new(Limits::default()).await;
    for name in ["ann", "VelociraptorServer", "GRPC_GW"] {
        let r = refusal(talk(&lab, &lab.pki.plain(name), vec![hello(VERSION, name, "1")]).await);
        assert!(r.permanent && r.reason.contains("not a node's certificate"), "{}", r.reason);
    }
    let a = lab.pki.node("a");
    let r = refusal(talk(&lab, &a, vec![hello(VERSION, "b", "1")]).await);
    assert!(r.permanent && r.reason.contains("the name given is \"b\""), "{}", r.reason);
    let r = refusal(talk(&lab, &a, vec![hello(VERSION, "a", "")]).await);
    assert!(r.permanent && r.reason.contains("no epoch"), "{}", r.reason);
    assert!(lab.master.log().is_empty(), "the services hear nothing of them");
    assert_eq!(lab.fleet.counters().refused.load(std::sync::atomic::Ordering::Relaxed), 5);
}

/// A node can ask whether it would be taken, without a stream.
#[tokio::test(start_paused = true)]
async fn a_node_is_told_whether_it_would_be_taken() {
    let lab = Lab::new(Limits::default()).await;
    let to = Address { host: "master".into(), port: *lab.port.lock().unwrap() };
    let ask = async |id: &Identity| lab.pki.dialer(id).check(&to, &lab.limits).await;
    let a = lab.pki.node("a");
    let reply = ask(&a).await.unwrap();
    assert_eq!((reply.node.as_str(), reply.version, reply.connected), ("a", VERSION, false));
    let joined = lab.minion("a", "1");
    until("joined", || joined.uplink.connected()).await;
    assert!(ask(&a).await.unwrap().connected);
    let e = ask(&lab.pki.plain("VelociraptorServer")).await.unwrap_err();
    assert!(e.contains("not a node's certificate"), "{e}");
    assert!(ask(&Pki::new(&lab.env).node("a")).await.is_err());
    assert_eq!(lab.master.count("hello"), 1, "asking is no introduction");
}

#[tokio::test(start_paused = true)]
async fn certificates_of_others_do_not_pass_tls() {
    let lab = Lab::new(Limits::default()).await;
    let foreign = Pki::new(&lab.env);
    let a = lab.minion_as(&foreign.node("a"), "a", "1");
    sleep(Duration::from_secs(30)).await;
    assert!(!a.uplink.connected());
    assert!(!a.run.is_finished(), "it goes on trying");
    assert!(lab.master.log().is_empty());

    // A master that is not the deployment's is not believed either.
    let port = listen(&foreign, lab.fleet.router(), &lab.stop).await;
    *lab.port.lock().unwrap() = port;
    let b = lab.minion("b", "1");
    until(
        "tried",
        || matches!(b.uplink.status(), LinkStatus::Down { why, .. } if why.contains("ertificate")),
    )
    .await;
    assert_eq!(b.side.count("hello"), 0, "nothing was said to it");
}

#[tokio::test(start_paused = true)]
async fn another_version_is_refused_with_both_numbers() {
    let lab = Lab::new(Limits::default()).await;
    let r = refusal(talk(&lab, &lab.pki.node("a"), vec![hello(99, "a", "1")]).await);
    assert!(!r.permanent, "until one of them is replaced");
    let text = "speaks version 1 of the protocol between nodes, and a version 99 (other 9.9)";
    assert!(r.reason.contains(text), "{}", r.reason);
    assert!(lab.master.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_breaks_the_protocol_ends_the_stream() {
    let lab = Lab::new(Limits::default()).await;
    let a = lab.pki.node("a");
    let first = hello(VERSION, "a", "1");
    for (frames, why) in [
        (vec![numbered(1)], "the first frame is not Hello"),
        (vec![first.clone(), numbered(1), numbered(3)], "frame 3 follows 1"),
        (vec![first.clone(), first.clone()], "a second Hello"),
    ] {
        let e = talk(&lab, &a, frames).await.unwrap_err();
        assert_eq!((e.code(), e.message()), (Code::InvalidArgument, why));
    }
    // One that says nothing at all.
    let e = talk(&lab, &a, vec![]).await.unwrap_err();
    assert_eq!(e.message(), "nothing was heard for 5000 ms");
    // One that introduces itself and falls silent.
    let e = talk(&lab, &a, vec![first]).await.unwrap_err();
    assert_eq!(e.message(), "nothing was heard for 3500 ms");
    until("gone each time", || lab.master.count("gone a/1") == 3).await;
    assert_eq!(lab.master.count("hello a/1"), 3);
    assert_eq!(lab.master.count("report a/1 3"), 0);
    // A kind of frame from the future is passed over, and acknowledged.
    let unknown = Up { seq: 2, kind: None };
    talk(&lab, &a, vec![hello(VERSION, "a", "1"), unknown, numbered(3)]).await.unwrap_err();
    assert_eq!(lab.master.count("report a/1 3"), 1);
}

/// A master that answers with these frames.
struct FakeMaster(Vec<Down>);

#[tonic::async_trait]
impl fleet_server::Fleet for FakeMaster {
    type StreamStream = BoxStream<'static, Result<Down, Status>>;

    async fn stream(
        &self,
        _: Request<Streaming<Up>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let frames = stream::iter(self.0.clone().into_iter().map(Ok));
        Ok(Response::new(frames.chain(stream::pending()).boxed()))
    }

    async fn check(
        &self,
        _: Request<fleet::CheckRequest>,
    ) -> Result<Response<fleet::CheckReply>, Status> {
        Err(Status::unimplemented("a master of another kind"))
    }
}

#[tokio::test(start_paused = true)]
async fn masters_that_are_not_understood() {
    let lab = Lab::new(Limits::default()).await;
    let welcome = |version| {
        let w = Welcome { version, product: "other 9.9".into(), ..Default::default() };
        Down { seq: 1, kind: Some(down::Kind::Welcome(w)) }
    };
    let acks = fleet::Acks { seq: 7, applied: None };
    let acks = Down { seq: 2, kind: Some(down::Kind::Acks(acks)) };
    for (frames, why, ups) in [
        (
            vec![welcome(9)],
            "the master speaks version 9 of the protocol between nodes (other 9.9)",
            0,
        ),
        (vec![acks.clone()], "the first frame is not Welcome", 0),
        (vec![welcome(VERSION), acks], "frame 7 was acknowledged, and 0 is the last one", 1),
        (vec![welcome(VERSION), welcome(VERSION)], "a second Welcome", 1),
        (vec![welcome(VERSION)], "nothing was heard for 3500 ms", 1),
        (vec![], "nothing was heard for 30000 ms", 0),
    ] {
        let service = FleetServer::new(FakeMaster(frames));
        let app = tonic::service::Routes::new(service).into_axum_router();
        *lab.port.lock().unwrap() = listen(&lab.pki, app, &lab.stop).await;
        let a = lab.minion("a", "1");
        until(
            why,
            || matches!(a.uplink.status(), LinkStatus::Down { why: w, .. } if w.contains(why)),
        )
        .await;
        assert_eq!(a.side.count("welcome"), ups, "{why}");
        assert_eq!(a.side.count("gone"), ups, "{why}");
        a.stop.cancel();
        assert_eq!(a.over().await, None);
    }
}
