//! base64encode, base64decode, encode, unhex, utf16, xor.

use crate::codec::{base64_decode, base64_encode};
use crate::error::Error;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};

pub(super) fn register(registry: &mut Registry) {
    let text = |name, doc| Signature::new(name, doc).required("string", ArgType::String, "Bytes.");

    registry.function_sync(text("base64encode", "Encodes as base64."), |_, args| {
        Ok(base64_encode(args.bytes("string")?.as_bytes()).into())
    });

    registry.function_sync(text("base64decode", "Decodes base64."), |_, args| {
        let plain = base64_decode(args.bytes("string")?.as_bytes());
        Ok(plain.ok_or_else(|| Error::failed("not base64"))?.into())
    });

    registry.function_sync(
        text("unhex", "Decodes hexadecimal digits.").refused(false),
        |_, args| {
            let text = args.bytes("string")?;
            let digit = |b: u8| (b as char).to_digit(16);
            let digits = text.as_bytes();
            let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
            let digits: Vec<u8> = digits.iter().copied().filter(|b| *b != b' ').collect();
            // What precedes the first fault is decoded.
            let pairs = digits.chunks_exact(2);
            let bytes =
                pairs.map_while(|pair| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8));
            Ok(bytes.collect::<Vec<u8>>().into())
        },
    );

    registry.function_sync(text("utf16", "Decodes UTF-16."), |_, args| {
        let bytes = args.bytes("string")?;
        let (body, big) = match bytes.as_bytes() {
            [0xfe, 0xff, rest @ ..] => (rest, true),
            [0xff, 0xfe, rest @ ..] => (rest, false),
            rest => (rest, false),
        };
        let units = body.chunks_exact(2).map(|pair| match big {
            true => u16::from_be_bytes([pair[0], pair[1]]),
            false => u16::from_le_bytes([pair[0], pair[1]]),
        });
        let text: String = char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect();
        Ok(text.into())
    });

    let encode = Signature::new("encode", "Encodes text.")
        .required("string", ArgType::Any, "The text.")
        .required("type", ArgType::String, "hex, base64 or string.");
    registry.function_sync(encode, |_, args| {
        let bytes = args.bytes("string")?;
        match args.string("type")?.as_str() {
            "hex" => {
                Ok(bytes.as_bytes().iter().map(|b| format!("{b:02x}")).collect::<String>().into())
            }
            // Unlike that of base64encode() it is not filled up.
            "base64" => Ok(base64_encode(bytes.as_bytes()).trim_end_matches('=').into()),
            "string" => Ok(bytes.into()),
            "json" => Ok(args.any("string").to_json_indented().into()),
            other => Err(Error::failed(format!("unknown type {other}"))),
        }
    });

    let xor = text("xor", "Combines bytes with a repeated key by exclusive or.").refused(false);
    registry.function_sync(xor.required("key", ArgType::String, "The key."), |_, args| {
        let (text, key) = (args.bytes("string")?, args.bytes("key")?);
        if key.is_empty() {
            return Ok(text.into());
        }
        let keys = key.as_bytes().iter().cycle();
        Ok(text.as_bytes().iter().zip(keys).map(|(a, b)| a ^ b).collect::<Vec<u8>>().into())
    });
}
