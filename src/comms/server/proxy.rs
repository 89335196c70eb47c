//! The PROXY protocol header, version 2, that a TCP load balancer puts before
//! everything else.

use std::io;
use std::net::SocketAddr;

use ppp::v2::{Addresses, Command, Header};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Fixed part: signature, version and command, family, length.
const FIXED: usize = 16;
/// Addresses and extensions beyond this are refused; real ones have some
/// hundred bytes.
const MAX_REST: usize = 4096;

/// Reads exactly the header. `None` if it names no internet address (health
/// checks of the balancer itself). `InvalidData` if there is no header.
pub(super) async fn read_header(
    io: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<SocketAddr>> {
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut buf = vec![0; FIXED];
    io.read_exact(&mut buf).await?;
    if !buf.starts_with(ppp::v2::PROTOCOL_PREFIX) {
        return Err(bad("no PROXY protocol version 2 header".into()));
    }
    let rest = usize::from(u16::from_be_bytes([buf[14], buf[15]]));
    if rest > MAX_REST {
        return Err(bad(format!("PROXY header of {rest} bytes")));
    }
    buf.resize(FIXED + rest, 0);
    io.read_exact(&mut buf[FIXED..]).await?;
    let h = Header::try_from(&*buf).map_err(|e| bad(format!("PROXY header: {e}")))?;
    Ok(match (h.command, h.addresses) {
        (Command::Local, _) => None,
        (Command::Proxy, Addresses::IPv4(a)) => Some((a.source_address, a.source_port).into()),
        (Command::Proxy, Addresses::IPv6(a)) => Some((a.source_address, a.source_port).into()),
        (Command::Proxy, _) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ppp::v2::{Builder, Protocol, Version};
    use proptest::prelude::*;

    fn header(a: impl Into<Addresses>, c: Command) -> Vec<u8> {
        Builder::with_addresses(Version::Two | c, Protocol::Stream, a)
            .write_tlv(ppp::v2::Type::NoOp, &[0; 40])
            .unwrap()
            .build()
            .unwrap()
    }

    #[tokio::test]
    async fn source_and_nothing_more_is_taken() {
        let a4: SocketAddr = "203.0.113.9:4711".parse().unwrap();
        let a6: SocketAddr = "[2001:db8::7]:99".parse().unwrap();
        for a in [a4, a6] {
            let dst = SocketAddr::new(a.ip(), 443);
            let mut wire = header((a, dst), Command::Proxy);
            wire.extend(b"GET /");
            let mut r = &*wire;
            assert_eq!(read_header(&mut r).await.unwrap(), Some(a));
            assert_eq!(r, b"GET /");
        }
        let wire = header((a4, a4), Command::Local);
        assert_eq!(read_header(&mut &*wire).await.unwrap(), None);
    }

    #[tokio::test]
    async fn plain_http_is_refused() {
        let e = read_header(&mut &b"GET / HTTP/1.1\r\n\r\n"[..]).await.unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn never_panics(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut wire = ppp::v2::PROTOCOL_PREFIX.to_vec();
            wire.extend(tail);
            let _ = futures::executor::block_on(read_header(&mut &*wire));
        }
    }
}
