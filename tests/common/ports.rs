//! Ports for processes under test.

use std::net::TcpListener;
use std::sync::Mutex;

/// Below where systems take the ports of outgoing connections from (Linux 32768 to 60999): a
/// port that is free while a killed server is started again is not taken by somebody's
/// connection meanwhile.
const FIRST: u16 = 20_000;
const LAST: u16 = 31_999;

/// The next port to try in this process. Processes begin at different ones.
static NEXT: Mutex<Option<u16>> = Mutex::new(None);

/// So many ports of 127.0.0.1 nobody listens on, none of them given to anybody else in this
/// process.
pub fn free<const N: usize>() -> [u16; N] {
    let mut next = NEXT.lock().unwrap();
    let spread = std::process::id().wrapping_mul(61) % u32::from(LAST - FIRST);
    let mut port = next.unwrap_or(FIRST + spread as u16);
    let out = std::array::from_fn(|_| {
        loop {
            let this = port;
            port = if port == LAST { FIRST } else { port + 1 };
            if TcpListener::bind(("127.0.0.1", this)).is_ok() {
                return this;
            }
        }
    });
    *next = Some(port);
    out
}
