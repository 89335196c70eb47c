//! Damaging inputs, reproducibly.

/// Longest input made, bytes.
const MAX_LEN: usize = 16 << 10;
/// Numbers that length and offset fields go wrong at.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX as u64,
    u64::MAX,
];

/// A small generator (splitmix64), so that a seed means the same for ever.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.number() % n as u64) as usize }
    }
}

/// An endless row of damaged seeds.
#[derive(Debug)]
pub struct Mutator {
    rng: Rng,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    /// Starts from `seeds`; an empty list counts as one empty seed.
    pub fn new(seed: u64, mut seeds: Vec<Vec<u8>>) -> Self {
        if seeds.is_empty() {
            seeds.push(Vec::new());
        }
        Self { rng: Rng::new(seed), seeds }
    }

    /// The next input.
    pub fn input(&mut self) -> Vec<u8> {
        let pick = self.rng.below(self.seeds.len());
        let mut data = self.seeds[pick].clone();
        // Mostly a little damage, sometimes a lot.
        let rounds = 1 + self.rng.below(4) * self.rng.below(5);
        for _ in 0..rounds {
            self.damage(&mut data);
        }
        data.truncate(MAX_LEN);
        data
    }

    fn damage(&mut self, data: &mut Vec<u8>) {
        let at = self.rng.below(data.len() + 1);
        let left = data.len() - at;
        match self.rng.below(10) {
            0 if left > 0 => data[at] ^= 1 << self.rng.below(8),
            1 if left > 0 => data[at] = self.rng.number() as u8,
            2 => data.insert(at, self.rng.number() as u8),
            3 => data.truncate(at),
            4 => {
                let n = self.rng.below(left.min(64) + 1);
                data.drain(at..at + n);
            }
            5 => {
                // A part said twice.
                let n = self.rng.below(left.min(256) + 1);
                let part = data[at..at + n].to_vec();
                data.splice(at..at, part);
            }
            6 => {
                // An edge number, in one of the widths and orders of the formats.
                let n = EDGES[self.rng.below(EDGES.len())];
                let width = 1 << self.rng.below(4);
                let bytes = match self.rng.below(3) {
                    0 => n.to_le_bytes()[..width].to_vec(),
                    1 => n.to_be_bytes()[8 - width..].to_vec(),
                    _ => n.to_string().into_bytes(),
                };
                let n = bytes.len().min(left);
                data.splice(at..at + n, bytes);
            }
            7 => {
                // A part of another seed.
                let pick = self.rng.below(self.seeds.len());
                let from = self.rng.below(self.seeds[pick].len() + 1);
                let n = self.rng.below((self.seeds[pick].len() - from).min(512) + 1);
                let part = self.seeds[pick][from..from + n].to_vec();
                let end = at + part.len().min(left);
                data.splice(at..end, part);
            }
            8 => {
                // Deep repetition, for parsers that recurse.
                const NESTS: [&[u8]; 8] =
                    [b"[", b"{\"a\":", b"(", b"- ", b"{ ", b"\n", b"  ", b"&a "];
                let what = NESTS[self.rng.below(NESTS.len())];
                let times = 1 << self.rng.below(11);
                data.splice(at..at, what.repeat(times));
            }
            _ => {
                let n = self.rng.below(16);
                let noise: Vec<u8> = (0..n).map(|_| self.rng.number() as u8).collect();
                data.splice(at..at, noise);
            }
        }
    }
}
