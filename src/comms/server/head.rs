//! HTTP/1 request heads, parsed strictly: whatever two parsers on the way could
//! read differently is refused.

use bytes::{Buf, BytesMut};

/// Longest request head, bytes.
const MAX_HEAD: usize = 16 << 10;
/// Most header lines.
const MAX_HEADERS: usize = 64;

/// How the body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes, perhaps none.
    Sized(u64),
    /// Chunked.
    Chunked,
}

/// The parts of a request head that this protocol looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub get: bool,
    /// HEAD: answer without a body.
    pub head_only: bool,
    pub path: String,
    pub query: String,
    pub http10: bool,
    pub keep_alive: bool,
    pub framing: Framing,
    pub expect_continue: bool,
    pub urgent: bool,
    pub user_agent: String,
    /// An HTTP/1.0 hop is on the way, which would turn a broken chunked body
    /// into a clean end.
    pub old_hop: bool,
    /// Value of the configured proxy header.
    pub forwarded: Option<String>,
    /// `Sec-WebSocket-Key` of a WebSocket upgrade.
    pub websocket: Option<String>,
}

/// Why a head is refused, with the status that says so. Never 400, 406 or 408,
/// which have a meaning for stock agents.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HeadError(pub u16, pub &'static str);

/// Takes one head from the front of `buf`; `None` if it is not complete.
pub(super) fn take(
    buf: &mut BytesMut,
    proxy_header: Option<&str>,
) -> Result<Option<Head>, HeadError> {
    // Empty lines before a request line are tolerated, as RFC 9112 asks.
    while buf.first().is_some_and(|b| matches!(b, b'\r' | b'\n')) {
        buf.advance(1);
    }
    let Some(end) = buf.windows(4).position(|w| w == b"\r\n\r\n").map(|i| i + 4) else {
        if buf.len() > MAX_HEAD {
            return Err(HeadError(431, "Request head is too long"));
        }
        return Ok(None);
    };
    if end > MAX_HEAD {
        return Err(HeadError(431, "Request head is too long"));
    }
    let head = parse(&buf[..end], proxy_header)?;
    buf.advance(end);
    Ok(Some(head))
}

fn parse(raw: &[u8], proxy_header: Option<&str>) -> Result<Head, HeadError> {
    const BAD: HeadError = HeadError(500, "Malformed request");
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut r = httparse::Request::new(&mut headers);
    match r.parse(raw) {
        Ok(httparse::Status::Complete(n)) if n == raw.len() => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(HeadError(431, "Too many request headers"));
        }
        _ => return Err(BAD),
    }
    let http10 = r.version == Some(0);
    let method = r.method.unwrap_or_default();
    let target = r.path.unwrap_or_default();
    // Absolute form is what a client sends to a proxy; only its path matters.
    let target = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |i| &rest[i..]),
        _ => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut h = Head {
        get: method == "GET",
        head_only: method == "HEAD",
        path: path.to_owned(),
        query: query.to_owned(),
        http10,
        keep_alive: !http10,
        framing: Framing::Sized(0),
        expect_continue: false,
        urgent: false,
        user_agent: String::new(),
        old_hop: http10,
        forwarded: None,
        websocket: None,
    };
    let (mut length, mut chunked, mut upgrade, mut key) = (None, false, false, None);
    for header in r.headers.iter() {
        let (name, value) = (header.name, header.value);
        let text = || std::str::from_utf8(value).map(str::trim).map_err(|_| BAD);
        if proxy_header.is_some_and(|p| name.eq_ignore_ascii_case(p)) && h.forwarded.is_none() {
            h.forwarded = Some(String::from_utf8_lossy(value).trim().to_owned());
        }
        match name {
            n if n.eq_ignore_ascii_case("content-length") => {
                let t = text()?;
                if t.is_empty() || !t.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(BAD);
                }
                let v: u64 = t.parse().map_err(|_| BAD)?;
                if length.replace(v).is_some_and(|old| old != v) {
                    return Err(BAD);
                }
            }
            n if n.eq_ignore_ascii_case("transfer-encoding") => {
                if chunked || http10 || !text()?.eq_ignore_ascii_case("chunked") {
                    return Err(BAD);
                }
                chunked = true;
            }
            n if n.eq_ignore_ascii_case("connection") => {
                for token in text()?.split(',').map(str::trim) {
                    if token.eq_ignore_ascii_case("close") {
                        h.keep_alive = false;
                    } else if token.eq_ignore_ascii_case("keep-alive") {
                        h.keep_alive = true;
                    }
                }
            }
            n if n.eq_ignore_ascii_case("expect") => {
                h.expect_continue = text()?.eq_ignore_ascii_case("100-continue");
            }
            n if n.eq_ignore_ascii_case("x-priority") => h.urgent = value == b"urgent",
            n if n.eq_ignore_ascii_case("user-agent") => {
                h.user_agent = String::from_utf8_lossy(value).into_owned();
            }
            n if n.eq_ignore_ascii_case("via") => {
                let old = |hop: &str| {
                    let hop = hop.trim();
                    hop.starts_with("1.0") || hop.to_ascii_uppercase().starts_with("HTTP/1.0")
                };
                h.old_hop |= text()?.split(',').any(old);
            }
            n if n.eq_ignore_ascii_case("upgrade") => {
                upgrade = text()?.eq_ignore_ascii_case("websocket");
            }
            n if n.eq_ignore_ascii_case("sec-websocket-key") => key = Some(text()?.to_owned()),
            _ => {}
        }
    }
    h.framing = match (length, chunked) {
        (Some(_), true) => return Err(BAD),
        (None, true) => Framing::Chunked,
        (n, false) => Framing::Sized(n.unwrap_or(0)),
    };
    if upgrade && !http10 {
        h.websocket = Some(key.filter(|k| !k.is_empty()).ok_or(BAD)?);
    }
    Ok(h)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Result<Option<Head>, HeadError> {
        take(&mut BytesMut::from(text), Some("X-Real-IP"))
    }

    #[test]
    fn stock_post() {
        let mut b = BytesMut::from(
            "POST /base/control?r=1 HTTP/1.1\r\nHost: x:8000\r\nUser-Agent: Velociraptor\r\n\
             Content-Length: 658\r\nContent-Type: application/binary\r\nX-Priority: urgent\r\n\
             x-real-ip: 10.0.0.1, 10.2.3.4\r\nAccept-Encoding: gzip\r\n\r\nBODY",
        );
        let h = take(&mut b, Some("X-Real-IP")).unwrap().unwrap();
        assert_eq!(&b[..], b"BODY");
        assert_eq!((h.path.as_str(), h.query.as_str()), ("/base/control", "r=1"));
        assert_eq!(h.framing, Framing::Sized(658));
        assert!(h.urgent && h.keep_alive && !h.old_hop && h.websocket.is_none());
        assert_eq!(h.forwarded.as_deref(), Some("10.0.0.1, 10.2.3.4"));
        assert_eq!(h.user_agent, "Velociraptor");
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for extra in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            " folded: x\r\n",
            "name : x\r\n",
        ] {
            let e = one(&format!("POST /control HTTP/1.1\r\n{extra}\r\n")).unwrap_err();
            assert!(![400, 406, 408, 503].contains(&e.0), "{extra:?}");
        }
        assert!(one("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        let same = "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(one(same).unwrap().unwrap().framing, Framing::Sized(3));
    }

    #[test]
    fn old_hops_and_upgrades() {
        assert!(one("POST / HTTP/1.0\r\n\r\n").unwrap().unwrap().old_hop);
        assert!(one("POST / HTTP/1.1\r\nVia: 1.1 a, 1.0 b\r\n\r\n").unwrap().unwrap().old_hop);
        assert!(!one("POST / HTTP/1.1\r\nVia: 1.1 varnish\r\n\r\n").unwrap().unwrap().old_hop);
        let h = one(
            "GET /reader HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        let key = h.unwrap().unwrap().websocket;
        assert_eq!(key.as_deref(), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(one("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n").is_err());
    }

    #[test]
    fn long_heads_end() {
        let mut b = BytesMut::from(&*format!("GET /{} HTTP/1.1\r\n", "a".repeat(MAX_HEAD)));
        assert_eq!(take(&mut b, None).unwrap_err().0, 431);
        let many = "a: b\r\n".repeat(MAX_HEADERS + 1);
        assert_eq!(one(&format!("GET / HTTP/1.1\r\n{many}\r\n")).unwrap_err().0, 431);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn any_split_gives_the_same(cut in 0usize..60) {
            let text = "POST /a HTTP/1.1\r\nContent-Length: 5\r\nX-Priority: urgent\r\n\r\n";
            let mut b = BytesMut::from(&text[..cut.min(text.len() - 1)]);
            prop_assert_eq!(take(&mut b, None).unwrap(), None);
            b.extend_from_slice(&text.as_bytes()[cut.min(text.len() - 1)..]);
            prop_assert!(take(&mut b, None).unwrap().unwrap().urgent);
        }

        #[test]
        fn never_panics(b in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut raw = BytesMut::from(&b"POST / HTTP/1.1\r\n"[..]);
            raw.extend_from_slice(&b);
            raw.extend_from_slice(b"\r\n\r\n");
            let _ = take(&mut raw, Some("a"));
        }
    }
}
