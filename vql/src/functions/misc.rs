//! eval, items, rot13, entropy, cidr_contains, similarity: small pure ones.

use crate::error::Error;
use crate::eval::{call_lambda, equal};
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::{Dict, Value};
use std::net::IpAddr;

pub(super) fn register(registry: &mut Registry) {
    let eval = Signature::new("eval", "Calls a lambda.")
        .required("func", ArgType::Lambda, "The lambda.")
        .arg("args", ArgType::Any, "Its arguments; anything but a list is one.");
    registry.function_async(eval, |scope, args| async move {
        let lambda = args.lambda("func")?.ok_or_else(|| Error::failed("no lambda"))?;
        let given = match args.has("args") {
            true => super::format::values(args.any("args"), true),
            // By itself it gets the scope.
            false => vec![super::scope_value(&scope)],
        };
        Ok(call_lambda(&lambda, &scope, given).await)
    });

    let items = Signature::new("items", "The members of a dictionary as a list of pairs.");
    registry.function_sync(items.arg("item", ArgType::Any, "The value."), |_, args| {
        let pair =
            |(k, v): (&crate::Key, &Value)| Dict::new().with("_key", k).with("_value", v.clone());
        Ok(match args.any("item") {
            Value::Dict(dict) => dict.iter().map(pair).collect(),
            other => [Dict::new().with("_value", other)].into_iter().collect(),
        })
    });

    let text = |name, doc| Signature::new(name, doc).arg("string", ArgType::String, "The text.");
    registry.function_sync(
        text("rot13", "Turns letters by half the alphabet.").refused(false),
        |_, args| {
            let turn = |b: &u8| match b {
                b'a'..=b'z' => (b - b'a' + 13) % 26 + b'a',
                b'A'..=b'Z' => (b - b'A' + 13) % 26 + b'A',
                other => *other,
            };
            Ok(args.bytes("string")?.as_bytes().iter().map(turn).collect::<Vec<u8>>().into())
        },
    );
    registry.function_sync(
        text("entropy", "Shannon entropy in bits per byte.").refused(false),
        |_, args| {
            let text = args.bytes("string")?;
            let mut counts = [0usize; 256];
            for byte in text.as_bytes() {
                counts[usize::from(*byte)] += 1;
            }
            let share = |n: &usize| *n as f64 / text.len() as f64;
            let bits = counts.iter().filter(|n| **n > 0).map(share).map(|p| -p * p.log2());
            // Two digits are what it is given with.
            Ok(((bits.sum::<f64>() * 100.0).floor() / 100.0).into())
        },
    );

    let cidr = Signature::new("cidr_contains", "True when an address is in any of the ranges.")
        .required("ip", ArgType::String, "The address.")
        .required("ranges", ArgType::Strings, "Ranges such as 10.0.0.0/8.");
    registry.function_sync(cidr, |_, args| {
        let Ok(ip) = args.string("ip")?.parse::<IpAddr>() else { return Ok(false.into()) };
        Ok(args.strings("ranges")?.iter().any(|range| in_range(ip, range)).into())
    });

    let similarity = Signature::new("similarity", "The share of equal members of two sets.")
        .refused(0)
        .required("set1", ArgType::Any, "One set.")
        .required("set2", ArgType::Any, "The other.");
    registry.function_sync(similarity, |_, args| {
        // What is no set is like nothing.
        let (Ok(a), Ok(b)) = (args.dict("set1"), args.dict("set2")) else {
            return Ok(Value::Float(0.0));
        };
        let same = a.iter().filter(|(k, v)| b.get(k).is_some_and(|w| equal(v, w))).count();
        let all = a.len() + b.len() - same;
        let differ = (all - same) as f64;
        Ok(if all == 0 { Value::Float(0.0) } else { (1.0 - differ / all as f64).into() })
    });
}

fn in_range(ip: IpAddr, range: &str) -> bool {
    let parsed = range
        .split_once('/')
        .and_then(|(net, bits)| Some((net.parse::<IpAddr>().ok()?, bits.parse::<u32>().ok()?)));
    match (ip, parsed) {
        (IpAddr::V4(ip), Some((IpAddr::V4(net), bits @ 0..=32))) => {
            let differ = u64::from(ip.to_bits() ^ net.to_bits());
            differ >> (32 - bits) == 0
        }
        (IpAddr::V6(ip), Some((IpAddr::V6(net), bits @ 0..=128))) => {
            let differ = ip.to_bits() ^ net.to_bits();
            bits == 0 || differ >> (128 - bits) == 0
        }
        _ => false,
    }
}
