//! A TCP relay between agent and server: counts what was sent, what was
//! answered and what was under way when a connection broke, and slows uploads
//! down, so that kills hit their middle. It does not look into TLS.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bytes relayed at once.
const PIECE: usize = 16 << 10;

#[derive(Default)]
struct Shared {
    /// Bytes handed to a server, whatever became of them.
    sent: AtomicU64,
    /// Of these, bytes whose connection broke before anything came back.
    broken: AtomicU64,
    /// Bytes of each connection since the server last said something on it.
    open: Mutex<Vec<(u64, u64)>>,
    /// Bytes a second from agents; 0 is unlimited.
    rate: AtomicU64,
    due: Mutex<Option<Instant>>,
}

impl Shared {
    fn pace(&self, n: usize) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let now = Instant::now();
        let until = {
            let mut due = self.due.lock().unwrap();
            let from = due.map_or(now, |d| d.max(now));
            *due = Some(from + Duration::from_secs_f64(n as f64 / rate as f64));
            from
        };
        std::thread::sleep(until.saturating_duration_since(now));
    }

    fn on(&self, id: u64, f: impl FnOnce(&mut u64)) {
        if let Some(c) = self.open.lock().unwrap().iter_mut().find(|c| c.0 == id) {
            f(&mut c.1);
        }
    }

    fn close(&self, id: u64) {
        let mut open = self.open.lock().unwrap();
        if let Some(at) = open.iter().position(|c| c.0 == id) {
            self.broken.fetch_add(open.swap_remove(at).1, Ordering::Relaxed);
        }
    }

    fn up(&self, id: u64, mut from: &TcpStream, mut to: &TcpStream) {
        let mut piece = vec![0; PIECE];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            self.pace(n);
            if to.write_all(&piece[..n]).is_err() {
                break;
            }
            self.sent.fetch_add(n as u64, Ordering::Relaxed);
            self.on(id, |since| *since += n as u64);
        }
    }

    fn down(&self, id: u64, mut from: &TcpStream, mut to: &TcpStream) {
        let mut piece = vec![0; PIECE];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            if to.write_all(&piece[..n]).is_err() {
                break;
            }
            self.on(id, |since| *since = 0);
        }
    }

    fn serve(self: &Arc<Self>, id: u64, agent: TcpStream, server_port: u16) {
        // Nobody there: the agent sees its connection end.
        let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)) else { return };
        let _ = agent.set_nodelay(true);
        let _ = server.set_nodelay(true);
        self.open.lock().unwrap().push((id, 0));
        let end = |a: &TcpStream, b: &TcpStream| {
            let _ = (a.shutdown(Shutdown::Both), b.shutdown(Shutdown::Both));
        };
        std::thread::scope(|s| {
            s.spawn(|| {
                self.down(id, &server, &agent);
                end(&agent, &server);
            });
            self.up(id, &agent, &server);
            end(&agent, &server);
        });
        self.close(id);
    }
}

/// See the module. Its threads end with the process.
pub struct Relay {
    /// Where agents connect.
    pub port: u16,
    shared: Arc<Shared>,
}

impl Relay {
    /// Relays to the server at `server_port`, which may come and go.
    pub fn start(server_port: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let s = shared.clone();
        std::thread::spawn(move || {
            for (id, agent) in listener.incoming().enumerate() {
                let (s, Ok(agent)) = (s.clone(), agent) else { continue };
                std::thread::spawn(move || s.serve(id as u64, agent, server_port));
            }
        });
        Relay { port, shared }
    }

    /// Bytes a second from agents, all together; 0 is unlimited.
    pub fn set_rate(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::Relaxed);
    }

    /// Bytes sent to all servers so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Bytes sent and not answered when their connection broke.
    pub fn broken(&self) -> u64 {
        self.shared.broken.load(Ordering::Relaxed)
    }

    /// Bytes of the request under way.
    pub fn under_way(&self) -> u64 {
        self.shared.open.lock().unwrap().iter().map(|c| c.1).max().unwrap_or(0)
    }
}
