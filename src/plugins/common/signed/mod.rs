//! `authenticode`, `parse_pkcs7` and `parse_x509`: who signed a program, and certificates.
//! Signatures are read, not verified: whom a Windows machine trusts is known only there.

mod certificate;
mod der;
mod signature;

use vql::{ArgType, Args, Dict, Error, Registry, Scope, Signature, Value};

use super::file::named;
use super::pe;

pub use signature::Signed;

/// What is said where there is nobody to ask.
const UNKNOWN: &str = "Unknown (No API access)";

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let text = |name, doc| Signature::new(name, doc).required("data", ArgType::String, "As DER.");
    registry.function_sync(text("parse_x509", "What certificates say."), |_, args| {
        let data = args.bytes("data")?;
        let all: Option<Vec<Value>> = der::elements(data.as_bytes())
            .map(|e| Some(certificate::Certificate::of(e)?.dict().into()))
            .collect();
        match all.filter(|a| !a.is_empty()) {
            Some(all) => Ok(Value::list(all)),
            None => Err(Error::failed("this is no certificate")),
        }
    });
    registry.function_sync(text("parse_pkcs7", "What signed data says."), |_, args| {
        let data = args.bytes("data")?;
        let signed = Signed::of(data.as_bytes());
        Ok(signed.ok_or_else(|| Error::failed("this is no signed data"))?.dict().into())
    });
    let authenticode = Signature::new("authenticode", "Who signed a program.")
        .required("filename", ArgType::Path, "The program.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("verbose", ArgType::Bool, "Also give everything the signature says.");
    registry.function_async(authenticode, |scope, args| async move {
        authenticode_of(&scope, &args).await
    });
}

async fn authenticode_of(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let (accessor, path) = named(scope, args, "filename")?;
    let (shown, verbose) = (path.to_text(), args.bool("verbose")?);
    let read = move || -> std::io::Result<_> {
        let Some(data) = pe::read(&mut *accessor.open(&path)?, 0)? else { return Ok(None) };
        let Some(signature) = pe::signature(&data) else { return Ok(Some(None)) };
        let signed = Signed::of(signature);
        Ok(Some(signed.map(|s| (s.signer().unwrap_or_default(), verbose.then(|| s.dict())))))
    };
    let found = super::blocking(scope, read).await?.map_err(Error::failed)?;
    // What is no program says nothing.
    let Some(found) = found else { return Ok(Value::Null) };
    let mut out = Dict::new().with("Filename", shown);
    for name in ["ProgramName", "PublisherLink", "MoreInfoLink", "SerialNumber", "IssuerName"] {
        out.set(name, Value::Null);
    }
    for name in ["SubjectName", "Timestamp"] {
        out.set(name, Value::Null);
    }
    out.set("Trusted", "untrusted");
    out.set("_ExtraInfo", Value::Null);
    if let Some((signer, all)) = found {
        let said = signer.get("AuthenticatedAttributes").and_then(Value::as_dict);
        let text = |of: Option<&Dict>, name: &str| {
            of.and_then(|d| d.get(name)).map_or_else(String::new, Value::to_text)
        };
        out.update("SubjectName", text(Some(&signer), "Subject"));
        out.update("IssuerName", text(Some(&signer), "IssuerName"));
        out.update("SerialNumber", text(Some(&signer), "SerialNumber"));
        out.update("ProgramName", text(said, "ProgramName"));
        out.update("MoreInfoLink", text(said, "MoreInfo"));
        out.update("Timestamp", said.and_then(|d| d.get("SigningTime")).cloned());
        out.update("Trusted", UNKNOWN);
        if let Some(all) = all {
            out.update("_ExtraInfo", all);
        }
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests;
