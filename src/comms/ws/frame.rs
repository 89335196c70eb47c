//! WebSocket frame headers and masking.

/// Which end of the connection we are. Clients mask, servers do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Accepts.
    Server,
    /// Dials.
    Client,
}

/// Opcodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Goes on with the message begun.
    Continue,
    /// A text message.
    Text,
    /// A binary message.
    Binary,
    /// Close handshake.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping.
    Pong,
}

impl Op {
    fn code(self) -> u8 {
        match self {
            Op::Continue => 0,
            Op::Text => 1,
            Op::Binary => 2,
            Op::Close => 8,
            Op::Ping => 9,
            Op::Pong => 10,
        }
    }

    fn from_code(c: u8) -> Option<Self> {
        Some(match c {
            0 => Op::Continue,
            1 => Op::Text,
            2 => Op::Binary,
            8 => Op::Close,
            9 => Op::Ping,
            10 => Op::Pong,
            _ => return None,
        })
    }

    /// Close, ping or pong.
    pub fn is_control(self) -> bool {
        matches!(self, Op::Close | Op::Ping | Op::Pong)
    }
}

/// Largest payload of a control frame (RFC 6455, section 5.5).
pub(super) const MAX_CONTROL: u64 = 125;

/// A frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub fin: bool,
    pub op: Op,
    pub mask: Option<[u8; 4]>,
    pub len: u64,
}

impl Header {
    /// Reads a header from the front of `b`: itself and its size in bytes;
    /// `None` if more is needed.
    pub(super) fn parse(b: &[u8], from: Role) -> Result<Option<(Self, usize)>, &'static str> {
        let [b0, b1, ..] = *b else { return Ok(None) };
        if b0 & 0x70 != 0 {
            return Err("reserved bits are set");
        }
        let op = Op::from_code(b0 & 0x0f).ok_or("unknown opcode")?;
        let fin = b0 & 0x80 != 0;
        let masked = b1 & 0x80 != 0;
        if masked != (from == Role::Client) {
            return Err("wrong masking");
        }
        let wide = match b1 & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let size = 2 + wide + if masked { 4 } else { 0 };
        if b.len() < size {
            return Ok(None);
        }
        let len = match wide {
            0 => u64::from(b1 & 0x7f),
            n => b[2..2 + n].iter().fold(0u64, |v, d| v << 8 | u64::from(*d)),
        };
        if len >> 63 != 0 {
            return Err("negative length");
        }
        if op.is_control() && (!fin || len > MAX_CONTROL) {
            return Err("fragmented or long control frame");
        }
        let mask = masked.then(|| {
            let m = &b[2 + wide..size];
            [m[0], m[1], m[2], m[3]]
        });
        Ok(Some((Self { fin, op, mask, len }, size)))
    }

    /// Appends the header.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.push(if self.fin { 0x80 } else { 0 } | self.op.code());
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        match self.len {
            n @ 0..=125 => out.push(masked | n as u8),
            n @ 126..=0xffff => {
                out.push(masked | 126);
                out.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                out.push(masked | 127);
                out.extend_from_slice(&n.to_be_bytes());
            }
        }
        out.extend_from_slice(self.mask.as_ref().map_or(&[][..], |m| &m[..]));
    }
}

/// Masks or unmasks `data`, which begins `pos` bytes into the payload.
pub(super) fn mask(data: &mut [u8], key: [u8; 4], pos: u64) {
    let shift = (pos % 4) as usize;
    let key = [key[shift], key[(shift + 1) % 4], key[(shift + 2) % 4], key[(shift + 3) % 4]];
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let (words, rest) = data.as_chunks_mut::<8>();
    for w in words {
        *w = (u64::from_ne_bytes(*w) ^ wide).to_ne_bytes();
    }
    for (b, k) in rest.iter_mut().zip(key.iter().cycle()) {
        *b ^= k;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn headers_round_trip(len in prop_oneof![0u64..200, 65_000u64..66_000, 0..1u64 << 40],
                              key in any::<Option<[u8; 4]>>(), fin in any::<bool>()) {
            let h = Header { fin, op: Op::Binary, mask: key, len };
            let mut out = Vec::new();
            h.put(&mut out);
            let from = if key.is_some() { Role::Client } else { Role::Server };
            for cut in 0..out.len() {
                prop_assert_eq!(Header::parse(&out[..cut], from).unwrap(), None);
            }
            prop_assert_eq!(Header::parse(&out, from).unwrap(), Some((h, out.len())));
        }

        #[test]
        fn masking_is_bytewise(data in proptest::collection::vec(any::<u8>(), 0..100),
                               key in any::<[u8; 4]>(), pos in 0u64..9) {
            let mut a = data.clone();
            mask(&mut a, key, pos);
            let b: Vec<u8> = data.iter().enumerate()
                .map(|(i, d)| d ^ key[(i + pos as usize) % 4]).collect();
            prop_assert_eq!(a, b);
        }
    }
}
