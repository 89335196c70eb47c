//! `tlsh_hash`: a digest of which similar files have a similar one (TLSH: 128 buckets, a
//! checksum of one byte).

use std::io::Read;

use vql::{ArgType, Args, Error, Registry, Scope, Signature, Value};

use super::blocking;
use super::file::named;

/// Largest file that is digested, in bytes.
const LIMIT: u64 = 100 << 20;
/// Buckets that count.
const BUCKETS: usize = 128;
/// Bytes that are looked at together.
const WINDOW: usize = 5;
/// What of a window is counted together: a salt, and places from its end.
const TRIPLES: [(u8, usize, usize, usize); 6] =
    [(2, 0, 1, 2), (3, 0, 1, 3), (5, 0, 2, 3), (7, 0, 2, 4), (11, 0, 1, 4), (13, 0, 3, 4)];

/// Pearson's table.
#[rustfmt::skip]
const TABLE: [u8; 256] = [
    1, 87, 49, 12, 176, 178, 102, 166, 121, 193, 6, 84, 249, 230, 44, 163, 14, 197, 213, 181, 161,
    85, 218, 80, 64, 239, 24, 226, 236, 142, 38, 200, 110, 177, 104, 103, 141, 253, 255, 50, 77,
    101, 81, 18, 45, 96, 31, 222, 25, 107, 190, 70, 86, 237, 240, 34, 72, 242, 20, 214, 244, 227,
    149, 235, 97, 234, 57, 22, 60, 250, 82, 175, 208, 5, 127, 199, 111, 62, 135, 248, 174, 169,
    211, 58, 66, 154, 106, 195, 245, 171, 17, 187, 182, 179, 0, 243, 132, 56, 148, 75, 128, 133,
    158, 100, 130, 126, 91, 13, 153, 246, 216, 219, 119, 68, 223, 78, 83, 88, 201, 99, 122, 11,
    92, 32, 136, 114, 52, 10, 138, 30, 48, 183, 156, 35, 61, 26, 143, 74, 251, 94, 129, 162, 63,
    152, 170, 7, 115, 167, 241, 206, 3, 150, 55, 59, 151, 220, 90, 53, 23, 131, 125, 173, 15, 238,
    79, 95, 89, 16, 105, 137, 225, 224, 217, 160, 37, 123, 118, 73, 2, 157, 46, 116, 9, 145, 134,
    228, 207, 212, 202, 215, 69, 229, 27, 188, 67, 124, 168, 252, 42, 4, 29, 108, 21, 247, 19,
    205, 39, 203, 233, 40, 186, 147, 198, 192, 155, 33, 164, 191, 98, 204, 165, 180, 117, 76, 140,
    36, 210, 172, 41, 54, 159, 8, 185, 232, 113, 196, 231, 47, 146, 120, 51, 65, 28, 144, 254,
    221, 93, 189, 194, 139, 112, 43, 71, 109, 184, 209,
];

/// Adds `tlsh_hash`.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("tlsh_hash", "A digest that is alike for files that are alike.")
        .required("path", ArgType::Path, "The file.")
        .arg("accessor", ArgType::String, "An accessor to use.");
    registry.function_async(signature, |scope, args| async move { run(&scope, &args).await });
}

async fn run(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let (accessor, path) = named(scope, args, "path")?;
    let shown = path.to_text();
    let read = move || {
        let mut data = Vec::new();
        accessor.open(&path)?.take(LIMIT + 1).read_to_end(&mut data)?;
        Ok::<_, std::io::Error>((data.len() as u64 <= LIMIT).then(|| digest(data)))
    };
    let failed = |e: &dyn std::fmt::Display| Error::failed(format!("{shown}: {e}"));
    match blocking(scope, read).await?.map_err(|e| failed(&e))? {
        Some(digest) => Ok(digest.map_or(Value::Null, Value::from)),
        None => Err(failed(&format!("more than {LIMIT} bytes"))),
    }
}

fn mixed(salt: u8, a: u8, b: u8, c: u8) -> u8 {
    let step = |h: u8, x: u8| TABLE[usize::from(h ^ x)];
    [a, b, c].into_iter().fold(TABLE[usize::from(salt)], step)
}

/// The digest as text; `None` of nothing.
fn digest(mut data: Vec<u8>) -> Option<String> {
    let length = data.len();
    if length == 0 {
        return None;
    }
    data.resize(length.max(WINDOW), 0);
    let (mut counts, mut check) = ([0u64; 256], 0);
    for window in data.windows(WINDOW) {
        let back = |i: usize| window[WINDOW - 1 - i];
        check = mixed(0, back(0), back(1), check);
        for (salt, a, b, c) in TRIPLES {
            counts[usize::from(mixed(salt, back(a), back(b), back(c)))] += 1;
        }
    }
    let counts = &counts[..BUCKETS];
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    let quarter = |n: usize| sorted[n * BUCKETS / 4 - 1];
    let (q1, q2, q3) = (quarter(1), quarter(2), quarter(3));
    let level = |n: &u64| [q1, q2, q3].into_iter().filter(|q| *n > *q).count() as u8;
    let code = counts
        .chunks(4)
        .rev()
        .map(|four| four.iter().rev().fold(0u8, |byte, n| byte << 2 | level(n)));
    let ratio = |q: u64| (q * 100).checked_div(q3).map_or(0, |r| (r % 16) as u8);
    let head = [check.rotate_left(4), magnitude(length).rotate_left(4), ratio(q1) << 4 | ratio(q2)];
    Some(hex::encode(head.into_iter().chain(code).collect::<Vec<u8>>()))
}

/// The order of magnitude of a length.
fn magnitude(length: usize) -> u8 {
    let ln = (length as f64).ln();
    let level = match length {
        ..=656 => ln / 1.5f64.ln(),
        657..=3199 => ln / 1.3f64.ln() - 8.727_77,
        _ => ln / 1.1f64.ln() - 62.5472,
    };
    (level.floor() as i64 & 0xff) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests() {
        let short = "c720000000000000000000000300000000000000000000000000000000000c00000000";
        assert_eq!(digest(b"abc".to_vec()).as_deref(), Some(short));
        assert_eq!(digest(Vec::new()), None);
        let text = |i: u32| format!("line {} of {}\n", i * 7919 % 1000, i % 13);
        let some: String = (0..400).map(text).collect();
        let more = some.replace("line 7 of", "LINE 7 of");
        let (a, b) = (digest(some.into_bytes()).unwrap(), digest(more.into_bytes()).unwrap());
        assert_eq!(a.len(), 70);
        let same = a.bytes().zip(b.bytes()).filter(|(x, y)| x == y).count();
        assert!(same > 55, "{a} {b}");
    }
}
