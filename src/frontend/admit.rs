//! What a frontend takes on at once, beyond what its sockets limit: CPU work on
//! POSTs, enrolments, bytes of one client, and memory.
//!
//! Whoever is turned away is answered with 500: a stock agent keeps its data, tries
//! another frontend and comes back after a minute. A slot is asked for when a body
//! is there and given back before its commit is waited for, so that neither a slow
//! sender nor a slow store holds one. Time is tokio's; nothing here does I/O.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::comms::Channel;
use crate::comms::server::{Answer, Pacer, RequestHead};

/// Bodies up to this take neither slots nor tokens, and are refused last: check-ins
/// and statuses.
pub(super) const SMALL: u64 = 16 << 10;

/// Bytes of one client that go without a wait after a quiet time (as stock).
const CLIENT_BURST: u64 = 100 << 10;

/// Clients whose rate is remembered; one that is quiet is forgotten first.
const CLIENTS: usize = 100_000;

/// The longest wait for a slot or a turn: well within the time in which a POST is
/// answered.
const PATIENCE: Duration = Duration::from_secs(15);

/// Limits of admission.
#[derive(Clone, Debug)]
pub struct AdmissionLimits {
    /// Pieces of CPU work on POSTs at once (`Frontend.resources.concurrency`).
    pub slots: usize,
    /// How long a piece waits for its slot, at most 15 s
    /// (`Frontend.resources.concurrency_timeout`).
    pub slot_wait: Duration,
    /// New clients a second (`Frontend.resources.enrollments_per_second`).
    pub enrolments: u64,
    /// Bytes a second of one client, over all its connections; 0 is unlimited
    /// (`Frontend.resources.per_client_upload_rate`).
    pub client_bytes: u64,
    /// Bytes of memory above which results are refused; 0 is unlimited
    /// (`Frontend.resources.target_heap_size`).
    pub memory: u64,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self { slots: 8, slot_wait: PATIENCE, enrolments: 100, client_bytes: 0, memory: 0 }
    }
}

/// One limit's use, queue, waits and refusals since the start of the process.
#[derive(Debug, Default)]
pub struct Gate {
    /// In use now.
    pub used: AtomicU64,
    /// Waiting now.
    pub waiting: AtomicU64,
    /// How many went through.
    pub passed: AtomicU64,
    /// What they waited altogether, microseconds.
    pub waited: AtomicU64,
    /// How many were turned away.
    pub refused: AtomicU64,
}

impl Gate {
    /// Waits for `time` as one of those in the queue.
    async fn wait(&self, time: Duration) {
        let _queued = Count::of(&self.waiting);
        tokio::time::sleep(time).await;
        self.pass(time);
    }

    fn pass(&self, waited: Duration) {
        self.passed.fetch_add(1, Ordering::Relaxed);
        self.waited.fetch_add(waited.as_micros() as u64, Ordering::Relaxed);
    }

    fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts one as long as it lives.
#[derive(Debug)]
struct Count<'a>(&'a AtomicU64);

impl<'a> Count<'a> {
    fn of(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to work on a POST.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    _permit: OwnedSemaphorePermit,
    _used: Count<'a>,
}

/// How short memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// There is enough.
    None,
    /// Results are refused, small bodies are not.
    Results,
    /// Everything that is not urgent is refused.
    All,
}

/// Admission of a frontend.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    slots: Arc<Semaphore>,
    enrol: Pacer,
    clients: Mutex<BTreeMap<String, (Arc<Pacer>, Instant)>>,
    memory_limit: AtomicU64,
    pressure: AtomicU8,
    /// CPU work on POSTs.
    pub cpu: Gate,
    /// Enrolments.
    pub enrolments: Gate,
    /// Bytes of single clients.
    pub client_rate: Gate,
    /// Memory; `used` is the bytes this process has.
    pub memory: Gate,
}

impl Admission {
    /// With these limits.
    pub fn new(limits: AdmissionLimits) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(limits.slots.clamp(1, Semaphore::MAX_PERMITS))),
            enrol: Pacer::new(limits.enrolments, limits.enrolments),
            clients: Mutex::default(),
            memory_limit: AtomicU64::new(limits.memory),
            pressure: AtomicU8::new(0),
            cpu: Gate::default(),
            enrolments: Gate::default(),
            client_rate: Gate::default(),
            memory: Gate::default(),
            limits,
        }
    }

    /// Its limits.
    pub fn limits(&self) -> &AdmissionLimits {
        &self.limits
    }

    /// Waits for the right to work on a POST; first come, first served.
    pub(super) async fn slot(&self) -> Option<Slot<'_>> {
        let began = Instant::now();
        let permit = {
            let _queued = Count::of(&self.cpu.waiting);
            let wait = self.limits.slot_wait.min(PATIENCE);
            tokio::time::timeout(wait, self.slots.clone().acquire_owned()).await
        };
        let Ok(Ok(permit)) = permit else {
            self.cpu.refuse();
            return None;
        };
        self.cpu.pass(began.elapsed());
        Some(Slot { _permit: permit, _used: Count::of(&self.cpu.used) })
    }

    /// Waits for a new client's turn. `false`: it has to come again.
    pub(super) async fn enrolment(&self) -> bool {
        match self.enrol.reserve(1, PATIENCE) {
            Some(wait) => {
                self.enrolments.wait(wait).await;
                true
            }
            None => {
                self.enrolments.refuse();
                false
            }
        }
    }

    /// Waits until a client may send another `bytes`. `false`: it has to come
    /// again. What is waited for is what it sent before, so that a POST which takes
    /// longer than anybody waits passes in its turn.
    pub(super) async fn bytes(&self, client: &str, bytes: u64) -> bool {
        if self.limits.client_bytes == 0 || bytes <= SMALL {
            return true;
        }
        let pacer = {
            let mut all = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if all.len() >= CLIENTS && !all.contains_key(client) {
                let quiet = Duration::from_secs(600);
                all.retain(|_, (_, seen)| now.duration_since(*seen) < quiet);
            }
            let rate = self.limits.client_bytes;
            let new = || (Arc::new(Pacer::new(rate, CLIENT_BURST)), now);
            let entry = all.entry(client.to_owned()).or_insert_with(new);
            entry.1 = now;
            entry.0.clone()
        };
        match pacer.reserve(bytes, PATIENCE) {
            Some(wait) => {
                self.client_rate.wait(wait).await;
                true
            }
            None => {
                self.client_rate.refuse();
                false
            }
        }
    }

    /// Bytes of memory above which results are refused; 0 is unlimited.
    pub fn memory_limit(&self) -> u64 {
        self.memory_limit.load(Ordering::Relaxed)
    }

    /// Sets that limit, where the configuration has none.
    pub fn set_memory_limit(&self, bytes: u64) {
        self.memory_limit.store(bytes, Ordering::Relaxed);
    }

    /// How much memory this process has, bytes.
    pub fn set_memory(&self, bytes: u64) {
        self.memory.used.store(bytes, Ordering::Relaxed);
        let limit = self.memory_limit();
        let pressure = match bytes {
            _ if limit == 0 || bytes <= limit => Pressure::None,
            b if b <= limit.saturating_add(limit / 8) => Pressure::Results,
            _ => Pressure::All,
        };
        let before = self.pressure.swap(pressure as u8, Ordering::Relaxed);
        if before != pressure as u8 {
            tracing::warn!(bytes, limit, ?pressure, "memory");
        }
    }

    /// How short memory is.
    pub fn pressure(&self) -> Pressure {
        match self.pressure.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::Results,
            _ => Pressure::All,
        }
    }

    /// Whether a request is taken at all, before its body is read. Urgent ones, by
    /// which flows end, always are, and so are readers; bodies of unknown length
    /// count as large.
    pub(super) fn admits(&self, head: &RequestHead) -> Result<(), Answer> {
        if head.channel == Channel::Reader {
            return Ok(());
        }
        let large = head.length.is_none_or(|n| n > SMALL);
        let refused = match self.pressure() {
            Pressure::None => false,
            Pressure::Results => large && !head.urgent,
            Pressure::All => !head.urgent,
        };
        if !refused {
            return Ok(());
        }
        self.memory.refuse();
        Err(Answer::Status(500, "Short of memory; come again".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comms::server::Transport;
    use proptest::prelude::*;

    fn run<T>(f: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(f)
    }

    fn get(a: &AtomicU64) -> u64 {
        a.load(Ordering::Relaxed)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..Default::default() })]
        /// Never more at once than agreed, first come first served, and everybody
        /// has a turn or is told in time.
        #[test]
        fn slots_are_never_exceeded_and_nobody_starves(
            slots in 1usize..6,
            work in prop::collection::vec(1u64..9000, 1..60),
        ) {
            run(async {
                let limits = AdmissionLimits { slots, ..Default::default() };
                let a = Arc::new(Admission::new(limits));
                let most = Arc::new(AtomicU64::new(0));
                let all: Vec<_> = work.iter().map(|ms| {
                    let (a, most, ms) = (a.clone(), most.clone(), *ms);
                    tokio::spawn(async move {
                        let began = Instant::now();
                        let slot = a.slot().await;
                        let waited = began.elapsed();
                        most.fetch_max(get(&a.cpu.used), Ordering::Relaxed);
                        if slot.is_some() {
                            tokio::time::sleep(Duration::from_millis(ms)).await;
                        }
                        (slot.is_some(), waited)
                    })
                }).collect();
                let mut taken = 0;
                for t in all {
                    let (got, waited) = t.await.unwrap();
                    assert!(waited <= PATIENCE + Duration::from_millis(1), "{waited:?}");
                    taken += u64::from(got);
                }
                assert!(get(&most) <= slots as u64);
                assert_eq!(get(&a.cpu.passed), taken);
                assert_eq!(get(&a.cpu.passed) + get(&a.cpu.refused), work.len() as u64);
                assert_eq!((get(&a.cpu.used), get(&a.cpu.waiting)), (0, 0));
            });
        }

        /// A client's long-run rate holds, and it always gets on, however large its
        /// POSTs are.
        #[test]
        fn a_clients_rate_holds_and_it_gets_on(
            rate in 1_000u64..200_000,
            posts in prop::collection::vec(20_000u64..5_000_000, 1..30),
        ) {
            run(async {
                tokio::time::advance(Duration::from_secs(100_000)).await;
                let limits = AdmissionLimits { client_bytes: rate, ..Default::default() };
                let a = Admission::new(limits);
                let began = Instant::now();
                let (mut sent, mut last) = (0u64, 0u64);
                for n in &posts {
                    let mut tries = 0u64;
                    while !a.bytes("C.1", *n).await {
                        tries += 1;
                        assert!(tries < 200_000, "never");
                        tokio::time::sleep(Duration::from_secs(60)).await;
                    }
                    (sent, last) = (sent + n, *n);
                }
                // The last one's own time need not be over.
                let before = (sent - last).saturating_sub(CLIENT_BURST + rate * 15);
                let least = before as f64 / rate as f64;
                assert!(began.elapsed().as_secs_f64() + 1.0 >= least, "too fast");
                // Another client has its own.
                let other = Instant::now();
                assert!(a.bytes("C.2", 90_000).await && other.elapsed() < Duration::from_millis(2));
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn enrolments_have_a_pace_and_are_told_to_come_again() {
        tokio::time::advance(Duration::from_secs(1000)).await;
        let limits = AdmissionLimits { enrolments: 10, ..Default::default() };
        let a = Arc::new(Admission::new(limits));
        let began = Instant::now();
        let all: Vec<_> = (0..300)
            .map(|_| {
                let a = a.clone();
                tokio::spawn(async move { a.enrolment().await })
            })
            .collect();
        let mut taken = 0;
        for t in all {
            taken += u64::from(t.await.unwrap());
        }
        // A second's worth at once, then ten a second for as long as anybody waits.
        assert!((160..=162).contains(&taken), "{taken}");
        assert!(began.elapsed() <= PATIENCE + Duration::from_millis(200));
        assert_eq!(get(&a.enrolments.refused), 300 - taken);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(a.enrolment().await);
    }

    fn head(urgent: bool, length: Option<u64>) -> RequestHead {
        RequestHead {
            channel: Channel::Control,
            transport: Transport::Http,
            remote: String::new(),
            urgent,
            redirected: false,
            connection: 1,
            nth: 0,
            user_agent: String::new(),
            length,
            certificate: None,
        }
    }

    #[test]
    fn memory_refuses_results_first_and_urgent_never() {
        let a = Admission::new(AdmissionLimits { memory: 1000, ..Default::default() });
        let admits = |urgent, length| a.admits(&head(urgent, length)).is_ok();
        assert!(admits(false, None));
        a.set_memory(1001);
        assert_eq!(a.pressure(), Pressure::Results);
        assert!(!admits(false, Some(SMALL + 1)) && !admits(false, None));
        assert!(admits(false, Some(SMALL)) && admits(true, Some(SMALL + 1)));
        a.set_memory(1126);
        assert!(!admits(false, Some(1)) && admits(true, Some(1)));
        assert_eq!(get(&a.memory.refused), 3);
        a.set_memory(10);
        assert!(admits(false, None));
        let none = Admission::new(AdmissionLimits::default());
        none.set_memory(u64::MAX);
        assert_eq!(none.pressure(), Pressure::None);
    }
}
