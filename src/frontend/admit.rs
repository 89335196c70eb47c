//! What a frontend takes on at once, beyond what its sockets limit: CPU work on
//! POSTs, urgent POSTs, key look-ups, enrolments, bytes of one client, and memory.
//!
//! Whoever is turned away is answered with 500: a stock agent keeps its data, tries
//! another frontend and comes back after a minute. A slot is asked for when a body
//! is there and given back before its commit is waited for, so that neither a slow
//! sender nor a slow store holds one. Time is tokio's; nothing here does I/O.
//!
//! Anybody may call a POST urgent, so what that buys is bounded: slots of its own,
//! half as many again, and so many urgent POSTs at once; a large one is refused with
//! the others when memory is really short.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::comms::Channel;
use crate::comms::server::{Answer, Count, Gate, Pacer, RequestHead};

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
    /// Urgent POSTs under way at once; others wait as long as for a slot.
    pub urgent: usize,
    /// Look-ups of clients' keys under way at once, with the RSA operation that
    /// comes before each.
    pub lookups: usize,
    /// New clients a second (`Frontend.resources.enrollments_per_second`). Ten times
    /// as many packets of strangers are answered.
    pub enrolments: u64,
    /// Bytes a second of one client, over all its connections; 0 is unlimited
    /// (`Frontend.resources.per_client_upload_rate`).
    pub client_bytes: u64,
    /// Bytes of memory above which results are refused; 0 is unlimited
    /// (`Frontend.resources.target_heap_size`).
    pub memory: u64,
}

impl AdmissionLimits {
    /// Slots that only urgent POSTs have.
    pub fn urgent_slots(&self) -> usize {
        (self.slots / 2).max(1)
    }
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            slots: 8,
            slot_wait: PATIENCE,
            urgent: 256,
            lookups: 64,
            enrolments: 100,
            client_bytes: 0,
            memory: 0,
        }
    }
}

/// Packets of strangers answered for each enrolment.
const STRANGERS: u64 = 10;

/// The right to do one of the things that are limited.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    _permit: OwnedSemaphorePermit,
    _used: Count<'a>,
    took: Option<Took<'a>>,
}

/// Measures how long a slot was held.
#[derive(Debug)]
struct Took<'a> {
    since: Instant,
    average: &'a AtomicU64,
}

impl Drop for Took<'_> {
    fn drop(&mut self) {
        // Of about the last sixteen; two at once may lose one.
        let (now, was) =
            (self.since.elapsed().as_micros() as u64, self.average.load(Ordering::Relaxed));
        self.average.store(was - was / 16 + now / 16, Ordering::Relaxed);
    }
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
    urgent_slots: Arc<Semaphore>,
    urgent_posts: Arc<Semaphore>,
    key_lookups: Arc<Semaphore>,
    enrol: Pacer,
    answers: Pacer,
    clients: Mutex<BTreeMap<String, (Arc<Pacer>, Instant)>>,
    pressure: AtomicU8,
    /// How long slots are held, microseconds, on average.
    held: AtomicU64,
    /// CPU work on POSTs that are not urgent.
    pub cpu: Gate,
    /// CPU work on urgent POSTs.
    pub urgent_cpu: Gate,
    /// Urgent POSTs.
    pub urgent: Gate,
    /// Look-ups of keys.
    pub lookups: Gate,
    /// Answers to strangers.
    pub strangers: Gate,
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
        let permits = |n: usize| Arc::new(Semaphore::new(n.clamp(1, Semaphore::MAX_PERMITS)));
        let answers = limits.enrolments.saturating_mul(STRANGERS);
        let gate = |limit: usize| Gate::new(limit as u64);
        Self {
            slots: permits(limits.slots),
            urgent_slots: permits(limits.urgent_slots()),
            urgent_posts: permits(limits.urgent),
            key_lookups: permits(limits.lookups),
            enrol: Pacer::new(limits.enrolments, limits.enrolments),
            answers: Pacer::new(answers, answers),
            clients: Mutex::default(),
            pressure: AtomicU8::new(0),
            held: AtomicU64::new(0),
            cpu: gate(limits.slots),
            urgent_cpu: gate(limits.urgent_slots()),
            urgent: gate(limits.urgent),
            lookups: gate(limits.lookups),
            strangers: Gate::new(answers),
            enrolments: Gate::new(limits.enrolments),
            client_rate: Gate::new(limits.client_bytes),
            memory: Gate::new(limits.memory),
            limits,
        }
    }

    /// Its limits.
    pub fn limits(&self) -> &AdmissionLimits {
        &self.limits
    }

    /// The part of what the cluster may take that falls to one of `nodes` nodes.
    pub fn share_among(&self, nodes: u32) {
        let part = share(self.limits.enrolments, nodes);
        self.enrol.set_rate(part);
        self.enrolments.limit.store(part, Ordering::Relaxed);
    }

    /// Waits for the right to work on a POST; first come, first served. Urgent ones
    /// do not queue behind the others.
    pub(super) async fn slot(&self, urgent: bool) -> Option<Slot<'_>> {
        match urgent {
            true => self.permit(&self.urgent_slots, &self.urgent_cpu).await,
            false => {
                let mut slot = self.permit(&self.slots, &self.cpu).await?;
                slot.took = Some(Took { since: Instant::now(), average: &self.held });
                Some(slot)
            }
        }
    }

    /// How long the next one will wait for a slot, as things are.
    fn expected_wait(&self) -> Duration {
        let waiting = self.cpu.waiting.load(Ordering::Relaxed);
        let held = self.held.load(Ordering::Relaxed);
        let slots = self.limits.slots.max(1) as u64;
        Duration::from_micros(waiting.saturating_mul(held) / slots)
    }

    /// Waits until an urgent POST may be worked on at all.
    pub(super) async fn urgent(&self) -> Option<Slot<'_>> {
        self.permit(&self.urgent_posts, &self.urgent).await
    }

    /// Waits for the right to find out who opened a session.
    pub(super) async fn lookup(&self) -> Option<Slot<'_>> {
        self.permit(&self.key_lookups, &self.lookups).await
    }

    async fn permit<'a>(&self, from: &Arc<Semaphore>, gate: &'a Gate) -> Option<Slot<'a>> {
        let began = Instant::now();
        let permit = {
            let _queued = Count::of(&gate.waiting);
            let wait = self.limits.slot_wait.min(PATIENCE);
            tokio::time::timeout(wait, from.clone().acquire_owned()).await
        };
        let Ok(Ok(permit)) = permit else {
            gate.refuse();
            return None;
        };
        gate.pass(began.elapsed());
        Some(Slot { _permit: permit, _used: Count::of(&gate.used), took: None })
    }

    /// Waits for the turn to answer somebody whose key is not known. `false`: it has
    /// to come again.
    pub(super) async fn stranger(&self) -> bool {
        paced(&self.answers, &self.strangers).await
    }

    /// Waits for a new client's turn. `false`: it has to come again.
    pub(super) async fn enrolment(&self) -> bool {
        paced(&self.enrol, &self.enrolments).await
    }

    /// Whether a client may have to wait before it sends so much.
    pub(super) fn paces(&self, bytes: u64) -> bool {
        self.limits.client_bytes != 0 && bytes > SMALL
    }

    /// Waits until a client may send another `bytes`. `false`: it has to come
    /// again. What is waited for is what it sent before, so that a POST which takes
    /// longer than anybody waits passes in its turn.
    pub(super) async fn bytes(&self, client: &str, bytes: u64) -> bool {
        if !self.paces(bytes) {
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
        self.memory.limit.load(Ordering::Relaxed)
    }

    /// Sets that limit, where the configuration has none.
    pub fn set_memory_limit(&self, bytes: u64) {
        self.memory.limit.store(bytes, Ordering::Relaxed);
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

    /// Whether a request is taken at all, before its body is read. Small urgent ones,
    /// by which flows end, always are, and so are readers; bodies of unknown length
    /// count as large.
    pub(super) fn admits(&self, head: &RequestHead) -> Result<(), Answer> {
        if head.channel == Channel::Reader {
            return Ok(());
        }
        let large = head.length.is_none_or(|n| n > SMALL);
        let refused = match self.pressure() {
            Pressure::None => false,
            Pressure::Results => large && !head.urgent,
            Pressure::All => large || !head.urgent,
        };
        if refused {
            self.memory.refuse();
            return Err(Answer::Status(500, "Short of memory; come again".into()));
        }
        // Who would wait in vain is told before it has sent anything.
        if large && !head.urgent && self.expected_wait() > self.limits.slot_wait.min(PATIENCE) {
            self.cpu.refuse();
            return Err(Answer::Status(500, "Too much to do; come again".into()));
        }
        Ok(())
    }
}

/// What falls to one of `nodes` nodes of what all may do together; 0 is unlimited.
pub fn share(all: u64, nodes: u32) -> u64 {
    match all {
        0 => 0,
        n => (n / u64::from(nodes.max(1))).max(1),
    }
}

/// Waits for the turn of one under a pace; `false` if that takes too long.
async fn paced(pacer: &Pacer, gate: &Gate) -> bool {
    match pacer.reserve(1, PATIENCE) {
        Some(wait) => {
            gate.wait(wait).await;
            true
        }
        None => {
            gate.refuse();
            false
        }
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
                        let slot = a.slot(false).await;
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

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_in_vain_is_told_before_its_body_is_read() {
        let limits =
            AdmissionLimits { slots: 2, slot_wait: Duration::from_secs(1), ..Default::default() };
        let a = Arc::new(Admission::new(limits));
        let work = |n: u64| {
            let a = a.clone();
            tokio::spawn(async move {
                let slot = a.slot(false).await;
                tokio::time::sleep(Duration::from_millis(n)).await;
                slot.is_some()
            })
        };
        // What one piece takes is learnt.
        for _ in 0..100 {
            assert!(work(50).await.unwrap());
        }
        let large = || a.admits(&head(false, Some(SMALL + 1))).is_ok();
        let mut all = Vec::new();
        while large() {
            all.push(work(50));
            tokio::task::yield_now().await;
            assert!(all.len() < 100, "never");
        }
        // Two slots, fifty milliseconds each, a second of patience.
        assert!((38..48).contains(&all.len()), "{}", all.len());
        assert!(a.admits(&head(true, Some(SMALL + 1))).is_ok(), "urgent ones have slots");
        assert!(a.admits(&head(false, Some(SMALL))).is_ok(), "small ones need none");
        assert_eq!(get(&a.cpu.refused), 1);
        let mut refused = 0;
        for one in all {
            refused += u32::from(!one.await.unwrap());
        }
        assert!(refused <= 4, "{refused}: those who were let in are served");
        assert!(large(), "and so is who comes after");
    }

    #[tokio::test(start_paused = true)]
    async fn urgent_work_does_not_queue_behind_the_rest_and_is_bounded_too() {
        let limits = AdmissionLimits { slots: 4, urgent: 3, ..Default::default() };
        let a = Arc::new(Admission::new(limits));
        let mut hogs = Vec::new();
        for _ in 0..4 {
            hogs.push(a.slot(false).await.unwrap());
        }
        let began = Instant::now();
        let mut urgent = Vec::new();
        for _ in 0..a.limits().urgent_slots() {
            urgent.push(a.slot(true).await.unwrap());
        }
        assert_eq!((urgent.len(), began.elapsed()), (2, Duration::ZERO));
        assert!(a.slot(true).await.is_none(), "no more of them than agreed");
        assert_eq!((get(&a.urgent_cpu.refused), get(&a.cpu.used)), (1, 4));
        let mut posts = Vec::new();
        for _ in 0..3 {
            posts.push(a.urgent().await.unwrap());
        }
        let next = tokio::time::timeout(Duration::from_secs(1), a.urgent());
        assert!(next.await.is_err(), "the fourth waits");
        posts.pop();
        assert!(a.urgent().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn look_ups_of_keys_are_bounded_and_strangers_have_a_pace() {
        let limits = AdmissionLimits { lookups: 5, enrolments: 2, ..Default::default() };
        let a = Arc::new(Admission::new(limits));
        let all: Vec<_> = (0..50)
            .map(|_| {
                let a = a.clone();
                tokio::spawn(async move {
                    let one = a.lookup().await;
                    let used = get(&a.lookups.used);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    (one.is_some(), used)
                })
            })
            .collect();
        for one in all {
            let (got, used) = one.await.unwrap();
            assert!(got && used <= 5, "{used}");
        }
        tokio::time::advance(Duration::from_secs(100)).await;
        let began = Instant::now();
        for _ in 0..40 {
            assert!(a.stranger().await);
        }
        // Twenty at once, then twenty a second.
        let took = began.elapsed().as_millis();
        assert!((950..=1100).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_cluster_may_take_is_divided() {
        tokio::time::advance(Duration::from_secs(1000)).await;
        let a = Admission::new(AdmissionLimits { enrolments: 30, ..Default::default() });
        a.share_among(3);
        assert_eq!(get(&a.enrolments.limit), 10);
        let began = Instant::now();
        for _ in 0..80 {
            assert!(a.enrolment().await);
        }
        // What may come at once after a quiet time is not divided.
        assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
        a.share_among(1);
        assert_eq!(get(&a.enrolments.limit), 30);
        assert_eq!([share(0, 3), share(2, 3), share(100, 3)], [0, 1, 33]);
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
