//! The role on NFS: caches that are believed too long, hosts that are cut off or
//! stand still, a server that stalls or is restarted, replies that are lost.

use std::sync::Arc;
use std::time::Duration;

use sim::explore::env_on;
use sim::nfs::{FileServer, MountOptions, ServerOptions};
use tokio::time::Instant;
use velociraptor::env::Env;
use velociraptor::services::fleet::term::{Term, TermError};

use crate::{Masters, acquire};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// All kinds of mounts.
fn mounts() -> [MountOptions; 5] {
    [
        MountOptions::default(),
        MountOptions::kernel(),
        MountOptions::noac(),
        MountOptions::kernel().v3(),
        MountOptions::kernel().choppy(),
    ]
}

struct Lab {
    nas: FileServer,
    a: Env,
    b: Env,
    masters: Masters,
}

impl Lab {
    fn new(seed: u64, options: MountOptions) -> Lab {
        let server =
            ServerOptions { reply_cache: seed.is_multiple_of(2), ..ServerOptions::default() };
        let nas = FileServer::on_tokio(seed, server);
        let start = Instant::now();
        let on = |host: &str| env_on(nas.mount(host, options.clone()), seed, start);
        let (a, b) = (on("a"), on("b"));
        for host in ["a", "b"] {
            nas.link(host, |l| (l.lose_request, l.lose_reply) = (0.02, 0.02));
        }
        Lab { nas, a, b, masters: Masters::default() }
    }

    async fn first(&self) -> Arc<Term> {
        let term = acquire(&self.a, "a", false).await.unwrap();
        self.masters.add("a", &term);
        self.masters.watch(secs(3)).await.unwrap();
        term
    }

    /// Waits until these are the masters that may decide.
    async fn deciding(&self, who: &str) {
        for _ in 0..600 {
            self.masters.watch(Duration::from_millis(50)).await.unwrap();
            if self.masters.deciding() == [who] {
                return;
            }
        }
        panic!("{:?} may decide, not {who}", self.masters.deciding());
    }

    /// The other host tries; meanwhile two never believe to be master.
    async fn second(&self, takeover: bool) -> Result<Arc<Term>, TermError> {
        let start = async {
            let got = acquire(&self.b, "b", takeover).await;
            if let Ok(term) = &got {
                self.masters.add("b", term);
            }
            got
        };
        tokio::select! {
            biased;
            got = start => {
                self.masters.check().unwrap();
                got
            }
            r = self.masters.watch(secs(600)) => panic!("{r:?}"),
        }
    }
}

/// Runs `scenario` for every kind of mount and a few seeds.
fn everywhere<F: Future<Output = ()>>(seeds: u64, scenario: impl Fn(Lab) -> F) {
    for seed in 0..seeds {
        for options in mounts() {
            println!("seed {seed}, {options:?}");
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let lab = Lab::new(seed, options);
                let nas = lab.nas.clone();
                scenario(lab).await;
                assert_eq!(nas.faults(), Vec::<String>::new());
            });
        }
    }
}

#[test]
fn a_master_that_lives_is_never_taken_for_dead() {
    everywhere(6, |lab| async move {
        let first = lab.first().await;
        for _ in 0..3 {
            assert!(matches!(lab.second(false).await, Err(TermError::Held(_))));
        }
        assert!(!first.deposed().is_cancelled());
        lab.deciding("a").await;
    });
}

#[test]
fn a_master_that_is_cut_off_stops_deciding_and_is_replaced() {
    everywhere(6, |lab| async move {
        let first = lab.first().await;
        lab.nas.cut("a", true);
        let began = Instant::now();
        let _second = lab.second(false).await.unwrap();
        assert!(!first.may_decide());
        assert!(began.elapsed() >= secs(7), "{:?}", began.elapsed());
        lab.masters.watch(secs(10)).await.unwrap();
        assert!(!first.deposed().is_cancelled(), "it cannot know");
        lab.nas.cut("a", false);
        lab.masters.watch(secs(15)).await.unwrap();
        assert!(first.deposed().is_cancelled());
        assert!(first.deposed_by().contains("node b"), "{}", first.deposed_by());
        lab.deciding("b").await;
    });
}

#[test]
fn a_master_whose_host_stood_still_notices_when_it_wakes() {
    everywhere(6, |lab| async move {
        let first = lab.first().await;
        lab.nas.pause("a", true);
        let _second = lab.second(false).await.unwrap();
        lab.nas.pause("a", false);
        lab.masters.watch(secs(15)).await.unwrap();
        assert!(first.deposed().is_cancelled());
        lab.deciding("b").await;
    });
}

#[test]
fn a_store_that_stalls_or_restarts_deposes_nobody() {
    everywhere(4, |lab| async move {
        let first = lab.first().await;
        for restart in [false, true] {
            let stall = async {
                tokio::time::sleep(secs(1)).await;
                if restart {
                    lab.nas.power_off()
                } else {
                    lab.nas.stall(true)
                }
                tokio::time::sleep(secs(40)).await;
                assert!(!first.may_decide(), "it may have been deposed for all it knows");
                if restart { lab.nas.power_on() } else { lab.nas.stall(false) }
            };
            let (second, ()) = tokio::join!(lab.second(false), stall);
            assert!(matches!(second, Err(TermError::Held(_))), "{second:?}");
            lab.deciding("a").await;
        }
    });
}

#[test]
fn told_to_take_over_it_does_so_at_once() {
    everywhere(6, |lab| async move {
        let first = lab.first().await;
        let began = Instant::now();
        let second = lab.second(true).await.unwrap();
        assert!(began.elapsed() < secs(30), "{:?}", began.elapsed());
        lab.masters.watch(secs(15)).await.unwrap();
        assert!(first.deposed().is_cancelled());
        lab.deciding("b").await;
        second.release().await;
        let third = acquire(&lab.a, "c", false).await.unwrap();
        assert_eq!(third.number(), 3);
    });
}
